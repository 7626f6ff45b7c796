"""The command line as a process: signals, pipes, terminals, and two of it at once."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import (
    NEW,
    Bench,
    command_line,
    make_bench,
    run_cli,
    run_program,
    started,
    wait_for_line,
)
from tests.support.payloads import RSA_A, RSA_A_PUBLIC, make_payload
from tests.support.servers import ScriptedServer, serving
from tests.support.valve import Valve
from update_agent.errors import Kind
from update_agent.host.files import exclusive_lock

PAYLOAD = make_payload(NEW, op_bytes=4096)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture
def valve() -> Iterator[Valve]:
    valve = Valve(PAYLOAD)
    yield valve
    valve.is_open.set()


def install_line(bench: Bench, server: ScriptedServer, *options: str) -> list[str]:
    return [
        "--image", str(bench.image), "install", "--payload", server.url, "--public-key", str(RSA_A_PUBLIC),
        "--proxy", "", *options,
    ]  # fmt: skip


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_of_a_download_ends_it_and_the_next_run_completes(
    bench: Bench, valve: Valve, number: signal.Signals
) -> None:
    with serving(valve) as server:
        with started(*install_line(bench, server, "--json")) as process:
            assert process.stderr is not None
            wait_for_line(process.stderr, "downloading: 30 %")
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert err.endswith("update-agent: interrupted\nhint: nothing is lost: the same command goes on from here\n")
        assert f'"kind": "{Kind.INTERRUPTED}"' in out
        assert "Traceback" not in err
        bench.assert_old_release_boots()
        assert bench.run().out.startswith("Install unfinished")
        valve.is_open.set()
        assert run_cli(*install_line(bench, server)).status == 0
    assert bench.boots() == "B"
    assert bench.content("B")[: len(NEW)] == NEW


def test_signal_in_the_middle_of_a_build_leaves_nothing(bench: Bench) -> None:
    usr = bench.put("usr.img", os.urandom(32 << 20))
    output = bench.folder / "out" / "new.payload"
    output.parent.mkdir()
    line = ["payload", "build", "--usr", str(usr), "--version", "2", "--key", str(RSA_A), "--output", str(output)]
    with started(*line, "--compression", "xz", "--level", "6", "--workers", "1") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "building: ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.endswith("update-agent: interrupted\n")
    assert not list(output.parent.iterdir())


# Two at once


@pytest.mark.parametrize("options", [[], ["--state-dir", "elsewhere"]])
def test_second_install_on_the_same_disk_is_refused(bench: Bench, valve: Valve, options: list[str]) -> None:
    (bench.folder / "link.img").symlink_to(bench.image)
    with serving(valve) as server:
        with started(*install_line(bench, server, *options), cwd=bench.folder) as process:
            assert process.stderr is not None
            wait_for_line(process.stderr, "downloading: 30 %")
            for name in ("disk.img", "link.img"):
                result = run_cli("--image", bench.folder / name, "activate", "B", "--json")
                assert (result.status, result.kind) == (5, Kind.BUSY)
                assert "hint: wait until it has ended, then try again\n" in result.err
            state = ["--state-dir", str(bench.folder / "elsewhere")] if options else []
            assert bench.run("status", *state).out.startswith("Install unfinished")
            valve.is_open.set()
            process.communicate(timeout=20)
        assert process.returncode == 0
    assert bench.boots() == "B"


def test_lock_of_a_process_that_was_killed_is_gone(bench: Bench) -> None:
    with exclusive_lock(bench.state / "lock"):
        assert bench.run("mark-good").status == 5
    assert bench.run("mark-good").status == 0


# Pipes


def shell(script: str, bench: Bench) -> subprocess.CompletedProcess[str]:
    program = " ".join(command_line())
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; agent() {{ {program} "$@"; }}; {script}'],
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_pipe_that_is_closed_early_is_no_failure(bench: Bench) -> None:
    for reader in ("head -1", "head -0", "true"):
        done = shell(f"agent --image disk.img slots | {reader}", bench)
        assert (done.returncode, done.stderr) == (0, ""), reader


def test_install_whose_conversation_nobody_reads_goes_on(bench: Bench) -> None:
    bench.put("p", PAYLOAD)
    done = shell(
        f"agent --image disk.img install --payload p --public-key {RSA_A_PUBLIC} 2>&1 >/dev/null | true", bench
    )
    assert done.returncode == 0
    assert bench.boots() == "B"


def test_answer_that_does_not_fit_on_the_disk_fails_without_a_traceback(bench: Bench) -> None:
    done = shell("agent --image disk.img status --json >/dev/full", bench)
    assert (done.returncode, done.stderr) == (
        1,
        "update-agent: stdout: cannot write: No space left on device\n",
    )
    assert shell("agent --image none --json >/dev/full", bench).returncode == 1


def test_nothing_is_coloured_and_no_bar_is_drawn_in_pipes(bench: Bench) -> None:
    bench.put("p", PAYLOAD)
    done = shell(
        f"agent --image disk.img install --payload p --public-key {RSA_A_PUBLIC}; agent --image disk.img", bench
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


def test_glyphs_and_names_outside_the_encoding_are_escaped(bench: Bench) -> None:
    done = shell("PYTHONIOENCODING=ascii agent --image disk.img", bench)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u25cf A" in done.stdout
    os.rename(bench.put("x", PAYLOAD), os.fsencode(bench.folder) + b"/bad\xff.payload")
    done = shell("PYTHONIOENCODING=utf-8 agent payload inspect bad*.payload", bench)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bad\\udcff.payload: format 2")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["repair"], 2), (["--image", "disk.img"], 0), (["--image", "none"], 1), (["--image", "disk.img", "rollback"], 5)],
)
def test_exit_status_reaches_the_shell(bench: Bench, arguments: list[str], status: int) -> None:
    result = run_program(*arguments, cwd=bench.folder)
    assert result.status == status
    assert "Traceback" not in result.err


def test_traceback_only_when_asked_twice(bench: Bench) -> None:
    assert "Traceback" not in run_program("--image", "none", "-v", cwd=bench.folder).err
    assert "Traceback" in run_program("--image", "none", "-vv", cwd=bench.folder).err


def test_resume_is_said_with_verbose(bench: Bench) -> None:
    with serving(lambda connection, _: connection.close()) as server:
        result = run_program(*install_line(bench, server, "--attempts", "2", "-v"))
    assert result.status == 1
    assert "update-agent: http://127.0.0.1:" in result.err
    assert "trying again in 1 s" in result.err


# Terminals


def run_on_terminal(bench: Bench, *arguments: str, interrupt_at: bytes | None = None) -> tuple[int, str]:
    """Exit status, and what stdout and stderr wrote to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        command_line(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=bench.folder,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = _read_terminal(ours, process, interrupt_at)
        status = process.wait(10)
    os.close(ours)
    return status, seen.decode()


def _read_terminal(ours: int, process: subprocess.Popen[bytes], interrupt_at: bytes | None) -> bytes:
    seen, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            more = os.read(ours, 65536)
        except OSError:  # EIO: nobody holds the other end
            return seen
        if not more:
            return seen
        seen += more
        if interrupt_at is not None and interrupt_at in seen:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    process.kill()
    raise AssertionError(seen)


def test_terminal_gets_colours_and_a_bar_that_goes_away(bench: Bench) -> None:
    bench.put("p", PAYLOAD)
    status, seen = run_on_terminal(
        bench, "--image", "disk.img", "install", "--payload", "p", "--public-key", str(RSA_A_PUBLIC)
    )
    assert status == 0
    for word in ("downloading", "verifying", "finalizing", "KiB", "Installed 2.0.0"):
        assert word in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "\x1b[1mUpdate installed" in run_on_terminal(bench, "--image", "disk.img")[1]


def test_terminal_gets_its_cursor_back_after_an_interrupt(bench: Bench, valve: Valve) -> None:
    with serving(valve) as server:
        status, seen = run_on_terminal(bench, *install_line(bench, server), interrupt_at=b"downloading")
        valve.is_open.set()
    assert status == 130
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    assert "interrupted" in seen
    bench.assert_old_release_boots()


def test_terminal_gets_no_colours_when_it_does_not_want_them(bench: Bench) -> None:
    assert "\x1b" not in run_on_terminal(bench, "--image", "disk.img", "--color", "never")[1]
