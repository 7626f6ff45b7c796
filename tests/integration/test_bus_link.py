"""Names that nobody takes away, and a bus that goes away and comes back."""

import time
from collections.abc import Iterator

import pytest
from gi.repository import GLib

from tests.support.dbus import (
    NOBODY,
    PrivateBus,
    RecordingCommands,
    needs_dbus,
    private_bus,
    request_name,
    seen,
    settle,
    wait_until,
)
from update_agent.daemon.bus import BusService
from update_agent.domain.journal_events import JournalEvent
from update_agent.errors import Kind, ServiceError
from update_agent.host.dbus_guard import CALL_BYTES_MAX, CALLS_QUEUED_MAX

pytestmark = needs_dbus

NAMES = ("com.coreos.update1", "org.updateagent1")


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@pytest.fixture
def service(bus: PrivateBus) -> Iterator[BusService]:
    service = BusService(RecordingCommands(), address=bus.address)
    yield service
    service.stop()


def get_status(bus: PrivateBus) -> str:
    return bus.gdbus(NAMES[0], "/com/coreos/update1", f"{NAMES[0]}.Manager.GetStatus").stdout


def get_state(bus: PrivateBus) -> str:
    return bus.busctl("get-property", NAMES[1], "/org/updateagent1", "org.updateagent1.Manager", "State").stdout


@pytest.mark.parametrize("name", NAMES)
def test_name_cannot_be_taken_over_even_by_root(bus: PrivateBus, service: BusService, name: str) -> None:
    service.start()
    thief = bus.connect()
    for flags in (4, 4 | 2, 4 | 2 | 1):
        assert request_name(thief, name, flags) == 3
    assert request_name(thief, name, 2) == 2  # in the queue, for when we leave
    assert get_status(bus).startswith("(int64 0")
    assert get_state(bus) == 's "idle"\n'
    thief.close_sync(None)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_denied_to_other_users(bus: PrivateBus, name: str) -> None:
    result = bus.busctl(
        *("call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", name, "4"), uid=NOBODY
    )
    assert "denied" in result.stderr.lower() or "not allowed to own" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_start_when_the_name_is_taken_raises_and_leaves_nothing(
    bus: PrivateBus, service: BusService, name: str
) -> None:
    other = bus.connect()
    assert request_name(other, name) == 1
    with pytest.raises(ServiceError, match=f"the name {name} is taken") as caught:
        service.start()
    assert (caught.value.kind, caught.value.hint) == (Kind.BUS, f"see who has it: busctl status {name}")
    (free,) = set(NAMES) - {name}
    assert request_name(other, free) == 1
    other.close_sync(None)


def test_start_when_the_policy_denies_the_name_raises() -> None:
    with private_bus(with_policy=False) as bus:
        with pytest.raises(ServiceError, match=r"denies the name com\.coreos\.update1") as caught:
            BusService(RecordingCommands(), address=bus.address).start()
        assert caught.value.kind is Kind.BUS
        assert caught.value.hint is not None


