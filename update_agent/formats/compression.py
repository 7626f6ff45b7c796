"""The compressed forms of an operation's blob, in bounded memory.

A blob is exactly one stream: what ends too early, goes on after its end, or grows beyond the stated limit is refused.
The only module that knows which library speaks zstd.
"""

import bz2
import lzma
import sys
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from update_agent.errors import FormatError, Kind
from update_agent.formats.operations import OperationType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Buffer = bytes | bytearray | memoryview
"""Bytes in any form. (`collections.abc.Buffer` needs Python 3.12.)"""

PIECE_BYTES: Final = 1024 * 1024

XZ_MEMORY_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""What a decoder may take for its dictionary; `xz -9` needs more, and gains nothing on a blob of 2 MiB."""

ZSTD_WINDOW_LOG_MAX: Final = 23
"""8 MiB, the most that every decoder has to offer (RFC 8878, 3.1.1.1.2)."""

ZSTD_LEVEL: Final = 19
BZ2_LEVEL: Final = 9
XZ_PRESET: Final = 6

_ZSTD_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SINGLE_SEGMENT: Final = 0x20
_ZSTD_HEADER_BYTES_MAX: Final = 18
"""Magic, descriptor, window, dictionary, content size (RFC 8878, 3.1.1)."""

# EOFError: data after the end of the stream. ValueError: bz2, zstd. MemoryError: a lying header.
_CORRUPT: Final = (OSError, EOFError, ValueError, MemoryError, lzma.LZMAError, zstd.ZstdError)


class _Decompressor(Protocol):
    """What the three libraries have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, /, max_length: int = -1) -> bytes: ...


def decompress(type_: OperationType, blob: Buffer, limit_bytes: int) -> bytes:
    """The content of `blob`, at most `limit_bytes`; allocates little more than that, whatever the blob says.

    Raises:
        FormatError: payload-malformed, if the blob is not one whole stream or holds more.
    """
    if type_ is OperationType.REPLACE:
        if len(blob) > limit_bytes:
            raise _too_long(type_, limit_bytes)
        return bytes(blob)
    decompressor = _decompressor(type_)
    most = limit_bytes + 1
    try:
        if type_ is OperationType.REPLACE_ZSTD:
            # Knowing the size, the library decompresses in one go into memory of that size.
            announced = zstd.get_frame_info(blob).decompressed_size
            most = most if announced is None else announced
            if most > limit_bytes + 1:
                raise _too_long(type_, limit_bytes)
            _check_window(blob, announced)
        content = decompressor.decompress(blob, most)
    except _CORRUPT as error:
        raise _corrupt(type_, str(error)) from error
    if len(content) > limit_bytes:
        raise _too_long(type_, limit_bytes)
    _check_end(type_, decompressor)
    return content


def decompress_chunks(
    type_: OperationType, chunks: Iterable[Buffer], limit_bytes: int, piece_bytes: int = PIECE_BYTES
) -> Iterator[bytes]:
    """The content of a blob that arrives in `chunks`, in pieces of 1 to `piece_bytes` bytes.

    The limit holds for all pieces together. Only after the last piece is it known that the stream was whole.

    Raises:
        FormatError: payload-malformed, as `decompress`; from the iterator.
    """
    pieces = _slices(chunks, piece_bytes) if type_ is OperationType.REPLACE else _stream(type_, chunks, piece_bytes)
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limit_bytes:
            raise _too_long(type_, limit_bytes)
        if piece:
            yield piece


def compress(type_: OperationType, data: Buffer, level: int | None = None) -> bytes:
    """One stream that `decompress` turns into `data`; the same bytes every time with the same library.

    Raises:
        FormatError: payload-malformed, if `type_` does not compress.
    """
    match type_:
        case OperationType.REPLACE:
            return bytes(data)
        case OperationType.REPLACE_BZ:
            return bz2.compress(data, BZ2_LEVEL if level is None else level)
        case OperationType.REPLACE_XZ:
            # The manifest has a SHA-256 of the blob; a second check inside only costs time and space.
            preset = XZ_PRESET if level is None else level
            return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=preset)
        case OperationType.REPLACE_ZSTD:
            return zstd.compress(data, ZSTD_LEVEL if level is None else level)
        case _:
            raise _corrupt(type_, "an operation of this type has no compressed data")


