"""A message bus of one's own, with the shipped policy files, and what talks on it."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from gi.repository import Gio, GLib

from update_agent.api.node import NodeStatus, SlotView
from update_agent.daemon.ports import CompatStatus, InstallOptions, Listener
from update_agent.domain.slots import SlotName
from update_agent.errors import UpdateAgentError

SYSTEMD_FOLDER: Final = Path(__file__).parents[2] / "systemd"
NOBODY: Final = 65534
SOMEBODY: Final = 1
"""Another user than nobody; the bus lets nobody in whom the machine does not know."""
TIMEOUT_SECS: Final = 20.0

needs_dbus: Final = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None or os.geteuid() != 0, reason="needs dbus-daemon, and root to be several users"
)

# What /usr/share/dbus-1/system.conf says, without its places.
_CONFIGURATION: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  {includes}
</busconfig>
"""


def _become(uid: int) -> str:
    return f"os.setgroups([])\nos.setresgid({uid}, {uid}, {uid})\nos.setresuid({uid}, {uid}, {uid})\n" if uid else ""


class Client(subprocess.Popen[str]):
    """A program on the bus; killed at the end of its block if it still runs, so that a failed test ends."""

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self.communicate()


@dataclass
class PrivateBus:
    """A dbus-daemon with the policy files of `systemd/`; `core` is who the file means by the user core."""

    folder: Path
    core: str = "core"
    with_policy: bool = True
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.folder / 'bus'}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address, "PYTHONPATH": str(SYSTEMD_FOLDER.parent)}

    def start(self) -> None:
        (self.folder / "bus").unlink(missing_ok=True)
        includes = []
        for name in ("com.coreos.update1.conf", "org.updateagent1.conf") if self.with_policy else ():
            text = (SYSTEMD_FOLDER / name).read_text().replace('user="core"', f'user="{self.core}"')
            (self.folder / name).write_text(text)
            includes.append(f"<include>{self.folder / name}</include>")
        configuration = self.folder / "bus.conf"
        configuration.write_text(_CONFIGURATION.format(socket=self.folder / "bus", includes="".join(includes)))
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        stdout = self.process.stdout
        if stdout is None or not select.select([stdout], [], [], TIMEOUT_SECS)[0] or not stdout.readline():
            raise AssertionError("expected the address of a dbus-daemon")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def connect(self) -> Any:
        """Another connection; close it, or let `connections` do it."""
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        return Gio.DBusConnection.new_for_address_sync(self.address, flags, None, None)

    def run(self, *command: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """A foreign client, while this process serves in its main loop."""
        prefix = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
        with self.spawn(*prefix, *command) as process:
            wait_until(lambda: process.poll() is not None)
            out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def spawn(self, *command: str) -> Client:
        return Client(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)

    def gdbus(self, name: str, path: str, method: str, *args: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """`gdbus call`, another implementation of neither bus nor service, but another program."""
        return self.run(
            "gdbus", "call", "--system", "--dest", name, "--object-path", path, "--method", method, *args, uid=uid
        )

    def busctl(self, *args: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """busctl: an implementation of D-Bus that shares nothing with GDBus."""
        return self.run("busctl", f"--address={self.address}", *args, uid=uid)

    def python(self, code: str, *args: str, uid: int = 0) -> Client:
        """A client that is written for one test; `ADDRESS` is the bus, `ARGS` the arguments."""
        head = (
            "import os, sys, time\nfrom gi.repository import Gio, GLib\n"
            # Not before: the interpreter may be where nobody but root can read.
            f"{_become(uid)}"
            "ADDRESS, *ARGS = sys.argv[1:]\n"
            "F = Gio.DBusConnectionFlags\n"
            "connection = Gio.DBusConnection.new_for_address_sync(\n"
            "    ADDRESS, F.AUTHENTICATION_CLIENT | F.MESSAGE_BUS_CONNECTION, None, None)\n"
        )
        return self.spawn(sys.executable, "-c", head + code, self.address, *args)


@contextlib.contextmanager
def private_bus(*, core: str = "core", with_policy: bool = True) -> Iterator[PrivateBus]:
    """A bus that other users reach, too."""
    with tempfile.TemporaryDirectory(prefix="bus-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bus = PrivateBus(folder, core=core, with_policy=with_policy)
        bus.start()
        try:
            yield bus
        finally:
            bus.stop()


def wait_until(condition: Callable[[], bool], timeout_secs: float = TIMEOUT_SECS) -> None:
    """Run the main loop until the condition holds."""
    context = GLib.MainContext.default()
    end = time.monotonic() + timeout_secs
    tick = GLib.timeout_add(5, lambda: True)
    try:
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("expected a condition to hold in time")
            context.iteration(True)
    finally:
        GLib.source_remove(tick)


def settle() -> None:
    """Run the main loop until nothing is to be done."""
    context = GLib.MainContext.default()
    while context.iteration(False):
        pass


SLOT_A: Final = SlotView(
    name="A",
    state="booted",
    version="1.0.0",
    priority=1,
    tries=0,
    successful=True,
    partition=3,
    partition_guid="7130c94a-213a-4e5a-8e26-6cce9662f132",
    size_bytes=1 << 30,
    content_sha256="",
    installed_at="",
)
SLOT_B: Final = replace(SLOT_A, name="B", state="unbootable", version="", priority=0, successful=False, partition=4)

IDLE: Final = CompatStatus(
    last_checked_time=0, progress=0.0, current_operation="UPDATE_STATUS_IDLE", new_version="0.0.0", new_size=0
)


@dataclass
class RecordingCommands:
    """An agent that remembers what it was asked, and fails with `error` if there is one."""

    node: NodeStatus = field(default_factory=lambda: NodeStatus(state="idle", slots=(SLOT_A, SLOT_B)))
    compat: CompatStatus = IDLE
    error: UpdateAgentError | Exception | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    def status(self) -> NodeStatus:
        return self.node

    def compat_status(self) -> CompatStatus:
        return self.compat

    def listen(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def check(self) -> None:
        self._note("check")

    def install(self, options: InstallOptions) -> None:
        self._note("install", options)

    def attempt_update(self) -> None:
        self._note("attempt_update")

    def cancel(self) -> bool:
        self._note("cancel")
        return True

    def reset(self) -> None:
        self._note("reset")

    def rollback(self) -> None:
        self._note("rollback")

    def mark_slot(self, slot: SlotName | None, mark: str) -> None:
        self._note("mark_slot", slot, mark)

    def reload(self) -> None:
        self._note("reload")

    def change(self, **values: Any) -> None:
        """Have another status, and tell it."""
        self.node = replace(self.node, **values)
        for listener in self.listeners:
            listener.status_changed(self.node)

    def signal(self, **values: Any) -> None:
        """Have another status for update_engine's interface, and tell it."""
        self.compat = replace(self.compat, **values)
        for listener in self.listeners:
            listener.compat_signal(self.compat)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error


def seen(records: Sequence[Any], event: str) -> list[str]:
    """The messages of one event among log records."""
    return [each.getMessage() for each in records if getattr(each, "journal", {}).get("MESSAGE_ID") == event]


_POLKIT_XML: Final = """
<node><interface name="org.freedesktop.PolicyKit1.Authority">
  <method name="CheckAuthorization">
    <arg type="(sa{sv})" direction="in"/><arg type="s" direction="in"/><arg type="a{ss}" direction="in"/>
    <arg type="u" direction="in"/><arg type="s" direction="in"/><arg type="(bba{ss})" direction="out"/>
  </method>
  <method name="CancelCheckAuthorization"><arg type="s" direction="in"/></method>
</interface></node>
"""


class StandInPolkit:
    """polkit on a connection of its own: answers `answer` (is authorized, is challenge), or nothing for None."""

    def __init__(self, bus: PrivateBus, answer: tuple[bool, bool] | None) -> None:
        self.answer = answer
        self.questions: list[tuple[str, str, bool]] = []
        """Sender, action, whether a person may be asked."""
        self.cancelled: list[str] = []
        self._held: list[Any] = []
        self._connection = bus.connect()
        self._connection.register_object(
            "/org/freedesktop/PolicyKit1/Authority",
            Gio.DBusNodeInfo.new_for_xml(_POLKIT_XML).interfaces[0],
            self._handle,
            None,
            None,
        )
        assert request_name(self._connection, "org.freedesktop.PolicyKit1") == 1

    def close(self) -> None:
        self._connection.close_sync(None)

    def _handle(self, _c: Any, _s: str, _p: str, _i: str, method: str, parameters: Any, invocation: Any) -> None:
        values = parameters.unpack()
        if method == "CancelCheckAuthorization":
            self.cancelled.append(values[0])
            invocation.return_value(None)
            return
        (kind, subject), action, _details, flags, _id = values
        assert kind == "system-bus-name"
        self.questions.append((subject["name"], action, bool(flags & 1)))
        if self.answer is None:
            self._held.append(invocation)
        else:
            invocation.return_value(GLib.Variant("((bba{ss}))", ((*self.answer, {}),)))


def request_name(connection: Any, name: str, flags: int = 4) -> int:
    """The bus' answer to RequestName: 1 owner, 3 taken; 1 allows replacement, 2 replaces, 4 does not queue."""
    answer = connection.call_sync(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "RequestName",
        GLib.Variant("(su)", (name, flags)),
        None,
        Gio.DBusCallFlags.NONE,
        5000,
        None,
    )
    return int(answer.unpack()[0])


@contextlib.contextmanager
def bus_server(bus: PrivateBus) -> Iterator[subprocess.Popen[str]]:
    """The service in a process of its own; `AttemptUpdate` makes it send a StatusUpdate and change a property."""
    process = bus.spawn(sys.executable, "-m", "tests.support.bus_server", bus.address)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        yield process
    finally:
        process.terminate()
        process.communicate()


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
