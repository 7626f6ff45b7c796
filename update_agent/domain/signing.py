"""Signatures of a payload: made here with private keys, or elsewhere from digests and attached later.

A payload's bytes do not depend on what its signatures say, only on how long they are. So one that will be signed
elsewhere is built with zeros in their place; its digests are what the signers sign, and attaching changes the zeros.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from update_agent.domain.trust import P256_SIGNATURE_BYTES, SigningKey
from update_agent.errors import ConfigurationError, FormatError, Kind
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import (
    HEADER_MAX_BYTES,
    Header,
    Signature,
    signatures_from_bytes,
    signatures_to_bytes,
)
from update_agent.host.blockdev import FileDevice
from update_agent.host.output import PIECE_BYTES, OutputFile

V1_NEWEST_VERSION: Final = 2
"""The last signature gets it, the others count down from it: update_engine believes this one alone."""

V1_SIGNATURES_MAX: Final = V1_NEWEST_VERSION + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Who signs, or how much room to leave for those who will.

    Attributes:
        major: version of the payload format.
        keys: in the order of the signatures; empty if it is signed elsewhere.
        sizes: the most bytes of each signature.
    """

    major: int
    keys: tuple[SigningKey, ...]
    sizes: tuple[int, ...]

    @classmethod
    def here(cls, keys: Sequence[SigningKey], *, major: int) -> "Signers":
        """Those who sign at once."""
        return cls(major=major, keys=tuple(keys), sizes=tuple(key.signature_size for key in keys))

    @classmethod
    def elsewhere(cls, sizes: Sequence[int], *, major: int) -> "Signers":
        """Those who will sign later; zeros until then."""
        return cls(major=major, keys=(), sizes=tuple(sizes))

    @property
    def size_bytes(self) -> int:
        """Length of the list of signatures, whatever they will be."""
        return len(self._zeros())

    def sign(self, digest: bytes) -> bytes:
        """The list of signatures over a SHA-256 digest (32 bytes), `size_bytes` long."""
        return self.fill([key.sign(digest) for key in self.keys]) if self.keys else self._zeros()

    def fill(self, signatures: Sequence[bytes]) -> bytes:
        """The list with these signatures, `size_bytes` long.

        Raises:
            ConfigurationError: configuration, when one has not the length that there is room for.
        """
        if len(signatures) != len(self.sizes):
            raise ConfigurationError(
                Kind.CONFIGURATION,
                f"signatures: expected {len(self.sizes)}, got {len(signatures)}",
                hint="give one signature for each size that the payload was built with, in that order",
            )
        for data, size in zip(signatures, self.sizes, strict=True):
            _check_length(len(data), size)
        listed = [
            Signature(version=version, data=data) for version, data in zip(self._versions(), signatures, strict=True)
        ]
        return signatures_to_bytes(listed, padded_sizes=self.sizes)

    def _zeros(self) -> bytes:
        return self.fill([bytes(size) for size in self.sizes])

    def _versions(self) -> Sequence[int | None]:
        count = len(self.sizes)
        return [None] * count if self.major == 2 else range(V1_SIGNATURES_MAX - count, V1_SIGNATURES_MAX)


