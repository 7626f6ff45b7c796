"""What a client believes of an answer's headers and of URLs, and what the fleet server believes of Range headers."""

import contextlib
import io
import random
import re
from collections.abc import Iterator

import requests
from urllib3 import HTTPResponse

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from update_agent.errors import ConfigurationError, TransferError, VerificationError
from update_agent.fleet.server import parse_range
from update_agent.net.failures import FOREIGN_ERRORS
from update_agent.net.http import HttpReply
from update_agent.net.mirror import Mirror, check_content, partial_range, unsatisfied_total
from update_agent.net.pace import StallWatch
from update_agent.net.url import parse_url

_URL = "http://h/p"


def _run(data: bytes) -> None:
    """One `Name: value` a line, as headers of an answer; every value is a URL and a Range header too."""
    lines = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    headers = {name.strip(): value.strip() for name, _, value in lines}
    mirror, reply = Mirror(_URL), _reply(headers)
    with contextlib.suppress(TransferError):
        start, total = partial_range(mirror, reply)
        assert start >= 0
        assert total is None or start < total
    with contextlib.suppress(TransferError):
        assert unsatisfied_total(mirror, reply) >= 0
    with contextlib.suppress(TransferError):
        check_content(mirror, reply)
    length = reply.content_length()
    assert length is None or 0 <= length < 10**19
    with contextlib.suppress(VerificationError):
        mirror.check_unchanged(reply, length)
        mirror.check_unchanged(reply, length)
        _check_prepares(_URL, mirror.range_headers(5))
    for value in headers.values():
        _check_url(value)
        _check_range(value)


def _reply(headers: dict[str, str]) -> HttpReply:
    response = requests.Response()
    response.status_code = 206
    response.headers.update(headers)
    response.raw = HTTPResponse(io.BytesIO(b""), preload_content=False)
    watch = StallWatch(secs=1, bytes_per_sec=1, clock=lambda: 0.0)
    return HttpReply(parse_url(_URL)[0], response, watch)


def _check_url(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        url, _ = parse_url(text)
        assert re.fullmatch(r"[\x21-\x7e]+", url.name)
        assert url.scheme in {"http", "https"}
        assert "#" not in url.text
        _check_prepares(url.text, {})


def _check_prepares(url: str, headers: dict[str, str]) -> None:
    with contextlib.suppress(*FOREIGN_ERRORS):
        requests.Request("GET", url, headers=headers).prepare()


def _check_range(text: str) -> None:
    for size in (0, 1, 1000, 1 << 50):
        wanted = parse_range(text, size)
        if wanted is not None:
            start, count = wanted
            assert start >= 0
            assert 0 <= count <= size
            assert count == 0 or start + count <= size


def _seeds() -> Iterator[bytes]:
    for lines in (
        ("Content-Range: bytes 5-9/10", "Content-Length: 5", 'ETag: "a"', "Range: bytes=5-9"),
        ("Content-Range: bytes */10", "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Range: bytes=-5"),
        ("Content-Range: bytes 0-0/*", "Transfer-Encoding: chunked", "Content-Length: 1", 'ETag: W/"a"'),
        ("Content-Range: bytes 9-5/7", "Range: bytes=9-5", "X: http://h:99999/", "Content-Length: \xb2"),
        ("Content-Encoding: gzip", "Content-Type: text/html; charset=utf-8", "Range: bytes=5-"),
        ("Location: https://user:pass@[::1]:8443/a%20b;c?d=e#f", "Range: bytes=0-0,2-3", "X: http://\xe9.example/"),
    ):
        yield "\n".join(lines).encode("latin-1")


_WORDS = (
    *(b"bytes ", b"bytes=", b"*/", b"-", b"9" * 19, b"9" * 20, b"0", b"\xb2", b"http://", b"https://[", b"]:", b"%00"),
    *(b"\n", b":", b"@", b"Content-Range: ", b"Content-Length: ", b"ETag: ", b"\r", b"\0", b"#", b"?", b"\\", b"\t"),
)


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_WORDS) + data[at + rng.randrange(4) :]


TARGETS = {"http-headers": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=4096)}
