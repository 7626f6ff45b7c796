import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import (
    Authority,
    Received,
    Script,
    forward,
    head,
    make_authority,
    ranged,
    redirect,
    send,
    serving,
    whole,
)
from update_agent.errors import (
    ConfigurationError,
    Kind,
    TransferError,
    UpdateAgentError,
    VerificationError,
)
from update_agent.net.settings import TransferSettings
from update_agent.net.transfer import HttpSource

CONTENT = random.Random(4711).randbytes(300_000)
HALF = len(CONTENT) // 2
QUICK = TransferSettings(
    connect_timeout_secs=1,
    stall_secs=0.5,
    stall_bytes_per_sec=1000,
    retry_delay_secs=0,
    max_failures_per_url=3,
    proxy="",
)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Fetch:
    """A source and what came out of it."""

    def __init__(self, *urls: str, settings: TransferSettings = QUICK, **options: Any) -> None:
        self.delays: list[float] = []
        self.source = HttpSource(urls, settings, sleep=self.delays.append, **options)
        self.content = b""

    def run(self, offset: int = 0) -> bytes:
        with contextlib.closing(self.source):
            for chunk in self.source.open(offset):
                assert 1 <= len(chunk) <= 1 << 20
                self.content += chunk
        return self.content

    def fail(self, offset: int = 0) -> UpdateAgentError:
        with pytest.raises(UpdateAgentError) as caught:
            self.run(offset)
        return caught.value


def fetch(*scripts: Script, offset: int = 0, **options: Any) -> bytes:
    with serving(*scripts) as server:
        return Fetch(server.url, **options).run(offset)


def failure(*scripts: Script, offset: int = 0, **options: Any) -> UpdateAgentError:
    with serving(*scripts) as server:
        return Fetch(server.url, **options).fail(offset)