def _check_length(length: int, size: int) -> None:
    # Only the length of an elliptic curve's signature depends on what is signed.
    if length != size and not (size == P256_SIGNATURE_BYTES and 0 < length < size):
        raise ConfigurationError(
            Kind.CONFIGURATION,
            f"signature: expected {size} bytes, got {length}",
            hint="give the raw signature (no base64), made by a key of the size that the payload was built for",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadDigests:
    """What to sign, each a SHA-256 of 32 bytes.

    Attributes:
        metadata: of header and manifest; None in major version 1, which has no such signature.
        payload: of everything but the signatures.
    """

    metadata: bytes | None
    payload: bytes


def payload_digests(path: Path) -> PayloadDigests:
    """Read a payload and compute what its signatures are over.

    Raises:
        FormatError: when it is no whole payload.
        VerificationError: operation-hash-missing.
        DeviceError: device-open or device-io.
    """
    with FileDevice(path) as file:
        layout = _Layout.read(file)
        metadata = hashlib.sha256(file.read_at(0, layout.header.metadata_size))
        payload = metadata.copy()
        for piece in layout.blob_pieces(file):
            payload.update(piece)
        return PayloadDigests(
            metadata=metadata.digest() if layout.header.major == 2 else None, payload=payload.digest()
        )


def attach_signatures(
    path: Path, *, metadata_signatures: Sequence[bytes], payload_signatures: Sequence[bytes], output: Path
) -> None:
    """Put signatures made elsewhere into a payload that was built with room for them.

    The result is what signing at once would have given; durable under its name on return, and nothing left before.

    Args:
        path: the payload with zeros for signatures.
        metadata_signatures: raw signatures over the metadata digest; none in major version 1.
        payload_signatures: raw signatures over the payload digest.
        output: the payload to write; may be `path`.

    Raises:
        ConfigurationError: configuration, when count or length differ, or the payload is signed already.
        FormatError: when `path` is no whole payload.
        VerificationError: operation-hash-missing.
        DeviceError: device-open, device-io or no-space.
    """
    with FileDevice(path) as file:
        layout = _Layout.read(file)
        header = layout.header
        metadata_blob = file.read_at(header.metadata_size, header.metadata_signature_size)
        payload_blob = file.read_at(layout.signatures_start, layout.signatures_size)
        new_metadata_blob = _filled(metadata_blob, metadata_signatures, header.major)
        new_payload_blob = _filled(payload_blob, payload_signatures, header.major)
        with OutputFile(output) as result:
            result.append(file.read_at(0, header.metadata_size))
            result.append(new_metadata_blob)
            for piece in layout.blob_pieces(file):
                result.append(piece)
            result.append(new_payload_blob)
            result.publish()


def _filled(blob: bytes, signatures: Sequence[bytes], major: int) -> bytes:
    """The list `blob`, which holds zeros, with signatures in their place."""
    found = signatures_from_bytes(blob)
    if any(signature.data.strip(b"\0") for signature in found):
        raise ConfigurationError(
            Kind.CONFIGURATION,
            "payload: expected room for signatures, got signatures",
            hint="build it with the sizes of the signatures in place of keys",
        )
    return Signers.elsewhere([len(signature.data) for signature in found], major=major).fill(signatures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where in a payload its signatures are."""

    header: Header
    signatures_start: int
    signatures_size: int

    @classmethod
    def read(cls, file: FileDevice) -> "_Layout":
        header = Header.from_bytes(file.read_at(0, min(HEADER_MAX_BYTES, file.size_bytes)))
        if header.data_start > file.size_bytes:
            raise _truncated(file, header.data_start)
        manifest = Manifest.from_bytes(file.read_at(header.size_bytes, header.manifest_size), header.major)
        if manifest.signatures_offset is None or manifest.signatures_size is None:
            raise FormatError(
                Kind.MANIFEST_MALFORMED,
                f"{file.name}: expected room for signatures, got none",
                hint="build it with the sizes of the signatures in place of keys",
            )
        start = header.data_start + manifest.signatures_offset
        if start + manifest.signatures_size != file.size_bytes:
            raise _truncated(file, start + manifest.signatures_size)
        return cls(header=header, signatures_start=start, signatures_size=manifest.signatures_size)

    def blob_pieces(self, file: FileDevice) -> Iterator[bytes]:
        for offset in range(self.header.data_start, self.signatures_start, PIECE_BYTES):
            yield file.read_at(offset, min(PIECE_BYTES, self.signatures_start - offset))


def _truncated(file: FileDevice, expected_bytes: int) -> FormatError:
    return FormatError(
        Kind.PAYLOAD_TRUNCATED,
        f"{file.name}: expected a payload of {expected_bytes} bytes, got {file.size_bytes}",
        hint="copy or build it again",
    )
