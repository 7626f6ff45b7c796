"""A block device or an image file as numbered bytes.

Owns opening, exact reads and writes, and flushing. Knows nothing about partitions' meaning, and never
changes the size of what it opens.
"""

import errno
import fcntl
import functools
import mmap
import os
import stat
import struct
import threading
from pathlib import Path
from typing import Final, Protocol

from update_agent.errors import DeviceError, Kind

Buffer = bytes | bytearray | memoryview
"""What can be written. (`collections.abc.Buffer` needs Python 3.12.)"""

DIRECT_IO_ALIGNMENT_BYTES: Final = 4096
"""O_DIRECT wants offset, length and memory aligned to the logical sector; 4096 covers 512 and 4096."""

# linux/fs.h
_BLKSSZGET: Final = 0x1268


class BlockDevice(Protocol):
    """Numbered bytes that can be read, written and flushed.

    Every method raises `DeviceError` (device-io, no-space) and nothing else.
    """

    @property
    def name(self) -> str:
        """What a person calls it, for messages."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has; constant while it is open."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        """Fill the writable `buffer` from `offset`; `uncached` asks the medium, not the page cache, where it can."""

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`. Durable only after `flush`."""

    def flush(self) -> None:
        """Return when everything written before is on the medium."""


def check_range(device: BlockDevice, offset: int, length: int) -> None:
    """Refuse an access outside of the device.

    Raises:
        DeviceError: device-too-small.
    """
    if offset < 0 or length < 0 or offset + length > device.size_bytes:
        raise DeviceError(
            Kind.DEVICE_TOO_SMALL,
            f"{device.name}: expected an access within {device.size_bytes} bytes, got {length} bytes at {offset}",
        )


def _device_error(name: str, what: str, error: OSError) -> DeviceError:
    if error.errno == errno.ENOSPC:
        return DeviceError(Kind.NO_SPACE, f"{name}: {what}: no space left", hint="free some space and try again")
    return DeviceError(Kind.DEVICE_IO, f"{name}: {what}: {os.strerror(error.errno or errno.EIO)}")


