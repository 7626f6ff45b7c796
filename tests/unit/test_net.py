"""What of the downloads needs no network: settings, URLs, pace, words for foreign errors, local files."""

import http.client
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3.exceptions

from update_agent.errors import ConfigurationError, DeviceError, Kind, TransferError, VerificationError
from update_agent.net.failures import explain, translated
from update_agent.net.pace import StallWatch, TokenBucket
from update_agent.net.settings import TransferSettings
from update_agent.net.source import CHUNK_BYTES, FileSource
from update_agent.net.url import parse_url


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, secs: float) -> None:
        self.slept.append(secs)
        self.now += secs


# settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransferSettings(stall_secs=0),
        lambda: TransferSettings(connect_timeout_secs=float("nan")),
        lambda: TransferSettings(max_bytes=-1),
        lambda: TransferSettings(max_redirects=-1),
        lambda: TransferSettings(retry_delay_secs=-0.5),
        lambda: TransferSettings(rate_limit_bytes_per_sec=1023),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], TransferSettings]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert caught.value.kind is Kind.CONFIGURATION


# URLs


def test_url_is_taken_apart() -> None:
    url, credentials = parse_url(" HTTPS://me%40home:p%3Aw@Example.COM/a/b?token=secret#part ")
    assert url.text == "https://Example.COM/a/b?token=secret"
    assert url.name == "https://Example.COM/a/b"
    assert url.origin == ("https", "example.com", 443)
    assert credentials == ("me@home", "p:w")


@pytest.mark.parametrize(
    ("text", "origin", "credentials"),
    [
        ("http://a", ("http", "a", 80), None),
        ("http://a:8080/", ("http", "a", 8080), None),
        ("https://u@[::1]:7/", ("https", "::1", 7), ("u", "")),
    ],
)
def test_url_has_an_origin(text: str, origin: tuple[str, str, int], credentials: tuple[str, str] | None) -> None:
    url, written = parse_url(text)
    assert (url.origin, written) == (origin, credentials)


def test_url_name_is_printable() -> None:
    assert parse_url("http://a/\x1b[31m\u00e4")[0].name == "http://a/?[31m?"


def test_url_that_is_none_is_shown_without_secrets() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url("ftp://u:secret@a/b?secret")
    assert caught.value.message == "expected an http or https URL, got 'a/b'"


# stalls


def watch(clock: Clock) -> StallWatch:
    return StallWatch(secs=90, bytes_per_sec=10, clock=clock)


def assert_stalled(stall_watch: StallWatch) -> None:
    with pytest.raises(TransferError) as caught:
        stall_watch.remaining_secs()
    assert caught.value.kind is Kind.TRANSFER_STALLED


def test_watch_gives_the_headers_a_fixed_time_whatever_trickles_in() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.begin_headers(100)
    clock.now += 99
    watched.received(1_000_000)
    assert watched.remaining_secs() == 1
    clock.now += 1
    assert_stalled(watched)


def test_watch_gives_the_body_more_time_for_each_quota() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.begin_body()
    for _ in range(10):
        clock.now += 89
        watched.received(899)
        assert watched.remaining_secs() == 1
        watched.received(1)
        assert watched.remaining_secs() == 90


def test_watch_catches_a_dribble_below_the_rate() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.begin_body()
    for _ in range(89):
        clock.now += 1
        watched.received(9)
        watched.remaining_secs()
    clock.now += 1
    assert_stalled(watched)


def test_watch_does_not_count_time_while_suspended() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.begin_body()
    watched.suspend()
    clock.now += 10_000
    watched.resume()
    watched.resume()
    assert watched.remaining_secs() == 90


def test_watch_ends_a_fast_exchange_at_the_total_limit() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.limit_total(100)
    watched.begin_body()
    clock.now += 60
    watched.received(1_000_000)
    assert watched.remaining_secs() == 40
    clock.now += 40
    assert_stalled(watched)
    assert str(watched.stalled()) == "no complete answer came in time"


def test_watch_never_says_zero() -> None:
    clock = Clock()
    watched = watch(clock)
    watched.begin_body()
    clock.now += 90 - 1e-6
    assert watched.remaining_secs() == 0.001


# rate


def test_bucket_lets_the_average_rate_through() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        bucket.take(bucket.burst_bytes)
    assert clock.now - 1000 == pytest.approx(25 - 0.25)


def test_bucket_does_not_save_up_while_idle() -> None:
    clock = Clock()
    bucket = TokenBucket(1000, clock=clock, sleep=clock.sleep)
    clock.now += 3600
    bucket.take(250)
    assert clock.slept == []
    bucket.take(250)
    assert clock.slept == [0.25]


# foreign errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot look up the host: Name or"),
        (ConnectionRefusedError(111, "x"), "connection refused"),
        (TimeoutError("timed out"), "timed out"),
        (OSError("no number"), "HTTP failed (OSError)"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x"), "TLS failed: protocol error"),
        (http.client.RemoteDisconnected("x"), "the server closed the connection without an answer"),
        (http.client.BadStatusLine("x"), "the server's answer is not HTTP"),
        (http.client.IncompleteRead(b""), "the connection ended before the body did"),
        (urllib3.exceptions.ConnectTimeoutError("x"), "no connection in time"),
        (urllib3.exceptions.ProxyError("x", ConnectionRefusedError(111, "x")), "proxy: connection refused"),
        (ValueError("secret"), "HTTP failed (ValueError)"),
    ],
)
def test_foreign_error_is_put_in_words(error: Exception, words: str) -> None:
    outer = urllib3.exceptions.ProtocolError("http://a/?secret", error)
    assert explain(outer).startswith(words)
    assert "secret" not in explain(outer)


def test_foreign_errors_in_a_circle_are_put_in_words() -> None:
    error = ValueError("a")
    error.__context__ = KeyError("b")
    error.__context__.__context__ = error
    assert translated("name", error).message == "name: HTTP failed (KeyError)"


# files


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "a.payload"
    path.write_bytes(os.urandom(CHUNK_BYTES + 7))
    return path


def test_file_is_read_in_chunks(payload: Path) -> None:
    source = FileSource(payload)
    chunks = list(source.open(0))
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, 7]
    assert b"".join(chunks) == payload.read_bytes()
    assert (source.name, source.size_bytes) == (str(payload), CHUNK_BYTES + 7)
    source.close()
    source.close()


def test_file_is_read_from_an_offset(payload: Path) -> None:
    source = FileSource(payload)
    assert b"".join(source.open(CHUNK_BYTES)) == payload.read_bytes()[-7:]
    assert list(source.open(CHUNK_BYTES + 7)) == []
    source.close()


def test_file_that_becomes_shorter_is_noticed(payload: Path) -> None:
    source = FileSource(payload)
    chunks = source.open(0)
    next(chunks)
    os.truncate(payload, 5)
    with pytest.raises(VerificationError) as caught:
        next(chunks)
    assert caught.value.kind is Kind.PAYLOAD_CHANGED
    source.close()


def test_file_that_cannot_be_read_is_our_error(payload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(5, "x")

    source = FileSource(payload)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(DeviceError) as caught:
        next(source.open(0))
    assert caught.value.kind is Kind.DEVICE_IO
    source.close()


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_something_else_than_a_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ConfigurationError) as caught:
        FileSource(path)
    assert caught.value.kind is Kind.USAGE
