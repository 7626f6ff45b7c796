"""The real daemon from start to end: killed, stopped, reloaded, without its bus, and after boots of every kind."""

import functools
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW
from tests.support.daemons import OTHER_SERVER, NodeDaemon, node_daemon, recording
from tests.support.dbus import needs_dbus
from tests.support.faulty_fleets import FaultyFleet, Held, Paced
from tests.support.payloads import make_payload
from tests.support.processes import is_running, wait_until
from tests.support.servers import ScriptedServer, serving
from update_agent.api.forms import ExitStatus
from update_agent.daemon.worker_process import KILL_AFTER_SECS
from update_agent.domain.pipeline import CHECKPOINT_INTERVAL_BYTES
from update_agent.errors import Kind
from update_agent.formats.operations import OperationType

pytestmark = needs_dbus

MIB = 1 << 20
PAYLOAD = make_payload(NEW)
KILLS = 10
STOP_SECS = 15
METADATA_BYTES_MAX = 64 * 1024
IN_FLIGHT_BYTES = 8 * MIB
"""What a server may have written that nobody read."""


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def server(fleet: FaultyFleet) -> Iterator[ScriptedServer]:
    with serving(fleet) as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, server: ScriptedServer) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node:
        node.configure(server.url)
        yield node


@pytest.fixture
def held(fleet: FaultyFleet) -> Iterator[Held]:
    held = Held(PAYLOAD)
    fleet.serve = held
    yield held
    held.gate.set()


def begin_install(node: NodeDaemon, held: Held) -> int:
    """A download that hangs; the child."""
    assert node.install("--no-wait").status == ExitStatus.DONE
    assert held.is_held.wait(20)
    node.wait_for_state("downloading")
    child = node.child
    assert child is not None
    return child


def let_pass(secs: float) -> None:
    """Wait for no condition."""
    end = time.monotonic() + secs
    wait_until(lambda: time.monotonic() > end)


def has_ended(pid: int | None) -> bool:
    return pid is None or not is_running(pid)


# Killed


