"""Changes of boot flags as a person asks for them: which slot is meant, and what is refused."""

from collections.abc import Callable
from enum import StrEnum, unique
from typing import Final

from update_agent.domain import activation
from update_agent.domain.records import SlotRecords
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.errors import ConfigurationError, Kind, RefusedError
from update_agent.host.disk import GptDisk


@unique
class Mark(StrEnum):
    """What becomes of a slot."""

    GOOD = "good"
    BAD = "bad"
    ACTIVE = "active"


_CHANGES: Final[dict[Mark, Callable[[GptDisk, Slot], None]]] = {
    Mark.GOOD: activation.mark_good,
    Mark.BAD: activation.mark_bad,
    Mark.ACTIVE: activation.activate,
}


def mark(
    disk: GptDisk,
    records: SlotRecords,
    booted: SlotName | None,
    mark: Mark,
    slot: SlotName | None,
    *,
    is_forced: bool = False,
) -> Slot:
    """Mark a slot; without a name the running one as good, else the other one. Gives the slot as it was.

    Raises:
        ConfigurationError: usage, when no slot was named and none runs.
        RefusedError: slot-incomplete, unless forced; nothing-bootable.
        DeviceError, InstallError, FormatError: as `activation`.
    """
    slots = SlotTable.from_disk(disk)
    chosen = _choose(slots, booted, slot, is_running=mark is Mark.GOOD)
    if mark is not Mark.BAD and not is_forced:
        _refuse_incomplete(records, chosen)
    _CHANGES[mark](disk, chosen)
    return chosen


def roll_back(disk: GptDisk, records: SlotRecords, booted: SlotName | None) -> Slot:
    """Let the slot that does not run boot next, if it has booted well before; gives it with its new flags.

    Raises:
        ConfigurationError: usage, when no slot runs.
        RefusedError: slot-incomplete, slot-unproven, nothing-bootable.
        DeviceError, InstallError, FormatError: as `activation`.
    """
    slots = SlotTable.from_disk(disk)
    running = require_booted(slots, booted)
    other = slots.other(running)
    _refuse_incomplete(records, other)
    if other.flags.is_bootable and not other.flags.successful:
        raise RefusedError(
            Kind.SLOT_UNPROVEN,
            f"slot {other.name}: expected one that has booted well before, got an update that waits for its first boot",
            hint=f"to give the update up: update-agent activate {running.name}",
        )
    return activation.rollback(disk, running)


def require_booted(slots: SlotTable, booted: SlotName | None) -> Slot:
    """The slot that counts as running.

    Raises:
        ConfigurationError: usage, when there is none.
    """
    running = slots.booted(booted)
    if running is None:
        raise ConfigurationError(
            Kind.USAGE, "slot: no slot counts as running, so there is no other one", hint="name the slot: A or B"
        )
    return running


def _choose(slots: SlotTable, booted: SlotName | None, slot: SlotName | None, *, is_running: bool) -> Slot:
    if slot is not None:
        return slots.by_name(slot)
    running = require_booted(slots, booted)
    return running if is_running else slots.other(running)


def _refuse_incomplete(records: SlotRecords, slot: Slot) -> None:
    record = records.get(slot.unique_guid)
    if record is not None and not record.is_complete:
        raise RefusedError(
            Kind.SLOT_INCOMPLETE,
            f"slot {slot.name}: holds half of a release, an install was interrupted",
            hint="run the install again, or use --force if something else has filled the slot",
        )
