"""`status`, `slots`, `is-pending` of the node: what its daemon says."""

import time
from argparse import Namespace

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.api.node import NodeStatus
from update_agent.cli.client import connect_agent
from update_agent.cli.console import Console
from update_agent.cli.render import render_slots
from update_agent.cli.render_node import render_node, version


def run_status(args: Namespace, console: Console) -> ExitStatus:
    """Print the status."""
    status = connect_agent(args).status()
    show_status(status, console)
    return ExitStatus.DONE


def show_status(status: NodeStatus, console: Console) -> None:
    """Print a status, and what is not as it should be."""
    if console.is_json:
        console.answer_json(status.to_json())
    else:
        console.answer(render_node(status, console, time.time()))
    for problem in status.gpt_problems:
        console.warn(f"{problem}; the next change of a flag mends it")
    for warning in status.warnings:
        console.warn(warning)


def run_slots(args: Namespace, console: Console) -> ExitStatus:
    """Print both slots."""
    status = connect_agent(args).status()
    if console.is_json:
        document = status.to_json()
        console.answer_json({"schema": document["schema"], "slots": document["slots"]})
    else:
        console.answer(render_slots(status.slots, console))
    return ExitStatus.DONE


def run_is_pending(args: Namespace, console: Console) -> ExitStatus:
    """Print whether an update waits for a reboot."""
    status = connect_agent(args).status()
    is_pending = status.is_reboot_pending
    if console.is_json:
        document = status.to_json()
        names = ("reboot_pending", "pending_version", "running_version")
        console.answer_json({"schema": SCHEMA, **{name: document[name] for name in names}})
    elif is_pending:
        console.answer(f"yes: {version(status.pending_version)} boots next")
    else:
        console.answer(f"no: {version(status.running_version)} runs, and boots next")
    return ExitStatus.DONE if is_pending else ExitStatus.NO
