"""GUID partition table: bytes ⇄ frozen values (UEFI 2.10, chapter 5).

Owns the layout, the CRCs and the plausibility of both headers and their entries. Every change starts
from the bytes that were read, so reserved bytes, odd names and long headers survive as they are.
"""

import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NewType

from update_agent.errors import FormatError, Kind

Lba = NewType("Lba", int)
"""Number of a logical sector, from the start of the disk."""

ByteOffset = NewType("ByteOffset", int)
"""Number of a byte, from the start of the disk."""

SECTOR_SIZES_BYTES: Final = (512, 4096)
PRIMARY_LBA: Final = Lba(1)
FIRST_ENTRIES_LBA: Final = Lba(2)
"""Where the primary entries usually begin, and the earliest place where they may (5.3.2)."""

MAX_ENTRY_SIZE_BYTES: Final = 4096
MAX_ENTRIES_BYTES: Final = 1024 * 1024
"""64 times the usual table; bounds what a header can make us read."""

MBR_SIZE_BYTES: Final = 512
_MBR_SIGNATURE: Final = b"\x55\xaa"
_MBR_RECORDS_AT: Final = 446
_MBR_RECORD_BYTES: Final = 16
_MBR_TYPE_GPT_PROTECTIVE: Final = 0xEE

_SIGNATURE: Final = b"EFI PART"
_REVISION: Final = 0x00010000
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")  # UEFI 2.10, table 5-5
_MIN_HEADER_BYTES: Final = 92
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")  # UEFI 2.10, table 5-6
_MIN_ENTRY_BYTES: Final = 128
_ATTRIBUTES_AT: Final = 48
_CRC_AT: Final = 16
_MY_LBA_AT: Final = 24
_ENTRIES_LBA_AT: Final = 72
_ENTRIES_CRC_AT: Final = 88


def _invalid(message: str) -> FormatError:
    return FormatError(Kind.GPT_INVALID, f"partition table: {message}")


