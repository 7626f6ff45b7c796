"""The disk that the options name."""

from argparse import Namespace
from contextlib import AbstractContextManager

from update_agent.api.machine import Machine, open_machine
from update_agent.errors import ConfigurationError, Kind


def open_chosen(args: Namespace, *, writable: bool) -> AbstractContextManager[Machine]:
    """Open the disk of `--image`.

    Raises:
        ConfigurationError: usage, when no disk was named.
        UpdateAgentError: as `open_machine`.
    """
    if args.image is None:
        raise ConfigurationError(
            Kind.USAGE,
            "expected a disk to work on, got none",
            hint="give --image DISK: an image file or a block device",
        )
    return open_machine(args.image, writable=writable, state_folder=args.state_dir, booted=args.booted)
