"""How the child process ends when it is told to, wherever it is at that moment.

SIGINT: a person cancelled. The update stops at its next safe point and says so. When it does not get there - it waits
for a server - another thread says so in its place and the process ends: a kill is safe at every instant.

SIGTERM: the daemon ends, or is gone. The same, and nobody is told: the update goes on later.
"""

import os
import signal
import threading
from typing import Final, Protocol

from update_agent.domain.progress import CancelToken

_GRACE_SECS: Final = 0.8
"""For the update to stop by itself."""

_REPORT_SECS: Final = 0.9
"""For the server to be told in its place, or for the update to tell it."""

_RETRY_SECS: Final = 0.1
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_TERMINATED: Final = 128 + signal.SIGTERM


class Abandonable(Protocol):
    """What can be ended from another thread."""

    def abandon(self) -> bool:
        """Say that it ended; False if it cannot be ended now and has to be waited for. Does not wait."""

    def report(self) -> bool:
        """Tell the server about it; False if the end came otherwise, and nothing is left to do."""


class Stopper:
    """Watches for both signals from its making on; make it in the main thread.

    A signal handler of Python would not do: it runs in the main thread, between two steps of the interpreter, and the
    main thread may be in a look-up of a host name that takes a minute.
    """

    def __init__(self, cancel: CancelToken, ending: Abandonable) -> None:
        """Begin to watch.

        Args:
            cancel: stops the work at its next safe point.
            ending: of the work, until `work_on` names another.
        """
        self._cancel = cancel
        self._ending = ending
        self._is_terminating = False
        self._done = threading.Event()
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._read_fd, True)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, name="stopper", daemon=True).start()
        # The daemon starts us with SIGINT blocked, so that one that comes early waits until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    @property
    def is_terminating(self) -> bool:
        """The update will go on later, so no server need hear that it stopped."""
        return self._is_terminating

    def work_on(self, ending: Abandonable) -> None:
        """From here on this is what is ended."""
        self._ending = ending

    def finish(self) -> None:
        """The main thread has ended its work."""
        self._done.set()

    def _watch(self) -> None:
        while True:
            numbers = os.read(self._read_fd, 64)
            if signal.SIGTERM in numbers:
                self._terminate()
            if signal.SIGINT in numbers:
                threading.Thread(target=self._interrupt, daemon=True).start()

    def _terminate(self) -> None:
        self._is_terminating = True
        self._cancel.cancel()
        self._done.wait(_GRACE_SECS)
        os._exit(_TERMINATED)

    def _interrupt(self) -> None:
        self._cancel.cancel()
        if self._done.wait(_GRACE_SECS):
            return
        while not self._ending.abandon():
            if self._done.wait(_RETRY_SECS):
                return
        threading.Timer(_REPORT_SECS, os._exit, (0,)).start()
        if not self._ending.report():
            self._done.wait()
        os._exit(0)
