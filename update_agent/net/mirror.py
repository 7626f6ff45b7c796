"""One place to get a payload from: what its answers say, and how often it failed."""

import re
from http import HTTPStatus
from typing import Final

from update_agent.errors import Kind, TransferError, VerificationError
from update_agent.net.failures import PermanentTransferError
from update_agent.net.http import HttpReply
from update_agent.net.url import parse_url

_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)")
_TRY_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class Mirror:
    """One URL, what it said about the payload, and how often it failed in a row."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = parse_url(url)[0].name
        self.etag: str | None = None
        self.last_modified: str | None = None
        self.total_bytes: int | None = None
        self.failures = 0
        self.last_error: TransferError | None = None
        self.is_given_up = False

    def begin(self) -> None:
        """Forget failures."""
        self.failures, self.last_error, self.is_given_up = 0, None, False

    def failed(self, error: TransferError, max_failures: int) -> None:
        """Count one more failure in a row."""
        self.failures += 1
        self.last_error = error
        self.is_given_up = isinstance(error, PermanentTransferError) or self.failures >= max_failures

    def range_headers(self, position: int, end: int | None = None) -> dict[str, str]:
        """What to send for the bytes from `position` to before `end`, or all from 0 if the payload has changed."""
        if position == 0 and end is None:
            return {}
        headers = {"Range": f"bytes={position}-{'' if end is None else end - 1}"}
        # RFC 9110, 13.1.5: a weak entity tag never matches.
        strong = self.etag if self.etag is not None and not self.etag.startswith("W/") else None
        validator = strong or self.last_modified
        if validator is not None:
            headers["If-Range"] = validator
        return headers

    def check_unchanged(self, reply: HttpReply, total_bytes: int | None) -> None:
        """Compare what the server says about the payload with what it said before, and remember it.

        Raises:
            VerificationError: payload-changed.
        """
        etag, last_modified = reply.headers.get("ETag"), reply.headers.get("Last-Modified")
        # The date of the same entity tag may differ between the machines behind one name.
        changed = _differ(etag, self.etag)
        if etag is None or self.etag is None:
            changed = _differ(last_modified, self.last_modified)
        if changed or _differ(total_bytes, self.total_bytes):
            raise VerificationError(
                Kind.PAYLOAD_CHANGED, f"{self.name}: the payload on the server changed during the download"
            )
        self.etag = etag or self.etag
        self.last_modified = last_modified or self.last_modified
        self.total_bytes = self.total_bytes if total_bytes is None else total_bytes


def _differ(new: str | int | None, old: str | int | None) -> bool:
    return new is not None and old is not None and new != old


def partial_range(mirror: Mirror, reply: HttpReply) -> tuple[int, int | None]:
    """First byte and total size of a 206 answer (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if match is None or match[1] is None:
        raise TransferError(Kind.TRANSFER, f"{mirror.name}: expected a Content-Range, got none that makes sense")
    start, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    length = reply.content_length()
    if last < start or (total is not None and last >= total) or (length is not None and length != last - start + 1):
        raise TransferError(
            Kind.TRANSFER, f"{mirror.name}: expected a Content-Range that fits the body, got one that does not"
        )
    return start, total


def unsatisfied_total(mirror: Mirror, reply: HttpReply) -> int:
    """The size of the payload according to a 416 answer."""
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if match is None or match[1] is not None or match[3] == "*":
        raise status_error(mirror, reply)
    return int(match[3])


def status_error(mirror: Mirror, reply: HttpReply) -> TransferError:
    """The error for an answer that brings no payload."""
    status = reply.status
    message = f"{mirror.name}: expected the payload, got HTTP status {status}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRY_AGAIN:
        return TransferError(Kind.HTTP_STATUS, message)
    return PermanentTransferError(Kind.HTTP_STATUS, message)


def check_content(mirror: Mirror, reply: HttpReply) -> None:
    """Refuse a body that is certainly not the payload as it lies on the server."""
    encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        raise PermanentTransferError(
            Kind.TRANSFER, f"{mirror.name}: expected the payload as it is, got it encoded ({encoding[:20]!r})"
        )
    if reply.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise PermanentTransferError(
            Kind.TRANSFER,
            f"{mirror.name}: expected a payload, got a web page",
            hint="open the URL in a browser: a login page or a proxy may be in the way",
        )
