"""The child process itself: real servers, a real image, signals at every moment."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import NEW, OLD, Bench, make_bench, wait_for_line
from tests.support.fleets import Fleet
from tests.support.payloads import DATA, make_payload
from tests.support.processes import is_running, wait_until
from tests.support.servers import Received, Script, ScriptedServer, head, ranged, send, serving, whole
from tests.support.workers import WorkerRun, make_job
from update_agent.daemon.job import JobKind
from update_agent.daemon.ports import InstallOptions
from update_agent.daemon.workers import WorkerExit
from update_agent.domain.messages import Advanced, Checked, Message, NothingNew, Offered, Reported
from update_agent.domain.pipeline import CHECKPOINT_INTERVAL_BYTES
from update_agent.errors import Kind

ROOT = Path(__file__).parents[2]
OTHER_SERVER = 1 << 28
RESUMED = 1 << 30
MIB = 1 << 20
LIMIT_SECS = 4.0
"""Two seconds, and what a busy machine needs to notice."""

ENDED = WorkerExit(status=0, was_signal=False)
GOOD = [
    "Checked", "BackoffChanged", "Offered", "TargetTaken", "downloading", "BackoffChanged", "verifying", "finalizing",
    "Installed",
]  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def update(bench: Bench, server: ScriptedServer, **changes: Any) -> WorkerRun:
    return WorkerRun().run(make_job(bench.folder, server.url, **changes))


@contextlib.contextmanager
def real_fleet(folder: Path, payload: bytes) -> Iterator[tuple[str, Path]]:
    """`update-agent-fleet` as a program of its own: where it listens, and what it logs."""
    (folder / "payloads").mkdir()
    (folder / "payloads/new.payload").write_bytes(payload)
    line = [sys.executable, "-m", "update_agent.fleet", "serve", "--payloads", str(folder / "payloads")]
    with (
        (folder / "fleet.log").open("w") as log,
        subprocess.Popen([*line, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            url = wait_for_line(process.stdout, "listening on ").split()[-1]
            yield f"{url}v1/update/", folder / "fleet.log"
        finally:
            process.terminate()


# The good way


def test_update_from_the_real_fleet_server_boots_next(bench: Bench) -> None:
    payload = make_payload(NEW)
    with real_fleet(bench.folder, payload) as (url, log):
        run = WorkerRun().run(make_job(bench.folder, url))
        events = re.findall(r"event (\S+)", log.read_text())
    assert (run.words, run.exit) == (GOOD, ENDED)
    assert run.installed.key == "release.pem"
    assert events == ["3/2", "13/1", "14/1", "3/1"]
    assert bench.boots() == "B"
    assert bench.content("A") == OLD
    prefs = bench.folder / "root/var/lib/update_engine/prefs"
    assert b"<updatecheck" in (prefs / "full-response").read_bytes()
    assert (prefs / "previous-version").read_bytes() == b""


def test_check_from_the_real_fleet_server_touches_nothing(bench: Bench) -> None:
    before = bench.image.read_bytes()
    with real_fleet(bench.folder, make_payload(NEW)) as (url, _):
        run = WorkerRun().run(make_job(bench.folder, url, kind=JobKind.CHECK, disk="", booted=""))
    assert run.words == ["Checked", "BackoffChanged", "Offered"]
    assert bench.image.read_bytes() == before


def test_update_of_a_node_that_is_up_to_date_finds_nothing(bench: Bench) -> None:
    with serving(Fleet(version="")) as server:
        run = update(bench, server)
    assert (run.messages, run.exit) == ([Checked(), NothingNew()], ENDED)


def test_update_of_a_release_that_fell_back_says_so_and_is_not_taken_again(bench: Bench) -> None:
    fleet = Fleet()
    with serving(fleet) as server:
        run = update(
            bench, server, previous_version="1.0.0", has_fallen_back=True, bad_releases=("2.0.0",), is_test_image=True
        )
    assert (run.nothing_new.kind, run.nothing_new.version) == (Kind.BAD_RELEASE, "2.0.0")
    assert (fleet.heard, fleet.codes) == (["check", "3/9"], [44, 35 | OTHER_SERVER | 1 << 29])


def test_update_while_another_release_waits_keeps_what_runs_for_post_install(bench: Bench) -> None:
    with serving(Fleet(version="2.0.0")) as server:
        run = update(bench, server, pending_version="2.0.0", previous_version="0.9.0")
    assert b'<event eventtype="3" eventresult="2" previousversion="0.9.0">' in server.received[0].body
    assert b'installsource="scheduler"' in server.received[0].body
    assert run.messages[-1] == NothingNew(version="2.0.0")
    assert (bench.folder / "root/var/lib/update_engine/prefs/previous-version").read_bytes() == b"1.0.0"


def test_update_goes_on_when_the_answer_cannot_be_kept(bench: Bench) -> None:
    job = make_job(bench.folder)
    (Path(job.root) / "var").write_bytes(b"no folder")
    with serving(Fleet()) as server:
        assert update(bench, server).words == GOOD


@pytest.mark.parametrize("over_http", [False, True], ids=["file", "URL"])
def test_payload_of_a_person_is_installed_without_a_server(bench: Bench, over_http: bool) -> None:
    payload = make_payload(NEW)
    path = bench.put("new.payload", payload)
    with serving(ranged(payload)) as server:
        options = InstallOptions(payload=server.url if over_http else str(path), target="B")
        run = WorkerRun().run(make_job(bench.folder, options=options))
        assert len(server.received) == int(over_http)
    assert run.words == ["Offered", "TargetTaken", "downloading", "verifying", "finalizing", "Installed"]
    assert run.messages[0] == Offered(version="", size_bytes=0 if over_http else len(payload))
    assert bench.boots() == "B"


# What goes wrong


@pytest.mark.parametrize(
    ("answer", "kind", "code", "status"),
    [
        (send(head("500 Oh", Content_Length=0)), Kind.HTTP_STATUS, 2500, 500),
        (send(head("404 Oh", Content_Length=0)), Kind.HTTP_STATUS, 2404, 404),
        (send(b""), Kind.OMAHA_TRANSFER, 2, 0),
        (send(b"SSH-2.0-OpenSSH_9.2\r\n"), Kind.OMAHA_TRANSFER, 2, 0),
        (whole(b""), Kind.OMAHA_EMPTY, 30, 0),
        (whole(b"<html><body>Log in</body></html>"), Kind.OMAHA_MALFORMED, 31, 0),
        (whole(bytes(2 * MIB)), Kind.TRANSFER_TOO_LARGE, 11, 0),
        (whole((DATA / "omaha" / "nebraska-refused-paused.xml").read_bytes()), Kind.OMAHA_REFUSED, 34, 0),
    ],
    ids=["500", "404", "nothing", "no HTTP", "empty", "web page", "too large", "refused"],
)
def test_check_answered_with_garbage_is_told_and_reported(
    bench: Bench, answer: Script, kind: Kind, code: int, status: int
) -> None:
    fleet = Fleet()
    with serving(answer, fleet) as server:
        run = update(bench, server)
    assert (run.words, run.exit) == (["Failed", "Reported"], ENDED)
    assert (run.failure.kind, run.failure.omaha_code, run.failure.http_status) == (kind, code | OTHER_SERVER, status)
    assert run.messages[-1] == Reported(was_delivered=True)
    assert (fleet.heard, fleet.codes) == (["3/0"], [code | OTHER_SERVER])
    bench.assert_old_release_boots()


PAYLOAD = make_payload(NEW)


@pytest.mark.parametrize(
    ("fleet", "kind", "code"),
    [
        (Fleet(PAYLOAD[:-1000] + bytes(1000), announced=PAYLOAD), Kind.OPERATION_HASH, 29),
        (Fleet(announced=PAYLOAD + b"x"), Kind.PAYLOAD_SIZE, 11),
        (Fleet(announced=PAYLOAD[:-1] + b"x"), Kind.PAYLOAD_HASH, 10),
        (Fleet(version="3.0.0"), Kind.VERSION_MISMATCH, 12),
        (Fleet(b"<html>" * 1000), Kind.PAYLOAD_MAGIC, 21),
    ],
    ids=["data", "size", "hash", "version", "magic"],
)
def test_payload_that_is_not_what_was_announced_waits_a_day(bench: Bench, fleet: Fleet, kind: Kind, code: int) -> None:
    with serving(fleet) as server:
        run = update(bench, server)
        again = update(bench, server, backoff=run.kept, options=InstallOptions(ignore_backoff=False))
    assert (run.failure.kind, run.failure.omaha_code) == (kind, code | OTHER_SERVER)
    assert fleet.heard == ["check", "13/1", "GET", "3/0", "check", "3/9"]
    assert fleet.codes == [code | OTHER_SERVER, 40 | OTHER_SERVER]
    assert again.nothing_new.kind == Kind.BACKOFF
    bench.assert_old_release_boots()


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"settings": {"install.public_keys": ["/nothing", "/root"]}}, Kind.KEY_MISSING, 18),
        ({"disk": ""}, Kind.BOOT_DISK_UNKNOWN, 3),
        ({"booted": ""}, Kind.BOOT_DISK_UNKNOWN, 3),
        ({"disk": "/nowhere/disk.img"}, Kind.DEVICE_OPEN, 7),
        ({"options": InstallOptions(target="A")}, Kind.TARGET_BOOTED, 3),
    ],
    ids=["no key", "no disk", "no slot", "disk gone", "target runs"],
)
def test_node_that_cannot_install_says_why_to_everybody(
    bench: Bench, changes: dict[str, Any], kind: Kind, code: int
) -> None:
    fleet = Fleet()
    with serving(fleet) as server:
        run = update(bench, server, **changes)
    assert run.failure.kind == kind, run.failure
    assert run.failure.hint
    assert fleet.codes == [code | OTHER_SERVER]
    bench.assert_old_release_boots()


def test_settings_that_make_no_sense_together_fail_the_check(bench: Bench) -> None:
    run = WorkerRun().run(make_job(bench.folder, "http://127.0.0.1:1/", settings={"transfer.ca": "/nowhere.pem"}))
    assert (run.words, run.failure.kind) == (["Failed", "Reported"], Kind.CONFIGURATION)


@pytest.fixture(scope="module")
def big_payload() -> bytes:
    return make_payload(random.Random(4).randbytes(40 * MIB), op_bytes=MIB)


@pytest.fixture
def big_bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, content=bytes(40 * MIB))


def test_update_that_was_cut_and_fails_again_says_that_it_was_resumed(big_bench: Bench, big_payload: bytes) -> None:
    bench = big_bench
    fleet = Fleet(big_payload, most=20 * MIB)
    with serving(fleet) as server:
        run = update(bench, server)
        fleet.most = MIB
        again = update(bench, server, backoff=run.kept)
        fleet.most = None
        last = update(bench, server, backoff=again.kept)
    assert fleet.codes == [9 | OTHER_SERVER, 9 | OTHER_SERVER | RESUMED]
    assert again.failure.omaha_code == 9 | OTHER_SERVER | RESUMED
    assert last.installed.resumed_at_bytes >= CHECKPOINT_INTERVAL_BYTES
    assert bench.boots() == "B"


def test_job_that_is_none_ends_as_a_bug(bench: Bench) -> None:
    line = [sys.executable, "-P", "-m", "update_agent.daemon.worker", str(os.getpid())]
    done = subprocess.run(line, input=b"{}", capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (70, b"")
    assert b"Traceback" in done.stderr


# Ending it


def stall(connection: socket.socket, _: Received) -> None:
    """Say nothing until the peer goes away."""
    connection.recv(1)


def stall_in_the_body(connection: socket.socket, _: Received) -> None:
    connection.sendall(head(Content_Length=len(PAYLOAD)) + PAYLOAD[: len(PAYLOAD) // 2])
    connection.recv(1)


def cancel_at(word: str, *, by_person: bool) -> Any:
    """An `on_message` that stops the child when something was told."""

    def on_message(run: WorkerRun, message: Message) -> None:
        name = message.phase if isinstance(message, Advanced) else type(message).__name__
        if name == word and not run.cancelled_at:
            run.cancel(by_person=by_person)

    return on_message


@pytest.mark.parametrize("by_person", [True, False], ids=["person", "daemon"])
def test_cancel_in_a_stalled_download_ends_it_at_once(bench: Bench, by_person: bool) -> None:
    fleet = Fleet(PAYLOAD, serve=stall_in_the_body)
    with serving(fleet) as server:
        run = WorkerRun(on_message=cancel_at("downloading", by_person=by_person)).run(
            make_job(bench.folder, server.url)
        )
    assert run.took_secs < LIMIT_SECS
    if by_person:
        assert (run.failure.kind, run.exit) == (Kind.INTERRUPTED, ENDED)
        assert run.messages[-1] == Reported(was_delivered=True)
        assert (fleet.heard[-1], fleet.codes) == ("3/0", [9 | OTHER_SERVER])
    else:
        assert run.exit == WorkerExit(status=143, was_signal=False)
        assert fleet.codes == []
    assert not [word for word in run.words[5:] if word == "BackoffChanged"]
    bench.assert_old_release_boots()


def test_cancel_of_a_download_that_moves_stops_it_in_order_even_if_nobody_takes_the_report(bench: Bench) -> None:
    over = threading.Event()

    def trickle(connection: socket.socket, _: Received) -> None:
        connection.sendall(head(Content_Length=len(PAYLOAD)))
        for start in range(0, len(PAYLOAD), 8192):
            connection.sendall(PAYLOAD[start : start + 8192])
            over.wait(0.03)

    def hang(name: str) -> None:
        if name == "3/0":
            over.wait(LIMIT_SECS)

    with serving(Fleet(PAYLOAD, serve=trickle, on_event=hang)) as server:
        run = WorkerRun(on_message=cancel_at("downloading", by_person=True))
        run.run(make_job(bench.folder, server.url))
        over.set()
    assert run.failure.message == "install: stopped on request"
    assert (run.words[-1], run.exit) == ("Failed", ENDED)
    assert run.took_secs < LIMIT_SECS
    bench.assert_old_release_boots()


@pytest.mark.parametrize("by_person", [True, False], ids=["person", "daemon"])
def test_cancel_before_the_server_answers_ends_it_at_once(bench: Bench, by_person: bool) -> None:
    with serving(stall) as server:
        run = WorkerRun().start(make_job(bench.folder, server.url))
        run.wait(lambda: bool(server.received))
        run.cancel(by_person=by_person)
        run.wait()
    assert run.took_secs < LIMIT_SECS
    assert run.words == (["Failed", "Reported"] if by_person else [])


def test_cancel_in_a_stalled_connect_ends_it_at_once(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):  # until the queue is full, and the kernel drops what knocks
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(("127.0.0.1", port))
        run = WorkerRun().start(make_job(bench.folder, f"http://127.0.0.1:{port}/"))
        assert run.child is not None
        run.wait(lambda: is_connecting(port, at_least=5))
        run.cancel(by_person=True)
        run.wait()
    assert run.took_secs < LIMIT_SECS
    assert (run.words, run.failure.kind) == (["Failed", "Reported"], Kind.INTERRUPTED)
    assert run.messages[-1] == Reported(was_delivered=False)


def is_connecting(port: int, *, at_least: int) -> bool:
    """Whether so many sockets of this machine knock at a port (proc(5), SYN_SENT is 02) or stand in its queue."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return sum(f":{port:04X} 0" in line for line in lines if line.split()[2].endswith(f":{port:04X}")) >= at_least


