"""What the service manager wants to hear (sd_notify(3)); without one, nothing happens.

Never raises: a message that cannot be delivered is worth no failure, and a service manager that waits for READY says so
itself.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_SEND_TIMEOUT_SECS: Final = 2.0
_STATUS_CHARS_MAX: Final = 2048


class Notifier:
    """Speaks to the socket that `$NOTIFY_SOCKET` names, a path or, after "@", an abstract name."""

    def __init__(self, address: str | None = None) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address

    def ready(self) -> None:
        """Started, or the configuration was read again."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line about what is going on, for `systemctl status`."""
        line = " ".join(text.split())
        self._send(f"STATUS={line[:_STATUS_CHARS_MAX]}")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """About to end."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.settimeout(_SEND_TIMEOUT_SECS)
            sender.sendto(message.encode("utf-8", "backslashreplace"), name)


def watchdog_interval_secs(environ: Mapping[str, str] = os.environ) -> float | None:
    """What the service manager allows between two calls of `Notifier.watchdog`; None when it does not watch."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = environ.get("WATCHDOG_USEC", "")
    if not (allowed.isascii() and allowed.isdigit()) or int(allowed) == 0:
        return None
    return int(allowed) / 1_000_000
