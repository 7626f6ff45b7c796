"""What an update server offers, as values."""

from typing import Any

from update_agent.formats.omaha import Update
from update_agent.formats.release import Version


def make_update(version: str = "2.0.0", **changes: Any) -> Update:
    """An offer with three URLs; `changes` win."""
    fields: dict[str, Any] = {
        "version": Version(version),
        "urls": ("http://a/p", "http://b/p", "http://c/p"),
        "size_bytes": 1000,
        "sha256": bytes(32),
        "is_delta": False,
        "max_failure_count_per_url": 3,
        "disable_backoff": False,
        "poll_interval_secs": None,
    }
    return Update(**(fields | changes))
