"""How often one payload is tried, from which URL, and when it may be tried again.

update_engine's rules: a payload that was downloaded whole, or that every URL failed to bring, waits a day before it is
downloaded again, then two, four, eight, sixteen. A response that differs in anything that matters starts anew. Nothing
here waits or knows the time: it maps one `Backoff` to the next.
"""

import base64
import hashlib
from dataclasses import dataclass, replace
from typing import Final

from update_agent.domain.state import Backoff
from update_agent.formats.omaha import Update

DAY_SECS: Final = 24 * 60 * 60
_DAYS_MAX: Final = 16
_FUZZ_SECS: Final = 12 * 60 * 60
"""Width: half of it before and half after."""

_EXPIRY_MAX_SECS: Final = _DAYS_MAX * DAY_SECS + _FUZZ_SECS // 2

_NEXT_URL_CODES: Final = frozenset({10, 11, 12, 17, 18, *range(21, 30), 32, 33, 38, 39})
"""What the URL serves is not the payload."""

_COUNTED_CODES: Final = frozenset({1, 9, 14, 20})
"""May have been the URL's fault."""


_SIGNATURE_CHARS_MAX: Final = 4096


def signature_of(update: Update) -> str:
    """Text that names a response, as update_engine writes it; of a very long one its hash, for it is kept in a file."""
    text = _signature_text(update)
    return text if len(text) <= _SIGNATURE_CHARS_MAX else hashlib.sha256(text.encode()).hexdigest()


def _signature_text(update: Update) -> str:
    urls = "".join(f"Url{number} = {url}\n" for number, url in enumerate(update.urls))
    return (
        f"NumURLs = {len(update.urls)}\n"
        f"{urls}"
        f"Payload Size = {update.size_bytes}\n"
        f"Payload Sha256 Hash = {base64.b64encode(update.sha256).decode()}\n"
        f"Is Delta Payload = {int(update.is_delta)}\n"
        f"Max Failure Count Per Url = {update.max_failure_count_per_url}\n"
        f"Disable Payload Backoff = {int(update.disable_backoff)}\n"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffRules:
    """The rules for one response.

    Attributes:
        update: the response.
        is_test_image: such a node never waits.
    """

    update: Update
    is_test_image: bool = False

    def begin(self, backoff: Backoff, *, now: int) -> Backoff:
        """For this response: what is known of it, or a fresh start; `now` in unix seconds."""
        signature = signature_of(self.update)
        if backoff.signature != signature:
            return Backoff(signature=signature)
        if backoff.expiry_at > now + _EXPIRY_MAX_SECS:
            return replace(backoff, expiry_at=0)  # the clock was wrong then, or is now
        return backoff

    def must_wait(self, backoff: Backoff, *, now: int) -> bool:
        """Whether the payload may not be downloaded yet."""
        return not self._is_exempt and backoff.expiry_at > now

    def urls(self, backoff: Backoff) -> tuple[str, ...]:
        """The URLs in the order in which this attempt uses them."""
        urls = self.update.urls
        first = backoff.url_index % len(urls)
        return urls[first:] + urls[:first]

    def receive(self, backoff: Backoff) -> Backoff:
        """After any byte of the payload came."""
        return replace(backoff, url_failure_count=0)

    def finish_download(self, backoff: Backoff, *, now: int, random: float) -> Backoff:
        """After the payload was downloaded whole and verified; `random` is from 0 to 1."""
        return self._count_attempt(backoff, now=now, random=random)

    def fail(self, backoff: Backoff, code: int, *, now: int, random: float) -> Backoff:
        """After the attempt failed; `code` is update_engine's without flags, `random` from 0 to 1."""
        if code in _NEXT_URL_CODES:
            return self._use_next_url(backoff, now=now, random=random)
        if code not in _COUNTED_CODES:
            return backoff
        failures = backoff.url_failure_count + 1
        if failures < self.update.max_failure_count_per_url:
            return replace(backoff, url_failure_count=failures)
        return self._use_next_url(backoff, now=now, random=random)

    @property
    def _is_exempt(self) -> bool:
        return self.update.is_delta or self.update.disable_backoff or self.is_test_image

    def _use_next_url(self, backoff: Backoff, *, now: int, random: float) -> Backoff:
        index = (backoff.url_index + 1) % len(self.update.urls)
        moved = replace(backoff, url_index=index, url_failure_count=0)
        return moved if index else self._count_attempt(moved, now=now, random=random)

    def _count_attempt(self, backoff: Backoff, *, now: int, random: float) -> Backoff:
        if self.update.is_delta:
            return backoff
        number = backoff.attempt_number + 1
        if self._is_exempt:
            return replace(backoff, attempt_number=number, expiry_at=0)
        days = min(1 << min(number - 1, 31), _DAYS_MAX)
        fuzz = int((random - 0.5) * _FUZZ_SECS)
        return replace(backoff, attempt_number=number, expiry_at=now + days * DAY_SECS + fuzz)
