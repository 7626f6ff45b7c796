"""What requests, urllib3, ssl and the sockets throw, in words for a person."""

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import urllib3.exceptions

from update_agent.errors import Kind, TransferError
from update_agent.net.requests_lite import requests

FOREIGN_ERRORS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # UnicodeError and LocationValueError are among its children
)
"""All that an HTTP exchange can throw besides our own errors."""


class PermanentTransferError(TransferError):
    """Asking the same URL again would end in the same way."""


class HttpStatusError(TransferError):
    """The server answered with a status that is no success.

    Attributes:
        status: of the answer; update_engine reports 2000 and this number.
    """

    def __init__(self, name: str, status: int) -> None:
        super().__init__(Kind.HTTP_STATUS, f"{name}: expected success, got HTTP status {status}")
        self.status = status


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first; urllib3 hides causes in `reason` and `args`."""
    seen: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or current in seen:
            continue
        seen.append(current)
        yield current
        pending += [getattr(current, "reason", None), *current.args, current.__cause__, current.__context__]


def _explain_one(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate not accepted: {getattr(error, 'verify_message', 'no reason given')}"
        case ssl.SSLError():
            return f"TLS failed: {getattr(error, 'reason', None) or 'protocol error'}"
        case socket.gaierror():
            return f"cannot look up the host: {error.strerror}"
        case urllib3.exceptions.ConnectTimeoutError():
            return "no connection in time"
        case http.client.RemoteDisconnected():
            return "the server closed the connection without an answer"
        case http.client.BadStatusLine() | http.client.LineTooLong():
            return "the server's answer is not HTTP"
        case http.client.IncompleteRead() | urllib3.exceptions.IncompleteRead():
            return "the connection ended before the body did"
        case TimeoutError():
            return "timed out"
        case OSError() if isinstance(error.errno, int) and error.errno > 0:
            return os.strerror(error.errno).lower()
        case _:
            return None


def explain(error: BaseException) -> str:
    """A few words for a person; never with a URL, which may hold secrets."""
    chain = tuple(_chain(error))
    prefix = "proxy: " if any(isinstance(each, urllib3.exceptions.ProxyError) for each in chain) else ""
    for each in reversed(chain):
        reason = _explain_one(each)
        if reason is not None:
            return prefix + reason
    return f"{prefix}HTTP failed ({type(chain[-1]).__name__})"


def translated(name: str, error: Exception) -> TransferError:
    """Our error for a foreign one that happened while talking to `name`."""
    certificate = any(isinstance(each, ssl.SSLCertVerificationError) for each in _chain(error))
    if certificate:
        return PermanentTransferError(
            Kind.TRANSFER,
            f"{name}: {explain(error)}",
            hint="check the clock, and the CA file if the server has a certificate of your own",
        )
    return TransferError(Kind.TRANSFER, f"{name}: {explain(error)}")
