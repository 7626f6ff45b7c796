"""`org.updateagent1`: what it shows, what it tells, who may call it."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from gi.repository import Gio

from tests.support.dbus import (
    NOBODY,
    SLOT_B,
    PrivateBus,
    RecordingCommands,
    StandInPolkit,
    needs_dbus,
    private_bus,
    seen,
    settle,
    wait_until,
)
from update_agent.api.node import NodeStatus
from update_agent.daemon.bus import BusService
from update_agent.daemon.ports import InstallOptions
from update_agent.domain.journal_events import JournalEvent
from update_agent.domain.slots import SlotName
from update_agent.domain.state import BadRelease, LastError
from update_agent.errors import Kind, RefusedError

pytestmark = needs_dbus

NAME, PATH, INTERFACE = "org.updateagent1", "/org/updateagent1", "org.updateagent1.Manager"
SLOT = "org.updateagent1.Slot"
POLKIT_SECS = 0.5

METHODS = [
    ("Check", (), ("check",)),
    ("Install", ("@a{sv} {}",), ("install", InstallOptions())),
    ("Cancel", (), ("cancel",)),
    ("Reset", (), ("reset",)),
    ("Rollback", (), ("rollback",)),
    ("MarkSlot", ("B", "bad"), ("mark_slot", SlotName.B, "bad")),
    ("Reload", (), ("reload",)),
]
ACTIONS = ["check", "install", "cancel", "reset", "rollback", "mark-slot", "reload"]


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@pytest.fixture
def commands() -> RecordingCommands:
    return RecordingCommands()


@pytest.fixture(autouse=True)
def service(bus: PrivateBus, commands: RecordingCommands) -> Iterator[BusService]:
    service = BusService(commands, address=bus.address, polkit_timeout_secs=POLKIT_SECS)
    service.start()
    yield service
    service.stop()


@pytest.fixture
def polkit(bus: PrivateBus) -> Iterator[StandInPolkit]:
    polkit = StandInPolkit(bus, (True, False))
    yield polkit
    polkit.close()


@pytest.fixture
def listen(bus: PrivateBus) -> Iterator[Callable[[str], list[Any]]]:
    """Start to collect a signal: (path, values) each."""
    connection = bus.connect()

    def start(signal: str) -> list[Any]:
        heard: list[Any] = []

        def note(_c: Any, _sender: str, path: str, _interface: str, _signal: str, values: Any) -> None:
            heard.append((path, *values.unpack()))

        connection.signal_subscribe(NAME, None, signal, None, None, Gio.DBusSignalFlags.NONE, note)
        synchronize(connection)
        return heard

    yield start
    connection.close_sync(None)


def synchronize(connection: Any) -> None:
    """Everything sent before has been seen by the bus, and what it sent before is here."""
    done: list[Any] = []
    connection.call(
        "org.freedesktop.DBus",
        "/",
        "org.freedesktop.DBus",
        "GetId",
        None,
        None,
        Gio.DBusCallFlags.NONE,
        -1,
        None,
        lambda *_: done.append(1),
    )
    wait_until(lambda: bool(done))


def call(bus: PrivateBus, method: str, *args: str, uid: int = 0) -> str:
    result = bus.gdbus(NAME, PATH, f"{INTERFACE}.{method}", *args, uid=uid)
    return (result.stdout or result.stderr).strip()


def get_all(bus: PrivateBus, path: str, interface: str, uid: int = 0) -> dict[str, Any]:
    """By busctl."""
    result = bus.busctl(
        "--json=short", "call", NAME, path, "org.freedesktop.DBus.Properties", "GetAll", "s", interface, uid=uid
    )
    return {name: value["data"] for name, value in json.loads(result.stdout)["data"][0].items()}


def test_properties_are_those_of_the_status_and_readable_by_all(bus: PrivateBus, commands: RecordingCommands) -> None:
    node = NodeStatus(
        state="downloading",
        phase="download",
        progress_done_bytes=3,
        progress_total_bytes=1 << 40,
        pending_slot="B",
        last_check_at=1_700_000_000,
        last_error=LastError(kind="payload-hash", message="m", hint="h", at=5, omaha_code=10),
        bad_releases=(BadRelease(version="1", reason="r", at=2),),
        warnings=("w",),
        slots=(replace(SLOT_B, version="2"),),
    )
    commands.change(**{name: getattr(node, name) for name in node.__dataclass_fields__})
    values = get_all(bus, PATH, INTERFACE, NOBODY)
    slots = [get_all(bus, f"{PATH}/slots/b", SLOT, NOBODY)]
    assert NodeStatus.from_properties(values, slots) == node


def test_get_of_one_property_works(bus: PrivateBus) -> None:
    assert bus.busctl("get-property", NAME, PATH, INTERFACE, "State", "RebootPending").stdout == 's "idle"\nb false\n'


def test_set_of_a_property_is_refused(bus: PrivateBus, commands: RecordingCommands) -> None:
    result = bus.busctl("set-property", NAME, PATH, INTERFACE, "State", "s", "x")
    assert result.returncode != 0
    assert commands.node.state == "idle"


def test_slots_are_managed_objects(bus: PrivateBus) -> None:
    result = bus.busctl(
        "--json=short", "call", NAME, PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", uid=NOBODY
    )
    (objects,) = json.loads(result.stdout)["data"]
    assert sorted(objects) == [f"{PATH}/slots/a", f"{PATH}/slots/b"]
    assert objects[f"{PATH}/slots/a"][SLOT]["State"]["data"] == "booted"


def test_slots_come_and_go_with_signals(
    bus: PrivateBus, commands: RecordingCommands, listen: Callable[[str], list[Any]]
) -> None:
    removed, added = listen("InterfacesRemoved"), listen("InterfacesAdded")
    slots = commands.node.slots
    commands.change(slots=slots[:1])
    wait_until(lambda: removed == [(PATH, f"{PATH}/slots/b", [SLOT])])
    assert "UnknownMethod" in bus.gdbus(NAME, f"{PATH}/slots/b", "org.freedesktop.DBus.Properties.GetAll", SLOT).stderr
    commands.change(slots=slots)
    wait_until(lambda: len(added) == 1)
    assert added[0][1] == f"{PATH}/slots/b"
    assert added[0][2][SLOT]["Name"] == "B"


def test_properties_changed_carries_only_what_changed(
    commands: RecordingCommands, listen: Callable[[str], list[Any]]
) -> None:
    heard = listen("PropertiesChanged")
    commands.change(state="checking-for-update", last_check_at=5)
    commands.change(slots=(commands.node.slots[0], replace(SLOT_B, tries=1)))
    wait_until(lambda: len(heard) == 2)
    assert heard == [
        (PATH, INTERFACE, {"State": "checking-for-update", "LastCheckAt": 5}, []),
        (f"{PATH}/slots/b", SLOT, {"Tries": 1}, []),
    ]


def test_properties_changed_is_not_sent_when_nothing_changed(
    commands: RecordingCommands, listen: Callable[[str], list[Any]]
) -> None:
    heard = listen("PropertiesChanged")
    for _ in range(3):
        commands.change(state="idle")
    commands.change(state="verifying")
    wait_until(lambda: bool(heard))
    assert len(heard) == 1


def test_progress_is_told_four_times_a_second_and_the_last_one_is_not_lost(
    commands: RecordingCommands, listen: Callable[[str], list[Any]]
) -> None:
    heard = listen("PropertiesChanged")
    begin = time.monotonic()
    step = 0

    def advance() -> bool:
        nonlocal step
        step += 1
        commands.change(progress_done_bytes=step, rate_bytes_per_sec=step)
        return time.monotonic() - begin > 1.1

    wait_until(advance)
    wait_until(lambda: bool(heard) and heard[-1][2].get("ProgressDoneBytes") == step)
    assert 3 <= len(heard) <= 6
    assert step > 50


def test_change_of_state_is_told_at_once_with_the_progress_so_far(
    commands: RecordingCommands, listen: Callable[[str], list[Any]]
) -> None:
    heard = listen("PropertiesChanged")
    commands.change(progress_done_bytes=1)
    commands.change(progress_done_bytes=2)
    commands.change(state="finalizing")
    wait_until(lambda: len(heard) == 2)
    assert [values for _, _, values, _ in heard] == [
        {"ProgressDoneBytes": 1},
        {"ProgressDoneBytes": 2, "State": "finalizing"},
    ]


@pytest.mark.parametrize(("method", "args", "expected"), METHODS)
def test_root_may_call_everything_without_polkit(
    bus: PrivateBus, commands: RecordingCommands, method: str, args: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    assert call(bus, method, *args) == ("(true,)" if method == "Cancel" else "()")
    assert commands.calls == [expected]


@pytest.mark.parametrize(("method", "args", "expected"), METHODS)
def test_others_may_call_nothing_without_polkit(
    bus: PrivateBus, commands: RecordingCommands, method: str, args: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    assert expected
    answer = call(bus, method, *args, uid=NOBODY)
    assert f"org.updateagent1.Error.NotAuthorized: {method}: not allowed for the user with uid {NOBODY}" in answer
    assert answer.endswith("hint: run it as root, or have an administrator authorize it")
    assert commands.calls == []


@pytest.mark.parametrize(
    ("method", "args", "expected", "action"),
    [(*each, action) for each, action in zip(METHODS, ACTIONS, strict=True)],
)
def test_others_may_call_what_polkit_allows(
    bus: PrivateBus,
    commands: RecordingCommands,
    polkit: StandInPolkit,
    method: str,
    args: tuple[str, ...],
    expected: tuple[Any, ...],
    action: str,
) -> None:
    assert not call(bus, method, *args, uid=NOBODY).startswith("Error")
    assert commands.calls == [expected]
    ((sender, asked, is_interactive),) = polkit.questions
    assert sender.startswith(":1.")
    assert (asked, is_interactive) == (f"org.updateagent1.{action}", False)


@pytest.mark.parametrize(
    ("answer", "text"),
    [((False, False), "polkit says no"), ((False, True), "polkit wants to see a person's password first")],
)
def test_others_are_refused_when_polkit_says_no(
    bus: PrivateBus,
    commands: RecordingCommands,
    polkit: StandInPolkit,
    caplog: pytest.LogCaptureFixture,
    answer: tuple[bool, bool],
    text: str,
) -> None:
    polkit.answer = answer
    for _ in range(2):
        assert text in call(bus, "Check", uid=NOBODY)
    assert commands.calls == []
    events = seen(caplog.records, JournalEvent.ACCESS_DENIED)
    assert events == [f"D-Bus: check denied to the user with uid {NOBODY}: {text}"]  # once, not twice


def test_polkit_that_hangs_refuses_and_stops_nobody_else(
    bus: PrivateBus, commands: RecordingCommands, polkit: StandInPolkit
) -> None:
    polkit.answer = None
    with bus.spawn(
        *("setpriv", f"--reuid={NOBODY}", "--clear-groups", "gdbus", "call", "--system", "--dest", NAME),
        *("--object-path", PATH, "--method", f"{INTERFACE}.Check"),
    ) as waiting:
        wait_until(lambda: bool(polkit.questions))
        assert call(bus, "Cancel") == "(true,)"  # root, meanwhile
        assert waiting.poll() is None
        wait_until(lambda: waiting.poll() is not None)
        assert waiting.stderr is not None
        assert "NotAuthorized: Check: not allowed" in waiting.stderr.read()
    assert commands.calls == [("cancel",)]
    wait_until(lambda: len(polkit.cancelled) == 1)


def test_interactive_callers_are_told_to_polkit(bus: PrivateBus, polkit: StandInPolkit) -> None:
    bus.busctl("--allow-interactive-authorization=yes", "call", NAME, PATH, INTERFACE, "Check", uid=NOBODY)
    bus.busctl("--allow-interactive-authorization=no", "call", NAME, PATH, INTERFACE, "Check", uid=NOBODY)
    assert [each[2] for each in polkit.questions] == [True, False]


def test_payload_is_for_root_only(bus: PrivateBus, commands: RecordingCommands, polkit: StandInPolkit) -> None:
    option = "{'payload': <'/tmp/p'>}"
    assert "NotAuthorized: Install: " in call(bus, "Install", option, uid=NOBODY)
    assert "only root" in call(bus, "Install", option, uid=NOBODY)
    assert polkit.questions == []
    assert commands.calls == []
    assert call(bus, "Install", option) == "()"
    assert commands.calls == [("install", InstallOptions(payload="/tmp/p"))]


def test_one_user_cannot_have_many_questions_open(
    bus: PrivateBus, commands: RecordingCommands, polkit: StandInPolkit
) -> None:
    polkit.answer = None
    script = (
        "loop, answers = GLib.MainLoop(), []\n"
        "def answered(c, result):\n"
        "    try: c.call_finish(result)\n"
        "    except GLib.Error as error: answers.append(Gio.dbus_error_get_remote_error(error))\n"
        "    if len(answers) == 20: loop.quit()\n"
        f"for _ in range(20): connection.call({NAME!r}, {PATH!r}, {INTERFACE!r}, 'Check', None, None,\n"
        "    Gio.DBusCallFlags.NONE, 9000, None, answered)\n"
        "loop.run()\n"
        "print(*answers)\n"
    )
    with bus.python(script, uid=NOBODY) as flood:
        wait_until(lambda: flood.poll() is not None)
        assert flood.stdout is not None
        answers = flood.stdout.read().split()
    assert answers.count("org.freedesktop.DBus.Error.LimitsExceeded") == 16
    assert answers.count("org.updateagent1.Error.NotAuthorized") == 4
    assert len(polkit.questions) == 4
    assert commands.calls == []


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("Install", ("{'force': <true>}",)),
        ("Install", ("{'allow_bad': <'yes'>}",)),
        ("MarkSlot", ("C", "good")),
        ("MarkSlot", ("A", "better")),
        ("MarkSlot", ("A",)),
    ],
)
def test_wrong_arguments_are_refused(
    bus: PrivateBus, commands: RecordingCommands, method: str, args: tuple[str, ...]
) -> None:
    result = bus.gdbus(NAME, PATH, f"{INTERFACE}.{method}", *args)
    assert result.returncode == 1
    assert "InvalidArgs" in result.stderr or "Error parsing" in result.stderr or "parameter" in result.stderr
    assert commands.calls == []


def test_error_of_the_agent_is_told_by_kind_with_its_hint(bus: PrivateBus, commands: RecordingCommands) -> None:
    commands.error = RefusedError(Kind.WRONG_STATE, "check: an update is under way", hint="wait for its end")
    assert call(bus, "Check") == (
        "Error: GDBus.Error:org.updateagent1.Error.WrongState: check: an update is under way\nhint: wait for its end"
    )


def test_error_after_polkit_said_yes_is_told_likewise(
    bus: PrivateBus, commands: RecordingCommands, polkit: StandInPolkit, caplog: pytest.LogCaptureFixture
) -> None:
    commands.error = RefusedError(Kind.BUSY, "no")
    assert "org.updateagent1.Error.Busy: no" in call(bus, "Check", uid=NOBODY)
    commands.error = ZeroDivisionError("bug")
    assert "org.freedesktop.DBus.Error.Failed: internal error" in call(bus, "Check", uid=NOBODY)
    assert caplog.text.count("which is a bug") == 1
    assert len(polkit.questions) == 2


def test_everything_answered_is_freed(bus: PrivateBus, service: BusService) -> None:
    for _ in range(3):
        call(bus, "Check")
        call(bus, "Check", uid=NOBODY)
    settle()
    assert service.unfreed_calls == 0
