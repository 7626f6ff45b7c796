import base64
import contextlib
import hashlib
import http.client
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.payloads import PayloadMaker
from update_agent.errors import ConfigurationError, FormatError
from update_agent.fleet import main as fleet_main
from update_agent.fleet.catalog import Catalog, version_in_name
from update_agent.fleet.main import FLATCAR_APP_ID, build_parser
from update_agent.fleet.server import FleetServer, ServerSettings, parse_range
from update_agent.formats.omaha import NoUpdate, Update, parse_response
from update_agent.formats.omaha_request import AppInfo, Event, EventResult, EventType, InstallSource, Request
from update_agent.formats.release import Version
from update_agent.net.omaha_client import OmahaClient
from update_agent.net.settings import TransferSettings
from update_agent.net.transfer import HttpSource

DATA = Path(__file__).parent.parent / "data"
SETTINGS = TransferSettings(proxy="", stall_secs=5)


def make_payload(version: str | None, *, major: int = 2) -> bytes:
    return PayloadMaker(usr=os.urandom(8192), major=major, version=version).make()


NEW = make_payload("2.0.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "payloads"
    folder.mkdir()
    (folder / "new.payload").write_bytes(NEW)
    (folder / "old.payload").write_bytes(make_payload("1.5.0"))
    return folder


@contextlib.contextmanager
def running(folder: Path, *, app_id: str = FLATCAR_APP_ID, url_base: str | None = None) -> Iterator[FleetServer]:
    settings = ServerSettings(app_id=app_id, url_base=url_base, access_log=io.StringIO())
    server = FleetServer(("127.0.0.1", 0), Catalog(folder), settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def request(version: str = "1.0.0", *, app_id: str = f"{{{FLATCAR_APP_ID}}}", events: int = 0) -> Request:
    event = Event(event_type=EventType.UPDATE_COMPLETE, result=EventResult.ERROR, error_code=9)
    return Request(
        app=AppInfo(app_id=app_id, version=version, track="stable", boot_id="b", machine="x86_64", machine_id="m"),
        updater="update-agent-1",
        install_source=InstallSource.SCHEDULER,
        has_ping=True,
        has_update_check=True,
        events=(event,) * events,
    )


def exchange(server: FleetServer, sent: Request) -> bytes:
    client = OmahaClient(f"{server.url}v1/update/", SETTINGS)
    with contextlib.closing(client):
        return client.exchange(sent)


class Answer:
    """What a plain HTTP client got."""

    def __init__(
        self, server: FleetServer, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        connection = http.client.HTTPConnection(str(server.server_address[0]), server.server_address[1], timeout=5)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            self.status = response.status
            self.headers = dict(response.getheaders())
            self.body = response.read()


# Omaha


def test_node_with_an_older_version_is_offered_the_newest_and_can_download_it(folder: Path) -> None:
    with running(folder) as server:
        update = parse_response(exchange(server, request()))
        assert isinstance(update, Update)
        assert update.version == Version("2.0.0")
        assert update.urls == (f"{server.url}payloads/new.payload",)
        assert update.sha256 == hashlib.sha256(NEW).digest()
        with contextlib.closing(HttpSource(update.urls, SETTINGS, expected_size=update.size_bytes)) as source:
            assert b"".join(source.open(0)) == NEW
            assert b"".join(source.open(100)) == NEW[100:]


@pytest.mark.parametrize("version", ["2.0.0", "2.0.0+build", "3.0.0"])
def test_node_that_is_up_to_date_is_offered_nothing(folder: Path, version: str) -> None:
    with running(folder) as server:
        assert parse_response(exchange(server, request(version))) == NoUpdate(poll_interval_secs=None)


def test_node_of_an_empty_folder_is_offered_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert parse_response(exchange(server, request())) == NoUpdate(poll_interval_secs=None)


def test_answer_has_ping_check_and_events_in_this_order(folder: Path) -> None:
    with running(folder) as server:
        body = exchange(server, request("2.0.0", events=2))
    assert body.endswith(
        f'<app appid="{{{FLATCAR_APP_ID}}}" status="ok"><ping status="ok"></ping><updatecheck status="noupdate">'
        '<urls></urls></updatecheck><event status="ok"></event><event status="ok"></event></app></response>'.encode()
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(app_id="someone-else"), b"error-unknownApplication"),
        (request("no version"), b"error-invalidVersion"),
        (request(""), b"error-invalidVersion"),
    ],
)
def test_node_that_makes_no_sense_gets_the_reason(folder: Path, sent: Request, status: bytes) -> None:
    with running(folder) as server:
        body = exchange(server, sent)
    assert b'status="' + status + b'"' in body
    assert b'<updatecheck status="error-internal">' in body


def test_events_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running(folder) as server:
        exchange(server, request(events=1))
    assert "m 1.0.0 event 3/0 9" in caplog.text


def test_sha1_is_announced(folder: Path) -> None:
    with running(folder) as server:
        body = exchange(server, request())
    assert b'hash="' + base64.b64encode(hashlib.sha1(NEW).digest()) + b'"' in body


def test_url_base_replaces_the_host_of_the_request(folder: Path) -> None:
    with running(folder, url_base="https://updates.example.com/x/") as server:
        update = parse_response(exchange(server, request()))
    assert isinstance(update, Update)
    assert update.urls == ("https://updates.example.com/x/payloads/new.payload",)


@pytest.mark.parametrize(
    ("host", "base"), [("node:1", b'codebase="http://node:1/payloads/"'), ('"<x>', b'codebase="http://127.0.0.1:')]
)
def test_host_of_the_request_is_used_if_it_is_one(folder: Path, host: str, base: bytes) -> None:
    with running(folder) as server:
        assert base in Answer(server, "POST", "/v1/update", {"Host": host}, request().to_bytes()).body


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/v1/update", {}, b"garbage", 400),
        ("/v1/update/", {}, b"<request/>", 400),
        ("/v1/update/?a=b", {}, b"<?xml version='1.0'?>", 400),
        ("/v1/update", {"Content-Length": "65537"}, b"x", 413),
        ("/v1/update", {"Content-Length": "many"}, b"x", 411),
        ("/v1/other", {}, b"x", 404),
    ],
)
def test_post_that_makes_no_sense_is_refused(
    folder: Path, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    with running(folder) as server:
        answer = Answer(server, "POST", path, headers, body)
        assert answer.status == status
        assert answer.body.startswith(str(status).encode())
        # The server lives on.
        assert exchange(server, request())


# payloads


def test_payload_is_described_by_its_headers(folder: Path) -> None:
    with running(folder) as server:
        for method in ("GET", "HEAD"):
            answer = Answer(server, method, "/payloads/new.payload")
            assert answer.status == 200
            assert answer.body == (NEW if method == "GET" else b"")
            assert answer.headers["Content-Length"] == str(len(NEW))
            assert answer.headers["ETag"] == f'"{hashlib.sha256(NEW).hexdigest()}"'
            assert answer.headers["Accept-Ranges"] == "bytes"


def test_range_is_sent_if_the_payload_is_still_the_same(folder: Path) -> None:
    with running(folder) as server:
        etag = Answer(server, "HEAD", "/payloads/new.payload").headers["ETag"]
        wanted = {"Range": "bytes=10-19", "If-Range": etag}
        answer = Answer(server, "GET", "/payloads/new.payload", wanted)
        assert (answer.status, answer.body) == (206, NEW[10:20])
        assert answer.headers["Content-Range"] == f"bytes 10-19/{len(NEW)}"
        answer = Answer(server, "GET", "/payloads/new.payload", wanted | {"If-Range": '"other"'})
        assert (answer.status, answer.body) == (200, NEW)


def test_range_outside_is_not_satisfiable(folder: Path) -> None:
    with running(folder) as server:
        answer = Answer(server, "GET", "/payloads/new.payload", {"Range": f"bytes={len(NEW)}-"})
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["Content-Range"] == f"bytes */{len(NEW)}"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, 10)),
        ("bytes=3-", (3, 7)),
        ("bytes=3-5", (3, 3)),
        ("bytes=3-99", (3, 7)),
        ("bytes=-4", (6, 4)),
        ("bytes=-99", (0, 10)),
        ("bytes=-0", (10, 0)),
        ("bytes=10-", (10, 0)),
        ("bytes=99-100", (99, 0)),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 20 + "-", None),
    ],
)
def test_range_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/payloads/",
        "/payloads/none.payload",
        "/payloads/../secret.payload",
        "/payloads/%2e%2e/secret.payload",
        "/payloads/..%2fsecret.payload",
        "/payloads//etc/passwd",
        "/payloads/new.payload%00",
        "/payloads/secret.txt",
        "//[",
    ],
)
def test_path_to_anything_else_is_not_found(folder: Path, path: str) -> None:
    (folder.parent / "secret.payload").write_bytes(NEW)
    (folder / "secret.txt").write_bytes(NEW)
    with running(folder) as server:
        assert Answer(server, "GET", path).status == 404


