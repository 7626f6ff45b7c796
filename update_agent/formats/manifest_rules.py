"""What holds for every manifest, whoever made it. `update_agent.formats.manifest` lists the rules."""

from collections.abc import Iterable, Sequence
from typing import Final

from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats.operations import SPARSE_HOLE, ContentInfo, Extent, Operation, OperationType, Part, PartName

MAX_OPERATIONS: Final = 131072
"""Of all parts: 256 GiB in operations of 2 MiB."""

MAX_EXTENTS: Final = 4 * MAX_OPERATIONS
"""Of all operations, source and destination."""

MAX_PARTS: Final = 16
MAX_PART_BYTES: Final = 2**50
MAX_BLOCK_BYTES: Final = 65536
MAX_SIGNATURES_BYTES: Final = 65536
MAX_VERSION_CHARS: Final = 256

MAX_OVERHANG_BYTES: Final = 2 * 1024 * 1024
"""A generator may give the last operation a whole chunk of blocks, of which the content fills only the start."""

SHA256_BYTES: Final = 32

_MIN_BLOCK_BYTES: Final = 512

# data_offset and data_length are uint32 in major version 1.
_MAX_BLOB_BYTES: Final = {1: 2**32 - 1, 2: MAX_PART_BYTES}

_REPLACE: Final = frozenset(
    {OperationType.REPLACE, OperationType.REPLACE_BZ, OperationType.REPLACE_XZ, OperationType.REPLACE_ZSTD}
)
_WITH_DATA: Final = _REPLACE | {OperationType.BSDIFF, OperationType.SOURCE_BSDIFF}
_COPIES: Final = frozenset({OperationType.MOVE, OperationType.SOURCE_COPY})
_IN_PLACE: Final = frozenset({OperationType.MOVE, OperationType.BSDIFF})
_FROM_OLD_SLOT: Final = frozenset({OperationType.SOURCE_COPY, OperationType.SOURCE_BSDIFF})

OPERATION_TYPES: Final = {
    1: {type_.value: type_ for type_ in OperationType if type_ <= OperationType.BSDIFF},
    2: {type_.value: type_ for type_ in OperationType if type_ not in _IN_PLACE},
}
"""By major version: the operation types it may use, by number."""

_PART_NAMES: Final = {1: frozenset(PartName), 2: frozenset({PartName.USR, PartName.KERNEL})}


def malformed(what: str) -> FormatError:
    """The error for a manifest that breaks a rule."""
    return FormatError(Kind.MANIFEST_MALFORMED, f"manifest: {what}")


def check_block_size(block_size: int) -> None:
    """512 to 65536 bytes, a power of two.

    Raises:
        FormatError: manifest-malformed.
    """
    if not _MIN_BLOCK_BYTES <= block_size <= MAX_BLOCK_BYTES or block_size & (block_size - 1):
        raise malformed(f"block size: expected a power of two from 512 to 65536, got {block_size}")


def check_parts(parts: Sequence[Part], *, major: int, block_size: int) -> None:
    """Every rule about parts and their operations, but for where the blobs lie.

    Raises:
        FormatError: manifest-malformed, operation-unknown.
        VerificationError: operation-hash-missing.
    """
    names = [part.name for part in parts if part.name is not PartName.IGNORED]
    if PartName.USR not in names:
        raise malformed("expected a part usr, got none")
    if len(set(names)) < len(names):
        raise malformed(f"expected each part once, got {', '.join(names)}")
    for part in parts:
        if part.name not in _PART_NAMES[major]:
            raise malformed(f"a part {part.name} has no place in major version {major}")
        _PartCheck(part, major=major, block_size=block_size).run()


def check_noop_operations(operations: Sequence[Operation], *, major: int) -> None:
    """Only major version 1 has them; nobody carries them out, so little needs to hold.

    Raises:
        FormatError: manifest-malformed, operation-unknown.
    """
    if operations and major != 1:
        raise malformed(f"noop operations have no place in major version {major}")
    for number, operation in enumerate(operations):
        _check_type("noop", number, operation, major)
        _check_hashes("noop", number, operation)


def check_blobs(parts: Iterable[Part], *, major: int) -> int:
    """Blobs follow each other in the order of execution, from 0 on, without gaps; returns their total bytes.

    Raises:
        FormatError: manifest-malformed.
    """
    position = 0
    for part in parts:
        for number, operation in enumerate(part.operations):
            if not operation.data_length:
                continue
            if operation.data_offset != position:
                raise malformed(
                    f"{part.name} operation {number}: expected its blob at {position}, got {operation.data_offset}"
                )
            position += operation.data_length
    if position > _MAX_BLOB_BYTES[major]:
        raise malformed(f"blobs: expected at most {_MAX_BLOB_BYTES[major]} bytes, got {position}")
    return position


def check_signatures(offset: int | None, size_bytes: int | None, *, blob_bytes: int) -> None:
    """The signatures, if announced, follow the last blob.

    Raises:
        FormatError: manifest-malformed.
    """
    if offset is None and size_bytes is None:
        return
    if offset is None or size_bytes is None:
        raise malformed("signatures: expected both offset and size, got one")
    if offset != blob_bytes:
        raise malformed(f"signatures: expected offset {blob_bytes}, got {offset}")
    if not 1 <= size_bytes <= MAX_SIGNATURES_BYTES:
        raise malformed(f"signatures: expected 1 to {MAX_SIGNATURES_BYTES} bytes, got {size_bytes}")


