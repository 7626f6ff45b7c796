"""How fast a count of bytes rises."""

from collections import deque
from typing import Final

WINDOW_SECS: Final = 5.0


class RateMeter:
    """Bytes per second over the last few seconds of one phase."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def reset(self) -> None:
        """Another phase counts from 0 again."""
        self._points.clear()

    def add(self, at: float, done_bytes: int) -> None:
        """A point; `at` is in seconds and never goes back."""
        self._points.append((at, done_bytes))
        while len(self._points) > 2 and at - self._points[0][0] > WINDOW_SECS:
            self._points.popleft()

    @property
    def bytes_per_sec(self) -> int:
        """0 until there are two points at different times."""
        if len(self._points) < 2:
            return 0
        (first_at, first), (last_at, last) = self._points[0], self._points[-1]
        return int((last - first) / (last_at - first_at)) if last_at > first_at else 0
