"""Make a payload: images in, one signed file out.

    1. Every image is cut into pieces; a delta is planned first (`delta.py`).
    2. Threads turn pieces into operations and blobs (`encode.py`); blobs go to a file without a name, in order.
    3. Only now the manifest is known. Header, manifest, metadata signature and blobs are written and hashed in one
       pass, the payload signature follows (`signing.py`), and the whole file gets its name.

The result depends on the request alone, not on the number of threads or on time (ECDSA signatures excepted).
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from update_agent.domain.build_request import BuildRequest
from update_agent.domain.delta import BlockDigests, plan_delta
from update_agent.domain.encode import BLOCK_BYTES, Encoded, Encoder, Piece, load_bsdiff, whole_pieces
from update_agent.errors import ConfigurationError, FormatError, Kind
from update_agent.formats.manifest import (
    SPARSE_HOLE,
    ContentInfo,
    Extent,
    Manifest,
    Operation,
    OperationType,
    Part,
    PartName,
)
from update_agent.formats.payload import Header
from update_agent.host.blockdev import FileDevice
from update_agent.host.output import OutputFile

BuildProgress = Callable[[int, int], None]
"""Called with the bytes of the images that are done, and their total."""

OFFSETS_32_BIT_END: Final = 2**32
"""Major version 1 has 32 bits for the start and the length of a blob (update_metadata.proto)."""

_PIECES_PER_WORKER: Final = 2
"""One in work and one waiting keeps a thread busy; more would only hold memory."""

_MINOR_VERSIONS: Final = {
    OperationType.SOURCE_COPY: 3,  # with the hash of the source
    OperationType.SOURCE_BSDIFF: 3,
    OperationType.REPLACE_XZ: 3,
    OperationType.ZERO: 4,
    OperationType.REPLACE_ZSTD: 8,
}
"""The first delta dialect that has the type; a full payload is 0 whatever it uses (update_metadata.proto)."""

_MINOR_VERSION_64_BIT: Final = 6
"""The first delta dialect whose blobs may lie beyond 4 GiB."""

_MINOR_VERSION_SOURCE: Final = 3
"""The first delta dialect with hashes of sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What was built.

    Attributes:
        parts: name and size in bytes of every part, in order.
        operations: how many operations there are of every type that occurs, by number of the type.
        payload_size_bytes: length of the file.
        payload_sha256: hash of the file, 32 bytes.
        metadata_size_bytes: header and manifest.
    """

    parts: tuple[tuple[PartName, int], ...]
    operations: tuple[tuple[OperationType, int], ...]
    payload_size_bytes: int
    payload_sha256: bytes
    metadata_size_bytes: int


def build_payload(request: BuildRequest, progress: BuildProgress) -> BuildReport:
    """Write the payload that `request` describes; durable under its name on return, and nothing left before.

    Raises:
        ConfigurationError: usage or configuration, when the request or an image cannot be.
        DeviceError: device-open, device-io or no-space.
    """
    with ExitStack() as stack:
        images = {name: stack.enter_context(FileDevice(path)) for name, path in request.images}
        old = stack.enter_context(FileDevice(request.source_usr)) if request.source_usr is not None else None
        request.check_images(images, old)
        output = stack.enter_context(OutputFile(request.output))
        blobs = stack.enter_context(OutputFile(request.output))
        with _Builder(request, images, old, blobs, progress) as builder:
            return builder.assemble(builder.manifest(), output)


class _Builder:
    """The threads and the blobs of one build."""

    def __init__(
        self,
        request: BuildRequest,
        images: dict[PartName, FileDevice],
        old: FileDevice | None,
        blobs: OutputFile,
        progress: BuildProgress,
    ) -> None:
        self._request = request
        self._images = images
        self._old = old
        self._blobs = blobs
        self._progress = progress
        self._total_bytes = sum(image.size_bytes for image in images.values())
        self._done_bytes = 0
        self._signers = request.signers
        self._encoder = Encoder(
            compression=request.compression,
            level=request.level,
            has_zero=request.major == 2,
            old=old,
            make_patch=load_bsdiff() if old is not None else None,
        )
        self._pool = ThreadPoolExecutor(request.workers, "build")

    def __enter__(self) -> "_Builder":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def manifest(self) -> Manifest:
        """Encode everything; on return the blobs are complete."""
        parts = tuple(self._part(name, image) for name, image in self._images.items())
        signatures_size = self._signers.size_bytes
        noop = _noop_operations(parts, self._blobs.size_bytes, signatures_size) if self._request.major == 1 else ()
        return Manifest(
            major=self._request.major,
            block_size=BLOCK_BYTES,
            parts=parts,
            noop_operations=noop,
            signatures_offset=self._blobs.size_bytes,
            signatures_size=signatures_size,
            minor_version=0 if self._old is None else _minor_version(parts, self._blobs.size_bytes),
        )

    def _part(self, name: PartName, image: FileDevice) -> Part:
        old = None
        pieces: Iterable[Piece] = whole_pieces(image.size_bytes, fill_last=self._request.major == 1)
        if self._old is not None and name is PartName.USR:
            before = BlockDigests.of(self._old)
            old = before.content
            pieces = plan_delta(before.digests, BlockDigests.of(image).digests)
        whole = hashlib.sha256()
        operations: list[Operation] = []
        for encoded in self._encode_in_order(image, pieces, whole.update):
            self._take(encoded, operations)
        return Part(
            name=name,
            operations=tuple(operations),
            old=old,
            new=ContentInfo(size_bytes=image.size_bytes, sha256=whole.digest()),
            version=self._request.version if self._request.major == 2 else None,
        )

    def _encode_in_order(
        self, image: FileDevice, pieces: Iterable[Piece], hash_data: Callable[[bytes], None]
    ) -> Iterator[Encoded]:
        """Results in the order of `pieces`, while a bounded number of them is in memory."""
        waiting: deque[tuple[Piece, Future[Encoded]]] = deque()
        for piece in pieces:
            if len(waiting) == self._request.workers * _PIECES_PER_WORKER:
                yield self._finish(*waiting.popleft())
            data = image.read_at(piece.start_block * BLOCK_BYTES, piece.length_bytes)
            hash_data(data)
            waiting.append((piece, self._pool.submit(self._encoder.encode, piece, data)))
        while waiting:
            yield self._finish(*waiting.popleft())

    def _finish(self, piece: Piece, future: "Future[Encoded]") -> Encoded:
        encoded = future.result()
        self._done_bytes += piece.length_bytes
        self._progress(self._done_bytes, self._total_bytes)
        return encoded

    def _take(self, encoded: Encoded, operations: list[Operation]) -> None:
        operation = encoded.operation
        if operation.type is OperationType.ZERO and operations and operations[-1].type is OperationType.ZERO:
            operations[-1] = _joined(operations[-1], operation)
            return
        if encoded.blob:
            operation = replace(operation, data_offset=self._blobs.size_bytes)
            self._blobs.append(encoded.blob)
        if self._request.major == 1 and self._blobs.size_bytes >= OFFSETS_32_BIT_END:
            raise ConfigurationError(
                Kind.CONFIGURATION,
                f"payload: expected less than {OFFSETS_32_BIT_END} bytes of data in major version 1, got more",
                hint="build major version 2, or compress",
            )
        operations.append(operation)

    def assemble(self, manifest: Manifest, output: OutputFile) -> BuildReport:
        """Write and sign the file, and give it its name."""
        signers = self._signers
        manifest_bytes = _readable_bytes(manifest)
        has_metadata_signature = manifest.major == 2
        header = Header(
            major=manifest.major,
            manifest_size=len(manifest_bytes),
            metadata_signature_size=signers.size_bytes if has_metadata_signature else 0,
        )
        metadata = header.to_bytes() + manifest_bytes
        signed = hashlib.sha256(metadata)
        whole = hashlib.sha256(metadata)
        output.append(metadata)
        if has_metadata_signature:
            signature = signers.sign(signed.digest())
            whole.update(signature)
            output.append(signature)
        for piece in self._blobs.pieces():
            other = self._pool.submit(whole.update, piece)
            signed.update(piece)
            output.append(piece)
            other.result()
        signature = signers.sign(signed.digest())
        whole.update(signature)
        output.append(signature)
        output.publish()
        return BuildReport(
            parts=tuple((name, image.size_bytes) for name, image in self._images.items()),
            operations=_count(manifest),
            payload_size_bytes=output.size_bytes,
            payload_sha256=whole.digest(),
            metadata_size_bytes=len(metadata),
        )


def _readable_bytes(manifest: Manifest) -> bytes:
    """The manifest's wire form, which every reader accepts."""
    try:
        data = manifest.to_bytes()
        Manifest.from_bytes(data, manifest.major)
    except FormatError as error:
        raise ConfigurationError(
            Kind.CONFIGURATION,
            f"payload: the images need a manifest that no reader accepts: {error.message}",
            hint="for a delta, build a full payload instead; else the image is too large",
        ) from error
    return data