@contextlib.contextmanager
def within(secs: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < secs


# the good path


def test_download_from_a_proper_server_is_complete() -> None:
    with serving(ranged(CONTENT)) as server:
        fetched = Fetch(f"{server.url}?token=secret#part")
        assert fetched.run() == CONTENT
        assert fetched.source.size_bytes == fetched.source.received_bytes == len(CONTENT)
        assert fetched.source.discarded_bytes == 0
        assert fetched.source.name == server.url
        (request,) = server.received
    assert request.target == "/payload?token=secret"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("update-agent/")
    assert "range" not in request.headers
    assert "authorization" not in request.headers


def test_size_is_unknown_before_the_first_bytes() -> None:
    with contextlib.closing(HttpSource(["http://127.0.0.1:9/"], QUICK)) as source:
        assert source.size_bytes is None


def test_download_from_an_offset_asks_for_the_rest() -> None:
    with serving(ranged(CONTENT)) as server:
        assert Fetch(server.url, expected_size=len(CONTENT)).run(1000) == CONTENT[1000:]
        assert server.received[0].headers["range"] == "bytes=1000-"


def test_download_from_the_known_end_asks_for_nothing() -> None:
    with serving(ranged(CONTENT)) as server:
        assert Fetch(server.url, expected_size=len(CONTENT)).run(len(CONTENT)) == b""
        assert server.received == []


def test_download_from_the_unknown_end_is_empty() -> None:
    assert fetch(ranged(CONTENT), offset=len(CONTENT)) == b""


def test_download_in_two_parts_with_one_source_is_complete() -> None:
    with serving(ranged(CONTENT, ETag='"a"')) as server:
        source = HttpSource([server.url], QUICK)
        start = next(source.open(0))
        assert start + b"".join(source.open(len(start))) == CONTENT
        source.close()


def test_download_with_unknown_length_ends_with_the_body() -> None:
    assert fetch(send(head(), CONTENT)) == CONTENT


def test_download_in_chunked_encoding_is_complete() -> None:
    half = b"%x\r\n%s\r\n"
    parts = (half % (HALF, CONTENT[:HALF]), half % (len(CONTENT) - HALF, CONTENT[HALF:]), b"0\r\n\r\n")
    # RFC 9112, 6.3: the length is void beside a transfer encoding.
    assert fetch(send(head(Transfer_Encoding="chunked", Content_Length=5), *parts)) == CONTENT


def test_download_with_bare_line_feeds_in_headers_is_complete() -> None:
    assert fetch(send(head(eol="\n", Content_Length=len(CONTENT)), CONTENT)) == CONTENT


def test_closing_the_generator_ends_the_transfer() -> None:
    ended = threading.Event()

    def endless(connection: socket.socket, _: Received) -> None:
        connection.sendall(head())
        try:
            while True:
                connection.sendall(CONTENT)
        finally:
            ended.set()

    with serving(endless) as server, contextlib.closing(HttpSource([server.url], QUICK)) as source:
        chunks = source.open(0)
        assert next(chunks)
        assert isinstance(chunks, Generator)
        chunks.close()
        assert ended.wait(5)


# resuming


def test_download_with_cut_bodies_is_resumed_where_it_was_cut() -> None:
    with serving(ranged(CONTENT, most=100_000, ETag='"a"', Last_Modified="yesterday")) as server:
        fetched = Fetch(server.url)
        assert fetched.run() == CONTENT
        assert fetched.source.received_bytes == len(CONTENT)
        ranges = [(each.headers.get("range"), each.headers.get("if-range")) for each in server.received]
    assert ranges == [(None, None), ("bytes=100000-", '"a"'), ("bytes=200000-", '"a"')]


@pytest.mark.parametrize(
    ("headers", "validator"),
    [({"ETag": 'W/"a"', "Last_Modified": "yesterday"}, "yesterday"), ({"ETag": 'W/"a"'}, None), ({}, None)],
)
def test_resuming_without_a_strong_tag_uses_the_date_or_nothing(headers: dict[str, Any], validator: str | None) -> None:
    with serving(ranged(CONTENT, most=HALF, **headers)) as server:
        assert Fetch(server.url).run() == CONTENT
        assert server.received[1].headers.get("if-range") == validator


def test_resuming_at_a_server_that_cannot_drops_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving(whole(CONTENT[:HALF]), whole(CONTENT)) as server:
        fetched = Fetch(server.url, expected_size=len(CONTENT))
        # The first answer announces too little; only a body without a length can be shorter than announced.
        server.scripts = (send(head(), CONTENT[:HALF]), whole(CONTENT))
        assert fetched.run() == CONTENT
    assert fetched.source.discarded_bytes == HALF
    assert fetched.source.received_bytes == len(CONTENT) + HALF
    assert "cannot resume" in caplog.text


def test_server_that_neither_resumes_nor_sends_more_is_given_up() -> None:
    error = failure(send(head(Content_Length=len(CONTENT)), CONTENT[:HALF]))
    assert error.kind is Kind.TRANSFER
    assert "the connection ended before the body did" in error.message


def test_each_new_byte_resets_the_count_of_failures() -> None:
    content = CONTENT[:20]
    assert fetch(ranged(content, most=1)) == content


def test_partial_answer_shorter_than_asked_for_is_continued() -> None:
    def sparing(connection: socket.socket, request: Received) -> None:
        start = request.range_start
        part = CONTENT[start : start + 100_000]
        place = f"bytes {start}-{start + len(part) - 1}/{len(CONTENT)}"
        connection.sendall(head("206 Part", Content_Length=len(part), Content_Range=place) + part)

    assert fetch(sparing) == CONTENT


def test_reset_connection_is_resumed() -> None:
    def reset(connection: socket.socket, _: Received) -> None:
        connection.sendall(head(Content_Length=len(CONTENT)) + CONTENT[:HALF])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert fetch(reset, ranged(CONTENT)) == CONTENT


# a payload that changes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"a"'}, {"ETag": '"b"'}),
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"b"'}),
        ({"Last_Modified": "yesterday"}, {"Last_Modified": "today"}),
    ],
)
def test_payload_with_another_validator_is_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    error = failure(ranged(CONTENT, most=HALF, **before), ranged(CONTENT, **after))
    assert isinstance(error, VerificationError)
    assert error.kind is Kind.PAYLOAD_CHANGED


