"""BSDIFF40 patches, applied as a stream.

Format (Colin Percival's bsdiff 4): 32 bytes of header - magic, length of the control block, length of the diff block,
length of the new file - then three bzip2 streams: control, diff, extra. Numbers are 64-bit little endian, sign and
magnitude. Each control triple says: add so many bytes of diff to the old file, copy so many bytes of extra, then move
the position in the old file. Bytes outside of the old file count as zero.
"""

import bz2
import functools
from collections.abc import Callable, Iterator
from typing import Final

from update_agent.errors import FormatError, Kind

MAGIC: Final = b"BSDIFF40"
HEADER_BYTES: Final = 32

_PIECE_BYTES: Final = 64 * 1024
_TRIPLE_BYTES: Final = 24
_SPARE_TRIPLES: Final = 16
"""How many triples there may be beyond one for each byte of the new file. bsdiff looks at least one byte further each
time, but many of its triples may produce nothing; an endless run of those is an attack."""

ReadAt = Callable[[int, int], bytes]
"""Called with (offset, length), gives exactly that many bytes; the caller never asks beyond the end."""


def apply_patch(
    *, read_patch: ReadAt, patch_bytes: int, read_old: ReadAt, old_bytes: int, new_bytes_max: int
) -> Iterator[bytes]:
    """Yield the new file in pieces of at most 64 KiB; memory does not depend on the sizes.

    Args:
        read_patch: random access to the patch.
        patch_bytes: length of the patch.
        read_old: random access to the old file.
        old_bytes: length of the old file.
        new_bytes_max: refuse a patch whose result is longer.

    Raises:
        FormatError: payload-malformed.
    """
    control_bytes, diff_bytes, new_bytes = _parse_header(read_patch, patch_bytes)
    if new_bytes > new_bytes_max:
        raise _malformed(f"expected at most {new_bytes_max} bytes of result, got {new_bytes}")
    diff_start = HEADER_BYTES + control_bytes
    extra_start = diff_start + diff_bytes
    control = _Bz2Reader(read_patch, HEADER_BYTES, diff_start)
    diff = _Bz2Reader(read_patch, diff_start, extra_start)
    extra = _Bz2Reader(read_patch, extra_start, patch_bytes)
    done = position = triples = 0
    while done < new_bytes:
        add, copy, seek = _parse_triple(control.read(_TRIPLE_BYTES))
        triples += 1
        if add < 0 or copy < 0 or add + copy > new_bytes - done or triples > new_bytes + _SPARE_TRIPLES:
            raise _malformed(f"control triple {add}, {copy}, {seek} at byte {done} of {new_bytes}")
        for start in range(0, add, _PIECE_BYTES):
            length = min(_PIECE_BYTES, add - start)
            yield _add(diff.read(length), _read_clipped(read_old, old_bytes, position + start, length))
        for start in range(0, copy, _PIECE_BYTES):
            yield extra.read(min(_PIECE_BYTES, copy - start))
        done += add + copy
        position += add + seek


def _malformed(what: str) -> FormatError:
    return FormatError(Kind.PAYLOAD_MALFORMED, f"bsdiff patch: {what}")


def _parse_header(read_patch: ReadAt, patch_bytes: int) -> tuple[int, int, int]:
    if patch_bytes < HEADER_BYTES:
        raise _malformed(f"expected at least {HEADER_BYTES} bytes, got {patch_bytes}")
    header = read_patch(0, HEADER_BYTES)
    if header[:8] != MAGIC:
        raise _malformed(f"expected magic {MAGIC!r}, got {header[:8]!r}")
    control_bytes, diff_bytes, new_bytes = (_parse_number(header[i : i + 8]) for i in (8, 16, 24))
    if min(control_bytes, diff_bytes, new_bytes) < 0 or HEADER_BYTES + control_bytes + diff_bytes > patch_bytes:
        raise _malformed(f"blocks of {control_bytes} and {diff_bytes} bytes in a patch of {patch_bytes} bytes")
    return control_bytes, diff_bytes, new_bytes


def _parse_number(data: bytes) -> int:
    raw = int.from_bytes(data, "little")
    magnitude = raw & (1 << 63) - 1
    return -magnitude if raw >> 63 else magnitude


def _parse_triple(data: bytes) -> tuple[int, int, int]:
    return _parse_number(data[:8]), _parse_number(data[8:16]), _parse_number(data[16:24])


def _read_clipped(read_old: ReadAt, old_bytes: int, position: int, length: int) -> bytes:
    start = min(max(position, 0), old_bytes)
    end = min(max(position + length, 0), old_bytes)
    before = min(max(-position, 0), length)
    inside = read_old(start, end - start) if end > start else b""
    return (bytes(before) + inside).ljust(length, b"\0")


@functools.lru_cache(maxsize=2)
def _low_bits(length: int) -> int:
    return int.from_bytes(b"\x7f" * length, "little")


def _add(left: bytes, right: bytes) -> bytes:
    """Byte-wise sum modulo 256, as one big number: the low seven bits cannot carry over, the eighth is a xor."""
    length = len(left)
    low = _low_bits(length)
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a & low) + (b & low)) ^ ((a ^ b) & (low ^ (1 << 8 * length) - 1))).to_bytes(length, "little")


class _Bz2Reader:
    """Exact reads from a bzip2 stream that lies within the patch."""

    def __init__(self, read_patch: ReadAt, start: int, end: int) -> None:
        self._read_patch = read_patch
        self._next = start
        self._end = end
        self._decompressor = bz2.BZ2Decompressor()
        self._buffer = bytearray()

    def read(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._fill()
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _fill(self) -> None:
        feed = b""
        if self._decompressor.needs_input:
            feed = self._read_patch(self._next, min(_PIECE_BYTES, self._end - self._next))
            self._next += len(feed)
            if not feed:
                raise _malformed("a compressed block ends too early")
        try:
            self._buffer += self._decompressor.decompress(feed, _PIECE_BYTES)
        except (OSError, EOFError) as error:
            raise _malformed("a compressed block is corrupt or ends too early") from error