def _joined(first: Operation, second: Operation) -> Operation:
    start = first.dst_extents[0].start_block
    num_blocks = first.dst_extents[0].num_blocks + second.dst_extents[0].num_blocks
    return replace(first, dst_extents=(Extent(start_block=start, num_blocks=num_blocks),))


def _noop_operations(parts: Iterable[Part], signatures_offset: int, signatures_size: int) -> tuple[Operation, ...]:
    """What makes clients that know no procedures pass over their blobs, and over the signature."""
    skipped = [
        replace(operation, type=OperationType.REPLACE, dst_extents=_hole(-(-operation.data_length // BLOCK_BYTES)))
        for part in parts
        if part.name is not PartName.USR
        for operation in part.operations
    ]
    signature = Operation(
        type=OperationType.REPLACE,
        data_offset=signatures_offset,
        data_length=signatures_size,
        dst_extents=_hole(1),
    )
    return (*skipped, signature)


def _hole(num_blocks: int) -> tuple[Extent]:
    return (Extent(start_block=SPARSE_HOLE, num_blocks=num_blocks),)


def _minor_version(parts: Iterable[Part], blob_bytes: int) -> int:
    types = {operation.type for part in parts for operation in part.operations}
    needed = {_MINOR_VERSIONS.get(kind, 0) for kind in types} | {_MINOR_VERSION_SOURCE}
    return max(needed | ({_MINOR_VERSION_64_BIT} if blob_bytes >= OFFSETS_32_BIT_END else set()))


def _count(manifest: Manifest) -> tuple[tuple[OperationType, int], ...]:
    counts = Counter(operation.type for part in manifest.parts for operation in part.operations)
    return tuple(sorted(counts.items()))
