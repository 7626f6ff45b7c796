"""The vocabulary of a manifest: parts, operations, extents.

Plain values without a wire form of their own; `update_agent.formats.manifest` reads, checks and writes them.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique
from typing import Final

SPARSE_HOLE: Final = 2**64 - 1
"""`Extent.start_block` of blocks that exist nowhere (major version 1): writes are dropped, reads give zeros."""


@unique
class OperationType(IntEnum):
    """How an operation makes its destination blocks; the numbers are update_engine's."""

    REPLACE = 0
    REPLACE_BZ = 1
    MOVE = 2
    BSDIFF = 3
    SOURCE_COPY = 4
    SOURCE_BSDIFF = 5
    ZERO = 6
    DISCARD = 7
    REPLACE_XZ = 8
    REPLACE_ZSTD = 14


@unique
class PartName(StrEnum):
    """What a part of a payload is written to."""

    USR = "usr"
    KERNEL = "kernel"
    PCR_POLICY = "pcr-policy"
    IGNORED = "ignored"
    """A procedure of a type that major version 1 does not define: its blobs are consumed, never applied."""


@dataclass(frozen=True, slots=True)
class Extent:
    """`num_blocks` blocks from `start_block` on, in blocks of the manifest's size."""

    start_block: int
    num_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One step.

    Attributes:
        data_offset: where the blob starts, in bytes from the first blob.
        data_length: bytes of the blob, 0 if there is none.
        src_length: bytes of the source that count, if the last block does not count whole.
        dst_length: bytes of the result that count, likewise.
        data_sha256: of the blob as it is stored.
        src_sha256: of the bytes under `src_extents`.
    """

    type: OperationType
    data_offset: int = 0
    data_length: int = 0
    src_extents: tuple[Extent, ...] = ()
    src_length: int | None = None
    dst_extents: tuple[Extent, ...] = ()
    dst_length: int | None = None
    data_sha256: bytes | None = None
    src_sha256: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentInfo:
    """How long the content of a slot or file is, and its SHA-256."""

    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """All that a payload says about one partition or file.

    Attributes:
        old: the content that delta operations start from, if the payload states it.
        new: the content after the last operation; None only for `PartName.IGNORED`.
        version: the release, signed with everything else (major version 2).
    """

    name: PartName
    operations: tuple[Operation, ...] = ()
    old: ContentInfo | None = None
    new: ContentInfo | None = None
    version: str | None = None
