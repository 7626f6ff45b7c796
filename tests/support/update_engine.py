"""update_engine's D-Bus side as a stand-in that shares no code with the package.

Run as a program it is the service: `python -m tests.support.update_engine ADDRESS STATE STATES`. It rests in STATE, and
AttemptUpdate lets it go through the states of the comma-separated STATES, when it is IDLE; AttemptUpdate fails if there
are none.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio, GLib

_NAME: Final = "com.coreos.update1"
_PATH: Final = "/com/coreos/update1"
_INTERFACE: Final = "com.coreos.update1.Manager"
_XML: Final = """
<node><interface name="com.coreos.update1.Manager">
  <method name="GetStatus">
    <arg type="x" direction="out"/><arg type="d" direction="out"/><arg type="s" direction="out"/>
    <arg type="s" direction="out"/><arg type="x" direction="out"/>
  </method>
  <method name="ResetStatus"/>
  <method name="AttemptUpdate"/>
  <signal name="StatusUpdate">
    <arg type="x"/><arg type="d"/><arg type="s"/><arg type="s"/><arg type="x"/>
  </signal>
</interface></node>
"""
_STEP_MS: Final = 60


@contextlib.contextmanager
def update_engine(address: str, *, state: str = "IDLE", states: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """The stand-in as a process, on the bus."""
    command = [sys.executable, "-m", "tests.support.update_engine", address, state, ",".join(states)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


class _Service:
    def __init__(self, connection: Any, state: str, states: Sequence[str]) -> None:
        self._connection = connection
        self._state = state
        self._states = list(states)

    def handle(self, *call: Any) -> None:
        method, invocation = call[4], call[6]
        if method == "GetStatus":
            invocation.return_value(self._status())
        elif method == "AttemptUpdate":
            if not self._states and self._state == "IDLE":
                invocation.return_dbus_error("org.freedesktop.DBus.GLib.ErrorError", "no")
                return
            if self._state == "IDLE":
                self._step()
                GLib.timeout_add(_STEP_MS, self._step)
            invocation.return_value(None)
        elif self._state in {"IDLE", "UPDATED_NEED_REBOOT"}:
            self._state = "IDLE"
            invocation.return_value(None)
        else:
            text = "Method invoked for ResetStatus returned FALSE but did not set error"
            invocation.return_dbus_error("org.freedesktop.DBus.GLib.ErrorError", text)

    def _status(self) -> Any:
        is_known = self._state in {"DOWNLOADING", "UPDATED_NEED_REBOOT"}
        version, size = ("4230.1.0", 432013312) if is_known else ("0.0.0", 0)
        progress = 0.25 if self._state == "DOWNLOADING" else 0.0
        return GLib.Variant("(xdssx)", (1790000000, progress, f"UPDATE_STATUS_{self._state}", version, size))

    def _step(self) -> bool:
        if self._states:
            self._state = self._states.pop(0)
            self._connection.emit_signal(None, _PATH, _INTERFACE, "StatusUpdate", self._status())
        return bool(self._states)


def _serve(address: str, state: str, states: str) -> None:
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
    service = _Service(connection, state, states.split(",") if states else [])
    interface = Gio.DBusNodeInfo.new_for_xml(_XML).interfaces[0]
    connection.register_object(_PATH, interface, service.handle, None, None)
    Gio.bus_own_name_on_connection(
        connection, _NAME, Gio.BusNameOwnerFlags.NONE, lambda *_: print("ready", flush=True), None
    )
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
