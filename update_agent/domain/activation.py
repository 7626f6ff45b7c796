"""Changes of boot flags: activate, mark good or bad, roll back, boot.

Every change reads the table again, is planned as a pure function of it, and is one
`GptDisk.set_attributes`: after a power cut the boot loader sees the old flags or the new ones.
None of them may leave a disk from which nothing boots.
"""

from collections.abc import Mapping
from dataclasses import replace

from update_agent.domain.slots import Slot, SlotTable
from update_agent.errors import ConfigurationError, InstallError, Kind, RefusedError
from update_agent.formats import gptprio
from update_agent.formats.gptprio import MAX_TRIES, UNBOOTABLE, BootFlags
from update_agent.host.disk import GptDisk


def deactivate(disk: GptDisk, slot: Slot) -> None:
    """Make `slot` unbootable, durably, before its content changes.

    The only slot that has booted well is kept, too: the other one may boot once more, and be no good.

    Raises:
        RefusedError: nothing-bootable, when it is the only slot that could boot, or the only one that has booted well.
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    slots = _current(disk, slot)
    plan = _plan_unbootable(slots, slot)
    _refuse_only_proven(slots, slot)
    _write(disk, slots, plan)


def activate(disk: GptDisk, slot: Slot, tries: int = 1) -> None:
    """Make `slot` boot next, for `tries` boots unless it is marked good in time.

    A slot that was marked good before stays so and needs no tries.

    Raises:
        ConfigurationError: usage, when `tries` is not 1-15.
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    if not 1 <= tries <= MAX_TRIES:
        raise ConfigurationError(Kind.USAGE, f"tries: expected 1 to {MAX_TRIES}, got {tries}")
    slots = _current(disk, slot)
    successful = slots.by_name(slot.name).flags.successful
    _write(disk, slots, _plan_top(slots, slot, tries=0 if successful else tries, successful=successful))


def mark_good(disk: GptDisk, slot: Slot) -> None:
    """Make `slot` the first choice without counting tries: it booted well.

    Raises:
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    slots = _current(disk, slot)
    _write(disk, slots, _plan_top(slots, slot, tries=0, successful=True))


def confirm(disk: GptDisk, booted: Slot) -> None:
    """Mark the running slot good without undoing what was chosen while it ran.

    An update or a rollback that waits for its reboot still boots next; else this is `mark_good`.

    Raises:
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    slots = _current(disk, booted)
    flags, other = slots.by_name(booted.name).flags, slots.other(booted).flags
    if other.is_bootable and other.priority > flags.priority:
        _write(disk, slots, {booted.number: replace(flags, tries=0, successful=True)})
    else:
        _write(disk, slots, _plan_top(slots, booted, tries=0, successful=True))


def mark_bad(disk: GptDisk, slot: Slot) -> None:
    """Never boot `slot` again.

    Raises:
        RefusedError: nothing-bootable, when it is the only slot that could boot.
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    slots = _current(disk, slot)
    _write(disk, slots, _plan_unbootable(slots, slot))


def rollback(disk: GptDisk, booted: Slot) -> Slot:
    """Make the slot that `booted` is not boot next; returns it with its new flags.

    Raises:
        RefusedError: nothing-bootable, when the other slot could not boot.
        InstallError: slot-missing, when the disk was partitioned anew meanwhile.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    slots = _current(disk, booted)
    other = slots.other(booted)
    if not other.flags.is_bootable:
        raise RefusedError(
            Kind.NOTHING_BOOTABLE,
            f"slot {other.name}: expected a bootable slot to roll back to, got {_words(other.flags)}",
            hint="it was never installed, was marked bad or has used up its tries; install a release instead",
        )
    _write(disk, slots, gptprio.prioritize(slots.flags, other.number))
    return SlotTable.from_disk(disk).by_name(other.name)


def consume_boot(disk: GptDisk) -> Slot:
    """Do what the boot loader does: choose a slot and take one of its tries; returns it with its new flags.

    Writes nothing, not even a repair, when the chosen slot has no tries to take.

    Raises:
        RefusedError: nothing-bootable.
        InstallError: slot-missing, when the disk does not have the two slots.
        DeviceError: when the disk fails.
        FormatError: gpt-invalid.
    """
    disk.reload()
    slots = SlotTable.from_disk(disk)
    chosen = slots.next_boot()
    if chosen is None:
        raise RefusedError(
            Kind.NOTHING_BOOTABLE,
            f"{disk.device.name}: expected a bootable slot, got "
            + ", ".join(f"{slot.name} with {_words(slot.flags)}" for slot in slots),
            hint="mark the slot good that holds a complete system",
        )
    if not chosen.flags.tries:
        return chosen
    _write(disk, slots, {chosen.number: gptprio.consume(chosen.flags)})
    return SlotTable.from_disk(disk).by_name(chosen.name)


def _current(disk: GptDisk, slot: Slot) -> SlotTable:
    """The slots as they are on the disk now, `slot` still being the same place on it."""
    disk.reload()
    slots = SlotTable.from_disk(disk)
    now = slots.by_name(slot.name).partition
    if replace(now, attributes=0) != replace(slot.partition, attributes=0):
        raise InstallError(
            Kind.SLOT_MISSING,
            f"slot {slot.name}: expected partition {slot.number} as before, got another partition",
            hint="the disk was partitioned anew meanwhile; start again",
        )
    return slots


def _plan_unbootable(slots: SlotTable, slot: Slot) -> dict[int, BootFlags]:
    if slots.by_name(slot.name).flags.is_bootable and not slots.other(slot).flags.is_bootable:
        other = slots.other(slot)
        raise RefusedError(
            Kind.NOTHING_BOOTABLE,
            f"slot {slot.name}: is the only bootable one; slot {other.name} has {_words(other.flags)}",
            hint=f"mark slot {other.name} good first, if it holds a complete system",
        )
    return {slot.number: UNBOOTABLE}


def _refuse_only_proven(slots: SlotTable, slot: Slot) -> None:
    flags, other = slots.by_name(slot.name).flags, slots.other(slot)
    if flags.successful and flags.is_bootable and not other.flags.successful:
        raise RefusedError(
            Kind.NOTHING_BOOTABLE,
            f"slot {slot.name}: is the only one that has booted well; slot {other.name} has {_words(other.flags)}",
            hint=f"wait until the boot of slot {other.name} is good; if it is: update-agent mark-good {other.name}",
        )


def _plan_top(slots: SlotTable, slot: Slot, *, tries: int, successful: bool) -> dict[int, BootFlags]:
    flags = replace(slots.by_name(slot.name).flags, tries=tries, successful=successful)
    return gptprio.prioritize({**slots.flags, slot.number: flags}, slot.number)


def _write(disk: GptDisk, slots: SlotTable, flags: Mapping[int, BootFlags]) -> None:
    disk.set_attributes(
        {
            slot.number: flags[slot.number].to_attributes(slot.partition.attributes)
            for slot in slots
            if slot.number in flags
        }
    )


def _words(flags: BootFlags) -> str:
    return f"priority {flags.priority}, tries {flags.tries}, successful {int(flags.successful)}"
