"""Keys: which signatures are trusted, and how one is made. The only module that says "trusted".

Signatures are over a SHA-256 digest: RSASSA-PKCS1-v1_5 with RSA keys, ECDSA with P-256 keys (major version 2 only).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats.payload import Signature

MAX_KEY_FILE_BYTES: Final = 65536
RSA_KEY_BITS: Final = range(2048, 4096 + 1)

P256_SIGNATURE_BYTES: Final = 72
"""The longest DER form of two numbers of 256 bits."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_PUBLIC_HEAD: Final = b"-----BEGIN PUBLIC KEY-----"
_ANY_HEAD: Final = b"-----BEGIN "
_SHA256: Final = utils.Prehashed(hashes.SHA256())
_FINGERPRINT_CHARS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key and the file it came from.

    Attributes:
        name: of the file, without folder.
        fingerprint: start of the SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
    """

    name: str
    fingerprint: str
    public_key: PublicKey

    def has_signed(self, digest: bytes, signature: bytes, *, major: int) -> bool:
        """Whether `signature` was made by this key over `digest` (32 bytes), in a way that version `major` allows."""
        try:
            if isinstance(self.public_key, rsa.RSAPublicKey):
                self.public_key.verify(signature, digest, padding.PKCS1v15(), _SHA256)
                return True
            if major == 1:
                return False
            self.public_key.verify(signature, digest, ec.ECDSA(_SHA256))
        except InvalidSignature:
            return False
        return True


class KeyRing:
    """The public keys that may sign a payload: at least one, all equally trusted."""

    def __init__(self, keys: Sequence[TrustedKey]) -> None:
        self._keys = tuple(keys)

    @property
    def keys(self) -> tuple[TrustedKey, ...]:
        """In the order in which they are tried."""
        return self._keys

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Read one PEM file, or every `*.pem` of a folder: RSA of 2048 to 4096 bits or P-256.

        One key that cannot be used makes the whole ring unusable: a person meant it to be there.

        Raises:
            VerificationError: key-missing, if there is no key or it cannot be read.
            FormatError: key-malformed.
        """
        files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        if not files:
            raise _missing(path, "expected a key in a file *.pem, got none")
        return cls([_trusted_key(file) for file in files])

    def verify(self, digest: bytes, signatures: Sequence[Signature], *, major: int, what: str) -> str:
        """Find a trusted key that made one of `signatures` over `digest`; returns the name of its file.

        Every signature is tried with every key, whatever version it carries.

        Args:
            digest: SHA-256 of what was signed.
            signatures: those that came with it.
            major: version of the payload format.
            what: was signed, for the message.

        Raises:
            VerificationError: signature-missing, signature-invalid.
        """
        if not signatures:
            raise VerificationError(
                Kind.SIGNATURE_MISSING,
                f"{what}: expected a signature, got none",
                hint=f"sign it with one of the trusted keys: {self._describe()}",
            )
        for key in self._keys:
            if any(key.has_signed(digest, signature.data, major=major) for signature in signatures):
                return key.name
        raise VerificationError(
            Kind.SIGNATURE_INVALID,
            f"{what}: expected a signature by a trusted key, got {len(signatures)} by none of them",
            hint=f"it was changed on the way, or signed with another key; trusted keys: {self._describe()}",
        )

    def _describe(self) -> str:
        return ", ".join(f"{key.name} (sha256 {key.fingerprint})" for key in self._keys)


class SigningKey:
    """A private key that signs payloads."""

    def __init__(self, private_key: PrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read an unencrypted PEM file: RSA of 2048 to 4096 bits or P-256.

        Raises:
            VerificationError: key-missing, if it cannot be read.
            FormatError: key-malformed.
        """
        data = _read(path)
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _malformed(path, "expected an unencrypted private key in PEM form, got something else") from error
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise _malformed(path, f"expected an RSA or P-256 key, got {type(key).__name__}")
        _check_strength(path, key)
        return cls(key)

    @property
    def is_rsa(self) -> bool:
        """Whether major version 1 can use it."""
        return isinstance(self._private_key, rsa.RSAPrivateKey)

    @property
    def signature_size(self) -> int:
        """The most bytes that `sign` returns; RSA returns exactly so many."""
        if isinstance(self._private_key, rsa.RSAPrivateKey):
            return self._private_key.key_size // 8
        return P256_SIGNATURE_BYTES

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest (32 bytes); the same signature every time."""
        if isinstance(self._private_key, rsa.RSAPrivateKey):
            return self._private_key.sign(digest, padding.PKCS1v15(), _SHA256)
        return self._private_key.sign(digest, ec.ECDSA(_SHA256, deterministic_signing=True))


def _trusted_key(path: Path) -> TrustedKey:
    data = _read(path)
    if data.count(_ANY_HEAD) != 1 or _PUBLIC_HEAD not in data:
        raise _malformed(path, "expected one PEM block PUBLIC KEY, got something else")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _malformed(path, "expected a public key in PEM form, got something else") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _malformed(path, f"expected an RSA or P-256 key, got {type(key).__name__}")
    _check_strength(path, key)
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fingerprint = hashlib.sha256(info).hexdigest()[:_FINGERPRINT_CHARS]
    return TrustedKey(name=path.name, fingerprint=fingerprint, public_key=key)


def _check_strength(path: Path, key: PublicKey | PrivateKey) -> None:
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        if key.key_size not in RSA_KEY_BITS:
            raise _malformed(path, f"expected an RSA key of 2048 to 4096 bits, got {key.key_size}")
    elif not isinstance(key.curve, ec.SECP256R1):
        raise _malformed(path, f"expected the curve P-256, got {key.curve.name}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise _missing(path, f"cannot read the key: {error.strerror}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise _malformed(path, f"expected at most {MAX_KEY_FILE_BYTES} bytes, got more")
    return data


def _missing(path: Path, what: str) -> VerificationError:
    return VerificationError(
        Kind.KEY_MISSING,
        f"{path}: {what}",
        hint="install the public key of whoever signs your updates; without it there are none",
    )


def _malformed(path: Path, what: str) -> FormatError:
    return FormatError(
        Kind.KEY_MALFORMED,
        f"{path}: {what}",
        hint="usable are RSA keys of 2048 to 4096 bits and P-256 keys, one in a file",
    )
