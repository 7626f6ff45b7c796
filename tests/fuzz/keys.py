"""Files with keys: what is no usable key is refused, and a key ring never holds a private or a weak one."""

import base64
import contextlib
import functools
import os
import random
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.payloads import DATA, P256, P256_PUBLIC, RSA_A, RSA_A_PUBLIC
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.errors import FormatError, VerificationError


@functools.cache
def _file() -> int:
    """A file in memory that is written anew for each input."""
    return os.memfd_create("key.pem")


def _run(data: bytes) -> None:
    os.ftruncate(_file(), 0)
    os.pwrite(_file(), data, 0)
    path = Path(f"/proc/self/fd/{_file()}")
    with contextlib.suppress(FormatError):
        (key,) = KeyRing.load(path).keys
        assert isinstance(key.public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        assert key.public_key.key_size in (256, *range(2048, 4097))
        assert not key.has_signed(bytes(32), b"", major=2)
    with contextlib.suppress(FormatError):
        signing = SigningKey.load(path)
        assert len(signing.sign(bytes(32))) <= signing.signature_size
    with contextlib.suppress(FormatError, VerificationError):
        KeyRing.load(path).verify(bytes(32), (), major=1, what="fuzz")


def _seeds() -> Iterator[bytes]:
    for path in (RSA_A, RSA_A_PUBLIC, P256, P256_PUBLIC, DATA / "payload-key.pub.pem"):
        yield path.read_bytes()
    for curve in (ec.SECP384R1(), ec.SECP256K1()):
        other = ec.generate_private_key(curve)
        yield other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        yield other.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    weak = rsa.generate_private_key(65537, 1024)
    yield weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield RSA_A_PUBLIC.read_bytes() + P256_PUBLIC.read_bytes()
    yield b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Mostly inside of the encoding: in the text, nearly every change makes it no PEM at all."""
    lines = data.split(b"\n")
    if rng.random() < 0.2 or len(lines) < 3:
        return mutate_bytes(data, rng)
    try:
        inner = base64.b64decode(b"".join(lines[1:-2]), validate=True)
    except ValueError:
        return mutate_bytes(data, rng)
    cut = rng.choice((32, len(inner)))
    changed = mutate_bytes(inner[:cut], rng) + inner[cut:]
    return b"\n".join((lines[0], base64.b64encode(changed), *lines[-2:]))


TARGETS = {"keys": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=8192)}
