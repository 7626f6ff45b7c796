"""Mounting a slot where nobody else sees it, and so that it goes away with the process that did it.

For a process with one thread that has nothing else to do (`update_agent.host.slot_child`): a mount namespace belongs to
a thread, and the way back is to end. The slot is mounted through a loop device that cannot be written, also where it is
a partition: mounting read-only would still replay a journal, and the slot is still held open by the install.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# linux/sched.h, linux/mount.h, linux/prctl.h
_CLONE_NEWNS: Final = 0x00020000
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

# linux/loop.h
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_AUTOCLEAR: Final = 4
_LOOP_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
_LOOP_CONFIG_HEAD: Final = struct.Struct("=II")
_LOOP_CONFIG_RESERVED: Final = bytes(64)

_LOOP_ATTEMPTS: Final = 64
"""Another process may take the free device first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """A kind of file system, and how to mount it without a byte being written.

    Attributes:
        magic_at: where it is known by `magic`.
        attempts: type and options, until the kernel knows one.
    """

    magic_at: int
    magic: bytes
    attempts: tuple[tuple[str, str], ...]


FILE_SYSTEMS: Final = (
    FileSystem(magic_at=0x438, magic=b"\x53\xef", attempts=(("ext4", "noload"), ("ext3", "noload"), ("ext2", ""))),
    FileSystem(
        magic_at=0x10040,
        magic=b"_BHRfS_M",
        attempts=(("btrfs", "rescue=nologreplay"), ("btrfs", "nologreplay")),  # the second before Linux 5.9
    ),
    FileSystem(magic_at=1024, magic=b"\xe2\xe1\xf5\xe0", attempts=(("erofs", ""),)),
    FileSystem(magic_at=0, magic=b"hsqs", attempts=(("squashfs", ""),)),
)

_UNKNOWN_TO_KERNEL: Final = frozenset({errno.ENODEV, errno.EINVAL})
"""No such type, or no such option."""


def find_file_system(device: Path, start_bytes: int) -> FileSystem | None:
    """What a range of a device or image holds, or None if that is no known file system.

    Raises:
        OSError: it cannot be read.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for kind in FILE_SYSTEMS:
            if os.pread(fd, len(kind.magic), start_bytes + kind.magic_at) == kind.magic:
                return kind
    finally:
        os.close(fd)
    return None


@contextmanager
def read_only_loop(backing: Path, *, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """A range of a device or image as a block device of its own, until the block has ended and nothing uses it.

    Needs Linux 5.8.

    Raises:
        OSError: there are no loop devices, or they are out of reach.
    """
    source = os.open(backing, os.O_RDONLY | os.O_CLOEXEC)
    try:
        node, fd = _configure_free_loop(source, start_bytes, size_bytes)
    finally:
        os.close(source)
    try:
        yield node
    finally:
        os.close(fd)


def _configure_free_loop(source: int, start_bytes: int, size_bytes: int) -> tuple[Path, int]:
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    info = _LOOP_INFO.pack(0, 0, 0, start_bytes, size_bytes, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    config = _LOOP_CONFIG_HEAD.pack(source, 0) + info + _LOOP_CONFIG_RESERVED
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_LOOP_ATTEMPTS):
            node = Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}")
            fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return node, fd
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device stays free")


def enter_private_namespace() -> None:
    """From here on what is mounted is seen by this process and its children alone, and goes with the last of them.

    Mounts of the machine still come in: some are made when they are first looked at (systemd.automount(5)).

    Raises:
        OSError: not allowed.
    """
    libc = _libc()
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), None, _MS_REC | _MS_SLAVE, "")


def mount_read_only(device: Path, mount_point: Path, kind: FileSystem) -> None:
    """Mount so that nothing in it is a device or gains rights, and nothing is written.

    Raises:
        OSError: the kernel's reason; EEXIST where btrfs has the same file system mounted from elsewhere.
    """
    failure: OSError | None = None
    for name, options in kind.attempts:
        try:
            _mount(str(device), mount_point, name, _MS_RDONLY | _MS_NOSUID | _MS_NODEV, options)
        except OSError as error:
            failure = failure or error
            if error.errno not in _UNKNOWN_TO_KERNEL:
                raise
        else:
            return
    raise failure or OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def die_with_parent(number: int) -> None:
    """Get signal `number` when the thread that started this process ends.

    Raises:
        OSError: the kernel does not know how.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends.

    Raises:
        OSError: the kernel does not know how.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    rest = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    _check(_libc().prctl(option, *rest), "prctl")


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str) -> None:
    result = _libc().mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind is not None else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, "mount")
