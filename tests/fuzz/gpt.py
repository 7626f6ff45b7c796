"""A disk with any bytes, half of the time with right checksums over wrong fields: read, repaired, changed."""

import contextlib
import random
import struct
from collections.abc import Iterator

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.devices import MemoryDevice
from tests.support.images import Geometry, ab_parts, boot_attributes, make_image, resign_entries, resign_header
from update_agent.domain import activation
from update_agent.domain.slots import SlotTable
from update_agent.errors import DeviceError, FormatError, InstallError, RefusedError
from update_agent.formats.gpt import Entry
from update_agent.host.disk import GptDisk

_SECTOR_BYTES = (512, 4096)
_RESIGN_PRIMARY, _RESIGN_BACKUP, _LARGE_SECTORS, _ENTRIES_TOO = 1, 2, 4, 8
_HEAD_BYTES = 9
"""One byte of flags, eight bytes of attributes to write; then the disk."""


def _run(data: bytes) -> None:
    flags, attributes = data[0] if data else 0, int.from_bytes(data[1:_HEAD_BYTES], "little")
    image = _resigned(bytearray(data[_HEAD_BYTES:]), flags)
    with contextlib.suppress(FormatError, DeviceError):
        _change(MemoryDevice.of(image), attributes)
    with contextlib.suppress(FormatError, DeviceError, InstallError, RefusedError):
        _activate(MemoryDevice.of(image))


def _change(device: MemoryDevice, attributes: int) -> None:
    disk = GptDisk(device)
    before, entries, disk_guid = device.content, _without_attributes(disk), disk.disk_guid
    numbers = [entry.number for entry in disk.table.entries]
    for partition in disk.partitions:
        partition.name.encode()
        with contextlib.suppress(DeviceError):
            disk.region(partition)
    problems = disk.problems
    has_failed = False
    try:
        disk.repair()
        disk.set_attributes(dict.fromkeys(numbers, attributes))
    except (FormatError, DeviceError) as error:
        has_failed = True
        # What is damaged may have no place to be repaired at.
        if not problems:
            raise AssertionError("a good table cannot be changed") from error
    again = GptDisk(device)
    assert _without_attributes(again) == entries
    assert again.disk_guid == disk_guid
    _assert_partitions_untouched(again, before, device.content)
    if not has_failed:
        assert not again.problems
        assert all(partition.attributes == attributes for partition in again.partitions)


def _without_attributes(disk: GptDisk) -> list[tuple[object, ...]]:
    def key(entry: Entry) -> tuple[object, ...]:
        return entry.number, entry.type_guid, entry.unique_guid, entry.first_lba, entry.last_lba, entry.name

    return [key(entry) for entry in disk.table.entries]


def _assert_partitions_untouched(disk: GptDisk, before: bytes, after: bytes) -> None:
    assert before[:512] == after[:512]
    for partition in disk.partitions:
        place = slice(partition.start_bytes, partition.start_bytes + partition.size_bytes)
        assert before[place] == after[place]


def _activate(device: MemoryDevice) -> None:
    disk = GptDisk(device)
    slots = SlotTable.from_disk(disk)
    booted = slots.booted(None)
    target = slots.target(booted, None)
    activation.deactivate(disk, target)
    chosen = SlotTable.from_disk(GptDisk(device)).next_boot()
    assert chosen is None or chosen.name is not target.name
    activation.activate(disk, target)
    chosen = SlotTable.from_disk(GptDisk(device)).next_boot()
    assert chosen is not None
    assert chosen.name is target.name


def _resigned(image: bytearray, flags: int) -> bytearray:
    """The image with checksums that hold, where `flags` ask for them and there is room for a header."""
    sector_bytes = _SECTOR_BYTES[bool(flags & _LARGE_SECTORS)]
    last = len(image) // sector_bytes - 1
    resign = resign_entries if flags & _ENTRIES_TOO else resign_header
    for flag, lba in ((_RESIGN_PRIMARY, 1), (_RESIGN_BACKUP, last)):
        if flags & flag and lba > 0:
            with contextlib.suppress(struct.error):  # the image is shorter than a header
                resign(image, lba, sector_bytes=sector_bytes)
    return image


def _seeds() -> Iterator[bytes]:
    good, trying = boot_attributes(1, 0, 1), boot_attributes(2, 1, 0)
    for geometry, flags in (
        (Geometry(entry_count=8), 0),
        (Geometry(entry_count=9, header_bytes=256, reserved=0x33, gap_sectors=1), _ENTRIES_TOO),
        (Geometry(sector_bytes=4096, entry_count=8), _LARGE_SECTORS),
        (Geometry(entry_count=4, entry_bytes=256), _ENTRIES_TOO),
    ):
        image = bytes(make_image(ab_parts(a=good, b=trying, sectors=2), geometry, spare_sectors=1))
        for resigned in (0, _RESIGN_PRIMARY, _RESIGN_BACKUP, _RESIGN_PRIMARY | _RESIGN_BACKUP):
            yield bytes([flags | resigned]) + trying.to_bytes(8, "little") + image
        damaged = bytearray(image)
        damaged[geometry.sector_bytes + 16] ^= 1
        yield bytes([flags]) + good.to_bytes(8, "little") + damaged
        yield bytes([flags]) + good.to_bytes(8, "little") + image[: -geometry.sector_bytes]


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Mostly in a header or in the first entries: nearly all other bytes are zeros that nobody reads."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    flags = data[0] if data else 0
    sector = _SECTOR_BYTES[bool(flags & _LARGE_SECTORS)]
    last = (len(data) - _HEAD_BYTES) // sector - 1
    start = _HEAD_BYTES + rng.choice((0, 1, 1, 2, 2, last, last, max(last - 2, 0), max(last - 3, 0))) * sector
    length = rng.choice((96, 512))
    piece = mutate_bytes(data[start : start + length], rng)[:length]
    head = data[:_HEAD_BYTES] if rng.random() < 0.5 else bytes([rng.randrange(16)]) + data[1:_HEAD_BYTES]
    return head + data[_HEAD_BYTES:start] + piece + data[start + len(piece) :]


TARGETS = {"gpt": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=1 << 17)}
