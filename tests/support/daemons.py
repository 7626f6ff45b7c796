"""The daemon as it is on a node: a process with its bus, its files, its disk and its server, and what talks to it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio, GLib

from tests.support.commands import OLD, Bench, Result, make_bench, run_cli
from tests.support.dbus import PrivateBus, private_bus
from tests.support.images import ab_parts, boot_attributes
from tests.support.payloads import RSA_A_PUBLIC
from tests.support.processes import is_running, wait_until
from update_agent.api.node import BUS_NAME, COMPAT_BUS_NAME, COMPAT_OBJECT_PATH, MANAGER_INTERFACE, OBJECT_PATH

OTHER_SERVER: Final = 1 << 28
"""Flag of the error codes of nodes that do not ask the official server."""

RUNNING: Final = "1.0.0"
_STOP_SECS: Final = 15
_CALL_MS: Final = 10_000

_RECORD: Final = """
import json
loop = GLib.MainLoop()
interface, member = ARGS
def heard(c, sender, path, interface, name, values):
    print(json.dumps([path, interface, name, values.get_type_string(), values.unpack()]), flush=True)
connection.signal_subscribe(None, interface, member, None, None, Gio.DBusSignalFlags.NONE, heard)
connection.call_sync('org.freedesktop.DBus', '/', 'org.freedesktop.DBus', 'GetId', None, None,
    Gio.DBusCallFlags.NONE, -1, None)
print('ready', flush=True)
loop.run()
"""

# A boot has a number that only the kernel can change; here another file takes its place, for one process.
_WITH_BOOT_ID: Final = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


@dataclass
class NodeDaemon:
    """One node: its daemon may be started, ended and killed as often as a test likes.

    Attributes:
        booted: the slot that runs, for the next start.
        boot_id: of the next start; empty for the machine's.
        prefix: in front of the command line, to give the daemon another environment.
    """

    bench: Bench
    bus: PrivateBus
    booted: str = "A"
    boot_id: str = ""
    prefix: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    notified: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.keys.mkdir(parents=True)
        (self.keys / "release.pem").write_bytes(RSA_A_PUBLIC.read_bytes())
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.bus.folder / "notify"))
        threading.Thread(target=self._listen, daemon=True).start()

    # --- files

    @property
    def root(self) -> Path:
        return self.bench.folder / "node"

    @property
    def keys(self) -> Path:
        return self.root / "etc/update-agent/keys"

    @property
    def state_file(self) -> Path:
        return self.root / "var/lib/update-agent/state.json"

    @property
    def state(self) -> dict[str, Any]:
        """What is kept, as it is in the file."""
        document: dict[str, Any] = json.loads(self.state_file.read_bytes())
        return document

    @property
    def checkpoint(self) -> Path:
        return self.bench.state / "checkpoint.json"

    @property
    def log(self) -> str:
        """Everything that any process of this daemon wrote."""
        path = self.bench.folder / "agentd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def configure(self, url: str | None = None, **settings: Any) -> None:
        """Write the fragment; keys with an underscore for the first dot. What was set before stays."""
        defaults = {
            "server.url": "disabled",
            "server.running_version": RUNNING,
            "check.automatic": False,
            "check.jitter_secs": 0,
            "transfer.proxy": "none",
            "transfer.connect_timeout_secs": 5,
            "transfer.max_failures_per_url": 1,
            "metrics.socket": "",
        }
        changes = {key.replace("_", ".", 1): value for key, value in settings.items()}
        self.settings = defaults | self.settings | ({"server.url": url} if url is not None else {}) | changes
        path = self.root / "etc/update-agent/config.d/10-test.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items()))

    # --- the process

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start, and do not wait."""
        command = [sys.executable, "-m", "update_agent.daemon.main", "--image", str(self.bench.image)]
        command += ["--booted", self.booted, "--root", str(self.root), "--bus", self.bus.address]
        self.notified.clear()
        with (self.bench.folder / "agentd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._boot(), *self.prefix, *command],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self.bus.environment, "NOTIFY_SOCKET": str(self.bus.folder / "notify")},
            )
        return self.process

    def start(self) -> "NodeDaemon":
        """Start, and wait until it says that it is ready."""
        process = self.spawn()
        wait_until(lambda: "READY=1" in self.notified or process.poll() is not None, "the daemon is ready")
        assert process.poll() is None, f"the daemon ended with {process.returncode}: {self.log}"
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """As if it crashed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """As systemd does it; the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(_STOP_SECS)
        self.process = None
        return status

    def close(self) -> None:
        self.kill()
        self._notify.close()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def child(self) -> int | None:
        """The process that checks and installs, if there is one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def is_alive(self) -> bool:
        return self.process is not None and is_running(self.process.pid)

    # --- who talks to it

    def cli(self, *arguments: str | Path) -> Result:
        """The command as a client."""
        return run_cli("--bus", self.bus.address, *arguments)

    def install(self, *arguments: str) -> Result:
        return self.cli("install", *arguments)

    @property
    def status(self) -> dict[str, Any]:
        """`update-agent status --json`."""
        result = self.cli("status", "--json")
        assert result.status == 0, result.err
        document: dict[str, Any] = result.json
        return document

    @property
    def properties(self) -> dict[str, Any]:
        """Of `org.updateagent1.Manager`, as a client sees them."""
        answer = self.call(
            BUS_NAME, OBJECT_PATH, "org.freedesktop.DBus.Properties.GetAll", GLib.Variant("(s)", (MANAGER_INTERFACE,))
        )
        values: dict[str, Any] = answer[0]
        return values

    @property
    def compat(self) -> tuple[Any, ...]:
        """What GetStatus of update_engine's interface answers."""
        return self.call(COMPAT_BUS_NAME, COMPAT_OBJECT_PATH, "com.coreos.update1.Manager.GetStatus")

    def call(self, name: str, path: str, method: str, parameters: Any = None) -> tuple[Any, ...]:
        """One call on a connection of its own."""
        interface, _, member = method.rpartition(".")
        connection = self.bus.connect()
        try:
            answer = connection.call_sync(
                name, path, interface, member, parameters, None, Gio.DBusCallFlags.NONE, _CALL_MS, None
            )
        finally:
            connection.close_sync(None)
        values: tuple[Any, ...] = answer.unpack()
        return values

    def wait_for_state(self, *states: str) -> dict[str, Any]:
        """Wait for one of them; the properties of then."""
        seen: list[dict[str, Any]] = []

        def is_there() -> bool:
            seen[:] = [self.properties]
            return seen[0]["State"] in states

        wait_until(is_there, f"the state is {' or '.join(states)}")
        return seen[0]

    def _boot(self) -> Sequence[str]:
        if not self.boot_id:
            return ()
        path = self.bench.put("boot_id", self.boot_id.encode() + b"\n")
        return ("unshare", "--mount", "sh", "-c", _WITH_BOOT_ID, str(path))

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.notified += self._notify.recv(65536).decode().split("\n")


