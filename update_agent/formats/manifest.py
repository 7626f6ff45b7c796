"""The manifest of a payload: bytes ⇄ a checked value.

The wire form is protobuf (`update_metadata.proto` beside this module). A `Manifest` that exists follows these rules:

- At most 16 MiB, and 4 MiB in major version 1, where nothing vouches for the manifest before it is parsed. At most
  131072 operations and 524288 extents. Both are counted before anything is allocated for them.
- The block size is a power of two from 512 to 65536 bytes.
- Major version 1 has the part `usr`, then one part for each procedure; major version 2 has `usr` and perhaps `kernel`.
  Each name is there once. Fields of the other major version, hash trees and FEC data are refused.
- Major version 1 knows the operation types 0 to 3; major version 2 all of `OperationType` but MOVE and BSDIFF.
- A part states size and hash of its new content; with SOURCE_COPY or SOURCE_BSDIFF also of the old. At most 2^50 bytes.
- Blobs follow each other from 0 on in the order of execution, with neither gap nor overlap. The signatures, 1 byte to
  64 KiB, follow the last one.
- REPLACE*, BSDIFF and SOURCE_BSDIFF have data and its hash; the others have no data. A hash has 32 bytes.
- Every operation has destination blocks. They lie inside of the new content, its last block counted whole; REPLACE* may
  reach less than 2 MiB beyond its end. No block is written twice, unless the part is made in place (MOVE, BSDIFF).
- Source blocks lie inside of the old content. MOVE and SOURCE_COPY read as many blocks as they write. The lengths in
  bytes that go with extents are not longer than these.
- A sparse hole stands for blocks in major version 1 only.
- A version is 1 to 256 printable ASCII characters, in major version 2 only.

Operations for old clients (`noop_operations`) and those of procedures that nobody knows are never applied: their
extents are not looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from update_agent.errors import FormatError, Kind
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest_rules import (
    MAX_EXTENTS,
    MAX_OPERATIONS,
    MAX_PARTS,
    MAX_SIGNATURES_BYTES,
    OPERATION_TYPES,
    check_blobs,
    check_block_size,
    check_noop_operations,
    check_parts,
    check_signatures,
    malformed,
)
from update_agent.formats.operations import (
    SPARSE_HOLE,
    ContentInfo,
    Extent,
    Operation,
    OperationType,
    Part,
    PartName,
)
from update_agent.formats.wire import Shape, check_counts

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_SIGNATURES_BYTES",
    "SPARSE_HOLE",
    "ContentInfo",
    "Extent",
    "Manifest",
    "Operation",
    "OperationType",
    "Part",
    "PartName",
]

MAX_MANIFEST_BYTES: Final = {1: 4 * 1024 * 1024, 2: 16 * 1024 * 1024}
"""By major version."""

# A real operation has eight fields and an extent two; the walk does not look into extents.
_MAX_FIELDS: Final = 16 * MAX_OPERATIONS

_EXTENTS: Final = Shape(name="extents", max_count=MAX_EXTENTS)
_OPERATIONS: Final = Shape(name="operations", max_count=MAX_OPERATIONS, children={4: _EXTENTS, 6: _EXTENTS})
_MANIFEST: Final = Shape(
    name="manifests",
    max_count=1,
    children={
        1: _OPERATIONS,
        2: _OPERATIONS,
        10: Shape(name="procedures", max_count=MAX_PARTS, children={2: _OPERATIONS}),
        13: Shape(name="partitions", max_count=MAX_PARTS, children={8: _OPERATIONS}),
    },
)

_FIELDS_OF_MAJOR: Final = {
    1: ("partition_operations", "noop_operations", "old_partition_info", "new_partition_info", "procedures"),
    2: ("partitions",),
}

_PROCEDURE_NAMES: Final = {0: PartName.KERNEL, 1: PartName.PCR_POLICY}
_PROCEDURE_TYPES: Final = {name: number for number, name in _PROCEDURE_NAMES.items()}
_PARTITION_NAMES: Final = {b"usr": PartName.USR, b"kernel": PartName.KERNEL}

# update_engine knows more than we do; the names are for the error message.
_OPERATION_NAMES: Final = {type_.value: type_.name for type_ in OperationType} | {
    9: "PUFFDIFF",
    10: "BROTLI_BSDIFF",
    11: "ZUCCHINI",
    12: "LZ4DIFF_BSDIFF",
    13: "LZ4DIFF_PUFFDIFF",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a payload changes; see the module for what holds.

    Attributes:
        major: version of the payload format, 1 or 2.
        block_size: bytes of the blocks that extents count.
        parts: in the order in which they are carried out.
        noop_operations: for clients of major version 1 that know no procedures; never carried out.
        signatures_offset: bytes from the first blob, None if the payload is not signed.
        signatures_size: bytes, None likewise.
        minor_version: of the delta format; 0 for a full payload.

    Raises:
        FormatError: manifest-malformed, operation-unknown, payload-version.
        VerificationError: operation-hash-missing.
    """

    major: int
    block_size: int = 4096
    parts: tuple[Part, ...]
    noop_operations: tuple[Operation, ...] = ()
    signatures_offset: int | None = None
    signatures_size: int | None = None
    minor_version: int = 0

    def __post_init__(self) -> None:
        _check_major(self.major)
        check_block_size(self.block_size)
        check_parts(self.parts, major=self.major, block_size=self.block_size)
        check_noop_operations(self.noop_operations, major=self.major)
        blob_bytes = check_blobs(self.parts, major=self.major)
        check_signatures(self.signatures_offset, self.signatures_size, blob_bytes=blob_bytes)

    @classmethod
    def from_bytes(cls, data: bytes, major: int) -> "Manifest":
        """Parse and check the manifest of a payload of version `major`.

        Raises:
            FormatError: manifest-malformed, operation-unknown, payload-version.
            VerificationError: operation-hash-missing.
        """
        _check_major(major)
        _check_bounds(data, major)
        try:
            message = pb2.Manifest.FromString(data)
        except DecodeError as error:
            raise malformed("not a protobuf message") from error
        _check_fields(message, major)
        return cls(
            major=major,
            block_size=message.block_size,
            parts=_parts_of_procedures(message) if major == 1 else _parts_of_partitions(message),
            noop_operations=_operations(message.noop_operations, major),
            signatures_offset=message.signatures_offset if message.HasField("signatures_offset") else None,
            signatures_size=message.signatures_size if message.HasField("signatures_size") else None,
            minor_version=message.minor_version,
        )

    def to_bytes(self) -> bytes:
        """The wire form, the same bytes for the same value.

        Raises:
            FormatError: manifest-malformed, if it would be too large to be read again.
        """
        message = pb2.Manifest(
            block_size=self.block_size,
            signatures_offset=self.signatures_offset,
            signatures_size=self.signatures_size,
            minor_version=self.minor_version or None,
        )
        message.noop_operations.extend(map(_operation_message, self.noop_operations))
        for part in self.parts:
            if self.major == 2:
                message.partitions.append(_partition_message(part))
            elif part.name is PartName.USR:
                message.partition_operations.extend(map(_operation_message, part.operations))
                _put_info(message.old_partition_info, part.old)
                _put_info(message.new_partition_info, part.new)
            else:
                message.procedures.append(_procedure_message(part))
        data = message.SerializeToString(deterministic=True)
        _check_bounds(data, self.major)
        return data

    def part(self, name: PartName) -> Part | None:
        """The part of that name, if the payload has one."""
        return next((part for part in self.parts if part.name is name), None)

    @property
    def version(self) -> str | None:
        """The signed version of the `usr` part; None in major version 1."""
        usr = self.part(PartName.USR)
        return None if usr is None else usr.version

    @property
    def blob_bytes(self) -> int:
        """Bytes of all blobs together, signatures left out."""
        return sum(operation.data_length for part in self.parts for operation in part.operations)


