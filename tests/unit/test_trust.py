import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from tests.support.payloads import (
    KEYS,
    P256,
    P256_PUBLIC,
    RSA_A,
    RSA_A_PUBLIC,
    RSA_B,
    RSA_B_PUBLIC,
)
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats.payload import Signature

DIGEST = hashlib.sha256(b"signed").digest()
OTHER = hashlib.sha256(b"not signed").digest()

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def signature(key: Path, *, version: int | None = None) -> Signature:
    return Signature(version=version, data=SigningKey.load(key).sign(DIGEST))


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey, *, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


WEAK_RSA = rsa.generate_private_key(65537, 1024)
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
WRONG_KEYS: list[tuple[PrivateKey, str]] = [
    (WEAK_RSA, "expected an RSA key of 2048 to 4096 bits, got 1024"),
    (P384, "expected the curve P-256, got secp384r1"),
    (ec.generate_private_key(ec.SECP256K1()), "expected the curve P-256, got secp256k1"),
    (ED25519, "expected an RSA or P-256 key"),
]


# ----------------------------------------------------------------------------------------------------- verifying


@pytest.mark.parametrize(
    ("key", "public", "major"), [(RSA_A, RSA_A_PUBLIC, 1), (RSA_A, RSA_A_PUBLIC, 2), (P256, P256_PUBLIC, 2)]
)
def test_signature_by_the_trusted_key_is_accepted(key: Path, public: Path, major: int) -> None:
    assert KeyRing.load(public).verify(DIGEST, [signature(key)], major=major, what="payload") == public.name


def test_any_key_of_a_folder_may_sign(tmp_path: Path) -> None:
    for public in (RSA_A_PUBLIC, RSA_B_PUBLIC, P256_PUBLIC):
        (tmp_path / public.name).write_bytes(public.read_bytes())
    (tmp_path / "README").write_text("not a key, and not looked at")
    ring = KeyRing.load(tmp_path)
    assert [key.name for key in ring.keys] == ["p256.pub.pem", "rsa-a.pub.pem", "rsa-b.pub.pem"]
    for key, public in ((RSA_A, RSA_A_PUBLIC), (RSA_B, RSA_B_PUBLIC), (P256, P256_PUBLIC)):
        assert ring.verify(DIGEST, [signature(key)], major=2, what="payload") == public.name


@pytest.mark.parametrize("version", [None, 1, 2, 3])
def test_any_of_several_signatures_will_do_whatever_its_version(version: int | None) -> None:
    signatures = [Signature(version=2, data=b""), signature(RSA_B, version=2), signature(RSA_A, version=version)]
    assert KeyRing.load(RSA_A_PUBLIC).verify(DIGEST, signatures, major=1, what="payload") == "rsa-a.pub.pem"


def test_elliptic_signature_in_major_1_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        KeyRing.load(P256_PUBLIC).verify(DIGEST, [signature(P256)], major=1, what="payload")
    assert caught.value.kind is Kind.SIGNATURE_INVALID


def test_payload_without_signature_is_refused() -> None:
    with pytest.raises(VerificationError, match="metadata: expected a signature, got none") as caught:
        KeyRing.load(RSA_A_PUBLIC).verify(DIGEST, [], major=2, what="metadata")
    assert caught.value.kind is Kind.SIGNATURE_MISSING
    assert "rsa-a.pub.pem" in (caught.value.hint or "")


def test_signature_by_another_key_is_refused_and_the_trusted_ones_are_named() -> None:
    with pytest.raises(VerificationError, match="payload: expected a signature by a trusted key, got 1") as caught:
        KeyRing.load(RSA_A_PUBLIC).verify(DIGEST, [signature(RSA_B)], major=2, what="payload")
    assert caught.value.kind is Kind.SIGNATURE_INVALID
    key = serialization.load_pem_public_key(RSA_A_PUBLIC.read_bytes())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert f"rsa-a.pub.pem (sha256 {hashlib.sha256(der).hexdigest()[:16]})" in (caught.value.hint or "")


@pytest.mark.parametrize(("key", "public"), [(RSA_A, RSA_A_PUBLIC), (P256, P256_PUBLIC)])
def test_signature_over_something_else_is_refused(key: Path, public: Path) -> None:
    with pytest.raises(VerificationError) as caught:
        KeyRing.load(public).verify(OTHER, [signature(key)], major=2, what="payload")
    assert caught.value.kind is Kind.SIGNATURE_INVALID


@pytest.mark.parametrize(("key", "public"), [(RSA_A, RSA_A_PUBLIC), (P256, P256_PUBLIC)])
def test_signature_of_the_wrong_size_is_refused(key: Path, public: Path) -> None:
    good = signature(key).data
    ring = KeyRing.load(public)
    for data in (b"", good[:-1], good + b"\0", b"\0" + good, bytes(len(good)), b"\xff" * len(good), bytes(100_000)):
        with pytest.raises(VerificationError) as caught:
            ring.verify(DIGEST, [Signature(version=None, data=data)], major=2, what="payload")
        assert caught.value.kind is Kind.SIGNATURE_INVALID


