"""update_engine's interface, driven by programs that share nothing with the service."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.dbus import (
    NOBODY,
    SOMEBODY,
    PrivateBus,
    RecordingCommands,
    needs_dbus,
    private_bus,
    wait_until,
)
from update_agent.daemon.bus import BusService
from update_agent.errors import Kind, RefusedError

pytestmark = needs_dbus

NAME, PATH, INTERFACE = "com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"

STATUS: dict[str, Any] = {
    "last_checked_time": 1_700_000_000,
    "progress": 0.25,
    "current_operation": "UPDATE_STATUS_DOWNLOADING",
    "new_version": "4230.1.0",
    "new_size": 5_000_000_000,
}


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    # The policy's user core does not exist here; nobody plays it.
    with private_bus(core="nobody") as bus:
        yield bus


@pytest.fixture
def commands() -> RecordingCommands:
    return RecordingCommands()


@pytest.fixture(autouse=True)
def service(bus: PrivateBus, commands: RecordingCommands) -> Iterator[BusService]:
    service = BusService(commands, address=bus.address)
    service.start()
    yield service
    service.stop()


def call(bus: PrivateBus, method: str, *args: str, uid: int = 0) -> str:
    """What gdbus prints, on either stream."""
    result = bus.gdbus(NAME, PATH, method if "." in method else f"{INTERFACE}.{method}", *args, uid=uid)
    return (result.stdout or result.stderr).strip()


def test_introspection_has_what_update_engine_lists(bus: PrivateBus) -> None:
    result = bus.busctl("--json=short", "call", NAME, PATH, "org.freedesktop.DBus.Introspectable", "Introspect")
    text = result.stdout.replace('\\"', '"')
    assert "<!--" not in text
    assert re.findall(r'<interface name="([\w.]+)"', text) == [
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.Properties",
        INTERFACE,
    ]
    manager = text[text.index(f'"{INTERFACE}"') :]
    assert re.findall(r'<(method|signal) name="(\w+)"', manager) == [
        ("method", "GetStatus"),
        ("method", "ResetStatus"),
        ("method", "AttemptUpdate"),
        ("signal", "StatusUpdate"),
    ]
    assert re.findall(r'<arg type="(\w)"(?: name="(\w+)" direction="out")?/>', manager) == [
        ("x", "last_checked_time"),
        ("d", "progress"),
        ("s", "current_operation"),
        ("s", "new_version"),
        ("x", "new_size"),
        *(("x", ""), ("d", ""), ("s", ""), ("s", ""), ("x", "")),
    ]


def test_introspection_is_understood_by_busctl(bus: PrivateBus) -> None:
    lines = bus.busctl("introspect", NAME, PATH, INTERFACE).stdout.splitlines()[1:]
    assert [tuple(line.split()[:4]) for line in lines] == [
        (".AttemptUpdate", "method", "-", "-"),
        (".GetStatus", "method", "-", "xdssx"),
        (".ResetStatus", "method", "-", "-"),
        (".StatusUpdate", "signal", "xdssx", "-"),
    ]


def test_get_status_before_anything_happened_is_idle(bus: PrivateBus) -> None:
    assert call(bus, "GetStatus") == "(int64 0, 0.0, 'UPDATE_STATUS_IDLE', '0.0.0', int64 0)"


def test_get_status_follows_the_signal(bus: PrivateBus, commands: RecordingCommands) -> None:
    commands.signal(**STATUS)
    expected = "(int64 1700000000, 0.25, 'UPDATE_STATUS_DOWNLOADING', '4230.1.0', int64 5000000000)"
    assert call(bus, "GetStatus") == expected


def test_get_status_follows_a_change_that_has_no_signal(bus: PrivateBus, commands: RecordingCommands) -> None:
    commands.signal(**STATUS)
    commands.compat = type(commands.compat)(**{**STATUS, "progress": 0.251})
    commands.change(progress_done_bytes=1)
    assert "0.251" in call(bus, "GetStatus")


def test_attempt_update_reaches_the_agent(bus: PrivateBus, commands: RecordingCommands) -> None:
    assert call(bus, "AttemptUpdate") == "()"
    assert commands.calls == [("attempt_update",)]


def test_reset_status_reaches_the_agent(bus: PrivateBus, commands: RecordingCommands) -> None:
    assert call(bus, "ResetStatus") == "()"
    assert commands.calls == [("reset",)]


def test_reset_status_that_is_refused_is_the_error_of_upstream(bus: PrivateBus, commands: RecordingCommands) -> None:
    commands.error = RefusedError(Kind.WRONG_STATE, "reset: an update is under way")
    assert call(bus, "ResetStatus") == (
        "Error: GDBus.Error:org.freedesktop.DBus.GLib.ErrorError: "
        "Method invoked for ResetStatus returned FALSE but did not set error"
    )


def test_bug_in_the_agent_is_an_error_for_the_caller_only(
    bus: PrivateBus, commands: RecordingCommands, caplog: pytest.LogCaptureFixture
) -> None:
    commands.error = ZeroDivisionError("bug")
    assert "org.freedesktop.DBus.Error.Failed: internal error" in call(bus, "ResetStatus")
    assert "which is a bug" in caplog.text
    commands.error = None
    assert call(bus, "GetStatus").startswith("(int64 0")


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("GetNothing", ()),
        ("org.freedesktop.DBus.Properties.GetAll", (INTERFACE,)),
        ("org.freedesktop.DBus.Properties.Get", (INTERFACE, "State")),
        ("org.freedesktop.DBus.ObjectManager.GetManagedObjects", ()),
        ("org.updateagent1.Manager.Check", ()),
    ],
)
def test_what_is_not_there_is_an_unknown_method(bus: PrivateBus, method: str, args: tuple[str, ...]) -> None:
    assert UNKNOWN_METHOD in call(bus, method, *args)


@pytest.mark.parametrize("method", ["GetStatus", "ResetStatus", "AttemptUpdate"])
def test_method_with_arguments_is_an_unknown_one(bus: PrivateBus, commands: RecordingCommands, method: str) -> None:
    said = bus.busctl("call", NAME, PATH, INTERFACE, method, "i", "5")
    assert said.returncode != 0
    assert "no method of that name takes arguments" in said.stderr
    client = bus.python(
        "try:\n"
        "    connection.call_sync(*ARGS, GLib.Variant('(i)', (5,)), None, 0, 5000, None)\n"
        "except GLib.Error as error:\n"
        "    print(Gio.dbus_error_get_remote_error(error))\n",
        NAME,
        PATH,
        INTERFACE,
        method,
    )
    with client as process:
        wait_until(lambda: process.poll() is not None)
        assert process.communicate()[0].strip() == UNKNOWN_METHOD
    assert commands.calls == []


def test_peer_ping_works(bus: PrivateBus) -> None:
    assert call(bus, "org.freedesktop.DBus.Peer.Ping") == "()"


@pytest.mark.parametrize("method", ["GetStatus", "ResetStatus", "AttemptUpdate"])
def test_policy_lets_core_call_the_three_methods(bus: PrivateBus, method: str) -> None:
    assert not call(bus, method, uid=NOBODY).startswith("Error")


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("org.freedesktop.DBus.Introspectable.Introspect", ()),
        ("org.freedesktop.DBus.Properties.GetAll", (INTERFACE,)),
        ("org.freedesktop.DBus.Peer.Ping", ()),
        ("GetNothing", ()),
    ],
)
def test_policy_denies_core_everything_else(bus: PrivateBus, method: str, args: tuple[str, ...]) -> None:
    assert "AccessDenied" in call(bus, method, *args, uid=NOBODY)


@pytest.mark.parametrize("method", ["GetStatus", "ResetStatus", "AttemptUpdate"])
def test_policy_denies_other_users_everything(bus: PrivateBus, commands: RecordingCommands, method: str) -> None:
    assert "AccessDenied" in call(bus, method, uid=SOMEBODY)
    assert commands.calls == []


def test_policy_of_this_name_does_not_reach_the_other_name(bus: PrivateBus) -> None:
    """Two names on one connection would share what either file denies."""
    for uid in (NOBODY, SOMEBODY):
        answer = bus.gdbus(
            "org.updateagent1",
            "/org/updateagent1",
            "org.freedesktop.DBus.Properties.Get",
            "org.updateagent1.Manager",
            "State",
            uid=uid,
        )
        assert answer.stdout.strip() == "(<'idle'>,)"


def test_other_users_cannot_come_in_by_the_other_name(bus: PrivateBus, commands: RecordingCommands) -> None:
    result = bus.gdbus("org.updateagent1", PATH, f"{INTERFACE}.ResetStatus", uid=NOBODY)
    assert result.returncode == 1
    assert commands.calls == []


def test_signal_has_the_five_values_and_reaches_every_user(bus: PrivateBus, commands: RecordingCommands) -> None:
    script = (
        "loop = GLib.MainLoop()\n"
        "def heard(c, sender, path, interface, signal, values):\n"
        "    print(path, interface, signal, values.get_type_string(), values.print_(False), flush=True)\n"
        "    loop.quit()\n"
        "connection.signal_subscribe(None, None, 'StatusUpdate', None, None, Gio.DBusSignalFlags.NONE, heard)\n"
        "connection.call_sync('org.freedesktop.DBus', '/', 'org.freedesktop.DBus', 'GetId', None, None,\n"
        "    Gio.DBusCallFlags.NONE, -1, None)\n"
        "print('ready', flush=True)\n"
        "GLib.timeout_add_seconds(20, loop.quit)\n"
        "loop.run()\n"
    )
    with bus.python(script, uid=NOBODY) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        commands.signal(**STATUS)
        wait_until(lambda: listener.poll() is not None)
        heard = listener.stdout.read().strip()
    values = "(1700000000, 0.25, 'UPDATE_STATUS_DOWNLOADING', '4230.1.0', 5000000000)"
    assert heard == f"{PATH} {INTERFACE} StatusUpdate (xdssx) {values}"


def test_version_that_d_bus_cannot_carry_is_shown_all_the_same(bus: PrivateBus, commands: RecordingCommands) -> None:
    commands.signal(new_version="1\0\udcff")
    assert "'1??'" in call(bus, "GetStatus")
