"""Makes small payloads, valid or lying, for tests.

Shares nothing with the builder of the package but the compression: it writes protobuf messages directly, so it can say
what no valid manifest says, and signs afterwards, so that the lie is what gets noticed and not the signature.
"""

import functools
import hashlib
import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.compression import compress
from update_agent.formats.operations import SPARSE_HOLE, Extent, Operation, OperationType

DATA: Final = Path(__file__).parent.parent / "data"

KEYS: Final = DATA / "keys"
"""For tests only: the private halves are public. `NAME.key.pem` signs, `NAME.pub.pem` verifies."""

RSA_A: Final = KEYS / "rsa-a.key.pem"
RSA_B: Final = KEYS / "rsa-b.key.pem"
P256: Final = KEYS / "p256.key.pem"

RSA_A_PUBLIC: Final = KEYS / "rsa-a.pub.pem"
RSA_B_PUBLIC: Final = KEYS / "rsa-b.pub.pem"
P256_PUBLIC: Final = KEYS / "p256.pub.pem"

_COPIES: Final = (OperationType.MOVE, OperationType.SOURCE_COPY)
_REPLACE: Final = (
    OperationType.REPLACE,
    OperationType.REPLACE_BZ,
    OperationType.REPLACE_XZ,
    OperationType.REPLACE_ZSTD,
)

P256_BYTES: Final = 72

Step = tuple[Operation, bytes]
"""An operation and its blob; offset, length and hash of the blob are filled in."""


