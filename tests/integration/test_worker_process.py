"""What the daemon does with a child process that says or does anything."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.support.processes import is_running
from tests.support.workers import WorkerRun, make_job, open_descriptors
from update_agent.daemon.worker_process import WorkerProcess
from update_agent.daemon.workers import WorkerExit
from update_agent.domain.messages import LINE_BYTES_MAX, Checked, Message, NothingNew
from update_agent.errors import Kind, ServiceError

ROOT = Path(__file__).parents[2]
FAKE = "tests.support.fake_worker"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def fake(folder: Path, behaviour: str, *, kill_after_secs: float = 10, root: str = "/") -> WorkerRun:
    run = WorkerRun(WorkerProcess(FAKE, kill_after_secs=kill_after_secs))
    return run.start(make_job(folder, disk=behaviour, root=root))


def test_messages_come_in_order_and_before_the_end(tmp_path: Path) -> None:
    run = fake(tmp_path, "good").wait()
    assert run.messages == [Checked(), NothingNew()]
    assert run.exit == WorkerExit(status=0, was_signal=False)


def test_message_that_the_listener_chokes_on_is_not_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def choke(_run: WorkerRun, message: Message) -> None:
        if isinstance(message, Checked):
            raise ValueError("no")

    run = WorkerRun(WorkerProcess(FAKE), on_message=choke).run(make_job(tmp_path, disk="good"))
    assert run.messages == [Checked(), NothingNew()]
    assert "could not be dealt with" in caplog.text


def test_message_that_comes_byte_by_byte_is_one(tmp_path: Path) -> None:
    assert fake(tmp_path, "slow writer").wait().messages == [Checked(poll_interval_secs=7)]


def test_flood_of_messages_is_taken(tmp_path: Path) -> None:
    assert len(fake(tmp_path, "flood").wait().messages) == 20_000


@pytest.mark.parametrize(
    ("behaviour", "end", "messages"),
    [
        ("silent", WorkerExit(status=0, was_signal=False), 0),
        ("exit 3", WorkerExit(status=3, was_signal=False), 0),
        ("signal", WorkerExit(status=signal.SIGSEGV, was_signal=True), 1),
        (
            "garbage",
            WorkerExit(
                status=signal.SIGKILL,
                was_signal=True,
                problem="message: expected one of the child's, got b'Traceback (most recent call last):'",
            ),
            1,
        ),
        (
            "endless line",
            WorkerExit(status=signal.SIGKILL, was_signal=True, problem=f"a line of more than {LINE_BYTES_MAX} bytes"),
            1,
        ),
        ("half a line", WorkerExit(status=0, was_signal=False, problem="half a line of 17 bytes"), 1),
    ],
)
def test_end_says_what_happened(tmp_path: Path, behaviour: str, end: WorkerExit, messages: int) -> None:
    run = fake(tmp_path, behaviour).wait()
    assert run.exit == end
    assert run.messages == [Checked()] * messages


def test_job_that_no_pipe_holds_is_handed_over_without_waiting(tmp_path: Path) -> None:
    run = fake(tmp_path, "size", root="x" * 10**6).wait()
    assert run.messages == [NothingNew(version=str(10**6))]


def test_child_that_does_not_take_its_job_ends_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER_IS_DEAF_TO_ITS_JOB", "1")
    assert fake(tmp_path, "good", root="x" * 10**6).wait().exit == WorkerExit(status=5, was_signal=False)


@pytest.mark.parametrize(("by_person", "number"), [(True, signal.SIGINT), (False, signal.SIGTERM)])
def test_cancel_says_who_it_was_by_the_signal(tmp_path: Path, by_person: bool, number: int) -> None:
    run = fake(tmp_path, "wait")
    run.wait(lambda: bool(run.messages))
    run.cancel(by_person=by_person)
    end = run.wait().exit
    # Python turns SIGINT into an exception and dies of it.
    assert end == WorkerExit(status=number, was_signal=True)


def test_cancel_of_a_child_that_does_not_listen_kills_it(tmp_path: Path) -> None:
    run = fake(tmp_path, "deaf", kill_after_secs=0.3)
    run.wait(lambda: bool(run.messages))
    run.cancel(by_person=True)
    run.cancel(by_person=False)
    assert run.wait().exit == WorkerExit(status=signal.SIGKILL, was_signal=True)
    assert run.took_secs >= 0.3


def test_cancel_after_the_end_does_nothing(tmp_path: Path) -> None:
    run = fake(tmp_path, "good").wait()
    run.cancel(by_person=True)
    run.cancel(by_person=False)


def test_child_whose_child_holds_the_pipe_open_is_not_waited_for(tmp_path: Path) -> None:
    run = fake(tmp_path, "grandchild").wait()
    told = run.nothing_new
    assert is_running(int(told.version))
    os.kill(int(told.version), signal.SIGKILL)
    assert run.exit == WorkerExit(status=0, was_signal=False)


def test_child_starts_with_its_own_session_and_only_sigint_held_back(tmp_path: Path) -> None:
    blocked, ignored, leads = fake(tmp_path, "signals").wait().nothing_new.message.split()
    assert int(blocked, 16) == 1 << (signal.SIGINT - 1)
    # Python itself ignores these two; those from 32 on are the C library's own.
    of_python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert int(ignored, 16) & 0x7FFFFFFF == of_python
    assert leads == "True"


def test_fifty_children_leave_no_descriptor_and_no_zombie(tmp_path: Path) -> None:
    fake(tmp_path, "good").wait()
    before = open_descriptors()
    for number in range(0, 50, 5):
        behaviours = ("good", "garbage", "half a line", "exit 3", "signal")
        runs = [fake(tmp_path, behaviour) for behaviour in behaviours]
        for run in runs:
            run.wait()
        assert open_descriptors() == before, number
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("failing", ["posix_spawn", "pipe"])
def test_start_that_fails_says_why_and_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before, calls = open_descriptors(), list[int]()
    real = os.pipe

    def fail(*_: object, **__: object) -> tuple[int, int]:
        calls.append(1)
        if failing == "pipe" and len(calls) == 1:
            return real()
        raise OSError(errno.EMFILE, "no")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ServiceError, match="child process: cannot start it: Too many open files") as caught:
        fake(tmp_path, "good")
    assert caught.value.kind is Kind.WORKER_DIED
    assert open_descriptors() == before


def test_main_loop_is_never_held_up(tmp_path: Path) -> None:
    ticks: list[int] = []

    def tick() -> bool:
        ticks.append(1)
        return True

    timer = GLib.timeout_add(10, tick)
    run = fake(tmp_path, "deaf", kill_after_secs=0.5)
    run.wait(lambda: bool(run.messages))
    ticks.clear()
    run.cancel(by_person=True)
    run.wait()
    GLib.source_remove(timer)
    assert len(ticks) > 20


def test_parent_imports_nothing_that_is_large() -> None:
    code = (
        "import sys, update_agent.daemon.worker_process, update_agent.domain.schedule, update_agent.domain.state;"
        "print(*(set(sys.modules) & {'requests', 'urllib3', 'cryptography', 'google', 'defusedxml', 'yaml'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == ""
