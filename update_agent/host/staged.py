"""A large file that is written beside its place and moved there when it is right.

Used for kernels on the EFI system partition and for unpacked images. Until `commit` the file that is in place is not
touched; a crash leaves the staged file, which the next run takes up or removes.
"""

import errno
import os
from pathlib import Path

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import FileDevice
from update_agent.host.files import sync_folder


class StagedFile:
    """The new version of `path`, under a name of its own until it is committed.

    Every method raises `DeviceError` (device-io, no-space) when the file system fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".new")

    @property
    def path(self) -> Path:
        """Where it goes."""
        return self._path

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run left something to go on with."""
        return self._beside.is_file()

    def require_space(self, size_bytes: int) -> None:
        """Refuse now what could not be finished later.

        Raises:
            DeviceError: no-space, naming how much is missing.
        """
        try:
            stat = os.statvfs(self._path.parent)
            already = self._beside.stat().st_blocks * 512 if self.is_begun else 0
        except OSError as error:
            raise self._error("look at", error) from error
        free = stat.f_bavail * stat.f_frsize + already
        if free < size_bytes:
            raise DeviceError(
                Kind.NO_SPACE,
                f"{self._path.parent}: expected {size_bytes} bytes free for {self._path.name}, found {free}",
                hint=f"free {size_bytes - free} bytes there and try again",
            )

    def open(self, size_bytes: int) -> FileDevice:
        """A device of `size_bytes` on the staged file; what an earlier run wrote is kept."""
        try:
            fd = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(fd, size_bytes)
            finally:
                os.close(fd)
            sync_folder(self._beside.parent)  # a checkpoint may soon say that the file is there
        except OSError as error:
            raise self._error("create", error) from error
        return FileDevice(self._beside, writable=True)

    def open_current(self) -> FileDevice:
        """The file in place, for reading.

        Raises:
            DeviceError: device-open, when there is none.
        """
        return FileDevice(self._path)

    def trim(self, size_bytes: int) -> None:
        """Cut the padding of the last block; durable on return."""
        try:
            fd = os.open(self._beside, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(fd, size_bytes)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._error("finish", error) from error

    def commit(self) -> None:
        """In place and durable on return."""
        try:
            self._beside.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._error("rename", error) from error

    def discard(self) -> None:
        """Remove the staged file, if any; the file in place stays."""
        try:
            self._beside.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("remove", error) from error

    def _error(self, what: str, error: OSError) -> DeviceError:
        kind = Kind.NO_SPACE if error.errno == errno.ENOSPC else Kind.DEVICE_IO
        return DeviceError(kind, f"{self._beside}: cannot {what}: {os.strerror(error.errno or errno.EIO)}")
