"""The update server's two faces: Omaha requests, and the payloads themselves.

It offers the newest release of a folder to every node that runs an older one. It keeps no state about nodes, and asks
nobody who they are: put it behind a proxy where that matters.
"""

import email.utils
import http.server
import logging
import os
import re
import socket
import socketserver
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO, Final, TextIO
from urllib.parse import quote, unquote, urlsplit

from update_agent import __version__
from update_agent.errors import FormatError
from update_agent.fleet.catalog import Catalog, Release, identity_of
from update_agent.formats.omaha_server import (
    MAX_REQUEST_BYTES,
    AppAnswer,
    AppStatus,
    AskingApp,
    Offer,
    build_response,
    normalized_app_id,
    parse_request,
)
from update_agent.formats.release import Version

_LOG = logging.getLogger(__name__)

OMAHA_PATHS: Final = frozenset({"/v1/update", "/v1/update/"})
PAYLOADS_PATH: Final = "/payloads/"

_SOCKET_TIMEOUT_SECS: Final = 60
_HOST: Final = re.compile(r"[A-Za-z0-9._~:\[\]-]{1,255}")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the server says about itself.

    Attributes:
        app_id: of the only product it knows.
        url_base: how nodes reach it, such as https://updates.example.com; None takes the Host of each request.
        access_log: one line per request goes there; None for none.
    """

    app_id: str
    url_base: str | None = None
    access_log: TextIO | None = None


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First byte and number of bytes of a Range header (RFC 9110, 14.2); None when all is to be sent.

    A number of 0 bytes says that the range lies outside.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not any(match.groups()):
        return None
    if not match[1]:
        count = min(int(match[2]), size_bytes)
        return size_bytes - count, count
    start = int(match[1])
    last = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
    if match[2] and int(match[2]) < start:
        return None
    return start, max(last - start + 1, 0)


def _open_unchanged(release: Release) -> BinaryIO | None:
    """The file, if it still has the content that is announced."""
    try:
        file = release.path.open("rb", buffering=0)
    except OSError:
        return None
    if identity_of(os.fstat(file.fileno())) == release.identity:
        return file
    file.close()
    return None


class FleetServer(http.server.ThreadingHTTPServer):
    """Listens until `shutdown`; one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], catalog: Catalog, settings: ServerSettings) -> None:
        """Listen on `address`; port 0 takes a free one.

        Raises:
            OSError: when that cannot be.
        """
        self.catalog = catalog
        self.settings = settings
        self.product = normalized_app_id(settings.app_id)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name that `HTTPServer` does: it may take a minute."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that went away is no news."""
        _LOG.debug("%s: connection failed", client_address, exc_info=True)

    def answer(self, app: AskingApp, base: str) -> AppAnswer:
        """What to say to one app of a request; `base` is the URL under which payloads are."""
        status, offer = AppStatus.OK, None
        if app.product != self.product:
            status = AppStatus.UNKNOWN_APPLICATION
        elif app.has_update_check:
            try:
                offer = self._offer(Version.parse(app.version), base)
            except FormatError:
                status = AppStatus.INVALID_VERSION
        return AppAnswer(
            app_id=app.app_id,
            status=status,
            has_ping=app.has_ping,
            has_update_check=app.has_update_check,
            offer=offer,
            event_count=len(app.events),
        )

    def _offer(self, running: Version, base: str) -> Offer | None:
        release = self.catalog.newest()
        if release is None or release.version <= running:
            return None
        return Offer(
            version=release.version.text,
            codebase=base,
            name=quote(release.name),
            size_bytes=release.size_bytes,
            sha1_base64=release.sha1_base64,
            sha256_base64=release.sha256_base64,
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    server: FleetServer
    protocol_version = "HTTP/1.1"
    timeout = _SOCKET_TIMEOUT_SECS
    error_content_type = "text/plain"
    error_message_format = "%(code)d %(message)s\n"

    _sent_bytes = 0

    def do_POST(self) -> None:
        """Omaha."""
        self._sent_bytes = 0
        if self.path.partition("?")[0] not in OMAHA_PATHS:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        length, *others = self.headers.get_all("Content-Length", [""])
        # Whoever stands between must not see another end of the body than we do (RFC 9112, 6.1 and 6.3).
        if others or "Transfer-Encoding" in self.headers or re.fullmatch(r"[0-9]{1,19}", length) is None:
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
            return
        if int(length) > MAX_REQUEST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            apps = parse_request(self.rfile.read(int(length)))
        except FormatError as error:
            self._plain(HTTPStatus.BAD_REQUEST, error.message)
            return
        for app in apps:
            self._log_events(app)
        body = build_response([self.server.answer(app, self._payload_base()) for app in apps])
        self._head(HTTPStatus.OK, {"Content-Type": "text/xml; charset=utf-8", "Content-Length": str(len(body))})
        self._write(body)
        self._log_access(HTTPStatus.OK)

    def do_GET(self) -> None:
        """Payloads."""
        self._sent_bytes = 0
        if "Transfer-Encoding" in self.headers or self.headers.get_all("Content-Length", ["0"]) != ["0"]:
            self.close_connection = True  # the body, which nobody reads, is not the next request
        release = self._find_release()
        if release is None:
            self._plain(HTTPStatus.NOT_FOUND)
            return
        file = _open_unchanged(release)
        if file is None:
            self._plain(HTTPStatus.SERVICE_UNAVAILABLE, "the payload is being replaced")
            return
        with file:
            self._send_payload(release, file)

    def do_HEAD(self) -> None:
        """What GET would say."""
        self.do_GET()

    def _find_release(self) -> Release | None:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            return None
        # Names are looked up in the catalog, never in the file system.
        name = unquote(path.removeprefix(PAYLOADS_PATH))
        return self.server.catalog.find(name) if path.startswith(PAYLOADS_PATH) else None

    def _send_payload(self, release: Release, file: BinaryIO) -> None:
        etag = f'"{release.sha256.hex()}"'
        modified = email.utils.formatdate(release.modified_secs, usegmt=True)
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": etag,
            "Last-Modified": modified,
            "Accept-Ranges": "bytes",
        }
        status, start, count = HTTPStatus.OK, 0, release.size_bytes
        wanted = None
        if self.headers.get("If-Range", etag) in {etag, modified}:
            wanted = parse_range(self.headers.get("Range"), release.size_bytes)
        if wanted is not None:
            start, count = wanted
            status = HTTPStatus.PARTIAL_CONTENT if count else HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            bounds = f"{start}-{start + count - 1}" if count else "*"
            headers["Content-Range"] = f"bytes {bounds}/{release.size_bytes}"
        self._head(status, headers | {"Content-Length": str(count)})
        if count and self.command != "HEAD":
            self._send_file(file, start, count)
        self._log_access(status)

    def _send_file(self, file: BinaryIO, start: int, count: int) -> None:
        try:
            sent = self.connection.sendfile(file, start, count)
        except OSError as error:
            sent = file.tell() - start
            _LOG.debug("not sent to the end: %s", error)
        self._sent_bytes += sent
        # After half a body no other answer can follow.
        self.close_connection = self.close_connection or sent < count

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer without reading the body, after which the connection cannot be used again."""
        self.close_connection = True
        self._plain(status)

    def _payload_base(self) -> str:
        base = self.server.settings.url_base
        if base is None:
            host = self.headers.get("Host", "")
            base = f"http://{host}" if _HOST.fullmatch(host) else self.server.url
        return base.rstrip("/") + PAYLOADS_PATH

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _write(self, body: bytes) -> None:
        self.wfile.write(body)
        self._sent_bytes += len(body)

    def _plain(self, status: HTTPStatus, text: str | None = None) -> None:
        body = f"{status.value} {_UNPRINTABLE.sub('?', text or status.phrase)}\n".encode("ascii")
        self._head(status, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self._write(body)
        self._log_access(status)

    def _log_events(self, app: AskingApp) -> None:
        for event in app.events:
            line = f"{app.machine_id} {app.version} event {event.event_type}/{event.result} {event.error_code}"
            _LOG.info("%s", _UNPRINTABLE.sub("?", line.rstrip()))

    def _log_access(self, status: HTTPStatus) -> None:
        log = self.server.settings.access_log
        if log is not None:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            request = _UNPRINTABLE.sub("?", self.requestline).replace('"', "?")
            log.write(f'{self.client_address[0]} {when} "{request}" {status.value} {self._sent_bytes}\n')
            log.flush()

    def version_string(self) -> str:
        """The Server header."""
        return f"update-agent/{__version__}"

    def log_message(self, *message: object, **_: object) -> None:
        """What the base class has to say is for debugging."""
        _LOG.debug("%s", message)
