"""systemd and logind as this project needs them, on a private bus, obeying a file.

Run as a program it is the service: `python -m tests.support.stand_ins ADDRESS FOLDER`. It reads `FOLDER/machine.json`
at every call and writes a line to `FOLDER/calls` for every reboot that was asked for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio, GLib

_UNIT: Final = "a(ssssssouso)"
_INTERFACES: Final = f"""
<node>
  <interface name='org.freedesktop.systemd1.Manager'>
    <method name='ListUnitsByNames'><arg type='as' direction='in'/><arg type='{_UNIT}' direction='out'/></method>
    <method name='ListUnitsFiltered'><arg type='as' direction='in'/><arg type='{_UNIT}' direction='out'/></method>
  </interface>
  <interface name='org.freedesktop.login1.Manager'>
    <method name='Reboot'><arg type='b' direction='in'/></method>
    <method name='CanReboot'><arg type='s' direction='out'/></method>
  </interface>
</node>"""
_SERVICES: Final = (
    ("org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
    ("org.freedesktop.login1", "/org/freedesktop/login1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the stand-ins say.

    Attributes:
        target: active state of every unit that is asked for.
        load: its load state; empty to answer with no unit at all.
        failed: names of failed units.
        reboot: `yes`, `hang`, or the name of the error to answer with.
        can_reboot: the answer to CanReboot.
    """

    target: str = "active"
    load: str = "loaded"
    failed: tuple[str, ...] = ()
    reboot: str = "yes"
    can_reboot: str = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateBus:
    """A bus with both stand-ins on it.

    Attributes:
        address: of the bus.
        folder: where they look.
    """

    address: str
    folder: Path

    def be(self, machine: Machine) -> None:
        """Say this from now on."""
        beside = self.folder / "machine.json.new"
        beside.write_text(json.dumps(asdict(machine)))
        beside.replace(self.folder / "machine.json")

    def reboots(self) -> int:
        """How often a reboot was asked for."""
        calls = self.folder / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@contextmanager
def bus_without_services(folder: Path) -> Iterator[str]:
    """A private dbus-daemon; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["dbus-daemon", "--session", "--nofork", "--nosyslog", "--print-address", f"--address=unix:dir={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().strip()
        finally:
            daemon.terminate()


@contextmanager
def private_bus(folder: Path, machine: Machine | None = None) -> Iterator[PrivateBus]:
    """A private dbus-daemon with systemd and logind on it."""
    with bus_without_services(folder) as address:
        bus = PrivateBus(address=address, folder=folder)
        bus.be(machine or Machine())
        command = [sys.executable, "-m", "tests.support.stand_ins", address, str(folder)]
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as service:
            try:
                assert service.stdout is not None
                assert service.stdout.readline() == "ready\n"
                yield bus
            finally:
                service.terminate()


class _Service:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unanswered: list[Any] = []

    def called(self, *call: Any) -> None:
        method, parameters, invocation = call[4], call[5].unpack(), call[6]
        machine = Machine(**json.loads((self._folder / "machine.json").read_text()))
        if method == "Reboot":
            self._reboot(machine.reboot, invocation)
        elif method == "CanReboot":
            invocation.return_value(GLib.Variant("(s)", (machine.can_reboot,)))
        elif method == "ListUnitsByNames":
            units = [_unit(name, machine.load, machine.target) for name in parameters[0] if machine.load]
            invocation.return_value(GLib.Variant(f"({_UNIT})", (units,)))
        else:
            units = [_unit(name, "loaded", "failed") for name in machine.failed]
            invocation.return_value(GLib.Variant(f"({_UNIT})", (units,)))

    def _reboot(self, answer: str, invocation: Any) -> None:
        with (self._folder / "calls").open("a") as file:
            file.write("reboot\n")
        if answer == "yes":
            invocation.return_value(None)
        elif answer == "hang":
            self._unanswered.append(invocation)
        else:
            invocation.return_dbus_error(answer, "the stand-in does not want to")


def _unit(name: str, load: str, active: str) -> tuple[object, ...]:
    return (name, "", load, active, "", "", "/org/freedesktop/systemd1/unit/x", 0, "", "/")


def _serve(address: str, folder: Path) -> None:
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
    service = _Service(folder)
    interfaces = Gio.DBusNodeInfo.new_for_xml(_INTERFACES).interfaces
    for (name, path), interface in zip(_SERVICES, interfaces, strict=True):
        connection.register_object(path, interface, service.called, None, None)
        connection.call_sync(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "RequestName",
            GLib.Variant("(su)", (name, 0)),
            None,
            Gio.DBusCallFlags.NONE,
            5000,
            None,
        )
    print("ready", flush=True)
    loop = GLib.MainLoop()
    connection.connect("closed", lambda *_: loop.quit())
    loop.run()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