def check_protective_mbr(sector: bytes) -> None:
    """Accept any MBR that announces a GPT, hybrid ones included (UEFI 2.10, 5.2.3).

    Only the signature and one record of type 0xEE count: tools disagree about the other fields.

    Raises:
        FormatError: gpt-invalid; without such a record neither firmware nor Linux looks for a GPT.
    """
    if sector[MBR_SIZE_BYTES - 2 : MBR_SIZE_BYTES] != _MBR_SIGNATURE:
        raise _invalid("protective MBR: no boot signature")
    types = sector[_MBR_RECORDS_AT + 4 : MBR_SIZE_BYTES - 2 : _MBR_RECORD_BYTES]
    if _MBR_TYPE_GPT_PROTECTIVE not in types:
        raise _invalid(f"protective MBR: expected a record of type ee, got {types.hex(' ')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One of the two headers, at the sector `my_lba` (UEFI 2.10, 5.3.2).

    Attributes:
        sector: the whole logical sector it was read from.
        header_size_bytes: how much of the sector the header CRC covers, from 92.
        entries_crc32: of all entries, used or not.
    """

    sector: bytes
    header_size_bytes: int
    my_lba: Lba
    alternate_lba: Lba
    first_usable_lba: Lba
    last_usable_lba: Lba
    disk_guid: uuid.UUID
    entries_lba: Lba
    entry_count: int
    entry_size_bytes: int
    entries_crc32: int

    @classmethod
    def from_bytes(cls, sector: bytes, *, lba: Lba) -> "Header":
        """Parse the logical sector number `lba`.

        Raises:
            FormatError: gpt-invalid, when a CRC, a size or a place in it cannot be.
        """
        if len(sector) not in SECTOR_SIZES_BYTES:
            raise _invalid(f"header: expected a sector of 512 or 4096 bytes, got {len(sector)}")
        signature, revision, size, crc, _, my, alternate, first, last, guid, entries, count, entry_size, entries_crc = (
            _HEADER.unpack_from(sector)
        )
        _check_preamble(sector, signature, revision, size, crc)
        header = cls(
            sector=sector,
            header_size_bytes=size,
            my_lba=Lba(my),
            alternate_lba=Lba(alternate),
            first_usable_lba=Lba(first),
            last_usable_lba=Lba(last),
            disk_guid=uuid.UUID(bytes_le=guid),
            entries_lba=Lba(entries),
            entry_count=count,
            entry_size_bytes=entry_size,
            entries_crc32=entries_crc,
        )
        header._check_sizes()
        header._check_places(lba)
        return header

    @property
    def sector_size_bytes(self) -> int:
        """Logical sector size of the disk."""
        return len(self.sector)

    @property
    def entries_size_bytes(self) -> int:
        """Bytes that all entries take, used or not."""
        return self.entry_count * self.entry_size_bytes

    @property
    def entries_sectors(self) -> int:
        """Sectors that all entries take."""
        return -(-self.entries_size_bytes // self.sector_size_bytes)

    @property
    def entries_offset(self) -> ByteOffset:
        """Where the entries begin."""
        return self.offset(self.entries_lba)

    def offset(self, lba: Lba) -> ByteOffset:
        """Where a sector begins."""
        return ByteOffset(lba * self.sector_size_bytes)

    def can_place_entries(self, lba: Lba) -> bool:
        """Whether the entries of this header fit from sector `lba`: off the headers and off the partitions."""
        end = lba + self.entries_sectors
        if self.my_lba == PRIMARY_LBA:
            return lba >= FIRST_ENTRIES_LBA and end <= self.first_usable_lba
        return lba > self.last_usable_lba and end <= self.my_lba

    def with_entries_crc(self, crc: int) -> "Header":
        """The same header for other entries."""
        return self._patched((_ENTRIES_CRC_AT, struct.pack("<I", crc)), lba=self.my_lba)

    def moved(self, lba: Lba, *, alternate_lba: Lba, entries_lba: Lba) -> "Header":
        """The other copy of this header, for sector `lba`.

        Raises:
            FormatError: gpt-invalid, when it cannot be there.
        """
        places = (_MY_LBA_AT, struct.pack("<QQ", lba, alternate_lba))
        return self._patched(places, (_ENTRIES_LBA_AT, struct.pack("<Q", entries_lba)), lba=lba)

    def _patched(self, *patches: tuple[int, bytes], lba: Lba) -> "Header":
        sector = bytearray(self.sector)
        for at, data in patches:
            sector[at : at + len(data)] = data
        sector[_CRC_AT : _CRC_AT + 4] = struct.pack("<I", _header_crc(sector, self.header_size_bytes))
        return Header.from_bytes(bytes(sector), lba=lba)

    def is_copy_of(self, other: "Header") -> bool:
        """Whether the two point at each other and agree on everything else but the place of their entries."""
        return (
            (self.my_lba, self.alternate_lba) == (other.alternate_lba, other.my_lba)
            and (self.first_usable_lba, self.last_usable_lba) == (other.first_usable_lba, other.last_usable_lba)
            and (self.entry_count, self.entry_size_bytes) == (other.entry_count, other.entry_size_bytes)
            and (self.disk_guid, self.entries_crc32) == (other.disk_guid, other.entries_crc32)
        )

    def _check_sizes(self) -> None:
        size = self.entry_size_bytes
        if not _MIN_ENTRY_BYTES <= size <= MAX_ENTRY_SIZE_BYTES or size & (size - 1):
            raise _invalid(f"header: expected an entry size of 128, 256 ... {MAX_ENTRY_SIZE_BYTES} bytes, got {size}")
        if not 0 < self.entries_size_bytes <= MAX_ENTRIES_BYTES:
            raise _invalid(f"header: expected 1 to {MAX_ENTRIES_BYTES} bytes of entries, got {self.entries_size_bytes}")

    def _check_places(self, lba: Lba) -> None:
        if self.my_lba != lba:
            raise _invalid(f"header: expected its own place to be sector {lba}, got {self.my_lba}")
        first, last = self.first_usable_lba, self.last_usable_lba
        backup_lba = self.alternate_lba if lba == PRIMARY_LBA else lba
        if not first <= last < backup_lba:
            raise _invalid(f"header: expected sectors for partitions before {backup_lba}, got {first} to {last}")
        if not self.can_place_entries(self.entries_lba):
            raise _invalid(f"header: entries at sector {self.entries_lba} overlap a header or a partition")


def _header_crc(sector: bytes | bytearray, size: int) -> int:
    return zlib.crc32(sector[:_CRC_AT] + bytes(4) + sector[_CRC_AT + 4 : size])


def _check_preamble(sector: bytes, signature: bytes, revision: int, size: int, crc: int) -> None:
    if signature != _SIGNATURE:
        raise _invalid("header: signature missing")
    if revision != _REVISION:
        raise _invalid(f"header: expected revision {_REVISION:#010x}, got {revision:#010x}")
    if not _MIN_HEADER_BYTES <= size <= len(sector):
        raise _invalid(f"header: expected a size of {_MIN_HEADER_BYTES} to {len(sector)} bytes, got {size}")
    actual = _header_crc(sector, size)
    if crc != actual:
        raise _invalid(f"header: expected CRC {actual:08x}, got {crc:08x}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A partition (UEFI 2.10, 5.3.3).

    Attributes:
        number: from 1, its place in the table.
        first_lba: its first sector.
        last_lba: its last sector, inclusive.
        attributes: all 64 bits.
        name: for people; what is not UTF-16 in it is replaced.
    """

    number: int
    type_guid: uuid.UUID
    unique_guid: uuid.UUID
    first_lba: Lba
    last_lba: Lba
    attributes: int
    name: str

    @classmethod
    def from_bytes(cls, data: bytes, *, number: int) -> "Entry":
        """Parse one entry of at least 128 bytes.

        Raises:
            FormatError: gpt-invalid, when it is too short.
        """
        if len(data) < _MIN_ENTRY_BYTES:
            raise _invalid(f"partition {number}: expected {_MIN_ENTRY_BYTES} bytes, got {len(data)}")
        type_guid, unique_guid, first, last, attributes, name = _ENTRY.unpack_from(data)
        return cls(
            number=number,
            type_guid=uuid.UUID(bytes_le=type_guid),
            unique_guid=uuid.UUID(bytes_le=unique_guid),
            first_lba=Lba(first),
            last_lba=Lba(last),
            attributes=attributes,
            name=name.decode("utf-16-le", errors="replace").partition("\0")[0],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One copy of the partition table: a header and the entries that it vouches for.

    Attributes:
        entries_bytes: all entries, used or not, as on the disk.
        entries: those in use, by number.
    """

    header: Header
    entries_bytes: bytes
    entries: tuple[Entry, ...]

    @classmethod
    def from_bytes(cls, header: Header, entries_bytes: bytes) -> "Table":
        """Check the entries against their header, and parse them.

        Raises:
            FormatError: gpt-invalid, when the CRC differs or partitions lie outside of the disk or overlap.
        """
        if len(entries_bytes) != header.entries_size_bytes:
            raise _invalid(f"entries: expected {header.entries_size_bytes} bytes, got {len(entries_bytes)}")
        actual = zlib.crc32(entries_bytes)
        if actual != header.entries_crc32:
            raise _invalid(f"entries: expected CRC {header.entries_crc32:08x}, got {actual:08x}")
        size = header.entry_size_bytes
        raw = (entries_bytes[at : at + size] for at in range(0, len(entries_bytes), size))
        used = ((number, data) for number, data in enumerate(raw, start=1) if any(data[:16]))
        entries = tuple(Entry.from_bytes(data, number=number) for number, data in used)
        _check_extents(header, entries)
        return cls(header=header, entries_bytes=entries_bytes, entries=entries)

    def with_attributes(self, attributes: Mapping[int, int]) -> "Table":
        """The same table with all 64 attribute bits of some partitions, by number, replaced.

        Raises:
            FormatError: gpt-invalid, when there is no such partition or a value has more than 64 bits.
        """
        numbers = {entry.number for entry in self.entries}
        changed = bytearray(self.entries_bytes)
        for number, value in attributes.items():
            if number not in numbers:
                raise _invalid(f"partition {number}: no such partition")
            if not 0 <= value < 1 << 64:
                raise _invalid(f"partition {number}: expected 64 attribute bits, got {value:#x}")
            at = (number - 1) * self.header.entry_size_bytes + _ATTRIBUTES_AT
            changed[at : at + 8] = value.to_bytes(8, "little")
        header = self.header.with_entries_crc(zlib.crc32(changed))
        return Table.from_bytes(header, bytes(changed))

    def moved(self, lba: Lba, *, entries_lba: Lba) -> "Table":
        """The other copy of this table: its header at sector `lba`, the same entries from `entries_lba`.

        Raises:
            FormatError: gpt-invalid, when it cannot be there.
        """
        header = self.header.moved(lba, alternate_lba=self.header.my_lba, entries_lba=entries_lba)
        return Table.from_bytes(header, self.entries_bytes)

    def is_copy_of(self, other: "Table") -> bool:
        """Whether the two are the primary and the backup of one table."""
        return self.header.is_copy_of(other.header) and self.entries_bytes == other.entries_bytes


def _check_extents(header: Header, entries: Sequence[Entry]) -> None:
    previous: Entry | None = None
    for entry in sorted(entries, key=lambda entry: entry.first_lba):
        if not header.first_usable_lba <= entry.first_lba <= entry.last_lba <= header.last_usable_lba:
            raise _invalid(
                f"partition {entry.number}: expected sectors within {header.first_usable_lba} to "
                f"{header.last_usable_lba}, got {entry.first_lba} to {entry.last_lba}"
            )
        if previous is not None and entry.first_lba <= previous.last_lba:
            raise _invalid(f"partition {entry.number}: overlaps partition {previous.number}")
        previous = entry
