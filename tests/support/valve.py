"""A download that stops in the middle until a test lets it go on."""

import socket
import threading
from typing import Final

from tests.support.servers import Received, head

_OPEN_SECS: Final = 20.0


class Valve:
    """A script of a server: sends half of a payload, then waits until it is opened; serves ranges."""

    def __init__(self, payload: bytes) -> None:
        self.is_open = threading.Event()
        self._payload = payload

    def __call__(self, connection: socket.socket, request: Received) -> None:
        payload, start = self._payload, request.range_start
        half = len(payload) // 2
        connection.sendall(
            head("206 Part", Content_Length=len(payload) - start,
                 Content_Range=f"bytes {start}-{len(payload) - 1}/{len(payload)}")
            if start else head(Content_Length=len(payload))
        )  # fmt: skip
        connection.sendall(payload[start:half])
        self.is_open.wait(_OPEN_SECS)
        connection.sendall(payload[max(start, half) :])