def test_cancel_right_after_the_start_is_not_lost(bench: Bench) -> None:
    with serving(stall) as server:
        run = WorkerRun().start(make_job(bench.folder, server.url))
        run.cancel(by_person=True)
        run.wait()
    assert (run.words, run.failure.kind, run.exit) == (["Failed", "Reported"], Kind.INTERRUPTED, ENDED)


def test_cancel_while_the_server_is_told_of_success_comes_too_late(bench: Bench) -> None:
    runs: list[WorkerRun] = []

    def slow_to_hear(name: str) -> None:
        if name == "3/1":
            runs[0].cancel(by_person=True)
            time.sleep(1.5)  # the child must not wait for this

    fleet = Fleet(PAYLOAD, on_event=slow_to_hear)
    with serving(fleet) as server:
        runs.append(WorkerRun())
        runs[0].run(make_job(bench.folder, server.url))
    assert (runs[0].words[-1], runs[0].exit) == ("Installed", ENDED)
    assert runs[0].took_secs < LIMIT_SECS
    assert bench.boots() == "B"


PARENT = """
import sys
from pathlib import Path
from tests.support.workers import WorkerRun, make_job
run = WorkerRun().start(make_job(Path(sys.argv[1]), sys.argv[2]))
print("child", run.child.pid, flush=True)
run.wait(lambda: "downloading" in run.words)
print("downloading", flush=True)
run.wait()
"""


