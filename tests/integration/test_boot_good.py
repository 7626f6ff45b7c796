"""The service as a process, on a disk image, with systemd and logind played on a private bus."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import ab_parts, boot_attributes, make_image
from tests.support.stand_ins import Machine, PrivateBus, private_bus
from update_agent.daemon import boot_good
from update_agent.domain.slots import SlotTable
from update_agent.host.blockdev import FileDevice
from update_agent.host.disk import GptDisk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="checks must be files of root")

Flags = tuple[int, int, int]
OLD_GOOD: Flags = (1, 0, 1)
FIRST_BOOT: Flags = (2, 0, 0)
GOOD: Flags = (2, 0, 1)
NOTHING: Flags = (0, 0, 0)
LIMIT_SECS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Files of a machine that runs slot B, and its bus."""

    root: Path
    image: Path
    bus: PrivateBus

    def set_flags(self, a: Flags, b: Flags) -> None:
        self.image.write_bytes(make_image(ab_parts(a=boot_attributes(*a), b=boot_attributes(*b))))

    def flags(self) -> tuple[Flags, Flags]:
        with FileDevice(self.image, writable=False) as device:
            table = SlotTable.from_disk(GptDisk(device, sector_size_bytes=512))
            a, b = ((slot.flags.priority, slot.flags.tries, int(slot.flags.successful)) for slot in table)
        return a, b

    def configure(self, **settings: object) -> None:
        values = {"settle_secs": 0, "interval_secs": 1, "check_timeout_secs": 1, "deadline_secs": 10, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        (self.root / "etc/update-agent/config.d/10-test.toml").write_text("\n".join(["[health]", *lines, ""]))

    def set_uptime(self, secs: float) -> None:
        (self.root / "proc/uptime").write_text(f"{secs} 0.00\n")

    def add_check(self, name: str, script: str) -> Path:
        path = self.root / "etc/update-agent/health.d" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def health(self) -> dict[str, Any]:
        path = self.root / "run/update-agent/health.json"
        document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"verdict": None, "text": ""}
        return document

    def start(self, **environment: str) -> subprocess.Popen[str]:
        module = ["-m", "update_agent.daemon.boot_good"]
        place = ["--root", str(self.root), "--image", str(self.image), "--booted", "B", "--bus", self.bus.address]
        return subprocess.Popen(
            [sys.executable, *module, *place],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def run(self) -> tuple[int, str]:
        """Exit status and what it said."""
        with self.start() as process:
            try:
                return process.wait(LIMIT_SECS), process.communicate()[1]
            finally:
                process.kill()

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        with self.start(**environment) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    root = tmp_path / "root"
    for folder in ("proc/sys/kernel/random", "etc/update-agent/health.d", "etc/update-agent/config.d", "usr/bin"):
        (root / folder).mkdir(mode=0o755, parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    (root / "etc/os-release").write_text("ID=test\nVERSION=2.0.0\nVERSION_ID=2.0.0\n")
    with private_bus(tmp_path / "bus") as bus:
        node = Node(root=root, image=tmp_path / "disk.img", bus=bus)
        node.set_flags(OLD_GOOD, FIRST_BOOT)
        node.set_uptime(5)
        node.configure()
        yield node


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_SECS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_told(node: Node, verdict: str, words: str = "") -> Callable[[], bool]:
    return lambda: node.health()["verdict"] == verdict and words in node.health()["text"]


def test_healthy_boot_is_marked_good_and_told(node: Node, tmp_path: Path) -> None:
    node.add_check("10-env", f"exec env > {tmp_path}/env")
    status, said = node.run()
    assert status == 0, said
    assert node.flags() == (OLD_GOOD, GOOD)
    health = node.health()
    assert (health["schema"], health["verdict"]) == (1, "good")
    assert health["boot_id"] == "11111111-2222-3333-4444-555555555555"
    assert "boot good: the system is up, all checks hold (1); slot B is marked good" in said
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert seen["UPDATE_AGENT_SLOT"] == "B"
    assert seen["UPDATE_AGENT_VERSION"] == "2.0.0"
    assert seen["UPDATE_AGENT_BOOT_ID"] == health["boot_id"]
    assert seen.keys() <= {"PATH", "PWD", "SHLVL", "_", *(f"UPDATE_AGENT_{x}" for x in ("SLOT", "VERSION", "BOOT_ID"))}
    assert node.bus.reboots() == 0


def test_second_start_in_a_good_boot_does_nothing(node: Node) -> None:
    assert node.run()[0] == 0
    node.add_check("10-never", "exit 1")
    node.set_flags(OLD_GOOD, FIRST_BOOT)
    assert node.run()[0] == 0
    assert node.flags() == (OLD_GOOD, FIRST_BOOT)


def test_update_that_waits_for_its_reboot_still_boots_next(node: Node) -> None:
    node.set_flags((3, 1, 0), FIRST_BOOT)
    assert node.run()[0] == 0
    assert node.flags() == ((3, 1, 0), GOOD)


def test_target_is_waited_for_and_failed_units_are_named(node: Node) -> None:
    node.bus.be(Machine(target="inactive", failed=("api.service",)))
    node.configure(deadline_secs=600)
    with node.running() as process:
        words = "boot-complete.target is not reached (inactive); failed units: api.service"
        wait_until(is_told(node, "waiting", words), "waits for the target")
        assert node.flags() == (OLD_GOOD, FIRST_BOOT)
        node.bus.be(Machine())
        assert process.wait(LIMIT_SECS) == 0
    assert node.flags() == (OLD_GOOD, GOOD)


def test_systemd_that_does_not_answer_is_not_a_system_that_is_up(node: Node, tmp_path: Path) -> None:
    node.configure(deadline_secs=600)
    silent = PrivateBus(address=f"unix:path={tmp_path}/none", folder=tmp_path)
    with Node(root=node.root, image=node.image, bus=silent).running():
        wait_until(is_told(node, "waiting", "boot-complete.target cannot be asked for"), "says that it cannot ask")
    assert node.flags() == (OLD_GOOD, FIRST_BOOT)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 7", "check 10-x failed with exit status 7"),
        ("exec sleep 1000", "check 10-x did not end within 1 s"),
        ("sleep 1000 & exit 1", "check 10-x failed with exit status 1"),
        ("trap '' TERM; while :; do sleep 1000; done", "check 10-x did not end within 1 s"),
    ],
)
def test_boot_with_a_bad_check_falls_back_at_the_deadline(node: Node, script: str, words: str) -> None:
    node.add_check("10-x", script)
    node.set_uptime(8.5)
    before = time.monotonic()
    status, said = node.run()
    assert status == 1, said
    assert time.monotonic() - before >= 1.5
    assert node.flags() == (OLD_GOOD, NOTHING)
    assert node.bus.reboots() == 1
    assert words in node.health()["text"]
    assert node.health()["verdict"] == "bad"
    assert f"{words}; slot B is given up, rebooting into slot A" in said