@pytest.mark.parametrize("after", [ranged(CONTENT + b"x"), whole(CONTENT + b"x"), ranged(CONTENT[: HALF - 1])])
def test_payload_with_another_size_is_changed(after: Script) -> None:
    assert failure(ranged(CONTENT, most=HALF), after).kind is Kind.PAYLOAD_CHANGED


def test_payload_with_the_same_tag_and_another_date_is_the_same() -> None:
    tag = '"a"'
    before = ranged(CONTENT, most=HALF, ETag=tag, Last_Modified="yesterday")
    assert fetch(before, ranged(CONTENT, ETag=tag, Last_Modified="today")) == CONTENT


def test_offset_beyond_the_payload_is_a_wrong_size() -> None:
    error = failure(ranged(CONTENT), offset=len(CONTENT) + 1)
    assert isinstance(error, VerificationError)
    assert error.kind is Kind.PAYLOAD_SIZE


def test_payload_of_another_size_than_announced_is_refused() -> None:
    with serving(ranged(CONTENT)) as server:
        error = Fetch(server.url, expected_size=7).fail()
        assert len(server.received) == 1
    assert isinstance(error, VerificationError)
    assert error.kind is Kind.PAYLOAD_SIZE
    assert error.message == f"{server.url}: expected 7 bytes, the server has {len(CONTENT)}"


# answers that are no payload


@pytest.mark.parametrize(
    "place",
    [
        None,
        "bytes 0-4/10",
        "bytes 4-8/10",
        "bytes 4-9/10",
        "bytes 5-9/9",
        "bytes 5-4/10",
        "bytes 5-8/10",
        "bytes */10",
        "5-9/10",
        "x",
    ],
)
def test_resumed_body_from_another_place_is_refused(place: str | None) -> None:
    headers = {} if place is None else {"Content_Range": place}
    error = failure(send(head("206 Part", Content_Length=5, **headers), b"56789"), offset=5)
    assert error.kind is Kind.TRANSFER


def test_resumed_body_with_unknown_total_is_accepted() -> None:
    assert fetch(send(head("206 Part", Content_Range="bytes 5-9/*"), b"56789"), offset=5) == b"56789"


@pytest.mark.parametrize("headers", [{}, {"Content_Range": "x"}, {"Content_Range": "bytes */*"}])
def test_refused_range_without_a_total_is_an_error(headers: dict[str, str]) -> None:
    assert failure(send(head("416 No", **headers)), offset=5).kind is Kind.HTTP_STATUS


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "410 Gone", "204 No Content", "304 Same"])
def test_status_that_will_not_change_is_not_tried_again(status: str) -> None:
    with serving(send(head(status))) as server:
        error = Fetch(server.url).fail()
        assert len(server.received) == 1
    assert error.kind is Kind.HTTP_STATUS
    assert error.message == f"{server.url}: expected the payload, got HTTP status {status[:3]}"


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "408 Slow", "429 Too Many"])
def test_status_that_may_change_is_tried_again(status: str) -> None:
    busy = send(head(status, Content_Length=0))
    with serving(busy, busy, ranged(CONTENT)) as server:
        fetched = Fetch(server.url, settings=replace(QUICK, retry_delay_secs=2, retry_delay_max_secs=3))
        assert fetched.run() == CONTENT
    assert fetched.delays == [2, 3]


def test_status_that_never_gets_better_is_given_up_after_the_configured_failures() -> None:
    with serving(send(head("500 Oops", Content_Length=0))) as server:
        assert Fetch(server.url).fail().kind is Kind.HTTP_STATUS
        assert len(server.received) == 3


def test_web_page_in_place_of_the_payload_is_refused() -> None:
    error = failure(whole(b"<html>log in</html>", Content_Type="text/html; charset=utf-8"))
    assert error.kind is Kind.TRANSFER
    assert "login page" in (error.hint or "")


def test_encoded_body_is_refused() -> None:
    error = failure(whole(CONTENT, Content_Encoding="gzip"))
    assert error.kind is Kind.TRANSFER
    assert "gzip" in error.message


