"""One request to the update server, one answer; when to ask again is for others to decide."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from update_agent.errors import Kind, TransferError, UpdateAgentError
from update_agent.formats.omaha import MAX_RESPONSE_BYTES
from update_agent.formats.omaha_request import Request
from update_agent.net.failures import HttpStatusError
from update_agent.net.http import HttpClient, HttpReply
from update_agent.net.settings import TransferSettings

_LOG = logging.getLogger(__name__)

TOTAL_SECS: Final = 120.0
"""The longest that one update check takes, redirects and all."""

REPORT_SECS: Final = 20.0
"""Likewise for an event: an update waits for it, and nothing depends on it."""

_READ_BYTES: Final = 1 << 16


class OmahaClient:
    """Talks to the update server at one URL."""

    def __init__(
        self,
        url: str,
        settings: TransferSettings,
        *,
        total_secs: float = TOTAL_SECS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            url: where requests are posted to, exactly as configured.
            settings: limits, proxy and certificates. User and password belong to payloads and are not sent.
            total_secs: the longest that one exchange may take.
            clock: monotonic seconds.

        Raises:
            ConfigurationError: configuration.
        """
        self._url = url
        settings = replace(settings, user=None, password=None)
        self._client = HttpClient(settings, clock=clock, total_secs=total_secs)
        self._reporter = HttpClient(settings, clock=clock, total_secs=min(total_secs, REPORT_SECS))

    def report(self, request: Request) -> bool:
        """Send events, and say whether the server took them; a failure is logged and changes nothing."""
        try:
            self._exchange(self._reporter, request)
        except UpdateAgentError as error:
            _LOG.warning("event not delivered: %s", error.message)
            return False
        return True

    def exchange(self, request: Request) -> bytes:
        """The body of the answer to an update check, at most 1 MiB.

        Raises:
            TransferError: omaha-transfer, http-status (an `HttpStatusError`), redirect-refused, transfer-too-large.
        """
        return self._exchange(self._client, request)

    def _exchange(self, client: HttpClient, request: Request) -> bytes:
        try:
            return self._post(client, request.to_bytes())
        except TransferError as error:
            if error.kind not in {Kind.TRANSFER, Kind.TRANSFER_STALLED}:
                raise
            raise TransferError(Kind.OMAHA_TRANSFER, f"update server: {error.message}", hint=error.hint) from error

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()
        self._reporter.close()

    def _post(self, client: HttpClient, body: bytes) -> bytes:
        reply = client.request("POST", self._url, {"Content-Type": "text/xml"}, body=body)
        try:
            if not 200 <= reply.status < 300:
                raise HttpStatusError(f"update server: {reply.url.name}", reply.status)
            return _read_all(reply)
        finally:
            reply.close()


def _read_all(reply: HttpReply) -> bytes:
    body = bytearray()
    while chunk := reply.read(_READ_BYTES):
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise TransferError(
                Kind.TRANSFER_TOO_LARGE,
                f"update server: {reply.url.name}: expected at most {MAX_RESPONSE_BYTES} bytes, got more",
            )
    return bytes(body)