def test_flapping_check_never_makes_a_good_boot(node: Node, tmp_path: Path) -> None:
    node.configure(settle_secs=2)
    node.set_uptime(6)
    node.add_check("10-flaps", f"if test -e {tmp_path}/f; then rm {tmp_path}/f; exit 1; else touch {tmp_path}/f; fi")
    status, said = node.run()
    assert status == 1, said
    assert node.flags() == (OLD_GOOD, NOTHING)
    assert node.bus.reboots() == 1


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [(OLD_GOOD, GOOD, "slot B has booted well before"), (NOTHING, FIRST_BOOT, "slot A could not boot")],
)
def test_bad_boot_without_a_way_back_stays_and_can_become_good(node: Node, a: Flags, b: Flags, words: str) -> None:
    node.set_flags(a, b)
    node.set_uptime(500)
    node.configure(deadline_secs=10)
    check = node.add_check("10-x", "exit 1")
    with node.running() as process:
        wait_until(is_told(node, "bad", words), "says that it is bad")
        assert process.poll() is None
        assert node.flags() == (a, b)
        check.write_text("#!/bin/sh\nexit 0\n")
        assert process.wait(LIMIT_SECS) == 0
    assert node.bus.reboots() == 0
    assert node.health()["verdict"] == "good"


@pytest.mark.parametrize(("systemctl", "status_words"), [("exit 0", ""), ("exit 4", "does not reboot"), (None, "does")])
def test_reboot_that_logind_refuses_goes_to_systemctl(node: Node, systemctl: str | None, status_words: str) -> None:
    node.bus.be(Machine(target="inactive", reboot="org.freedesktop.login1.BlockedByInhibitorLock"))
    node.set_uptime(9)
    if systemctl is not None:
        program = node.root / "usr/bin/systemctl"
        program.write_text(f'#!/bin/sh\necho "$@" > {node.root}/systemctl\n{systemctl}\n')
        program.chmod(0o755)
    status, said = node.run()
    assert status == 1, said
    assert "BlockedByInhibitorLock" in said
    assert status_words in node.health()["text"]
    assert node.flags() == (OLD_GOOD, NOTHING)
    if systemctl is not None:
        assert (node.root / "systemctl").read_text() == "reboot\n"


def test_given_up_slot_that_is_healthy_after_all_stays_given_up(node: Node) -> None:
    node.set_flags(OLD_GOOD, NOTHING)
    status, said = node.run()
    assert status == 1, said
    assert node.flags() == (OLD_GOOD, NOTHING)
    assert "update-agent mark-good B" in node.health()["text"]
    assert node.bus.reboots() == 0


