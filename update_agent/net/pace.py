"""Too slow and too fast: the watch that ends a stalled transfer and the bucket that slows a greedy one.

Both live on a monotonic clock that the caller passes in.
"""

from collections.abc import Callable
from typing import Final

from update_agent.errors import Kind, TransferError

_SHORTEST_WAIT_SECS: Final = 0.001
"""A socket timeout of 0 would mean "do not wait" instead of "hardly"."""


class StallWatch:
    """Says how long one may still wait for the next byte.

    First comes a fixed time for the headers, whatever trickles in. In the body each `quota_bytes` received
    give another `secs`, so that a server that sends a byte now and then is caught like a silent one.
    Time between `suspend` and `resume`, while the receiver is busy, does not count.
    """

    def __init__(self, *, secs: float, bytes_per_sec: float, clock: Callable[[], float]) -> None:
        self._secs = secs
        self._quota_bytes = secs * bytes_per_sec
        self._clock = clock
        self._credit_bytes = 0
        self._is_body = False
        self._deadline = clock() + secs
        self._total_deadline: float | None = None
        self._suspended_at: float | None = None

    def limit_total(self, secs: float) -> None:
        """End everything that follows after `secs`, however fast it is."""
        self._total_deadline = self._clock() + secs

    def begin_headers(self, secs: float) -> None:
        """Allow `secs` from now until the body begins."""
        self._is_body = False
        self._suspended_at = None
        self._deadline = self._clock() + secs

    def begin_body(self) -> None:
        """Count bytes from now on."""
        self._is_body = True
        self._credit_bytes = 0
        self._deadline = self._clock() + self._secs

    def received(self, count: int) -> None:
        """Note that `count` bytes came."""
        if not self._is_body:
            return
        self._credit_bytes += count
        if self._credit_bytes >= self._quota_bytes:
            self._credit_bytes = 0
            self._deadline = self._clock() + self._secs

    def suspend(self) -> None:
        """Stop the watch: nobody reads now."""
        self._suspended_at = self._clock()

    def resume(self) -> None:
        """Let the watch go on."""
        if self._suspended_at is not None:
            self._deadline += self._clock() - self._suspended_at
            self._suspended_at = None

    def remaining_secs(self) -> float:
        """How long to wait for the next byte, more than 0.

        Raises:
            TransferError: transfer-stalled.
        """
        deadline = self._deadline
        if self._total_deadline is not None:
            deadline = min(deadline, self._total_deadline)
        remaining = deadline - self._clock()
        if remaining <= 0:
            raise self.stalled()
        return max(remaining, _SHORTEST_WAIT_SECS)

    def stalled(self) -> TransferError:
        """The error for a wait that was too long."""
        if self._is_body and (self._total_deadline is None or self._clock() < self._total_deadline):
            text = f"less than {self._quota_bytes:.0f} bytes came within {self._secs:g} s"
        else:
            text = "no complete answer came in time"
        return TransferError(Kind.TRANSFER_STALLED, text)


class TokenBucket:
    """Lets on average `rate_bytes_per_sec` through, with bursts of a quarter of a second."""

    def __init__(self, rate_bytes_per_sec: int, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate = rate_bytes_per_sec
        self._clock = clock
        self._sleep = sleep
        self._filled_at = clock()
        self._tokens = float(self.burst_bytes)

    @property
    def burst_bytes(self) -> int:
        """How much may be taken at once without waiting; also a good size for one read."""
        return max(self._rate // 4, 1)

    def take(self, count: int) -> None:
        """Account for `count` bytes that were received, and sleep off the debt."""
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._filled_at) * self._rate, self.burst_bytes) - count
        self._filled_at = now
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
