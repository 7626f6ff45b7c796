"""GPT bytes ⇄ values, on images that another hand packed."""

import struct
import uuid
import zlib

import pytest

from tests.support.images import (
    USR_A_GUID,
    USR_A_NUMBER,
    USR_B_NUMBER,
    USR_TYPE,
    Geometry,
    Part,
    ab_parts,
    boot_attributes,
    make_image,
    resign_entries,
    resign_header,
)
from update_agent.errors import FormatError, Kind
from update_agent.formats.gpt import Entry, Header, Lba, Table, check_protective_mbr

GEOMETRIES = [
    Geometry(),
    Geometry(sector_bytes=4096),
    Geometry(entry_bytes=256),
    Geometry(entry_bytes=512, entry_count=16),
    Geometry(entry_bytes=4096, entry_count=16, sector_bytes=4096),
    Geometry(entry_count=9),
    Geometry(entry_count=9, sector_bytes=4096),
    Geometry(header_bytes=512, reserved=0xA5),
    Geometry(header_bytes=200, reserved=0x5A, sector_bytes=4096, entry_bytes=256),
    Geometry(gap_sectors=5),
]


def read_table(image: bytes | bytearray, lba: int = 1, *, sector: int = 512) -> Table:
    header = Header.from_bytes(bytes(image[lba * sector : (lba + 1) * sector]), lba=Lba(lba))
    entries = image[header.entries_offset : header.entries_offset + header.entries_size_bytes]
    return Table.from_bytes(header, bytes(entries))


def last_lba(image: bytes | bytearray, sector: int = 512) -> int:
    return len(image) // sector - 1


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_table_of_any_geometry_is_read_from_both_copies(geometry: Geometry) -> None:
    image = make_image(ab_parts(a=boot_attributes(1, 2, 1)), geometry)
    sector = geometry.sector_bytes
    for lba in (1, last_lba(image, sector)):
        table = read_table(image, lba, sector=sector)
        assert [entry.number for entry in table.entries] == [1, 3, 4, 9]
        usr_a = table.entries[1]
        assert usr_a.type_guid == USR_TYPE
        assert usr_a.unique_guid == USR_A_GUID
        assert usr_a.name == "USR-A"
        assert usr_a.attributes == boot_attributes(1, 2, 1)
        assert usr_a.last_lba - usr_a.first_lba + 1 == 8
        assert table.header.disk_guid == uuid.UUID(int=1)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_attributes_changed_differ_only_in_them_and_both_crcs(geometry: Geometry) -> None:
    value = 0x0123_4567_89AB_CDEF
    sector = geometry.sector_bytes
    image = make_image(ab_parts(), geometry)
    expected = make_image(ab_parts(b=value), geometry)
    for lba in (1, last_lba(image, sector)):
        changed = read_table(image, lba, sector=sector).with_attributes({USR_B_NUMBER: value})
        at = changed.header.entries_offset
        assert changed.header.sector == expected[lba * sector : (lba + 1) * sector]
        assert changed.entries_bytes == expected[at : at + len(changed.entries_bytes)]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_copy_rebuilt_from_the_other_equals_the_original(geometry: Geometry) -> None:
    sector = geometry.sector_bytes
    image = make_image(ab_parts(), geometry)
    primary, backup = read_table(image, sector=sector), read_table(image, last_lba(image, sector), sector=sector)
    assert primary.is_copy_of(backup)
    assert primary.moved(backup.header.my_lba, entries_lba=backup.header.entries_lba) == backup
    assert backup.moved(primary.header.my_lba, entries_lba=primary.header.entries_lba) == primary


def test_copy_with_other_attributes_is_no_copy() -> None:
    image = make_image(ab_parts())
    primary, backup = read_table(image), read_table(image, last_lba(image))
    assert not primary.with_attributes({3: 0}).is_copy_of(backup)


