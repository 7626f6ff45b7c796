"""Which disk, partition and slot the running system is on; never by the name of a device."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.devices import MemoryDevice
from tests.support.images import Part, ab_parts, make_image
from tests.support.sysfs import FakeSysfs
from update_agent.domain.slots import SlotName, booted_slot
from update_agent.errors import InstallError, Kind
from update_agent.host.disk import GptDisk
from update_agent.host.system_disk import BootedDisk, find_boot_folder, find_booted, find_partition

PARTITION = os.makedev(259, 3)
DISK = os.makedev(259, 0)
OTHER = os.makedev(8, 1)
MAPPED = os.makedev(252, 0)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "sys")


@pytest.fixture
def anonymous_root() -> Iterator[Path]:
    """A root whose file system has no device number, as those of btrfs, overlays and containers."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        root = Path(folder)
        if os.major(root.stat().st_dev) != 0:
            pytest.skip("/dev/shm is on a device")
        for name in ("usr", "dev", "proc/self"):
            (root / name).mkdir(parents=True)
        yield root


def put_mounts(root: Path, *lines: str) -> None:
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in lines))


def make_node(path: Path, number: int) -> None:
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, number)
    except PermissionError:
        pytest.skip("making device nodes is not allowed here")


def find(sysfs: FakeSysfs, number: int = PARTITION) -> BootedDisk:
    return find_partition(number, sys=sysfs.root)


def refused(sysfs: FakeSysfs, number: int = PARTITION) -> InstallError:
    with pytest.raises(InstallError) as caught:
        find(sysfs, number)
    assert caught.value.kind is Kind.BOOT_DISK_UNKNOWN
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("disk", "partition", "index"),
    [
        ("nvme0n1", "nvme0n1p3", 3),
        ("mmcblk0", "mmcblk0p4", 4),
        ("loop93", "loop93p4", 4),
        ("sda", "sda13", 13),
        ("sda", "sda4", 3),
        ("cciss/c0d0", "cciss/c0d0p3", 3),
        ("vda", "root", 3),
    ],
)
def test_find_partition_goes_by_the_kernels_number(sysfs: FakeSysfs, disk: str, partition: str, index: int) -> None:
    sysfs.partition(sysfs.disk(disk, DISK), partition, index, PARTITION)
    assert find(sysfs) == BootedDisk(
        disk=Path("/dev") / disk, partition_number=index, partition=Path("/dev") / partition
    )


def test_find_partition_below_verity_is_found(sysfs: FakeSysfs) -> None:
    partition = sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, PARTITION)
    sysfs.mapped("dm-1", os.makedev(252, 1), sysfs.mapped("dm-0", MAPPED, partition))
    assert find(sysfs, os.makedev(252, 1)) == find(sysfs)


def test_find_partition_of_a_device_without_a_node_name_takes_its_own(sysfs: FakeSysfs) -> None:
    disk = sysfs.disk("cciss/c0d0", DISK)
    (sysfs.partition(disk, "cciss/c0d0p3", 3, PARTITION) / "uevent").write_text("MAJOR=259\n")
    assert find(sysfs).partition == Path("/dev/cciss/c0d0p3")


def test_find_partition_of_a_raid_is_refused_and_names_its_parts(sysfs: FakeSysfs) -> None:
    first = sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, PARTITION)
    second = sysfs.partition(sysfs.disk("sdb", OTHER), "sdb3", 3, os.makedev(8, 2))
    sysfs.mapped("md0", MAPPED, first, second)
    assert "sda3, sdb3" in refused(sysfs, MAPPED).message


def test_find_partition_of_a_whole_disk_is_refused(sysfs: FakeSysfs) -> None:
    sysfs.disk("vda", DISK)
    assert "whole disk" in refused(sysfs, DISK).message


def test_find_partition_of_a_device_that_the_kernel_does_not_know_is_refused(sysfs: FakeSysfs) -> None:
    assert refused(sysfs, OTHER).hint == "is /sys mounted?"


def test_find_partition_of_devices_without_end_is_refused(sysfs: FakeSysfs) -> None:
    below = sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, PARTITION)
    for minor in range(9):
        below = sysfs.mapped(f"dm-{minor}", os.makedev(252, minor), below)
    assert "at most 8" in refused(sysfs, os.makedev(252, 8)).message


def test_find_partition_of_a_device_on_itself_is_refused(sysfs: FakeSysfs) -> None:
    device = sysfs.mapped("dm-0", MAPPED)
    (device / "slaves/dm-0").symlink_to(device)
    refused(sysfs, MAPPED)


