"""The client of our own, against the service in another process."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gi.repository import Gio, GLib

from tests.support.dbus import PrivateBus, bus_server, needs_dbus, private_bus
from update_agent.errors import Kind, RefusedError, ServiceError
from update_agent.host import dbus
from update_agent.host.dbus import BusClient, connect

pytestmark = needs_dbus

COMPAT = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager")
AGENT = ("org.updateagent1", "/org/updateagent1", "org.updateagent1.Manager")
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@pytest.fixture(scope="module")
def server(bus: PrivateBus) -> Iterator[subprocess.Popen[str]]:
    with bus_server(bus) as server:
        yield server


@pytest.fixture
def client(bus: PrivateBus, server: subprocess.Popen[str]) -> Iterator[BusClient]:
    assert server.poll() is None
    client = connect(bus.address)
    yield client
    client.close()


def test_call_gives_the_values(client: BusClient) -> None:
    assert client.call(*COMPAT, "GetStatus")[2:4] == ("UPDATE_STATUS_IDLE", "0.0.0")
    assert client.call(*AGENT, "MarkSlot", "ss", ("A", "good")) == ()
    assert client.call(*AGENT, "Install", "a{sv}", ({"allow_bad": GLib.Variant("b", True)},)) == ()


def test_get_all_gives_plain_values(client: BusClient) -> None:
    values = client.get_all(*AGENT)
    assert (values["State"], values["LastError"]) == ("idle", ("", "", "", 0, 0))


def test_call_of_a_name_without_owner_is_unreachable(client: BusClient) -> None:
    with pytest.raises(ServiceError) as caught:
        client.call("org.example.Nobody", "/", "org.example", "X")
    assert caught.value.kind is Kind.SERVICE_UNREACHABLE
    assert caught.value.hint is not None


def test_call_with_wrong_arguments_is_a_bus_error(client: BusClient) -> None:
    with pytest.raises(ServiceError, match="InvalidArgs") as caught:
        client.call(*AGENT, "MarkSlot", "ss", ("A", "better"))
    assert caught.value.kind is Kind.BUS


def test_connect_without_a_bus_is_unreachable() -> None:
    with pytest.raises(ServiceError, match="cannot connect to unix:path=/nonexistent") as caught:
        connect("unix:path=/nonexistent")
    assert caught.value.kind is Kind.SERVICE_UNREACHABLE


def test_connect_to_a_bus_that_says_nothing_ends(bus: PrivateBus) -> None:
    path = bus.folder / "silent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        begin = time.monotonic()
        with pytest.raises(ServiceError):
            connect(f"unix:path={path}", timeout_secs=0.2)
        assert time.monotonic() - begin < 5


def test_call_that_is_not_answered_ends(client: BusClient, server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ServiceError) as caught:
            client.call(*COMPAT, "GetStatus", timeout_secs=0.2)
        assert caught.value.kind is Kind.SERVICE_UNREACHABLE
    finally:
        server.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("org.freedesktop.DBus.Error.AccessDenied", Kind.NOT_AUTHORIZED, RefusedError),
        ("org.updateagent1.Error.NotAuthorized", Kind.NOT_AUTHORIZED, RefusedError),
        ("org.updateagent1.Error.PayloadHash", Kind.PAYLOAD_HASH, ServiceError),
        ("org.freedesktop.DBus.Error.NoReply", Kind.SERVICE_UNREACHABLE, ServiceError),
        ("org.freedesktop.DBus.Error.ServiceUnknown", Kind.SERVICE_UNREACHABLE, ServiceError),
        ("org.freedesktop.DBus.GLib.ErrorError", Kind.BUS, ServiceError),
    ],
)
def test_errors_of_others_are_ours_by_their_name(name: str, kind: Kind, form: type[Exception]) -> None:
    remote = Gio.DBusError.new_for_dbus_error(name, "it says no\nhint: do this")
    error = dbus.wrap_error(remote, "call")
    assert isinstance(error, form)
    assert error.kind is kind
    assert "it says no" in error.message


def test_error_of_the_agent_has_its_message_and_hint() -> None:
    remote = Gio.DBusError.new_for_dbus_error("org.updateagent1.Error.Busy", "it says no\nhint: do this")
    error = dbus.wrap_error(remote, "call")
    assert (error.message, error.hint) == ("it says no", "do this")


def test_watch_hears_the_owner(client: BusClient) -> None:
    signals: list[tuple[Any, ...]] = []
    changes: list[tuple[Any, ...]] = []
    client.watch(*COMPAT, "StatusUpdate", signals.append)
    client.watch(AGENT[0], AGENT[1], PROPERTIES, "PropertiesChanged", changes.append)
    client.call(*COMPAT, "AttemptUpdate")
    assert client.run(lambda: bool(signals and changes), 10)
    assert signals[0][2] == "UPDATE_STATUS_DOWNLOADING"
    assert "ProgressDoneBytes" in changes[0][1]


def test_watch_hears_nobody_who_only_pretends(client: BusClient, bus: PrivateBus) -> None:
    """Neither what is sent to all, nor what is sent to this connection alone, which passes the match on the name."""
    signals: list[tuple[Any, ...]] = []
    client.watch(*COMPAT, "StatusUpdate", signals.append)
    values = GLib.Variant("(xdssx)", (1, 1.0, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "6.6.6", 666))
    liar = bus.connect()
    me = client._connection.get_unique_name()
    for destination in (None, me):
        liar.emit_signal(destination, COMPAT[1], COMPAT[2], "StatusUpdate", values)
    liar.flush_sync(None)
    liar.close_sync(None)
    client.call(*COMPAT, "AttemptUpdate")  # comes after the lies
    assert client.run(lambda: bool(signals), 10)
    assert [each[4] for each in signals if each[4] == 666] == []


def test_watch_tells_when_the_owner_comes_and_goes(bus: PrivateBus) -> None:
    with private_bus() as other:
        client = connect(other.address)
        heard: list[tuple[Any, ...]] = []
        owners: list[bool] = []
        client.watch(*COMPAT, "StatusUpdate", heard.append, owner_changed=owners.append)
        with bus_server(other):
            assert client.run(lambda: owners == [True], 10)
            client.call(*COMPAT, "AttemptUpdate")
            assert client.run(lambda: bool(heard), 10)
        assert client.run(lambda: owners == [True, False], 10)
        client.close()


def test_run_ends_when_the_time_is_over(client: BusClient) -> None:
    assert client.run(lambda: False, 0.05) is False


def test_run_that_has_nothing_to_wait_for_ends(client: BusClient) -> None:
    assert client.run(lambda: True) is True


def test_run_when_the_bus_goes_away_raises() -> None:
    with private_bus() as bus:
        client = connect(bus.address)
        GLib.idle_add(bus.stop)
        for _ in range(2):
            with pytest.raises(ServiceError, match="the bus went away"):
                client.run(lambda: False, 10)
        client.close()


def test_run_can_be_interrupted_by_a_person(bus: PrivateBus) -> None:
    script = (
        "import sys\nfrom update_agent.host.dbus import connect\n"
        "client = connect(sys.argv[1])\n"
        "try:\n    client.run(lambda: print('ready', flush=True))\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    with bus.spawn(sys.executable, "-c", script, bus.address) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == "interrupted\n"


def test_import_of_the_client_brings_nothing_heavy(bus: PrivateBus) -> None:
    script = (
        "import sys, update_agent.host.dbus\n"
        "print(sorted({'requests', 'rich', 'pydbus', 'cryptography'} & set(sys.modules)))"
    )
    with bus.spawn(sys.executable, "-c", script) as process:
        assert process.communicate(timeout=20)[0] == "[]\n"


class Connection:
    """Lets every signal through, as GDBus did before it was fixed (CVE-2024-34397)."""

    def __init__(self) -> None:
        self.heard: dict[str, Any] = {}

    def connect(self, _signal: str, _callback: Any) -> None:
        pass

    def signal_subscribe(self, _sender: str, _interface: str, signal: str, *rest: Any) -> None:
        self.heard[signal] = rest[-1]

    def call_sync(self, *_: Any) -> Any:
        return GLib.Variant("(s)", (":1.5",))


def test_watch_compares_the_sender_itself() -> None:
    connection = Connection()
    signals: list[tuple[Any, ...]] = []
    BusClient(connection).watch(*COMPAT, "StatusUpdate", signals.append)
    values = GLib.Variant("(s)", ("x",))

    def send(sender: str) -> list[tuple[Any, ...]]:
        connection.heard["StatusUpdate"](None, sender, "", "", "", values)
        return signals

    def change_owner(old: str, new: str) -> None:
        connection.heard["NameOwnerChanged"](None, "", "", "", "", GLib.Variant("(sss)", (COMPAT[0], old, new)))

    assert send(":1.6") == []
    assert len(send(":1.5")) == 1
    change_owner(":1.5", "")
    assert len(send(":1.5")) == 1
    change_owner("", ":1.7")
    assert len(send(":1.7")) == 2


EARLY_SIGNAL = """
import os, signal, sys
from gi.repository import GLib
from update_agent.host.dbus import connect

begin = GLib.MainLoop.run
def begin_late(loop):
    os.kill(os.getpid(), int(sys.argv[2]))
    begin(loop)
GLib.MainLoop.run = begin_late
signal.signal(signal.SIGTERM, signal.default_int_handler)
client = connect(sys.argv[1])
try:
    client.run(lambda: False, 20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_right_before_the_loop_begins_is_not_lost(bus: PrivateBus, number: signal.Signals) -> None:
    command = [sys.executable, "-c", EARLY_SIGNAL, bus.address, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
