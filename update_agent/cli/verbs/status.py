"""`status`, `slots`: look without touching."""

from argparse import Namespace

from update_agent.api.forms import ExitStatus
from update_agent.api.node import SlotView
from update_agent.cli.console import Console
from update_agent.cli.machine import open_chosen
from update_agent.cli.render import render_slots, render_status


def run_status(args: Namespace, console: Console) -> ExitStatus:
    """Print the status."""
    with open_chosen(args, writable=False) as machine:
        status = machine.status()
    if console.is_json:
        console.answer_json(status.to_json())
    else:
        console.answer(render_status(status, console))
    for problem in status.problems:
        console.warn(f"{problem}; the next change of a flag, or `repair`, mends it")
    return ExitStatus.DONE


def run_slots(args: Namespace, console: Console) -> ExitStatus:
    """Print both slots."""
    with open_chosen(args, writable=False) as machine:
        status = machine.status()
    if console.is_json:
        document = status.to_json()
        console.answer_json({"schema": document["schema"], "slots": document["slots"]})
    else:
        console.answer(render_slots([SlotView.of(slot) for slot in status.slots], console))
    return ExitStatus.DONE
