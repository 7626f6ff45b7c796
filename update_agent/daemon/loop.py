"""GLib's main loop as the agent's."""

import time
from collections.abc import Callable
from typing import Any, Final

from gi.repository import GLib

_EXACT_BELOW_SECS: Final = 10.0
"""Longer timers may ring a second late, together with others: fewer wake-ups."""


class GLibTimer:
    """A source of the loop, until it has rung."""

    def __init__(self, secs: float, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        if secs < _EXACT_BELOW_SECS:
            self._source: int = GLib.timeout_add(int(secs * 1000), self._ring)
        else:
            self._source = GLib.timeout_add_seconds(int(secs), self._ring)

    def cancel(self) -> None:
        """Let it not happen; fine if it has."""
        if self._function is not None:
            self._function = None
            GLib.source_remove(self._source)

    def _ring(self) -> bool:
        function, self._function = self._function, None
        if function is not None:
            function()
        return bool(GLib.SOURCE_REMOVE)


class GLibLoop:
    """Runs until `quit`."""

    def __init__(self) -> None:
        self._loop: Any = GLib.MainLoop()

    def run(self) -> None:
        """Do what comes."""
        self._loop.run()

    def quit(self) -> None:
        """Let `run` return."""
        self._loop.quit()

    def call_later(self, secs: float, function: Callable[[], None]) -> GLibTimer:
        """Call once, after `secs`."""
        return GLibTimer(secs, function)

    def call_every(self, secs: float, function: Callable[[], None]) -> None:
        """Call for ever."""

        def ring() -> bool:
            function()
            return bool(GLib.SOURCE_CONTINUE)

        GLib.timeout_add_seconds(max(int(secs), 1), ring)

    def on_signal(self, number: int, function: Callable[[], None]) -> None:
        """Call when the process gets a signal."""

        def ring() -> bool:
            function()
            return bool(GLib.SOURCE_CONTINUE)

        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, ring)

    def unix_now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds, never going back."""
        return time.monotonic()
