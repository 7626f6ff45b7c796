"""The command line as a client of the daemon: real D-Bus, a real service, an agent that plays a script."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Result, run_cli, run_program, started, wait_for_line
from tests.support.dbus import NOBODY, needs_dbus
from tests.support.dbus import private_bus as system_bus
from tests.support.node_statuses import (
    CHECKING,
    FOUND,
    GOOD_INSTALL,
    MIB,
    PENDING,
    RUNNING,
    Steps,
    at_rest,
    downloading,
    failure,
)
from tests.support.payloads import DATA
from tests.support.scripted_agent import ScriptedDaemon, scripted_daemon
from tests.support.stand_ins import Machine, PrivateBus, private_bus
from update_agent.api.node import NodeStatus
from update_agent.cli import follow
from update_agent.errors import Kind

GOLDEN = DATA / "golden"
OFFER = {"offered_version": "4230.1.0", "offered_size_bytes": 412 * MIB}
REPORTING = {"state": "reporting-error-event"}
HELD: Steps = (CHECKING, FOUND, downloading(30), {"wait_for": "gate"}, *GOOD_INSTALL[4:])
"""An install that stops at 30 % until the gate is open."""


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBus]:
    with private_bus(tmp_path_factory.mktemp("bus")) as bus:
        yield bus


@pytest.fixture
def daemon(bus: PrivateBus, tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with scripted_daemon(bus.address, tmp_path / "agent") as daemon:
        yield daemon


@pytest.fixture
def run(bus: PrivateBus) -> Callable[..., Result]:
    """The command in this process, on the private bus."""
    return lambda *arguments: run_cli("--bus", bus.address, *arguments)


def start(daemon: ScriptedDaemon, status: NodeStatus = RUNNING, **commands: Steps) -> None:
    daemon.write(status, **commands)
    daemon.start()


def failing(kind: Kind, message: str = "it went wrong", hint: str = "do better") -> Steps:
    return (CHECKING, {**REPORTING, "last_error": failure(kind, message, hint)}, at_rest())


# What it says


@pytest.mark.parametrize("status", [RUNNING, PENDING])
@pytest.mark.parametrize("verb", ["status", "slots", "is-pending"])
def test_json_of_a_look_is_as_kept(
    daemon: ScriptedDaemon, run: Callable[..., Result], status: NodeStatus, verb: str
) -> None:
    start(daemon, status)
    suffix = "-reboot-pending" if status is PENDING else ""
    check_golden(f"node-{verb}{suffix}", run(verb, "--json"))


@pytest.mark.parametrize(
    ("scene", "arguments", "commands"),
    [
        ("check", ["check"], {"check": (CHECKING, at_rest(**OFFER))}),
        ("check-no-update", ["check"], {"check": (CHECKING, at_rest())}),
        ("install", ["install"], {"install": GOOD_INSTALL}),
        ("install-no-update", ["install"], {"install": (CHECKING, at_rest())}),
        ("install-begun", ["install", "--no-wait"], {"install": GOOD_INSTALL}),
        ("install-failed", ["install"], {"install": failing(Kind.SIGNATURE_INVALID)}),
        ("cancel", ["cancel"], {}),
        ("reload", ["reload"], {}),
    ],
)
def test_json_of_a_deed_is_as_kept(
    daemon: ScriptedDaemon, run: Callable[..., Result], scene: str, arguments: list[str], commands: dict[str, Steps]
) -> None:
    start(daemon, replace(RUNNING, warnings=("a.toml:1: unknown key",)), **commands)
    check_golden(f"node-{scene}", run(*arguments, "--json"))


def check_golden(name: str, result: Result) -> None:
    golden = GOLDEN / f"{name}.json"
    found = json.dumps(result.json, indent=2) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()
    assert result.json["schema"] == 1


def test_status_is_what_is_done_without_a_verb(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, PENDING)
    assert run() == run("status")
    assert run().out.startswith("Update installed, reboot pending: 4152.2.1 → 4230.1.0     channel stable\n")


def test_status_warns_of_what_is_not_as_it_should_be(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, replace(RUNNING, warnings=("a.toml:1: unknown key",), gpt_problems=("the backup table is damaged",)))
    result = run("status")
    assert result.status == 0
    assert result.err == (
        "update-agent: warning: the backup table is damaged; the next change of a flag mends it\n"
        "update-agent: warning: a.toml:1: unknown key\n"
    )


def test_slots_shows_partitions_and_content(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon)
    assert run("slots").out.splitlines()[3:] == [
        "slot A: partition 3, 00000000-0000-0000-0000-00000000000a, 1.0 GiB",
        f"  installed 2026-01-02T03:04:05Z, SHA-256 {'ab' * 32}",
        "slot B: partition 4, 00000000-0000-0000-0000-00000000000b, 1.0 GiB",
        f"  installed 2026-01-02T03:04:05Z, SHA-256 {'ab' * 32}",
    ]


def test_status_of_a_node_whose_disk_is_unknown_has_no_slots(
    daemon: ScriptedDaemon, run: Callable[..., Result]
) -> None:
    start(daemon, replace(RUNNING, slots=(), disk=""))
    assert run("status", "--json").json["slots"] == []
    assert run("status").status == 0


@pytest.mark.parametrize(
    ("status", "exit_status", "out"),
    [(RUNNING, 3, "no: 4152.2.1 runs, and boots next\n"), (PENDING, 0, "yes: 4230.1.0 boots next\n")],
)
def test_is_pending_answers_by_its_exit_status_too(
    daemon: ScriptedDaemon, run: Callable[..., Result], status: NodeStatus, exit_status: int, out: str
) -> None:
    start(daemon, status)
    assert run("is-pending") == Result(exit_status, out, "")


# check


@pytest.mark.parametrize(
    ("status", "end", "out"),
    [
        (RUNNING, at_rest(**OFFER), "Update available: 4152.2.1 → 4230.1.0 (412.0 MiB)\n"),
        (RUNNING, at_rest(offered_version="4230.1.0"), "Update available: 4152.2.1 → 4230.1.0\n"),
        (RUNNING, at_rest(), "No update: 4152.2.1 is what the server wants here\n"),
        (
            PENDING,
            {"state": "updated-need-reboot"},
            "No other update: 4152.2.1 → 4230.1.0 waits for its reboot\n",
        ),
    ],
)
def test_check_says_what_the_server_offers(
    daemon: ScriptedDaemon, run: Callable[..., Result], status: NodeStatus, end: dict[str, Any], out: str
) -> None:
    start(daemon, status, check=(CHECKING, end))
    result = run("check")
    assert (result.status, result.out) == (0, out)
    assert daemon.calls() == ["check"]


def test_check_that_fails_says_why_and_what_to_do(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, check=failing(Kind.OMAHA_TRANSFER, "server: no answer", "is it up?"))
    result = run("check", "--json")
    assert (result.status, result.kind) == (1, Kind.OMAHA_TRANSFER)
    assert result.err == "update-agent: server: no answer\nhint: is it up?\n"


def test_check_does_not_tell_an_error_of_before(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    old = replace(RUNNING, last_error=failure(Kind.OMAHA_TRANSFER, "old", at=5))
    start(daemon, old, check=(CHECKING, at_rest(last_error=None)))
    assert run("check").status == 0


@pytest.mark.parametrize("verb", ["check", "install"])
def test_attempt_that_fails_as_the_one_before_fails_too(
    daemon: ScriptedDaemon, run: Callable[..., Result], verb: str
) -> None:
    """Within the same second nothing in the status differs."""
    error = failure(Kind.OMAHA_TRANSFER, "server: no answer")
    before = replace(RUNNING, last_error=error, last_check_at=int(CHECKING["last_check_at"]))
    commands: dict[str, Steps] = {verb: (CHECKING, {**REPORTING, "last_error": error}, at_rest())}
    start(daemon, before, **commands)
    assert run(verb) == Result(1, "", "update-agent: server: no answer\n")


def test_check_while_one_is_under_way_waits_for_its_answer(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, start=(CHECKING, {"wait_for": "gate"}, at_rest(**OFFER)))
    daemon.open_gate("gate")
    assert run("check").out.startswith("Update available")


def test_check_that_ends_before_anybody_looks_is_noticed(
    daemon: ScriptedDaemon, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon does nothing at all: as after an answer that came between the call and the first look."""
    monkeypatch.setattr(follow, "_QUIET_SECS", 0.1)
    monkeypatch.setattr(follow, "_HEARTBEAT_SECS", 0.2)
    start(daemon, check=())
    assert run("check").out.startswith("No update")


