"""Payloads by update_engine's own generator on a disk in a file; and memory that does not grow with the image."""

import hashlib
import random
import tracemalloc
from pathlib import Path

import pytest

from tests.support.images import HAS_SGDISK, NO_SGDISK, make_sgdisk_image, run_sgdisk
from tests.support.nodes import BytesSource, Node, make_node
from tests.support.payloads import DATA, make_payload
from update_agent.domain.slots import SlotName
from update_agent.formats.operations import OperationType
from update_agent.host.blockdev import FileDevice

KEY = DATA / "payload-key.pub.pem"
USR_SIZE, USR_SHA256 = 4210688, "346ff5b4b03b85e18121dd619fa7d5aa99e745ed5bd13707ac2ce7cb3451cafd"
KERNEL_SIZE, KERNEL_SHA256 = 250007, "51c3a39ce7f28675fdd0387887e5ba9633b29d245f1905588053dd00cccefc58"
MIB = 1 << 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.skipif(not HAS_SGDISK, reason=NO_SGDISK)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", ["usr-only.payload", "usr-and-kernel.payload"])
def test_upstream_payload_on_a_disk_image_gives_what_upstream_gives(tmp_path: Path, name: str, workers: int) -> None:
    image = make_sgdisk_image(tmp_path / "disk", usr_bytes=5 * MIB)
    boot = tmp_path / "boot"
    boot.mkdir()
    with FileDevice(image, writable=True) as device:
        node = Node(device=device, folder=tmp_path / "state", boot_folder=boot)
        node.folder.mkdir()
        node.install((DATA / name).read_bytes(), keys=KEY, workers=workers)
        assert node.next_boot() is SlotName.B
        assert sha256(node.content(SlotName.B)[:USR_SIZE]) == USR_SHA256
        assert not any(node.content(SlotName.A))
    assert "No problems found" in run_sgdisk(image, "--verify")
    kernels = {path.name: path.read_bytes() for path in boot.iterdir()}
    if name == "usr-and-kernel.payload":
        assert list(kernels) == ["vmlinuz-b"]
        assert (len(kernels["vmlinuz-b"]), sha256(kernels["vmlinuz-b"])) == (KERNEL_SIZE, KERNEL_SHA256)
    else:
        assert not kernels


def peak_bytes(node: Node, source: BytesSource) -> int:
    tracemalloc.start()
    try:
        node.install(source)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("type_", [OperationType.REPLACE, OperationType.REPLACE_ZSTD])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, type_: OperationType) -> None:
    peaks = []
    for size in (8 * MIB, 64 * MIB):
        usr = random.Random(1).randbytes(MIB) * (size // MIB)
        source = BytesSource(make_payload(usr, types=(type_,), op_bytes=MIB), chunk_bytes=MIB)
        node = make_node(tmp_path, usr_bytes=size)
        del usr
        peaks.append(peak_bytes(node, source))
    # How full the queue of 1 MiB operations gets is up to the threads; the images differ by 56 MiB.
    assert abs(peaks[1] - peaks[0]) < 4 * MIB


def test_memory_does_not_grow_with_one_operation(tmp_path: Path) -> None:
    peaks = []
    for size in (8 * MIB, 32 * MIB):
        usr = random.Random(1).randbytes(MIB) * (size // MIB)
        source = BytesSource(make_payload(usr, types=(OperationType.REPLACE,), op_bytes=size), chunk_bytes=MIB)
        node = make_node(tmp_path, usr_bytes=size)
        peaks.append(peak_bytes(node, source))
    assert abs(peaks[1] - peaks[0]) < 2 * MIB
