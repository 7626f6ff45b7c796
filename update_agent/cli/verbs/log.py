"""`log`: the journal of our units."""

import os
from argparse import Namespace
from typing import Final

from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Console
from update_agent.errors import Kind, ServiceError

UNITS: Final = ("update-agentd", "update-agent-boot-good")


def run_log(args: Namespace, console: Console) -> ExitStatus:
    """Become journalctl; returns only by an error.

    Raises:
        ServiceError: command-failed.
    """
    command = ["journalctl", *(f"--unit={unit}" for unit in UNITS)]
    if console.is_json:
        command.append("--output=json")
    if args.since:
        command.append(f"--since={args.since}")
    if args.follow:
        command.append("--follow")
    if args.lines:
        command.append(f"--lines={args.lines}")
    try:
        os.execvp(command[0], command)  # noqa: S606  (no shell is meant)
    except OSError as error:
        raise ServiceError(
            Kind.COMMAND_FAILED,
            f"journalctl: cannot run it: {os.strerror(error.errno or 0)}",
            hint="without systemd's journal, look where the standard error of update-agentd goes",
        ) from error
