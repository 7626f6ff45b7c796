"""The disk that the options name."""

from argparse import Namespace
from contextlib import AbstractContextManager

from update_agent.api.machine import Machine, open_machine


def open_chosen(args: Namespace, *, writable: bool) -> AbstractContextManager[Machine]:
    """Open the disk of `--image`.

    Raises:
        UpdateAgentError: as `open_machine`.
    """
    return open_machine(args.image, writable=writable, state_folder=args.state_dir, booted=args.booted)
