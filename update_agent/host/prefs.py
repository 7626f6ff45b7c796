"""The few of update_engine's state files that others read, or that are worth keeping when the agent takes over.

A post-install script looks for the answer of the update server in `full-response`, and believes it only if that is not
older than `previous-version`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from update_agent.errors import DeviceError, Kind
from update_agent.host.files import sync_folder

PREVIOUS_VERSION: Final = "previous-version"
FULL_RESPONSE: Final = "full-response"
ALEPH_VERSION: Final = "aleph-version"

_TEXT_BYTES_MAX: Final = 4096


def write_prefs(folder: Path, *, previous_version: str, full_response: bytes) -> None:
    """Keep what a check was answered, for post-install scripts; durable on return, each file old or new.

    Args:
        folder: made if missing, for root alone.
        previous_version: the release that runs while an update waits for its reboot, else empty.
        full_response: the body as it came.

    Raises:
        DeviceError: state-file, no-space.
    """
    try:
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _replace(folder / PREVIOUS_VERSION, previous_version.encode(), not_before_ns=0)
        earlier_ns = (folder / PREVIOUS_VERSION).stat().st_mtime_ns
        _replace(folder / FULL_RESPONSE, full_response, not_before_ns=earlier_ns)
        sync_folder(folder)
    except OSError as error:
        kind = Kind.NO_SPACE if error.errno == errno.ENOSPC else Kind.STATE_FILE
        reason = os.strerror(error.errno or errno.EIO)
        raise DeviceError(
            kind, f"{folder}: cannot write what the server said: {reason}", hint="check the file system"
        ) from error


def _replace(path: Path, data: bytes, *, not_before_ns: int) -> None:
    beside = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    try:
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
            file.write(data)
            file.flush()
            written_ns = os.fstat(file.fileno()).st_mtime_ns
            if written_ns < not_before_ns:  # the clock was set back
                os.utime(file.fileno(), ns=(not_before_ns, not_before_ns))
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def read_prefs(folder: Path) -> Mapping[str, str]:
    """Which release was the first one and which ran before, as update_engine has written it; never fails."""
    found = {name: _read(folder / name) for name in (ALEPH_VERSION, PREVIOUS_VERSION)}
    return {name: text for name, text in found.items() if text is not None}


def _read(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return os.read(fd, _TEXT_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)
