"""One operation, carried out on its extents.

Owns what each operation type means for the target's bytes. Order, checkpoints and threads are the pipeline's business;
operations that do not touch each other's blocks may be applied at the same time.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from update_agent.domain.extents import ExtentReader, ExtentWriter, are_overlapping, count_bytes
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats.bsdiff import apply_patch
from update_agent.formats.compression import decompress, decompress_chunks
from update_agent.formats.manifest import Operation, OperationType, Part
from update_agent.host.blockdev import BlockDevice
from update_agent.host.spool import MEMORY_BLOB_BYTES_MAX, Blob, SpooledBlob

PIECE_BYTES: Final = 1024 * 1024
"""What is read, decompressed or written at a time where an operation is larger than memory should be."""

_SLOW_TYPES: Final = frozenset({OperationType.REPLACE_BZ, OperationType.REPLACE_XZ})
"""Decompressing them takes so long that smaller writes cost nothing, and their decompressors need the memory."""

_SLOW_PIECE_BYTES: Final = 256 * 1024

IN_PLACE: Final = frozenset({OperationType.MOVE, OperationType.BSDIFF})
"""Types that read what they overwrite: the target holds a copy of the old content (major version 1)."""

FROM_SOURCE: Final = frozenset({OperationType.SOURCE_COPY, OperationType.SOURCE_BSDIFF})
"""Types that read the other slot (major version 2)."""


def is_delta(part: Part) -> bool:
    """Whether the part can only be applied to a machine that has the old content."""
    return any(operation.type in IN_PLACE | FROM_SOURCE for operation in part.operations)


def has_in_place(part: Part) -> bool:
    """Whether the order of the part's operations matters."""
    return any(operation.type in IN_PLACE for operation in part.operations)


def overwrites_its_source(operation: Operation) -> bool:
    """Whether carrying it out twice gives something else than once."""
    return operation.type in IN_PLACE and are_overlapping(operation.src_extents, operation.dst_extents)


def iterate_blob(blob: Blob) -> Iterator[bytes]:
    """The blob in pieces of at most `PIECE_BYTES`."""
    for start in range(0, blob.size_bytes, PIECE_BYTES):
        yield blob.read_at(start, PIECE_BYTES)


