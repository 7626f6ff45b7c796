"""A disk with a GPT: reads both copies, repairs one from the other, changes attributes.

Owns the order of writes: at every instant at least one copy on the medium is valid, and it is the old
or the new table, never a mixture. Never moves, makes or removes partitions, and never writes the MBR.
"""

import logging
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from update_agent.errors import DeviceError, FormatError, Kind
from update_agent.formats import gpt
from update_agent.formats.gpt import ByteOffset, Header, Lba, Table
from update_agent.host.blockdev import BlockDevice, Region

_LOG: Final = logging.getLogger(__name__)


@unique
class CopyName(StrEnum):
    """Which of the two copies of the table."""

    PRIMARY = "primary"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of the table as found on the disk.

    Attributes:
        lba: where its header is, or should be.
        header: if at least that is valid.
        table: if all of it is valid.
        problem: why there is no table, for a person; empty if there is one.
    """

    name: CopyName
    lba: Lba
    header: Header | None
    table: Table | None
    problem: str

    @property
    def is_good(self) -> bool:
        """Whether a boot loader could use it."""
        return self.table is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition in bytes of its disk; `attributes` are all 64 bits."""

    number: int
    type_guid: uuid.UUID
    unique_guid: uuid.UUID
    name: str
    start_bytes: ByteOffset
    size_bytes: int
    attributes: int