class _PartCheck:
    """The rules of one part."""

    def __init__(self, part: Part, *, major: int, block_size: int) -> None:
        self._part = part
        self._major = major
        self._block_size = block_size

    def run(self) -> None:
        """Check everything."""
        part = self._part
        self._info("old", part.old)
        self._info("new", part.new)
        self._version()
        if part.name is PartName.IGNORED:
            for number, operation in enumerate(part.operations):
                self._data(number, operation)
            return
        if part.new is None:
            raise malformed(f"{part.name}: expected size and hash of the new content, got none")
        dst_blocks = self._blocks(part.new.size_bytes)
        overhang_blocks = -(-(part.new.size_bytes + MAX_OVERHANG_BYTES) // self._block_size) - 1
        src_blocks = self._blocks(MAX_PART_BYTES if part.old is None else part.old.size_bytes)
        for number, operation in enumerate(part.operations):
            self._data(number, operation)
            limit = overhang_blocks if operation.type in _REPLACE else dst_blocks
            self._extents(number, operation, dst_limit=limit, src_limit=src_blocks)
        self._overlaps()

    def _blocks(self, size_bytes: int) -> int:
        return -(-size_bytes // self._block_size)

    def _refuse(self, number: int, what: str) -> FormatError:
        return malformed(f"{self._part.name} operation {number}: {what}")

    def _info(self, what: str, info: ContentInfo | None) -> None:
        if info is None:
            return
        if not 0 <= info.size_bytes <= MAX_PART_BYTES:
            raise malformed(f"{self._part.name}: {what} size: expected at most 2^50 bytes, got {info.size_bytes}")
        if len(info.sha256) != SHA256_BYTES:
            raise malformed(f"{self._part.name}: {what} hash: expected 32 bytes, got {len(info.sha256)}")

    def _version(self) -> None:
        version = self._part.version
        if version is None:
            return
        if self._major == 1:
            raise malformed(f"{self._part.name}: major version 1 has no place for a release version")
        if not (1 <= len(version) <= MAX_VERSION_CHARS and version.isascii() and version.isprintable()):
            raise malformed(
                f"{self._part.name}: version: expected 1 to {MAX_VERSION_CHARS} printable ASCII characters, "
                f"got {version[:MAX_VERSION_CHARS]!r}"
            )

    def _data(self, number: int, operation: Operation) -> None:
        _check_type(self._part.name, number, operation, self._major)
        _check_hashes(self._part.name, number, operation)
        if operation.type in _WITH_DATA:
            if operation.data_length <= 0:
                raise self._refuse(number, f"{operation.type.name}: expected data, got none")
            if operation.data_sha256 is None:
                raise VerificationError(
                    Kind.OPERATION_HASH_MISSING,
                    f"manifest: {self._part.name} operation {number}: expected the hash of its data, got none",
                )
        elif operation.data_length:
            raise self._refuse(number, f"{operation.type.name}: expected no data, got {operation.data_length} bytes")
        if operation.type in _FROM_OLD_SLOT and self._part.old is None:
            raise self._refuse(number, f"{operation.type.name}: expected size and hash of the old content, got none")

    def _extents(self, number: int, operation: Operation, *, dst_limit: int, src_limit: int) -> None:
        dst = self._sum(number, operation.dst_extents, dst_limit)
        if not dst:
            raise self._refuse(number, "expected destination blocks, got none")
        src = self._sum(number, operation.src_extents, src_limit)
        if operation.type in _COPIES and src != dst:
            raise self._refuse(
                number, f"{operation.type.name}: expected as many source as destination blocks, got {src} and {dst}"
            )
        for what, length, blocks in (("source", operation.src_length, src), ("result", operation.dst_length, dst)):
            if length is not None and not 0 <= length <= blocks * self._block_size:
                raise self._refuse(number, f"{what}: expected at most {blocks} blocks, got {length} bytes")

    def _sum(self, number: int, extents: Iterable[Extent], limit: int) -> int:
        blocks = 0
        for extent in extents:
            if extent.num_blocks <= 0 or extent.start_block < 0:
                raise self._refuse(number, f"expected an extent with blocks, got {extent.num_blocks}")
            if extent.start_block == SPARSE_HOLE and self._major == 1:
                end = extent.num_blocks
            else:
                end = extent.start_block + extent.num_blocks
            if end > limit:
                raise self._refuse(number, f"expected extents within {limit} blocks, got one that ends at {end}")
            blocks += extent.num_blocks
        return blocks

    def _overlaps(self) -> None:
        operations = self._part.operations
        # In place, an operation may have to use a block as a parking space that a later one fills for good.
        if any(operation.type in _IN_PLACE for operation in operations):
            return
        extents = [extent for operation in operations for extent in operation.dst_extents]
        spans = sorted(
            (extent.start_block, extent.num_blocks) for extent in extents if extent.start_block != SPARSE_HOLE
        )
        end = 0
        for start, blocks in spans:
            if start < end:
                raise malformed(f"{self._part.name}: expected each block to be written once, got block {start} twice")
            end = start + blocks


def _check_type(what: str, number: int, operation: Operation, major: int) -> None:
    if operation.type not in OPERATION_TYPES[major]:
        raise FormatError(
            Kind.OPERATION_UNKNOWN,
            f"manifest: {what} operation {number}: {operation.type.name} has no place in major version {major}",
        )


def _check_hashes(what: str, number: int, operation: Operation) -> None:
    for digest in (operation.data_sha256, operation.src_sha256):
        if digest is not None and len(digest) != SHA256_BYTES:
            raise malformed(f"{what} operation {number}: hash: expected 32 bytes, got {len(digest)}")
