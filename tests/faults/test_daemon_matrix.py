"""update_engine's faults and the codes it was seen to report, against the daemon, over HTTP.

The table is `tests.support.fault_table`. Whatever the fault: one event tells the server, the same kind is in the
status, on D-Bus, in the log and in the exit status, the old release boots, and the next update succeeds.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.commands import OLD, Result
from tests.support.daemons import OTHER_SERVER, NodeDaemon, Recording, node_daemon, recording
from tests.support.dbus import needs_dbus
from tests.support.fault_table import CHECKS, ONLY_THE_CHECK, PAYLOADS, SCRIPTS, Row
from tests.support.faulty_fleets import FaultyFleet, built_payload
from tests.support.servers import serving
from tests.support.slot_disks import SLOT_BYTES, make_file_system, make_tree, require_private_mounts
from tests.support.told import assert_told
from update_agent.api.forms import ExitStatus

pytestmark = needs_dbus

DAY_SECS: Final = 24 * 60 * 60


def cases(rows: Sequence[Row]) -> list[Any]:
    return [pytest.param(row, major, id=f"{row.fault}-v{major}") for row in rows for major in row.majors]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeDaemon]:
    with node_daemon(tmp_path) as node:
        yield node.start()


def test_every_difference_is_explained() -> None:
    rows = [*CHECKS, *PAYLOADS, *SCRIPTS]
    assert all(row.why for row in rows if row.upstream not in {row.code, None})
    covered = {(row.fault, row.upstream) for row in rows if row.upstream is not None}
    assert len(covered) == len([row for row in rows if row.upstream is not None])


@pytest.mark.parametrize(("row", "major"), cases(CHECKS + PAYLOADS))
def test_fault_is_told_everywhere_and_the_next_update_succeeds(node: NodeDaemon, row: Row, major: str) -> None:
    run_row(node, row, row.payload(major), built_payload(major))


@pytest.mark.parametrize(("row", "major"), cases(SCRIPTS))
def test_post_install_that_fails_is_told_everywhere_and_the_next_update_succeeds(
    tmp_path: Path, row: Row, major: str
) -> None:
    require_private_mounts()
    bad = make_file_system(make_tree(tmp_path / "tree", row.postinst), tmp_path / "bad.img")
    good = make_file_system(make_tree(tmp_path / "good", "#!/bin/sh\nexit 0\n"), tmp_path / "good.img")
    with node_daemon(tmp_path, content=OLD.ljust(SLOT_BYTES, b"\0")) as node:
        node.start()
        run_row(node, row, built_payload(major, usr=bad), built_payload(major, usr=good))


def run_row(node: NodeDaemon, row: Row, payload: bytes, good: bytes) -> None:
    old, pid = node.bench.content("A"), node.pid
    fleet = FaultyFleet(payload)
    fleet.payload = row.damage(payload)
    if row.announces_damage:
        fleet.announced = fleet.payload
    fleet.check, fleet.edit, fleet.serve = row.check, row.edit, row.serve
    with serving(fleet) as server, recording(node.bus) as signals:
        node.configure(server.url)
        node.cli("reload")
        result = node.install()
        assert result.status == row.exit, result.err
        assert tuple(fleet.heard) == row.heard
        if row.kind is None:
            assert (fleet.codes, node.bench.boots()) == ([], "B")
            return
        signals.wait_for("IDLE")
        assert_row_told(node, row, result, fleet, signals)
        assert_counted(node, row)
        assert (node.bench.boots(), node.bench.content("A")) == ("A", old)
        assert node.bench.flags("B") == ((0, 0, 0) if row.is_target_taken else (1, 0, 1))
        assert node.checkpoint.exists() == row.is_resumable

        fleet.heal(good)
        assert node.install().status == ExitStatus.DONE
        assert (list(dict.fromkeys(fleet.heard)), fleet.codes) == (["check", "13/1", "GET", "14/1", "3/1"], [])
        assert (node.bench.boots(), node.status["last_error"], node.pid) == ("B", None, pid)
        assert node.stop() == 0


def assert_row_told(node: NodeDaemon, row: Row, result: Result, fleet: FaultyFleet, signals: Recording) -> None:
    """Server, D-Bus, both interfaces, status, log and caller say the same."""
    assert row.kind is not None
    assert fleet.codes == [row.code | OTHER_SERVER]
    assert_told(node, result, row.kind, row.code | OTHER_SERVER)
    begins, ends = ["CHECKING_FOR_UPDATE"], ["REPORTING_ERROR_EVENT", "IDLE"]
    assert signals.operations[: len(begins)] == begins
    assert signals.operations[-len(ends) :] == ends
    assert signals.operations.count("REPORTING_ERROR_EVENT") == 1
    assert ("UPDATE_AVAILABLE" in signals.operations) == (row.heard != ONLY_THE_CHECK)


def assert_counted(node: NodeDaemon, row: Row) -> None:
    """What is kept about the payload; with one URL, what counts as an attempt also waits a day."""
    backoff = node.state["backoff"]
    assert (backoff["attempt_number"], backoff["url_failure_count"]) == (row.attempts, row.url_failures)
    assert bool(backoff["signature"]) == (row.heard != ONLY_THE_CHECK)
    waits_secs = backoff["expiry_at"] - time.time()
    assert 0.7 * DAY_SECS < waits_secs < 1.3 * DAY_SECS if row.attempts else backoff["expiry_at"] == 0
