"""What is wrong around the real daemon is told by kind wherever somebody may look, and the daemon lives on."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW, OLD
from tests.support.daemons import OTHER_SERVER, NodeDaemon, node_daemon
from tests.support.dbus import needs_dbus, private_bus, request_name
from tests.support.faulty_fleets import FaultyFleet, built_payload
from tests.support.payloads import RSA_A_PUBLIC, RSA_B_PUBLIC, make_payload
from tests.support.processes import wait_until
from tests.support.servers import serving
from tests.support.slot_disks import SLOT_BYTES, make_file_system, make_tree, mounts_at, require_private_mounts
from tests.support.told import assert_next_succeeds, assert_told
from update_agent.api.forms import ExitStatus
from update_agent.errors import Kind

pytestmark = needs_dbus

PAYLOAD = make_payload(NEW)
NAMES = ("com.coreos.update1", "org.updateagent1")


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def node(tmp_path: Path, fleet: FaultyFleet) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node, serving(fleet) as server:
        node.configure(server.url)
        yield node


# Keys


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (RSA_B_PUBLIC.read_bytes(), Kind.SIGNATURE_INVALID),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Kind.KEY_MALFORMED),
        (None, Kind.KEY_MISSING),
    ],
    ids=["wrong", "damaged", "missing"],
)
def test_key_that_does_not_do_installs_nothing(
    node: NodeDaemon, fleet: FaultyFleet, key: bytes | None, kind: Kind
) -> None:
    path = node.keys / "release.pem"
    path.unlink()
    if key is not None:
        path.write_bytes(key)
    result = node.start().install()
    assert_told(node, result, kind, 18 | OTHER_SERVER)
    assert fleet.codes == [18 | OTHER_SERVER]
    assert node.bench.boots() == "A"
    path.write_bytes(RSA_A_PUBLIC.read_bytes())
    assert_next_succeeds(node, fleet, PAYLOAD)


# The state file


def half_written(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage",
    [half_written, lambda _: b"", lambda _: b"\0" * 4096, lambda data: data.replace(b'"schema": 1', b'"schema": 9')],
    ids=["half", "empty", "zeros", "newer"],
)
def test_state_file_that_is_damaged_is_kept_aside_and_told(
    node: NodeDaemon, fleet: FaultyFleet, damage: Callable[[bytes], bytes]
) -> None:
    fleet.version = ""
    node.start().cli("check")
    node.stop()
    damaged = damage(node.state_file.read_bytes())
    node.state_file.write_bytes(damaged)
    node.start()
    (warning,) = node.properties["Warnings"]
    assert "starting with an empty state" in warning
    assert node.status["warnings"] == [warning]
    assert warning in node.log
    aside = node.state_file.with_name("state.json.damaged")
    assert str(aside) in warning
    assert aside.read_bytes() == damaged
    fleet.version = "2.0.0"
    assert_next_succeeds(node, fleet, PAYLOAD)
    assert node.state["pending"]["version"] == "2.0.0"


def test_state_file_that_is_a_folder_is_kept_aside(node: NodeDaemon, fleet: FaultyFleet) -> None:
    node.state_file.mkdir(parents=True)
    node.start()
    assert "state.json: cannot read: Is a directory" in node.properties["Warnings"][0]
    assert_next_succeeds(node, fleet, PAYLOAD)
    assert node.state["pending"]["version"] == "2.0.0"


def test_disk_full_for_the_state_file_is_told_and_the_update_goes_on(node: NodeDaemon, fleet: FaultyFleet) -> None:
    require_private_mounts()
    folder = node.state_file.parent
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    try:
        with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        result = node.start().install()
        assert (result.status, node.bench.boots()) == (ExitStatus.DONE, "B")
        (warning,) = node.properties["Warnings"]
        assert "state.json: cannot write: No space left on device" in warning
        assert node.status["warnings"] == [warning]
        assert node.log.count("No space left on device") == 1
        assert not node.state_file.exists()
        (folder / "ballast").unlink()
        assert node.cli("check").status == ExitStatus.DONE
        assert node.properties["Warnings"] == []
        assert node.state["pending"]["version"] == "2.0.0"
        node.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    assert not mounts_at(folder)


# Configuration


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[server]\nurl = \n", "20-bad.toml:2"),
        ('[check]\n\ninterval = "often"\n', "20-bad.toml:3"),
        ("[check]\ninterval_secs = -1\n", "20-bad.toml:2"),
    ],
    ids=["no TOML", "unknown key", "bad value"],
)
def test_fragment_that_is_broken_is_a_warning_with_its_line(
    node: NodeDaemon, fleet: FaultyFleet, text: str, place: str
) -> None:
    path = node.root / "etc/update-agent/config.d/20-bad.toml"
    path.write_text(text)
    node.start()
    (warning,) = node.properties["Warnings"]
    assert place in warning
    assert node.status["warnings"] == [warning]
    assert f"update-agentd: {warning}\n" in node.log
    assert_next_succeeds(node, fleet, PAYLOAD)
    path.unlink()
    assert node.cli("reload").status == ExitStatus.DONE
    assert node.properties["Warnings"] == []


def test_server_that_is_disabled_is_asked_nothing(node: NodeDaemon, fleet: FaultyFleet) -> None:
    node.configure("disabled", check_automatic=True, check_first_delay_secs=0)
    node.start()
    result = node.install()
    assert result.status == ExitStatus.USAGE
    assert "updates are disabled by configuration" in result.err
    assert (node.properties["State"], node.properties["NextCheckAt"]) == ("idle", 0)
    client = node.bus.run(sys.executable, "-m", "update_agent.cli.compat", "-update")
    assert (client.returncode, "updates are disabled by configuration" in client.stderr) == (1, True)
    assert fleet.heard == []
    assert node.install("--payload", str(node.bench.put("new.payload", PAYLOAD))).status == ExitStatus.DONE
    assert node.bench.boots() == "B"


# The bus


def test_policy_that_denies_the_name_ends_the_daemon_with_a_reason(tmp_path: Path) -> None:
    with private_bus(with_policy=False) as bus, node_daemon(tmp_path, bus=bus) as node:
        process = node.spawn()
        assert process.wait(20) == 1
        assert f"the bus denies the name {NAMES[0]}" in node.log
        assert "with its policy files" in node.log
        assert "Traceback" not in node.log


@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_taken_ends_the_daemon_with_a_reason(node: NodeDaemon, name: str) -> None:
    other = node.bus.connect()
    assert request_name(other, name) == 1
    process = node.spawn()
    assert process.wait(20) == 1
    assert f"update-agentd: D-Bus: the name {name} is taken (see who has it: busctl status {name})\n" in node.log
    other.close_sync(None)
    node.start()
    assert node.properties["State"] == "idle"


def test_bus_that_comes_late_is_waited_for(node: NodeDaemon, fleet: FaultyFleet) -> None:
    node.bus.stop()
    node.start()
    wait_until(lambda: "going on without D-Bus until it is back" in node.log, "the daemon says so")
    node.bus.start()
    wait_until(lambda: "D-Bus is there again" in node.log, "the daemon found the bus")
    assert_next_succeeds(node, fleet, PAYLOAD)


# The disk


def test_disk_that_is_missing_is_told_until_it_is_there(node: NodeDaemon, fleet: FaultyFleet) -> None:
    away = node.bench.image.with_suffix(".away")
    node.bench.image.rename(away)
    node.start()
    (warning,) = node.properties["Warnings"]
    assert f"{node.bench.image}: " in warning
    result = node.install()
    assert_told(node, result, Kind.BOOT_DISK_UNKNOWN, 3 | OTHER_SERVER)
    assert fleet.codes == [3 | OTHER_SERVER]
    away.rename(node.bench.image)
    assert_next_succeeds(node, fleet, PAYLOAD)
    assert node.properties["Warnings"] == []


def test_disk_without_a_partition_table_is_told(node: NodeDaemon, fleet: FaultyFleet) -> None:
    right = node.bench.image.read_bytes()
    node.bench.image.write_bytes(bytes(len(right)))
    result = node.start().install()
    kind = Kind(node.properties["LastError"][0])
    assert kind in {Kind.GPT_INVALID, Kind.BOOT_DISK_UNKNOWN}
    assert_told(node, result, kind, fleet.codes[0])
    node.bench.image.write_bytes(right)
    assert_next_succeeds(node, fleet, PAYLOAD)


# Post-install


@pytest.mark.parametrize(
    ("script", "settings", "kind"),
    [
        ("exec sleep 60", {"install_postinstall_timeout_secs": 1}, Kind.POSTINSTALL_TIMEOUT),
        ("kill -9 $$", {}, Kind.POSTINSTALL_FAILED),
        (None, {"install_postinstall": "required"}, Kind.POSTINSTALL_MISSING),
    ],
    ids=["hangs", "dies", "missing"],
)
def test_post_install_that_goes_wrong_is_told_and_reported(
    tmp_path: Path, script: str | None, settings: dict[str, object], kind: Kind
) -> None:
    require_private_mounts()
    text = None if script is None else f"#!/bin/sh\n{script}\n"
    payload = built_payload("2", usr=make_file_system(make_tree(tmp_path / "tree", text), tmp_path / "usr.img"))
    fleet = FaultyFleet(payload)
    with node_daemon(tmp_path, content=OLD.ljust(SLOT_BYTES, b"\0")) as node, serving(fleet) as server:
        node.configure(server.url, **settings)
        result = node.start().install()
        assert_told(node, result, kind, 5 | OTHER_SERVER)
        assert (fleet.heard, fleet.codes) == (["check", "13/1", "GET", "14/1", "3/0"], [5 | OTHER_SERVER])
        assert (node.bench.boots(), node.bench.flags("B")) == ("A", (0, 0, 0))
        node.configure(install_postinstall="if-present")
        node.cli("reload")
        assert_next_succeeds(node, fleet, PAYLOAD)


# The child process


def test_child_that_cannot_be_started_is_told(node: NodeDaemon, fleet: FaultyFleet) -> None:
    """Without memory for another process; here without descriptors for its pipes."""
    node.start()
    used = {int(name) for name in os.listdir(f"/proc/{node.pid}/fd")}
    lowest_free = min(set(range(max(used) + 2)) - used)
    before = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    result = node.install()
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, before)
    assert_told(node, result, Kind.WORKER_DIED, 0)
    assert result.status == ExitStatus.FAILED
    assert fleet.heard == []
    assert_next_succeeds(node, fleet, PAYLOAD)
