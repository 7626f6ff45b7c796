"""What the figures of the daemon are measured on: a node in a folder, with a bus and an update server of its own.

All of it is real and in processes of its own: dbus-daemon with the shipped policy, update-agentd, update-agent-fleet.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import CACHE, image, payload

FOLDER = CACHE / "node"
WAIT_SECS = 60
WATCHDOG_USEC = 180_000_000
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

_BUS_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <auth>EXTERNAL</auth>
  <listen>unix:path={bus}</listen>
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
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policies}/com.coreos.update1.conf</include>
  <include>{policies}/org.updateagent1.conf</include>
</busconfig>
"""

_FRAGMENT = """\
[server]
url = "{url}v1/update"
running_version = "1.0.0"
"""


def wait_for(what: str, condition: Callable[[], bool], secs: float = WAIT_SECS) -> None:
    """Until it holds; a failure ends the benchmark."""
    end = time.monotonic() + secs
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"benchmark: waited {secs:.0f} s for {what}; see {FOLDER}")
        time.sleep(0.02)


class Manager:
    """The service manager's end of the notification socket: reads, and remembers when the daemon said what."""

    def __init__(self, path: Path) -> None:
        self.messages: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._read, daemon=True).start()

    def said(self, word: str, since: float = 0) -> int:
        """How often."""
        return sum(message.startswith(word) for at, message in self.messages if at >= since)

    def _read(self) -> None:
        while True:
            text = self._socket.recv(4096).decode()
            self.messages.append((time.monotonic(), text))


@dataclass(frozen=True, slots=True)
class Threads:
    """How often each thread of a process gave its processor up, and how often it was taken away, so far."""

    switches: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, pid: int) -> "Threads":
        counts = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = _fields(task / "status")
            given, taken = (int(fields[f"{kind}_ctxt_switches"]) for kind in ("voluntary", "nonvoluntary"))
            counts[f"{fields['Name']} {task.name}"] = (given, taken)
        return cls(counts)

    def since(self, before: "Threads") -> dict[str, tuple[int, int]]:
        old = {name: before.switches.get(name, (0, 0)) for name in self.switches}
        return {name: (now[0] - old[name][0], now[1] - old[name][1]) for name, now in self.switches.items()}


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip().removesuffix(" kB") for name, _, value in lines}


def memory_kib(pid: int) -> dict[str, int]:
    """`rss`, `anon` and `pss` of a process."""
    status, rollup = _fields(Path(f"/proc/{pid}/status")), _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return {"rss": int(status["VmRSS"]), "anon": int(status["RssAnon"]), "pss": int(rollup["Pss"])}


