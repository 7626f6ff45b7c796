"""A big file that appears under its name whole, durable, or not at all.

Owns files without a name and their publication. State files of a few bytes live in `files.py`.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import Buffer
from update_agent.host.files import sync_folder

PIECE_BYTES: Final = 1024 * 1024
"""Unit of copies and reads: large enough that system calls do not count, small enough for any memory."""

_FILE_MODE: Final = 0o666
"""Less the umask, as for any file that a program writes for its user."""


class OutputFile:
    """Bytes appended beside `path`; `publish` gives them the name, `close` without it leaves nothing.

    The file has no name while it grows (O_TMPFILE), so that even a power cut or a kill leaves no litter. Where the file
    system cannot do that it gets a hidden name, removed by `close`. Every method raises `DeviceError` (device-open,
    device-io, no-space) and nothing else.
    """

    def __init__(self, path: Path) -> None:
        """Start an empty file in the folder of `path`.

        Raises:
            DeviceError: device-open, when the folder cannot be written or `path` is something other than a file.
        """
        self._path = path
        self._size_bytes = 0
        self._hidden: Path | None = None
        try:
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise DeviceError(
                    Kind.DEVICE_OPEN, f"{path}: expected a file or a free name", hint="choose another output"
                )
            self._fd = self._open()
        except OSError as error:
            raise self._error("create", error, Kind.DEVICE_OPEN) from error

    def _open(self) -> int:
        folder = self._path.parent
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                raise
        hidden = self._beside()
        fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE)
        self._hidden = hidden
        return fd

    def _beside(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")

    @property
    def size_bytes(self) -> int:
        """Bytes appended so far."""
        return self._size_bytes

    def append(self, data: Buffer) -> None:
        """Write all of `data` at the end. Durable only after `publish`."""
        view = memoryview(data)
        try:
            while len(view):
                count = os.pwrite(self._fd, view, self._size_bytes)
                self._size_bytes += count
                view = view[count:]
        except OSError as error:
            raise self._error("write", error) from error

    def pieces(self) -> Iterator[bytes]:
        """Read back everything appended so far, from the start, in pieces of at most `PIECE_BYTES`."""
        offset = 0
        while offset < self._size_bytes:
            try:
                data = os.pread(self._fd, min(PIECE_BYTES, self._size_bytes - offset), offset)
            except OSError as error:
                raise self._error("read back", error) from error
            if not data:
                raise DeviceError(Kind.DEVICE_IO, f"{self._path}: somebody cut its data at byte {offset}")
            yield data
            offset += len(data)

    def publish(self) -> None:
        """Give the file its name, over an older one; whole and durable on return."""
        try:
            os.fsync(self._fd)
            if self._hidden is None:
                beside = self._beside()
                # Given a descriptor, used or not, Python calls linkat(2), which alone follows the link in /proc.
                os.link(f"/proc/self/fd/{self._fd}", beside, src_dir_fd=self._fd, follow_symlinks=True)
                self._hidden = beside
            self._hidden.replace(self._path)
            self._hidden = None
            sync_folder(self._path.parent)
        except OSError as error:
            raise self._error("publish", error) from error

    def close(self) -> None:
        """Let go of the file; what was not published is gone."""
        os.close(self._fd)
        if self._hidden is not None:
            with contextlib.suppress(OSError):
                self._hidden.unlink()
            self._hidden = None

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _error(self, what: str, error: OSError, kind: Kind = Kind.DEVICE_IO) -> DeviceError:
        reason = os.strerror(error.errno or errno.EIO)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            hint = "a build needs about twice the payload's size beside it; free some space and try again"
            return DeviceError(Kind.NO_SPACE, f"{self._path}: cannot {what}: {reason}", hint=hint)
        return DeviceError(kind, f"{self._path}: cannot {what}: {reason}")