def verify_blob(operation: Operation, blob: Blob, name: str) -> None:
    """Compare the blob with the hash that the manifest states.

    Raises:
        VerificationError: operation-hash.
    """
    if operation.data_sha256 is None:
        return
    found = hashlib.sha256()
    for piece in iterate_blob(blob):
        found.update(piece)
    if found.digest() != operation.data_sha256:
        raise VerificationError(
            Kind.OPERATION_HASH,
            f"{name}: expected data with SHA-256 {operation.data_sha256.hex()}, got {found.hexdigest()}",
            hint="the payload was damaged on its way; try again, or get it from elsewhere",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartApplier:
    """Carries out the operations of one part on its target.

    Attributes:
        target: where the part goes; large enough for its extents.
        source: the old content for SOURCE_* operations, or None for a full payload.
        block_size: bytes per block of the extents.
        spool_folder: where the result of an operation that overwrites its own source waits.
    """

    target: BlockDevice
    source: BlockDevice | None
    block_size: int
    spool_folder: Path
    _handlers: Mapping[OperationType, Callable[[Operation, Blob], None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Give every type its handler once."""
        handlers = dict.fromkeys(
            (OperationType.REPLACE, OperationType.REPLACE_BZ, OperationType.REPLACE_XZ, OperationType.REPLACE_ZSTD),
            self._replace,
        ) | {
            OperationType.ZERO: self._zero,
            OperationType.DISCARD: self._zero,  # a discarded block may read as anything; the hash wants zeros
            OperationType.MOVE: self._in_place,
            OperationType.BSDIFF: self._in_place,
            OperationType.SOURCE_COPY: self._from_source,
            OperationType.SOURCE_BSDIFF: self._from_source,
        }
        object.__setattr__(self, "_handlers", handlers)

    def apply(self, operation: Operation, blob: Blob) -> None:
        """Write the operation's result to the target; durable only after the target's flush.

        Raises:
            FormatError: payload-malformed, when the blob is not what its type says.
            VerificationError: source-hash.
            InstallError: operation-failed.
            DeviceError: from the devices.
        """
        self._handlers[operation.type](operation, blob)

    def _writer(self, operation: Operation) -> ExtentWriter:
        return ExtentWriter(self.target, operation.dst_extents, self.block_size)

    def _write_all(self, operation: Operation, pieces: Iterator[bytes]) -> None:
        writer = self._writer(operation)
        for piece in pieces:
            writer.write(piece)
        writer.finish()

    def _replace(self, operation: Operation, blob: Blob) -> None:
        room = count_bytes(operation.dst_extents, self.block_size)
        is_small = max(blob.size_bytes, room) <= MEMORY_BLOB_BYTES_MAX
        if is_small and operation.type not in _SLOW_TYPES:
            data = decompress(operation.type, blob.read_at(0, blob.size_bytes), room)
            self._write_all(operation, iter((data,)))
        else:
            self._write_all(operation, decompress_chunks(operation.type, iterate_blob(blob), room, _SLOW_PIECE_BYTES))

    def _zero(self, operation: Operation, _: Blob) -> None:
        left = count_bytes(operation.dst_extents, self.block_size)
        self._write_all(operation, (bytes(min(PIECE_BYTES, left - start)) for start in range(0, left, PIECE_BYTES)))

    def _from_source(self, operation: Operation, blob: Blob) -> None:
        if self.source is None:
            raise FormatError(Kind.PAYLOAD_MALFORMED, f"operation {operation.type.name}: there is no source to read")
        reader = ExtentReader(self.source, operation.src_extents, self.block_size, operation.src_length)
        _verify_source(operation, reader)
        self._write_all(operation, self._transform(operation, reader, blob))

    def _in_place(self, operation: Operation, blob: Blob) -> None:
        reader = ExtentReader(self.target, operation.src_extents, self.block_size, operation.src_length)
        _verify_source(operation, reader)
        result = self._transform(operation, reader, blob)
        if not overwrites_its_source(operation):
            self._write_all(operation, result)
            return
        spool = SpooledBlob(self.spool_folder)
        try:
            for piece in result:
                spool.append(piece)
            self._write_all(operation, iterate_blob(spool))
        finally:
            spool.close()

    def _transform(self, operation: Operation, reader: ExtentReader, blob: Blob) -> Iterator[bytes]:
        if operation.type in {OperationType.MOVE, OperationType.SOURCE_COPY}:
            return _read_pieces(reader)
        room = count_bytes(operation.dst_extents, self.block_size)
        return apply_patch(
            read_patch=blob.read_at,
            patch_bytes=blob.size_bytes,
            read_old=reader.read_at,
            old_bytes=reader.size_bytes,
            new_bytes_max=room if operation.dst_length is None else min(operation.dst_length, room),
        )


def _read_pieces(reader: ExtentReader) -> Iterator[bytes]:
    for start in range(0, reader.size_bytes, PIECE_BYTES):
        yield reader.read_at(start, PIECE_BYTES)


def _verify_source(operation: Operation, reader: ExtentReader) -> None:
    if operation.src_sha256 is None:
        return
    found = hashlib.sha256()
    for piece in _read_pieces(reader):
        found.update(piece)
    if found.digest() != operation.src_sha256:
        raise VerificationError(
            Kind.SOURCE_HASH,
            f"operation {operation.type.name}: expected source data with SHA-256 {operation.src_sha256.hex()}, "
            f"got {found.hexdigest()}",
            hint="the slot that runs was changed, or the delta is for another release; install a full payload",
        )
