"""One HTTP exchange with everything bounded: redirects, waiting, size, and who gets to see credentials.

Owns the translation of what requests, urllib3, ssl and the sockets throw into `TransferError`. Bodies are
handed out undecoded.
"""

import contextlib
import http.client
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import urljoin

import urllib3

from update_agent import __version__
from update_agent.errors import ConfigurationError, Kind, TransferError
from update_agent.net.connection import WatchedAdapter
from update_agent.net.failures import FOREIGN_ERRORS, PermanentTransferError, translated
from update_agent.net.pace import StallWatch
from update_agent.net.requests_lite import requests
from update_agent.net.settings import TransferSettings
from update_agent.net.url import HttpUrl, parse_url

_LOG = logging.getLogger(__name__)

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class HttpReply:
    """Status and headers of an answer, and its body as it arrives."""

    def __init__(self, url: HttpUrl, response: requests.Response, watch: StallWatch) -> None:
        self.url = url
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._raw = cast("urllib3.BaseHTTPResponse", response.raw)
        self._watch = watch

    def read(self, limit_bytes: int) -> bytes:
        """What has come of the body, at least 1 and at most `limit_bytes` bytes; nothing only at its end.

        Raises:
            TransferError: transfer, when the body was cut; transfer-stalled.
        """
        self._watch.resume()
        try:
            return self._raw.read1(limit_bytes, decode_content=False) or b""
        except TransferError as error:
            raise TransferError(error.kind, f"{self.url.name}: {error.message}") from error
        except FOREIGN_ERRORS as error:
            raise translated(self.url.name, error) from error
        finally:
            self._watch.suspend()

    def content_length(self) -> int | None:
        """How long the body is announced to be, if it is."""
        if "Transfer-Encoding" in self.headers:
            return None
        text = self.headers.get("Content-Length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None

    def close(self) -> None:
        """End the exchange; an unread rest of the body is not waited for."""
        with contextlib.suppress(*FOREIGN_ERRORS):
            self._raw.close()
            self._response.close()


def _check_files(settings: TransferSettings) -> None:
    for path in (settings.ca_file, settings.client_cert):
        if path is not None and not path.exists():
            raise ConfigurationError(Kind.CONFIGURATION, f"{path}: expected certificates, found no such file")


def _trust_store(settings: TransferSettings) -> str | bool:
    """What requests calls `verify`: the certificates of the system, not those that come with Python packages."""
    if settings.ca_file is not None:
        return str(settings.ca_file)
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


class HttpClient:
    """Sends requests one after the other; not for several threads at once.

    Args:
        settings: limits, proxy, certificates, credentials.
        clock: monotonic seconds.
        total_secs: the longest that one exchange may take altogether, None for no such limit.

    Raises:
        ConfigurationError: configuration, when a file with certificates is missing.
    """

    def __init__(
        self, settings: TransferSettings, *, clock: Callable[[], float], total_secs: float | None = None
    ) -> None:
        _check_files(settings)
        self._settings = settings
        self._verify = _trust_store(settings)
        self._total_secs = total_secs
        self._watch = StallWatch(secs=settings.stall_secs, bytes_per_sec=settings.stall_bytes_per_sec, clock=clock)
        self._adapter = WatchedAdapter(self._watch)

    def request(self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None = None) -> HttpReply:
        """The first answer that is not a redirect, whatever its status; the caller closes it.

        Credentials go to the host of `url` alone, and over https alone.

        Raises:
            ConfigurationError: configuration, when `url` is none.
            TransferError: transfer, transfer-stalled, redirect-refused.
        """
        target, written = parse_url(url)
        home = target.origin
        credentials = written or self._configured_credentials()
        if self._total_secs is not None:
            self._watch.limit_total(self._total_secs)
        for _ in range(self._settings.max_redirects + 1):
            allowed = credentials if target.scheme == "https" and target.origin == home else None
            reply = self._send(method, target, headers, body, allowed)
            if reply.status not in _REDIRECTS:
                return reply
            reply.close()
            target = self._next_target(reply, method)
        raise PermanentTransferError(
            Kind.REDIRECT_REFUSED,
            f"{target.name}: expected at most {self._settings.max_redirects} redirects, got one more",
        )

    def close(self) -> None:
        """Close all connections."""
        self._adapter.close_connections()
        self._adapter.close()

    def _configured_credentials(self) -> tuple[str, str] | None:
        if self._settings.user is None:
            return None
        return self._settings.user, self._settings.password or ""

    def _proxies(self, url: str) -> dict[str, str]:
        if self._settings.proxy is None:
            return dict(requests.utils.get_environ_proxies(url))
        return {"all": self._settings.proxy} if self._settings.proxy else {}

    def _send(
        self,
        method: str,
        target: HttpUrl,
        headers: Mapping[str, str],
        body: bytes | None,
        credentials: tuple[str, str] | None,
    ) -> HttpReply:
        settings = self._settings
        fields = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": f"update-agent/{__version__}",
            **headers,
        }
        auth = None
        if credentials is not None:
            auth = requests.auth.HTTPBasicAuth(*(part.encode() for part in credentials))
        self._adapter.close_connections()
        self._watch.begin_headers(settings.connect_timeout_secs + settings.stall_secs)
        try:
            response = self._adapter.send(
                requests.Request(method, target.text, headers=fields, data=body, auth=auth).prepare(),
                stream=True,
                timeout=(settings.connect_timeout_secs, settings.stall_secs),
                verify=self._verify,
                cert=None if settings.client_cert is None else str(settings.client_cert),
                proxies=self._proxies(target.text),
            )
        except TransferError as error:
            raise TransferError(error.kind, f"{target.name}: {error.message}") from error
        except FOREIGN_ERRORS as error:
            raise translated(target.name, error) from error
        self._watch.begin_body()
        self._watch.suspend()
        return HttpReply(target, response, self._watch)

    def _next_target(self, reply: HttpReply, method: str) -> HttpUrl:
        source, location = reply.url, reply.headers.get("Location")
        if location is None or (reply.status == http.client.SEE_OTHER and method == "POST"):
            raise PermanentTransferError(
                Kind.HTTP_STATUS, f"{source.name}: expected an answer, got status {reply.status} without a place to go"
            )
        try:
            target, _ = parse_url(urljoin(source.text, location))
        except (ConfigurationError, ValueError) as error:
            raise PermanentTransferError(
                Kind.REDIRECT_REFUSED, f"{source.name}: redirected to something that is no http or https URL"
            ) from error
        if target.scheme != source.scheme:
            raise PermanentTransferError(
                Kind.REDIRECT_REFUSED,
                f"{source.name}: expected a redirect within {source.scheme}, got one to {target.name}",
                hint=f"if that is meant to be, configure the {target.scheme} URL itself",
            )
        _LOG.debug("%s: redirected to %s", source.name, target.name)
        return target