def _check_major(major: int) -> None:
    if major not in MAX_MANIFEST_BYTES:
        raise FormatError(Kind.PAYLOAD_VERSION, f"payload: expected major version 1 or 2, got {major}")


def _check_bounds(data: bytes, major: int) -> None:
    if len(data) > MAX_MANIFEST_BYTES[major]:
        raise malformed(f"expected at most {MAX_MANIFEST_BYTES[major]} bytes, got {len(data)}")
    check_counts(data, _MANIFEST, max_fields=_MAX_FIELDS, refuse=malformed)


def _check_fields(message: pb2.Manifest, major: int) -> None:
    foreign = _FIELDS_OF_MAJOR[3 - major]
    for descriptor, _ in message.ListFields():
        if descriptor.name in foreign:
            raise malformed(f"{descriptor.name} has no place in major version {major}")


def _parts_of_procedures(message: pb2.Manifest) -> tuple[Part, ...]:
    usr = Part(
        name=PartName.USR,
        operations=_operations(message.partition_operations, 1),
        old=_info(message.old_partition_info) if message.HasField("old_partition_info") else None,
        new=_info(message.new_partition_info) if message.HasField("new_partition_info") else None,
    )
    return (usr, *map(_part_of_procedure, message.procedures))


def _part_of_procedure(procedure: pb2.Procedure) -> Part:
    operations = _operations(procedure.operations, 1)
    name = _PROCEDURE_NAMES.get(procedure.type) if procedure.HasField("type") else None
    if name is None:
        return Part(name=PartName.IGNORED, operations=operations)
    return Part(
        name=name,
        operations=operations,
        old=_info(procedure.old_info) if procedure.HasField("old_info") else None,
        new=_info(procedure.new_info) if procedure.HasField("new_info") else None,
    )


