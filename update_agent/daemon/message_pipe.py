"""Where the child process writes its messages: what was its standard output, and nothing else gets there."""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from update_agent.domain.messages import Advanced, Message, to_line

ADVANCED_INTERVAL_SECS: Final = 0.1

_STDOUT: Final = 1
_STDERR: Final = 2


class MessagePipe:
    """Writes one line per message, from any thread; waits while the daemon does not read."""

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._is_broken = False
        self._last: Advanced | None = None
        self._last_at = 0.0

    @classmethod
    def take_stdout(cls) -> "MessagePipe":
        """Keep standard output for messages; from here on what else is written there goes to standard error."""
        fd = os.dup(_STDOUT)  # not inherited by other programs
        os.dup2(_STDERR, _STDOUT)
        return cls(fd)

    def write(self, message: Message) -> None:
        """Write it; of the progress of one phase at most ten points a second and the last one.

        When the daemon is gone, nothing is written any more: this process is about to be told to end.
        """
        with self._lock:
            if self._is_broken or (isinstance(message, Advanced) and self._is_too_soon(message)):
                return
            try:
                rest = memoryview(to_line(message))
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except BrokenPipeError:
                self._is_broken = True

    def _is_too_soon(self, message: Advanced) -> bool:
        now, last = self._clock(), self._last
        if (
            last is not None
            and last.phase == message.phase
            and message.done_bytes < message.total_bytes
            and now - self._last_at < ADVANCED_INTERVAL_SECS
        ):
            return True
        self._last, self._last_at = message, now
        return False