# install


def test_install_shows_progress_and_says_what_was_installed(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, install=GOOD_INSTALL)
    result = run("install")
    assert (result.status, result.out) == (
        0,
        "Installed 4230.1.0 in slot B, it boots next (running: 4152.2.1)\n",
    )
    assert "verifying: 100 % of 1.0 GiB\nfinalizing\n" in result.err


def test_install_of_what_waits_already_says_so(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, PENDING, install=(CHECKING, {"state": "updated-need-reboot"}))
    assert run("install").out == "4230.1.0 is in slot B already, it boots next (running: 4152.2.1)\n"


def test_install_of_nothing_is_done(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, install=(CHECKING, at_rest()))
    assert run("install") == Result(0, "No update: 4152.2.1 is what the server wants here\n", "")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Kind.SIGNATURE_INVALID, 6),
        (Kind.HTTP_STATUS, 1),
        (Kind.DOWNGRADE, 5),
        (Kind.INTERRUPTED, 130),
        (Kind.CONFIGURATION, 2),
    ],
)
def test_install_that_fails_ends_by_the_kind_of_the_error(
    daemon: ScriptedDaemon, run: Callable[..., Result], kind: Kind, status: int
) -> None:
    start(daemon, install=failing(kind))
    result = run("install")
    assert (result.status, result.out) == (status, "")
    assert result.err == "update-agent: it went wrong\nhint: do better\n"


