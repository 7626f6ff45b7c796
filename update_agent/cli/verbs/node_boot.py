"""`mark-good`, `mark-bad`, `activate`, `rollback`, `cancel`, `reset`, `reload` through the daemon."""

from argparse import Namespace
from typing import Final

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.cli.client import connect_agent
from update_agent.cli.console import Console
from update_agent.cli.verbs.node_status import show_status
from update_agent.domain.marking import Mark

_MARKS: Final = {"mark-good": Mark.GOOD, "mark-bad": Mark.BAD, "activate": Mark.ACTIVE}


def run_slot_verb(args: Namespace, console: Console) -> ExitStatus:
    """Change one slot's flags."""
    agent = connect_agent(args)
    agent.mark_slot(args.slot or "", _MARKS[args.verb])
    show_status(agent.status(), console)
    return ExitStatus.DONE


def run_rollback(args: Namespace, console: Console) -> ExitStatus:
    """Go back to the other slot."""
    agent = connect_agent(args)
    agent.rollback()
    show_status(agent.status(), console)
    return ExitStatus.DONE


def run_cancel(args: Namespace, console: Console) -> ExitStatus:
    """Stop what is under way."""
    was_cancelled = connect_agent(args).cancel()
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "cancelled": was_cancelled})
    else:
        console.answer("Cancelled; the next install goes on from here" if was_cancelled else "Nothing was under way")
    return ExitStatus.DONE


def run_reset(args: Namespace, console: Console) -> ExitStatus:
    """Give a pending update up."""
    agent = connect_agent(args)
    agent.reset()
    show_status(agent.status(), console)
    return ExitStatus.DONE


def run_reload(args: Namespace, console: Console) -> ExitStatus:
    """Let the daemon read its configuration."""
    agent = connect_agent(args)
    agent.reload()
    status = agent.status()
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "warnings": list(status.warnings)})
    else:
        console.answer("Configuration read")
    for warning in status.warnings:
        console.warn(warning)
    return ExitStatus.DONE
