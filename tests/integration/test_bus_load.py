"""What many calls do to the memory and to others, measured from outside on a process of its own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dbus import NOBODY, PrivateBus, bus_server, needs_dbus, private_bus, resident_kib

pytestmark = [needs_dbus, pytest.mark.slow]

# Keeps some calls under way, as many clients at once would.
PIPELINE = """
total, name, path, interface, method = int(ARGS[0]), *ARGS[1:5]
values = GLib.Variant("(s)", (ARGS[5],)) if ARGS[5:] else None
loop, sent, done = GLib.MainLoop(), 0, 0
def send():
    global sent
    sent += 1
    connection.call(name, path, interface, method, values, None, Gio.DBusCallFlags.NONE, 30000, None, answered)
def answered(c, result):
    global done
    try: c.call_finish(result)
    except GLib.Error as error: print(error, file=sys.stderr); loop.quit(); return
    done += 1
    if sent < total: send()
    elif done == total: loop.quit()
for _ in range(min(total, 40)): send()
begin = time.monotonic()
loop.run()
print(total / (time.monotonic() - begin))
sys.exit(done != total)
"""

# Never reads an answer.
FLOOD = """
for number in range(int(ARGS[0])):
    message = Gio.DBusMessage.new_method_call(*ARGS[2:6])
    message.set_body(GLib.Variant("(s)", (ARGS[6],)))
    if ARGS[1] == "noreply":
        message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
    connection.send_message(message, Gio.DBusSendMessageFlags.NONE)
    if number == 1000: print("flooding", flush=True)
connection.flush_sync(None)
print("done", flush=True)
"""

# GDBus makes an object of every string: each call takes some twenty times its length.
LARGE = """
import struct
count = 100000
texts = bytes(count) + b"".join(struct.pack("<I", end + 1) for end in range(count))
options = {"payload": GLib.Variant.new_from_bytes(GLib.VariantType("as"), GLib.Bytes.new(texts), True)}
for _ in range(int(ARGS[0])):
    message = Gio.DBusMessage.new_method_call(*ARGS[1:5])
    message.set_body(GLib.Variant("(a{sv})", (options,)))
    message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
    connection.send_message(message, Gio.DBusSendMessageFlags.NONE)
connection.flush_sync(None)
connection.call_sync(*ARGS[5:9], None, None, Gio.DBusCallFlags.NONE, 30000, None)
print(0)
"""

PROBE = """
worst = 0
for _ in range(20):
    begin = time.monotonic()
    connection.call_sync(*ARGS, None, None, Gio.DBusCallFlags.NONE, 30000, None)
    worst = max(worst, time.monotonic() - begin)
    time.sleep(0.02)
print(worst)
"""

GET_STATUS = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager", "GetStatus")
GET_ALL = (
    *("org.updateagent1", "/org/updateagent1", "org.freedesktop.DBus.Properties", "GetAll"),
    "org.updateagent1.Manager",
)
LIMIT_SECS = 240


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@pytest.fixture
def server(bus: PrivateBus) -> Iterator[subprocess.Popen[str]]:
    with bus_server(bus) as server:
        yield server


def run(bus: PrivateBus, script: str, *args: str, uid: int = 0) -> float:
    with bus.python(script, *args, uid=uid) as process:
        out, err = process.communicate(timeout=LIMIT_SECS)
    assert process.returncode == 0, err
    return float(out)


@pytest.mark.parametrize(("count", "call"), [(100_000, GET_STATUS), (10_000, GET_ALL)])
def test_many_calls_leave_the_memory_as_it_was(
    bus: PrivateBus, server: subprocess.Popen[str], count: int, call: tuple[str, ...]
) -> None:
    run(bus, PIPELINE, "2000", *call)
    before = resident_kib(server.pid)
    rate = run(bus, PIPELINE, str(count), *call)
    grown = resident_kib(server.pid) - before
    print(f"{rate:.0f} calls/s, {grown} KiB more")
    assert grown <= 2048
    assert rate > 300  # far below what it does, for machines that have other things to do


def test_critical_of_glib_is_fatal_and_does_not_happen(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G_DEBUG", "fatal-criticals")
    monkeypatch.setenv("MALLOC_PERTURB_", "165")  # freed memory is not what it was
    with bus_server(bus) as server:
        run(bus, PIPELINE, "3000", *GET_STATUS)
        run(bus, PIPELINE, "500", *GET_ALL)
        assert bus_alive(bus)
        assert server.poll() is None


def bus_alive(bus: PrivateBus) -> bool:
    return run(bus, PROBE, *GET_STATUS) < LIMIT_SECS


def test_flood_of_a_caller_that_reads_nothing_does_not_delay_others(
    bus: PrivateBus, server: subprocess.Popen[str]
) -> None:
    """By an ordinary user, on the interface that everybody may read."""
    before = resident_kib(server.pid)
    with bus.python(FLOOD, "100000", "reply", *GET_ALL, uid=NOBODY) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "flooding\n"
        worst = run(bus, PROBE, *GET_STATUS)
        still_flooding = flood.poll() is None
        flood.communicate(timeout=LIMIT_SECS)
    print(f"worst answer {worst:.3f} s, {resident_kib(server.pid) - before} KiB more")
    assert still_flooding
    assert worst < 1
    assert resident_kib(server.pid) - before <= 4096


def test_flood_that_wants_no_answers_is_refused_and_not_queued(bus: PrivateBus, server: subprocess.Popen[str]) -> None:
    """The bus does not limit these; those who come after wait until they are thrown away, and the memory stays."""
    before = resident_kib(server.pid)
    with bus.python(FLOOD, "100000", "noreply", *GET_ALL, uid=NOBODY) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == "flooding\n"
        worst = run(bus, PROBE, *GET_STATUS)
        flood.communicate(timeout=LIMIT_SECS)
    print(f"worst answer {worst:.3f} s, {resident_kib(server.pid) - before} KiB more")
    assert resident_kib(server.pid) - before <= 4096
    assert server.poll() is None


def test_large_calls_of_anybody_are_refused_and_not_queued(bus: PrivateBus, server: subprocess.Popen[str]) -> None:
    """Whoever may only read can still send; what he sends must not become the memory of the service."""
    before = peak_kib(server.pid)
    install = (*GET_ALL[:2], GET_ALL[4], "Install")
    peer = (*GET_ALL[:2], "org.freedesktop.DBus.Peer", "Ping")
    run(bus, LARGE, "20", *install, *peer, uid=NOBODY)
    grown = peak_kib(server.pid) - before
    print(f"{grown} KiB at most")
    assert grown < 100 * 1024
    assert bus_alive(bus)


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
