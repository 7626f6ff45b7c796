"""One piece of an image becomes one operation and its blob.

Owns the choice of the operation's type. Pure but for reads of the old image; called from many threads at once.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto, unique
from typing import Final

from update_agent.domain.extents import ExtentReader
from update_agent.errors import ConfigurationError, DeviceError, Kind
from update_agent.formats.compression import compress
from update_agent.formats.manifest import Extent, Operation, OperationType
from update_agent.host.blockdev import BlockDevice

BLOCK_BYTES: Final = 4096
"""Unit of every extent; update_engine's generator writes no other."""

CHUNK_BYTES: Final = 1024 * 1024
"""Input of one operation. Measured on a 512 MiB image: 256 KiB costs 6 % more download and 13 % more time; 2 MiB saves
3.5 % and doubles what a node holds in memory. It is what update_engine's generator writes too."""

CHUNK_BLOCKS: Final = CHUNK_BYTES // BLOCK_BYTES

_PATCH_EXTRA_BYTES: Final = 64
"""What a patch costs in the manifest beyond a replacement: hash of the source, two lengths."""

_EXTENT_BYTES: Final = 12
"""Typical size of one extent in the manifest."""

MakePatch = Callable[[bytes, bytes], bytes]
"""Old and new bytes to a BSDIFF40 patch."""


@unique
class Compression(StrEnum):
    """How blobs are packed, in the words of the command line."""

    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"
    NONE = "none"


_OPERATION_TYPES: Final = {
    Compression.ZSTD: OperationType.REPLACE_ZSTD,
    Compression.XZ: OperationType.REPLACE_XZ,
    Compression.BZIP2: OperationType.REPLACE_BZ,
    Compression.NONE: OperationType.REPLACE,
}


class PieceKind(Enum):
    """What may be done with a piece."""

    WHOLE = auto()  # replace, or zero
    COPY = auto()  # the same bytes are in the old image
    PATCH = auto()  # similar bytes are in the old image


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A range of the new image that becomes one operation.

    Attributes:
        start_block: where it starts.
        num_blocks: how many blocks the operation names.
        length_bytes: how many bytes of the image it covers; less than the blocks only at the end of an image.
        kind: what may be done with it.
        source: where its bytes, or similar ones, are in the old image.
    """

    start_block: int
    num_blocks: int
    length_bytes: int
    kind: PieceKind = PieceKind.WHOLE
    source: tuple[Extent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An operation whose `data_offset` is not known yet, and its blob."""

    operation: Operation
    blob: bytes


def whole_pieces(size_bytes: int, *, fill_last: bool) -> Iterator[Piece]:
    """Cut an image into chunks.

    Args:
        size_bytes: length of the image.
        fill_last: give a short last chunk the blocks of a full one, as major version 1 does.
    """
    for offset in range(0, size_bytes, CHUNK_BYTES):
        length = min(CHUNK_BYTES, size_bytes - offset)
        yield Piece(
            start_block=offset // BLOCK_BYTES,
            num_blocks=CHUNK_BLOCKS if fill_last else -(-length // BLOCK_BYTES),
            length_bytes=length,
        )


def load_bsdiff() -> MakePatch:
    """Import the optional patch maker.

    Raises:
        ConfigurationError: configuration, when it is not installed.
    """
    try:
        import bsdiff4
    except ImportError as error:
        raise ConfigurationError(
            Kind.CONFIGURATION,
            "delta: expected the Python package bsdiff4, found none",
            hint="install update-agent[build], or leave the source image out to build a full payload",
        ) from error
    make_patch: MakePatch = bsdiff4.diff
    return make_patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Turns pieces into operations.

    Attributes:
        compression: how blobs are packed.
        level: of the compression; None for its default.
        has_zero: whether the payload's version knows ZERO.
        old: the old image; None for a full payload.
        make_patch: makes patches; None when there is no old image.
    """

    compression: Compression
    level: int | None
    has_zero: bool
    old: BlockDevice | None = None
    make_patch: MakePatch | None = None

    def encode(self, piece: Piece, data: bytes) -> Encoded:
        """Choose the cheapest operation that gives `data`.

        Raises:
            DeviceError: device-io, when an image cannot be read or changed since it was planned.
        """
        if self.old is None or self.make_patch is None or piece.kind is PieceKind.WHOLE:
            return self._whole(piece, data)
        old = _gather(self.old, piece.source)
        if piece.kind is PieceKind.COPY:
            return _copy(piece, data, old)
        whole = self._whole(piece, data)
        limit_bytes = len(whole.blob) - _PATCH_EXTRA_BYTES - _EXTENT_BYTES * len(piece.source)
        if limit_bytes <= 0:
            return whole
        patch = self.make_patch(old, data)
        return _patched(piece, data, old, patch) if len(patch) < limit_bytes else whole

    def _whole(self, piece: Piece, data: bytes) -> Encoded:
        if self.has_zero and data == bytes(len(data)):
            return Encoded(operation=Operation(type=OperationType.ZERO, dst_extents=_destination(piece)), blob=b"")
        kind, blob = OperationType.REPLACE, data
        if self.compression is not Compression.NONE:
            packed = compress(_OPERATION_TYPES[self.compression], data, self.level)
            if len(packed) < len(data):
                kind, blob = _OPERATION_TYPES[self.compression], packed
        operation = Operation(
            type=kind,
            data_length=len(blob),
            dst_extents=_destination(piece),
            data_sha256=hashlib.sha256(blob).digest(),
        )
        return Encoded(operation=operation, blob=blob)


def _destination(piece: Piece) -> tuple[Extent]:
    return (Extent(start_block=piece.start_block, num_blocks=piece.num_blocks),)


def _gather(device: BlockDevice, extents: Sequence[Extent]) -> bytes:
    reader = ExtentReader(device, extents, BLOCK_BYTES, None)
    return reader.read_at(0, reader.size_bytes)


def _copy(piece: Piece, data: bytes, old: bytes) -> Encoded:
    if old != data:
        raise DeviceError(
            Kind.DEVICE_IO,
            f"delta: block {piece.start_block}: an image changed while it was read",
            hint="build from images that nobody writes to",
        )
    operation = Operation(
        type=OperationType.SOURCE_COPY,
        src_extents=piece.source,
        dst_extents=_destination(piece),
        src_sha256=hashlib.sha256(old).digest(),
    )
    return Encoded(operation=operation, blob=b"")


def _patched(piece: Piece, data: bytes, old: bytes, patch: bytes) -> Encoded:
    operation = Operation(
        type=OperationType.SOURCE_BSDIFF,
        data_length=len(patch),
        src_extents=piece.source,
        src_length=len(old),
        dst_extents=_destination(piece),
        dst_length=len(data),
        data_sha256=hashlib.sha256(patch).digest(),
        src_sha256=hashlib.sha256(old).digest(),
    )
    return Encoded(operation=operation, blob=patch)