def test_identity_encoding_is_no_encoding() -> None:
    assert fetch(whole(CONTENT, Content_Encoding="Identity")) == CONTENT


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 100,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    ],
)
def test_answer_that_is_no_http_is_our_error(garbage: bytes) -> None:
    error = failure(send(garbage))
    assert isinstance(error, TransferError)
    assert error.kind is Kind.TRANSFER
    assert "python" not in error.message.lower()


@pytest.mark.parametrize("length", ["-5", "five", "9" * 5000])
def test_senseless_content_length_is_no_length(length: str) -> None:
    assert fetch(send(head(Content_Length=length), b"hello")) == b"hello"


def test_server_that_is_not_there_is_our_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = Fetch(f"http://127.0.0.1:{port}/a?token=secret").fail()
    assert error.message == f"http://127.0.0.1:{port}/a: connection refused"


@pytest.mark.parametrize(
    "url", ["http://host.invalid/", "http://a..b/", "http://\u0661.\u00e9xample.invalid/", "http://.:7/"]
)
def test_host_that_cannot_be_is_our_error(url: str) -> None:
    error = Fetch(url, settings=replace(QUICK, max_failures_per_url=1)).fail()
    assert isinstance(error, TransferError)
    assert error.message.isascii()


@pytest.mark.parametrize("url", ["", "payload", "ftp://a/b", "http://", "http://[::1/", "http://a:99999/", "x" * 9000])
def test_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HttpSource([url], QUICK)
    assert len(caught.value.message) < 300


def test_source_without_a_url_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        HttpSource([], QUICK)


# too much


def test_announced_size_above_the_limit_is_refused_before_the_body() -> None:
    error = failure(whole(CONTENT), settings=replace(QUICK, max_bytes=1000))
    assert error.kind is Kind.TRANSFER_TOO_LARGE
    assert f"expected at most 1000 bytes, got {len(CONTENT)}" in error.message


def test_expected_size_above_the_limit_is_refused_without_asking() -> None:
    with serving(whole(CONTENT)) as server:
        error = Fetch(server.url, settings=replace(QUICK, max_bytes=1000), expected_size=len(CONTENT)).fail()
        assert server.received == []
    assert error.kind is Kind.TRANSFER_TOO_LARGE


def _endless(connection: socket.socket, _: Received) -> None:
    connection.sendall(head())
    while True:
        connection.sendall(CONTENT)


def test_endless_body_is_stopped_at_the_limit() -> None:
    with serving(_endless) as server:
        fetched = Fetch(server.url, settings=replace(QUICK, max_bytes=1_000_000))
        assert fetched.fail().kind is Kind.TRANSFER_TOO_LARGE
        assert len(fetched.content) <= 1_000_000
        assert len(server.received) == 1


def test_endless_body_is_stopped_at_the_expected_size() -> None:
    assert fetch(_endless, expected_size=HALF) == CONTENT[:HALF]


# too slow


@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 200 OK\r\n", head(Content_Length=10), head(Content_Length=10) + b"x"]
)
def test_silent_server_is_a_stall(before: bytes) -> None:
    def stall(connection: socket.socket, _: Received) -> None:
        connection.sendall(before)
        server.wait(10)

    settings = replace(QUICK, max_failures_per_url=1, connect_timeout_secs=0.1)
    with within(2), serving(stall) as server:
        assert Fetch(server.url, settings=settings).fail().kind is Kind.TRANSFER_STALLED


@pytest.mark.parametrize("before", [b"HTTP/1.1 200 OK\r\nX: ", head(Content_Length=10_000)])
def test_dribbling_server_is_a_stall(before: bytes) -> None:
    def dribble(connection: socket.socket, __: Received) -> None:
        connection.sendall(before)
        for _ in range(100):
            connection.sendall(b"x")
            server.wait(0.05)

    settings = replace(QUICK, max_failures_per_url=1, connect_timeout_secs=0.1)
    with within(2), serving(dribble) as server:
        error = Fetch(server.url, settings=settings).fail()
    assert error.kind is Kind.TRANSFER_STALLED
    assert error.message.startswith(server.url)


