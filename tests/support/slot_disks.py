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


_MAKERS = {
    "ext2": ("mke2fs", "e2fsprogs"),
    "ext3": ("mke2fs", "e2fsprogs"),
    "ext4": ("mke2fs", "e2fsprogs"),
    "btrfs": ("mkfs.btrfs", "btrfs-progs"),
    "erofs": ("mkfs.erofs", "erofs-utils"),
    "squashfs": ("mksquashfs", "squashfs-tools"),
}

_SIZES = {"btrfs": 32 * MIB}
"""Of what has a least size; the makers of erofs and squashfs choose theirs."""


def make_file_system(tree: Path, image: Path, *, kind: str = "ext4", size_bytes: int = SLOT_BYTES) -> bytes:
    """A file system that holds the tree."""
    program, package = _MAKERS[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} (package {package}) is not installed")
    if kind not in {"erofs", "squashfs"}:
        with image.open("wb") as file:
            file.truncate(max(size_bytes, _SIZES.get(kind, 0)))
    commands: dict[str, list[str | Path]] = {
        "btrfs": ["mkfs.btrfs", "-q", "--mixed", "--rootdir", tree, image],
        "erofs": ["mkfs.erofs", image, tree],
        "squashfs": ["mksquashfs", tree, image, "-quiet", "-no-progress"],
    }
    command = commands.get(kind) or ["mke2fs", "-q", "-t", kind, "-d", tree, image]
    subprocess.run(command, check=True, capture_output=True)
    return image.read_bytes()


def make_slot_disk(path: Path, content: bytes) -> Path:
    """A disk whose slot B holds these bytes."""
    make_sgdisk_image(path, usr_bytes=max(SLOT_BYTES, -(-len(content) // MIB) * MIB))
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
            # In a chroot the kernel may name what is above it, too.
            if entry.read_text().strip().endswith(str(backing)):
                found.append(entry.parts[3])
        except OSError:  # detached meanwhile
            continue
    return found


def mounts_at(folder: Path) -> list[str]:
    """Lines of the mount table of this process that name the folder."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line.split()]
