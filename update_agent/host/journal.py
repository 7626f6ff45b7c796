"""Logging to the journal, with fields, or in plain lines where there is no journal.

Speaks systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram per entry, or a sealed memory file
when that is too large for a datagram. Logging never raises and never waits: what the journal cannot take at once goes
to standard error, cut short, and what that cannot take is lost.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import select
import socket
import struct
import sys
import traceback
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

SOCKET: Final = Path("/run/systemd/journal/socket")
MESSAGE_CHARS_MAX: Final = 256 * 1024

_FALLBACK_BYTES_MAX: Final = 4096  # what select promises that a pipe takes at once: PIPE_BUF
_FIELD_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_QUIET_LOGGERS: Final = ("urllib3", "requests")
_STDERR: Final = 2


def set_up_logging(*, identifier: str, verbose: bool = False, socket_path: Path = SOCKET) -> None:
    """Send all logging of this process to one place.

    The journal when standard error is connected to it, else lines `identifier: message` on standard error. Calling it
    again replaces what it did before. What the HTTP libraries say below WARNING is left out: it has URLs with queries.
    """
    handler: logging.Handler
    if is_journal(_STDERR, os.environ):
        handler = JournalHandler(identifier=identifier, socket_path=socket_path)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"{identifier}: %(message)s"))
    logging.basicConfig(force=True, handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether `fd` is the stream that `$JOURNAL_STREAM` names, and not one that it was redirected to."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def priority(level: int) -> int:
    """Of syslog (RFC 5424, 6.2.1), for a level of logging."""
    return next((number for floor, number in _PRIORITIES if level >= floor), 7)


def encode_fields(fields: Mapping[str, str]) -> bytes:
    """An entry as the journal reads it; a field whose name the journal would drop is left out."""
    return b"".join(_encode(name, value) for name, value in fields.items() if _FIELD_NAME.fullmatch(name))


def _encode(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:  # a second line could pose as another field
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class JournalHandler(logging.Handler):
    """One entry per record; the attribute `journal` of a record, a mapping, rides in it as further fields."""

    def __init__(self, *, identifier: str, socket_path: Path = SOCKET, fallback_fd: int = _STDERR) -> None:
        super().__init__()
        self._identifier = identifier
        self._address = str(socket_path)
        self._fallback_fd = fallback_fd
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Let the socket go."""
        self._socket.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over; a record that cannot be made into text is reported as `logging` does."""
        try:
            fields = self._fields(record)
        except Exception:  # noqa: BLE001  a wrong format string of a caller must not end the program
            self.handleError(record)
            return
        try:
            self._send(encode_fields(fields))
        except OSError:
            self._fall_back(fields)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message = f"{message}\n{''.join(traceback.format_exception(*record.exc_info)).rstrip()}"
        beside: Any = getattr(record, "journal", {})
        return {
            **{str(name): str(value) for name, value in beside.items()},
            "MESSAGE": message[:MESSAGE_CHARS_MAX],
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._address)
        except OSError as error:
            if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                raise
        else:
            return
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with os.fdopen(fd, "wb") as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))
            self._socket.sendmsg([b""], [rights], 0, self._address)

    def _fall_back(self, fields: Mapping[str, str]) -> None:
        """The journal reads a priority at the start of a line of standard error (sd-daemon(3))."""
        mark = f"<{fields['PRIORITY']}>{self._identifier}: "
        lines = fields["MESSAGE"].encode("utf-8", "backslashreplace").splitlines() or [b""]
        data = b"".join(mark.encode() + line + b"\n" for line in lines)
        if len(data) > _FALLBACK_BYTES_MAX:
            data = data[: _FALLBACK_BYTES_MAX - 1] + b"\n"
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [self._fallback_fd], [], 0)[1]:
                os.write(self._fallback_fd, data)
