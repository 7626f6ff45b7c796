"""How the daemon hears of the end of an update: once, from whichever thread comes first."""

import threading
from collections.abc import Callable
from typing import Final

from update_agent.domain.messages import Failed, Installed, Message, NothingNew, Reported
from update_agent.errors import InterruptedByUserError, Kind

_LAST_WORDS: Final = (NothingNew, Installed, Failed)


class Ending:
    """Passes messages on until one of them is the end; after that only whether the server was told.

    Between `commit` and `settle` the target is being activated: nobody can say whether it boots next, so that part
    cannot be abandoned. It takes three writes to the disk.
    """

    def __init__(self, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._is_committed = False
        self._result: Installed | None = None
        self._last: Message | None = None

    def tell(self, message: Message) -> None:
        """Pass it on, unless the end was told before."""
        with self._lock:
            self._pass_on(message)

    def commit(self) -> None:
        """From here on the release may boot.

        Raises:
            InterruptedByUserError: interrupted, when the update was abandoned.
        """
        with self._lock:
            if self._last is not None:
                raise InterruptedByUserError(Kind.INTERRUPTED, "update: stopped on request")
            self._is_committed = True

    def settle(self, result: Installed) -> None:
        """The release boots next; what is left is to tell."""
        with self._lock:
            self._result = result

    def abandon(self, failure: Failed) -> Message | None:
        """Tell the end now, and say what it was: `failure`, or what came before it; None if it has to be waited for."""
        with self._lock:
            if self._is_committed and self._result is None and self._last is None:
                return None
            self._pass_on(self._result or failure)
            return self._last

    def _pass_on(self, message: Message) -> None:
        if self._last is not None and not isinstance(message, Reported):
            return
        if isinstance(message, _LAST_WORDS):
            self._last = message
        self._tell(message)
