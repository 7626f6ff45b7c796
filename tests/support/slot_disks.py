"""Disks with file systems in their slots, made without mounting anything; and who of the machine's is in use."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.images import MIB, make_sgdisk_image
from update_agent.domain.slots import Slot, SlotTable
from update_agent.host.blockdev import FileDevice
from update_agent.host.disk import GptDisk

SLOT_BYTES = 2 * MIB


def make_tree(folder: Path, postinst: str | None) -> Path:
    """The content of a release: a file, and perhaps a script."""
    folder.mkdir(parents=True)
    (folder / "release").write_text("new\n")
    if postinst is not None:
        script = folder / "postinst"
        script.write_text(postinst)
        script.chmod(0o755)
    return folder


def make_ext_image(tree: Path, image: Path, *, kind: str = "ext4") -> Path:
    """A file system that holds the tree."""
    if shutil.which("mke2fs") is None:
        pytest.skip("mke2fs (package e2fsprogs) is not installed")
    with image.open("wb") as file:
        file.truncate(SLOT_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", kind, "-d", str(tree), str(image)], check=True, capture_output=True)
    return image


def make_slot_disk(path: Path, content: bytes) -> Path:
    """A disk whose slot B holds these bytes."""
    make_sgdisk_image(path, usr_bytes=SLOT_BYTES)
    with path.open("r+b") as file:
        file.seek(slot_b(path).start_bytes)
        file.write(content)
    return path


def slot_b(disk: Path) -> Slot:
    """As it is in the partition table."""
    with FileDevice(disk) as device:
        return SlotTable.from_disk(GptDisk(device, sector_size_bytes=device.logical_sector_bytes)).b


def require_private_mounts() -> None:
    """Skip the test where nothing can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if not Path("/dev/loop-control").exists():
        pytest.skip("there are no loop devices")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("mount namespaces are not allowed here")


@contextmanager
def attached(image: Path) -> Iterator[Path]:
    """The image as a loop device with the nodes of its partitions."""
    found = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"losetup does not work here: {found.stderr.strip()}")
    device = found.stdout.strip()
    try:
        added = subprocess.run(["partx", "--add", device], capture_output=True, text=True, check=False)
        if added.returncode != 0:
            pytest.skip(f"partx does not work here: {added.stderr.strip()}")
        yield Path(device)
    finally:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=True)


def loops_over(backing: Path) -> list[str]:
    """Loop devices over a file or a device, as the kernel lists them."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if entry.read_text().strip() == str(backing):
                found.append(entry.parts[3])
        except OSError:  # detached meanwhile
            continue
    return found


def mounts_at(folder: Path) -> list[str]:
    """Lines of the mount table of this process that name the folder."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line.split()]
