"""The HTTP server of the metrics: what it answers, and what clients cannot do to it."""

import contextlib
import http.client
import logging
import os
import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

import pytest
from gi.repository import GLib
from prometheus_client.parser import text_string_to_metric_families

from tests.support.node_statuses import RUNNING
from update_agent.config.paths import Paths
from update_agent.config.settings import MetricsSettings
from update_agent.daemon import metrics_server
from update_agent.daemon.loop import GLibLoop
from update_agent.daemon.metrics import Metrics
from update_agent.daemon.metrics_server import (
    CONNECTIONS_MAX,
    REQUEST_BYTES_MAX,
    MetricsServer,
    parse_listen,
    respond,
)
from update_agent.errors import ConfigurationError

GET: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT_SECS: Final = 10.0
RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
Result = TypeVar("Result")


# One request and its answer


def status_of(request: bytes) -> str | None:
    answer = respond(request, lambda: b"page\n")
    return None if answer is None else answer.split(b"\r\n", 1)[0].decode().removeprefix("HTTP/1.1 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET, "200 OK"),
        (b"GET /metrics HTTP/1.0\n\n", "200 OK"),
        (b"GET /metrics?name[]=up HTTP/1.1\r\n\r\n", "200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK"),
        (GET + GET, "200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /../metrics HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", "405 Method Not Allowed"),
        (b"get /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\n\n", "400 Bad Request"),
        (b"G" * REQUEST_BYTES_MAX, "431 Request Header Fields Too Large"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 9999 + b"\r\n", "431 Request Header Fields Too Large"),
        (GET[:-1], None),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", None),
        (b"", None),
    ],
)
def test_respond_to_a_request(request_bytes: bytes, status: str | None) -> None:
    assert status_of(request_bytes) == status


def test_respond_to_head_has_the_length_and_no_body() -> None:
    answer = respond(b"HEAD /metrics HTTP/1.1\r\n\r\n", lambda: b"page\n")
    assert answer is not None
    assert answer.endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9101", ("127.0.0.1", 9101)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_listen_with_an_address_is_taken(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text", ["", "9101", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣", "example.com:80"]
)
def test_listen_without_an_address_and_a_port_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.listen: expected ADDRESS:PORT"):
        parse_listen(text)


# The server, in a loop of its own thread


class Bench:
    """A running server; everything that touches it happens in its loop, as in the agent."""

    def __init__(self, root: Path) -> None:
        self.loop = GLibLoop()
        self.page = b"up 1\n"
        self.server = MetricsServer(self.loop, lambda: self.page)
        self.unix_path = root / "run" / "metrics.sock"
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.call(lambda: self.server.listen_unix(self.unix_path))
        self.port = self.call(lambda: self.server.listen_tcp("127.0.0.1", 0))

    def call(self, function: Callable[[], Result]) -> Result:
        """Do it in the loop."""
        future: Future[Result] = Future()

        def run() -> bool:
            try:
                future.set_result(function())
            except OSError as error:
                future.set_exception(error)
            return False

        GLib.idle_add(run)
        return future.result(LIMIT_SECS)

    def close(self) -> None:
        self.call(self.server.stop)
        self.loop.quit()
        self.thread.join(LIMIT_SECS)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_SECS)

    def get(self) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_SECS)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    running = Bench(tmp_path)
    yield running
    running.close()