def test_attributes_of_an_unused_entry_are_refused() -> None:
    with pytest.raises(FormatError, match="partition 2: no such partition"):
        read_table(make_image(ab_parts())).with_attributes({2: 0})


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_attributes_wider_than_64_bits_are_refused(value: int) -> None:
    with pytest.raises(FormatError, match="64 attribute bits"):
        read_table(make_image(ab_parts())).with_attributes({USR_A_NUMBER: value})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("USR-A".encode("utf-16-le"), "USR-A"),
        ("ü€😀".encode("utf-16-le"), "ü€😀"),
        (b"x\0\0\0" + b"\xff" * 68, "x"),
        (b"A\0\0\xd8B\0", "A\ufffdB"),
        ("N" * 36, "N" * 36),
        (b"", ""),
    ],
)
def test_name_that_is_odd_is_read_and_kept(name: bytes | str, expected: str) -> None:
    raw = name.encode("utf-16-le") if isinstance(name, str) else name
    part = Part(number=1, label="", sectors=8, name_bytes=raw)
    table = read_table(make_image([part]))
    assert table.entries[0].name.startswith(expected)
    assert table.with_attributes({1: 0}).entries_bytes == table.entries_bytes


def test_partitions_out_of_order_are_read() -> None:
    parts = [Part(number=number, label=str(number), sectors=8) for number in (3, 1, 2)]
    assert [entry.name for entry in read_table(make_image(parts)).entries] == ["1", "2", "3"]


HEADER_LIES = {
    "signature": (0, "<8s", (b"EFI PORT",), "signature"),
    "revision 2": (8, "<I", (0x00020000,), "revision"),
    "size below 92": (12, "<I", (91,), "size of 92 to 512"),
    "size over the sector": (12, "<I", (513,), "size of 92 to 512"),
    "size huge": (12, "<I", (0xFFFFFFFF,), "size of 92 to 512"),
    "own place": (24, "<Q", (2,), "own place"),
    "backup inside of partitions": (32, "<Q", (40,), "sectors for partitions"),
    "backup in the last sector of partitions": (32, "<Q", (65,), "sectors for partitions"),
    "backup is itself": (32, "<Q", (1,), "sectors for partitions"),
    "usable from behind": (40, "<QQ", (60, 50), "sectors for partitions"),
    "usable to the end of time": (48, "<Q", (2**64 - 1,), "sectors for partitions"),
    "entries in the MBR": (72, "<Q", (0,), "overlap"),
    "entries in the header": (72, "<Q", (1,), "overlap"),
    "entries in a partition": (72, "<Q", (3,), "overlap"),
    "entries beyond everything": (72, "<Q", (2**64 - 1,), "overlap"),
    "no entries": (80, "<I", (0,), "bytes of entries"),
    "too many entries": (80, "<I", (8193,), "bytes of entries"),
    "entries without end": (80, "<I", (0xFFFFFFFF,), "bytes of entries"),
    "entry of 0": (84, "<I", (0,), "entry size"),
    "entry of 64": (84, "<I", (64,), "entry size"),
    "entry of 192": (84, "<I", (192,), "entry size"),
    "entry of 8192": (84, "<I", (8192,), "entry size"),
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_header_that_lies_with_a_right_crc_is_refused(lie: str) -> None:
    at, form, values, message = HEADER_LIES[lie]
    image = make_image(ab_parts())
    struct.pack_into(form, image, 512 + at, *values)
    resign_header(image)
    with pytest.raises(FormatError, match=message) as caught:
        read_table(image)
    assert caught.value.kind is Kind.GPT_INVALID


def test_backup_header_whose_entries_overlap_a_partition_is_refused() -> None:
    image = make_image(ab_parts())
    last = last_lba(image)
    struct.pack_into("<Q", image, last * 512 + 72, last - 33)
    resign_header(image, last)
    with pytest.raises(FormatError, match="overlap"):
        read_table(image, last)


@pytest.mark.parametrize("at", [0, 8, 12, 16, 20, 24, 32, 40, 48, 56, 72, 80, 84, 88, 91])
def test_header_with_one_flipped_bit_is_refused(at: int) -> None:
    image = make_image(ab_parts())
    image[512 + at] ^= 1
    with pytest.raises(FormatError):
        read_table(image)


def test_header_bit_after_its_size_may_be_anything() -> None:
    image = make_image(ab_parts())
    image[512 + 92] ^= 1
    table = read_table(image)
    assert table.with_attributes({}) == table


@pytest.mark.parametrize("size", [0, 91, 511, 513, 1024])
def test_header_of_an_odd_sector_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="512 or 4096"):
        Header.from_bytes(bytes(size), lba=Lba(1))