def test_target_that_is_no_url_is_not_found(folder: Path) -> None:
    with running(folder) as server, socket.create_connection(("127.0.0.1", server.server_port), 5) as connection:
        connection.sendall(b"GET http://[/payloads/new.payload HTTP/1.1\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /payloads/none HTTP/1.1\r\nContent-Length: 49", 404),
        (b"GET /payloads/none HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 49", 404),
        (b"HEAD /payloads/new.payload HTTP/1.1\r\nTransfer-Encoding: chunked", 200),
        (b"POST /v1/update HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 49", 411),
        (b"POST /v1/update HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked", 411),
    ],
)
def test_body_in_doubt_is_never_answered_as_a_request(folder: Path, head: bytes, status: int) -> None:
    """A proxy would hand the second answer to somebody else."""
    body = b"GET /payloads/old.payload HTTP/1.1\r\nHost: h\r\n\r\n"
    with running(folder) as server, socket.create_connection(("127.0.0.1", server.server_port), 5) as connection:
        connection.sendall(head + b"\r\nHost: h\r\n\r\n" + body)
        answered = b""
        with contextlib.suppress(ConnectionError):  # the unread body ends the connection with a reset
            while piece := connection.recv(4096):
                answered += piece
    assert answered.startswith(b"HTTP/1.1 %d " % status)
    assert answered.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answered


