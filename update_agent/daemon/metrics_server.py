"""A small HTTP server in the loop of the agent: GET /metrics, on a Unix socket and on a TCP port.

It owns its sockets. It never waits: a client that is slow, silent or floods takes one of a few places for a few
seconds, and nothing else.
"""

import contextlib
import logging
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gi.repository import GLib

from update_agent.daemon.ports import Loop, Timer
from update_agent.errors import ConfigurationError, Kind

REQUEST_BYTES_MAX: Final = 8 * 1024
CONNECTIONS_MAX: Final = 16
CONNECTION_SECS: Final = 5.0
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_BACKLOG: Final = 16
_CHUNK_BYTES: Final = 16 * 1024
_ACCEPT_PAUSE_SECS: Final = 1.0
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.[01]")
_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")

_log = logging.getLogger(__name__)


def respond(received: bytes, page: Callable[[], bytes]) -> bytes | None:
    """The answer to what a client has sent so far; None when that is not a whole request yet (RFC 9112)."""
    end = _HEADER_END.search(received, 0, REQUEST_BYTES_MAX)
    if end is None:
        return None if len(received) < REQUEST_BYTES_MAX else _answer("431 Request Header Fields Too Large")
    request = _REQUEST_LINE.fullmatch(received[: end.start()].splitlines()[0] if end.start() else b"")
    if request is None:
        return _answer("400 Bad Request")
    method, target = request.groups()
    if method not in {b"GET", b"HEAD"}:
        return _answer("405 Method Not Allowed", "Allow: GET, HEAD")
    if target.partition(b"?")[0] != b"/metrics":
        return _answer("404 Not Found", body=b"only /metrics is here\n")
    return _answer("200 OK", body=page(), is_head=method == b"HEAD", content_type=CONTENT_TYPE)


def _answer(
    status: str, *headers: str, body: bytes = b"", is_head: bool = False, content_type: str = "text/plain"
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    return head if is_head else head + body


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT, where HOST is an address or `localhost`, as host and port.

    Names are not looked up: that could take as long as the network likes.

    Raises:
        ConfigurationError: configuration.
    """
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
        number = int(port) if port.isascii() and port.isdecimal() else -1
    except (OSError, UnicodeError):
        number = -1
    if not 0 <= number <= 0xFFFF:
        raise ConfigurationError(
            Kind.CONFIGURATION,
            f"metrics.listen: expected ADDRESS:PORT, got {text!r}",
            hint="such as 127.0.0.1:9101 or [::1]:9101",
        )
    return host, number


class MetricsServer:
    """Answers with a page that is made anew for each request."""

    def __init__(self, loop: Loop, page: Callable[[], bytes]) -> None:
        self.loop = loop
        self.page = page
        self._listeners: list[socket.socket] = []
        self._watches: list[int] = []
        self._connections: set[_Connection] = set()
        self._socket_paths: list[Path] = []
        self._pause: Timer | None = None

    def listen_unix(self, path: Path) -> None:
        """Answer there; a socket that an earlier process left is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        self._listen(socket.AF_UNIX, str(path))
        # The same that everybody may read on the bus.
        path.chmod(0o666)
        self._socket_paths.append(path)

    def listen_tcp(self, host: str, port: int) -> int:
        """Answer there, too; the port, which is chosen when it is 0.

        Raises:
            OSError: the socket cannot be made.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._listen(family, (host, port))
        return int(listener.getsockname()[1])

    def stop(self) -> None:
        """Close everything, whoever is waiting."""
        self._unwatch()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()  # or the end of a connection would begin to listen again
        for connection in tuple(self._connections):
            connection.close()
        for path in self._socket_paths:
            with contextlib.suppress(OSError):
                path.unlink()
        self._socket_paths.clear()

    def forget(self, connection: "_Connection") -> None:
        """The connection is closed, its place is free."""
        self._connections.discard(connection)
        if self._listeners and not self._watches and self._pause is None:
            self._watch()

    def _listen(self, family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family is not socket.AF_UNIX:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._unwatch()
        self._listeners.append(listener)
        self._watch()
        return listener

    def _watch(self) -> None:
        self._watches = [watch(listener, GLib.IOCondition.IN, self._accept) for listener in self._listeners]

    def _unwatch(self) -> None:
        for each in self._watches:
            GLib.source_remove(each)
        self._watches = []
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # No file descriptors left, usually: without a pause the loop would spin.
            _log.warning("metrics: cannot take a connection: %s", error.strerror)
            self._unwatch()
            self._pause = self.loop.call_later(_ACCEPT_PAUSE_SECS, self._resume)
            return
        self._connections.add(_Connection(self, client))
        if len(self._connections) >= CONNECTIONS_MAX:
            self._unwatch()

    def _resume(self) -> None:
        self._pause = None
        if len(self._connections) < CONNECTIONS_MAX:
            self._watch()


class _Connection:
    """One request and its answer: read, write, then wait for the client to close, all within a few seconds."""

    def __init__(self, server: MetricsServer, client: socket.socket) -> None:
        client.settimeout(0)
        self._server = server
        self._client = client
        self._received = b""
        self._to_send = b""
        self._is_answered = False
        self._watch = watch(client, GLib.IOCondition.IN, self._read)
        self._deadline = server.loop.call_later(CONNECTION_SECS, self.close)

    def close(self) -> None:
        """Give the place free."""
        if self._client.fileno() < 0:
            return
        self._deadline.cancel()
        GLib.source_remove(self._watch)
        self._client.close()
        self._server.forget(self)

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self._is_answered:
            self._received += data
            answer = respond(self._received, self._server.page)
            if answer is not None:
                self._is_answered = True
                self._to_send = answer
                self._turn_to(GLib.IOCondition.OUT, self._write)

    def _write(self, client: socket.socket) -> None:
        try:
            sent = client.send(self._to_send[: 4 * _CHUNK_BYTES])
            self._to_send = self._to_send[sent:]
            if not self._to_send:
                # Closing with unread input would make TCP throw away what the client has not read yet.
                client.shutdown(socket.SHUT_WR)
                self._turn_to(GLib.IOCondition.IN, self._read)
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def _turn_to(self, condition: GLib.IOCondition, function: Callable[[socket.socket], None]) -> None:
        GLib.source_remove(self._watch)
        self._watch = watch(self._client, condition, function)


def watch(sock: socket.socket, condition: GLib.IOCondition, function: Callable[[socket.socket], None]) -> int:
    """Call the function whenever the socket is ready, until `GLib.source_remove`; the source's number."""

    def ready(_fd: int, _condition: GLib.IOCondition, *_: object) -> bool:
        function(sock)
        return True

    hangup = GLib.IOCondition.HUP | GLib.IOCondition.ERR
    number: int = GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT_IDLE, sock.fileno(), condition | hangup, ready)
    return number