def test_stalled_body_is_resumed() -> None:
    def stall(connection: socket.socket, _: Received) -> None:
        connection.sendall(head(Content_Length=len(CONTENT)) + CONTENT[:HALF])
        server.wait(10)

    with within(3), serving(stall, ranged(CONTENT)) as server:
        assert Fetch(server.url).run() == CONTENT


def test_slow_reader_is_no_stall() -> None:
    with serving(ranged(CONTENT)) as server:
        source = HttpSource([server.url], replace(QUICK, rate_limit_bytes_per_sec=400_000))
        chunks = source.open(0)
        content = next(chunks)
        time.sleep(0.7)
        assert content + b"".join(chunks) == CONTENT
        assert len(server.received) == 1
        source.close()


def test_rate_limit_sleeps_off_what_came_too_early() -> None:
    with serving(ranged(CONTENT)) as server:
        fetched = Fetch(server.url, settings=replace(QUICK, rate_limit_bytes_per_sec=100_000), clock=lambda: 0.0)
        assert fetched.run() == CONTENT
    # The first quarter of a second is free; the clock stands still, so each delay contains the ones before.
    assert max(fetched.delays) == pytest.approx(len(CONTENT) / 100_000 - 0.25)


# several URLs


def test_second_url_goes_on_where_the_first_failed() -> None:
    broken = send(head(Content_Length=len(CONTENT)), CONTENT[:HALF])
    with serving(broken, send(head("404 Gone"))) as first, serving(ranged(CONTENT, ETag='"b"')) as second:
        fetched = Fetch(first.url, second.url)
        assert fetched.run() == CONTENT
        assert fetched.source.name == second.url
        assert [len(first.received), len(second.received)] == [2, 1]
        assert second.received[0].headers["range"] == f"bytes={HALF}-"
        assert "if-range" not in second.received[0].headers


def test_url_that_worked_last_is_asked_first_the_next_time() -> None:
    with serving(send(head("404 Gone"))) as first, serving(ranged(CONTENT)) as second:
        fetched = Fetch(first.url, second.url)
        fetched.run()
        assert b"".join(fetched.source.open(0)) == CONTENT
        assert [len(first.received), len(second.received)] == [1, 2]


def test_all_urls_exhausted_gives_the_last_reason_of_each() -> None:
    with serving(send(head("404 Gone"))) as first, serving(send(head("500 Oops"))) as second:
        error = Fetch(first.url, second.url).fail()
    assert error.kind is Kind.HTTP_STATUS
    assert first.url in error.message
    assert second.url in error.message
    assert type(error) is TransferError


def test_all_urls_exhausted_for_several_reasons_is_a_transfer_error() -> None:
    with serving(send(head("404 Gone"))) as first, serving(whole(CONTENT)) as second:
        error = Fetch(first.url, second.url, expected_size=7).fail()
    assert (type(error), error.kind) == (TransferError, Kind.TRANSFER)


# redirects


def test_redirects_within_the_scheme_are_followed() -> None:
    with serving(ranged(CONTENT)) as target:
        far = redirect(target.url, "307 Temporary Redirect")
        with serving(redirect("other?a=b", "301 Moved"), redirect("/third", "308 Moved"), far) as server:
            assert Fetch(server.url).run() == CONTENT
            assert [each.target for each in server.received] == ["/payload", "/other?a=b", "/third"]


def test_redirect_keeps_the_range() -> None:
    with serving(redirect("/other", "303 See Other"), ranged(CONTENT)) as server:
        assert Fetch(server.url).run(HALF) == CONTENT[HALF:]
        assert server.received[1].range_start == HALF


def test_redirects_without_end_are_refused() -> None:
    with serving(redirect("/payload")) as server:
        error = Fetch(server.url).fail()
        assert len(server.received) == 11
    assert error.kind is Kind.REDIRECT_REFUSED


def test_redirects_to_the_limit_are_followed() -> None:
    assert fetch(*[redirect("/payload")] * 10, ranged(CONTENT)) == CONTENT