class FileDevice:
    """An image file or a block device node, opened until `close`.

    Threads may read and write at the same time: all access is positional.
    """

    def __init__(self, path: Path, *, writable: bool = False, exclusive: bool = False) -> None:
        """Open `path`, which must exist.

        Args:
            path: a regular file or a block device node.
            writable: open for writing too.
            exclusive: refuse a block device that is mounted or otherwise in use (O_EXCL, see open(2)).

        Raises:
            DeviceError: device-open.
        """
        self._path = path
        flags = os.O_RDWR if writable else os.O_RDONLY
        try:
            mode = path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise DeviceError(
                    Kind.DEVICE_OPEN, f"{path}: expected an image file or a block device, got something else"
                )
            self._is_block = stat.S_ISBLK(mode)
            if exclusive and self._is_block:
                flags |= os.O_EXCL
            self._fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise _open_error(path, error) from error
        self._fds = [self._fd]
        self._is_direct = self._is_block
        self._lock = threading.Lock()
        self._size_bytes = os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    @property
    def path(self) -> Path:
        """The path."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size when it was opened."""
        return self._size_bytes

    @property
    def is_block(self) -> bool:
        """Whether it is a block device node."""
        return self._is_block

    @property
    def logical_sector_bytes(self) -> int | None:
        """Sector size that the kernel states for a block device; None for an image file."""
        if not self._is_block:
            return None
        answer = fcntl.ioctl(self._fd, _BLKSSZGET, struct.pack("i", 0))
        return int(struct.unpack("i", answer)[0])

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        check_range(self, offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        """Fill `buffer` from `offset`, past the page cache if asked and possible."""
        check_range(self, offset, len(buffer))
        if not uncached:
            self._read_all(self._fd, offset, buffer)
            return
        with self._lock:  # readers in several threads must open it once
            fd = self._uncached_fd
        if not (self._is_direct and self._read_direct(fd, offset, buffer)):
            # Clean pages are dropped, so what comes next is what the medium holds; a no-op on some file systems.
            os.posix_fadvise(self._fd, offset, len(buffer), os.POSIX_FADV_DONTNEED)
            self._read_all(self._fd if self._is_direct else fd, offset, buffer)

    @functools.cached_property
    def _uncached_fd(self) -> int:
        """Opened when it is first needed: with O_DIRECT on a block device, where that is possible.

        Not so on an image file: a direct read there holds a lock of the file that every write waits for, and what is
        read back behind a writer would halve its rate. Reading ahead would only fill the cache that is to be avoided.
        """
        same = f"/proc/self/fd/{self._fd}"  # by now there may be another file under the name
        if self._is_direct:
            try:
                self._fds.append(os.open(same, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
            except OSError:
                self._is_direct = False
            else:
                return self._fds[-1]
        try:
            self._fds.append(os.open(same, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise _open_error(self._path, error) from error
        os.posix_fadvise(self._fds[-1], 0, 0, os.POSIX_FADV_RANDOM)
        return self._fds[-1]

    def _read_direct(self, fd: int, offset: int, buffer: memoryview) -> bool:
        if offset % DIRECT_IO_ALIGNMENT_BYTES or len(buffer) % DIRECT_IO_ALIGNMENT_BYTES:
            return False
        try:
            return os.preadv(fd, [buffer], offset) == len(buffer)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the buffer or the sector size does not suit the device
                return False
            raise _device_error(self.name, f"cannot read {len(buffer)} bytes at {offset}", error) from error

    def _read_all(self, fd: int, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise _device_error(self.name, f"cannot read {len(buffer)} bytes at {offset}", error) from error
            if count == 0:
                raise DeviceError(Kind.DEVICE_IO, f"{self.name}: unexpected end of device at byte {offset + done}")
            done += count

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""
        check_range(self, offset, len(data))
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._fd, view[done:], offset + done)
            except OSError as error:
                raise _device_error(self.name, f"cannot write {len(data)} bytes at {offset}", error) from error

    def flush(self) -> None:
        """Write back everything and wait for the medium (fdatasync covers size changes too)."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _device_error(self.name, "cannot flush", error) from error

    def close(self) -> None:
        """Close; does not flush."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> "FileDevice":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Region:
    """A range of another device as a device of its own: a partition of a disk."""

    def __init__(self, device: BlockDevice, start: int, size_bytes: int, *, name: str) -> None:
        """Look at `size_bytes` of `device` from byte `start`.

        Raises:
            DeviceError: device-too-small.
        """
        check_range(device, start, size_bytes)
        self._device = device
        self._start = start
        self._size_bytes = size_bytes
        self._name = name

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self._name

    @property
    def size_bytes(self) -> int:
        """Length of the range."""
        return self._size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` of the range."""
        check_range(self, offset, length)
        return self._device.read_at(self._start + offset, length)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        """Fill `buffer` from `offset` of the range."""
        check_range(self, offset, len(buffer))
        self._device.read_into(self._start + offset, buffer, uncached=uncached)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset` of the range."""
        check_range(self, offset, len(data))
        self._device.write_at(self._start + offset, data)

    def flush(self) -> None:
        """Flush the device behind the range."""
        self._device.flush()


def aligned_buffer(size_bytes: int) -> memoryview:
    """Writable memory that O_DIRECT accepts: page-aligned, zeroed, freed with its last view."""
    return memoryview(mmap.mmap(-1, size_bytes))


def _open_error(path: Path, error: OSError) -> DeviceError:
    reason = os.strerror(error.errno or errno.EIO)
    hints = {
        errno.ENOENT: "check the path",
        errno.EACCES: "run as a user who may open it",
        errno.EBUSY: "it is mounted or in use; unmount it, or choose the other slot",
    }
    return DeviceError(Kind.DEVICE_OPEN, f"{path}: cannot open: {reason}", hint=hints.get(error.errno or 0))
