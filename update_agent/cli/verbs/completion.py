"""`completion`: made from the parser, so it knows every verb and option."""

from argparse import Namespace

import shtab

from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Console
from update_agent.cli.parser import build_parser


def run_completion(args: Namespace, console: Console) -> ExitStatus:
    """Print the script."""
    console.answer(shtab.complete(build_parser(), shell=args.shell).rstrip("\n"))
    return ExitStatus.DONE
