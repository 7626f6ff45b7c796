"""A transport for requests whose every wait on the socket ends when a `StallWatch` says so.

requests knows one timeout per read: a server that sends a byte now and then would hold us for ever. Here each
read waits for exactly the time that the watch has left, in the headers as well as in the body.
"""

import http.client
import io
import socket
from typing import Any, Final, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from update_agent.net.pace import StallWatch
from update_agent.net.requests_lite import HTTPAdapter

_BUFFER_BYTES: Final = 1 << 16


class _WatchedSocket(io.RawIOBase):
    """The reading side of a connected socket, plain or TLS."""

    def __init__(self, sock: socket.socket, watch: StallWatch) -> None:
        super().__init__()
        self._socket = sock
        self._stream = sock.makefile("rb", buffering=0)
        self._watch = watch

    def readable(self) -> bool:
        return True

    # The buffer type of typeshed has no public name before Python 3.12.
    def readinto(self, buffer: Any, /) -> int:
        self._socket.settimeout(self._watch.remaining_secs())
        try:
            count = self._stream.readinto(buffer) or 0
        except TimeoutError as error:
            raise self._watch.stalled() from error
        self._watch.received(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class WatchedAdapter(HTTPAdapter):
    """Connections, direct or through a proxy, that obey `watch`; one for each request, one request at a time.

    urllib3 leaves it to the garbage collector to close connections, so this keeps a list of its own.
    """

    def __init__(self, watch: StallWatch) -> None:
        super().__init__(max_retries=0)
        self._opened: list[_WatchedSocket | HTTPConnection] = []
        self._pool_classes = _pool_classes(watch, self._opened)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> ProxyManager:
        """The connections through `proxy`."""
        manager = cast("ProxyManager", super().proxy_manager_for(proxy, **proxy_kwargs))
        manager.pool_classes_by_scheme = self._pool_classes
        return manager

    def close_connections(self) -> None:
        """End what was opened so far."""
        while self._opened:
            self._opened.pop().close()


def _pool_classes(
    watch: StallWatch, opened: list[_WatchedSocket | HTTPConnection]
) -> dict[str, type[HTTPConnectionPool]]:
    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp.close()
            stream = _WatchedSocket(sock, watch)
            opened.append(stream)
            self.fp = io.BufferedReader(stream, _BUFFER_BYTES)

    class Connection(HTTPConnection):
        response_class = Response

        def connect(self) -> None:
            opened.append(self)
            super().connect()

    class SecureConnection(HTTPSConnection):
        response_class = Response

        def connect(self) -> None:
            opened.append(self)
            super().connect()

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}
