"""Counting one download, so that a payload that brings nothing but work is not fetched again and again."""

from collections.abc import Callable
from typing import Protocol

from update_agent.domain.backoff import BackoffRules
from update_agent.domain.state import Backoff
from update_agent.net.source import PayloadSource


class Download(PayloadSource, Protocol):
    """A payload that comes over the network."""

    @property
    def received_bytes(self) -> int:
        """All that came so far."""


class DownloadCounter:
    """Takes the back-off of a response from the start of a download to its end."""

    def __init__(
        self,
        rules: BackoffRules,
        source: Download,
        *,
        backoff: Backoff,
        keep: Callable[[Backoff], None],
        now: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._rules, self._source = rules, source
        self._backoff, self._keep = backoff, keep
        self._now, self._random = now, random

    def finished(self) -> None:
        """All of it came, and is what was signed."""
        self._change(self._rules.finish_download(self._begun(), now=self._now(), random=self._random()))

    def failed(self, code: int) -> None:
        """It did not come, or could not be installed: update_engine's number for why."""
        self._change(self._rules.fail(self._begun(), code, now=self._now(), random=self._random()))

    def _begun(self) -> Backoff:
        return self._rules.receive(self._backoff) if self._source.received_bytes else self._backoff

    def _change(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._keep(backoff)
