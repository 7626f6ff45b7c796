"""`activate`, `mark-good`, `mark-bad`, `rollback`, `next-boot`, `repair`: boot flags by hand."""

from argparse import Namespace
from typing import Final

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.api.machine import Machine
from update_agent.cli.console import Console
from update_agent.cli.machine import open_chosen
from update_agent.cli.render import render_status
from update_agent.domain import activation, marking
from update_agent.domain.marking import Mark

_MARKS: Final = {"mark-good": Mark.GOOD, "mark-bad": Mark.BAD, "activate": Mark.ACTIVE}


def run_slot_verb(args: Namespace, console: Console) -> ExitStatus:
    """Change one slot's flags."""
    with open_chosen(args, writable=True) as machine:
        change = _MARKS[args.verb]
        is_forced = change is not Mark.BAD and args.force
        marking.mark(machine.disk, machine.records, machine.booted, change, args.slot, is_forced=is_forced)
        return _show(machine, console)


def run_rollback(args: Namespace, console: Console) -> ExitStatus:
    """Go back to the other slot."""
    with open_chosen(args, writable=True) as machine:
        marking.roll_back(machine.disk, machine.records, machine.booted)
        return _show(machine, console)


def run_next_boot(args: Namespace, console: Console) -> ExitStatus:
    """Print what boots next."""
    with open_chosen(args, writable=args.consume) as machine:
        slot = machine.slots.next_boot()
        if args.consume and slot is not None:
            slot = activation.consume_boot(machine.disk)
    name = slot.name if slot is not None else None
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "next_boot": name})
    else:
        console.answer(name or "none")
    return ExitStatus.DONE if name else ExitStatus.NO


def run_repair(args: Namespace, console: Console) -> ExitStatus:
    """Mend the partition table."""
    with open_chosen(args, writable=True) as machine:
        was_damaged = machine.disk.repair()
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "repaired": was_damaged})
    else:
        console.answer("partition table repaired" if was_damaged else "both copies of the partition table are good")
    return ExitStatus.DONE


def _show(machine: Machine, console: Console) -> ExitStatus:
    status = machine.status()
    if console.is_json:
        console.answer_json(status.to_json())
    else:
        console.answer(render_status(status, console))
    return ExitStatus.DONE
