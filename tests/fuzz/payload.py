"""The container: header, lists of signatures, and what a key ring says about them."""

import contextlib
import functools
from collections.abc import Iterator

from tests.fuzz.target import Target
from tests.support.payloads import (
    P256,
    P256_PUBLIC,
    RSA_A,
    RSA_A_PUBLIC,
    RSA_B,
    RSA_B_PUBLIC,
    make_payload,
    signature_list,
)
from update_agent.domain.trust import KeyRing
from update_agent.errors import FormatError, VerificationError
from update_agent.formats.payload import (
    HEADER_MAX_BYTES,
    Header,
    Signature,
    signatures_from_bytes,
    signatures_to_bytes,
)

_DIGEST = bytes(range(32))


def _run_header(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        header = Header.from_bytes(data)
        assert header.to_bytes() == data[: header.size_bytes]
        assert header.data_start <= 24 + (16 << 20) + (64 << 10)


def _header_seeds() -> Iterator[bytes]:
    for major in (1, 2):
        yield make_payload(b"content", major=major)[:HEADER_MAX_BYTES]
    yield Header(major=2, manifest_size=16 << 20, metadata_signature_size=65536).to_bytes()
    yield Header(major=1, manifest_size=4 << 20).to_bytes() + b"\x0a\x00\x0a\x00"
    for start in (b"<html>", b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"BZh"):
        yield start.ljust(HEADER_MAX_BYTES)


@functools.cache
def _keyring() -> KeyRing:
    return KeyRing([key for path in (RSA_A_PUBLIC, RSA_B_PUBLIC, P256_PUBLIC) for key in KeyRing.load(path).keys])


def _run_signatures(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        signatures = signatures_from_bytes(data)
        assert len(signatures) <= 16
        assert signatures_from_bytes(signatures_to_bytes(signatures)) == signatures
        for major in (1, 2):
            _verify(signatures, major)


def _verify(signatures: tuple[Signature, ...], major: int) -> None:
    with contextlib.suppress(VerificationError):
        name = _keyring().verify(_DIGEST, signatures, major=major, what="fuzz")
        # Of an elliptic curve there are many good signatures; of RSA there is one.
        if name == P256_PUBLIC.name:
            assert major == 2
        else:
            assert any(signature.data in _good_signatures() for signature in signatures)


@functools.cache
def _good_signatures() -> frozenset[bytes]:
    lists = [signature_list((key,), _DIGEST, major=2) for key in (RSA_A, RSA_B)]
    return frozenset(each.data for data in lists for each in signatures_from_bytes(data))


def _signatures_seeds() -> Iterator[bytes]:
    yield b""
    for keys in ((RSA_A,), (P256,), (RSA_A, RSA_B), (P256, RSA_B)):
        for major in (1, 2):
            yield signature_list(keys, _DIGEST, major=major)
            yield signature_list(keys, bytes(32), major=major)


TARGETS = {
    "payload-header": Target(run=_run_header, seeds=_header_seeds, max_bytes=64),
    "payload-signatures": Target(run=_run_signatures, seeds=_signatures_seeds, max_bytes=4096),
}
