"""State files that a crash cannot tear, and the lock that keeps two agents apart."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from update_agent.errors import DeviceError, Kind, RefusedError


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _state_error(path: Path, what: str, error: OSError) -> DeviceError:
    reason = os.strerror(error.errno or errno.EIO)
    if error.errno == errno.ENOSPC:
        return DeviceError(Kind.NO_SPACE, f"{path}: cannot {what}: {reason}", hint="free some space and try again")
    return DeviceError(Kind.STATE_FILE, f"{path}: cannot {what}: {reason}")


class StateFile:
    """One small file that is either the old or the new version, whatever happens in between.

    Every method raises `DeviceError` (state-file, no-space) when the file system fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    def read(self, limit_bytes: int) -> bytes | None:
        """The content, at most `limit_bytes` of it, or None if there is no such file."""
        try:
            with self._path.open("rb") as file:
                return file.read(limit_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _state_error(self._path, "read", error) from error

    def replace(self, data: bytes, *, mode: int | None = None) -> None:
        """Durable on return: write beside, fsync, rename, fsync the folder. Without a mode the process' umask says."""
        beside = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with beside.open("wb") as file:
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise _state_error(self._path, "write", error) from error

    def set_aside(self) -> str:
        """Rename it, so that nothing in it is lost, and say to what; an older one that was set aside goes."""
        aside = self._path.with_name(self._path.name + ".damaged")
        try:
            self._path.replace(aside)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _state_error(self._path, "set aside", error) from error
        return str(aside)

    def remove(self) -> None:
        """Gone on return, also after a power cut; fine if it was not there."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _state_error(self._path, "remove", error) from error
        try:
            sync_folder(self._path.parent)
        except OSError as error:
            raise _state_error(self._path, "remove", error) from error


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `path` (made if missing) against every other process until the block ends.

    Raises:
        RefusedError: busy, when another process holds it.
        DeviceError: state-file.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _state_error(path, "open", error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedError(
                Kind.BUSY,
                f"{path}: another update-agent is at work on this disk",
                hint="wait until it has ended, then try again",
            ) from error
        yield
    finally:
        os.close(fd)