def test_access_log_has_one_harmless_line_per_request(folder: Path) -> None:
    with running(folder) as server:
        Answer(server, "GET", "/payloads/new.payload", {"Range": "bytes=0-9"})
        with socket.create_connection(("127.0.0.1", server.server_port), 5) as connection:
            connection.sendall(b'GET /\x1b[31m"x HTTP/1.0\r\n\r\n')
            connection.recv(1000)
            connection.recv(1000)
    log = server.settings.access_log
    assert isinstance(log, io.StringIO)
    # Each connection has a thread of its own, so the lines may come in either order.
    lines = sorted(log.getvalue().splitlines(), key=lambda line: "payloads" not in line)
    assert len(lines) == 2
    assert re.fullmatch(r'127\.0\.0\.1 \S+Z "GET /payloads/new\.payload HTTP/1\.1" 206 10', lines[0])
    assert re.fullmatch(r'127\.0\.0\.1 \S+Z "GET /\?\[31m\?x HTTP/1\.0" 404 14', lines[1])


def test_client_that_goes_away_harms_nobody(folder: Path) -> None:
    (folder / "huge.payload").write_bytes(make_payload("1.0.0") + bytes(20_000_000))
    with running(folder) as server:
        with socket.create_connection(("127.0.0.1", server.server_port), 5) as connection:
            connection.sendall(b"GET /payloads/huge.payload HTTP/1.1\r\n\r\n")
            connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert Answer(server, "GET", "/payloads/new.payload").body == NEW


# the folder


def test_new_payload_is_offered_and_withdrawn_at_once(folder: Path) -> None:
    catalog = Catalog(folder)
    (folder / "newer.payload").write_bytes(make_payload("2.1.0-rc.1"))
    newest = catalog.newest()
    assert newest is not None
    assert newest.version == Version("2.1.0-rc.1")
    (folder / "newer.payload").unlink()
    newest = catalog.newest()
    assert newest is not None
    assert newest.name == "new.payload"


def test_replaced_payload_is_read_again(folder: Path) -> None:
    catalog = Catalog(folder)
    content = make_payload("2.0.0")
    (folder / "new.payload").write_bytes(content)
    release = catalog.find("new.payload")
    assert release is not None
    assert release.sha256 == hashlib.sha256(content).digest()


def test_unchanged_payload_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(folder)
    before = catalog.find("new.payload")
    monkeypatch.setattr("update_agent.fleet.catalog._hashes", None)
    assert catalog.find("new.payload") is before


def test_payload_replaced_between_look_up_and_opening_is_not_sent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(folder) as server:
        release = server.catalog.find("new.payload")
        monkeypatch.setattr(server.catalog, "find", lambda _: release)
        (folder / "new.payload").write_bytes(b"shorter")
        assert Answer(server, "GET", "/payloads/new.payload").status == 503
        (folder / "new.payload").unlink()
        assert Answer(server, "GET", "/payloads/new.payload").status == 503


