"""Which disk and partition the running system was booted from, as the kernel knows it.

Sysfs is read directly: all that is needed are three links and two small files, while libudev, and so pyudev, knows no
other sysfs than `/sys`, and these answers must be tested for disks that no test machine has. What a device is called
decides nothing.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from update_agent.errors import InstallError, Kind

_LEVELS_MAX: Final = 8
"""Devices on top of each other; dm-verity on a partition is one."""

_TEXT_BYTES_MAX: Final = 4096
_MOUNTS_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BootedDisk:
    """Where the running `/usr` is.

    Attributes:
        disk: device node of the whole disk.
        partition_number: from 1, as in the partition table.
        partition: device node of the partition.
    """

    disk: Path
    partition_number: int
    partition: Path


def find_booted(root: Path = Path("/"), *, sys: Path = Path("/sys")) -> BootedDisk:
    """Find the partition behind `/usr`, or behind `/` where that is one file system, through dm-verity and the like.

    Whether it is a slot is for the partition table to say (`update_agent.domain.slots.booted_slot`).

    Raises:
        InstallError: boot-disk-unknown.
    """
    usr = root / "usr" if (root / "usr").exists() else root
    try:
        number = usr.stat().st_dev
        if os.major(number) == 0:
            number = _mounted_device(usr.resolve(), root)
    except (OSError, ValueError) as error:
        raise _unknown(f"{usr}: cannot find the device that it is on: {error}", "is /proc mounted?") from error
    return find_partition(number, dev=root / "dev", sys=sys)


def find_partition(number: int, *, dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> BootedDisk:
    """The partition that a device (as in `st_dev`) is, or is made of.

    Raises:
        InstallError: boot-disk-unknown.
    """
    name = f"{os.major(number)}:{os.minor(number)}"
    try:
        return _describe(_descend((sys / "dev/block" / name).resolve(strict=True)), dev)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise _unknown(f"device {name}: cannot find its disk: {error}", "is /sys mounted?") from error


def find_boot_folder(root: Path = Path("/")) -> Path | None:
    """Where `vmlinuz-a` and `vmlinuz-b` are kept, or None: CoreOS' folder while it is used, else Flatcar's."""
    coreos, flatcar = root / "boot/coreos", root / "boot/flatcar"
    if any((coreos / name).exists() for name in ("vmlinuz-a", "vmlinuz-b")):
        return coreos
    return flatcar if flatcar.is_dir() else None


def _unknown(message: str, hint: str) -> InstallError:
    return InstallError(Kind.BOOT_DISK_UNKNOWN, message, hint=hint)


def _mounted_device(usr: Path, root: Path) -> int:
    """The device of a file system that has no number of its own: btrfs names it in the table of mounts."""
    source, file_system = _mount_of(usr, root)
    try:
        status = (root / source.lstrip("/")).stat() if source.startswith("/") else None
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISBLK(status.st_mode):
        raise _unknown(
            f"{usr}: expected a file system on a partition, got {file_system} from {source!r}",
            "in a container, or on a live system without a disk, there is nothing to update: use --image",
        )
    return status.st_rdev


def _mount_of(usr: Path, root: Path) -> tuple[str, str]:
    """Source and type of the mount that `usr` is in (proc_pid_mountinfo(5)): the last one of the longest path."""
    with (root / "proc/self/mountinfo").open("rb") as file:
        lines = file.read(_MOUNTS_BYTES_MAX).decode(errors="surrogateescape").splitlines()
    inside = "/" / usr.relative_to(root.resolve())
    found, longest = ("nothing", "no file system"), -1
    for line in lines:
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 2:
            continue
        folder = Path(_unescape(place[4]))
        if inside.is_relative_to(folder) and len(folder.parts) >= longest:
            found, longest = (_unescape(kind[1]), kind[0]), len(folder.parts)
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _descend(device: Path) -> Path:
    """Go from a mapped device to what it is made of."""
    for _ in range(_LEVELS_MAX):
        slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
        if not slaves:
            return device
        if len(slaves) > 1:
            names = ", ".join(slave.name for slave in slaves)
            raise _unknown(
                f"{device.name}: expected one device below it, got {names}",
                "a slot must be one partition of one disk; a raid or a volume over several cannot be updated",
            )
        device = slaves[0].resolve(strict=True)
    raise _unknown(f"{device.name}: expected at most {_LEVELS_MAX} devices on top of each other", "check `lsblk`")


def _describe(partition: Path, dev: Path) -> BootedDisk:
    if not (partition / "partition").exists():
        raise _unknown(
            f"{partition.name}: expected a partition, got a whole disk",
            "the disk needs a partition table with two slots; to update another disk use --image",
        )
    return BootedDisk(
        disk=dev / _node_name(partition.parent),
        partition_number=int(_read(partition / "partition")),
        partition=dev / _node_name(partition),
    )


def _node_name(device: Path) -> str:
    """What the kernel calls its node, under /dev."""
    for line in _read(device / "uevent").splitlines():
        key, _, value = line.partition("=")
        if key == "DEVNAME" and value:
            return value
    return device.name.replace("!", "/")


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_TEXT_BYTES_MAX).decode()
