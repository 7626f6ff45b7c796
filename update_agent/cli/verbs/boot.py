"""`activate`, `mark-good`, `mark-bad`, `rollback`, `next-boot`, `repair`: boot flags by hand."""

from argparse import Namespace

from update_agent.api import SCHEMA, ExitStatus
from update_agent.cli.console import Console
from update_agent.cli.machine import Machine, open_machine
from update_agent.cli.render import render_status
from update_agent.domain import activation
from update_agent.domain.slots import Slot, SlotName
from update_agent.errors import ConfigurationError, Kind, RefusedError


def run_slot_verb(args: Namespace, console: Console) -> ExitStatus:
    """Change one slot's flags."""
    with open_machine(args, writable=True) as machine:
        slot = _chosen_slot(machine, args.slot, is_running=args.verb == "mark-good")
        if args.verb == "mark-bad":
            activation.mark_bad(machine.disk, slot)
        else:
            _refuse_incomplete(machine, slot, is_forced=args.force)
            change = activation.activate if args.verb == "activate" else activation.mark_good
            change(machine.disk, slot)
        return _show(machine, console)


def run_rollback(args: Namespace, console: Console) -> ExitStatus:
    """Go back to the other slot."""
    with open_machine(args, writable=True) as machine:
        booted = _booted_slot(machine)
        other = machine.slots.other(booted)
        _refuse_incomplete(machine, other, is_forced=False)
        _refuse_unproven(other, booted)
        activation.rollback(machine.disk, booted)
        return _show(machine, console)


def run_next_boot(args: Namespace, console: Console) -> ExitStatus:
    """Print what boots next."""
    with open_machine(args, writable=args.consume) as machine:
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
    with open_machine(args, writable=True) as machine:
        was_damaged = machine.disk.repair()
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "repaired": was_damaged})
    else:
        console.answer("partition table repaired" if was_damaged else "both copies of the partition table are good")
    return ExitStatus.DONE


def _chosen_slot(machine: Machine, name: SlotName | None, *, is_running: bool) -> Slot:
    if name is not None:
        return machine.slots.by_name(name)
    booted = _booted_slot(machine)
    return booted if is_running else machine.slots.other(booted)


def _booted_slot(machine: Machine) -> Slot:
    booted = machine.slots.booted(machine.booted)
    if booted is None:
        raise ConfigurationError(
            Kind.USAGE, "slot: no slot counts as running, so there is no other one", hint="name the slot: A or B"
        )
    return booted


def _refuse_incomplete(machine: Machine, slot: Slot, *, is_forced: bool) -> None:
    record = machine.records.get(slot.unique_guid)
    if record is not None and not record.is_complete and not is_forced:
        raise RefusedError(
            Kind.SLOT_INCOMPLETE,
            f"slot {slot.name}: holds half of a release, an install was interrupted",
            hint="run the install again, or use --force if something else has filled the slot",
        )


def _refuse_unproven(slot: Slot, booted: Slot) -> None:
    if slot.flags.is_bootable and not slot.flags.successful:
        raise RefusedError(
            Kind.SLOT_UNPROVEN,
            f"slot {slot.name}: expected one that has booted well before, got an update that waits for its first boot",
            hint=f"to give the update up: update-agent activate {booted.name}",
        )


def _show(machine: Machine, console: Console) -> ExitStatus:
    status = machine.status()
    if console.is_json:
        console.answer_json(status.to_json())
    else:
        console.answer(render_status(status, console))
    return ExitStatus.DONE