def test_install_that_fails_in_a_way_only_a_newer_daemon_knows_names_it(
    daemon: ScriptedDaemon, run: Callable[..., Result]
) -> None:
    error = replace(failure(Kind.BUS, "moonlight"), kind="eclipse")
    start(daemon, install=(CHECKING, at_rest(last_error=error)))
    assert run("install") == Result(1, "", "update-agent: moonlight [eclipse]\n")


def test_install_passes_its_options_on(
    daemon: ScriptedDaemon, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    start(daemon, install=GOOD_INSTALL)
    options = ["--allow-downgrade", "--allow-same-version", "--allow-bad-release", "--target", "b", "--payload", "x"]
    assert run("install", *options, "--no-wait").out == "Begun; to follow it: update-agent watch\n"
    assert daemon.calls() == [
        f"install InstallOptions(payload='{tmp_path}/x', ignore_backoff=True, allow_bad=True, "
        "allow_downgrade=True, allow_same_version=True, target='B')"
    ]


def test_install_passes_a_url_as_it_is(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, install=GOOD_INSTALL)
    run("install", "--no-wait", "--payload", "https://example/p")
    assert "payload='https://example/p'" in daemon.calls()[0]


def test_install_and_reboot_asks_logind_once(
    daemon: ScriptedDaemon, bus: PrivateBus, run: Callable[..., Result]
) -> None:
    start(daemon, install=GOOD_INSTALL)
    before = bus.reboots()
    result = run("install", "--reboot")
    assert (result.status, bus.reboots() - before) == (0, 1)
    assert result.err.endswith("rebooting\n")


def test_install_of_nothing_does_not_reboot(
    daemon: ScriptedDaemon, bus: PrivateBus, run: Callable[..., Result]
) -> None:
    start(daemon, install=(CHECKING, at_rest()))
    before = bus.reboots()
    assert run("install", "--reboot").status == 0
    assert bus.reboots() == before


def test_install_whose_reboot_is_refused_fails(
    daemon: ScriptedDaemon, bus: PrivateBus, run: Callable[..., Result]
) -> None:
    start(daemon, install=GOOD_INSTALL)
    bus.be(Machine(reboot="org.freedesktop.login1.OperationInhibited"))
    try:
        result = run("install", "--reboot")
    finally:
        bus.be(Machine())
    assert result.status == 1
    assert result.out.startswith("Installed 4230.1.0")
    assert "systemd-inhibit" in result.err


def test_install_while_one_is_under_way_follows_it(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, start=HELD)
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "an update is under way already; following it")
        daemon.open_gate("gate")
        out, _ = process.communicate(timeout=20)
    assert out == "Installed 4230.1.0 in slot B, it boots next (running: 4152.2.1)\n"
    assert daemon.calls() == ["start"]


