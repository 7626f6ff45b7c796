import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.payload import (
    HEADER_MAX_BYTES,
    MAX_SIGNATURES,
    Header,
    Signature,
    signatures_from_bytes,
    signatures_to_bytes,
    v1_signatures_from_bytes,
)

V1 = bytes.fromhex("43724155 0000000000000001 0000000000000153")
V2 = bytes.fromhex("43724155 0000000000000002 0000000000000153 0000010b")


def test_header_of_major_1_ends_at_byte_20() -> None:
    header = Header.from_bytes(V1 + b"manifest")
    assert header == Header(major=1, manifest_size=0x153)
    assert (header.size_bytes, header.metadata_size, header.data_start) == (20, 20 + 0x153, 20 + 0x153)
    assert header.to_bytes() == V1


def test_header_of_major_2_ends_at_byte_24() -> None:
    header = Header.from_bytes(V2)
    assert header == Header(major=2, manifest_size=0x153, metadata_signature_size=0x10B)
    assert (header.size_bytes, header.metadata_size, header.data_start) == (24, 24 + 0x153, 24 + 0x153 + 0x10B)
    assert header.to_bytes() == V2


@pytest.mark.parametrize("length", range(HEADER_MAX_BYTES))
@pytest.mark.parametrize("data", [V1 + bytes(4), V2])
def test_header_cut_short_is_truncated(data: bytes, length: int) -> None:
    with pytest.raises(FormatError, match=f"expected at least 24 bytes, got {length}") as caught:
        Header.from_bytes(data[:length])
    assert caught.value.kind is Kind.PAYLOAD_TRUNCATED


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"<html><body>404", "the server answered with a page"),
        (b"\n<!DOCTYPE html>", "the server answered with a page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh9", "bzip2"),
    ],
)
def test_header_of_something_else_says_what_it_looks_like(data: bytes, hint: str) -> None:
    for body in (data, data.ljust(30, b"x")):
        with pytest.raises(FormatError, match="expected magic") as caught:
            Header.from_bytes(body)
        assert caught.value.kind is Kind.PAYLOAD_MAGIC
        assert hint in (caught.value.hint or "")


def test_header_of_unknown_bytes_has_no_hint() -> None:
    with pytest.raises(FormatError, match="expected magic") as caught:
        Header.from_bytes(b"CrAu" + V1[4:])
    assert caught.value.hint is None


@pytest.mark.parametrize("major", [0, 3, 2**64 - 1])
def test_header_of_an_unknown_major_version_is_refused(major: int) -> None:
    with pytest.raises(FormatError, match=f"expected major version 1 or 2, got {major}") as caught:
        Header.from_bytes(V2[:4] + major.to_bytes(8, "big") + V2[12:])
    assert caught.value.kind is Kind.PAYLOAD_VERSION


@pytest.mark.parametrize(
    ("major", "manifest_size", "signature_size"),
    [
        (1, 0, 0),
        (1, 4 * 1024**2 + 1, 0),
        (1, 2**64 - 1, 0),
        (2, 0, 0),
        (2, 16 * 1024**2 + 1, 0),
        (2, 1, 65537),
        (2, 1, 2**32 - 1),
    ],
)
def test_header_with_a_size_out_of_bounds_is_refused(major: int, manifest_size: int, signature_size: int) -> None:
    data = V1[:4] + major.to_bytes(8, "big") + manifest_size.to_bytes(8, "big") + signature_size.to_bytes(4, "big")
    with pytest.raises(FormatError, match=r"expected \d to") as caught:
        Header.from_bytes(data)
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


def test_metadata_signature_in_major_1_is_refused() -> None:
    with pytest.raises(FormatError, match="metadata signature: expected 0 to 0 bytes"):
        Header(major=1, manifest_size=1, metadata_signature_size=1)


# ---------------------------------------------------------------------------------------------------- signatures


def test_signature_of_major_1_is_264_bytes_with_a_key_of_2048_bits() -> None:
    data = signatures_to_bytes([Signature(version=2, data=b"s" * 256)])
    assert len(data) == 264
    assert data.startswith(bytes.fromhex("0a8502 0802 128002"))
    assert signatures_from_bytes(data) == (Signature(version=2, data=b"s" * 256),)
    assert len(signatures_to_bytes([Signature(version=n, data=b"s" * 256) for n in (1, 2)])) == 528


def test_signature_of_major_2_is_padded_and_keeps_its_length() -> None:
    signature = Signature(version=None, data=b"s" * 70)
    data = signatures_to_bytes([signature], padded_sizes=[72])
    assert data == bytes.fromhex("0a4f 1248") + b"s" * 70 + bytes(2) + bytes.fromhex("1d46000000")
    assert signatures_from_bytes(data) == (signature,)


def test_signature_with_version_and_padding_keeps_its_length() -> None:
    signature = Signature(version=1, data=b"s" * 70)
    assert signatures_from_bytes(signatures_to_bytes([signature], padded_sizes=[72])) == (signature,)


def test_signature_that_ends_in_zeros_keeps_them() -> None:
    signature = Signature(version=None, data=b"s" * 70 + bytes(2))
    assert signatures_from_bytes(signatures_to_bytes([signature])) == (signature,)


def test_length_of_the_list_does_not_depend_on_what_the_signatures_are() -> None:
    lists = [signatures_to_bytes([Signature(version=None, data=b"s" * n)], padded_sizes=[72]) for n in (68, 70, 72)]
    assert len({len(data) for data in lists}) == 1


def test_empty_list_of_signatures_is_empty() -> None:
    assert signatures_to_bytes([]) == b""
    assert signatures_from_bytes(b"") == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x05", "longer than what holds it"),
        (b"\x0a\x00" * (MAX_SIGNATURES + 1), "expected at most 16 signatures, got more"),
        (b"\x00\x00", "0 is no field number"),
        (b"\x0a\x01\x10", "not a protobuf message"),
        (bytes(65537), "expected at most 65536 bytes"),
        (pb2.Signatures(signatures=[pb2.Signature(data=b"abc", unpadded_signature_size=4)]), "expected 4 bytes"),
        (pb2.Signatures(signatures=[pb2.Signature(data=b"abc", unpadded_signature_size=2)]), "expected 2 bytes"),
    ],
)
def test_list_of_signatures_that_breaks_a_rule_is_refused(data: bytes | pb2.Signatures, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        signatures_from_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


@pytest.mark.parametrize("versions", [[2], [1, 2], [0, 1, 2]])
def test_v1_signatures_in_the_one_form_are_read(versions: list[int]) -> None:
    signatures = tuple(Signature(version=version, data=bytes([version]) * 256) for version in versions)
    assert v1_signatures_from_bytes(signatures_to_bytes(signatures)) == signatures


@pytest.mark.parametrize("versions", [[None], [1], [3], [2, 1], [2, 2]])
def test_v1_signatures_with_other_versions_are_refused(versions: list[int | None]) -> None:
    data = signatures_to_bytes([Signature(version=version, data=b"s" * 256) for version in versions])
    with pytest.raises(FormatError) as caught:
        v1_signatures_from_bytes(data)
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


def test_v1_signatures_written_in_another_way_are_refused() -> None:
    data = signatures_to_bytes([Signature(version=2, data=b"s" * 256)])
    with pytest.raises(FormatError) as caught:
        v1_signatures_from_bytes(data + b"\x18\x00")
    assert "one way" in caught.value.message
