"""A real block device with partition nodes of its own: what image files cannot show."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Result, run_cli
from tests.support.images import MIB, make_sgdisk_image, run_sgdisk
from tests.support.payloads import RSA_A_PUBLIC, make_payload

NEW = bytes(range(256)) * 4096


def tool(*command: str) -> str:
    """What a program of util-linux prints; skips the test where it cannot work, as in most containers."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (package mount or util-linux) is not installed")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"{' '.join(command)} does not work here: {result.stderr.strip()}")
    return result.stdout.strip()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A loop device with the nodes of its partitions."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    image = make_sgdisk_image(tmp_path / "disk.img", usr_bytes=MIB)
    device = tool("losetup", "--find", "--show", str(image))
    try:
        tool("partx", "--add", device)
        yield Path(device)
    finally:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=True)


def install(loop: Path, folder: Path) -> Result:
    payload = folder / "new.payload"
    payload.write_bytes(make_payload(NEW, op_bytes=65536))
    options = ("--state-dir", folder / "state", "--payload", payload, "--public-key", RSA_A_PUBLIC)
    return run_cli("--image", loop, "install", *options)


def test_install_on_a_block_device_is_seen_through_the_partition(loop: Path, tmp_path: Path) -> None:
    node = Path(f"{loop}p4")
    node.read_bytes()  # the node's page cache holds the old content now
    result = install(loop, tmp_path)
    assert result.status == 0, result.err
    assert node.read_bytes()[: len(NEW)] == NEW
    assert "No problems found" in run_sgdisk(loop, "--verify")


def test_install_on_a_partition_in_use_is_refused(loop: Path, tmp_path: Path) -> None:
    node = Path(f"{loop}p4")
    before = node.read_bytes()
    holder = os.open(node, os.O_RDONLY | os.O_EXCL)  # as a mount does
    try:
        result = install(loop, tmp_path)
    finally:
        os.close(holder)
    assert result.status == 5
    assert "in use" in result.err
    assert node.read_bytes() == before
