import bz2
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator

import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.compression import compress, decompress, decompress_chunks
from update_agent.formats.operations import OperationType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REPLACE = OperationType.REPLACE
BZ = OperationType.REPLACE_BZ
XZ = OperationType.REPLACE_XZ
ZSTD = OperationType.REPLACE_ZSTD
COMPRESSED = (BZ, XZ, ZSTD)
ALL = (REPLACE, *COMPRESSED)
OTHERS = sorted(set(OperationType) - set(ALL))

CONTENT = bytes(range(256)) * 1000

Decompress = Callable[[OperationType, bytes, int], bytes]


def in_one(type_: OperationType, blob: bytes, limit_bytes: int) -> bytes:
    return decompress(type_, blob, limit_bytes)


def in_chunks(type_: OperationType, blob: bytes, limit_bytes: int) -> bytes:
    return b"".join(decompress_chunks(type_, split(blob, 100), limit_bytes, 1000))


def split(blob: bytes, size: int) -> Iterator[memoryview]:
    view = memoryview(blob)
    for start in range(0, len(blob), size):
        yield view[start : start + size]


both_ways = pytest.mark.parametrize("way", [in_one, in_chunks])


@both_ways
@pytest.mark.parametrize("type_", ALL)
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_compressed_content_comes_back(type_: OperationType, content: bytes, way: Decompress) -> None:
    assert way(type_, compress(type_, content), len(content)) == content


@both_ways
@pytest.mark.parametrize("type_", ALL)
def test_content_one_byte_beyond_the_limit_is_refused(type_: OperationType, way: Decompress) -> None:
    with pytest.raises(FormatError, match=f"expected at most {len(CONTENT) - 1} bytes of content, got more") as caught:
        way(type_, compress(type_, CONTENT), len(CONTENT) - 1)
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


@both_ways
@pytest.mark.parametrize("type_", COMPRESSED)
def test_content_with_a_limit_of_zero_is_refused(type_: OperationType, way: Decompress) -> None:
    with pytest.raises(FormatError, match="expected at most 0 bytes of content"):
        way(type_, compress(type_, b"x"), 0)


@both_ways
@pytest.mark.parametrize("type_", COMPRESSED)
@pytest.mark.parametrize("left_bytes", [0, 1, 30, -1])
def test_stream_cut_short_is_refused(type_: OperationType, left_bytes: int, way: Decompress) -> None:
    blob = compress(type_, CONTENT)
    with pytest.raises(FormatError) as caught:
        way(type_, blob[:left_bytes], len(CONTENT))
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


@both_ways
@pytest.mark.parametrize("type_", COMPRESSED)
@pytest.mark.parametrize("rest", [b"\0", b"garbage" * 100, None])
def test_bytes_after_the_end_of_the_stream_are_refused(
    type_: OperationType, rest: bytes | None, way: Decompress
) -> None:
    blob = compress(type_, CONTENT)
    with pytest.raises(FormatError) as caught:
        way(type_, blob + (blob if rest is None else rest), 4 * len(CONTENT))
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


@both_ways
@pytest.mark.parametrize("type_", COMPRESSED)
def test_other_bytes_are_refused(type_: OperationType, way: Decompress) -> None:
    with pytest.raises(FormatError, match=f"{type_.name} data: "):
        way(type_, b"no stream at all" * 10, 1000)


@both_ways
@pytest.mark.parametrize("type_", COMPRESSED)
def test_flipped_bit_in_the_first_bytes_is_refused(type_: OperationType, way: Decompress) -> None:
    blob = bytearray(compress(type_, CONTENT))
    blob[1] ^= 1
    with pytest.raises(FormatError):
        way(type_, bytes(blob), len(CONTENT))


@both_ways
def test_zstd_of_unknown_size_comes_back(way: Decompress) -> None:
    compressor = zstd.ZstdCompressor()
    blob = compressor.compress(CONTENT) + compressor.flush()
    assert zstd.get_frame_info(blob).decompressed_size is None
    assert way(ZSTD, blob, len(CONTENT)) == CONTENT
    with pytest.raises(FormatError, match="expected at most"):
        way(ZSTD, blob, len(CONTENT) - 1)


def test_zstd_that_announces_too_much_is_refused_unread() -> None:
    # RFC 8878, 3.1.1.1: frame content size of 8 bytes, a single segment; then nothing.
    blob = bytes.fromhex("28b52ffd e0 0000000001000000")
    with pytest.raises(FormatError, match="expected at most 1000 bytes of content, got more"):
        decompress(ZSTD, blob, 1000)


RAW_BLOCK = bytes.fromhex("090000 78")
"""The last block of a frame: one byte, not compressed (RFC 8878, 3.1.1.2)."""


@both_ways
@pytest.mark.parametrize("window", [13 << 3 | 1, 14 << 3, 21 << 3, 22 << 3, 31 << 3])
@pytest.mark.parametrize("size", [None, 1])
def test_zstd_with_a_window_above_8_mib_is_refused(window: int, size: int | None, way: Decompress) -> None:
    def frame(window: int) -> bytes:
        if size is None:
            return bytes.fromhex("28b52ffd 00") + bytes([window]) + RAW_BLOCK
        return bytes.fromhex("28b52ffd 80") + bytes([window]) + size.to_bytes(4, "little") + RAW_BLOCK

    with pytest.raises(FormatError, match="REPLACE_ZSTD data"):
        way(ZSTD, frame(window), 100)
    assert way(ZSTD, frame(13 << 3), 100) == b"x"