def native_modules(pid: int) -> set[str]:
    """Packages of which the process has compiled modules loaded."""
    parts = (line.partition("/site-packages/")[2] for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {part.split("/")[0] for part in parts if part}


def busy_secs() -> float:
    """Processor time of the whole machine so far, but for what nobody wanted."""
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS


class Quiet:
    """How busy the machine is with other things than us, looked at for a second while we do nothing."""

    def __init__(self) -> None:
        before, at = busy_secs(), time.monotonic()
        time.sleep(1)
        self.others = (busy_secs() - before) / (time.monotonic() - at)
        self.load = os.getloadavg()[0]

    def __str__(self) -> str:
        word = "quiet" if self.others < 0.1 else f"NOT quiet: others take {self.others:.1f} of {os.cpu_count()} cores"
        return f"{word}, load {self.load:.1f}"


class Node:
    """The running daemon and what is around it."""

    def __init__(self, pid: int, manager: Manager, environment: dict[str, str], served: Path, size_mib: int) -> None:
        self.pid = pid
        self.manager = manager
        self.environment = environment
        self.payload_bytes = served.stat().st_size
        self.size_mib = size_mib

    def update_agent(self, *arguments: str) -> None:
        """Run a command of ours; a failure ends the benchmark."""
        done = subprocess.run(["update-agent", *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"benchmark: update-agent {' '.join(arguments)} failed: {done.stderr}")

    def measure(self, how: str, until: str, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """What a foreign client says (see benchmark_client.py), and what was done once it had begun."""
        command = [sys.executable, "scripts/benchmark_client.py", how, until]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    sys.exit("benchmark: the client cannot reach the daemon")
                meanwhile()
                out, _ = process.communicate(timeout=4 * WAIT_SECS)
            finally:
                process.kill()
        if process.returncode:
            sys.exit(f"benchmark: the client failed; see {FOLDER}")
        answer: dict[str, Any] = json.loads(out)
        return answer


@contextmanager
def _running(command: list[str | Path], **rest: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, **rest) as process:
        try:
            yield process
        finally:
            process.terminate()


def _server(stack: ExitStack, served: Path) -> str:
    """URL of a server of ours with that payload."""
    (FOLDER / "served").mkdir()
    os.link(served, FOLDER / "served/release.payload")
    command: list[str | Path] = ["update-agent-fleet", "serve", "--payloads", FOLDER / "served"]
    command += ["--listen", "127.0.0.1:0", "--access-log", FOLDER / "access.log"]
    process = stack.enter_context(_running(command, stdout=subprocess.PIPE, stderr=(FOLDER / "server.log").open("wb")))
    assert process.stdout is not None
    return process.stdout.readline().decode().removeprefix("listening on ").strip()


@contextmanager
def running_node(size_mib: int) -> Iterator[Node]:
    """A daemon that has just started on a disk whose slot A runs release 1.0.0, and a server that has 2.0.0."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    folder, bus = FOLDER.resolve(), FOLDER.resolve() / "bus"
    usr, served = image(size_mib), payload(size_mib, "--level", "3")
    subprocess.run(["scripts/make-disk", FOLDER / "disk.img", usr], check=True)
    with ExitStack() as stack:
        url = _server(stack, served)
        fragments = FOLDER / "root/etc/update-agent/config.d"
        fragments.mkdir(parents=True)
        (fragments / "10-benchmark.toml").write_text(_FRAGMENT.format(url=url))
        (FOLDER / "root/etc/update-agent/keys").mkdir()
        shutil.copy(CACHE / "keys.pem", FOLDER / "root/etc/update-agent/keys/benchmark.pub.pem")
        (FOLDER / "bus.conf").write_text(_BUS_CONFIGURATION.format(bus=bus, policies=Path("systemd").resolve()))
        log = stack.enter_context((FOLDER / "bus.log").open("wb"))
        stack.enter_context(_running(["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork"], stderr=log))
        wait_for("the bus", bus.exists)
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"}
        manager = Manager(folder / "notify")
        service = {"WATCHDOG_USEC": str(WATCHDOG_USEC), "NOTIFY_SOCKET": str(folder / "notify")}
        log = stack.enter_context((FOLDER / "daemon.log").open("wb"))
        daemon = stack.enter_context(
            _running(
                ["update-agentd", "--image", FOLDER / "disk.img", "--booted", "A", "--root", FOLDER / "root"],
                env=environment | service,
                stderr=log,
            )
        )
        wait_for("the daemon", lambda: manager.said("READY=1") > 0)
        yield Node(daemon.pid, manager, environment, served, size_mib)


def payload_requests() -> tuple[int, int]:
    """Requests for payloads that the server has answered so far, and bytes that it sent for them."""
    lines = (FOLDER / "access.log").read_text().splitlines() if (FOLDER / "access.log").exists() else []
    sent = [int(line.split()[-1]) for line in lines if "/payloads/" in line]
    return len(sent), sum(sent)


def make_all(size_mib: int) -> None:
    """Image and payload, before anything is measured."""
    CACHE.mkdir(parents=True, exist_ok=True)
    payload(size_mib, "--level", "3")
