"""Programs of somebody else: what they print, how they end, and what they leave behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.processes import is_running, wait_until
from update_agent.errors import Kind, ServiceError
from update_agent.host.commands import CUT, DROPPED, LINE_BYTES_MAX, LINES_MAX, OUTPUT_BYTES_MAX, run_command

LIMIT_SECS = 20.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Run:
    """A shell script, run to its end."""

    def __init__(
        self, script: str, *, timeout_secs: float = LIMIT_SECS, kill_after_secs: float = LIMIT_SECS, **env: str
    ) -> None:
        self.lines: list[str] = []
        began = time.monotonic()
        self.status = run_command(
            ["/bin/sh", "-c", script],
            env={"PATH": PATH, **env},
            timeout_secs=timeout_secs,
            kill_after_secs=kill_after_secs,
            on_line=self.lines.append,
        )
        self.secs = time.monotonic() - began


def test_command_hands_on_both_outputs_line_by_line() -> None:
    run = Run("echo one; echo two >&2; printf three")
    assert (run.status, run.lines) == (0, ["one", "two", "three"])


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", -9), ("exec >&- 2>&-; exit 4", 4)])
def test_command_that_fails_says_how(script: str, status: int) -> None:
    assert Run(script).status == status


def test_command_gets_no_input_and_only_the_environment_it_is_given(tmp_path: Path) -> None:
    lines: list[str] = []
    argv = ["/bin/sh", "-c", "cat; /usr/bin/env; pwd -P"]
    assert run_command(argv, env={"A": "b"}, timeout_secs=LIMIT_SECS, on_line=lines.append, cwd=tmp_path) == 0
    assert set(lines) == {"A=b", f"PWD={tmp_path.resolve()}", str(tmp_path.resolve())}


def test_command_is_alone_in_a_session_of_its_own() -> None:
    run = Run("cut -d' ' -f5,6 /proc/self/stat; echo $$")
    group, session = run.lines[0].split()
    assert group == session == run.lines[1] != str(os.getsid(0))


@pytest.mark.parametrize("argv", [["/nonexistent/program"], ["/etc/passwd"], ["/"], ["/bin/sh", "a\0b"]])
def test_command_that_cannot_be_started_is_our_error(argv: list[str]) -> None:
    with pytest.raises(ServiceError) as caught:
        run_command(argv, env={}, timeout_secs=1, on_line=print)
    assert caught.value.kind is Kind.COMMAND_FAILED
    assert argv[0] in caught.value.message
    assert caught.value.hint


def test_command_with_lines_too_long_is_cut() -> None:
    run = Run(
        f"head -c {LINE_BYTES_MAX} /dev/zero | tr '\\0' x; echo; head -c 100000 /dev/zero | tr '\\0' y; echo; echo z"
    )
    assert run.lines == ["x" * LINE_BYTES_MAX, "y" * LINE_BYTES_MAX + CUT, "z"]


def test_command_that_prints_just_what_is_allowed_is_heard_to_the_end() -> None:
    run = Run(f"seq {LINES_MAX}")
    assert (len(run.lines), run.lines[-1]) == (LINES_MAX, str(LINES_MAX))


def test_command_that_prints_too_many_lines_goes_on_unheard() -> None:
    run = Run(f"seq {LINES_MAX + 1}; exit 5")
    assert (run.status, len(run.lines), run.lines[-2:]) == (5, LINES_MAX + 1, [str(LINES_MAX), DROPPED])


def test_command_that_prints_too_many_bytes_goes_on_unheard() -> None:
    run = Run(f"head -c {OUTPUT_BYTES_MAX + 1} /dev/zero | tr '\\0' x | fold -w 1023; exit 5")
    assert run.status == 5
    assert run.lines[-1] == DROPPED
    assert sum(len(line) + 1 for line in run.lines[:-1]) == OUTPUT_BYTES_MAX


def test_command_that_prints_endlessly_is_ended() -> None:
    run = Run("yes", timeout_secs=0.5)
    assert run.status is None
    assert len(run.lines) == LINES_MAX + 1


def test_command_that_prints_binary_is_made_readable() -> None:
    run = Run("printf 'a\\377\\033[31m\\tb\\000\\r\\n\\342\\200\\256c\\n'")
    assert run.lines == ["a��[31m b�", "�c"]


def test_command_out_of_time_gets_sigterm_and_may_say_so() -> None:
    run = Run("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done", timeout_secs=0.5)
    assert (run.status, run.lines[0], run.lines[-1]) == (None, "ready", "bye")


def test_command_that_ignores_sigterm_is_killed_with_its_children() -> None:
    run = Run("trap '' TERM; sleep 1000 & echo $!; echo $$; wait", timeout_secs=0.5, kill_after_secs=0.2)
    assert run.status is None
    wait_until(lambda: not any(is_running(int(pid)) for pid in run.lines))


def test_command_that_leaves_a_child_in_its_group_ends_and_the_child_too() -> None:
    run = Run("sleep 1000 & echo $!; exit 7")
    assert run.status == 7
    assert run.secs < LIMIT_SECS / 2
    wait_until(lambda: not is_running(int(run.lines[0])))


def test_command_whose_daemon_holds_the_output_open_is_not_waited_for() -> None:
    run = Run("setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.3")
    try:
        assert run.status == 0
        assert run.secs < LIMIT_SECS / 2
    finally:
        os.kill(int(run.lines[0]), signal.SIGKILL)


def test_command_is_ended_when_the_caller_wants_to_stop() -> None:
    class StopError(Exception):
        pass

    lines: list[str] = []

    def check() -> None:
        if lines:
            raise StopError

    with pytest.raises(StopError):
        run_command(
            ["/bin/sh", "-c", "echo $$; sleep 1000"],
            env={"PATH": PATH},
            timeout_secs=LIMIT_SECS,
            on_line=lines.append,
            check=check,
        )
    wait_until(lambda: not is_running(int(lines[0])))


def test_command_is_ended_when_a_listener_fails() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise KeyError(line)

    with pytest.raises(KeyError):
        run_command(
            ["/bin/sh", "-c", "echo $$; exec sleep 1000"], env={"PATH": PATH}, timeout_secs=LIMIT_SECS, on_line=on_line
        )
    assert not is_running(pids[0])


def test_command_leaves_no_descriptor_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    Run("echo x")
    Run("sleep 1000", timeout_secs=0.1)
    assert set(os.listdir("/proc/self/fd")) == before
