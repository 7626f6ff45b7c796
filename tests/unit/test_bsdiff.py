import bz2
import random
import struct
from collections.abc import Callable

import bsdiff4
import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.bsdiff import apply_patch


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= len(data)
        return data[offset : offset + length]

    return read


def patched(old: bytes, patch: bytes, *, limit: int = 1 << 20) -> bytes:
    pieces = apply_patch(
        read_patch=reader(patch), patch_bytes=len(patch), read_old=reader(old), old_bytes=len(old), new_bytes_max=limit
    )
    return b"".join(pieces)


def number(value: int) -> bytes:
    return (abs(value) | (1 << 63 if value < 0 else 0)).to_bytes(8, "little")


def patch_of(
    triples: list[tuple[int, int, int]], diff: bytes, extra: bytes, *, new_bytes: int, magic: bytes = b"BSDIFF40"
) -> bytes:
    control = bz2.compress(b"".join(number(value) for triple in triples for value in triple))
    packed = bz2.compress(diff)
    header = magic + number(len(control)) + number(len(packed)) + number(new_bytes)
    return header + control + packed + bz2.compress(extra)


def refuse(patch: bytes, *, old: bytes = b"old", limit: int = 1 << 20) -> str:
    with pytest.raises(FormatError) as caught:
        patched(old, patch, limit=limit)
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED
    return caught.value.message


@pytest.mark.parametrize("size", [0, 1, 100, 65536, 300_000])
def test_apply_patch_by_bsdiff4_gives_new_file(size: int) -> None:
    rng = random.Random(size)
    old = rng.randbytes(size)
    new = old[size // 3 :] + rng.randbytes(50) + old[: size // 2]
    assert patched(old, bsdiff4.diff(old, new)) == new


def test_apply_patch_reads_zeros_outside_of_old_file() -> None:
    patch = patch_of([(2, 0, -12), (12, 0, 0), (3, 0, 0)], b"\x01" * 17, b"", new_bytes=17)
    assert patched(b"\x01\x02\x03", patch) == b"\x02\x03" + b"\x01" * 10 + b"\x02\x03" + b"\x04\x01\x01"


def test_apply_patch_seek_far_outside_reads_zeros() -> None:
    patch = patch_of([(1, 0, -(2**62)), (1, 0, 0)], b"\x05\x06", b"", new_bytes=2)
    assert patched(b"\x01\x01", patch) == b"\x06\x06"


def test_apply_patch_sum_wraps_at_256() -> None:
    patch = patch_of([(4, 0, 0)], b"\xff\x80\x01\x7f", b"", new_bytes=4)
    assert patched(b"\x02\x80\xff\x7f", patch) == b"\x01\x00\x00\xfe"


def test_apply_patch_stops_when_result_is_whole() -> None:
    """What follows the last triple is never looked at."""
    patch = patch_of([(0, 3, 0), (99, 99, 99)], b"", b"new", new_bytes=3)
    assert patched(b"", patch) == b"new"


def test_apply_patch_shorter_than_header_is_refused() -> None:
    assert "at least 32" in refuse(b"BSDIFF40")


def test_apply_patch_wrong_magic_is_refused() -> None:
    assert "magic" in refuse(patch_of([(0, 1, 0)], b"", b"x", new_bytes=1, magic=b"BSDF2\x02\x02\x02"))


@pytest.mark.parametrize("field", [8, 16, 24])
def test_apply_patch_negative_length_in_header_is_refused(field: int) -> None:
    patch = bytearray(patch_of([(0, 1, 0)], b"", b"x", new_bytes=1))
    patch[field + 7] |= 0x80
    assert "blocks of" in refuse(bytes(patch))


@pytest.mark.parametrize("field", [8, 16])
def test_apply_patch_blocks_longer_than_patch_are_refused(field: int) -> None:
    patch = bytearray(patch_of([(0, 1, 0)], b"", b"x", new_bytes=1))
    struct.pack_into("<Q", patch, field, 2**40)
    assert "blocks of" in refuse(bytes(patch))


def test_apply_patch_result_longer_than_room_is_refused_before_it_is_made() -> None:
    assert "at most 5" in refuse(patch_of([(0, 6, 0)], b"", b"longer", new_bytes=6), limit=5)


@pytest.mark.parametrize("triple", [(-1, 0, 0), (0, -1, 0), (4, 0, 0), (2, 2, 0), (2**62, 0, 0), (4, -1, 0)])
def test_apply_patch_lying_triple_is_refused(triple: tuple[int, int, int]) -> None:
    assert "control triple" in refuse(patch_of([triple], b"1234", b"1234", new_bytes=3))


def test_apply_patch_triples_that_produce_nothing_are_fine() -> None:
    patch = patch_of([(0, 0, 1), (0, 0, 1), (1, 0, 0)], b"\0", b"", new_bytes=1)
    assert patched(b"abc", patch) == b"c"


def test_apply_patch_between_periodic_files_gives_new_file() -> None:
    """bsdiff writes dozens of triples in a row that produce nothing."""
    period = b"\x00\x01" * 4 + b"\x00\x02"
    old, new = period * 17, (period * 20)[1:169]
    assert patched(old, bsdiff4.diff(old, new)) == new


def test_apply_patch_endless_idle_triples_are_refused() -> None:
    assert "control triple" in refuse(patch_of([(0, 0, 1)] * 1000, b"", b"x", new_bytes=1))


@pytest.mark.parametrize("which", ["control", "diff", "extra"])
def test_apply_patch_block_that_ends_early_is_refused(which: str) -> None:
    triples = [] if which == "control" else [(2, 2, 0)]
    patch = patch_of(triples, b"" if which == "diff" else b"12", b"" if which == "extra" else b"12", new_bytes=4)
    assert "ends too early" in refuse(patch)


def test_apply_patch_cut_off_is_refused() -> None:
    whole = patch_of([(2, 2, 0)], b"12", b"34", new_bytes=4)
    trailer = 10  # of the last bzip2 stream: nobody reads beyond the last byte of the new file
    for cut in range(32, len(whole) - trailer):
        refuse(whole[:cut])


def test_apply_patch_block_that_is_not_bzip2_is_refused() -> None:
    patch = bytearray(patch_of([(2, 2, 0)], b"12", b"34", new_bytes=4))
    patch[32:36] = b"nope"
    assert "corrupt" in refuse(bytes(patch))


def test_apply_patch_pieces_are_small_whatever_the_triple() -> None:
    size = 1_000_000
    patch = patch_of([(size, size, 0)], bytes(size), bytes(size), new_bytes=2 * size)
    pieces = apply_patch(
        read_patch=reader(patch), patch_bytes=len(patch), read_old=reader(b""), old_bytes=0, new_bytes_max=2 * size
    )
    assert max(map(len, pieces)) <= 65536
