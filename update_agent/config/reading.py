"""Small files that people write, read without trust: they may be missing, huge, a pipe that never ends, or no text."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from update_agent.errors import ConfigurationError, Kind

FILE_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A value that a source has for a setting, not yet checked.

    Attributes:
        key: `section.name`.
        value: as the source has it.
        place: file and line.
    """

    key: str
    value: Any
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """All that a source has, what counts most last, and what a person should know about it."""

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]


def read_small(path: Path, limit_bytes: int = FILE_BYTES_MAX) -> bytes | None:
    """The content of a regular file, or None if there is nothing of that name.

    Raises:
        ConfigurationError: configuration, saying why it cannot be read; without its name.
    """
    try:
        # What is no regular file must not be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            data = _read_up_to(fd, limit_bytes + 1) if is_file else b""
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(Kind.CONFIGURATION, f"cannot read: {reason}") from error
    if not is_file:
        raise ConfigurationError(Kind.CONFIGURATION, "expected a regular file, got something else")
    if len(data) > limit_bytes:
        raise ConfigurationError(Kind.CONFIGURATION, f"expected at most {limit_bytes} bytes, got more")
    return data


def _read_up_to(fd: int, limit_bytes: int) -> bytes:
    data = b""
    while len(data) < limit_bytes and (part := os.read(fd, limit_bytes - len(data))):
        data += part
    return data


def decode(data: bytes) -> str:
    """The text of a file.

    Raises:
        ConfigurationError: configuration, when it is not UTF-8, with the number of the line.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(Kind.CONFIGURATION, f"expected UTF-8, got other bytes in line {line}") from error
