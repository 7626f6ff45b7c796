"""Child processes of the daemon, driven by a main loop, without the daemon."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from gi.repository import GLib

from tests.support.payloads import RSA_A_PUBLIC
from update_agent.config.settings import Settings
from update_agent.daemon.job import Job, JobKind
from update_agent.daemon.worker_process import Child, WorkerProcess
from update_agent.daemon.workers import WorkerExit
from update_agent.domain.messages import Advanced, BackoffChanged, Failed, Installed, Message, NothingNew
from update_agent.domain.state import Backoff
from update_agent.formats.omaha_request import AppInfo, InstallSource

LIMIT_SECS: Final = 30


def make_job(folder: Path, url: str = "disabled", *, settings: dict[str, Any] | None = None, **changes: Any) -> Job:
    """An update of the image in `folder`; the files of the node are in `root` beside it. `changes` win."""
    keys = folder / "root/keys"
    keys.mkdir(parents=True, exist_ok=True)
    (keys / "release.pem").write_bytes(RSA_A_PUBLIC.read_bytes())
    values = {
        "server.url": url,
        "install.public_keys": ["/keys"],
        "transfer.proxy": "none",
        "transfer.max_failures_per_url": 1,
        "transfer.connect_timeout_secs": 20,
        **(settings or {}),
    }
    app = AppInfo(
        app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
        version="1.0.0",
        track="stable",
        boot_id="{boot}",
        machine="x86_64",
        machine_id="0123456789abcdef0123456789abcdef",
    )
    fields: dict[str, Any] = {
        "kind": JobKind.UPDATE,
        "root": str(folder / "root"),
        "disk": str(folder / "disk.img"),
        "booted": "A",
        "state_folder": "",
        "settings": Settings.of(values),
        "app": app,
        "install_source": InstallSource.SCHEDULER,
    }
    return Job(**(fields | changes))


@dataclass
class WorkerRun:
    """A child from its start to its end; `on_message` may stop it."""

    process: WorkerProcess = field(default_factory=WorkerProcess)
    on_message: Callable[["WorkerRun", Message], None] = lambda _run, _message: None
    messages: list[Message] = field(default_factory=list)
    exits: list[WorkerExit] = field(default_factory=list)
    child: Child | None = None
    cancelled_at: float = 0.0
    took_secs: float = 0.0
    """From the first cancel to the end."""

    def start(self, job: Job) -> "WorkerRun":
        self.child = self.process.start(job, on_message=self._take, on_exit=self._end)
        return self

    def run(self, job: Job) -> "WorkerRun":
        return self.start(job).wait()

    def wait(self, until: Callable[[], bool] | None = None) -> "WorkerRun":
        """Let the main loop run until the child has ended, or until something holds."""
        over: list[bool] = []
        limit = GLib.timeout_add_seconds(LIMIT_SECS, lambda: over.append(True))
        tick = GLib.timeout_add(20, lambda: True)
        done = until or (lambda: bool(self.exits))
        while not done() and not over:
            GLib.MainContext.default().iteration(True)
        GLib.source_remove(tick)
        if over:
            pytest.fail(f"the child did not get there in {LIMIT_SECS} seconds: {self.messages}")
        GLib.source_remove(limit)
        return self

    def cancel(self, *, by_person: bool) -> None:
        assert self.child is not None
        self.cancelled_at = self.cancelled_at or time.monotonic()
        self.child.cancel(by_person=by_person)

    @property
    def exit(self) -> WorkerExit:
        (end,) = self.exits
        return end

    @property
    def failure(self) -> Failed:
        (message,) = (each for each in self.messages if isinstance(each, Failed))
        return message

    @property
    def installed(self) -> Installed:
        (message,) = (each for each in self.messages if isinstance(each, Installed))
        return message

    @property
    def nothing_new(self) -> NothingNew:
        (message,) = (each for each in self.messages if isinstance(each, NothingNew))
        return message

    @property
    def kept(self) -> Backoff:
        """The back-off as the daemon would have it now."""
        changes = [message.backoff for message in self.messages if isinstance(message, BackoffChanged)]
        return changes[-1] if changes else Backoff()

    @property
    def words(self) -> list[str]:
        """The messages by name, progress as the phases it went through."""
        words: list[str] = []
        for message in self.messages:
            word = message.phase if isinstance(message, Advanced) else type(message).__name__
            if not words or words[-1] != word:
                words.append(word)
        return words

    def _take(self, message: Message) -> None:
        assert not self.exits
        self.messages.append(message)
        self.on_message(self, message)

    def _end(self, end: WorkerExit) -> None:
        self.exits.append(end)
        self.took_secs = time.monotonic() - self.cancelled_at


def open_descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))
