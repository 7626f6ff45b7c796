"""Disk images with a GPT: by sgdisk into files, and in memory for every geometry."""

import shutil
import struct
import subprocess
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

USR_TYPE = uuid.UUID("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6")
EFI_TYPE = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_TYPE = uuid.UUID("3884dd41-8582-4404-b9a8-e9b84f2df50e")
USR_A_GUID = uuid.UUID("7130c94a-213a-4e5a-8e26-6cce9662f132")
USR_B_GUID = uuid.UUID("e03dd35c-7c2d-4a47-b3fe-27f15780a57c")

EFI_NUMBER = 1
USR_A_NUMBER = 3
USR_B_NUMBER = 4
ROOT_NUMBER = 9

HAS_SGDISK = shutil.which("sgdisk") is not None
NO_SGDISK = "sgdisk (package gdisk) is not installed"

KIB = 1024
MIB = 1024 * KIB
_SECTOR_BYTES = 512


def boot_attributes(priority: int = 0, tries: int = 0, successful: int = 0) -> int:
    """64 attribute bits, computed without the code under test."""
    return priority * 2**48 + tries * 2**52 + successful * 2**56


A_GOOD = boot_attributes(priority=1, successful=1)
"""Flags of USR-A in a fresh image."""


def run_sgdisk(image: Path, *args: str) -> str:
    """Run sgdisk on `image`; its output. Fails the test when sgdisk does."""
    done = subprocess.run(["sgdisk", *args, str(image)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"sgdisk {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_sgdisk_image(
    path: Path, *, efi_bytes: int = MIB, usr_bytes: int = MIB, root_bytes: int = MIB, extra_args: Sequence[str] = ()
) -> Path:
    """A sparse image as a Flatcar disk: EFI-SYSTEM, USR-A, USR-B, ROOT; USR-A has priority 1, successful 1.

    All sizes are multiples of 1 MiB, the alignment. `extra_args` go to sgdisk last.
    """
    with path.open("wb") as file:
        file.truncate(2 * MIB + efi_bytes + 2 * usr_bytes + root_bytes)
    args: list[str] = ["--clear"]
    for number, label, kind, size in (
        (EFI_NUMBER, "EFI-SYSTEM", EFI_TYPE, efi_bytes),
        (USR_A_NUMBER, "USR-A", USR_TYPE, usr_bytes),
        (USR_B_NUMBER, "USR-B", USR_TYPE, usr_bytes),
        (ROOT_NUMBER, "ROOT", ROOT_TYPE, root_bytes),
    ):
        args += [f"--new={number}:0:+{size // KIB}K", f"--typecode={number}:{kind}", f"--change-name={number}:{label}"]
    args += [f"--partition-guid={USR_A_NUMBER}:{USR_A_GUID}", f"--partition-guid={USR_B_NUMBER}:{USR_B_GUID}"]
    args += [f"--attributes={USR_A_NUMBER}:set:48", f"--attributes={USR_A_NUMBER}:set:56"]
    run_sgdisk(path, *args, *extra_args)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition of an image made in memory; the default GUID depends on number and label alone."""

    number: int
    label: str
    sectors: int
    type_guid: uuid.UUID = USR_TYPE
    unique_guid: uuid.UUID | None = None
    attributes: int = 0
    name_bytes: bytes | None = None


def ab_parts(*, a: int = A_GOOD, b: int = 0, sectors: int = 8) -> tuple[Part, ...]:
    """EFI-SYSTEM, USR-A, USR-B, ROOT with these attributes of the slots."""
    return (
        Part(number=EFI_NUMBER, label="EFI-SYSTEM", sectors=sectors, type_guid=EFI_TYPE),
        Part(number=USR_A_NUMBER, label="USR-A", sectors=sectors, unique_guid=USR_A_GUID, attributes=a),
        Part(number=USR_B_NUMBER, label="USR-B", sectors=sectors, unique_guid=USR_B_GUID, attributes=b),
        Part(number=ROOT_NUMBER, label="ROOT", sectors=sectors, type_guid=ROOT_TYPE),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How an image made in memory is laid out; every byte that a header reserves is set to `reserved`."""

    sector_bytes: int = 512
    entry_count: int = 128
    entry_bytes: int = 128
    header_bytes: int = 92
    reserved: int = 0
    gap_sectors: int = 0
    """Between the primary header and its entries, and between the backup's entries and its header."""

    @property
    def entries_sectors(self) -> int:
        return -(-self.entry_count * self.entry_bytes // self.sector_bytes)

    @property
    def overhead_sectors(self) -> int:
        return self.entries_sectors + self.gap_sectors


DEFAULT_GEOMETRY = Geometry()


def make_image(parts: Sequence[Part], geometry: Geometry = DEFAULT_GEOMETRY, *, spare_sectors: int = 0) -> bytearray:
    """A whole disk in memory: MBR, both GPT copies, partitions in the given order, `spare_sectors` at the end."""
    sector = geometry.sector_bytes
    first_usable = 2 + geometry.overhead_sectors
    last_usable = first_usable + sum(part.sectors for part in parts) + spare_sectors - 1
    last = last_usable + 1 + geometry.overhead_sectors
    entries = _entries(parts, geometry, first_usable)
    image = bytearray((last + 1) * sector)
    image[:512] = _protective_mbr(last)
    backup_entries = last_usable + 1
    for my, other, entries_lba in ((1, last, 2 + geometry.gap_sectors), (last, 1, backup_entries)):
        image[entries_lba * sector : entries_lba * sector + len(entries)] = entries
        header = _header(geometry, (my, other, first_usable, last_usable), entries_lba, entries)
        image[my * sector : (my + 1) * sector] = header
    return image


def _entries(parts: Sequence[Part], geometry: Geometry, first: int) -> bytes:
    entries = bytearray(geometry.entry_count * geometry.entry_bytes)
    for part in parts:
        guid = part.unique_guid or uuid.uuid5(uuid.NAMESPACE_DNS, f"{part.number}.{part.label}")
        name = part.name_bytes if part.name_bytes is not None else part.label.encode("utf-16-le")
        entry = part.type_guid.bytes_le + guid.bytes_le
        entry += struct.pack("<QQQ", first, first + part.sectors - 1, part.attributes) + name.ljust(72, b"\0")
        at = (part.number - 1) * geometry.entry_bytes
        entries[at : at + geometry.entry_bytes] = entry.ljust(geometry.entry_bytes, bytes([geometry.reserved]))
        first += part.sectors
    return bytes(entries)


def _header(geometry: Geometry, places: tuple[int, int, int, int], entries_lba: int, entries: bytes) -> bytes:
    fill = bytes([geometry.reserved])
    head = struct.pack("<8sIII4s", b"EFI PART", 0x00010000, geometry.header_bytes, 0, fill * 4)
    head += struct.pack("<QQQQ", *places) + uuid.UUID(int=1).bytes_le
    head += struct.pack("<QIII", entries_lba, geometry.entry_count, geometry.entry_bytes, zlib.crc32(entries))
    sector = bytearray(head.ljust(geometry.sector_bytes, fill))
    struct.pack_into("<I", sector, 16, zlib.crc32(sector[: geometry.header_bytes]))
    return bytes(sector)


def _protective_mbr(last_lba: int) -> bytes:
    record = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last_lba, 0xFFFFFFFF))
    return bytes(446) + record + bytes(48) + b"\x55\xaa"


def resign_header(image: bytearray, lba: int = 1, *, sector_bytes: int = _SECTOR_BYTES) -> None:
    """Give the header at `lba` a right CRC after a test changed its fields: a lie, well told."""
    at = lba * sector_bytes
    size = struct.unpack_from("<I", image, at + 12)[0]
    struct.pack_into("<I", image, at + 16, 0)
    struct.pack_into("<I", image, at + 16, zlib.crc32(image[at : at + min(size, sector_bytes)]))


def resign_entries(image: bytearray, lba: int = 1, *, sector_bytes: int = _SECTOR_BYTES) -> None:
    """Give the header at `lba` and its entries right CRCs after a test changed them."""
    at = lba * sector_bytes
    entries_lba, count, size = struct.unpack_from("<QII", image, at + 72)
    start = entries_lba * sector_bytes
    struct.pack_into("<I", image, at + 88, zlib.crc32(image[start : start + count * size]))
    resign_header(image, lba, sector_bytes=sector_bytes)
