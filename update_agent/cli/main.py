"""One command from arguments to exit status."""

import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from types import FrameType

from update_agent.api.forms import ERROR_FORMS, ExitStatus
from update_agent.cli.console import Color, Console
from update_agent.cli.parser import build_parser
from update_agent.errors import InterruptedByUserError, Kind, UpdateAgentError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the entry point `update-agent`.

    Returns:
        An `ExitStatus`.
    """
    args = build_parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if args.verbose else logging.WARNING,
        format="update-agent: %(message)s",
    )
    console = Console(color=Color(args.color), is_json=args.json)
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(args, console)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(args: Namespace, console: Console) -> ExitStatus:
    try:
        status: ExitStatus = args.run(args, console)
    except UpdateAgentError as error:
        if args.verbose > 1:
            logging.getLogger(__name__).exception("traceback")
        console.fail(error)
        return ERROR_FORMS[error.kind].exit_status
    except KeyboardInterrupt:
        hint = "nothing is lost: the same command goes on from here" if args.verb == "install" else None
        console.fail(InterruptedByUserError(Kind.INTERRUPTED, "interrupted", hint=hint))
        return ExitStatus.INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