def test_redirect_from_https_to_http_is_refused(authority: Authority) -> None:
    with serving(ranged(CONTENT)) as plain:
        with serving(redirect(plain.url), tls=authority.server_context()) as server:
            error = Fetch(server.url, settings=replace(QUICK, ca_file=authority.ca_file)).fail()
        assert plain.received == []
    assert error.kind is Kind.REDIRECT_REFUSED


@pytest.mark.parametrize(
    "location", ["https://127.0.0.1/", "file:///etc/passwd", "http://", "http://[::1/", "//", "ftp://a/"]
)
def test_redirect_to_something_else_is_refused(location: str) -> None:
    assert failure(redirect(location)).kind is Kind.REDIRECT_REFUSED


def test_redirect_to_nowhere_is_refused() -> None:
    assert failure(send(head("302 Found"))).kind is Kind.HTTP_STATUS


def test_endless_body_of_a_redirect_is_not_read() -> None:
    def endless(connection: socket.socket, _: Received) -> None:
        connection.sendall(head("302 Found", Location="/other"))
        while True:
            connection.sendall(CONTENT)

    with within(3):
        assert fetch(endless, ranged(CONTENT)) == CONTENT


# TLS, credentials, proxies

SECRETS = replace(QUICK, user="aladdin", password="open sesame")
BASIC = "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_tls_with_an_own_authority_is_trusted(authority: Authority) -> None:
    with serving(ranged(CONTENT, most=HALF), tls=authority.server_context()) as server:
        assert Fetch(server.url, settings=replace(QUICK, ca_file=authority.ca_file)).run() == CONTENT


def test_tls_with_an_unknown_authority_is_refused_at_once(authority: Authority) -> None:
    with serving(ranged(CONTENT), tls=authority.server_context()) as server:
        fetched = Fetch(server.url)
        error = fetched.fail()
    assert "certificate not accepted" in error.message
    assert error.hint is not None
    assert fetched.delays == []


def test_tls_dribbling_is_a_stall(authority: Authority) -> None:
    def dribble(connection: socket.socket, __: Received) -> None:
        connection.sendall(head(Content_Length=10_000))
        for _ in range(100):
            connection.sendall(b"x")
            server.wait(0.05)

    settings = replace(QUICK, ca_file=authority.ca_file, max_failures_per_url=1)
    with within(3), serving(dribble, tls=authority.server_context()) as server:
        assert Fetch(server.url, settings=settings).fail().kind is Kind.TRANSFER_STALLED


def test_client_certificate_is_shown(authority: Authority) -> None:
    settings = replace(QUICK, ca_file=authority.ca_file, client_cert=authority.client_file)
    with serving(ranged(CONTENT), tls=authority.server_context(wants_client=True)) as server:
        assert Fetch(server.url, settings=settings).run() == CONTENT


def test_missing_client_certificate_is_our_error(authority: Authority) -> None:
    settings = replace(QUICK, ca_file=authority.ca_file)
    with serving(ranged(CONTENT), tls=authority.server_context(wants_client=True)) as server:
        assert isinstance(Fetch(server.url, settings=settings).fail(), TransferError)


NO_FILE = Path("/no/such/file.pem")


@pytest.mark.parametrize("settings", [replace(QUICK, ca_file=NO_FILE), replace(QUICK, client_cert=NO_FILE)])
def test_missing_certificate_file_is_refused_at_once(settings: TransferSettings) -> None:
    with pytest.raises(ConfigurationError):
        HttpSource(["https://127.0.0.1:9/"], settings)


@pytest.mark.parametrize("name", ["ca_file", "client_cert"])
def test_certificate_file_with_something_else_is_our_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some.pem"
    path.write_text("hello")
    settings: TransferSettings = replace(QUICK, **dict[str, Any]({name: path}))
    assert isinstance(Fetch("https://127.0.0.1:9/", settings=settings).fail(), TransferError)


def test_credentials_go_over_https_to_the_first_host_only(authority: Authority) -> None:
    settings = replace(SECRETS, ca_file=authority.ca_file)
    tls = authority.server_context()
    with serving(ranged(CONTENT), tls=tls) as other, serving(redirect(other.url), tls=tls) as server:
        assert Fetch(server.url, settings=settings).run() == CONTENT
        assert server.received[0].headers["authorization"] == BASIC
        assert "authorization" not in other.received[0].headers


