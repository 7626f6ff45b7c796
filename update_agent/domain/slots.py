"""The two slots of a disk: which is which, which one runs, which one an update goes to."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from update_agent.errors import InstallError, Kind, RefusedError
from update_agent.formats import gptprio
from update_agent.formats.gpt import ByteOffset
from update_agent.formats.gptprio import BootFlags
from update_agent.host.disk import GptDisk, Partition

_LAYOUT_HINT: Final = (
    f"the disk needs exactly two partitions of type {gptprio.USR_TYPE_GUID}, labelled USR-A and USR-B; "
    "check that this is the right disk"
)


@unique
class SlotName(StrEnum):
    """The role of a USR partition."""

    A = "A"
    B = "B"

    @property
    def other(self) -> "SlotName":
        """B of A, A of B."""
        return SlotName.B if self is SlotName.A else SlotName.A

    @property
    def label(self) -> str:
        """Name of its partition."""
        return f"USR-{self}"


WELL_KNOWN_GUIDS: Final = {
    SlotName.A: uuid.UUID("7130c94a-213a-4e5a-8e26-6cce9662f132"),
    SlotName.B: uuid.UUID("e03dd35c-7c2d-4a47-b3fe-27f15780a57c"),
}
"""Unique GUIDs of the slots in Flatcar's images; they count when the labels are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A USR partition in its role, as it was when the table was read."""

    name: SlotName
    partition: Partition

    @property
    def number(self) -> int:
        """Number of its partition, from 1."""
        return self.partition.number

    @property
    def unique_guid(self) -> uuid.UUID:
        """What the kernel command line calls it (PARTUUID)."""
        return self.partition.unique_guid

    @property
    def start_bytes(self) -> ByteOffset:
        """Where it begins on the disk."""
        return self.partition.start_bytes

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return self.partition.size_bytes

    @property
    def flags(self) -> BootFlags:
        """What the boot loader knows about it."""
        return BootFlags.from_attributes(self.partition.attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTable:
    """Both slots of a disk, at one moment."""

    a: Slot
    b: Slot

    @classmethod
    def from_disk(cls, disk: GptDisk) -> "SlotTable":
        """Find both slots among the USR partitions, by label, else by well-known GUID.

        Raises:
            InstallError: slot-missing, when one is missing or it is not clear which partition it is, or
                when the boot loader could choose a third one.
        """
        candidates = [partition for partition in disk.partitions if partition.type_guid == gptprio.USR_TYPE_GUID]
        a = _find(disk, candidates, SlotName.A)
        b = _find(disk, candidates, SlotName.B)
        if a == b or len(candidates) > len(SlotName):
            numbers = ", ".join(str(partition.number) for partition in candidates)
            raise InstallError(
                Kind.SLOT_MISSING,
                f"{disk.device.name}: expected two USR partitions, A and B, got partitions {numbers}",
                hint=_LAYOUT_HINT,
            )
        return cls(a=Slot(name=SlotName.A, partition=a), b=Slot(name=SlotName.B, partition=b))

    def __iter__(self) -> Iterator[Slot]:
        return iter((self.a, self.b))

    def by_name(self, name: SlotName) -> Slot:
        """The slot in that role."""
        return self.a if name is SlotName.A else self.b

    def other(self, slot: Slot) -> Slot:
        """The one that `slot` is not."""
        return self.by_name(slot.name.other)

    @property
    def flags(self) -> dict[int, BootFlags]:
        """Flags by partition number, as the boot loader's rule wants them."""
        return {slot.number: slot.flags for slot in self}

    def by_number(self, number: int | None) -> Slot | None:
        """The slot that is partition `number`."""
        return next((slot for slot in self if slot.number == number), None)

    def next_boot(self) -> Slot | None:
        """What the boot loader would choose now; None when it would stop with an error."""
        return self.by_number(gptprio.next_boot(self.flags))

    def booted(self, explicit: SlotName | None) -> Slot | None:
        """Which slot holds the system that counts as running.

        Of a disk that the running system was not booted from, that is in this order: what the caller
        says, the bootable successful slot of the highest priority, what boots next, none.
        """
        if explicit is not None:
            return self.by_name(explicit)
        proven = {number: flags for number, flags in self.flags.items() if flags.successful}
        return self.by_number(gptprio.next_boot(proven)) or self.next_boot()

    def target(self, booted: Slot | None, explicit: SlotName | None) -> Slot:
        """Which slot an update goes to: never the booted one; B when nothing is booted.

        Raises:
            RefusedError: target-booted, when the caller asks for the booted one.
        """
        if booted is None:
            return self.by_name(explicit or SlotName.B)
        if explicit is booted.name:
            raise RefusedError(
                Kind.TARGET_BOOTED,
                f"slot {explicit}: is booted, expected slot {explicit.other} as the target",
                hint=f"install to slot {explicit.other}, or boot it first",
            )
        return self.other(booted)


def booted_slot(disk: GptDisk, partition_number: int) -> SlotName:
    """Which slot runs, given the partition that the running system is on.

    Raises:
        InstallError: boot-disk-unknown, when that is none of the two; slot-missing.
    """
    slot = SlotTable.from_disk(disk).by_number(partition_number)
    if slot is None:
        raise InstallError(
            Kind.BOOT_DISK_UNKNOWN,
            f"{disk.device.name}: expected the running system on slot A or B, got partition {partition_number}",
            hint=_LAYOUT_HINT,
        )
    return slot.name


def _find(disk: GptDisk, candidates: Sequence[Partition], name: SlotName) -> Partition:
    labelled = [partition for partition in candidates if partition.name == name.label]
    known = [partition for partition in candidates if partition.unique_guid == WELL_KNOWN_GUIDS[name]]
    found = labelled or known
    if len(found) != 1:
        raise InstallError(
            Kind.SLOT_MISSING,
            f"{disk.device.name}: expected one USR partition labelled {name.label}, got {len(found)}",
            hint=_LAYOUT_HINT,
        )
    return found[0]
