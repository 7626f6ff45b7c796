"""The one timer of the daemon: when it asks by itself."""

from collections.abc import Callable
from typing import Final

from update_agent.config.settings import CheckSettings
from update_agent.daemon.ports import Loop, Timer
from update_agent.domain.schedule import Schedule

_AFTER_BUG_SECS: Final = 60 * 60
"""When a check ended in a way that nobody thought of."""

_RESUME_SECS: Final = 10
"""After a restart in the middle of an update: long enough for a crash that repeats itself not to be a busy loop."""


class Timetable:
    """Plans the next check, in place of the one planned before."""

    def __init__(self, loop: Loop, random: Callable[[], float], due: Callable[[], None]) -> None:
        self._loop, self._random, self._due = loop, random, due
        self._timer: Timer | None = None
        self._next_at = 0
        self._due_at: float | None = None
        self._suspended: float | None = None

    @property
    def next_at(self) -> int:
        """Unix seconds of the next check, 0 if none is planned."""
        return self._next_at

    def plan_in(self, secs: float) -> None:
        """The next check comes in `secs`."""
        self.cancel()
        self._next_at = int(self._loop.unix_now() + secs)
        self._due_at = self._loop.monotonic() + secs
        self._timer = self._loop.call_later(secs, self._ring)

    def cancel(self) -> None:
        """No check by itself until the next plan."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next_at, self._due_at, self._suspended = None, 0, None, None

    def suspend(self) -> None:
        """No check by itself until `resume`, which knows when the next one was due."""
        due_at = self._due_at
        self.cancel()
        self._suspended = due_at

    def resume(self) -> bool:
        """The suspended check comes when it was due, or at once if that has passed; False if none was suspended."""
        due_at = self._suspended
        if due_at is None:
            return False
        self.plan_in(max(due_at - self._loop.monotonic(), 0.0))
        return True

    def plan_first(self, settings: CheckSettings, *, is_unfinished: bool) -> None:
        """After the start; soon when an update was under way."""
        delay = _schedule(settings).first_check(self._random()).delay_secs
        self.plan_in(min(delay, _RESUME_SECS) if is_unfinished else delay)

    def plan_next(
        self, settings: CheckSettings, *, last_interval_secs: int, poll_interval_secs: int, http_status: int
    ) -> int:
        """After a check; gives the interval without its random shift, to be kept as the last one."""
        following = _schedule(settings).next_check(
            self._random(),
            last_interval_secs=last_interval_secs,
            poll_interval_secs=poll_interval_secs,
            http_status=http_status,
        )
        self.plan_in(following.delay_secs)
        return following.interval_secs

    def _ring(self) -> None:
        # What comes of it plans the next one, as a rule; this one was not the last in any case.
        self.plan_in(_AFTER_BUG_SECS)
        self._due()


def _schedule(settings: CheckSettings) -> Schedule:
    return Schedule(
        first_delay_secs=settings.first_delay_secs,
        interval_secs=settings.interval_secs,
        jitter_secs=settings.jitter_secs,
        interval_max_secs=settings.interval_max_secs,
    )
