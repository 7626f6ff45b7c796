"""The status of a disk, and its JSON form."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

from update_agent.api.forms import SCHEMA
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.records import SlotRecord, SlotRecords
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.host.disk import GptDisk


@unique
class DiskState(StrEnum):
    """What a person wants to know first."""

    IDLE = "idle"
    INSTALL_INTERRUPTED = "install-interrupted"
    REBOOT_PENDING = "reboot-pending"
    UNBOOTABLE = "unbootable"


@unique
class SlotState(StrEnum):
    """What a slot is good for."""

    BOOTED = "booted"
    NEXT_BOOT = "next-boot"
    BOOTABLE = "bootable"
    UNBOOTABLE = "unbootable"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """One slot, its flags and what is known of its content."""

    slot: Slot
    state: SlotState
    record: SlotRecord | None

    @property
    def version(self) -> str | None:
        """The release in the slot, or None if unknown."""
        return self.record.version or None if self.record is not None else None

    def to_json(self) -> dict[str, Any]:
        """The slot as a JSON object."""
        flags, record = self.slot.flags, self.record
        return {
            "name": str(self.slot.name),
            "state": str(self.state),
            "version": self.version,
            "priority": flags.priority,
            "tries": flags.tries,
            "successful": bool(flags.successful),
            "partition": self.slot.number,
            "partition_guid": str(self.slot.unique_guid),
            "size_bytes": self.slot.size_bytes,
            "content_sha256": record.sha256 or None if record else None,
            "content_size_bytes": record.size_bytes or None if record else None,
            "installed_at": record.installed_at if record else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A disk at one moment.

    Attributes:
        disk: what a person calls it.
        disk_guid: from the GPT.
        state: the first thing to know.
        booted: the slot that counts as running, None if there is none.
        next_boot: the slot that the boot loader would choose, None if it would stop.
        slots: A, then B.
        problems: what is wrong with the GPT although it can be used.
        interrupted_at_bytes: how far an unfinished install has come; None if there is none.
    """

    disk: str
    disk_guid: str
    state: DiskState
    booted: SlotName | None
    next_boot: SlotName | None
    slots: tuple[SlotStatus, ...]
    problems: tuple[str, ...]
    interrupted_at_bytes: int | None

    @classmethod
    def of(
        cls, disk: GptDisk, records: SlotRecords, checkpoint: Checkpoint | None, booted: SlotName | None = None
    ) -> "Status":
        """Look at a disk and at what is recorded about it."""
        table, known = SlotTable.from_disk(disk), records.load()
        running, following = table.booted(booted), table.next_boot()
        slots = tuple(
            SlotStatus(
                slot=slot,
                record=known.get(slot.unique_guid),
                state=_slot_state(slot, known.get(slot.unique_guid), running, following),
            )
            for slot in table
        )
        return cls(
            disk=disk.device.name,
            disk_guid=str(disk.disk_guid),
            state=_disk_state(slots, running, following),
            booted=running.name if running else None,
            next_boot=following.name if following else None,
            slots=slots,
            problems=disk.problems,
            interrupted_at_bytes=_interrupted_at(checkpoint, slots),
        )

    def by_name(self, name: SlotName | None) -> SlotStatus | None:
        """The slot in that role."""
        return next((status for status in self.slots if status.slot.name is name), None)

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON document."""
        return {
            "schema": SCHEMA,
            "disk": self.disk,
            "disk_guid": self.disk_guid,
            "state": str(self.state),
            "booted": self.booted,
            "next_boot": self.next_boot,
            "slots": [status.to_json() for status in self.slots],
            "gpt_problems": list(self.problems),
            "interrupted_at_bytes": self.interrupted_at_bytes,
        }


def _interrupted_at(checkpoint: Checkpoint | None, slots: tuple[SlotStatus, ...]) -> int | None:
    if checkpoint is None:
        return None
    # Right after a slot was activated its checkpoint is still there, and there is nothing left to do.
    begun = {status.slot.unique_guid for status in slots if status.record and not status.record.is_complete}
    return checkpoint.data_offset if checkpoint.target in begun else None


def _slot_state(slot: Slot, record: SlotRecord | None, running: Slot | None, following: Slot | None) -> SlotState:
    if running is not None and slot.name is running.name:
        return SlotState.BOOTED
    if following is not None and slot.name is following.name:
        return SlotState.NEXT_BOOT
    if record is not None and not record.is_complete:
        return SlotState.INCOMPLETE
    return SlotState.BOOTABLE if slot.flags.is_bootable else SlotState.UNBOOTABLE


def _disk_state(slots: tuple[SlotStatus, ...], running: Slot | None, following: Slot | None) -> DiskState:
    if following is None:
        return DiskState.UNBOOTABLE
    if running is not None and following.name is not running.name:
        return DiskState.REBOOT_PENDING
    if any(status.state is SlotState.INCOMPLETE for status in slots):
        return DiskState.INSTALL_INTERRUPTED
    return DiskState.IDLE
