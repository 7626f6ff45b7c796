"""Payloads beyond 2 and 4 GiB: offsets, hashes and signatures cover every byte, from the builder to the slot."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builds import BLOCK, MIB, build
from tests.support.images import make_sgdisk_image
from tests.support.payloads import RSA_A_PUBLIC
from update_agent.cli.main import main
from update_agent.domain.encode import Compression
from update_agent.domain.signing import payload_digests
from update_agent.domain.slots import SlotTable
from update_agent.domain.trust import KeyRing
from update_agent.errors import VerificationError
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import Header, signatures_from_bytes
from update_agent.host.blockdev import FileDevice
from update_agent.host.disk import GptDisk

V2_IMAGE_MIB = 4100
V1_IMAGE_MIB = 2050


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose big files do not wait for pytest to clean up."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


def make_image(path: Path, size_mib: int) -> None:
    """A sparse image with one block of content in every MiB, each of its own."""
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)
        for number in range(size_mib):
            file.seek(number * MIB + BLOCK * 3)
            file.write(number.to_bytes(4, "big") * (BLOCK // 4))


def check_signature(path: Path) -> None:
    """Verify the payload's own signature over all of its bytes.

    Raises:
        VerificationError: signature-invalid.
    """
    with FileDevice(path) as file:
        header = Header.from_bytes(file.read_at(0, 24))
        manifest = Manifest.from_bytes(file.read_at(header.size_bytes, header.manifest_size), header.major)
        assert manifest.signatures_offset is not None
        assert manifest.signatures_size is not None
        start = header.data_start + manifest.signatures_offset
        signatures = signatures_from_bytes(file.read_at(start, manifest.signatures_size))
    ring = KeyRing.load(RSA_A_PUBLIC)
    ring.verify(payload_digests(path).payload, signatures, major=header.major, what="payload")


def check_last_blob(path: Path, number: int) -> None:
    """The last MiB of the image is where its operation says, and is what its hash says."""
    with FileDevice(path) as file:
        header = Header.from_bytes(file.read_at(0, 24))
        manifest = Manifest.from_bytes(file.read_at(header.size_bytes, header.manifest_size), header.major)
        last = manifest.parts[0].operations[-1]
        blob = file.read_at(header.data_start + last.data_offset, last.data_length)
    assert blob[BLOCK * 3 : BLOCK * 4] == number.to_bytes(4, "big") * (BLOCK // 4)
    assert hashlib.sha256(blob).digest() == last.data_sha256


def check_install(folder: Path, payload: Path, size_mib: int) -> None:
    """The payload installs, and slot B holds the image: its pattern where it was, nothing in between."""
    disk = make_sgdisk_image(folder / "disk.img", usr_bytes=size_mib * MIB)
    assert main(["--image", str(disk), "install", "--payload", str(payload), "--public-key", str(RSA_A_PUBLIC)]) == 0
    shutil.rmtree(folder / "disk.img.state")
    with FileDevice(disk) as file:
        slot = SlotTable.from_disk(GptDisk(file)).b
        for number in (*range(0, size_mib, 97), size_mib - 1):
            mib = file.read_at(slot.start_bytes + number * MIB, MIB)
            assert mib[BLOCK * 3 : BLOCK * 4] == number.to_bytes(4, "big") * (BLOCK // 4)
            assert mib.count(0) >= MIB - BLOCK
    disk.unlink()


@pytest.mark.slow
def test_build_and_install_v2_beyond_4_gib_is_signed_whole(folder: Path) -> None:
    make_image(folder / "usr.img", V2_IMAGE_MIB)
    report = build(folder, compression=Compression.NONE, workers=2)
    (folder / "usr.img").unlink()
    payload = folder / "out.payload"
    assert report.payload_size_bytes == payload.stat().st_size > 2**32

    check_last_blob(payload, V2_IMAGE_MIB - 1)
    check_signature(payload)
    check_install(folder, payload, V2_IMAGE_MIB)
    with payload.open("r+b") as file:
        file.seek(2**32 + 5)
        byte = file.read(1)[0]
        file.seek(2**32 + 5)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(VerificationError):
        check_signature(payload)


@pytest.mark.slow
def test_build_and_install_v1_beyond_2_gib_is_signed_whole(folder: Path) -> None:
    make_image(folder / "usr.img", V1_IMAGE_MIB)
    report = build(folder, compression=Compression.NONE, major=1, workers=2)
    (folder / "usr.img").unlink()
    payload = folder / "out.payload"
    assert report.payload_size_bytes == payload.stat().st_size > 2**31

    check_last_blob(payload, V1_IMAGE_MIB - 1)
    check_signature(payload)
    check_install(folder, payload, V1_IMAGE_MIB)
