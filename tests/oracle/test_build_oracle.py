"""Payloads against other programs: update_engine's generator, openssl, protoc, bspatch, mke2fs."""

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.builds import BLOCK, MIB, build, decode, split
from tests.support.payloads import DATA, P256, P256_PUBLIC, RSA_A, RSA_A_PUBLIC, RSA_B
from update_agent.domain.encode import Compression
from update_agent.domain.signing import attach_signatures, payload_digests
from update_agent.domain.trust import SigningKey
from update_agent.formats.manifest import OperationType, PartName
from update_agent.formats.payload import signatures_from_bytes

# Debian keeps mke2fs where only root looks by default.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
needs_protoc = pytest.mark.skipif(shutil.which("protoc") is None, reason="protoc (protobuf-compiler) is not installed")
needs_mke2fs = pytest.mark.skipif(
    shutil.which("mke2fs", path=PATH) is None or shutil.which("bspatch") is None,
    reason="mke2fs (e2fsprogs) or bspatch (bsdiff) is not installed",
)


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    environment = os.environ | {"PATH": PATH}
    return subprocess.run(command, input=data, check=True, capture_output=True, timeout=60, env=environment).stdout


def openssl_verifies(signed: bytes, signature: bytes, key: Path, folder: Path) -> bool:
    signature_file = folder / "signature.bin"
    signature_file.write_bytes(signature)
    command = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(signature_file)]
    return subprocess.run(command, input=signed, capture_output=True, check=False, timeout=30).returncode == 0


def openssl_sign(digest: bytes, key: Path) -> bytes:
    return run("openssl", "pkeyutl", "-sign", "-inkey", key, "-pkeyopt", "digest:sha256", data=digest)


def decode_raw(message: bytes) -> list[str]:
    return run("protoc", "--decode_raw", data=message).decode().splitlines()


@needs_openssl
@pytest.mark.parametrize("name", ["usr-only", "usr-and-kernel"])
def test_build_v1_from_content_of_genuine_payload_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    genuine = (DATA / f"{name}.payload").read_bytes()
    (tmp_path / "usr.img").write_bytes(decode(genuine, PartName.USR, tmp_path))
    kernel = None
    if split(genuine)[1].part(PartName.KERNEL) is not None:
        kernel = tmp_path / "kernel"
        kernel.write_bytes(decode(genuine, PartName.KERNEL, tmp_path))

    build(tmp_path, kernel=kernel, major=1, compression=Compression.BZIP2, signature_sizes=(256,))
    attach_signatures(
        tmp_path / "out.payload",
        metadata_signatures=(),
        payload_signatures=(genuine[-256:],),
        output=tmp_path / "signed.payload",
    )

    assert (tmp_path / "signed.payload").read_bytes() == genuine
    digest = payload_digests(tmp_path / "out.payload").payload
    recovered = run(
        *("openssl", "rsautl", "-verify", "-pubin", "-inkey", DATA / "payload-key.pub.pem"), data=genuine[-256:]
    )
    assert recovered[-32:] == digest


@needs_openssl
def test_build_v1_signature_is_accepted_by_openssl_from_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"content." * BLOCK)
    build(tmp_path, major=1, compression=Compression.BZIP2)
    payload = (tmp_path / "out.payload").read_bytes()

    # Signatures{1: Signature{1: 2, 2: 256 bytes}} for a key of 2048 bits
    assert payload[-264:-256] == bytes.fromhex("0a85020802128002")
    assert openssl_verifies(payload[:-264], payload[-256:], RSA_A_PUBLIC, tmp_path)
    assert not openssl_verifies(payload[:-265] + b"x", payload[-256:], RSA_A_PUBLIC, tmp_path)


@needs_openssl
@pytest.mark.parametrize(("key", "public"), [(RSA_A, RSA_A_PUBLIC), (P256, P256_PUBLIC)], ids=["rsa", "p256"])
def test_build_v2_signatures_are_accepted_by_openssl(tmp_path: Path, key: Path, public: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"content." * BLOCK)
    build(tmp_path, keys=(SigningKey.load(RSA_B), SigningKey.load(key)))
    payload = (tmp_path / "out.payload").read_bytes()
    manifest_size, signature_size = struct.unpack(">QI", payload[12:24])
    metadata = payload[: 24 + manifest_size]
    metadata_list = payload[len(metadata) : len(metadata) + signature_size]
    payload_list = payload[-signature_size:]
    blobs = payload[len(metadata) + signature_size : -signature_size]

    in_metadata = signatures_from_bytes(metadata_list)[1].data
    in_payload = signatures_from_bytes(payload_list)[1].data
    assert openssl_verifies(metadata, in_metadata, public, tmp_path)
    assert openssl_verifies(metadata + blobs, in_payload, public, tmp_path)


