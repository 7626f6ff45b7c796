"""When the update server is asked next.

As update_engine does it, so that servers see the load they are sized for: a fixed interval, shifted at random so that
nodes that started together do not stay together; longer when the server asks for that or is overloaded.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_OVERLOADED: Final = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class NextCheck:
    """The next check.

    Attributes:
        interval_secs: without the random shift; to be kept as the last interval.
        delay_secs: from now, shifted; 0 or more.
    """

    interval_secs: int
    delay_secs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is configured; the names are those of the settings.

    Attributes:
        first_delay_secs: from the start to the first check.
        interval_secs: between checks.
        jitter_secs: width of the shift, half of it before and half after.
        interval_max_secs: the longest that the server or its errors make of the interval.
    """

    first_delay_secs: int
    interval_secs: int
    jitter_secs: int
    interval_max_secs: int

    def first_check(self, random: float) -> NextCheck:
        """After the start; `random` is from 0 to 1."""
        return NextCheck(
            interval_secs=self.interval_secs, delay_secs=_shifted(self.first_delay_secs, self.jitter_secs, random)
        )

    def next_check(
        self, random: float, *, last_interval_secs: int = 0, poll_interval_secs: int = 0, http_status: int = 0
    ) -> NextCheck:
        """After a check.

        Args:
            random: from 0 to 1.
            last_interval_secs: that of the check before, 0 if there was none.
            poll_interval_secs: what the server wants, 0 if it said nothing. It counts more than the status.
            http_status: of the check; 500 and 503 double the interval.
        """
        wanted = self.interval_secs
        if poll_interval_secs > 0:
            wanted = poll_interval_secs
        elif http_status in _OVERLOADED:
            wanted = 2 * max(last_interval_secs, self.interval_secs)
        interval = max(min(wanted, self.interval_max_secs), self.interval_secs)
        # What the server made of the interval it made for many nodes at once: they must come apart again.
        jitter = self.jitter_secs if interval == self.interval_secs else interval
        return NextCheck(interval_secs=interval, delay_secs=_shifted(interval, jitter, random))


def _shifted(interval_secs: int, jitter_secs: int, random: float) -> float:
    return max(interval_secs + (random - 0.5) * jitter_secs, 0.0)