@pytest.mark.parametrize(("key", "public"), [(RSA_A, RSA_A_PUBLIC), (P256, P256_PUBLIC)])
def test_signature_with_any_byte_changed_is_refused(key: Path, public: Path) -> None:
    good = signature(key).data
    ring = KeyRing.load(public)
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x10
        with pytest.raises(VerificationError):
            ring.verify(DIGEST, [Signature(version=None, data=bytes(bad))], major=2, what="payload")


# ------------------------------------------------------------------------------------------------- loading keys


def test_missing_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="none\\.pem: cannot read the key: No such file") as caught:
        KeyRing.load(tmp_path / "none.pem")
    assert caught.value.kind is Kind.KEY_MISSING


def test_folder_without_keys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_bytes(RSA_A_PUBLIC.read_bytes())
    with pytest.raises(VerificationError, match=r"expected a key in a file \*\.pem, got none") as caught:
        KeyRing.load(tmp_path)
    assert caught.value.kind is Kind.KEY_MISSING


def test_folder_in_place_of_a_key_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder.pem").mkdir()
    with pytest.raises(VerificationError, match=r"folder\.pem: cannot read the key") as caught:
        KeyRing.load(tmp_path)
    assert caught.value.kind is Kind.KEY_MISSING


def test_dangling_link_in_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(RSA_A_PUBLIC.read_bytes())
    (tmp_path / "b.pem").symlink_to("nowhere")
    with pytest.raises(VerificationError, match=r"b\.pem: cannot read the key"):
        KeyRing.load(tmp_path)


@pytest.mark.parametrize(("key", "message"), WRONG_KEYS)
def test_public_key_of_another_kind_is_refused(key: PrivateKey, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(RSA_A_PUBLIC.read_bytes())
    (tmp_path / "b.pem").write_bytes(public_pem(key))
    with pytest.raises(FormatError, match=rf"b\.pem: {message}") as caught:
        KeyRing.load(tmp_path)
    assert caught.value.kind is Kind.KEY_MALFORMED


BLOCK = b"-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        bytes(70000),
        BLOCK % b"",
        BLOCK % b"AAAA",
        BLOCK % b"not base64 !",
        RSA_A.read_bytes(),
        P256.read_bytes(),
        RSA_A_PUBLIC.read_bytes() + RSA_B_PUBLIC.read_bytes(),
        RSA_A_PUBLIC.read_bytes() + RSA_A.read_bytes(),
        RSA_A_PUBLIC.read_bytes()[:-100],
        RSA_A_PUBLIC.read_bytes().replace(b"PUBLIC KEY", b"CERTIFICATE"),
        RSA_A_PUBLIC.read_bytes().replace(b"PUBLIC KEY", b"RSA PUBLIC KEY"),
    ],
)
def test_file_that_is_not_one_public_key_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(FormatError, match=r"key\.pem: expected") as caught:
        KeyRing.load(tmp_path)
    assert caught.value.kind is Kind.KEY_MALFORMED


@pytest.mark.parametrize("bits", [2048, 4096])
def test_rsa_keys_at_both_ends_of_the_range_are_accepted(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(rsa.generate_private_key(65537, bits)))
    assert [key.name for key in KeyRing.load(path).keys] == ["key.pem"]


# ------------------------------------------------------------------------------------------------------ signing


def test_rsa_signature_has_the_size_of_the_key() -> None:
    key = SigningKey.load(RSA_A)
    assert key.is_rsa
    assert key.signature_size == len(key.sign(DIGEST)) == 256


def test_elliptic_signature_is_at_most_72_bytes() -> None:
    key = SigningKey.load(P256)
    assert not key.is_rsa
    assert key.signature_size == 72
    lengths = {len(key.sign(hashlib.sha256(bytes([n])).digest())) for n in range(50)}
    assert max(lengths) <= 72


@pytest.mark.parametrize("path", [RSA_A, P256])
def test_signing_twice_gives_the_same_signature(path: Path) -> None:
    assert SigningKey.load(path).sign(DIGEST) == SigningKey.load(path).sign(DIGEST)


def test_missing_signing_key_is_an_error() -> None:
    with pytest.raises(VerificationError, match="cannot read the key") as caught:
        SigningKey.load(KEYS / "none.pem")
    assert caught.value.kind is Kind.KEY_MISSING


@pytest.mark.parametrize(("key", "message"), WRONG_KEYS)
def test_signing_key_of_another_kind_is_refused(key: PrivateKey, message: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(key))
    with pytest.raises(FormatError, match=message) as caught:
        SigningKey.load(path)
    assert caught.value.kind is Kind.KEY_MALFORMED


def test_signing_key_that_is_none_or_encrypted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    encrypted = private_pem(ec.generate_private_key(ec.SECP256R1()), password=b"secret")
    for data in (b"", b"garbage", RSA_A_PUBLIC.read_bytes(), encrypted):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="expected an unencrypted private key") as caught:
            SigningKey.load(path)
        assert caught.value.kind is Kind.KEY_MALFORMED