@needs_protoc
def test_build_manifest_as_protoc_reads_it_agrees_on_counts(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(random.Random(1).randbytes(5 * MIB))
    (tmp_path / "kernel").write_bytes(b"k" * (2 * MIB + 5))
    report = build(tmp_path, kernel=tmp_path / "kernel", major=1, compression=Compression.BZIP2)
    payload = (tmp_path / "out.payload").read_bytes()

    lines = decode_raw(payload[20 : report.metadata_size_bytes])

    assert lines.count("1 {") == 5
    assert lines.count("2 {") == 3 + 1
    assert lines.count("  2 {") == 3
    assert "3: 4096" in lines
    size = len(payload) - report.metadata_size_bytes - 264
    assert f"4: {size}" in lines
    assert "5: 264" in lines


@needs_openssl
@pytest.mark.parametrize("major", [1, 2])
def test_attach_signatures_made_by_openssl_gives_the_file_of_direct_signing(tmp_path: Path, major: int) -> None:
    (tmp_path / "usr.img").write_bytes(b"content." * BLOCK)
    keys = (RSA_B, RSA_A)
    compression = Compression.BZIP2
    build(
        tmp_path,
        major=major,
        compression=compression,
        keys=tuple(map(SigningKey.load, keys)),
        output=tmp_path / "direct",
    )
    build(tmp_path, major=major, compression=compression, signature_sizes=(256, 256), output=tmp_path / "empty")

    digests = payload_digests(tmp_path / "empty")
    metadata = () if digests.metadata is None else tuple(openssl_sign(digests.metadata, key) for key in keys)
    payload = tuple(openssl_sign(digests.payload, key) for key in keys)
    attach_signatures(
        tmp_path / "empty", metadata_signatures=metadata, payload_signatures=payload, output=tmp_path / "signed"
    )

    assert (digests.metadata is None) == (major == 1)
    assert (tmp_path / "signed").read_bytes() == (tmp_path / "direct").read_bytes()


@needs_openssl
def test_attach_p256_signatures_made_by_openssl_verify(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"content." * BLOCK)
    build(tmp_path, signature_sizes=(72,))
    output = tmp_path / "out.payload"
    digests = payload_digests(output)
    assert digests.metadata is not None

    attach_signatures(
        output,
        metadata_signatures=(openssl_sign(digests.metadata, P256),),
        payload_signatures=(openssl_sign(digests.payload, P256),),
        output=output,
    )

    header, manifest, blobs = split(output.read_bytes())
    signature = signatures_from_bytes(blobs[manifest.blob_bytes :])[0].data
    signed = output.read_bytes()[: header.metadata_size] + blobs[: manifest.blob_bytes]
    assert openssl_verifies(signed, signature, P256_PUBLIC, tmp_path)


def _make_ext4(folder: Path, image: Path, size_mib: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    options = "root_owner=0:0,hash_seed=6b1d7d9c-3c5e-4f0f-9d3b-0f3c1c1f3a10"
    uuid = "f2f1cc0e-56a5-4d0a-8c1e-5f0a2f1b0c11"
    run("mke2fs", "-q", "-t", "ext4", "-E", options, "-U", uuid, "-d", folder, image)


def _words(generator: random.Random, count: int, dictionary: Sequence[bytes]) -> bytes:
    return b" ".join(generator.choices(dictionary, k=count))


@needs_mke2fs
def test_build_delta_of_two_ext4_images_reconstructs_and_is_much_smaller(tmp_path: Path) -> None:
    generator = random.Random(7)
    dictionary = [generator.randbytes(generator.randint(2, 9)) for _ in range(5000)]
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(60):
        (tree / f"file{number:02}").write_bytes(_words(generator, generator.randint(1000, 30000), dictionary))
    _make_ext4(tree, tmp_path / "old.img", 16)
    (tree / "file00").unlink()
    (tree / "new").write_bytes(_words(generator, 3000, dictionary))
    for number in (7, 20, 21, 40):
        path = tree / f"file{number:02}"
        data = path.read_bytes()
        path.write_bytes(data[:5000] + b"inserted text" + data[5000:])
    _make_ext4(tree, tmp_path / "usr.img", 20)

    full = build(tmp_path, level=3, output=tmp_path / "full")
    delta = build(tmp_path, level=3, source_usr=tmp_path / "old.img")

    payload = (tmp_path / "out.payload").read_bytes()
    old = (tmp_path / "old.img").read_bytes()
    new = (tmp_path / "usr.img").read_bytes()
    counts = dict(delta.operations)
    assert decode(payload, PartName.USR, tmp_path, old=old) == new
    assert counts[OperationType.SOURCE_COPY] > 0
    assert counts[OperationType.SOURCE_BSDIFF] > 0
    assert delta.payload_size_bytes * 20 < full.payload_size_bytes