def test_credentials_in_the_url_are_sent_and_never_shown(authority: Authority) -> None:
    with serving(send(head("401 No")), tls=authority.server_context()) as server:
        url = server.url.replace("127.0.0.1", "aladdin:open%20sesame@127.0.0.1")
        fetched = Fetch(url, settings=replace(QUICK, ca_file=authority.ca_file))
        error = fetched.fail()
        assert server.received[0].headers["authorization"] == BASIC
    assert "sesame" not in error.message + fetched.source.name


def test_credentials_are_not_sent_over_http() -> None:
    with serving(ranged(CONTENT)) as server:
        Fetch(server.url.replace("127", "aladdin:sesame@127"), settings=SECRETS).run()
        assert "authorization" not in server.received[0].headers


def test_credentials_of_netrc_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(ranged(CONTENT)) as server:
        Fetch(server.url).run()
        assert "authorization" not in server.received[0].headers


def test_settings_do_not_show_secrets() -> None:
    assert "sesame" not in repr(replace(SECRETS, proxy="http://u:sesame@proxy/"))


def test_configured_proxy_is_used() -> None:
    with serving(ranged(CONTENT)) as server, serving(forward) as proxy:
        settings = replace(QUICK, proxy=f"http://127.0.0.1:{proxy.port}")
        assert Fetch(server.url, settings=settings).run() == CONTENT
        assert proxy.received[0].target == server.url


def test_proxy_of_the_environment_is_used_but_not_for_its_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ranged(CONTENT)) as server, serving(forward) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert Fetch(server.url, settings=replace(QUICK, proxy=None)).run() == CONTENT
        assert len(proxy.received) == 1
        assert Fetch(server.url, settings=QUICK).run() == CONTENT
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert Fetch(server.url, settings=replace(QUICK, proxy=None)).run() == CONTENT
        assert len(proxy.received) == 1


def test_https_through_a_proxy_is_a_tunnel(authority: Authority) -> None:
    with serving(ranged(CONTENT, most=HALF), tls=authority.server_context()) as server, serving(forward) as proxy:
        settings = replace(SECRETS, ca_file=authority.ca_file, proxy=f"http://u:secret@127.0.0.1:{proxy.port}")
        assert Fetch(server.url, settings=settings).run() == CONTENT
        assert proxy.received[0].method == "CONNECT"
        assert "authorization" not in proxy.received[0].headers
        assert proxy.received[0].headers["proxy-authorization"].startswith("Basic ")
        assert server.received[0].headers["authorization"] == BASIC


@pytest.mark.parametrize(
    "script", [send(head("403 No", Content_Length=0)), send(b""), send(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50)]
)
def test_proxy_that_refuses_is_our_error(script: Script, authority: Authority) -> None:
    with serving(script) as proxy:
        settings = replace(QUICK, proxy=f"http://u:secret@127.0.0.1:{proxy.port}", ca_file=authority.ca_file)
        error = Fetch("https://127.0.0.1:9/", settings=settings).fail()
    assert isinstance(error, TransferError)
    assert "secret" not in error.message


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "http://[::1", "http://:x", "://"])
def test_proxy_that_cannot_be_is_our_error(proxy: str) -> None:
    error = Fetch("http://127.0.0.1:9/", settings=replace(QUICK, proxy=proxy)).fail()
    assert isinstance(error, TransferError)


def test_dribbling_proxy_is_a_stall(authority: Authority) -> None:
    def dribble(connection: socket.socket, __: Received) -> None:
        for _ in range(100):
            connection.sendall(b"H")
            proxy.wait(0.05)

    with within(3), serving(dribble) as proxy:
        settings = replace(
            QUICK, proxy=f"http://127.0.0.1:{proxy.port}", max_failures_per_url=1, connect_timeout_secs=0.2
        )
        assert Fetch("https://127.0.0.1:9/", settings=settings).fail().kind is Kind.TRANSFER_STALLED
