"""The command line: parser, wiring of the console, exit status."""

import logging
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from types import FrameType
from typing import Final

from update_agent import __version__
from update_agent.api import ERROR_FORMS, ExitStatus
from update_agent.cli.console import Color, Console
from update_agent.cli.options import add_common_options
from update_agent.cli.verbs import boot, install, payload, status
from update_agent.errors import InterruptedByUserError, Kind, UpdateAgentError

_DESCRIPTION: Final = "Update a disk with two slots, USR-A and USR-B, and always keep one that boots."
_EPILOG: Final = """\
examples:
  update-agent --image disk.img status
  update-agent --image disk.img install --payload update.payload --public-key keys/
  update-agent --image disk.img install --server http://127.0.0.1:8000/v1/update --public-key keys/
  update-agent payload build --usr usr.img --version 2.0.0 --key signing.pem --output update.payload

exit status:
  0 done, or there was nothing to do    1 failed
  2 wrong use                           3 no (next-boot)
  5 refused by policy                   6 verification failed
  130 interrupted
"""


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="update-agent",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"update-agent {__version__}")
    add_common_options(parser, is_verb=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for module in (status, install, boot, payload):
        module.add_parsers(verbs)
    parser.set_defaults(run=status.run_status)
    return parser


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
        sys.stdout.flush()
    except UpdateAgentError as error:
        if args.verbose > 1:
            logging.getLogger(__name__).exception("traceback")
        console.fail(error)
        return ERROR_FORMS[error.kind].exit_status
    except KeyboardInterrupt:
        console.fail(
            InterruptedByUserError(
                Kind.INTERRUPTED, "interrupted", hint="nothing is lost: the same command goes on from here"
            )
        )
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our answer has gone; the interpreter must not complain about it at exit.
        sys.stderr.close()
        return ExitStatus.FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())
