"""`GptDisk`: which copy counts, what it repairs, in which order it writes."""

import errno
import struct
import uuid

import pytest

from tests.support.devices import FaultyDevice, Flush, Journal, MemoryDevice, RecordingDevice, Write
from tests.support.images import (
    A_GOOD,
    USR_A_NUMBER,
    USR_B_NUMBER,
    Geometry,
    ab_parts,
    boot_attributes,
    make_image,
    resign_entries,
    resign_header,
)
from update_agent.errors import DeviceError, FormatError, Kind
from update_agent.host.disk import CopyName, GptDisk, Partition

TRY_B = {USR_A_NUMBER: A_GOOD, USR_B_NUMBER: boot_attributes(2, 1)}
ENTRIES = 128 * 128


def wipe(image: bytearray, at: int, length: int = 512) -> bytearray:
    image[at : at + length] = b"\xee" * length
    return image


def disk_of(image: bytes | bytearray, **options: int) -> GptDisk:
    return GptDisk(MemoryDevice.of(image, name="disk"), **options)


def attributes(disk: GptDisk) -> dict[int, int]:
    return {partition.number: partition.attributes for partition in disk.partitions if partition.number in TRY_B}


def content(disk: GptDisk) -> bytes:
    assert isinstance(disk.device, MemoryDevice)
    return disk.device.content


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("given", [True, False])
def test_disk_of_either_sector_size_is_read(sector: int, given: bool) -> None:
    image = make_image(ab_parts(), Geometry(sector_bytes=sector))
    disk = disk_of(image, sector_size_bytes=sector) if given else disk_of(image)
    assert disk.sector_size_bytes == sector
    assert disk.disk_guid == uuid.UUID(int=1)
    assert not disk.problems
    usr_a = disk.partitions[1]
    assert (usr_a.number, usr_a.name, usr_a.size_bytes) == (USR_A_NUMBER, "USR-A", 8 * sector)
    assert usr_a.start_bytes % sector == 0


@pytest.mark.parametrize("sector", [512, 4096])
def test_disk_of_either_sector_size_without_primary_is_read_from_the_backup(sector: int) -> None:
    image = make_image(ab_parts(), Geometry(sector_bytes=sector))
    disk = disk_of(wipe(image, sector))
    assert disk.sector_size_bytes == sector
    assert attributes(disk) == {USR_A_NUMBER: A_GOOD, USR_B_NUMBER: 0}
    assert disk.primary.name is CopyName.PRIMARY
    assert not disk.primary.is_good
    assert disk.backup.is_good


def test_disk_with_the_wrong_sector_size_given_is_refused() -> None:
    with pytest.raises(FormatError):
        disk_of(make_image(ab_parts()), sector_size_bytes=4096)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 4096, 20000])
def test_disk_without_a_table_is_refused_with_a_hint(size: int) -> None:
    with pytest.raises(FormatError, match="disk: expected a GUID partition table") as caught:
        disk_of(bytes(size))
    assert caught.value.kind is Kind.GPT_INVALID
    assert caught.value.hint


def test_disk_with_both_copies_damaged_is_refused() -> None:
    image = make_image(ab_parts())
    wipe(image, 1024)
    wipe(image, len(image) - 512)
    with pytest.raises(FormatError, match=r"primary: .*entries: expected CRC.*backup: .*signature missing"):
        disk_of(image)


def test_disk_without_a_protective_mbr_is_refused_with_a_hint() -> None:
    with pytest.raises(FormatError, match="protective MBR") as caught:
        disk_of(wipe(make_image(ab_parts()), 0))
    assert caught.value.hint


def test_region_of_a_partition_is_its_bytes() -> None:
    image = make_image(ab_parts())
    disk = disk_of(image)
    usr_b = disk.partitions[2]
    region = disk.region(usr_b)
    region.write_at(0, b"first")
    assert region.size_bytes == usr_b.size_bytes
    assert content(disk)[usr_b.start_bytes : usr_b.start_bytes + 5] == b"first"


def test_region_beyond_the_end_of_a_short_disk_is_refused() -> None:
    disk = disk_of(make_image(ab_parts())[: 60 * 512])
    assert "primary" not in disk.problems[0]
    with pytest.raises(DeviceError) as caught:
        disk.region(disk.partitions[3])
    assert caught.value.kind is Kind.DEVICE_TOO_SMALL


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(),
        Geometry(sector_bytes=4096),
        Geometry(entry_bytes=256),
        Geometry(entry_bytes=512),
        Geometry(header_bytes=300, reserved=0x77, gap_sectors=3),
    ],
    ids=str,
)
def test_attributes_set_change_nothing_else_on_the_disk(geometry: Geometry) -> None:
    disk = disk_of(make_image(ab_parts(), geometry))
    assert disk.set_attributes(TRY_B)
    assert content(disk) == make_image(ab_parts(b=boot_attributes(2, 1)), geometry)
    assert attributes(disk) == TRY_B
    assert not disk.problems


