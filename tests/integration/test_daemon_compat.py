"""update_engine's interface of the real daemon, driven by programs that share no code with it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.support.commands import NEW
from tests.support.daemons import NodeDaemon, node_daemon, recording
from tests.support.dbus import needs_dbus
from tests.support.faulty_fleets import FaultyFleet, Held, Paced
from tests.support.payloads import make_payload
from tests.support.processes import wait_until
from tests.support.raw_dbus import RawClient, parse_status
from tests.support.servers import serving
from update_agent.domain.machine import State

pytestmark = needs_dbus

NAME, PATH, INTERFACE = "com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager"
PAYLOAD = make_payload(NEW, op_bytes=4096)
STATES = (
    "IDLE",
    "CHECKING_FOR_UPDATE",
    "UPDATE_AVAILABLE",
    "DOWNLOADING",
    "VERIFYING",
    "FINALIZING",
    "UPDATED_NEED_REBOOT",
    "REPORTING_ERROR_EVENT",
)
"""In the order of their numbers; clients compare those."""
GOOD = ["CHECKING_FOR_UPDATE", "UPDATE_AVAILABLE", "DOWNLOADING", "VERIFYING", "FINALIZING", "UPDATED_NEED_REBOOT"]
ARGUMENTS = [
    ("x", "last_checked_time"),
    ("d", "progress"),
    ("s", "current_operation"),
    ("s", "new_version"),
    ("x", "new_size"),
]
NOTHING_BUT_ERROR = (
    "Error: GDBus.Error:org.freedesktop.DBus.GLib.ErrorError: "
    "Method invoked for ResetStatus returned FALSE but did not set error"
)


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def node(tmp_path: Path, fleet: FaultyFleet) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node, serving(fleet) as server:
        node.configure(server.url)
        yield node


@pytest.fixture
def held(fleet: FaultyFleet) -> Iterator[Held]:
    held = Held(PAYLOAD)
    fleet.serve = held
    yield held
    held.gate.set()


def call(node: NodeDaemon, method: str, *args: str) -> str:
    """What gdbus prints, on either stream."""
    result = node.bus.gdbus(NAME, PATH, method if "." in method else f"{INTERFACE}.{method}", *args)
    return (result.stdout or result.stderr).strip()


def wait_for(node: NodeDaemon, state: str) -> None:
    wait_until(lambda: node.compat[2] == f"UPDATE_STATUS_{state}", f"GetStatus says {state}")


# What it looks like


def test_introspection_is_that_of_update_engine(node: NodeDaemon) -> None:
    node.start()
    result = node.bus.run("gdbus", "introspect", "--system", "--dest", NAME, "--object-path", PATH, "--xml")
    root = ET.fromstring(result.stdout)
    assert [each.get("name") for each in root] == [
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.Properties",
        INTERFACE,
    ]
    manager = root[2]
    members = [(each.tag, each.get("name"), [argument.attrib for argument in each]) for each in manager]
    assert members == [
        ("method", "GetStatus", [{"type": kind, "name": name, "direction": "out"} for kind, name in ARGUMENTS]),
        ("method", "ResetStatus", []),
        ("method", "AttemptUpdate", []),
        ("signal", "StatusUpdate", [{"type": kind} for kind, _ in ARGUMENTS]),
    ]


@pytest.mark.parametrize(
    ("method", "args", "answer"),
    [
        ("GetStatus", (), "(int64 0, 0.0, 'UPDATE_STATUS_IDLE', '0.0.0', int64 0)"),
        ("ResetStatus", (), "()"),
        ("org.freedesktop.DBus.Peer.Ping", (), "()"),
        ("SetStatus", (), "Error: GDBus.Error:org.freedesktop.DBus.Error.UnknownMethod"),
        (
            "org.freedesktop.DBus.Properties.GetAll",
            (INTERFACE,),
            "Error: GDBus.Error:org.freedesktop.DBus.Error.UnknownMethod",
        ),
    ],
)
def test_call_of_an_idle_daemon_is_answered_as_by_update_engine(
    node: NodeDaemon, method: str, args: tuple[str, ...], answer: str
) -> None:
    node.start()
    assert call(node, method, *args).startswith(answer)


def test_states_have_the_names_and_the_order_of_update_engine() -> None:
    assert [state.wire_name for state in State] == [f"UPDATE_STATUS_{word}" for word in STATES]


# What it says


def test_good_update_is_announced_step_by_step(node: NodeDaemon, fleet: FaultyFleet) -> None:
    with recording(node.bus) as signals:
        node.start()
        signals.wait_for("IDLE")
        assert call(node, "AttemptUpdate") == "()"
        signals.wait_for("UPDATED_NEED_REBOOT")
    assert {(each.path, each.interface, each.signature) for each in signals.heard} == {(PATH, INTERFACE, "(xdssx)")}
    assert signals.operations == ["IDLE", *GOOD]
    numbers = [STATES.index(word) for word in signals.operations]
    assert numbers == sorted(numbers)
    offer = ("2.0.0", len(PAYLOAD))
    for each in signals.heard:
        checked_at, progress, operation, *release = each.values
        is_known = operation not in {"UPDATE_STATUS_IDLE", "UPDATE_STATUS_CHECKING_FOR_UPDATE"}
        assert tuple(release) == (offer if is_known else ("0.0.0", 0))
        assert bool(checked_at) == is_known
        assert progress == 0 or operation == "UPDATE_STATUS_DOWNLOADING"
    steps = [each.values[1] for each in signals.heard if each.values[2] == "UPDATE_STATUS_DOWNLOADING"]
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert all(after - before >= 0.01 for before, after in itertools.pairwise(steps[:-1]))
    assert (fleet.heard, fleet.codes) == (["check", "13/1", "GET", "14/1", "3/1"], [])
    assert node.bench.boots() == "B"


def test_failed_update_is_announced_step_by_step(node: NodeDaemon, fleet: FaultyFleet) -> None:
    fleet.payload = PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])
    with recording(node.bus) as signals:
        node.start()
        assert call(node, "AttemptUpdate") == "()"
        wait_until(lambda: signals.operations[-2:] == ["REPORTING_ERROR_EVENT", "IDLE"], "the failure is announced")
    middle = ["CHECKING_FOR_UPDATE", "UPDATE_AVAILABLE", "DOWNLOADING"]
    assert signals.operations == ["IDLE", *middle, "REPORTING_ERROR_EVENT", "IDLE"]
    assert signals.heard[-1].values[1:] == (0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
    assert signals.heard[-1].values[0] > 0
    assert fleet.heard[-1] == "3/0"
    assert len(fleet.codes) == 1


def test_check_that_fails_is_announced_and_keeps_the_time_of_the_last_good_one(
    node: NodeDaemon, fleet: FaultyFleet
) -> None:
    fleet.edit = lambda body: body[:-1]
    with recording(node.bus) as signals:
        node.start()
        call(node, "AttemptUpdate")
        wait_until(lambda: signals.operations[-2:] == ["REPORTING_ERROR_EVENT", "IDLE"], "the failure is announced")
    assert signals.operations == ["IDLE", "CHECKING_FOR_UPDATE", "REPORTING_ERROR_EVENT", "IDLE"]
    assert {each.values[0] for each in signals.heard} == {0}


def test_status_and_signals_are_what_clients_in_go_unpack(node: NodeDaemon) -> None:
    """locksmithd and the operator of Kubernetes: GetStatus, then signals; another type in a body is their end."""
    node.start()
    client = RawClient(node.bus.folder / "bus")
    client.match(f"type='signal',interface='{INTERFACE}',member='StatusUpdate'")
    assert parse_status(*client.call(NAME, PATH, INTERFACE, "GetStatus")) == (0, 0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
    call(node, "AttemptUpdate")
    operation = ""
    while operation != "UPDATE_STATUS_UPDATED_NEED_REBOOT":
        status = parse_status(*client.signal())
        operation = status[2]
    assert status[1:] == (0.0, operation, "2.0.0", len(PAYLOAD))
    assert parse_status(*client.call(NAME, PATH, INTERFACE, "GetStatus")) == status
    client.close()


# While an update is under way


def test_reset_and_attempt_in_a_download_are_refused_and_ignored(
    node: NodeDaemon, fleet: FaultyFleet, held: Held
) -> None:
    node.start()
    call(node, "AttemptUpdate")
    wait_for(node, "DOWNLOADING")
    assert call(node, "ResetStatus") == NOTHING_BUT_ERROR
    assert call(node, "AttemptUpdate") == "()"
    held.gate.set()
    wait_for(node, "UPDATED_NEED_REBOOT")
    assert fleet.heard.count("check") == 1


def test_status_in_a_download_tells_how_far(node: NodeDaemon, fleet: FaultyFleet) -> None:
    fleet.serve = Paced(PAYLOAD, chunk_bytes=8192, pause_secs=0.05)
    node.start()
    call(node, "AttemptUpdate")
    wait_until(lambda: 0.2 < node.compat[1] < 0.8, "half of it is there")
    checked_at, _, operation, version, size = node.compat
    assert (operation, version, size) == ("UPDATE_STATUS_DOWNLOADING", "2.0.0", len(PAYLOAD))
    assert checked_at > 0


# Waiting for the reboot


@pytest.fixture
def updated(node: NodeDaemon) -> NodeDaemon:
    node.start()
    call(node, "AttemptUpdate")
    wait_for(node, "UPDATED_NEED_REBOOT")
    return node


def test_attempt_while_a_reboot_is_pending_is_ignored(updated: NodeDaemon, fleet: FaultyFleet) -> None:
    before = updated.compat
    assert call(updated, "AttemptUpdate") == "()"
    assert updated.compat == before
    assert updated.child is None
    assert fleet.heard.count("check") == 1


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_restart_keeps_version_and_size_of_what_waits(updated: NodeDaemon, how: str) -> None:
    """update_engine forgets both."""
    before = updated.compat
    getattr(updated, how)()
    with recording(updated.bus) as signals:
        updated.start()
        signals.wait_for("UPDATED_NEED_REBOOT")
        assert updated.compat == before
    assert signals.heard[0].values == before
    assert len(signals.heard) == 1


def test_reset_gives_the_update_up_and_is_not_announced(updated: NodeDaemon, fleet: FaultyFleet) -> None:
    with recording(updated.bus) as signals:
        assert call(updated, "ResetStatus") == "()"
        assert updated.compat[1:] == (0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
        assert updated.bench.boots() == "A"
        fleet.version = ""
        call(updated, "AttemptUpdate")
        signals.wait_for("IDLE")
    assert signals.operations == ["CHECKING_FOR_UPDATE", "IDLE"]


def test_reset_after_a_check_by_itself_does_not_break_the_next_attempt(node: NodeDaemon, fleet: FaultyFleet) -> None:
    """update_engine aborts here: its stale ping is queued in front of the new check."""
    node.start()
    call(node, "AttemptUpdate")
    wait_for(node, "UPDATED_NEED_REBOOT")
    node.stop()
    node.configure(check_automatic=True, check_first_delay_secs=0, check_interval_secs=3600)
    with recording(node.bus) as signals:
        node.start()
        wait_until(lambda: fleet.heard.count("check") == 2 and node.child is None, "the timer has asked")
        wait_until(lambda: len(signals.heard) == 2, "the pending reboot is announced once more")
        assert signals.operations == ["UPDATED_NEED_REBOOT"]
        assert call(node, "ResetStatus") == "()"
        assert call(node, "AttemptUpdate") == "()"
        wait_until(lambda: signals.operations == ["UPDATED_NEED_REBOOT", *GOOD], "the update is there again")
    assert fleet.codes == []
    assert node.bench.boots() == "B"