def test_install_while_a_check_is_under_way_begins_after_it(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, start=(CHECKING, {"wait_for": "gate"}, at_rest(**OFFER)), install=GOOD_INSTALL)
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "the daemon asks the update server already")
        daemon.open_gate("gate")
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.split(" in ")[0]) == (0, "Installed 4230.1.0")
    assert [call.split()[0] for call in daemon.calls()] == ["start", "install"]


def test_install_with_options_while_another_is_under_way_is_refused(
    daemon: ScriptedDaemon, run: Callable[..., Result]
) -> None:
    start(daemon, replace(RUNNING, **downloading(30)), install=({"refuse": "wrong-state"},))
    result = run("install", "--allow-downgrade", "--json")
    assert (result.status, result.kind) == (5, Kind.WRONG_STATE)


def test_install_right_after_something_has_ended_is_tried_again(
    daemon: ScriptedDaemon, run: Callable[..., Result]
) -> None:
    """The daemon rests, and its child process is still going away."""
    start(daemon, install=({"refuse": "wrong-state", "times": 1}, *GOOD_INSTALL))
    assert run("install").status == 0
    assert len(daemon.calls()) == 2


def test_install_refused_by_the_daemon_says_why(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, install=({"refuse": "configuration"},))
    assert run("install") == Result(2, "", "update-agent: install: refused by the script\nhint: change the script\n")


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_of_install_leaves_it_running_and_says_how_to_stop_it(
    daemon: ScriptedDaemon, bus: PrivateBus, run: Callable[..., Result], number: signal.Signals
) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "downloading: 30 %")
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err == (
        "update-agent: interrupted; the update goes on in the daemon\n"
        "hint: to follow it: update-agent watch; to stop it: update-agent cancel\n"
    )
    assert run("status").out.startswith("Downloading 4230.1.0")
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "an update is under way already; following it")
        daemon.open_gate("gate")
        assert process.communicate(timeout=20)[0].startswith("Installed 4230.1.0")
    assert [call.split()[0] for call in daemon.calls()] == ["install"]


def test_restart_of_the_daemon_is_said_and_the_install_goes_on(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "downloading: 30 %")
        daemon.stop()
        wait_for_line(process.stderr, "update-agentd has gone; waiting up to 30 s")
        daemon.open_gate("gate")
        start(daemon, start=HELD)
        wait_for_line(process.stderr, "update-agentd is back")
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.split(" in ")[0]) == (0, "Installed 4230.1.0")
    assert [call.split()[0] for call in daemon.calls()] == ["install", "start"]


def test_restart_of_the_daemon_that_then_rests_is_told_again_what_to_install(
    daemon: ScriptedDaemon, bus: PrivateBus
) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "install", "--allow-downgrade") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "downloading: 30 %")
        daemon.stop()
        start(daemon, install=GOOD_INSTALL)
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.split(" in ")[0]) == (0, "Installed 4230.1.0")
    assert [call for call in daemon.calls() if "allow_downgrade=True" in call] == daemon.calls()
    assert len(daemon.calls()) == 2