@dataclass(frozen=True)
class Heard:
    """A signal as it came over the wire."""

    path: str
    interface: str
    member: str
    signature: str
    values: tuple[Any, ...]


class Recording:
    """A process of its own that hears signals as other programs do."""

    def __init__(self, bus: PrivateBus, interface: str, member: str) -> None:
        self.heard: list[Heard] = []
        self._process = bus.python(_RECORD, interface, member)
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._is_ready.wait(20), "expected a listener on the bus"

    @property
    def operations(self) -> list[str]:
        """Of StatusUpdate, without the prefix, each run of the same one once."""
        words = [str(signal.values[2]).removeprefix("UPDATE_STATUS_") for signal in self.heard]
        return [word for word, before in zip(words, ["", *words], strict=False) if word != before]

    def wait_for(self, operation: str) -> None:
        """Until this was heard last."""
        wait_until(lambda: self.operations[-1:] == [operation], f"{operation} is announced, not {self.operations}")

    def close(self) -> None:
        self._process.kill()
        self._reader.join()
        self._process.communicate()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "ready\n":
                self._is_ready.set()
            else:
                path, interface, member, signature, values = json.loads(line)
                self.heard.append(Heard(path, interface, member, signature, tuple(values)))


@contextlib.contextmanager
def recording(
    bus: PrivateBus, *, interface: str = "com.coreos.update1.Manager", member: str = "StatusUpdate"
) -> Iterator[Recording]:
    """Signals from here on."""
    listener = Recording(bus, interface, member)
    try:
        yield listener
    finally:
        listener.close()


@contextlib.contextmanager
def node_daemon(
    folder: Path, *, content: bytes = OLD, bus: PrivateBus | None = None, **settings: Any
) -> Iterator[NodeDaemon]:
    """A node whose slot A runs and whose slot B boots too; the test starts it. Prints its log in the end."""
    parts = ab_parts(
        a=boot_attributes(priority=2, successful=1),
        b=boot_attributes(priority=1, successful=1),
        sectors=len(content) // 512,
    )
    with contextlib.ExitStack() as stack:
        bus = bus or stack.enter_context(private_bus())
        node = NodeDaemon(make_bench(folder, parts, content=content), bus)
        stack.callback(lambda: print(f"--- the daemon's log\n{node.log}"))
        stack.callback(node.close)
        node.configure(**settings)
        yield node
