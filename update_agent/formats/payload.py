"""The container around a manifest: header and signatures, in both major versions.

    major version 1                           major version 2
    0   magic "CrAU"                          0   magic "CrAU"
    4   major version, u64 big endian         4   major version, u64 big endian
    12  manifest size M, u64 big endian       12  manifest size M, u64 big endian
    20  manifest                              20  metadata signature size S, u32 big endian
    20+M  blobs, signatures                   24  manifest
                                              24+M  metadata signatures
                                              24+M+S  blobs, signatures

What is signed, always as the SHA-256 of:

- payload signatures, major version 1: every byte before them: header, manifest, blobs;
- payload signatures, major version 2: the same, but the metadata signatures are left out;
- metadata signatures (major version 2 only): header and manifest.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from update_agent.errors import FormatError, Kind
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest import MAX_MANIFEST_BYTES, MAX_SIGNATURES_BYTES
from update_agent.formats.wire import Shape, check_counts

MAGIC: Final = b"CrAU"
HEADER_MAX_BYTES: Final = 24
"""So many bytes are enough to read a header of any version."""

MAX_SIGNATURES: Final = 16

_SIGNATURES: Final = Shape(name="lists", max_count=1, children={1: Shape(name="signatures", max_count=MAX_SIGNATURES)})

_COMMON: Final = struct.Struct(">4sQQ")
_METADATA_SIGNATURE_SIZE: Final = struct.Struct(">I")

_LOOKS_LIKE: Final = (
    (b"<", "an HTML or XML page: the server answered with a page in place of the payload"),
    (b"\x1f\x8b", "gzip data: unpack it first"),
    (b"\xfd7zXZ\x00", "xz data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data: unpack it first"),
    (b"BZh", "bzip2 data: unpack it first"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first bytes of a payload.

    Attributes:
        major: version of the format, 1 or 2.
        manifest_size: bytes.
        metadata_signature_size: bytes; always 0 in major version 1.

    Raises:
        FormatError: payload-version, payload-malformed.
    """

    major: int
    manifest_size: int
    metadata_signature_size: int = 0

    def __post_init__(self) -> None:
        if self.major not in MAX_MANIFEST_BYTES:
            raise FormatError(
                Kind.PAYLOAD_VERSION,
                f"payload: expected major version 1 or 2, got {self.major}",
                hint="a newer update-agent may be able to read it",
            )
        _check_size("manifest", self.manifest_size, 1, MAX_MANIFEST_BYTES[self.major])
        _check_size("metadata signature", self.metadata_signature_size, 0, MAX_SIGNATURES_BYTES * (self.major - 1))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Parse the start of a payload; `HEADER_MAX_BYTES` are always enough, more do not matter.

        Raises:
            FormatError: payload-magic, payload-truncated, payload-version, payload-malformed.
        """
        head = bytes(data[:HEADER_MAX_BYTES])
        if not head.startswith(MAGIC[: len(head)]):
            raise FormatError(
                Kind.PAYLOAD_MAGIC, f"payload: expected magic {MAGIC!r}, got {head[:4]!r}", hint=_hint(head)
            )
        if len(head) < HEADER_MAX_BYTES:
            raise FormatError(
                Kind.PAYLOAD_TRUNCATED, f"payload: expected at least {HEADER_MAX_BYTES} bytes, got {len(head)}"
            )
        _, major, manifest_size = _COMMON.unpack_from(head)
        signature_size = _METADATA_SIGNATURE_SIZE.unpack_from(head, _COMMON.size)[0] if major == 2 else 0
        return cls(major=major, manifest_size=manifest_size, metadata_signature_size=signature_size)

    def to_bytes(self) -> bytes:
        """The `size_bytes` bytes that `from_bytes` reads."""
        head = _COMMON.pack(MAGIC, self.major, self.manifest_size)
        return head if self.major == 1 else head + _METADATA_SIGNATURE_SIZE.pack(self.metadata_signature_size)

    @property
    def size_bytes(self) -> int:
        """How long the header itself is: 20 or 24 bytes; the manifest follows."""
        return _COMMON.size if self.major == 1 else _COMMON.size + _METADATA_SIGNATURE_SIZE.size

    @property
    def metadata_size(self) -> int:
        """Bytes of header and manifest; in major version 2 the metadata signatures follow."""
        return self.size_bytes + self.manifest_size

    @property
    def data_start(self) -> int:
        """Where in the payload the first blob starts."""
        return self.metadata_size + self.metadata_signature_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature, without padding.

    Attributes:
        version: says which key in major version 1, 1 or 2; None in major version 2, where any trusted key will do.
        data: PKCS#1 v1.5, or DER with an elliptic curve.
    """

    version: int | None
    data: bytes


