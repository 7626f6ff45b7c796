"""A payload over HTTP: bounded, resumed where it was cut, from several URLs in order.

The bytes are not trusted: who serves them, and whether they are the right ones, is for the payload's signature
to say. This module makes sure that they end, that they come in order, and that a payload replaced on the server
in the middle of a download is noticed early.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Final

from update_agent.errors import ConfigurationError, Kind, TransferError, UpdateAgentError, VerificationError
from update_agent.net.failures import PermanentTransferError
from update_agent.net.http import HttpClient, HttpReply
from update_agent.net.mirror import Mirror, check_content, partial_range, status_error, unsatisfied_total
from update_agent.net.pace import TokenBucket
from update_agent.net.settings import TransferSettings

_LOG = logging.getLogger(__name__)

_READ_BYTES: Final = 1 << 18
"""Measured on loopback: smaller reads cost calls, larger ones page faults."""


class HttpSource:
    """A `PayloadSource` over http and https.

    After a cut body or an error the transfer goes on at the same byte. A server that cannot start in the middle
    is read from the start and the known part dropped. One reader at a time.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: TransferSettings,
        *,
        expected_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is sent before `open` is iterated.

        Args:
            urls: places with the same bytes, the first one is asked first.
            settings: limits, proxy, certificates, credentials.
            expected_size: how long the payload was announced to be, in bytes; other sizes are refused.
            clock: monotonic seconds.
            sleep: waits for so many seconds.

        Raises:
            ConfigurationError: configuration, when there is no URL or one is neither http nor https, or when a
                file with certificates is missing.
        """
        if not urls:
            raise ConfigurationError(Kind.CONFIGURATION, "payload: expected at least one URL, got none")
        self._settings = settings
        self._mirrors = tuple(Mirror(url) for url in urls)
        self._current = 0
        self._size_bytes = expected_size
        self._client = HttpClient(settings, clock=clock)
        self._sleep = sleep
        rate = settings.rate_limit_bytes_per_sec
        self._bucket = None if rate is None else TokenBucket(rate, clock=clock, sleep=sleep)
        self._read_bytes = _READ_BYTES if self._bucket is None else min(_READ_BYTES, self._bucket.burst_bytes)
        self._received_bytes = 0
        self._discarded_bytes = 0

    @property
    def name(self) -> str:
        """The URL in use, without query and credentials."""
        return self._mirrors[self._current].name

    @property
    def size_bytes(self) -> int | None:
        """As announced by the update server, or else by the payload server."""
        return self._size_bytes

    @property
    def received_bytes(self) -> int:
        """All body bytes so far, for progress displays."""
        return self._received_bytes

    @property
    def discarded_bytes(self) -> int:
        """Those of them that were known already and dropped, because a server cannot resume."""
        return self._discarded_bytes

    def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
        """Chunks from `offset` to the end, or to `end`; see `PayloadSource.open`.

        Raises:
            TransferError: when every URL has failed.
            VerificationError: payload-changed, payload-size.
        """
        limit = self._settings.max_bytes
        if self._size_bytes is not None and self._size_bytes > limit:
            raise _too_large("payload", self._size_bytes, limit)
        position = offset
        for mirror in self._mirrors_in_order():
            while not mirror.is_given_up:
                try:
                    for chunk in self._attempt(mirror, position, end):
                        position += len(chunk)
                        mirror.failures = 0
                        yield chunk
                    return
                except TransferError as error:
                    mirror.failed(error, self._settings.max_failures_per_url)
                    self._wait(mirror, error)
        raise self._exhausted()

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _mirrors_in_order(self) -> Iterator[Mirror]:
        """Each URL once, first the one that was in use last."""
        first = self._current
        for mirror in self._mirrors:
            mirror.begin()
        for turn in range(len(self._mirrors)):
            self._current = (first + turn) % len(self._mirrors)
            yield self._mirrors[self._current]

    def _wait(self, mirror: Mirror, error: TransferError) -> None:
        if mirror.is_given_up:
            _LOG.warning("%s; giving up on this URL", error.message)
            return
        # 2**63 seconds are enough; max_failures_per_url may be any number.
        delay = self._settings.retry_delay_secs * 2.0 ** min(mirror.failures - 1, 63)
        delay = min(delay, self._settings.retry_delay_max_secs)
        _LOG.warning("%s; trying again in %g s", error.message, delay)
        self._sleep(delay)

    def _exhausted(self) -> UpdateAgentError:
        errors = [mirror.last_error for mirror in self._mirrors if mirror.last_error is not None]
        kinds = {error.kind for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else Kind.TRANSFER
        message = "; ".join(error.message for error in errors)
        hint = next((error.hint for error in errors if error.hint is not None), None)
        if kind is Kind.PAYLOAD_SIZE:
            return VerificationError(kind, message, hint=hint)
        return TransferError(kind, message, hint=hint)

    def _attempt(self, mirror: Mirror, position: int, end: int | None) -> Iterator[bytes]:
        """One request and what it brings from `position` on; raises unless that reaches the end."""
        if self._is_end(position, end):
            return
        headers = mirror.range_headers(position, end)
        with contextlib.closing(self._client.request("GET", mirror.url, headers)) as reply:
            known_bytes = self._check_answer(mirror, reply, position)
            if known_bytes is None:
                return
            for chunk in self._body(reply, position, known_bytes):
                wanted = chunk if end is None else chunk[: end - position]
                position += len(wanted)
                yield wanted
                if position == end:
                    return
        if self._size_bytes is not None and position < self._size_bytes:
            raise TransferError(
                Kind.TRANSFER, f"{mirror.name}: expected {self._size_bytes} bytes, the body ended after {position}"
            )

    def _is_end(self, position: int, end: int | None) -> bool:
        return position == end or (self._size_bytes is not None and position >= self._size_bytes)

    def _body(self, reply: HttpReply, position: int, known_bytes: int) -> Iterator[bytes]:
        """The body without its first `known_bytes`, and nothing beyond the end of the payload."""
        end = self._settings.max_bytes if self._size_bytes is None else self._size_bytes
        while position < end or self._size_bytes is None:
            chunk = reply.read(self._read_bytes)
            if not chunk:
                return
            self._received_bytes += len(chunk)
            if self._bucket is not None:
                self._bucket.take(len(chunk))
            if known_bytes:
                dropped = min(known_bytes, len(chunk))
                known_bytes -= dropped
                self._discarded_bytes += dropped
                chunk = chunk[dropped:]
            if self._size_bytes is None and position + len(chunk) > end:
                raise _too_large(reply.url.name, None, end)
            chunk = chunk[: end - position]
            if chunk:
                position += len(chunk)
                yield chunk

    def _check_answer(self, mirror: Mirror, reply: HttpReply, position: int) -> int | None:
        """How many bytes at the start of the body are known already; None when the payload ends at `position`."""
        if reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and position > 0:
            self._check_end(mirror, reply, position)
            return None
        if reply.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            raise status_error(mirror, reply)
        check_content(mirror, reply)
        start, total = 0, reply.content_length()
        if reply.status == HTTPStatus.PARTIAL_CONTENT:
            start, total = partial_range(mirror, reply)
            if start != position:
                raise TransferError(
                    Kind.TRANSFER, f"{mirror.name}: expected bytes from {position}, the server sent them from {start}"
                )
        mirror.check_unchanged(reply, total)
        if total is not None:
            self._check_size(mirror, total)
        if start < position:
            _LOG.info("%s: the server cannot resume: reading the first %d bytes again", mirror.name, position)
        return position - start

    def _check_end(self, mirror: Mirror, reply: HttpReply, position: int) -> None:
        """Accept "nothing more from there" only where the payload ends."""
        total = unsatisfied_total(mirror, reply)
        mirror.check_unchanged(reply, total)
        if total != position:
            raise PermanentTransferError(
                Kind.PAYLOAD_SIZE, f"{mirror.name}: expected more than {position} bytes, the server has {total}"
            )
        self._check_size(mirror, total)

    def _check_size(self, mirror: Mirror, total: int) -> None:
        if self._size_bytes is None:
            self._size_bytes = total
        if total != self._size_bytes:
            raise PermanentTransferError(
                Kind.PAYLOAD_SIZE, f"{mirror.name}: expected {self._size_bytes} bytes, the server has {total}"
            )
        if total > self._settings.max_bytes:
            raise _too_large(mirror.name, total, self._settings.max_bytes)


def _too_large(name: str, total: int | None, limit: int) -> PermanentTransferError:
    got = "more" if total is None else f"{total}"
    return PermanentTransferError(Kind.TRANSFER_TOO_LARGE, f"{name}: expected at most {limit} bytes, got {got}")
