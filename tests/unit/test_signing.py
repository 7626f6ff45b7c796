"""Signatures attached to a payload that was built with room for them."""

import hashlib
from pathlib import Path

import pytest

from tests.support.builds import BLOCK, build, split
from tests.support.payloads import P256, RSA_A, make_payload
from update_agent.domain.encode import Compression
from update_agent.domain.signing import attach_signatures, payload_digests
from update_agent.domain.trust import SigningKey
from update_agent.errors import ConfigurationError, DeviceError, FormatError, Kind
from update_agent.formats.payload import signatures_from_bytes


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A payload of version 2 with room for an RSA signature of 2048 bits."""
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    build(tmp_path, signature_sizes=(256,), output=tmp_path / "empty")
    return tmp_path / "empty"


def attach(path: Path, *, metadata: tuple[bytes, ...], payload: tuple[bytes, ...]) -> bytes:
    output = path.with_name("signed")
    attach_signatures(path, metadata_signatures=metadata, payload_signatures=payload, output=output)
    return output.read_bytes()


def test_digests_are_over_what_each_signature_covers(empty: Path) -> None:
    payload = empty.read_bytes()
    header, manifest, blobs = split(payload)
    metadata = payload[: header.metadata_size]
    digests = payload_digests(empty)
    assert digests.metadata == hashlib.sha256(metadata).digest()
    assert digests.payload == hashlib.sha256(metadata + blobs[: manifest.blob_bytes]).digest()


def test_digests_do_not_depend_on_signatures(tmp_path: Path, empty: Path) -> None:
    build(tmp_path)
    assert payload_digests(tmp_path / "out.payload") == payload_digests(empty)


def test_attach_in_place_gives_the_file_of_direct_signing(tmp_path: Path, empty: Path) -> None:
    build(tmp_path)
    key = SigningKey.load(RSA_A)
    digests = payload_digests(empty)
    assert digests.metadata is not None
    attach_signatures(
        empty,
        metadata_signatures=(key.sign(digests.metadata),),
        payload_signatures=(key.sign(digests.payload),),
        output=empty,
    )
    assert empty.read_bytes() == (tmp_path / "out.payload").read_bytes()


def test_attach_p256_signature_keeps_its_length(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    build(tmp_path, signature_sizes=(72,), output=tmp_path / "empty")
    build(tmp_path, keys=(SigningKey.load(P256),))
    short = b"\x30" * 70
    payload = attach(tmp_path / "empty", metadata=(short,), payload=(short,))
    _, manifest, blobs = split(payload)
    assert signatures_from_bytes(blobs[manifest.blob_bytes :])[0].data == short
    assert len(payload) == (tmp_path / "out.payload").stat().st_size


@pytest.mark.parametrize(
    ("metadata", "payload"),
    [
        ((), (b"s" * 256,)),
        ((b"s" * 256,), ()),
        ((b"s" * 256,) * 2, (b"s" * 256,)),
        ((b"s" * 256,), (b"s" * 256,) * 2),
        ((b"s" * 255,), (b"s" * 256,)),
        ((b"s" * 256,), (b"s" * 255,)),
        ((b"s" * 256,), (b"s" * 257,)),
        ((b"s" * 256,), (b"",)),
    ],
)
def test_attach_of_other_count_or_length_is_refused(
    empty: Path, metadata: tuple[bytes, ...], payload: tuple[bytes, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        attach(empty, metadata=metadata, payload=payload)
    assert caught.value.hint
    assert not empty.with_name("signed").exists()


@pytest.mark.parametrize("length", [0, 73])
def test_attach_p256_signature_of_impossible_length_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    build(tmp_path, signature_sizes=(72,), output=tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="expected 72 bytes"):
        attach(tmp_path / "empty", metadata=(b"s" * 70,), payload=(b"s" * length,))


def test_attach_metadata_signature_to_version_1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    build(tmp_path, major=1, compression=Compression.NONE, signature_sizes=(256,))
    with pytest.raises(ConfigurationError, match="expected 0, got 1"):
        attach(tmp_path / "out.payload", metadata=(b"s" * 256,), payload=(b"s" * 256,))


def test_attach_to_signed_payload_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    build(tmp_path)
    with pytest.raises(ConfigurationError, match="got signatures"):
        attach(tmp_path / "out.payload", metadata=(b"s" * 256,), payload=(b"s" * 256,))


def test_digests_of_payload_without_room_for_signatures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "unsigned"
    path.write_bytes(make_payload(usr=b"x" * BLOCK, keys=()))
    with pytest.raises(FormatError, match="room for signatures"):
        payload_digests(path)


@pytest.mark.parametrize("cut", [1, 300, -30, -23])
def test_digests_of_cut_payload_are_refused(empty: Path, cut: int) -> None:
    empty.write_bytes(empty.read_bytes()[:-cut])
    with pytest.raises(FormatError) as caught:
        payload_digests(empty)
    assert caught.value.kind is Kind.PAYLOAD_TRUNCATED


def test_digests_of_longer_payload_are_refused(empty: Path) -> None:
    with empty.open("ab") as file:
        file.write(b"x")
    with pytest.raises(FormatError) as caught:
        payload_digests(empty)
    assert caught.value.kind is Kind.PAYLOAD_TRUNCATED


def test_digests_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"<html>")
    with pytest.raises(FormatError) as caught:
        payload_digests(tmp_path / "page")
    assert caught.value.kind is Kind.PAYLOAD_MAGIC


def test_attach_to_missing_file_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        attach(tmp_path / "nothing", metadata=(), payload=())
    assert caught.value.kind is Kind.DEVICE_OPEN
