"""The post-install of a real release, run by the child process that has given up what it does not need."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Bench, make_bench
from tests.support.fleets import Fleet
from tests.support.payloads import make_payload
from tests.support.processes import is_running, wait_until
from tests.support.servers import serving
from tests.support.slot_disks import SLOT_BYTES, make_file_system, make_tree, require_private_mounts
from tests.support.workers import WorkerRun, make_job
from update_agent.domain.messages import Advanced, Message
from update_agent.errors import Kind

LIMIT_SECS = 4.0
OTHER_SERVER = 1 << 28


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    require_private_mounts()
    return make_bench(tmp_path, content=os.urandom(SLOT_BYTES))


def release(bench: Bench, postinst: str | None) -> bytes:
    """A payload with a file system; the script finds its way out by `$OUT`, which is replaced here."""
    if postinst is not None:
        postinst = "#!/bin/sh\n" + postinst.replace("$OUT", str(bench.folder))
    tree = make_tree(bench.folder / "tree", postinst)
    return make_payload(make_file_system(tree, bench.folder / "usr.img"))


def update(
    bench: Bench, fleet: Fleet, run: WorkerRun | None = None, settings: dict[str, Any] | None = None
) -> WorkerRun:
    with serving(fleet) as server:
        return (run or WorkerRun()).run(make_job(bench.folder, server.url, settings=settings))


def test_post_install_runs_in_the_new_slot_before_it_boots(bench: Bench) -> None:
    prefs = bench.folder / "root/var/lib/update_engine/prefs"
    script = f'cat "$(dirname "$0")/release" > $OUT/out; grep -c updatecheck {prefs}/full-response >> $OUT/out'
    run = update(bench, Fleet(release(bench, script)))
    assert run.words[-1] == "Installed", run.messages
    assert (bench.folder / "out").read_text() == "new\n1\n"
    assert bench.boots() == "B"


def test_post_install_that_fails_leaves_the_old_release_and_is_reported(bench: Bench) -> None:
    fleet = Fleet(release(bench, "echo not today; exit 1"))
    run = update(bench, fleet)
    assert run.failure.kind == Kind.POSTINSTALL_FAILED
    assert "not today" in run.failure.message
    assert (fleet.heard, fleet.codes) == (["check", "13/1", "GET", "14/1", "3/0"], [5 | OTHER_SERVER])
    assert bench.boots() == "A"
    assert run.kept.attempt_number == 1


def test_post_install_that_does_not_end_is_ended(bench: Bench) -> None:
    run = update(bench, Fleet(release(bench, "exec sleep 60")), settings={"install.postinstall_timeout_secs": 1})
    assert run.failure.kind == Kind.POSTINSTALL_TIMEOUT
    assert bench.boots() == "A"


def test_post_install_is_left_out_where_it_is_not_wanted(bench: Bench) -> None:
    run = update(bench, Fleet(release(bench, "exit 1")), settings={"install.postinstall": "never"})
    assert run.words[-1] == "Installed"


def test_post_install_that_is_missing_where_one_is_wanted_is_an_error(bench: Bench) -> None:
    run = update(bench, Fleet(release(bench, None)), settings={"install.postinstall": "required"})
    assert run.failure.kind == Kind.POSTINSTALL_MISSING
    assert bench.boots() == "A"


@pytest.mark.parametrize("by_person", [True, False], ids=["person", "daemon"])
def test_cancel_in_post_install_ends_the_script_too(bench: Bench, by_person: bool) -> None:
    pid_file = bench.folder / "pid"

    def on_message(run: WorkerRun, message: Message) -> None:
        if isinstance(message, Advanced) and message.phase == "finalizing":
            wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()))
            run.cancel(by_person=by_person)

    fleet = Fleet(release(bench, "trap '' TERM INT; echo $$ > $OUT/pid; while :; do sleep 1; done"))
    run = update(bench, fleet, WorkerRun(on_message=on_message))
    assert run.took_secs < LIMIT_SECS
    assert "Installed" not in run.words
    assert (run.words[-1] == "Reported") or not by_person
    assert fleet.codes == ([9 | OTHER_SERVER] if by_person else [])
    wait_until(lambda: not is_running(int(pid_file.read_text())))
    assert bench.boots() == "A"
