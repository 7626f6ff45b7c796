"""The command line, the real daemon and a disk image, together."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW, Bench, Result, make_bench, run_cli, started, wait_for_line
from tests.support.dbus import wait_until
from tests.support.payloads import RSA_A_PUBLIC, make_payload
from tests.support.servers import serving
from tests.support.stand_ins import bus_without_services
from tests.support.valve import Valve

PAYLOAD = make_payload(NEW, op_bytes=4096)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with bus_without_services(tmp_path / "bus") as address:
        yield address


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "root/etc/update-agent/config.d"
    folder.mkdir(parents=True)
    (folder / "test.toml").write_text(
        '[server]\nurl = "http://127.0.0.1:1/"\n[install]\npublic_keys = ["/key.pem"]\n[metrics]\nsocket = ""\n'
    )
    (tmp_path / "root/key.pem").write_bytes(RSA_A_PUBLIC.read_bytes())
    return make_bench(tmp_path)


@pytest.fixture
def run(address: str) -> Callable[..., Result]:
    return lambda *arguments: run_cli("--bus", address, *arguments)


@contextlib.contextmanager
def daemon(bench: Bench, address: str, run: Callable[..., Result]) -> Iterator[subprocess.Popen[bytes]]:
    """`update-agentd` on the image, reachable; ended at the end of the block."""
    command = [sys.executable, "-m", "update_agent.daemon.main", "--image", str(bench.image), "--bus", address]
    with subprocess.Popen([*command, "--root", str(bench.folder / "root")], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: run("is-pending").status != 4)
            yield process
        finally:
            process.kill()


def test_install_through_the_daemon_is_there_after_its_restart_and_can_be_given_up(
    bench: Bench, address: str, run: Callable[..., Result]
) -> None:
    payload = bench.put("p", PAYLOAD)
    with daemon(bench, address, run):
        result = run("install", "--payload", payload)
        assert (result.status, result.out.split(" (")[0]) == (0, "Installed 2.0.0 in slot B, it boots next")
    assert bench.boots() == "B"
    with daemon(bench, address, run):
        assert run("is-pending").out == "yes: 2.0.0 boots next\n"
        assert run("rollback").status == 5
        assert run("reset").status == 0
        assert run("is-pending").status == 3
    bench.assert_old_release_boots()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_daemon_that_ends_during_an_install_is_followed_into_its_next_life(
    bench: Bench, address: str, run: Callable[..., Result], number: signal.Signals
) -> None:
    valve = Valve(PAYLOAD)
    with serving(valve) as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(daemon(bench, address, run))
        process = stack.enter_context(started("--bus", address, "install", "--payload", server.url))
        assert process.stderr is not None
        wait_for_line(process.stderr, "downloading: ")
        first.send_signal(number)
        wait_for_line(process.stderr, "update-agentd has gone")
        valve.is_open.set()
        stack.enter_context(daemon(bench, address, run))
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.split(" (")[0]) == (0, "Installed 2.0.0 in slot B, it boots next")
    assert bench.content("B")[: len(NEW)] == NEW


def test_cancel_ends_an_install_of_the_daemon(bench: Bench, address: str, run: Callable[..., Result]) -> None:
    valve = Valve(PAYLOAD)
    with serving(valve) as server, daemon(bench, address, run):
        with started("--bus", address, "install", "--payload", server.url) as process:
            assert process.stderr is not None
            wait_for_line(process.stderr, "downloading: ")
            assert run("cancel").out.startswith("Cancelled")
            process.communicate(timeout=20)
            assert process.returncode == 130
        assert run("cancel").out == "Nothing was under way\n"
        valve.is_open.set()
    bench.assert_old_release_boots()