def test_restart_after_the_install_has_ended_does_not_begin_another(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "install") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "downloading: 30 %")
        daemon.stop()
        start(daemon, PENDING)
        out, _ = process.communicate(timeout=20)
    assert (process.returncode, out.split(" in ")[0]) == (0, "Installed 4230.1.0")
    assert len(daemon.calls()) == 1


def test_daemon_that_does_not_come_back_is_given_up(
    daemon: ScriptedDaemon, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "RETURN_SECS", 0.3)
    start(daemon, install=(CHECKING, {"exit": 1}))
    result = run("install")
    assert result.status == 4
    assert "update-agent: update-agentd: did not come back within" in result.err
    assert "journalctl -u update-agentd" in result.err


@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_daemon_that_hangs_is_told_after_a_time(daemon: ScriptedDaemon, bus: PrivateBus, verb: str) -> None:
    start(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    result = run_program("--bus", bus.address, "--timeout", "0.5", verb, stdin=subprocess.DEVNULL)
    assert (result.status, result.out) == (4, "")
    assert result.err.startswith("update-agent: update-agentd: org.updateagent1: ")
    assert "Timeout" in result.err
    assert "hint: start it: systemctl start update-agentd" in result.err


def test_daemon_that_begins_to_hang_while_it_is_followed_is_told_after_a_time(
    daemon: ScriptedDaemon, bus: PrivateBus
) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "--timeout", "0.5", "install") as process:
        assert process.stderr is not None
        assert daemon.process is not None
        wait_for_line(process.stderr, "downloading: 30 %")
        daemon.process.send_signal(signal.SIGSTOP)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "Timeout" in err


# Nobody there, or somebody who may not


@pytest.mark.parametrize("verb", ["status", "install", "watch", "is-pending", "check", "cancel"])
def test_without_a_daemon_a_verb_says_how_to_start_it(run: Callable[..., Result], verb: str) -> None:
    result = run(verb, "--json")
    assert (result.status, result.kind) == (4, Kind.SERVICE_UNREACHABLE)
    assert "systemctl start update-agentd" in result.err
    assert "journalctl -u update-agentd" in result.err


def test_without_a_bus_a_verb_says_so(tmp_path: Path) -> None:
    result = run_cli("--bus", f"unix:path={tmp_path}/none", "status")
    assert (result.status, result.out) == (4, "")
    assert "--image DISK" in result.err


def test_bus_is_that_of_the_environment(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon)
    assert run_program("status", env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}).status == 0
    assert run_program("status", env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/none"}).status == 4


# What verbs import late is imported before root is given up: the checkout may be where nobody but root can read.
AS_NOBODY = f"""
import importlib, os, pkgutil, sys
from gi.repository import Gio, GLib
import update_agent.api, update_agent.cli, update_agent.host.dbus
for package in (update_agent.api, update_agent.cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(update_agent.cli.main.main())
"""


@needs_dbus
def test_normal_user_may_look_and_not_touch(tmp_path: Path) -> None:
    """With the policy files as they are shipped."""
    with system_bus() as bus, scripted_daemon(bus.address, tmp_path / "agent") as daemon:
        start(daemon)
        program = [sys.executable, "-c", AS_NOBODY]
        looked = bus.run(*program, "status")
        refused = bus.run(*program, "install")
    assert looked.returncode == 0
    assert looked.stdout.startswith("Running 4152.2.1")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "not allowed" in refused.stderr
    assert "\nhint: run it as root" in refused.stderr
    assert daemon.calls() == []


# watch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_prints_every_state_and_survives_a_restart(
    daemon: ScriptedDaemon, bus: PrivateBus, number: signal.Signals
) -> None:
    start(daemon, install=HELD)
    with started("--bus", bus.address, "watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = [process.stdout.readline()]
        run_cli("--bus", bus.address, "install", "--no-wait")
        seen += [process.stdout.readline() for _ in range(3)]
        daemon.stop()
        wait_for_line(process.stderr, "update-agentd has gone")
        start(daemon, PENDING)
        wait_for_line(process.stderr, "update-agentd is back")
        seen.append(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "")
    assert [line[25:-1] for line in seen] == [
        "Running 4152.2.1, no update pending",
        "Asking the update server; running 4152.2.1",
        "Beginning to install 4230.1.0; running 4152.2.1",
        "Downloading 4230.1.0: 123.6 of 412.0 MiB (30 %), 18.0 MiB/s",
        "Update installed, reboot pending: 4152.2.1 → 4230.1.0",
    ]
    assert all(line[4] == "-" and line[19:23] == " UTC" for line in seen)


def test_watch_with_json_prints_an_object_per_line(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, install=GOOD_INSTALL)
    with started("--bus", bus.address, "watch", "--json") as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline())]
        run_cli("--bus", bus.address, "install", "--no-wait")
        while documents[-1]["state"] != "updated-need-reboot":
            documents.append(json.loads(process.stdout.readline()))
    states = [document["state"] for document in documents]
    assert list(dict.fromkeys(states)) == [
        "idle", "checking-for-update", "update-available", "downloading", "verifying", "finalizing",
        "updated-need-reboot",
    ]  # fmt: skip
    assert documents[-1]["slots"][1]["state"] == "next-boot"
    assert documents[0].keys() == documents[-1].keys()