def test_entries_with_one_flipped_bit_are_refused() -> None:
    image = make_image(ab_parts())
    image[1024 + 127 * 128] ^= 1
    with pytest.raises(FormatError, match="entries: expected CRC"):
        read_table(image)


def test_entries_of_the_wrong_length_are_refused() -> None:
    table = read_table(make_image(ab_parts()))
    with pytest.raises(FormatError, match="expected 16384 bytes, got 16383"):
        Table.from_bytes(table.header, table.entries_bytes[:-1])


def test_entry_that_is_too_short_is_refused() -> None:
    with pytest.raises(FormatError, match="partition 7: expected 128 bytes"):
        Entry.from_bytes(bytes(127), number=7)


ENTRY_LIES = {
    "before the usable sectors": ((33, 41), "within 34"),
    "after the usable sectors": ((42, 66), "within 34"),
    "ends before it starts": ((49, 42), "within 34"),
    "over the one before": ((41, 49), "overlaps partition 1"),
    "inside of the one before": ((35, 36), "partition 3: overlaps partition 1"),
    "over the one after": ((42, 50), "partition 4: overlaps partition 3"),
}


@pytest.mark.parametrize("lie", ENTRY_LIES)
def test_partition_that_lies_with_right_crcs_is_refused(lie: str) -> None:
    extent, message = ENTRY_LIES[lie]
    image = make_image(ab_parts())
    struct.pack_into("<QQ", image, 1024 + (USR_A_NUMBER - 1) * 128 + 32, *extent)
    resign_entries(image)
    with pytest.raises(FormatError, match=message):
        read_table(image)


def test_table_moved_onto_partitions_is_refused() -> None:
    table = read_table(make_image(ab_parts()))
    with pytest.raises(FormatError, match="overlap"):
        table.moved(table.header.alternate_lba, entries_lba=Lba(50))


def test_largest_table_allowed_is_read() -> None:
    geometry = Geometry(entry_count=256, entry_bytes=4096, sector_bytes=4096)
    assert len(read_table(make_image(ab_parts(), geometry), sector=4096).entries_bytes) == 1024 * 1024


def test_mbr_that_is_protective_is_accepted() -> None:
    check_protective_mbr(bytes(make_image(ab_parts())[:512]))


def test_mbr_that_is_hybrid_is_accepted() -> None:
    mbr = make_image(ab_parts())[:512]
    mbr[446:510] = b"".join(bytes(4) + bytes([kind]) + b"\x77" * 11 for kind in (0x80, 0x07, 0xEE, 0x0C))
    check_protective_mbr(bytes(mbr))


def test_mbr_without_signature_is_refused() -> None:
    mbr = make_image(ab_parts())[:512]
    mbr[510:] = b"\0\0"
    with pytest.raises(FormatError, match="boot signature"):
        check_protective_mbr(bytes(mbr))


def test_mbr_without_a_gpt_record_is_refused() -> None:
    mbr = make_image(ab_parts())[:512]
    mbr[450] = 0x83
    with pytest.raises(FormatError, match="record of type ee, got 83 00 00 00"):
        check_protective_mbr(bytes(mbr))


def test_crc_of_the_header_is_the_one_of_zlib_with_the_field_zeroed() -> None:
    header = read_table(make_image(ab_parts())).with_attributes({3: 0}).header
    zeroed = header.sector[:16] + bytes(4) + header.sector[20:92]
    assert struct.unpack_from("<I", header.sector, 16)[0] == zlib.crc32(zeroed)
