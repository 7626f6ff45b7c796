"""Both halves of the Omaha protocol: what a server answers, and what a client asks."""

import contextlib
import random
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.payloads import DATA
from update_agent.errors import FormatError, Kind, TransferError
from update_agent.formats.omaha import MAX_URLS, Update, parse_response
from update_agent.formats.omaha_server import AppAnswer, AppStatus, Offer, build_response, parse_request
from update_agent.formats.release import Version
from update_agent.net.url import parse_url

_FOLDER = DATA / "omaha"
_WORDS = (
    *b"<app> </app> <updatecheck> <![CDATA[ ]]> &#0; &amp; &x; \xef\xbb\xbf \xff\xfe %2e%2e/".split(),
    *b'http://[::1 https://a:b@c:99999/ PollInterval="4294967295" MaxFailureCountPerUrl="0"'.split(),
    *b'size="9223372036854775807" -1 0 11111111111111111111 %41'.split(),
    *b'status="ok" status="noupdate" encoding="utf-16" encoding="utf-7" \xd9\xa3 \xe2\x80\xa8 \xed\x9f\xbf'.split(),
    *(b"<!DOCTYPE a [", b"<?xml version='1.0'?>", b"<a/>" * 40, b"\n"),
)
_VALUE = re.compile(rb'="([^"]*)"')


def _run_response(data: bytes) -> None:
    try:
        answer = parse_response(data)
    except FormatError:
        return
    except TransferError as error:
        if error.kind is not Kind.OMAHA_REFUSED:
            raise
        return
    if isinstance(answer, Update):
        assert 1 <= len(answer.urls) <= MAX_URLS
        assert len(answer.sha256) == 32
        assert 0 < answer.size_bytes < 1 << 63
        assert answer.max_failure_count_per_url >= 1
        for url in answer.urls:
            parse_url(url)


def _run_request(data: bytes) -> None:
    try:
        apps = parse_request(data)
    except FormatError:
        return
    assert apps
    answers = [
        AppAnswer(
            app_id=app.app_id,
            status=AppStatus.OK,
            has_ping=app.has_ping,
            has_update_check=app.has_update_check,
            offer=_offer(app.version),
            event_count=len(app.events),
        )
        for app in apps
    ]
    body = build_response(answers)
    body.decode("ascii")
    written = [app.get("appid") for app in ET.fromstring(body).findall("app")]
    assert len(written) == len(apps)
    for app, app_id in zip(apps, written, strict=True):
        # XML turns some white space into spaces, and what it cannot carry is left out.
        assert app_id == app.app_id or not app.app_id.isprintable()


def _offer(version: str) -> Offer | None:
    with contextlib.suppress(FormatError):
        text = Version.parse(version).text
        return Offer(
            version=text, codebase="http://h/", name=text, size_bytes=1, sha1_base64="YQ==", sha256_base64="YQ=="
        )
    return None


def _seeds(pattern: str) -> Iterator[bytes]:
    yield b""
    yield b"<?xml version='1.0'?>"
    for path in sorted(_FOLDER.glob(pattern)):
        data = path.read_bytes()
        yield data
        yield data.decode().replace("UTF-8", "utf-16").encode("utf-16")


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    return _mutate_words(data, rng)


def _mutate_words(data: bytes, rng: random.Random) -> bytes:
    """Put one of the words into the text, in place of a value or anywhere, or double or drop a piece."""
    values = [match.span(1) for match in _VALUE.finditer(data)]
    choice = rng.randrange(4)
    if values and choice < 2:
        start, end = rng.choice(values)
        return data[:start] + rng.choice(_WORDS) + data[end:]
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    if choice == 2:
        return data[:start] + rng.choice(_WORDS) + data[start:]
    tags = [at for at, byte in enumerate(data) if byte in b"<>"]
    if len(tags) > 1:
        start, end = sorted(rng.sample(tags, 2))
    return data[:end] + data[start:] if rng.random() < 0.5 else data[:start] + data[end:]


TARGETS = {
    "omaha-response": Target(run=_run_response, seeds=lambda: _seeds("[gn]*.xml"), mutate=_mutate),
    "omaha-request": Target(run=_run_request, seeds=lambda: _seeds("request-*.xml"), mutate=_mutate),
}
