"""What a boot loader sees: a GPT reader and the rule of `gptprio.next`, sharing nothing with the package.

UEFI 2.10, 5.3.2 and 5.3.3; the primary counts while its checksums hold, else the backup in the last sector.
"""

import struct
import uuid
import zlib
from dataclasses import dataclass

SECTOR = 512
USR_TYPE = uuid.UUID("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6").bytes_le


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """A partition that could be booted, or was."""

    label: str
    start: int
    end: int
    priority: int
    tries: int
    successful: int


def read_entries(disk: bytes) -> list[BootEntry] | None:
    """USR partitions in the order of the table, or None if neither copy is valid."""
    raw = _read_copy(disk, 1)
    if raw is None:
        raw = _read_copy(disk, len(disk) // SECTOR - 1)
    if raw is None:
        return None
    return [_parse(entry) for entry in raw if entry[:16] == USR_TYPE]


def choose(disk: bytes) -> BootEntry | None:
    """What boots next; None when the machine stops with an error."""
    best: BootEntry | None = None
    for entry in read_entries(disk) or []:
        if (entry.tries > 0 or entry.successful) and entry.priority > (best.priority if best else 0):
            best = entry
    return best


def _read_copy(disk: bytes, lba: int) -> list[bytes] | None:
    sector = bytearray(disk[lba * SECTOR : (lba + 1) * SECTOR])
    magic, size, crc = sector[:8], *struct.unpack_from("<I", sector, 12), *struct.unpack_from("<I", sector, 16)
    if magic != b"EFI PART" or not 92 <= size <= SECTOR:
        return None
    sector[16:20] = bytes(4)
    if zlib.crc32(sector[:size]) != crc or struct.unpack_from("<Q", sector, 24)[0] != lba:
        return None
    first, count, length, entries_crc = struct.unpack_from("<QIII", sector, 72)
    entries = disk[first * SECTOR : first * SECTOR + count * length]
    if zlib.crc32(entries) != entries_crc:
        return None
    return [entries[at : at + length] for at in range(0, len(entries), length)]


def _parse(entry: bytes) -> BootEntry:
    first, last, attributes = struct.unpack_from("<QQQ", entry, 32)
    return BootEntry(
        label=entry[56:128].decode("utf-16-le").rstrip("\0"),
        start=first * SECTOR,
        end=(last + 1) * SECTOR,
        priority=attributes >> 48 & 15,
        tries=attributes >> 52 & 15,
        successful=attributes >> 56 & 1,
    )