def _parts_of_partitions(message: pb2.Manifest) -> tuple[Part, ...]:
    return tuple(map(_part_of_partition, message.partitions))


def _part_of_partition(partition: pb2.Partition) -> Part:
    name = _PARTITION_NAMES.get(partition.partition_name)
    if name is None:
        raise malformed(f"expected the partitions usr and kernel, got {partition.partition_name[:64]!r}")
    for what in ("hash_tree_extent", "fec_extent"):
        if partition.HasField(what):
            raise malformed(f"{name}: {what} is not supported")
    return Part(
        name=name,
        operations=_operations(partition.operations, 2),
        old=_info(partition.old_partition_info) if partition.HasField("old_partition_info") else None,
        new=_info(partition.new_partition_info) if partition.HasField("new_partition_info") else None,
        # What is not ASCII becomes a character that the check of versions refuses.
        version=partition.version.decode("ascii", "replace") if partition.HasField("version") else None,
    )


def _info(info: pb2.ContentInfo) -> ContentInfo:
    if not (info.HasField("size") and info.HasField("hash")):
        raise malformed("expected both size and hash of a content, got one")
    return ContentInfo(size_bytes=info.size, sha256=info.hash)


def _operations(operations: Iterable[pb2.Operation], major: int) -> tuple[Operation, ...]:
    types = OPERATION_TYPES[major]
    return tuple([_operation(operation, types.get(operation.type), major) for operation in operations])


def _operation(message: pb2.Operation, type_: OperationType | None, major: int) -> Operation:
    if type_ is None or not message.HasField("type"):
        raise _unknown_type(message, major)
    has = message.HasField
    return Operation(
        type=type_,
        data_offset=message.data_offset,
        data_length=message.data_length,
        src_extents=_extents(message.src_extents),
        src_length=message.src_length if has("src_length") else None,
        dst_extents=_extents(message.dst_extents),
        dst_length=message.dst_length if has("dst_length") else None,
        data_sha256=message.data_sha256_hash if has("data_sha256_hash") else None,
        src_sha256=message.src_sha256_hash if has("src_sha256_hash") else None,
    )


def _unknown_type(message: pb2.Operation, major: int) -> FormatError:
    if not message.HasField("type"):
        return malformed("expected an operation with a type, got none")
    number = message.type
    name = _OPERATION_NAMES.get(number, "unknown")
    return FormatError(
        Kind.OPERATION_UNKNOWN,
        f"manifest: operation type {number} ({name}) is not supported in major version {major}",
        hint="make the payload with operation types that this version of update-agent knows",
    )


def _extents(extents: Iterable[pb2.Extent]) -> tuple[Extent, ...]:
    return tuple([Extent(extent.start_block, extent.num_blocks) for extent in extents])


def _put_info(message: pb2.ContentInfo, info: ContentInfo | None) -> None:
    if info is not None:
        message.size, message.hash = info.size_bytes, info.sha256


def _procedure_message(part: Part) -> pb2.Procedure:
    message = pb2.Procedure(type=_PROCEDURE_TYPES.get(part.name), operations=map(_operation_message, part.operations))
    _put_info(message.old_info, part.old)
    _put_info(message.new_info, part.new)
    return message


def _partition_message(part: Part) -> pb2.Partition:
    message = pb2.Partition(
        partition_name=part.name.encode(),
        operations=map(_operation_message, part.operations),
        version=None if part.version is None else part.version.encode(),
    )
    _put_info(message.old_partition_info, part.old)
    _put_info(message.new_partition_info, part.new)
    return message


def _operation_message(operation: Operation) -> pb2.Operation:
    has_data = bool(operation.data_length)
    return pb2.Operation(
        type=operation.type,
        data_offset=operation.data_offset if has_data else operation.data_offset or None,
        data_length=operation.data_length if has_data else None,
        src_extents=map(_extent_message, operation.src_extents),
        src_length=operation.src_length,
        dst_extents=map(_extent_message, operation.dst_extents),
        dst_length=operation.dst_length,
        data_sha256_hash=operation.data_sha256,
        src_sha256_hash=operation.src_sha256,
    )


def _extent_message(extent: Extent) -> pb2.Extent:
    return pb2.Extent(start_block=extent.start_block, num_blocks=extent.num_blocks)