@pytest.mark.parametrize("content", [b"", b"three\n", b"\xff\n"])
def test_find_partition_with_a_damaged_number_is_refused(sysfs: FakeSysfs, content: bytes) -> None:
    (sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, PARTITION) / "partition").write_bytes(content)
    refused(sysfs)


def test_find_booted_takes_the_device_of_usr(sysfs: FakeSysfs, tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    if os.major(number) == 0:
        pytest.skip(f"{tmp_path} is on a file system without a device number")
    (tmp_path / "usr").mkdir()
    sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, number)
    booted = find_booted(tmp_path, sys=sysfs.root)
    assert booted == BootedDisk(disk=tmp_path / "dev/sda", partition_number=3, partition=tmp_path / "dev/sda3")
    (tmp_path / "usr").rmdir()
    assert find_booted(tmp_path, sys=sysfs.root) == booted


def test_find_booted_of_btrfs_takes_the_device_that_is_mounted(sysfs: FakeSysfs, anonymous_root: Path) -> None:
    sysfs.partition(sysfs.disk("sda", DISK), "sda3", 3, PARTITION)
    sysfs.partition(sysfs.disk("sdb", OTHER), "sdb9", 9, os.makedev(8, 9))
    make_node(anonymous_root / "dev/my usr", PARTITION)
    make_node(anonymous_root / "dev/sdb9", os.makedev(8, 9))
    put_mounts(
        anonymous_root,
        "20 1 0:30 / / rw - ext4 /dev/sdb9 rw",
        "21 20 0:31 / /usr ro - squashfs /dev/hidden ro",
        "22 21 0:32 / /usr ro shared:2 - btrfs /dev/my\\040usr ro",
        "23 20 0:33 / /usr2 ro - btrfs /dev/sdb9 ro",
        "24 22 0:34 / /usr/share/oem rw - btrfs /dev/sdb9 rw",
        "a line that is none",
    )
    assert find_booted(anonymous_root, sys=sysfs.root).partition_number == 3


@pytest.mark.parametrize(
    "line",
    [
        "20 1 0:30 / / rw - overlay overlay rw",
        "20 1 0:30 / / rw - tmpfs /dev rw",
        "20 1 0:30 / / rw - rootfs /dev/root rw",
        "20 1 0:30 / /home rw - ext4 /dev/sda1 rw",
        "",
    ],
)
def test_find_booted_in_a_container_is_refused(sysfs: FakeSysfs, anonymous_root: Path, line: str) -> None:
    put_mounts(anonymous_root, line)
    with pytest.raises(InstallError) as caught:
        find_booted(anonymous_root, sys=sysfs.root)
    assert caught.value.kind is Kind.BOOT_DISK_UNKNOWN
    assert "--image" in (caught.value.hint or "")


def test_find_booted_without_a_table_of_mounts_is_refused(sysfs: FakeSysfs, anonymous_root: Path) -> None:
    with pytest.raises(InstallError) as caught:
        find_booted(anonymous_root, sys=sysfs.root)
    assert caught.value.hint == "is /proc mounted?"


def test_find_booted_of_a_root_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InstallError) as caught:
        find_booted(tmp_path / "none", sys=tmp_path)
    assert caught.value.kind is Kind.BOOT_DISK_UNKNOWN


def test_boot_folder_is_coreos_while_it_holds_a_kernel(tmp_path: Path) -> None:
    assert find_boot_folder(tmp_path) is None
    coreos, flatcar = tmp_path / "boot/coreos", tmp_path / "boot/flatcar"
    coreos.mkdir(parents=True)
    assert find_boot_folder(tmp_path) is None
    flatcar.mkdir()
    assert find_boot_folder(tmp_path) == flatcar
    (coreos / "vmlinuz-b").touch()
    assert find_boot_folder(tmp_path) == coreos
    (coreos / "vmlinuz-b").rename(coreos / "vmlinuz-a")
    assert find_boot_folder(tmp_path) == coreos


def disk_of(*parts: Part) -> GptDisk:
    return GptDisk(MemoryDevice.of(make_image(parts), name="disk"))


def test_booted_slot_with_swapped_numbers_goes_by_the_label() -> None:
    disk = disk_of(Part(number=3, label="USR-B", sectors=8), Part(number=14, label="USR-A", sectors=8))
    assert booted_slot(disk, 3) is SlotName.B
    assert booted_slot(disk, 14) is SlotName.A


@pytest.mark.parametrize("number", [1, 9, 5, 0])
def test_booted_slot_on_another_partition_is_refused(number: int) -> None:
    with pytest.raises(InstallError) as caught:
        booted_slot(disk_of(*ab_parts()), number)
    assert caught.value.kind is Kind.BOOT_DISK_UNKNOWN
    assert f"partition {number}" in caught.value.message
    assert caught.value.hint
