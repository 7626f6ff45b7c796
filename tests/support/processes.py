"""Looking at other processes, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_SECS = 20.0
_PAUSE_SECS = 0.01


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], what: str = "it happens") -> None:
    """Fail the test when it does not come true."""
    limit = time.monotonic() + LIMIT_SECS
    while not condition():
        assert time.monotonic() < limit, f"expected that {what} within {LIMIT_SECS} seconds"
        time.sleep(_PAUSE_SECS)