def signatures_from_bytes(data: bytes) -> tuple[Signature, ...]:
    """Parse a list of at most 16 signatures, of payload or metadata.

    Raises:
        FormatError: payload-malformed.
    """
    if len(data) > MAX_SIGNATURES_BYTES:
        raise _malformed(f"expected at most {MAX_SIGNATURES_BYTES} bytes, got {len(data)}")
    check_counts(data, _SIGNATURES, max_fields=2 * MAX_SIGNATURES, refuse=_malformed)
    try:
        message = pb2.Signatures.FromString(data)
    except DecodeError as error:
        raise _malformed("not a protobuf message") from error
    return tuple(map(_signature, message.signatures))


def v1_signatures_from_bytes(data: bytes) -> tuple[Signature, ...]:
    """Parse the signatures of a payload of major version 1, which are written in one way only.

    Versions count up to 2, and every byte is as update_engine's generator writes it: nothing signs these bytes, so a
    changed one could not be noticed otherwise.

    Raises:
        FormatError: payload-malformed.
    """
    signatures = signatures_from_bytes(data)
    expected = list(range(3 - len(signatures), 3))
    found = [signature.version for signature in signatures]
    if found != expected:
        raise _malformed(f"expected the versions {expected}, got {found}")
    if signatures_to_bytes(signatures) != data:
        raise _malformed("expected the one way to write them, got another")
    return signatures


def signatures_to_bytes(signatures: Sequence[Signature], *, padded_sizes: Sequence[int] | None = None) -> bytes:
    """The list as the generators of update_engine write it: the length depends on versions and `padded_sizes` only.

    A signature with a version is written as in major version 1 (version, data), one without as in major version 2
    (data with zeros up to its padded size, and its length before that).

    Args:
        signatures: in the order of the list.
        padded_sizes: bytes for each, when they differ from what it has: the length of an elliptic curve's signature
            is not known before it is made.
    """
    message = pb2.Signatures()
    sizes = [len(signature.data) for signature in signatures] if padded_sizes is None else padded_sizes
    for signature, size in zip(signatures, sizes, strict=True):
        unpadded = None if signature.version is not None and size <= len(signature.data) else len(signature.data)
        message.signatures.add(
            version=signature.version, data=signature.data.ljust(size, b"\0"), unpadded_signature_size=unpadded
        )
    return message.SerializeToString(deterministic=True)


def _signature(message: pb2.Signature) -> Signature:
    data = message.data
    if message.HasField("unpadded_signature_size"):
        size = message.unpadded_signature_size
        if size > len(data) or data[size:].strip(b"\0"):
            raise _malformed(f"expected {size} bytes and zeros, got {len(data)} bytes that are not")
        data = data[:size]
    return Signature(version=message.version if message.HasField("version") else None, data=data)


def _check_size(what: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        raise FormatError(Kind.PAYLOAD_MALFORMED, f"payload: {what}: expected {least} to {most} bytes, got {size}")


def _hint(head: bytes) -> str | None:
    return next((f"this is {what}" for start, what in _LOOKS_LIKE if head.lstrip().startswith(start)), None)


def _malformed(what: str) -> FormatError:
    return FormatError(Kind.PAYLOAD_MALFORMED, f"signatures: {what}")