class GptDisk:
    """The partition table of one device, as it was when last read or written.

    Everything here raises `DeviceError` when the device fails, and `FormatError` (gpt-invalid) when no
    copy of the table is valid.
    """

    def __init__(self, device: BlockDevice, *, sector_size_bytes: int | None = None) -> None:
        """Read both copies.

        Args:
            device: the whole disk; must be writable for `repair` and `set_attributes`.
            sector_size_bytes: logical sector size, 512 or 4096; None tries both, for image files.

        Raises:
            FormatError: gpt-invalid.
            DeviceError: when the device fails.
        """
        self._device = device
        sizes = gpt.SECTOR_SIZES_BYTES if sector_size_bytes is None else (sector_size_bytes,)
        found = [(size, _read_copies(device, size)) for size in sizes]
        best = max(found, key=lambda pair: (pair[1][0].is_good, pair[1][1].is_good))
        self._sector_size_bytes, (self._primary, self._backup) = best
        self._table = self._checked()

    def reload(self) -> None:
        """Read both copies again, as somebody else may have changed them.

        Raises:
            FormatError: gpt-invalid.
            DeviceError: when the device fails.
        """
        self._primary, self._backup = _read_copies(self._device, self._sector_size_bytes)
        self._table = self._checked()

    def _checked(self) -> Table:
        table = self._primary.table or self._backup.table
        if table is None:
            raise FormatError(
                Kind.GPT_INVALID,
                f"{self._device.name}: expected a GUID partition table, got none: "
                f"primary: {self._primary.problem}; backup: {self._backup.problem}",
                hint="check that this is the whole disk and not a partition; gdisk may be able to recover the table",
            )
        try:
            gpt.check_protective_mbr(self._device.read_at(0, gpt.MBR_SIZE_BYTES))
        except FormatError as error:
            raise FormatError(
                error.kind,
                f"{self._device.name}: {error.message}",
                hint="the disk may have been partitioned anew without GPT; gdisk can write a protective MBR",
            ) from error
        return table

    @property
    def device(self) -> BlockDevice:
        """The device behind it."""
        return self._device

    @property
    def sector_size_bytes(self) -> int:
        """Logical sector size, 512 or 4096."""
        return self._sector_size_bytes

    @property
    def primary(self) -> Copy:
        """The copy at the start of the disk."""
        return self._primary

    @property
    def backup(self) -> Copy:
        """The copy that the primary points at, at the end of the disk as it was when partitioned."""
        return self._backup

    @property
    def table(self) -> Table:
        """The table that counts: the primary if it is valid, as for firmware and boot loader."""
        return self._table

    @property
    def problems(self) -> tuple[str, ...]:
        """What `repair` would put right, one sentence each."""
        damaged = tuple(
            f"{copy.name} partition table is damaged: {copy.problem}"
            for copy in (self._primary, self._backup)
            if not copy.is_good
        )
        if self._primary.table and self._backup.table and not self._backup.table.is_copy_of(self._primary.table):
            return ("primary and backup partition table differ; the primary counts",)
        return damaged

    @property
    def disk_guid(self) -> uuid.UUID:
        """Identifies the disk."""
        return self.table.header.disk_guid

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those in use, by number."""
        header = self.table.header
        return tuple(
            Partition(
                number=entry.number,
                type_guid=entry.type_guid,
                unique_guid=entry.unique_guid,
                name=entry.name,
                start_bytes=header.offset(entry.first_lba),
                size_bytes=(entry.last_lba - entry.first_lba + 1) * self._sector_size_bytes,
                attributes=entry.attributes,
            )
            for entry in self.table.entries
        )

    def region(self, partition: Partition) -> Region:
        """The bytes of a partition as a device of its own.

        Raises:
            DeviceError: device-too-small, when the disk ends before the partition does.
        """
        name = f"{self._device.name}: partition {partition.number} ({partition.name})"
        return Region(self._device, partition.start_bytes, partition.size_bytes, name=name)

    def repair(self) -> bool:
        """Bring both copies in step, durably; True if anything had to be written.

        Raises:
            FormatError: gpt-invalid.
            DeviceError: when the device fails; one copy is still valid.
        """
        return self.set_attributes({})

    def set_attributes(self, attributes: Mapping[int, int]) -> bool:
        """Replace all 64 attribute bits of some partitions, by number; also repairs.

        The table is read again first. Durable on return; after a power cut in between, the old or the
        new table counts. True if anything had to be written.

        Raises:
            FormatError: gpt-invalid, when there is no such partition or no place for a damaged copy.
            DeviceError: when the device fails; one copy is still valid.
        """
        # What a killed process wrote is read back from the page cache, yet may never have reached the medium.
        self._device.flush()
        self.reload()
        for problem in self.problems:
            _LOG.warning("%s: %s; rewriting it", self._device.name, problem)
        primary, backup = self._planned(attributes)
        # A damaged copy goes first: until it is valid again, the other one must not be touched.
        order = [(self._backup, backup), (self._primary, primary)]
        if not self._primary.is_good:
            order.reverse()
        todo = [table for found, table in order if found.table != table]
        if not todo:
            return False
        try:
            for table in todo:
                self._write(table)
        finally:
            self.reload()
        if (self._primary.table, self._backup.table) != (primary, backup):
            raise DeviceError(Kind.DEVICE_IO, f"{self._device.name}: partition table reads back differently")
        return True

    def _planned(self, attributes: Mapping[int, int]) -> tuple[Table, Table]:
        """What both copies should be."""
        primary, backup = self._primary.table, self._backup.table
        if primary is None:
            primary = self.table.moved(self._primary.lba, entries_lba=self._primary_entries_lba(self.table))
        if backup is None or not backup.is_copy_of(primary):
            backup = primary.moved(self._backup.lba, entries_lba=self._backup_entries_lba(primary))
        if backup.header.offset(Lba(backup.header.my_lba + 1)) > self._device.size_bytes:
            raise FormatError(
                Kind.GPT_INVALID,
                f"{self._device.name}: backup partition table: expected at sector {self._backup.lba}, "
                f"got a disk of {self._device.size_bytes // self._sector_size_bytes} sectors",
                hint="the disk or image was cut short; move the backup table to its end with sgdisk -e",
            )
        return primary.with_attributes(attributes), backup.with_attributes(attributes)

    def _primary_entries_lba(self, good: Table) -> Lba:
        """Where the entries of a damaged primary were, for some disks keep boot code at the usual place."""
        header = good.header
        found = self._primary.header
        if found is not None and found.entries_lba + header.entries_sectors <= header.first_usable_lba:
            return found.entries_lba
        moved = Lba(header.first_usable_lba - header.entries_sectors)
        if moved > gpt.FIRST_ENTRIES_LBA:
            there = self._device.read_at(header.offset(moved), header.entries_size_bytes)
            if zlib.crc32(there) == header.entries_crc32:
                return moved
        return gpt.FIRST_ENTRIES_LBA

    def _backup_entries_lba(self, primary: Table) -> Lba:
        """Where the entries of a damaged backup were, else right before its header."""
        usual = Lba(self._backup.lba - primary.header.entries_sectors)
        found = self._backup.header
        if found is not None and primary.header.last_usable_lba < found.entries_lba <= usual:
            return found.entries_lba
        return usual

    def _write(self, table: Table) -> None:
        """Make one copy durable."""
        header = table.header
        self._device.write_at(header.entries_offset, table.entries_bytes)
        self._device.write_at(header.offset(header.my_lba), header.sector)
        self._device.flush()


def _read_copies(device: BlockDevice, sector_size_bytes: int) -> tuple[Copy, Copy]:
    primary = _read_copy(device, sector_size_bytes, CopyName.PRIMARY, gpt.PRIMARY_LBA)
    last = Lba(device.size_bytes // sector_size_bytes - 1)
    backup_lba = primary.header.alternate_lba if primary.header is not None else last
    return primary, _read_copy(device, sector_size_bytes, CopyName.BACKUP, backup_lba)


def _read_copy(device: BlockDevice, sector_size_bytes: int, name: CopyName, lba: Lba) -> Copy:
    header = None
    try:
        header = Header.from_bytes(_read(device, lba * sector_size_bytes, sector_size_bytes), lba=lba)
        entries = _read(device, header.entries_offset, header.entries_size_bytes)
        table = Table.from_bytes(header, entries)
    except FormatError as error:
        return Copy(name=name, lba=lba, header=header, table=None, problem=error.message)
    return Copy(name=name, lba=lba, header=header, table=table, problem="")


def _read(device: BlockDevice, offset: int, length: int) -> bytes:
    if not 0 <= offset <= device.size_bytes - length:
        raise FormatError(
            Kind.GPT_INVALID, f"partition table: expected {length} bytes at {offset}, got the end of the disk"
        )
    return device.read_at(offset, length)