def test_files_that_are_no_payloads_are_reported_once_and_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "page.gz").write_bytes(b"<html>" + b" " * 100)
    (folder / "cut.payload").write_bytes(NEW[:-1])
    (folder / "head.payload").write_bytes(NEW[:30])
    (folder / "tiny.payload").write_bytes(b"CrAU")
    (folder / "odd.payload").write_bytes(make_payload("not a version"))
    (folder / "link.payload").symlink_to("nowhere")
    os.mkfifo(folder / "fifo.payload")
    (folder / "README").write_text("skipped in silence")
    catalog = Catalog(folder)
    newest = catalog.newest()
    assert newest is not None
    assert newest.name == "new.payload"
    for name in ("page.gz", "cut.payload", "head.payload", "tiny.payload", "odd.payload", "fifo.payload"):
        assert caplog.text.count(f"{name}: skipped") == 1
        assert catalog.find(name) is None
    assert "README" not in caplog.text


def test_payload_of_major_version_1_has_its_version_in_its_name(folder: Path) -> None:
    content = make_payload(None, major=1)
    (folder / "my-image-4152.2.1.gz").write_bytes(content)
    (folder / "update.gz").write_bytes(content)
    newest = Catalog(folder).newest()
    assert newest is not None
    assert (newest.name, newest.version) == ("my-image-4152.2.1.gz", Version("4152.2.1"))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("image-1.2.payload", "1.2"),
        ("image-2b-1.2.3.payload", "1.2.3"),
        ("image-1.2.3-rc.1.gz", "1.2.3-rc.1"),
        ("image-1.2.3+nightly-20260101.payload", "1.2.3+nightly-20260101"),
    ],
)
def test_version_in_a_name_is_found(name: str, version: str) -> None:
    assert version_in_name(name).text == version


@pytest.mark.parametrize("name", ["image.payload", "1.2.payload", "image-.gz", "image-v1.payload"])
def test_name_without_a_version_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        version_in_name(name)


def test_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Catalog(tmp_path / "none")


def test_folder_that_vanishes_keeps_what_was_known(folder: Path) -> None:
    catalog = Catalog(folder)
    folder.rename(folder.with_name("away"))
    assert catalog.newest() is not None


# the command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_says_where_it_listens_and_ends_by_a_signal(folder: Path, tmp_path: Path, number: int) -> None:
    log = tmp_path / "access.log"
    command = [
        sys.executable,
        "-m",
        "update_agent.fleet",
        "serve",
        "--payloads",
        str(folder),
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(
        [*command, "--access-log", str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        match = re.fullmatch(r"listening on (http://127\.0\.0\.1:[0-9]+/)\n", process.stdout.readline())
        assert match is not None
        client = OmahaClient(f"{match[1]}v1/update", SETTINGS)
        assert isinstance(parse_response(client.exchange(request())), Update)
        client.close()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert "new.payload: version 2.0.0" in process.stderr.read()
    assert '"POST /v1/update HTTP/1.1" 200' in log.read_text()


def test_command_with_a_port_in_use_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert fleet_main.main(["serve", "--payloads", str(folder), "--listen", address]) == 1
    assert f"{address}: cannot listen: address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--payloads", "--access-log"])
def test_command_with_a_path_that_cannot_be_is_a_usage_error(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "--payloads", str(folder), "--listen", "127.0.0.1:0", option, "/no/such/place"]
    assert fleet_main.main(arguments) == 2
    assert "/no/such/place: cannot" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        [],
        ["serve", "--payloads", ".", "--listen", "1.2.3.4"],
        ["serve", "--payloads", ".", "--listen", "x:1"],
    ],
)
def test_command_with_wrong_options_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fleet_main.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fleet_main.main(["serve", "--help"])
    assert "update-agent-fleet serve --payloads /srv/payloads" in capsys.readouterr().out


def test_listen_takes_an_ipv6_address() -> None:
    options = build_parser().parse_args(["serve", "--payloads", ".", "--listen", "[::1]:80"])
    assert options.listen == ("::1", 80)


def test_ipv6_server_has_a_url(folder: Path) -> None:
    try:
        server = FleetServer(("::1", 0), Catalog(folder), ServerSettings(app_id="a"))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert server.url == f"http://[::1]:{server.server_address[1]}/"
    server.server_close()
