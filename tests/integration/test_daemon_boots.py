"""What the real daemon makes of the boot after an update: into the new release, or back into the old one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW
from tests.support.daemons import OTHER_SERVER, NodeDaemon, node_daemon
from tests.support.dbus import needs_dbus
from tests.support.faulty_fleets import FaultyFleet
from tests.support.payloads import make_payload
from tests.support.processes import wait_until
from tests.support.servers import ScriptedServer, serving
from tests.support.slot_disks import require_private_mounts
from update_agent.api.forms import ExitStatus
from update_agent.errors import Kind

pytestmark = needs_dbus

PAYLOAD = make_payload(NEW)


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def server(fleet: FaultyFleet) -> Iterator[ScriptedServer]:
    with serving(fleet) as server:
        yield server


@pytest.fixture
def node(tmp_path: Path, server: ScriptedServer) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node:
        node.configure(server.url)
        yield node


def by_itself(node: NodeDaemon) -> None:
    """From the next start on, ask at once; then not for a long time."""
    node.configure(check_automatic=True, check_first_delay_secs=0, check_interval_secs=3600)


@pytest.fixture
def updated(node: NodeDaemon) -> NodeDaemon:
    """Ended while an update waits for its reboot."""
    require_private_mounts()
    assert node.start().install().status == ExitStatus.DONE
    assert node.stop() == 0
    node.boot_id = "11111111-2222-3333-4444-555555555555"
    return node


def test_boot_into_the_new_release_ends_the_wait_and_is_told(
    updated: NodeDaemon, fleet: FaultyFleet, server: ScriptedServer
) -> None:
    node = updated
    assert node.bench.run("next-boot", "--consume").out == "B\n"
    node.booted = "B"
    node.configure(server_running_version="2.0.0")
    fleet.heard.clear()
    node.start()
    assert node.compat[1:] == (0.0, "UPDATE_STATUS_IDLE", "0.0.0", 0)
    assert not (node.root / "run/reboot-required").exists()
    assert "first boot of 2.0.0" in node.log
    assert node.cli("mark-good").status == ExitStatus.DONE
    fleet.version = ""
    for _ in range(2):
        assert node.cli("check").status == ExitStatus.DONE
    events = [each.body for each in server.received if b"<updatecheck" in each.body][-2:]
    assert b'eventtype="3" eventresult="2" previousversion="1.0.0"' in events[0]
    assert b'eventtype="3" eventresult="2" previousversion=""' in events[1]
    assert b'bootid="{11111111-2222-3333-4444-555555555555}"' in events[0]
    assert node.bench.boots() == "B"


def test_boot_that_fell_back_is_told_and_the_release_is_not_tried_again_by_itself(
    updated: NodeDaemon, fleet: FaultyFleet, server: ScriptedServer
) -> None:
    node = updated
    assert node.bench.run("next-boot", "--consume").out == "B\n"
    by_itself(node)
    fleet.heard.clear()
    node.start()
    wait_until(lambda: "3/9" in fleet.heard and node.child is None, "the timer has asked")
    body = next(each.body for each in reversed(server.received) if b"<updatecheck" in each.body)
    assert b'<event eventtype="3" eventresult="0" errorcode="44">' in body
    assert (fleet.heard, fleet.codes) == (["check", "3/9"], [44, 35 | OTHER_SERVER])
    (release,) = node.properties["BadReleases"]
    assert release[:2] == ("2.0.0", "fell back after its first boot")
    assert "expected 2.0.0 to run from slot B, got slot A" in node.log
    assert (node.properties["State"], node.properties["LastError"][0]) == ("idle", Kind.BAD_RELEASE)
    assert node.bench.boots() == "A"

    result = node.install()
    assert (result.status, "--allow-bad-release" in result.err) == (ExitStatus.REFUSED, True)
    assert fleet.codes == [44, 35 | OTHER_SERVER, 35 | OTHER_SERVER]
    assert node.install("--allow-bad-release").status == ExitStatus.DONE
    assert node.bench.boots() == "B"


def test_boot_that_fell_back_is_shown_before_anybody_asks_the_server(updated: NodeDaemon) -> None:
    assert updated.bench.run("next-boot", "--consume").out == "B\n"
    updated.start()
    kind, message, _, _, code = updated.properties["LastError"]
    assert (kind, code) == (Kind.UPDATE_FELL_BACK, 44)
    assert message in updated.log
    assert updated.status["bad_releases"][0]["version"] == "2.0.0"
    updated.stop()
    updated.start()
    assert updated.log.count(message) == 1


def test_newer_release_after_one_that_fell_back_is_installed_by_itself(updated: NodeDaemon, fleet: FaultyFleet) -> None:
    assert updated.bench.run("next-boot", "--consume").out == "B\n"
    fleet.heal(make_payload(NEW, version="2.0.1"))
    fleet.version = "2.0.1"
    by_itself(updated)
    updated.start()
    updated.wait_for_state("updated-need-reboot")
    assert (updated.compat[3], updated.bench.boots(), fleet.codes) == ("2.0.1", "B", [44])