@dataclass(kw_only=True)
class PayloadMaker:
    """Everything that can be said about a payload; `make_payload` says it in one call.

    Attributes:
        usr: content of the partition after the update.
        kernel: content of the kernel file, if the payload has one.
        pcr_policy: likewise (major version 1 only).
        ignored: blob of a procedure of a type that nobody knows (major version 1 only).
        types: of the operations, one after the other and then again from the first. ZERO, DISCARD and copies take no
            content from `usr`: the content has to fit them. Default: REPLACE_ZSTD, in major version 1 REPLACE_BZ.
        op_bytes: content of one operation.
        operations: in place of those made from `usr`, for deltas.
        kernel_operations: likewise for `kernel`.
        old_usr: content before the update; its size and hash are stated.
        old_kernel: likewise.
        version: of the partition usr; None leaves it out.
        keys: private keys that sign; none leaves the payload unsigned.
        sign_metadata: False leaves out the metadata signature of major version 2.
        metadata_keys: sign the metadata; None: the same as `keys`.
        mutate_manifest: may change the finished manifest before it is signed.
        mutate_blobs: may change the blobs after they are hashed and before they are signed.
    """

    usr: bytes = b""
    kernel: bytes | None = None
    pcr_policy: bytes | None = None
    ignored: bytes | None = None
    major: int = 2
    types: Sequence[OperationType] = ()
    op_bytes: int = 16384
    block_size: int = 4096
    operations: Sequence[Step] | None = None
    kernel_operations: Sequence[Step] | None = None
    old_usr: bytes | None = None
    old_kernel: bytes | None = None
    version: str | None = "2.0.0"
    minor_version: int = 0
    keys: Sequence[Path] = (RSA_A,)
    sign_metadata: bool = True
    metadata_keys: Sequence[Path] | None = None
    mutate_manifest: Callable[[pb2.Manifest], None] | None = None
    mutate_blobs: Callable[[bytearray], None] | None = None
    _blobs: bytearray = field(default_factory=bytearray, init=False)

    def make(self) -> bytes:
        """The payload as one piece of bytes."""
        self._blobs = bytearray()
        message = self._manifest_v1() if self.major == 1 else self._manifest_v2()
        message.block_size = self.block_size
        if self.keys:
            message.signatures_offset = len(self._blobs)
            message.signatures_size = len(signature_list(self.keys, bytes(32), major=self.major))
            if self.major == 1:
                message.noop_operations.add(
                    type=OperationType.REPLACE,
                    data_offset=message.signatures_offset,
                    data_length=message.signatures_size,
                    dst_extents=[pb2.Extent(start_block=SPARSE_HOLE, num_blocks=1)],
                )
        if self.mutate_manifest is not None:
            self.mutate_manifest(message)
        if self.mutate_blobs is not None:
            self.mutate_blobs(self._blobs)
        return self._assemble(message.SerializeToString())

    def _assemble(self, manifest: bytes) -> bytes:
        header = b"CrAU" + struct.pack(">QQ", self.major, len(manifest))
        metadata_keys = self.keys if self.metadata_keys is None else self.metadata_keys
        metadata_signatures = b""
        if self.major == 2:
            size = len(signature_list(metadata_keys, bytes(32), major=2)) if self.sign_metadata else 0
            header += struct.pack(">I", size)
            if size:
                digest = hashlib.sha256(header + manifest).digest()
                metadata_signatures = signature_list(metadata_keys, digest, major=2)
        digest = hashlib.sha256(header + manifest + self._blobs).digest()
        signatures = signature_list(self.keys, digest, major=self.major)
        return header + manifest + metadata_signatures + self._blobs + signatures

    def _manifest_v1(self) -> pb2.Manifest:
        message = pb2.Manifest(new_partition_info=_info(self.usr), old_partition_info=_info(self.old_usr))
        message.partition_operations.extend(self._operations(self.usr, self.operations))
        for type_, content in ((0, self.kernel), (1, self.pcr_policy)):
            if content is not None:
                steps = self.kernel_operations if type_ == 0 else None
                procedure = message.procedures.add(type=type_, new_info=_info(content))
                if type_ == 0 and self.old_kernel is not None:
                    procedure.old_info.MergeFrom(_known_info(self.old_kernel))
                procedure.operations.extend(self._operations(content, steps))
        if self.ignored is not None:
            message.procedures.add(type=77, operations=self._operations(self.ignored, None))
        for procedure in message.procedures:
            message.noop_operations.extend(map(_noop, procedure.operations))
        return message

    def _manifest_v2(self) -> pb2.Manifest:
        message = pb2.Manifest(minor_version=self.minor_version or None)
        message.partitions.add(
            partition_name=b"usr",
            operations=self._operations(self.usr, self.operations),
            new_partition_info=_info(self.usr),
            old_partition_info=_info(self.old_usr),
            version=None if self.version is None else self.version.encode(),
        )
        if self.kernel is not None:
            message.partitions.add(
                partition_name=b"kernel",
                operations=self._operations(self.kernel, self.kernel_operations),
                new_partition_info=_info(self.kernel),
                old_partition_info=_info(self.old_kernel),
            )
        return message

    def _operations(self, content: bytes, steps: Sequence[Step] | None) -> list[pb2.Operation]:
        return [self._operation(*step) for step in (self._steps(content) if steps is None else steps)]

    def _steps(self, content: bytes) -> list[Step]:
        default = OperationType.REPLACE_BZ if self.major == 1 else OperationType.REPLACE_ZSTD
        offsets = range(0, len(content), self.op_bytes)
        steps: list[Step] = []
        for type_, offset in zip(itertools.cycle(self.types or (default,)), offsets, strict=False):
            chunk = content[offset : offset + self.op_bytes]
            # As the generators do it, a last operation of REPLACE has as many blocks as the others.
            size = self.op_bytes if type_ in _REPLACE else len(chunk)
            extents = (Extent(offset // self.block_size, -(-size // self.block_size)),)
            operation = Operation(type=type_, dst_extents=extents, src_extents=extents if type_ in _COPIES else ())
            steps.append((operation, compress(type_, chunk, 1) if type_ in _REPLACE else b""))
        return steps

    def _operation(self, operation: Operation, blob: bytes) -> pb2.Operation:
        message = pb2.Operation(
            type=operation.type,
            src_extents=map(_extent, operation.src_extents),
            src_length=operation.src_length,
            dst_extents=map(_extent, operation.dst_extents),
            dst_length=operation.dst_length,
            src_sha256_hash=operation.src_sha256,
        )
        if blob:
            message.data_offset = len(self._blobs)
            message.data_length = len(blob)
            message.data_sha256_hash = hashlib.sha256(blob).digest()
            self._blobs += blob
        return message


def make_payload(
    usr: bytes,
    kernel: bytes | None = None,
    *,
    major: int = 2,
    types: Sequence[OperationType] = (),
    op_bytes: int = 16384,
    block_size: int = 4096,
    operations: Sequence[Step] | None = None,
    old_usr: bytes | None = None,
    version: str | None = "2.0.0",
    keys: Sequence[Path] = (RSA_A,),
    sign_metadata: bool = True,
    mutate_manifest: Callable[[pb2.Manifest], None] | None = None,
    mutate_blobs: Callable[[bytearray], None] | None = None,
) -> bytes:
    """A payload that brings `usr`, and `kernel` if given; `PayloadMaker` says what the rest means and knows more."""
    return PayloadMaker(
        usr=usr,
        kernel=kernel,
        major=major,
        types=types,
        op_bytes=op_bytes,
        block_size=block_size,
        operations=operations,
        old_usr=old_usr,
        version=version,
        keys=keys,
        sign_metadata=sign_metadata,
        mutate_manifest=mutate_manifest,
        mutate_blobs=mutate_blobs,
    ).make()


def signature_list(keys: Sequence[Path], digest: bytes, *, major: int) -> bytes:
    """A serialized list of signatures over `digest`, as the generators write it; empty without keys."""
    message = pb2.Signatures()
    for number, key in enumerate(keys):
        data, size = _sign(key, digest)
        signature = message.signatures.add(data=data.ljust(size, b"\0"))
        if major == 1:
            signature.version = 3 - len(keys) + number
        # Always with an elliptic curve, so that the length of the list is known before the digest.
        if major == 2 or size == P256_BYTES:
            signature.unpadded_signature_size = len(data)
    return message.SerializeToString()


def _sign(path: Path, digest: bytes) -> tuple[bytes, int]:
    key = _private_key(path)
    algorithm = utils.Prehashed(hashes.SHA256())
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, padding.PKCS1v15(), algorithm), key.key_size // 8
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(algorithm)), P256_BYTES
    raise AssertionError(path)


@functools.cache
def _private_key(path: Path) -> PrivateKeyTypes:
    # Loading proves that the key is one, which takes far longer than signing.
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def _noop(operation: pb2.Operation) -> pb2.Operation:
    blocks = -(-operation.data_length // 4096)
    return pb2.Operation(
        type=OperationType.REPLACE,
        data_offset=operation.data_offset,
        data_length=operation.data_length,
        dst_extents=[pb2.Extent(start_block=SPARSE_HOLE, num_blocks=blocks)],
        data_sha256_hash=operation.data_sha256_hash,
    )


def _info(content: bytes | None) -> pb2.ContentInfo | None:
    return None if content is None else _known_info(content)


def _known_info(content: bytes) -> pb2.ContentInfo:
    return pb2.ContentInfo(size=len(content), hash=hashlib.sha256(content).digest())


def _extent(extent: Extent) -> pb2.Extent:
    return pb2.Extent(start_block=extent.start_block, num_blocks=extent.num_blocks)