def test_disk_that_is_busy_is_marked_when_it_is_free(node: Node) -> None:
    with node.image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with node.running() as process:
            wait_until(is_told(node, "waiting", "another update-agent is at work"), "says that it waits")
            assert node.flags() == (OLD_GOOD, FIRST_BOOT)
            fcntl.flock(file, fcntl.LOCK_UN)
            assert process.wait(LIMIT_SECS) == 0
    assert node.flags() == (OLD_GOOD, GOOD)


def test_disk_that_is_busy_at_the_deadline_is_given_up_when_it_is_free(node: Node) -> None:
    node.bus.be(Machine(target="inactive"))
    node.set_uptime(9)
    with node.image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with node.running() as process:
            wait_until(is_told(node, "bad", "another update-agent is at work"), "says that it waits")
            assert node.bus.reboots() == 0
            fcntl.flock(file, fcntl.LOCK_UN)
            assert process.wait(LIMIT_SECS) == 1
    assert node.flags() == (OLD_GOOD, NOTHING)
    assert node.bus.reboots() == 1


def test_crash_between_the_mark_and_the_record_is_made_good_by_the_next_start(node: Node) -> None:
    assert node.run()[0] == 0
    (node.root / "run/update-agent/health.json").write_text('{"schema": 1, "boot')
    before = node.image.read_bytes()
    status, said = node.run()
    assert status == 0
    assert "health: expected what the agent wrote" in said
    assert node.health()["verdict"] == "good"
    assert node.image.read_bytes() == before


def test_bad_health_after_a_crash_between_the_mark_and_the_record_does_not_reboot(node: Node) -> None:
    assert node.run()[0] == 0
    (node.root / "run/update-agent/health.json").unlink()
    node.add_check("10-x", "exit 1")
    node.set_uptime(500)
    with node.running():
        wait_until(is_told(node, "bad", "slot B has booted well before"), "says that it is bad and stays")
    assert node.bus.reboots() == 0


def test_timer_marks_good_without_a_look(node: Node) -> None:
    node.bus.be(Machine(target="inactive"))
    node.configure(mode="timer", timer_secs=1)
    node.add_check("10-x", "exit 1")
    assert node.run()[0] == 0
    assert node.flags() == (OLD_GOOD, GOOD)


def test_off_leaves_the_slot_to_others(node: Node) -> None:
    node.configure(mode="off")
    assert node.run()[0] == 0
    assert node.flags() == (OLD_GOOD, FIRST_BOOT)
    assert node.health()["verdict"] == "off"


def test_service_manager_hears_that_it_has_started_and_what_it_waits_for(node: Node, tmp_path: Path) -> None:
    node.bus.be(Machine(target="inactive"))
    node.configure(deadline_secs=600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT_SECS)
        with node.running(NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert manager.recv(4096) == b"READY=1"
            assert manager.recv(4096) == b"STATUS=waiting: boot-complete.target is not reached (inactive)"
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_SECS) == -signal.SIGTERM


def test_disk_that_cannot_be_found_is_told(node: Node) -> None:
    node.image.unlink()
    node.configure(deadline_secs=600)
    with node.running():
        wait_until(is_told(node, "waiting", "cannot be marked good yet"), "says that there is no disk")


def test_other_machine_than_the_running_one_needs_its_bus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["--root", str(tmp_path)], ["--image", "disk.img"]):
        with pytest.raises(SystemExit) as caught:
            boot_good.main(arguments)
        assert caught.value.code == 2
    assert "need --bus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ('ConfigurationError(Kind.CONFIGURATION, "fragment: broken", hint="mend it")', "fragment: broken (mend it)"),
        ('ValueError("bug")', "ValueError: bug"),
    ],
)
def test_what_decides_nothing_has_an_exit_status_of_its_own(tmp_path: Path, error: str, words: str) -> None:
    program = f"""
import sys
from update_agent.daemon import boot_good
from update_agent.errors import ConfigurationError, Kind
def load(paths):
    raise {error}
boot_good.load = load
sys.exit(boot_good.main(["--root", "{tmp_path}", "--bus", "unix:path={tmp_path}/none"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == boot_good.CRASHED
    assert words in done.stderr


def test_wrong_setting_is_told_and_uptime_that_cannot_be_read_is_the_kernels(node: Node) -> None:
    node.configure(surprise=1)
    (node.root / "proc/uptime").unlink()
    status, said = node.run()
    assert status == 0
    assert "surprise" in said
    assert node.health()["started_uptime_secs"] <= time.clock_gettime(time.CLOCK_BOOTTIME)