def test_kill_of_the_daemon_ends_the_child_and_the_next_one_goes_on(bench: Bench) -> None:
    payload = make_payload(random.Random(3).randbytes(384 * 1024))

    def half(connection: socket.socket, _: Received) -> None:
        connection.sendall(head(Content_Length=len(payload)) + payload[: len(payload) // 2])
        connection.recv(1)

    fleet = Fleet(payload, serve=half)
    with serving(fleet) as server:
        line = [sys.executable, "-c", PARENT, str(bench.folder), server.url]
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = int(wait_for_line(parent.stdout, "child").split()[1])
            wait_for_line(parent.stdout, "downloading")
            parent.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: not is_running(child))
        assert time.monotonic() - killed_at < LIMIT_SECS
        assert fleet.codes == []
        bench.assert_old_release_boots()
        fleet.serve = None
        run = update(bench, server)
    assert run.installed.version == "2.0.0"
    assert bench.boots() == "B"


def test_child_of_a_daemon_that_ended_before_it_began_does_nothing(bench: Bench) -> None:
    line = [sys.executable, "-P", "-m", "update_agent.daemon.worker", "1"]
    done = subprocess.run(line, input=make_job(bench.folder).to_bytes(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (143, b"")


# What it takes and what it gives up


def test_update_takes_less_than_64_mib_and_only_what_it_needs(big_bench: Bench, big_payload: bytes) -> None:
    """Looked at while it tells the server that it is done."""
    status: dict[str, str] = {}
    runs: list[WorkerRun] = []

    def look(name: str) -> None:
        child = runs[0].child
        if name == "3/1" and child is not None:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            status.update({name: value for name, _, value in (line.partition(":\t") for line in lines)})
            status["oom"] = Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip()
            status["nice"] = str(os.getpriority(os.PRIO_PROCESS, child.pid))

    with serving(Fleet(big_payload, on_event=look)) as server:
        runs.append(WorkerRun())
        runs[0].run(make_job(big_bench.folder, server.url, settings={"install.nice": 12}))
    assert runs[0].words[-1] == "Installed"
    print(f"peak resident: {status['VmHWM']}")
    assert int(status["VmHWM"].split()[0]) < 64 * 1024
    assert int(status["oom"]) >= 300
    assert int(status["nice"]) == 12
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert int(status["CapEff"], 16) & 1 << 12 == 0  # CAP_NET_ADMIN
        assert int(status["CapBnd"], 16) & 1 << 12 == 0
