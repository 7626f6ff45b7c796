"""Payloads written by update_engine's own generator, and programs that know each piece."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.payloads import DATA, RSA_A_PUBLIC
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.errors import FormatError, UpdateAgentError, VerificationError
from update_agent.formats.compression import compress, decompress, decompress_chunks
from update_agent.formats.manifest import Manifest, Operation, OperationType, Part, PartName
from update_agent.formats.payload import Header, Signature, signatures_from_bytes, signatures_to_bytes

KEY = DATA / "payload-key.pub.pem"
USR = (4210688, "346ff5b4b03b85e18121dd619fa7d5aa99e745ed5bd13707ac2ce7cb3451cafd")
KERNEL = (250007, "51c3a39ce7f28675fdd0387887e5ba9633b29d245f1905588053dd00cccefc58")
EXPECTED = {
    "usr-only.payload": {PartName.USR: USR},
    "usr-and-kernel.payload": {PartName.USR: USR, PartName.KERNEL: KERNEL},
}

CONTENT = bytes(range(256)) * 4096
PROGRAMS = {
    OperationType.REPLACE_BZ: "bzip2",
    OperationType.REPLACE_XZ: "xz",
    OperationType.REPLACE_ZSTD: "zstd",
}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A payload in its pieces; making it checks everything but the keys."""

    data: bytes
    header: Header
    manifest: Manifest
    signatures: tuple[Signature, ...]

    @classmethod
    def read(cls, data: bytes) -> "Payload":
        header = Header.from_bytes(data)
        manifest = Manifest.from_bytes(data[header.size_bytes : header.metadata_size], header.major)
        offset, size = manifest.signatures_offset, manifest.signatures_size
        if offset is None or size is None:
            raise AssertionError("not signed")
        signatures = signatures_from_bytes(data[header.data_start + offset :][:size])
        return cls(data=data, header=header, manifest=manifest, signatures=signatures)

    @property
    def signed(self) -> bytes:
        return self.data[: self.header.data_start + (self.manifest.signatures_offset or 0)]

    def verify(self, key: Path) -> str:
        digest = hashlib.sha256(self.signed).digest()
        return KeyRing.load(key).verify(digest, self.signatures, major=self.header.major, what="payload")

    def blob(self, operation: Operation) -> bytes:
        start = self.header.data_start + operation.data_offset
        return self.data[start : start + operation.data_length]

    def blobs(self) -> Iterator[tuple[Operation, bytes]]:
        for part in self.manifest.parts:
            for operation in part.operations:
                yield operation, self.blob(operation)

    def unpack(self, part: Part) -> bytes:
        block_size = self.manifest.block_size
        content = bytearray()
        for operation in part.operations:
            (extent,) = operation.dst_extents
            assert len(content) == extent.start_block * block_size
            content += decompress(operation.type, self.blob(operation), extent.num_blocks * block_size)
        return bytes(content)


@pytest.fixture(params=sorted(EXPECTED))
def payload(request: pytest.FixtureRequest) -> Payload:
    return Payload.read((DATA / request.param).read_bytes())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_upstream_payload_unpacks_to_the_known_content(name: str) -> None:
    payload = Payload.read((DATA / name).read_bytes())
    assert {part.name for part in payload.manifest.parts} == set(EXPECTED[name])
    for part in payload.manifest.parts:
        content = payload.unpack(part)
        assert part.new is not None
        assert (len(content), hashlib.sha256(content).hexdigest()) == EXPECTED[name][part.name]
        assert (part.new.size_bytes, part.new.sha256.hex()) == EXPECTED[name][part.name]


def test_upstream_payload_is_signed_by_its_key_and_no_other(payload: Payload) -> None:
    assert payload.verify(KEY) == "payload-key.pub.pem"
    with pytest.raises(VerificationError):
        payload.verify(RSA_A_PUBLIC)


def test_upstream_blobs_have_the_stated_hashes(payload: Payload) -> None:
    for operation, blob in payload.blobs():
        assert hashlib.sha256(blob).digest() == operation.data_sha256


def test_upstream_blobs_stream_in_pieces(payload: Payload) -> None:
    for operation, blob in payload.blobs():
        chunks = (blob[start : start + 65536] for start in range(0, len(blob), 65536))
        pieces = list(decompress_chunks(operation.type, chunks, 1024 * 1024, 4096))
        assert b"".join(pieces) == decompress(operation.type, blob, 1024 * 1024)


