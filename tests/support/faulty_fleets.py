"""An update server that can be wrong in every way, and right again."""

import functools
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.support.commands import NEW, run_cli
from tests.support.fleets import Fleet
from tests.support.payloads import RSA_A
from tests.support.servers import Received, Script, head

_HELD_SECS: Final = 30.0


def same(data: bytes) -> bytes:
    """No change."""
    return data


class FaultyFleet(Fleet):
    """A `Fleet` whose faults are attributes, to be set and to be taken back.

    Attributes:
        check: answers requests for an update in place of the usual.
        edit: changes the body of the usual answer to them.
    """

    check: Script | None = None
    edit: Callable[[bytes], bytes] = staticmethod(same)

    def heal(self, payload: bytes) -> None:
        """Offer this one, and do everything right; forget what was heard."""
        self.payload = self.announced = payload
        self.check, self.edit, self.serve, self.most = None, same, None, None
        self.heard, self.codes = [], []

    def __call__(self, connection: socket.socket, request: Received) -> None:
        if self.check is not None and b"<updatecheck" in request.body:
            self.heard.append("check")
            self.check(connection, request)
        else:
            super().__call__(connection, request)

    def _answer(self, host: str, *, has_update_check: bool) -> bytes:
        body = super()._answer(host, has_update_check=has_update_check)
        return self.edit(body) if has_update_check else body


V1: Final = "1"
V2: Final = "2"


def begin(connection: socket.socket, request: Received, content: bytes) -> tuple[int, int]:
    """Send the head of the answer; where its body begins and ends."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    start, end = (int(wanted[1]), int(wanted[2] or len(content) - 1) + 1) if wanted else (0, len(content))
    place = {"Content_Range": f"bytes {start}-{end - 1}/{len(content)}"} if wanted else {}
    connection.sendall(head("206 Part" if wanted else "200 OK", Content_Length=end - start, **place))
    return start, end


class Held:
    """A script that stops in the middle of a payload until `gate` is set."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.gate = threading.Event()
        self.is_held = threading.Event()

    def __call__(self, connection: socket.socket, request: Received) -> None:
        start, end = begin(connection, request, self._content)
        middle = min(max(start, len(self._content) // 2), end)
        connection.sendall(self._content[start:middle])
        if middle < end:
            self.is_held.set()
            self.gate.wait(_HELD_SECS)
            connection.sendall(self._content[middle:end])


class Paced:
    """A script that sends a payload slowly, and notes what it sends.

    Attributes:
        sent: first byte and number of bytes of each request; what the client did not read any more counts, too.
    """

    def __init__(self, content: bytes, *, chunk_bytes: int, pause_secs: float) -> None:
        self._content, self._chunk_bytes, self._pause_secs = content, chunk_bytes, pause_secs
        self._never = threading.Event()
        self.sent: list[tuple[int, int]] = []

    def __call__(self, connection: socket.socket, request: Received) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._chunk_bytes)
        start, end = begin(connection, request, self._content)
        number = len(self.sent)
        self.sent.append((start, 0))
        for at in range(start, end, self._chunk_bytes):
            chunk = self._content[at : min(at + self._chunk_bytes, end)]
            connection.sendall(chunk)
            self.sent[number] = (start, at + len(chunk) - start)
            self._never.wait(self._pause_secs)


@functools.cache
def built_payload(major: str, *, usr: bytes = NEW, version: str = "2.0.0", keys: Sequence[Path] = (RSA_A,)) -> bytes:
    """A payload as `update-agent payload build` makes it, of this major version."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "usr.img").write_bytes(usr)
        signing = [word for key in keys for word in ("--key", key)]
        done = run_cli(
            "payload", "build", "--format", major, "--usr", folder / "usr.img", "--version", version, *signing,
            "--level", "1", "--workers", "1", "--output", folder / "out.payload",
        )  # fmt: skip
        assert done.status == 0, done.err
        return (folder / "out.payload").read_bytes()
