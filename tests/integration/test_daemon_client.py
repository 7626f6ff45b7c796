"""`update_engine_client` against the real daemon."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW, Result
from tests.support.daemons import NodeDaemon, node_daemon
from tests.support.dbus import needs_dbus
from tests.support.faulty_fleets import FaultyFleet, Held
from tests.support.payloads import make_payload
from tests.support.processes import wait_until
from tests.support.servers import serving

pytestmark = needs_dbus

PAYLOAD = make_payload(NEW)
CLIENT = (
    "import sys; from update_agent.cli.compat import Pace, main; "
    "sys.exit(main(pace=Pace(poll_secs=0.2, retry_secs=0.2)))"
)


@pytest.fixture
def fleet() -> FaultyFleet:
    return FaultyFleet(PAYLOAD)


@pytest.fixture
def node(tmp_path: Path, fleet: FaultyFleet) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node, serving(fleet) as server:
        node.configure(server.url)
        yield node


def client(node: NodeDaemon, *flags: str, **more: str) -> Result:
    """`update_engine_client`, which polls sooner."""
    command = [sys.executable, "-c", CLIENT, *flags]
    environment = {**node.bus.environment, **more}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def test_client_cannot_reset_while_an_update_is_under_way(node: NodeDaemon, fleet: FaultyFleet) -> None:
    fleet.serve = held = Held(PAYLOAD)
    node.start()
    assert client(node, "-check_for_update").status == 0
    assert held.is_held.wait(20)
    assert client(node, "-reset_status").status == 1
    held.gate.set()
    wait_until(lambda: node.compat[2] == "UPDATE_STATUS_UPDATED_NEED_REBOOT", "the update is there")


def test_client_updates_waits_and_resets(node: NodeDaemon) -> None:
    node.start()
    result = client(node, "-update")
    assert result.status == 0
    assert result.err.endswith("] Update succeeded -- reboot needed.\n")
    size = f"NEW_VERSION=2.0.0\nNEW_SIZE={len(PAYLOAD)}\n"
    assert client(node, "-status").out.endswith(f"CURRENT_OP=UPDATE_STATUS_UPDATED_NEED_REBOOT\n{size}")
    assert client(node, "-update").status == 0
    assert client(node, "-reset_status").status == 0
    assert client(node, "-status").out.endswith("CURRENT_OP=UPDATE_STATUS_IDLE\nNEW_VERSION=0.0.0\nNEW_SIZE=0\n")
    assert node.bench.boots() == "A"


def test_client_without_an_update_says_so(node: NodeDaemon, fleet: FaultyFleet) -> None:
    fleet.version = ""
    node.start()
    result = client(node, "-update")
    assert result.status == 0
    assert result.err.endswith("] No update available\n")


@pytest.mark.parametrize(("compat", "status"), [("", 1), ("1", 0)])
def test_client_of_an_update_that_fails_ends_with_1_unless_it_is_to_be_compatible(
    node: NodeDaemon, fleet: FaultyFleet, compat: str, status: int
) -> None:
    fleet.payload = PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1])
    node.start()
    result = client(node, "-update", UPDATE_ENGINE_CLIENT_COMPAT=compat)
    assert result.status == status
    assert ("[payload-hash]" in result.err) == bool(status)


def test_client_that_watches_sees_every_state(node: NodeDaemon) -> None:
    node.start()
    command = [sys.executable, "-c", CLIENT, "-watch_for_updates"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=node.bus.environment) as process:
        assert process.stderr is not None
        assert "Watching for status updates." in process.stderr.readline()
        assert client(node, "-check_for_update").status == 0
        seen: list[str] = []
        while seen[-1:] != ["UPDATED_NEED_REBOOT"]:
            line = process.stderr.readline()
            assert line, seen
            _, found, word = line.strip().partition("current_operation: UPDATE_STATUS_")
            seen += [word] if found else []
        process.terminate()
    words = ["CHECKING_FOR_UPDATE", "UPDATE_AVAILABLE", "DOWNLOADING", "VERIFYING", "FINALIZING", "UPDATED_NEED_REBOOT"]
    assert list(dict.fromkeys(seen)) == words