def test_attributes_set_write_backup_then_primary_with_a_flush_after_each() -> None:
    image = make_image(ab_parts())
    last = len(image) - 512
    journal = Journal()
    GptDisk(RecordingDevice(MemoryDevice.of(image, name="disk"), journal)).set_attributes(TRY_B)
    order = [(event.offset, len(event.data)) if isinstance(event, Write) else "flush" for event in journal.events]
    assert order == ["flush", (last - ENTRIES, ENTRIES), (last, 512), "flush", (1024, ENTRIES), (512, 512), "flush"]


@pytest.mark.parametrize("at", [512, 1024], ids=["header", "entries"])
def test_attributes_set_on_a_damaged_primary_write_it_first(at: int) -> None:
    image = wipe(make_image(ab_parts()), at)
    journal = Journal()
    disk = GptDisk(RecordingDevice(MemoryDevice.of(image, name="disk"), journal))
    disk.set_attributes(TRY_B)
    offsets = [event.offset for event in journal.events if isinstance(event, Write)]
    assert offsets == [1024, 512, len(image) - 512 - ENTRIES, len(image) - 512]
    assert isinstance(journal.events[3], Flush)
    assert isinstance(journal.events[-1], Flush)
    assert attributes(disk) == TRY_B
    assert not disk.problems


def test_attributes_unchanged_on_a_sound_disk_write_nothing_but_are_flushed() -> None:
    journal = Journal()
    disk = GptDisk(RecordingDevice(MemoryDevice.of(make_image(ab_parts()), name="disk"), journal))
    assert not disk.set_attributes({USR_A_NUMBER: A_GOOD})
    assert journal.events == (Flush("disk"),)


def damaged_places(image: bytes | bytearray) -> dict[str, int]:
    end = len(image)
    return {
        "primary header": 512,
        "primary entries": 1024,
        "backup header": end - 512,
        "backup entries": end - 512 - ENTRIES,
    }


@pytest.mark.parametrize("place", ["primary header", "primary entries", "backup header", "backup entries"])
def test_repair_of_one_damaged_part_restores_every_byte(place: str) -> None:
    sound = make_image(ab_parts())
    disk = disk_of(wipe(sound.copy(), damaged_places(sound)[place]))
    assert disk.problems[0].startswith(f"{place.split()[0]} partition table is damaged")
    assert disk.repair()
    assert content(disk) == sound
    assert not disk.problems
    assert not disk.repair()


@pytest.mark.parametrize("place", ["primary header", "primary entries", "backup header", "backup entries"])
def test_attributes_set_on_a_damaged_disk_restore_it_too(place: str) -> None:
    sound = make_image(ab_parts())
    disk = disk_of(wipe(sound.copy(), damaged_places(sound)[place]))
    disk.set_attributes(TRY_B)
    assert content(disk) == make_image(ab_parts(b=boot_attributes(2, 1)))


def test_copies_that_differ_let_the_primary_win() -> None:
    image = make_image(ab_parts(b=boot_attributes(3, 3)))
    stale = make_image(ab_parts())
    image[-512 * 33 :] = stale[-512 * 33 :]
    disk = disk_of(image)
    assert list(disk.problems) == ["primary and backup partition table differ; the primary counts"]
    assert attributes(disk)[USR_B_NUMBER] == boot_attributes(3, 3)
    assert disk.repair()
    assert content(disk) == make_image(ab_parts(b=boot_attributes(3, 3)))


def test_copies_that_differ_are_in_step_after_a_change() -> None:
    image = make_image(ab_parts(b=boot_attributes(3, 3)))
    image[-512 * 33 :] = make_image(ab_parts(a=0))[-512 * 33 :]
    disk = disk_of(image)
    disk.set_attributes(TRY_B)
    assert content(disk) == make_image(ab_parts(b=boot_attributes(2, 1)))


def test_backup_whose_disk_guid_differs_is_rewritten() -> None:
    sound = make_image(ab_parts())
    image = sound.copy()
    last = len(image) // 512 - 1
    image[last * 512 + 56] ^= 1
    resign_header(image, last)
    disk = disk_of(image)
    disk.repair()
    assert content(disk) == sound


def test_disk_grown_after_partitioning_keeps_its_backup_where_it_is() -> None:
    grown = make_image(ab_parts()) + bytes(100 * 512)
    disk = disk_of(grown)
    assert not disk.problems
    disk.set_attributes(TRY_B)
    assert content(disk) == make_image(ab_parts(b=boot_attributes(2, 1))) + bytes(100 * 512)


def test_disk_grown_and_primary_entries_damaged_finds_the_backup_through_the_header() -> None:
    disk = disk_of(wipe(make_image(ab_parts()), 1024) + bytes(100 * 512))
    disk.repair()
    assert content(disk) == make_image(ab_parts()) + bytes(100 * 512)


def test_disk_grown_and_primary_header_damaged_is_refused() -> None:
    with pytest.raises(FormatError):
        disk_of(wipe(make_image(ab_parts()), 512) + bytes(100 * 512))


def test_disk_cut_short_is_read_but_not_changed() -> None:
    short = make_image(ab_parts())[:-512]
    disk = disk_of(short)
    assert attributes(disk) == {USR_A_NUMBER: A_GOOD, USR_B_NUMBER: 0}
    with pytest.raises(FormatError, match="backup partition table: expected at sector 98") as caught:
        disk.set_attributes(TRY_B)
    assert caught.value.hint
    assert content(disk) == short