def test_daemon_that_is_killed_again_and_again_brings_the_update_by_itself(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    new = chance.randbytes(48 * MIB)
    payload = make_payload(new, types=(OperationType.REPLACE,), op_bytes=MIB)
    paced = Paced(payload, chunk_bytes=256 * 1024, pause_secs=0.01)
    fleet = FaultyFleet(payload, serve=paced)
    anew = [0]
    with node_daemon(tmp_path, content=bytes(len(new))) as node, serving(fleet) as server:
        node.configure(server.url)
        for _ in range(KILLS):
            is_done = node.bench.boots() == "B"
            node.configure(check_automatic=not is_done, check_first_delay_secs=0, check_interval_secs=3600)
            node.start()
            if is_done:  # so that there is something to be killed
                anew.append(len(paced.sent))
                assert node.compat[2:] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0", len(payload))
                assert node.cli("reset").status == ExitStatus.DONE
                assert node.install("--no-wait").status == ExitStatus.DONE
            let_pass(chance.uniform(0, 1.5))
            child = node.child
            node.kill()
            wait_until(functools.partial(has_ended, child), "the child ends, too")
            assert node.bench.boots() == "A" or node.bench.content("B")[: len(new)] == new
        node.configure(check_automatic=True)
        node.start()
        node.wait_for_state("updated-need-reboot")
        assert (node.bench.boots(), node.bench.content("B")[: len(new)]) == ("B", new)
    print(f"requests from {anew} on: {paced.sent}")
    assert fleet.codes == []
    for begin, end in itertools.pairwise([*anew, len(paced.sent)]):
        bodies = [(start, sent) for start, sent in paced.sent[begin:end] if start or sent > METADATA_BYTES_MAX]
        for (start, sent), (following, _) in itertools.pairwise(bodies):
            assert following >= start + sent - CHECKPOINT_INTERVAL_BYTES - IN_FLIGHT_BYTES


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_daemon_that_ends_while_the_server_hears_of_the_success_knows_it_afterwards(
    node: NodeDaemon, fleet: FaultyFleet, how: str
) -> None:
    """The release boots next from the moment on at which its flags say so, whoever has noted it or not."""
    gate = threading.Event()

    def wait_with_the_last(name: str) -> None:
        if name == "3/1":
            gate.wait(20)

    fleet.on_event = wait_with_the_last
    node.start()
    node.install("--no-wait")
    wait_until(lambda: "3/1" in fleet.heard, "the server hears of the success")
    assert node.bench.boots() == "B"
    getattr(node, how)()
    gate.set()
    node.start()
    assert node.compat[2:] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0", len(PAYLOAD))
    pending = node.state["pending"]
    assert (pending["version"], pending["slot"], pending["previous_version"]) == ("2.0.0", "B", "1.0.0")
    assert node.state["unfinished"] is None


def test_daemon_that_is_killed_takes_its_child_along_and_goes_on_later(
    node: NodeDaemon, fleet: FaultyFleet, held: Held
) -> None:
    node.start()
    child = begin_install(node, held)
    node.kill()
    wait_until(functools.partial(has_ended, child), "the child ends while the server holds its download")
    assert node.state["unfinished"] == "2.0.0"
    assert node.bench.boots() == "A"
    held.gate.set()
    node.configure(check_automatic=True, check_first_delay_secs=1)
    node.start()
    node.wait_for_state("updated-need-reboot")
    assert (node.bench.boots(), fleet.codes) == ("B", [])


def test_child_that_is_killed_is_an_error_and_the_next_update_succeeds(
    node: NodeDaemon, fleet: FaultyFleet, held: Held
) -> None:
    pid = node.start().pid
    with recording(node.bus) as signals:
        os.kill(begin_install(node, held), signal.SIGKILL)
        wait_until(lambda: signals.operations[-2:] == ["REPORTING_ERROR_EVENT", "IDLE"], "the failure is announced")
    kind, message, hint, _, _ = node.properties["LastError"]
    assert (kind, message) == (Kind.WORKER_DIED, "child process: expected it to finish, got signal 9")
    assert f"update-agentd: {message} ({hint})\n" in node.log
    assert node.status["last_error"]["kind"] == "worker-died"
    assert node.bench.boots() == "A"
    fleet.heal(PAYLOAD)
    assert node.install().status == ExitStatus.DONE
    assert (node.pid, node.bench.boots(), fleet.codes) == (pid, "B", [])


def test_child_that_does_not_move_is_killed_some_time_after_a_cancel(
    node: NodeDaemon, fleet: FaultyFleet, held: Held
) -> None:
    node.start()
    child = begin_install(node, held)
    os.kill(child, signal.SIGSTOP)
    begin = time.monotonic()
    assert node.cli("cancel").status == ExitStatus.DONE
    node.wait_for_state("idle")
    assert KILL_AFTER_SECS - 1 < time.monotonic() - begin < KILL_AFTER_SECS + 5
    assert not is_running(child)
    assert node.properties["LastError"][0] == Kind.WORKER_DIED
    fleet.heal(PAYLOAD)
    assert node.install().status == ExitStatus.DONE


# Ended, as a person or systemd does it


def test_cancel_ends_the_update_and_the_server_hears_of_it(node: NodeDaemon, fleet: FaultyFleet, held: Held) -> None:
    node.start()
    child = begin_install(node, held)
    command = [sys.executable, "-m", "update_agent.cli.main", "--bus", node.bus.address, "cancel"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == ExitStatus.DONE, done.stderr
    node.wait_for_state("idle")
    wait_until(lambda: not is_running(child), "the child ends")
    assert node.properties["LastError"][0] == Kind.INTERRUPTED
    assert fleet.codes == [9 | OTHER_SERVER]
    assert node.bench.boots() == "A"
    assert node.state["backoff"]["url_failure_count"] == 0


def test_second_install_is_refused_while_one_is_under_way(node: NodeDaemon, fleet: FaultyFleet, held: Held) -> None:
    node.start()
    begin_install(node, held)
    for verb in ("check", "reset", "rollback", "mark-bad"):
        result = node.cli(verb)
        assert (result.status, "expected nothing to be under way" in result.err) == (ExitStatus.REFUSED, True), verb
    install = node.bus.gdbus("org.updateagent1", "/org/updateagent1", "org.updateagent1.Manager.Install", "@a{sv} {}")
    assert "org.updateagent1.Error.WrongState" in install.stderr
    held.gate.set()
    node.wait_for_state("updated-need-reboot")
    assert fleet.heard.count("check") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_in_an_update_is_quick_and_the_update_goes_on_after_the_next_start(
    node: NodeDaemon, fleet: FaultyFleet, held: Held, number: signal.Signals
) -> None:
    node.start()
    child = begin_install(node, held)
    process = node.process
    assert process is not None
    process.send_signal(number)
    assert process.wait(STOP_SECS) == 0
    assert not is_running(child)
    assert "STOPPING=1" in node.notified
    assert node.state["unfinished"] == "2.0.0"
    assert node.state["last_error"] is None
    assert fleet.codes == []
    held.gate.set()
    node.configure(check_automatic=True, check_first_delay_secs=1)
    with recording(node.bus) as signals:
        node.start()
        shown = node.status
        assert (shown["offered_version"], shown["last_error"]) == ("2.0.0", None)
        signals.wait_for("UPDATED_NEED_REBOOT")
    assert node.bench.boots() == "B"


def test_end_at_rest_leaves_nothing(node: NodeDaemon) -> None:
    node.start()
    assert node.install().status == ExitStatus.DONE
    begin = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - begin < STOP_SECS / 3
    assert not node.bus.busctl("status", "org.updateagent1").stdout
    assert (node.root / "run/reboot-required").exists()


# Reloaded


@pytest.mark.parametrize("how", ["signal", "call", "channel"])
def test_reload_changes_the_channel_of_the_next_request(
    node: NodeDaemon, fleet: FaultyFleet, server: ScriptedServer, how: str
) -> None:
    fleet.version = ""
    pid = node.start().pid
    assert node.cli("check").status == ExitStatus.DONE
    if how == "channel":
        name = "90-local.toml"
        (node.root / "etc/update-agent/config.d" / name).write_text('server.channel = "beta"\n')
        node.cli("reload")
    else:
        node.configure(server_channel="beta")
        node.notified.clear()
        if how == "signal":
            node.signal(signal.SIGHUP)
            wait_until(lambda: "READY=1" in node.notified, "the configuration is read again")
            assert "RELOADING=1" in node.notified
        else:
            assert node.cli("reload").status == ExitStatus.DONE
    assert node.properties["Channel"] == "beta"
    assert node.cli("check").status == ExitStatus.DONE
    tracks = [match[1] for each in server.received if (match := re.search(rb' track="([^"]*)"', each.body))]
    assert (tracks, node.pid) == ([b"stable", b"beta"], pid)


@pytest.mark.parametrize("how", ["signal", "call"])
def test_reload_moves_the_metrics(node: NodeDaemon, how: str) -> None:
    node.start()
    socket = node.root / "run/update-agent/metrics.sock"
    assert not socket.exists()
    node.configure(metrics_socket="/run/update-agent/metrics.sock")
    if how == "signal":
        node.signal(signal.SIGHUP)
    else:
        assert node.cli("reload").status == ExitStatus.DONE
    wait_until(socket.exists, "metrics are there")


# Without its bus


def test_bus_that_is_started_again_in_a_download_is_found_and_the_update_goes_on(
    node: NodeDaemon, fleet: FaultyFleet, held: Held
) -> None:
    pid = node.start().pid
    child = begin_install(node, held)
    node.bus.stop()
    wait_until(lambda: "going on without D-Bus until it is back" in node.log, "the daemon says so")
    assert is_running(child)
    node.bus.start()
    wait_until(lambda: "D-Bus is there again" in node.log, "the daemon found the bus")
    assert (node.properties["State"], node.compat[2]) == ("downloading", "UPDATE_STATUS_DOWNLOADING")
    with recording(node.bus) as signals:
        held.gate.set()
        signals.wait_for("UPDATED_NEED_REBOOT")
    assert (node.pid, node.bench.boots(), fleet.codes) == (pid, "B", [])
    assert [slot["name"] for slot in node.status["slots"]] == ["A", "B"]


def test_update_ends_while_there_is_no_bus(node: NodeDaemon, held: Held) -> None:
    node.start()
    begin_install(node, held)
    node.bus.stop()
    held.gate.set()
    wait_until(lambda: node.bench.boots() == "B", "the update is there")
    node.bus.start()
    wait_until(lambda: "D-Bus is there again" in node.log, "the daemon found the bus")
    assert node.compat[2:4] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0")