def test_service_without_an_address_takes_the_system_bus(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    service = BusService(RecordingCommands())
    service.start()
    assert get_state(bus) == 's "idle"\n'
    service.stop()


def test_bus_that_is_not_there_at_the_start_is_waited_for(
    bus: PrivateBus, service: BusService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bus.stop()
    service.start()
    (lost,) = seen(caplog.records, JournalEvent.BUS_LOST)
    assert lost.endswith("going on without D-Bus until it is back")
    bus.start()
    wait_until(lambda: bool(seen(caplog.records, JournalEvent.BUS_BACK)))
    assert get_state(bus) == 's "idle"\n'


def test_bus_that_goes_away_and_comes_back_has_everything_again(
    bus: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    commands = RecordingCommands()
    service = BusService(commands, address=bus.address)
    service.start()
    for turn in (1, 2):
        bus.stop()
        wait_until(lambda turn=turn: len(seen(caplog.records, JournalEvent.BUS_LOST)) == turn)  # type: ignore[misc]
        commands.change(state="verifying", warnings=(str(turn),))
        commands.signal(new_size=turn)
        settle()
        bus.start()
        wait_until(lambda turn=turn: len(seen(caplog.records, JournalEvent.BUS_BACK)) == turn)  # type: ignore[misc]
        assert get_status(bus).strip().endswith(f"int64 {turn})")
        assert get_state(bus) == 's "verifying"\n'
        assert bus.busctl("tree", "--list", NAMES[1]).stdout.split()[-1] == "/org/updateagent1/slots/b"
        thief = bus.connect()
        assert request_name(thief, NAMES[0], 6) == 3
        thief.close_sync(None)
    service.stop()


def test_bus_that_is_gone_for_long_is_told_once_and_asked_ever_more_rarely(
    bus: PrivateBus, service: BusService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def note(secs: int, function: object) -> int:
        waits.append(secs)
        return int(GLib.timeout_add(1, function))

    monkeypatch.setattr(GLib, "timeout_add_seconds", note)
    bus.stop()
    service.start()
    wait_until(lambda: waits.count(60) >= 4)
    assert sorted(waits)[:12] == [1, 1, 2, 2, 5, 5, 10, 10, 30, 30, 60, 60]
    assert len(seen(caplog.records, JournalEvent.BUS_LOST)) == 1


def test_name_taken_while_the_bus_was_away_is_tried_again(
    bus: PrivateBus, service: BusService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service.start()
    bus.stop()
    wait_until(lambda: bool(seen(caplog.records, JournalEvent.BUS_LOST)))
    bus.start()
    thief = bus.connect()
    assert request_name(thief, NAMES[1]) == 1
    end = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > end)
    assert seen(caplog.records, JournalEvent.BUS_BACK) == []
    thief.close_sync(None)
    wait_until(lambda: bool(seen(caplog.records, JournalEvent.BUS_BACK)))
    assert get_state(bus) == 's "idle"\n'


def test_stop_sends_what_is_queued_and_gives_the_names_back(bus: PrivateBus) -> None:
    commands = RecordingCommands()
    service = BusService(commands, address=bus.address)
    service.start()
    with bus.python(
        "print(connection.call_sync('org.updateagent1', '/org/updateagent1', 'org.updateagent1.Manager', 'Reset',\n"
        "    None, None, Gio.DBusCallFlags.NONE, 9000, None), flush=True)\n"
    ) as client:
        wait_until(lambda: bool(commands.calls))
        service.stop()  # right after the handler: no main loop any more
        out, err = client.communicate(timeout=10)
    assert (out.strip(), err) == ("()", "")
    other = bus.connect()
    assert [request_name(other, name) for name in NAMES] == [1, 1]
    other.close_sync(None)


def test_stop_without_a_bus_or_twice_is_fine(bus: PrivateBus, service: BusService) -> None:
    bus.stop()
    service.start()
    service.stop()
    service.stop()


def test_calls_beyond_the_limit_are_refused_before_they_are_queued(bus: PrivateBus) -> None:
    """The main loop does not run while they come in, as in the middle of something long."""
    commands = RecordingCommands()
    service = BusService(commands, address=bus.address)
    service.start()
    target = "'com.coreos.update1', '/com/coreos/update1', 'com.coreos.update1.Manager', 'AttemptUpdate'"
    flood = (
        "for _ in range(1000):\n"
        f"    message = Gio.DBusMessage.new_method_call({target})\n"
        "    message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)\n"
        "    connection.send_message(message, Gio.DBusSendMessageFlags.NONE)\n"
        "try:\n"
        f"    connection.call_sync({target}, None, None, Gio.DBusCallFlags.NONE, 9000, None)\n"
        "except GLib.Error as error:\n"
        "    print(Gio.dbus_error_get_remote_error(error))\n"
    )
    with bus.python(flood) as client:
        assert client.communicate(timeout=20)[0] == "org.freedesktop.DBus.Error.LimitsExceeded\n"
    assert commands.calls == []
    assert get_status(bus).startswith("(int64 0")  # somebody else is served
    settle()
    assert len(commands.calls) == CALLS_QUEUED_MAX
    service.stop()


@pytest.mark.parametrize(
    ("length", "error"), [(CALL_BYTES_MAX, "LimitsExceeded"), (CALL_BYTES_MAX // 2, "InvalidArgs")]
)
def test_call_with_large_arguments_is_refused_before_it_is_queued(bus: PrivateBus, length: int, error: str) -> None:
    service = BusService(RecordingCommands(), address=bus.address)
    service.start()
    call = (
        "try:\n"
        "    connection.call_sync('org.updateagent1', '/org/updateagent1', 'org.updateagent1.Manager', 'Install',\n"
        f"        GLib.Variant('(a{{sv}})', ({{'x': GLib.Variant('s', 'x' * {length})}},)),\n"
        "        None, Gio.DBusCallFlags.NONE, 9000, None)\n"
        "except GLib.Error as error:\n"
        "    print(Gio.dbus_error_get_remote_error(error))\n"
    )
    with bus.python(call, uid=NOBODY) as client:
        wait_until(lambda: client.poll() is not None)
        assert client.communicate(timeout=20)[0] == f"org.freedesktop.DBus.Error.{error}\n"
    service.stop()