def test_damaged_primary_header_finds_its_entries_right_before_the_partitions() -> None:
    sound = make_image(ab_parts(), Geometry(gap_sectors=20))
    boot_code = 2 * 512
    sound[boot_code : boot_code + 512] = b"\xb0" * 512
    disk = disk_of(wipe(sound.copy(), 512))
    disk.repair()
    assert content(disk) == sound


def test_damaged_primary_header_and_entries_not_found_go_to_the_usual_place() -> None:
    geometry = Geometry(gap_sectors=20)
    image = wipe(make_image(ab_parts(), geometry), 512, 60 * 512 - 512 * 8)
    disk = disk_of(image)
    disk.repair()
    assert disk.primary.table is not None
    assert disk.primary.table.header.entries_lba == 2


def test_damaged_primary_entries_stay_where_the_sound_header_says() -> None:
    geometry = Geometry(gap_sectors=20)
    sound = make_image(ab_parts(), geometry)
    disk = disk_of(wipe(sound.copy(), 22 * 512))
    disk.repair()
    assert content(disk) == sound


def test_damaged_primary_whose_header_names_an_impossible_place_goes_to_the_usual_one() -> None:
    image = make_image(ab_parts())
    struct.pack_into("<Q", image, 512 + 72, 10)
    struct.pack_into("<Q", image, 512 + 40, 42)
    resign_header(image)
    wipe(image, 1024)
    disk = disk_of(image)
    disk.repair()
    assert content(disk) == make_image(ab_parts())


def test_damaged_backup_whose_header_names_an_impossible_place_goes_before_its_header() -> None:
    image = make_image(ab_parts())
    last = len(image) // 512 - 1
    struct.pack_into("<Q", image, last * 512 + 72, last - 33)
    struct.pack_into("<Q", image, last * 512 + 48, last - 34)
    resign_header(image, last)
    disk = disk_of(image)
    disk.repair()
    assert content(disk) == make_image(ab_parts())


def test_entry_overlap_in_one_copy_is_damage_that_the_other_repairs() -> None:
    sound = make_image(ab_parts())
    image = sound.copy()
    struct.pack_into("<Q", image, 1024 + 2 * 128 + 32, 40)
    resign_entries(image)
    disk = disk_of(image)
    assert "overlaps" in disk.problems[0]
    disk.repair()
    assert content(disk) == sound


def test_attributes_of_an_unknown_partition_write_nothing() -> None:
    disk = disk_of(make_image(ab_parts()))
    with pytest.raises(FormatError, match="no such partition"):
        disk.set_attributes({2: 0})
    assert content(disk) == make_image(ab_parts())


def test_attributes_set_keep_what_another_program_changed_meanwhile() -> None:
    device = MemoryDevice.of(make_image(ab_parts()))
    disk = GptDisk(device)
    GptDisk(device).set_attributes({9: 1 << 59})
    disk.set_attributes(TRY_B)
    assert disk.partitions[3].attributes == 1 << 59


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_write_that_fails_leaves_one_copy_and_a_true_picture(number: int, error: int) -> None:
    image = make_image(ab_parts())
    memory = MemoryDevice.of(image)
    disk = GptDisk(FaultyDevice(memory, fail_at_write=number, error_number=error, torn_bytes=100))
    with pytest.raises(DeviceError) as caught:
        disk.set_attributes(TRY_B)
    assert caught.value.kind is (Kind.NO_SPACE if error == errno.ENOSPC else Kind.DEVICE_IO)
    assert disk.partitions == GptDisk(memory).partitions
    disk.set_attributes(TRY_B)
    assert memory.content == make_image(ab_parts(b=boot_attributes(2, 1)))


@pytest.mark.parametrize("number", range(3))
def test_flush_that_fails_is_reported(number: int) -> None:
    memory = MemoryDevice.of(make_image(ab_parts()))
    disk = GptDisk(FaultyDevice(memory, fail_at_flush=number))
    with pytest.raises(DeviceError):
        disk.set_attributes(TRY_B)
    assert disk.partitions == GptDisk(memory).partitions


def test_read_that_fails_is_reported() -> None:
    with pytest.raises(DeviceError):
        GptDisk(FaultyDevice(MemoryDevice.of(make_image(ab_parts())), fail_reads=True))


class ForgetfulDevice(MemoryDevice):
    """Says that it wrote the primary header, and did not."""

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if offset != 512:
            super().write_at(offset, data)


def test_write_that_reads_back_differently_is_reported() -> None:
    image = make_image(ab_parts())
    disk = GptDisk(ForgetfulDevice(len(image), content=image))
    with pytest.raises(DeviceError, match="reads back differently"):
        disk.set_attributes(TRY_B)


def test_partitions_are_values() -> None:
    image = make_image(ab_parts())
    first, second = disk_of(image).partitions, disk_of(image).partitions
    assert first == second
    assert all(isinstance(partition, Partition) for partition in first)