def _decompressor(type_: OperationType) -> _Decompressor:
    match type_:
        case OperationType.REPLACE_BZ:
            return bz2.BZ2Decompressor()
        case OperationType.REPLACE_XZ:
            return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT_BYTES)
        case OperationType.REPLACE_ZSTD:
            return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        case _:
            raise _corrupt(type_, "an operation of this type has no compressed data")


def _slices(chunks: Iterable[Buffer], piece_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), piece_bytes):
            yield bytes(chunk[start : start + piece_bytes])


def _stream(type_: OperationType, chunks: Iterable[Buffer], piece_bytes: int) -> Iterator[bytes]:
    decompressor = _decompressor(type_)
    head = b""
    total = 0
    for chunk in _first_byte_alone(chunks):
        head += bytes(chunk[: _ZSTD_HEADER_BYTES_MAX - len(head)])
        data = chunk
        while True:
            try:
                piece = decompressor.decompress(data, piece_bytes)
            except _CORRUPT as error:
                raise _corrupt(type_, str(error)) from error
            total += len(piece)
            yield piece
            data = b""
            if decompressor.eof or decompressor.needs_input:
                break
    _check_end(type_, decompressor)
    if type_ is OperationType.REPLACE_ZSTD:
        _check_announced(head, total)


def _first_byte_alone(chunks: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes without empty chunks, cut so that zstd never sees a whole frame at once.

    If it did, it would not look at the window, and whether a blob is accepted would depend on how it arrives.
    """
    is_first = True
    for chunk in chunks:
        if is_first and len(chunk) > 1:
            yield chunk[:1]
            yield chunk[1:]
        elif len(chunk):
            yield chunk
        is_first = is_first and not len(chunk)


def _check_window(frame: Buffer, content_bytes: int | None) -> None:
    """Refuse a window that `decompress_chunks` would refuse (RFC 8878, 3.1.1.1.1 and 3.1.1.1.2)."""
    if frame[:4] != _ZSTD_MAGIC:
        return
    if frame[4] & _ZSTD_SINGLE_SEGMENT:
        window_bytes = content_bytes or 0
    else:
        base = 1 << (10 + (frame[5] >> 3))
        window_bytes = base + (base >> 3) * (frame[5] & 7)
    if window_bytes > 1 << ZSTD_WINDOW_LOG_MAX:
        raise _corrupt(OperationType.REPLACE_ZSTD, f"expected a window of at most 8 MiB, got {window_bytes} bytes")


def _check_announced(head: bytes, content_bytes: int) -> None:
    """Refuse less than what the header says: the library looks only when the last block of a stream holds something."""
    announced = zstd.get_frame_info(head).decompressed_size
    if announced is not None and announced != content_bytes:
        raise _corrupt(OperationType.REPLACE_ZSTD, f"expected {announced} bytes of content, got {content_bytes}")


def _check_end(type_: OperationType, decompressor: _Decompressor) -> None:
    if not decompressor.eof:
        raise _corrupt(type_, "the stream ends early")
    if decompressor.unused_data:
        raise _corrupt(type_, f"expected one stream, got {len(decompressor.unused_data)} bytes after its end")


def _too_long(type_: OperationType, limit_bytes: int) -> FormatError:
    return FormatError(
        Kind.PAYLOAD_MALFORMED, f"{type_.name} data: expected at most {limit_bytes} bytes of content, got more"
    )


def _corrupt(type_: OperationType, what: str) -> FormatError:
    return FormatError(Kind.PAYLOAD_MALFORMED, f"{type_.name} data: {what}")