def test_upstream_bytes_come_back_when_written_again(payload: Payload) -> None:
    header, data = payload.header, payload.data
    assert header.to_bytes() == data[: header.size_bytes]
    assert payload.manifest.to_bytes() == data[header.size_bytes : header.metadata_size]
    assert signatures_to_bytes(payload.signatures) == data[len(payload.signed) :]


def test_upstream_noop_operations_cover_the_kernel_and_the_signatures() -> None:
    manifest = Payload.read((DATA / "usr-and-kernel.payload").read_bytes()).manifest
    kernel = manifest.part(PartName.KERNEL)
    assert kernel is not None
    *of_kernel, of_signatures = manifest.noop_operations
    assert [(noop.data_offset, noop.data_length, noop.data_sha256) for noop in of_kernel] == [
        (operation.data_offset, operation.data_length, operation.data_sha256) for operation in kernel.operations
    ]
    assert (of_signatures.data_offset, of_signatures.data_length) == (
        manifest.signatures_offset,
        manifest.signatures_size,
    )


def is_accepted(data: bytes) -> bool:
    try:
        payload = Payload.read(data)
        payload.verify(KEY)
    except (FormatError, VerificationError):
        return False
    return True


def test_upstream_payload_with_one_bit_flipped_is_refused() -> None:
    data = bytearray((DATA / "usr-only.payload").read_bytes())
    metadata_size = Header.from_bytes(bytes(data[:24])).metadata_size
    assert is_accepted(bytes(data))
    # Every byte of header and manifest, some of the blobs, every byte of the signature's data.
    positions = [
        *range(metadata_size),
        *range(metadata_size, len(data) - 264, 100_003),
        *range(len(data) - 256, len(data)),
    ]
    for position in positions:
        data[position] ^= 1 << position % 8
        assert not is_accepted(bytes(data)), position
        data[position] ^= 1 << position % 8


def test_upstream_payload_cut_short_is_refused() -> None:
    data = (DATA / "usr-only.payload").read_bytes()
    for length in (0, 4, 19, 20, 24, 100, 358, 359, 360, len(data) - 264, len(data) - 100, len(data) - 1):
        with pytest.raises(UpdateAgentError):
            Payload.read(data[:length]).verify(KEY)


# --------------------------------------------------------------------------------------------- openssl, bzip2, xz, zstd


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_the_same_signature(payload: Payload, tmp_path: Path) -> None:
    (tmp_path / "signed").write_bytes(payload.signed)
    (tmp_path / "signature").write_bytes(payload.signatures[0].data)
    command: list[str | Path] = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        KEY,
        "-signature",
        tmp_path / "signature",
        tmp_path / "signed",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stdout.strip() == b"Verified OK"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("name", ["rsa-a", "p256"])
def test_openssl_and_we_accept_the_signatures_of_each_other(name: str, tmp_path: Path) -> None:
    private, public = DATA / "keys" / f"{name}.key.pem", DATA / "keys" / f"{name}.pub.pem"
    signed, ours, theirs = tmp_path / "signed", tmp_path / "ours", tmp_path / "theirs"
    signed.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).digest()
    ours.write_bytes(SigningKey.load(private).sign(digest))
    verify: list[str | Path] = ["openssl", "dgst", "-sha256", "-verify", public, "-signature", ours, signed]
    assert subprocess.run(verify, capture_output=True, check=False).stdout.strip() == b"Verified OK"
    subprocess.run(["openssl", "dgst", "-sha256", "-sign", private, "-out", theirs, signed], check=True)
    signature = Signature(version=None, data=theirs.read_bytes())
    assert KeyRing.load(public).verify(digest, [signature], major=2, what="payload") == public.name


@pytest.mark.parametrize(("type_", "program"), sorted(PROGRAMS.items()))
def test_each_compressor_and_its_program_read_each_other(type_: OperationType, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")

    def run(option: str, data: bytes) -> bytes:
        return subprocess.run([program, option, "-c", "-q"], input=data, capture_output=True, check=True).stdout

    assert run("-d", compress(type_, CONTENT)) == CONTENT
    assert decompress(type_, run("-6", CONTENT), len(CONTENT)) == CONTENT