def test_watch_ends_when_nobody_reads_it(daemon: ScriptedDaemon, bus: PrivateBus) -> None:
    start(daemon, install=GOOD_INSTALL)
    with started("--bus", bus.address, "watch") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        run_cli("--bus", bus.address, "install", "--no-wait")
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


# The other verbs


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["mark-good"], "mark_slot None good"),
        (["mark-good", "b"], "mark_slot B good"),
        (["mark-bad", "A"], "mark_slot A bad"),
        (["activate", "B"], "mark_slot B active"),
        (["rollback"], "rollback"),
        (["reset"], "reset"),
    ],
)
def test_change_of_flags_is_asked_for_and_the_status_shown(
    daemon: ScriptedDaemon, run: Callable[..., Result], arguments: list[str], call: str
) -> None:
    start(daemon)
    result = run(*arguments)
    assert (result.status, daemon.calls()) == (0, [call])
    assert result.out == run("status").out
    assert run(*arguments, "--json").json == run("status", "--json").json


@pytest.mark.parametrize(
    ("verb", "command"), [("rollback", "rollback"), ("reset", "reset"), ("mark-bad", "mark_slot"), ("reload", "reload")]
)
def test_change_that_is_refused_is_status_5(
    daemon: ScriptedDaemon, run: Callable[..., Result], verb: str, command: str
) -> None:
    commands: dict[str, Steps] = {command: ({"refuse": "slot-unproven"},)}
    start(daemon, RUNNING, **commands)
    result = run(verb, "--json")
    assert (result.status, result.kind) == (5, Kind.SLOT_UNPROVEN)
    assert result.err.endswith("hint: change the script\n")


@pytest.mark.parametrize(
    ("status", "out"),
    [
        (RUNNING, "Nothing was under way\n"),
        (replace(RUNNING, **downloading(30)), "Cancelled; the next install goes on from here\n"),
    ],
)
def test_cancel_says_whether_there_was_something(
    daemon: ScriptedDaemon, run: Callable[..., Result], status: NodeStatus, out: str
) -> None:
    start(daemon, status)
    assert run("cancel") == Result(0, out, "")


def test_reload_shows_what_the_daemon_found(daemon: ScriptedDaemon, run: Callable[..., Result]) -> None:
    start(daemon, replace(RUNNING, warnings=("a.toml:1: unknown key",)))
    assert run("reload") == Result(0, "Configuration read\n", "update-agent: warning: a.toml:1: unknown key\n")


def test_channel_that_is_chosen_is_told_to_the_daemon(
    daemon: ScriptedDaemon, run: Callable[..., Result], tmp_path: Path
) -> None:
    start(daemon)
    result = run("channel", "beta", "--root", tmp_path)
    assert result.status == 0
    assert daemon.calls() == ["reload"]
    assert run("channel", "--root", tmp_path).out.startswith("beta  # ")


