"""Compressed blobs: whole and in pieces they give the same, and never more than was asked for."""

import bz2
import lzma
import random
import sys
from collections.abc import Iterator

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from update_agent.errors import FormatError
from update_agent.formats.compression import compress, decompress, decompress_chunks
from update_agent.formats.operations import OperationType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_TYPES = (OperationType.REPLACE_ZSTD, OperationType.REPLACE_XZ, OperationType.REPLACE_BZ, OperationType.REPLACE)
_HEAD_BYTES = 5
"""Type, limit (two bytes), length of chunks, length of pieces; then the blob."""


def _run(data: bytes) -> None:
    if len(data) < _HEAD_BYTES:
        return
    type_ = _TYPES[data[0] % len(_TYPES)]
    limit = int.from_bytes(data[1:3], "big")
    blob = data[_HEAD_BYTES:]
    whole = _whole(type_, blob, limit)
    for chunk_bytes, piece_bytes in ((1 + data[3], 1 + 16 * data[4]), (len(blob) or 1, 1 << 20), (1, 4096)):
        assert _in_pieces(type_, blob, limit, chunk_bytes, piece_bytes) == whole


def _whole(type_: OperationType, blob: bytes, limit: int) -> bytes | None:
    """The content, or None for what is refused."""
    try:
        content = decompress(type_, blob, limit)
    except FormatError:
        return None
    assert len(content) <= limit
    return content


def _in_pieces(type_: OperationType, blob: bytes, limit: int, chunk_bytes: int, piece_bytes: int) -> bytes | None:
    chunks = (blob[at : at + chunk_bytes] for at in range(0, len(blob), chunk_bytes))
    content = bytearray()
    try:
        for piece in decompress_chunks(type_, chunks, limit, piece_bytes):
            assert 1 <= len(piece) <= piece_bytes
            content += piece
            assert len(content) <= limit
    except FormatError:
        return None
    return bytes(content)


def _seeds() -> Iterator[bytes]:
    text = bytes(range(64)) * 40
    for number, type_ in enumerate(_TYPES):
        for content in (b"", b"x", text, bytes(5000)):
            blob = compress(type_, content, 1)
            for limit in (len(content), max(len(content) - 1, 0)):
                yield _input(number, limit, blob)
            yield _input(number, 60000, blob + blob)
            yield _input(number, 60000, blob[:-1])
    for zstd_blob in _zstd_frames(text):
        yield _input(0, 60000, zstd_blob)
    for check in (lzma.CHECK_CRC32, lzma.CHECK_SHA256):
        yield _input(1, 60000, lzma.compress(text, check=check, preset=0))
    yield _input(1, 60000, lzma.compress(text, format=lzma.FORMAT_ALONE))
    yield _input(2, 60000, bz2.compress(text * 9, 1))


def _zstd_frames(text: bytes) -> Iterator[bytes]:
    """What the builder does not make: unknown size, checksum, large window, skippable frames (RFC 8878, 3.1)."""
    parameter = zstd.CompressionParameter
    yield zstd.compress(text, options={parameter.checksum_flag: 1})
    yield zstd.compress(text, options={parameter.content_size_flag: 0})
    yield zstd.compress(text, options={parameter.window_log: 10, parameter.content_size_flag: 0})
    compressor = zstd.ZstdCompressor(options={parameter.window_log: 27, parameter.compression_level: 1})
    yield compressor.compress(text) + compressor.flush()
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    yield skippable
    yield skippable + zstd.compress(text)
    yield zstd.compress(text) + skippable
    yield b"\x28\xb5\x2f\xfd\x00\x58" + (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"z"
    yield b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"
    for window in (13 << 3, 13 << 3 | 1):
        yield b"\x28\xb5\x2f\xfd\x80" + bytes([window]) + b"\x01\x00\x00\x00" + b"\x09\x00\x00x"


def _input(number: int, limit: int, blob: bytes) -> bytes:
    return bytes([number]) + limit.to_bytes(2, "big") + b"\x10\x07" + blob


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    # The first bytes of a stream decide most.
    cut = _HEAD_BYTES + rng.choice((8, 16, 32))
    return mutate_bytes(data[:cut], rng) + data[cut:]


TARGETS = {"compression": Target(run=_run, seeds=_seeds, mutate=_mutate)}