def test_zstd_of_one_segment_above_8_mib_is_refused_however_it_arrives() -> None:
    content = bytes(8 * 1024 * 1024 + 1)
    blob = zstd.compress(content, options={zstd.CompressionParameter.window_log: 27})
    assert blob[4] & 0x20
    with pytest.raises(FormatError, match="expected a window of at most 8 MiB"):
        decompress(ZSTD, blob, len(content))
    for chunk_bytes in (1, 100, len(blob)):
        with pytest.raises(FormatError, match="REPLACE_ZSTD data"):
            list(decompress_chunks(ZSTD, split(blob, chunk_bytes), len(content), len(content)))


@both_ways
@pytest.mark.parametrize("announced", [0, 2, 100])
def test_zstd_that_announces_another_size_is_refused(announced: int, way: Decompress) -> None:
    blob = bytes.fromhex("28b52ffd 80 00") + announced.to_bytes(4, "little") + RAW_BLOCK
    with pytest.raises(FormatError, match="REPLACE_ZSTD data"):
        way(ZSTD, blob, 100)


@both_ways
@pytest.mark.parametrize("last_block", [b"\x01\x00\x00", b"\x03\x00\x00z"], ids=["raw", "repeated"])
def test_zstd_that_ends_with_an_empty_block_is_held_to_its_size(last_block: bytes, way: Decompress) -> None:
    """RFC 8878, 3.1.1: one segment, size in one byte, perhaps a block of one byte, and an empty last one."""
    head, block = b"\x28\xb5\x2f\xfd\x20", b"\x08\x00\x00x"
    assert way(ZSTD, head + b"\x01" + block + last_block, 300) == b"x"
    for announced in (b"\x02", b"\xf7"):
        with pytest.raises(FormatError, match="REPLACE_ZSTD data"):
            way(ZSTD, head + announced + block + last_block, 300)


@both_ways
def test_zstd_frame_to_skip_is_no_content(way: Decompress) -> None:
    assert way(ZSTD, bytes.fromhex("502a4d18 01000000 00"), 100) == b""


@both_ways
def test_zstd_with_a_dictionary_is_refused(way: Decompress) -> None:
    blob = bytes.fromhex("28b52ffd 03 00 12345678 090000 78")
    with pytest.raises(FormatError, match="REPLACE_ZSTD data"):
        way(ZSTD, blob, 100)


@both_ways
def test_xz_with_a_dictionary_beyond_the_limit_is_refused(way: Decompress) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 128 * 1024 * 1024}]
    blob = lzma.compress(b"x", format=lzma.FORMAT_XZ, filters=filters)
    with pytest.raises(FormatError, match="REPLACE_XZ data: Memory usage limit exceeded"):
        way(XZ, blob, 100)


@both_ways
def test_lzma_alone_is_not_xz(way: Decompress) -> None:
    with pytest.raises(FormatError, match="REPLACE_XZ data"):
        way(XZ, lzma.compress(b"x", format=lzma.FORMAT_ALONE), 100)


@pytest.mark.parametrize("type_", OTHERS)
def test_operation_without_compressed_data_is_refused(type_: OperationType) -> None:
    calls: list[Callable[[], object]] = [
        lambda: decompress(type_, b"", 1),
        lambda: list(decompress_chunks(type_, [], 1)),
        lambda: compress(type_, b""),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=f"{type_.name} data: an operation of this type has no compressed data"):
            call()


@pytest.mark.parametrize("type_", ALL)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 100_000_000])
def test_pieces_are_as_small_as_asked_and_never_empty(type_: OperationType, chunk_bytes: int) -> None:
    blob = compress(type_, CONTENT[:5000])
    pieces = list(decompress_chunks(type_, split(blob, chunk_bytes), 5000, 999))
    assert b"".join(pieces) == CONTENT[:5000]
    assert all(1 <= len(piece) <= 999 for piece in pieces)


@pytest.mark.parametrize("type_", ALL)
def test_empty_chunks_do_not_matter(type_: OperationType) -> None:
    blob = compress(type_, b"content")
    chunks: Iterable[bytes] = [b"", *(blob[i : i + 1] for i in range(len(blob))), b"", b""]
    assert b"".join(decompress_chunks(type_, chunks, 7)) == b"content"


@pytest.mark.parametrize("type_", COMPRESSED)
def test_rest_in_a_chunk_of_its_own_is_refused(type_: OperationType) -> None:
    with pytest.raises(FormatError, match=type_.name):
        list(decompress_chunks(type_, [compress(type_, b"content"), b"x"], 7))


@pytest.mark.parametrize("type_", ALL)
def test_compressing_twice_gives_the_same_bytes(type_: OperationType) -> None:
    assert compress(type_, CONTENT) == compress(type_, CONTENT)


def test_level_is_heeded() -> None:
    assert compress(BZ, CONTENT, 1) == bz2.compress(CONTENT, 1)
    assert compress(XZ, CONTENT, 0) == lzma.compress(CONTENT, check=lzma.CHECK_NONE, preset=0)
    assert compress(ZSTD, CONTENT, 1) == zstd.compress(CONTENT, 1)
    assert compress(ZSTD, CONTENT) == zstd.compress(CONTENT, 19)


def test_zstd_states_the_size_and_has_no_checksum() -> None:
    blob = compress(ZSTD, CONTENT)
    assert zstd.get_frame_info(blob).decompressed_size == len(CONTENT)
    # RFC 8878, 3.1.1.1.1: bit 2 of the frame header descriptor.
    assert not blob[4] & 4
