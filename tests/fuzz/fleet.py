"""Any bytes on a connection to the fleet server: every request is answered, in HTTP, and nothing is raised."""

import atexit
import functools
import io
import random
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.payloads import DATA, make_payload
from update_agent.fleet.catalog import Catalog
from update_agent.fleet.main import FLATCAR_APP_ID
from update_agent.fleet.server import FleetServer, ServerSettings

_PAYLOAD = make_payload(bytes(2000), version="9999.0.0")
_HEAD = re.compile(rb"HTTP/1\.[01] [0-9]{3} [\x20-\x7e\xa0-\xff]+\r\n(?:[A-Za-z-]+: [\x20-\x7e\xa0-\xff]*\r\n)*\r\n")


class _Connection:
    """In place of a socket: everything was sent already, and what is answered is kept."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.answered = bytearray()

    def makefile(self, *_: object, **__: object) -> BinaryIO:
        return io.BytesIO(self._sent)

    def sendall(self, data: bytes) -> None:
        self.answered += data

    def sendfile(self, file: BinaryIO, offset: int, count: int) -> int:
        file.seek(offset)
        data = file.read(count)
        assert len(data) == count
        self.answered += data
        return count

    def settimeout(self, secs: float) -> None:
        """Nothing is waited for."""


_LOG = io.StringIO()


@functools.cache
def _server() -> FleetServer:
    """Bound, and never listened to; it and its folder live as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="update-agent-fuzz-")
    atexit.register(folder.cleanup)
    (Path(folder.name) / "a b.payload").write_bytes(_PAYLOAD)
    settings = ServerSettings(app_id=FLATCAR_APP_ID, access_log=_LOG)
    server = FleetServer(("127.0.0.1", 0), Catalog(Path(folder.name)), settings)
    atexit.register(server.server_close)
    return server


def _run(data: bytes) -> None:
    connection = _Connection(data)
    _LOG.seek(0)
    _LOG.truncate()
    _server().finish_request(cast("socket.socket", connection), ("127.0.0.1", 1))
    answered = bytes(connection.answered)
    # An HTTP/0.9 request, which has no version, is answered without a head.
    if answered.startswith(b"HTTP/"):
        assert _HEAD.match(answered), answered[:500]
    for line in _LOG.getvalue().splitlines():
        assert re.fullmatch(r'127\.0\.0\.1 [0-9TZ:-]+ "[\x20-\x7e]*" [0-9]{3} [0-9]+', line)


def _seeds() -> Iterator[bytes]:
    for path in sorted((DATA / "omaha").glob("request-*.xml")):
        body = path.read_bytes()
        head = f"POST /v1/update/ HTTP/1.1\r\nHost: updates.example:80\r\nContent-Length: {len(body)}\r\n\r\n"
        yield head.encode() + body
    get = b"GET /payloads/a%20b.payload HTTP/1.1\r\nHost: h\r\n"
    for more in (b"", b"Range: bytes=5-9\r\n", b"Range: bytes=-7\r\nIf-Range: x\r\n", b"Connection: close\r\n"):
        yield get + more + b"\r\n"
        yield get.replace(b"GET", b"HEAD") + more + b"\r\n" + get + b"\r\n"
    yield b"GET /payloads/../a HTTP/1.0\r\n\r\n"
    yield b"GET http://h/payloads/x?y#z HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"
    yield b"GET /payloads/a%20b.payload\r\n\r\n"
    yield b"POST /v1/update HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nPUT / HTTP/1.1\r\n\r\n"


_WORDS = (
    *b"/payloads/ /v1/update // [ ] %00 %ff %2e%2e/ \xff \0 ? # http://[ PUT".split(b" "),
    *(b"GET ", b"POST ", b"HEAD ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b"\r\n\r\n", b"\r\n", b"\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Range: bytes=", b"Host: ", b"If-Range: ", b" "),
    *(b"A: b\r\n" * 101, b"a" * 70_000),
)


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    at = rng.randint(0, min(len(data), rng.choice((20, 200, len(data)))))
    return data[:at] + rng.choice(_WORDS) + data[at + rng.randrange(4) :]


TARGETS = {"fleet-server": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=1 << 17)}