def read_all(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def test_server_answers_curl_on_both_sockets(bench: Bench) -> None:
    for where in (
        ["--unix-socket", str(bench.unix_path), "http://x/metrics"],
        [f"http://127.0.0.1:{bench.port}/metrics"],
    ):
        done = subprocess.run(["curl", "-sSi", "--max-time", "9", *where], capture_output=True, text=True, check=True)
        head, _, body = done.stdout.partition("\n\n")
        assert "text/plain; version=0.0.4" in head
        assert body == "up 1\n"


def test_server_answers_a_request_that_comes_byte_by_byte(bench: Bench) -> None:
    with bench.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            client.sendall(bytes([byte]))
        assert read_all(client).endswith(b"up 1\n")


def test_server_answers_a_client_that_has_closed_its_side(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).endswith(b"up 1\n")


def test_server_sends_a_page_larger_than_every_buffer_to_a_client_that_reads_later(bench: Bench) -> None:
    bench.page = b"x" * (8 << 20)
    with bench.connect() as client:
        client.sendall(GET)
        assert len(bench.get()[1]) == len(bench.page)
        assert len(read_all(client).partition(b"\r\n\r\n")[2]) == len(bench.page)


def test_server_tells_a_client_that_sends_too_much_and_reads_later(bench: Bench) -> None:
    with bench.connect() as client:
        client.sendall(b"a" * 200_000)
        assert read_all(client).startswith(b"HTTP/1.1 431 ")


def test_server_with_all_places_taken_by_silent_clients_answers_when_their_time_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_SECS", 0.5)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(bench.connect()) for _ in range(CONNECTIONS_MAX + 5)]
        silent[0].sendall(b"GET /metr")
        assert bench.get() == (200, b"up 1\n")
        assert all(client.recv(1) == b"" for client in silent)


def test_server_with_silent_clients_does_not_keep_the_loop_busy(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX + 1):
            stack.enter_context(bench.connect())
        wait_until(lambda: bench.call(lambda: len(bench.server._connections)) == CONNECTIONS_MAX)
        before = time.process_time()
        time.sleep(0.3)  # nothing is waited for: this is the time that is measured
        assert time.process_time() - before < 0.1


def test_server_without_file_descriptors_pauses_and_comes_back(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "_ACCEPT_PAUSE_SECS", 0.2)

    def exhaust() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for listener in bench.server._listeners:
                bench.server._accept(listener)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with caplog.at_level(logging.WARNING):
        bench.call(exhaust)
        assert bench.call(lambda: bench.server._watches) == []
        assert bench.get() == (200, b"up 1\n")
    assert set(caplog.messages) == {"metrics: cannot take a connection: Too many open files"}


def test_server_called_without_need_does_nothing(bench: Bench) -> None:
    with bench.connect() as client:
        wait_until(lambda: bench.call(lambda: len(bench.server._connections)) == 1)
        (connection,) = bench.server._connections
        bench.call(lambda: bench.server._accept(bench.server._listeners[0]))
        bench.call(lambda: connection._read(connection._client))
        client.sendall(GET)
        assert read_all(client).endswith(b"up 1\n")
    wait_until(lambda: bench.call(lambda: not bench.server._connections))
    bench.call(connection.close)


def test_server_whose_client_resets_before_it_asked_has_its_place_free(bench: Bench) -> None:
    client = bench.connect()
    wait_until(lambda: bench.call(lambda: len(bench.server._connections)) == 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    client.close()
    wait_until(lambda: bench.call(lambda: not bench.server._connections))


def test_server_after_clients_that_reset_their_connections_has_all_places_free(bench: Bench) -> None:
    for _ in range(3 * CONNECTIONS_MAX):
        client = bench.connect()
        client.sendall(GET)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        client.close()
    assert bench.get() == (200, b"up 1\n")
    wait_until(lambda: bench.call(lambda: not bench.server._connections))


def test_server_keeps_no_memory_and_no_files_of_its_clients(bench: Bench) -> None:
    def resident_kib() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() // 1024

    for _ in range(200):
        bench.get()
    files, memory = len(os.listdir("/proc/self/fd")), resident_kib()
    for _ in range(2000):
        bench.get()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    assert resident_kib() - memory < 1024


def test_server_replaces_the_socket_of_an_earlier_process_and_nothing_else(tmp_path: Path) -> None:
    server = MetricsServer(GLibLoop(), lambda: b"")
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(stale))
    server.listen_unix(stale)
    assert stale.stat().st_mode & 0o777 == 0o666
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        server.listen_unix(tmp_path / "file")
    server.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_server_stopped_closes_who_is_waiting(bench: Bench) -> None:
    with bench.connect() as client:
        wait_until(lambda: bench.call(lambda: len(bench.server._connections)) == 1)
        bench.call(bench.server.stop)
        assert client.recv(1) == b""
        assert bench.server._watches == []
    assert not bench.unix_path.exists()
    with pytest.raises(ConnectionRefusedError):
        bench.connect()


def test_server_stopped_leaves_what_is_no_socket_any_more(bench: Bench) -> None:
    """An end that fails would leave the service running."""
    bench.unix_path.unlink()
    bench.unix_path.mkdir()
    bench.call(bench.server.stop)
    assert bench.unix_path.is_dir()


# All of it as the agent has it


def test_metrics_started_answer_with_what_they_were_told_and_follow_a_reload(tmp_path: Path) -> None:
    loop = GLibLoop()
    metrics = Metrics(MetricsSettings(socket="/run/a.sock"), Paths(root=tmp_path), loop)
    thread = threading.Thread(target=loop.run)

    def fetch(name: str) -> str:
        command = ["curl", "-sS", "--max-time", "9", "--unix-socket", str(tmp_path / "run" / name), "http://x/metrics"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def in_loop(function: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> bool:
            function()
            done.set()
            return False

        GLib.idle_add(run)
        assert done.wait(LIMIT_SECS)

    thread.start()
    try:
        in_loop(metrics.start)
        in_loop(lambda: metrics.status_changed(RUNNING))
        names = {family.name for family in text_string_to_metric_families(fetch("a.sock"))}
        assert {"update_agent_state", "process_resident_memory_bytes"} <= names
        in_loop(lambda: metrics.reload(MetricsSettings(socket="/run/b.sock")))
        assert "update_agent_state" in fetch("b.sock")
        assert not (tmp_path / "run" / "a.sock").exists()
        in_loop(metrics.stop)
    finally:
        loop.quit()
        thread.join(LIMIT_SECS)


def test_metrics_that_cannot_listen_say_so_and_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = MetricsSettings(socket="/" + "long/" * 40 + "sock", listen=f"127.0.0.1:{port}")
        metrics = Metrics(settings, Paths(root=tmp_path), GLibLoop())
        with caplog.at_level(logging.WARNING):
            metrics.start()
            metrics.reload(MetricsSettings(socket="", listen="example.com:80"))
        metrics.stop()
    assert [message.partition(": ")[0] for message in caplog.messages] == [
        "metrics.socket",
        "metrics.listen",
        "metrics.listen",
    ]
    assert "Address already in use" in caplog.messages[1]
