"""A daemon whose agent plays what a test wrote: real D-Bus objects, no disk, no server.

Run as a program it is the service: `python -m tests.support.scripted_agent ADDRESS FOLDER`. `FOLDER/script.json` has
what it says at the start and what each command does; every command is added as a line to `FOLDER/calls`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gi.repository import GLib

from tests.support.node_statuses import RUNNING, Steps
from update_agent.api.node import NodeStatus, SlotView
from update_agent.daemon.bus import BusService
from update_agent.daemon.ports import CompatStatus, InstallOptions, Listener
from update_agent.domain.machine import State
from update_agent.domain.slots import SlotName
from update_agent.domain.state import BadRelease, LastError
from update_agent.errors import Kind, RefusedError

_STEP_MS: Final = 20
_READY_SECS: Final = 20.0


class ScriptedDaemon:
    """The service as a process, and its script."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def write(self, status: NodeStatus = RUNNING, **commands: Steps) -> None:
        """What it says from its next start, and what each command does: steps, or {"refuse": kind}."""
        document = {"status": status, "commands": commands}
        (self.folder / "script.json").write_text(json.dumps(document, default=_plain))

    def start(self) -> None:
        """Until it is on the bus."""
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.scripted_agent", self.address, str(self.folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(_READY_SECS)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def open_gate(self, name: str) -> None:
        """Let the step {"wait_for": name} go on."""
        (self.folder / name).touch()

    def calls(self) -> list[str]:
        """What it was told to do."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_call(self, start: str) -> None:
        """Until it was told so."""
        deadline = time.monotonic() + _READY_SECS
        while not any(call.startswith(start) for call in self.calls()):
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.01)


@contextmanager
def scripted_daemon(address: str, folder: Path) -> Iterator[ScriptedDaemon]:
    """A daemon with a healthy status, not started; ended at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    daemon = ScriptedDaemon(address, folder)
    daemon.write()
    try:
        yield daemon
    finally:
        daemon.stop()


def _plain(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _status_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Out of JSON."""
    fields = dict(values)
    if "slots" in fields:
        fields["slots"] = tuple(SlotView(**each) for each in fields["slots"])
    if "bad_releases" in fields:
        fields["bad_releases"] = tuple(BadRelease(**each) for each in fields["bad_releases"])
    if fields.get("last_error"):
        fields["last_error"] = LastError(**fields["last_error"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


class _Agent:
    """Plays; see `update_agent.daemon.ports.Commands`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        script = json.loads((folder / "script.json").read_text())
        self._status = NodeStatus(**_status_fields(script["status"]))
        self._commands: dict[str, Any] = script["commands"]
        self._listeners: list[Listener] = []
        if "start" in self._commands:
            self._play("start")

    def status(self) -> NodeStatus:
        return self._status

    def compat_status(self) -> CompatStatus:
        status = self._status
        is_downloading = status.state == State.DOWNLOADING and status.progress_total_bytes
        return CompatStatus(
            last_checked_time=status.last_success_at,
            progress=status.progress_done_bytes / status.progress_total_bytes if is_downloading else 0.0,
            current_operation=State(status.state).wire_name,
            new_version=status.pending_version or status.offered_version or "0.0.0",
            new_size=status.offered_size_bytes,
        )

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def check(self) -> None:
        self._play("check")

    def install(self, options: InstallOptions) -> None:
        self._play("install", repr(options))

    def attempt_update(self) -> None:
        self._play("attempt_update")

    def cancel(self) -> bool:
        self._play("cancel")
        return not self._status.is_resting

    def reset(self) -> None:
        self._play("reset")

    def rollback(self) -> None:
        self._play("rollback")

    def mark_slot(self, slot: SlotName | None, mark: str) -> None:
        self._play("mark_slot", f"{slot} {mark}")

    def reload(self) -> None:
        self._play("reload")

    def _play(self, name: str, details: str = "") -> None:
        with (self._folder / "calls").open("a") as file:
            file.write(f"{name} {details}".strip() + "\n")
        steps = [dict(step) for step in self._commands.get(name, ())]
        if steps and "refuse" in steps[0]:
            if steps[0].pop("times", 0) == 1:
                del self._commands[name][0]
            raise RefusedError(Kind(steps[0]["refuse"]), f"{name}: refused by the script", hint="change the script")
        if steps:
            # As the real one: busy before the answer.
            self._change(steps.pop(0))
        GLib.timeout_add(_STEP_MS, self._step, steps)

    def _step(self, steps: list[dict[str, Any]]) -> bool:
        if not steps:
            return False
        step = steps[0]
        if "wait_for" in step and not (self._folder / step["wait_for"]).exists():
            return True
        if "exit" in step:
            os._exit(step["exit"])
        if "wait_for" not in step:
            self._change(step)
        steps.pop(0)
        return bool(steps)

    def _change(self, step: Mapping[str, Any]) -> None:
        before = self.compat_status()
        self._status = replace(self._status, **_status_fields(step))
        for listener in self._listeners:
            listener.status_changed(self._status)
            if self.compat_status() != before:
                listener.compat_signal(self.compat_status())


def _serve(address: str, folder: Path) -> None:
    loop = GLib.MainLoop()
    service = BusService(_Agent(folder), address=address)
    service.start()
    print("ready", flush=True)
    loop.run()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