def test_channel_without_a_daemon_is_chosen_all_the_same(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("channel", "beta", "--root", tmp_path).status == 0
    assert run("channel", "--root", tmp_path, "--json").json["channel"] == "beta"


def test_channel_whose_reload_is_refused_says_so(
    daemon: ScriptedDaemon, run: Callable[..., Result], tmp_path: Path
) -> None:
    start(daemon, reload=({"refuse": "busy"},))
    assert run("channel", "beta", "--root", tmp_path).status == 5


def test_import_of_a_cloud_config_is_told_to_the_daemon(
    daemon: ScriptedDaemon, run: Callable[..., Result], tmp_path: Path
) -> None:
    start(daemon)
    file = tmp_path / "user_data"
    file.write_text("#cloud-config\ncoreos:\n  update:\n    group: alpha\n")
    assert run("config", "import-cloud-config", file, "--root", tmp_path).status == 0
    assert daemon.calls() == ["reload"]
    assert 'server.channel = "alpha"' in run("config", "cat", "--root", tmp_path).out


# Programs of others


def test_log_asks_journalctl_for_our_units(tmp_path: Path) -> None:
    fake = tmp_path / "journalctl"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = run_program("log", "--since=-2h", "-f", "-n", "20", "--json", env=environment)
    assert result.out.splitlines() == [
        "--unit=update-agentd", "--unit=update-agent-boot-good", "--output=json", "--since=-2h", "--follow",
        "--lines=20",
    ]  # fmt: skip
    assert run_program("log", env=environment).out.splitlines() == [
        "--unit=update-agentd", "--unit=update-agent-boot-good",
    ]  # fmt: skip


def test_log_without_a_journal_says_where_to_look(tmp_path: Path) -> None:
    result = run_program("log", env={**os.environ, "PATH": str(tmp_path)})
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("update-agent: journalctl: cannot run it: No such file or directory\nhint: ")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_knows_the_verbs(shell: str) -> None:
    result = run_cli("completion", shell)
    assert result.status == 0
    assert all(word in result.out for word in ("is-pending", "--no-wait", "import-cloud-config"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.out, text=True, check=True)


# Options of the other place


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["next-boot"], "next-boot: expected a disk to work on"),
        (["repair"], "repair: expected a disk to work on"),
        (["status", "--booted", "A"], "--booted: works only with --image"),
        (["--state-dir", "x", "status"], "--state-dir: works only with --image"),
        (["install", "--server", "http://x"], "--server: works only with --image"),
        (["install", "--channel", "stable"], "--channel: works only with --image"),
        (["install", "--public-key", "k"], "--public-key: works only with --image"),
        (["install", "--workers", "1"], "--workers: works only with --image"),
        (["install", "--skip-kernel"], "--skip-kernel: works only with --image"),
        (["check", "--proxy", ""], "--proxy: works only with --image"),
        (["mark-good", "--force"], "--force: works only with --image"),
        (["install", "--payload", "x", "--payload", "y"], "expected one --payload"),
        (["install", "--no-wait", "--reboot"], "expected one of --no-wait and --reboot"),
        (["--image", "disk.img", "watch"], "watch: expected no --image, got disk.img"),
        (["--image", "disk.img", "log"], "log: expected no --image, got disk.img"),
        (["--image", "disk.img", "config", "cat"], "config: expected no --image, got disk.img"),
        (["--image", "disk.img", "install", "--no-wait"], "--no-wait: does not work with --image"),
        (["--image", "disk.img", "install", "--allow-bad-release"], "--allow-bad-release: does not work with --image"),
    ],
)
def test_option_of_the_other_place_is_wrong_use(run: Callable[..., Result], arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert words in result.err


def test_verbs_of_the_daemon_import_nothing_heavy() -> None:
    code = (
        "import sys; from update_agent.cli.main import main; main(['--bus', 'unix:path=/none']); "
        "heavy = {'rich', 'requests', 'urllib3', 'cryptography', 'yaml', 'google.protobuf', 'defusedxml'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
