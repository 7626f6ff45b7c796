"""The agent against time that only moves when told and children that say what a test says; the disk is a real image."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.agents import AgentBench, Recorder
from tests.support.commands import make_bench
from tests.support.images import run_sgdisk
from update_agent.api.machine import open_machine
from update_agent.api.node import NodeStatus
from update_agent.config.settings import CheckSettings, InstallSettings, ServerSettings, Settings
from update_agent.daemon.job import JobKind
from update_agent.daemon.ports import CompatStatus, InstallOptions
from update_agent.daemon.view import Health
from update_agent.domain import activation
from update_agent.domain.messages import (
    Advanced,
    BackoffChanged,
    Checked,
    Failed,
    Installed,
    NothingNew,
    Offered,
    Reported,
    TargetTaken,
)
from update_agent.domain.records import SlotRecord
from update_agent.domain.slots import SlotName
from update_agent.domain.state import Backoff
from update_agent.errors import ConfigurationError, Kind, RefusedError, UpdateAgentError
from update_agent.formats.omaha_request import InstallSource

OFFER = Offered(version="2.0.0", size_bytes=1000)
INSTALLED = Installed(slot="B", version="2.0.0", previous_version="1.0.0", size_bytes=1000, key="release")
SETTINGS = Settings(server=ServerSettings(running_version="1.0.0", url="http://server/", channel="beta"))
DAY = 24 * 60 * 60


@pytest.fixture
def bench(tmp_path: Path) -> AgentBench:
    return AgentBench(image=make_bench(tmp_path).image, settings=SETTINGS)


def put_into_b(bench: AgentBench, version: str = "2.0.0") -> None:
    """What the child does to the disk."""
    with open_machine(bench.image, writable=True) as machine:
        activation.activate(machine.disk, machine.slots.b)
        record = SlotRecord(version=version, sha256="ab" * 32, size_bytes=1, installed_at="", is_complete=True)
        machine.records.put(machine.slots.b.unique_guid, record)


def take_b(bench: AgentBench) -> None:
    with open_machine(bench.image, writable=True) as machine:
        activation.deactivate(machine.disk, machine.slots.b)


def boot(bench: AgentBench) -> None:
    """What the boot loader does, into whatever it chooses."""
    with open_machine(bench.image, writable=True) as machine:
        bench.booted = activation.consume_boot(machine.disk).name
    bench.boot_id += "+"
    version = "2.0.0" if bench.booted is SlotName.B else "1.0.0"
    bench.settings = replace(bench.settings, server=replace(bench.settings.server, running_version=version))
    bench.start()


def install(bench: AgentBench) -> None:
    """A whole update that goes well."""
    bench.agent.install(InstallOptions())
    worker = bench.workers.last
    worker.say(Checked(), OFFER)
    take_b(bench)
    worker.say(TargetTaken(), Advanced(phase="downloading", done_bytes=500, total_bytes=1000))
    worker.say(Advanced(phase="verifying", done_bytes=1, total_bytes=2))
    worker.say(Advanced(phase="finalizing", done_bytes=0, total_bytes=1))
    put_into_b(bench)
    worker.say(INSTALLED)
    worker.end()


# --- an update


def test_good_update_goes_through_every_state(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    assert bench.recorder.states == [
        "idle",
        "checking-for-update",
        "update-available",
        "downloading",
        "verifying",
        "finalizing",
        "updated-need-reboot",
    ]
    assert bench.recorder.operations == [
        "IDLE",
        "CHECKING_FOR_UPDATE",
        "UPDATE_AVAILABLE",
        "DOWNLOADING",
        "DOWNLOADING",
        "VERIFYING",
        "FINALIZING",
        "UPDATED_NEED_REBOOT",
    ]
    last = bench.agent.compat_status()
    assert last.to_args()[1:] == (0.0, "UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0", 1000)
    status = bench.agent.status()
    assert (status.pending_version, status.pending_slot, status.next_boot) == ("2.0.0", "B", "B")


def test_job_says_who_asks_and_what_is_known(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions(allow_bad=True))
    job = bench.workers.last.job
    assert (job.kind, job.install_source, job.booted) == (JobKind.UPDATE, InstallSource.ON_DEMAND, "A")
    assert job.disk == str(bench.image)
    assert job.options.allow_bad
    assert job.previous_version is None
    app = job.app
    assert (app.version, app.track, app.boot_id, app.oem, app.oem_version) == (
        "1.0.0",
        "beta",
        "{boot-1}",
        "azure",
        "1.2.3",
    )
    assert app.aleph_version == "1.0.0"


def test_mere_check_shows_what_was_found_and_installs_nothing(bench: AgentBench) -> None:
    bench.start()
    bench.agent.check()
    bench.workers.last.say(Checked(), OFFER)
    bench.workers.last.end()
    status = bench.agent.status()
    assert (status.state, status.offered_version, status.offered_size_bytes) == ("idle", "2.0.0", 1000)
    assert bench.state.unfinished is None
    assert status.last_success_at == int(bench.loop.now)


def test_failure_is_told_and_the_error_stays_visible_until_a_success(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    worker = bench.workers.last
    worker.say(Checked(), OFFER, Failed(kind="payload-hash", message="no", hint="yes", omaha_code=10))
    assert bench.agent.status().state == "reporting-error-event"
    worker.say(Reported(was_delivered=True))
    worker.end(1)
    assert bench.recorder.operations[-2:] == ["REPORTING_ERROR_EVENT", "IDLE"]
    error = bench.agent.status().last_error
    assert error is not None
    assert (error.kind, error.message, error.hint, error.omaha_code) == ("payload-hash", "no", "yes", 10)
    assert bench.agent.compat_status().to_args()[2:] == ("UPDATE_STATUS_IDLE", "0.0.0", 0)
    bench.agent.check()
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.agent.status().last_error is None


def test_offer_that_may_not_be_installed_is_shown_with_its_reason(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    refused = NothingNew(kind="bad-release", message="2.0.0 fell back", version="2.0.0", omaha_code=35)
    bench.workers.last.say(Checked(), refused)
    bench.workers.last.end()
    status = bench.agent.status()
    assert status.state == "idle"
    assert status.last_error is not None
    assert status.last_error.kind == "bad-release"


def test_offer_of_what_runs_is_no_error(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), NothingNew(kind="same-version", message="1.0.0 runs already", version="1.0.0"))
    bench.workers.last.end()
    assert bench.agent.status().last_error is None


def test_child_that_dies_is_an_error_and_not_the_end(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER)
    bench.workers.last.end(9, was_signal=True)
    status = bench.agent.status()
    assert status.state == "idle"
    assert status.last_error is not None
    assert status.last_error.kind == "worker-died"
    assert "signal 9" in status.last_error.message
    assert status.next_check_at > bench.loop.now
    bench.agent.install(InstallOptions())
    assert len(bench.workers.started) == 2


def test_child_that_says_nonsense_is_an_error(bench: AgentBench) -> None:
    bench.start()
    bench.agent.check()
    bench.workers.last.say(INSTALLED, TargetTaken())
    assert bench.agent.status().state == "checking-for-update"
    bench.workers.last.end(0, problem="line 3 was no message")
    error = bench.agent.status().last_error
    assert error is not None
    assert "line 3" in error.message


def test_rest_is_told_only_once_the_child_has_ended(bench: AgentBench) -> None:
    """Whoever acts on it at once must not be refused."""
    bench.start()
    bench.agent.check()
    bench.workers.last.say(Checked(), NothingNew(), OFFER)
    assert bench.agent.status().state == "checking-for-update"
    bench.workers.last.end()
    assert bench.agent.status().state == "idle"
    bench.agent.install(InstallOptions())
    assert len(bench.workers.started) == 2


def test_child_that_cannot_be_started_is_an_error(bench: AgentBench) -> None:
    bench.start()
    bench.workers.cannot_start = True
    bench.agent.install(InstallOptions())
    status = bench.agent.status()
    assert (status.state, status.last_error and status.last_error.kind) == ("idle", "worker-died")


def test_cancel_by_a_person_is_passed_on(bench: AgentBench) -> None:
    bench.start()
    assert not bench.agent.cancel()
    bench.agent.install(InstallOptions())
    assert bench.agent.cancel()
    assert bench.workers.last.cancelled == [True]
    bench.workers.last.say(Failed(kind="interrupted", message="stopped on request"), Reported(was_delivered=True))
    bench.workers.last.end()
    assert bench.agent.status().state == "idle"


@pytest.mark.parametrize("name", ["check", "install", "reset", "rollback", "mark_slot"])
def test_command_while_busy_is_refused(bench: AgentBench, name: str) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    arguments = {"install": (InstallOptions(),), "mark_slot": (SlotName.B, "bad")}.get(name, ())
    with pytest.raises(RefusedError) as caught:
        getattr(bench.agent, name)(*arguments)
    assert caught.value.kind is Kind.WRONG_STATE
    assert len(bench.workers.started) == 1


def test_attempt_update_is_silently_ignored_unless_idle(bench: AgentBench) -> None:
    bench.start()
    bench.agent.attempt_update()
    bench.agent.attempt_update()
    assert len(bench.workers.started) == 1
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    install(bench)
    bench.agent.attempt_update()
    assert len(bench.workers.started) == 2


# --- restarts and reboots


def test_need_reboot_survives_a_restart_with_version_and_size(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.start()
    assert bench.agent.compat_status().to_args()[2:] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0", 1000)
    assert bench.recorder.operations == ["UPDATED_NEED_REBOOT"]


def test_half_done_update_goes_on_soon_after_a_restart(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER, TargetTaken())
    bench.start()
    status = bench.agent.status()
    assert (status.offered_version, status.offered_size_bytes) == ("2.0.0", 1000)
    bench.loop.advance(11)
    assert len(bench.workers.started) == 2
    assert bench.workers.last.job.kind is JobKind.UPDATE
    assert bench.workers.last.job.options.ignore_backoff


def test_half_done_update_goes_on_also_when_the_first_check_after_a_restart_fails(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER, TargetTaken())
    bench.start()
    bench.loop.advance(11)
    bench.workers.last.say(Failed(kind="omaha-transfer", message="no network yet"))
    bench.workers.last.end()
    assert bench.state.unfinished == "2.0.0"
    bench.loop.advance(2700)
    assert len(bench.workers.started) == 3
    assert bench.workers.last.job.options.ignore_backoff
    bench.workers.last.say(Checked(), OFFER, Failed(kind="payload-hash", message="wrong"))
    bench.workers.last.end()
    assert bench.state.unfinished is None


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, check=CheckSettings(automatic=False)),
        replace(SETTINGS, install=InstallSettings(automatic=False)),
    ],
)
def test_update_that_a_person_began_goes_on_also_where_none_begins_by_itself(
    bench: AgentBench, settings: Settings
) -> None:
    bench.settings = settings
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER)
    bench.start()
    bench.loop.advance(10)
    assert (len(bench.workers.started), bench.workers.last.job.kind) == (2, JobKind.UPDATE)
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.state.unfinished is None
    bench.loop.advance(DAY)
    assert all(worker.job.kind is JobKind.CHECK for worker in bench.workers.started[2:])


def test_payload_that_a_person_brought_does_not_go_on_by_itself(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions(payload="/tmp/release.payload"))
    bench.workers.last.say(Offered(version="", size_bytes=1000))
    bench.start()
    bench.loop.advance(60)
    assert len(bench.workers.started) == 1


def test_stop_ends_the_child_and_keeps_what_was_begun(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER)
    done: list[bool] = []
    bench.agent.stop(lambda: done.append(True))
    told = len(bench.recorder.statuses), len(bench.recorder.signals)
    assert bench.workers.last.cancelled == [False]
    bench.workers.last.say(Failed(kind="interrupted", message="stopped"))
    bench.workers.last.end(15, was_signal=True)
    assert done == [True]
    assert (len(bench.recorder.statuses), len(bench.recorder.signals)) == told
    assert bench.state.unfinished == "2.0.0"
    assert bench.state.last_error is None


def test_stop_at_rest_is_done_at_once(bench: AgentBench) -> None:
    bench.start()
    done: list[bool] = []
    bench.agent.stop(lambda: done.append(True))
    assert done == [True]


def test_reboot_into_the_release_clears_need_reboot_and_reports_once_it_is_good(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    assert bench.booted is SlotName.B
    assert bench.agent.compat_status().current_operation == "UPDATE_STATUS_IDLE"
    bench.agent.check()
    assert bench.workers.last.job.previous_version == ""
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    with open_machine(bench.image, writable=True, booted=SlotName.B) as machine:
        activation.mark_good(machine.disk, machine.slots.b)
    bench.agent.refresh()
    bench.agent.check()
    assert bench.workers.last.job.previous_version == "1.0.0"
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.state.previous_version == ""


def test_boot_that_fell_back_is_remembered_and_reported(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    boot(bench)
    assert bench.booted is SlotName.A
    status = bench.agent.status()
    assert status.last_error is not None
    assert (status.last_error.kind, status.last_error.omaha_code) == ("update-fell-back", 44)
    assert [release.version for release in status.bad_releases] == ["2.0.0"]
    bench.agent.install(InstallOptions())
    job = bench.workers.last.job
    assert (job.has_fallen_back, job.bad_releases) == (True, ("2.0.0",))
    bench.workers.last.say(Failed(kind="omaha-transfer", message="server is gone", omaha_code=2000))
    bench.workers.last.end()
    assert bench.state.has_fallen_back, "it was not heard yet"


def test_update_installed_by_hand_is_seen_as_pending(bench: AgentBench) -> None:
    put_into_b(bench, "5.0.0")
    bench.start()
    assert bench.agent.compat_status().to_args()[2:] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "5.0.0", 0)
    assert bench.state.pending is not None
    assert bench.state.pending.previous_version == "1.0.0"


def test_update_installed_by_hand_that_falls_back_is_noticed(bench: AgentBench) -> None:
    put_into_b(bench)
    bench.start()
    boot(bench)
    boot(bench)
    assert bench.state.has_fallen_back
    assert bench.state.is_bad("2.0.0")


def test_slot_that_the_boot_loader_passed_over_is_given_up(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.boot_id = "another"
    bench.start()
    status = bench.agent.status()
    assert (status.state, status.next_boot) == ("idle", "A")
    assert status.last_error is not None
    assert status.last_error.kind == "update-fell-back"


def test_slot_that_is_passed_over_after_an_untold_fall_back_is_given_up(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    boot(bench)
    put_into_b(bench, "3.0.0")
    bench.agent.refresh()
    bench.boot_id += "+"
    bench.start()
    assert bench.state.is_bad("3.0.0")
    assert (bench.agent.status().state, bench.agent.status().next_boot) == ("idle", "A")


def test_update_whose_child_died_after_the_slot_boots_next_can_fall_back(bench: AgentBench) -> None:
    """Killed by the kernel while the server hears of the success, say."""
    bench.start()
    bench.agent.install(InstallOptions())
    worker = bench.workers.last
    worker.say(Checked(), OFFER, TargetTaken())
    put_into_b(bench)
    worker.end(9, was_signal=True)
    status = bench.agent.status()
    assert (status.state, status.pending_version) == ("updated-need-reboot", "2.0.0")
    boot(bench)
    boot(bench)
    assert bench.state.is_bad("2.0.0")
    assert bench.state.has_fallen_back


def test_slot_that_proved_itself_behind_our_back_is_known_with_the_next_check(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    with open_machine(bench.image, writable=True) as machine:
        activation.mark_good(machine.disk, machine.slots.b)
    bench.agent.check()
    assert bench.state.trial is None
    assert bench.workers.last.job.previous_version == "1.0.0"


def test_update_whose_end_was_not_heard_is_taken_up(bench: AgentBench) -> None:
    bench.start()
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER, TargetTaken())
    put_into_b(bench)
    bench.start()
    assert bench.agent.compat_status().to_args()[2:] == ("UPDATE_STATUS_UPDATED_NEED_REBOOT", "2.0.0", 1000)
    boot(bench)
    assert bench.state.trial is not None


def test_newer_release_supersedes_a_pending_one(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.loop.advance(DAY)
    worker = bench.workers.last
    assert worker.job.pending_version == "2.0.0"
    worker.say(Checked(), Offered(version="3.0.0", size_bytes=7))
    take_b(bench)
    worker.say(TargetTaken())
    assert bench.agent.compat_status().to_args()[2:] == ("UPDATE_STATUS_UPDATE_AVAILABLE", "3.0.0", 7)
    put_into_b(bench, "3.0.0")
    worker.say(replace(INSTALLED, version="3.0.0", size_bytes=7))
    worker.end()
    assert bench.agent.status().pending_version == "3.0.0"


def test_check_while_a_reboot_is_pending_announces_it_again_and_shows_no_gap(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    before = len(bench.recorder.signals)
    bench.agent.check()
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.recorder.operations[before:] == ["UPDATED_NEED_REBOOT"]


# --- boot flags by hand


def test_reset_gives_the_update_up_with_its_flags(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    signals = len(bench.recorder.signals)
    bench.agent.reset()
    status = bench.agent.status()
    assert (status.state, status.next_boot, status.pending_version) == ("idle", "A", "")
    assert [slot.priority for slot in status.slots if slot.name == "B"] == [0]
    assert len(bench.recorder.signals) == signals, "update_engine does not announce it"
    bench.start()
    assert bench.agent.status().state == "idle"


def test_reset_while_the_server_is_asked_gives_both_up(bench: AgentBench) -> None:
    """What is shown meanwhile is an update that waits for its reboot, so nobody expects a refusal."""
    bench.start()
    install(bench)
    bench.agent.check()
    assert bench.agent.compat_status().current_operation == "UPDATE_STATUS_UPDATED_NEED_REBOOT"
    bench.agent.reset()
    assert bench.workers.last.cancelled == [False]
    bench.workers.last.end(15, was_signal=True)
    status = bench.agent.status()
    assert (status.state, status.next_boot, status.last_error) == ("idle", "A", None)


def test_reset_that_fails_once_the_server_was_given_up_is_told(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.agent.check()
    bench.agent.reset()
    with open_machine(bench.image, writable=True):
        bench.workers.last.end(143)
    status = bench.agent.status()
    assert (status.state, status.pending_version) == ("updated-need-reboot", "2.0.0")
    assert status.last_error is not None
    assert status.last_error.kind == Kind.BUSY


def test_reset_without_an_update_is_fine(bench: AgentBench) -> None:
    bench.start()
    bench.agent.reset()
    assert bench.agent.status().state == "idle"


def test_rollback_is_pending_and_what_ran_is_not_installed_again(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    with open_machine(bench.image, writable=True, booted=SlotName.B) as machine:
        activation.mark_good(machine.disk, machine.slots.b)
    bench.agent.refresh()
    bench.agent.rollback()
    status = bench.agent.status()
    assert (status.state, status.pending_slot) == ("updated-need-reboot", "A")
    assert [release.version for release in status.bad_releases] == ["2.0.0"]
    boot(bench)
    assert bench.booted is SlotName.A
    assert bench.agent.status().last_error is None
    assert not bench.state.has_fallen_back


def test_rollback_while_a_release_is_on_trial_is_pending_too(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    assert bench.agent.status().state == "idle"
    bench.agent.rollback()
    assert (bench.agent.status().state, bench.agent.status().pending_slot) == ("updated-need-reboot", "A")
    bench.start()
    assert bench.agent.status().state == "updated-need-reboot"


def test_reset_while_a_release_is_on_trial_gives_it_no_further_try(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    boot(bench)
    bench.agent.reset()
    assert [slot.tries for slot in bench.agent.status().slots] == [0, 0]


def test_marks_change_the_flags(bench: AgentBench) -> None:
    bench.start()
    put_into_b(bench)
    bench.agent.mark_slot(SlotName.B, "bad")
    assert bench.agent.status().next_boot == "A"
    bench.agent.mark_slot(None, "active")
    assert bench.agent.status().state == "updated-need-reboot"
    bench.agent.mark_slot(None, "good")
    assert bench.agent.status().state == "idle"
    with pytest.raises(ConfigurationError):
        bench.agent.mark_slot(None, "excellent")


# --- time


def test_first_check_comes_by_itself_and_installs(bench: AgentBench) -> None:
    bench.start()
    assert bench.agent.status().next_check_at == 1_000_000 + 420
    bench.loop.advance(421)
    job = bench.workers.last.job
    assert (job.kind, job.install_source) == (JobKind.UPDATE, InstallSource.SCHEDULER)
    assert not job.options.ignore_backoff
    assert bench.agent.status().next_check_at == 0


def test_next_check_comes_after_the_interval(bench: AgentBench) -> None:
    bench.start()
    bench.loop.advance(421)
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.agent.status().next_check_at == int(bench.loop.now) + 2700


def test_check_by_a_person_leaves_the_next_update_where_it_was(bench: AgentBench) -> None:
    bench.start()
    for _ in range(3):
        bench.loop.advance(100)
        bench.agent.check()
        assert bench.agent.status().next_check_at == 0
        bench.workers.last.say(Checked(poll_interval_secs=5000), OFFER)
        bench.workers.last.end()
        assert bench.agent.status().next_check_at == 1_000_000 + 420
    bench.loop.advance(121)
    assert bench.workers.last.job.kind is JobKind.UPDATE


def test_update_that_was_due_during_a_check_by_a_person_comes_after_it(bench: AgentBench) -> None:
    bench.start()
    bench.agent.check()
    bench.loop.advance(500)
    assert len(bench.workers.started) == 1
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    bench.loop.advance(0)
    assert bench.workers.last.job.kind is JobKind.UPDATE


def test_poll_interval_of_the_server_counts(bench: AgentBench) -> None:
    bench.start()
    bench.loop.advance(421)
    bench.workers.last.say(Checked(poll_interval_secs=5000), NothingNew())
    bench.workers.last.end()
    assert bench.agent.status().next_check_at == int(bench.loop.now) + 5000


def test_overloaded_server_is_asked_half_as_often_each_time(bench: AgentBench) -> None:
    bench.start()
    intervals = []
    for _ in range(4):
        bench.agent.check()
        bench.workers.last.say(Failed(kind="http-status", message="503", http_status=503))
        bench.workers.last.end()
        intervals.append(bench.agent.status().next_check_at - int(bench.loop.now))
    assert intervals == [5400, 10800, 14400, 14400]


@pytest.mark.parametrize(
    ("settings", "is_test_image"),
    [
        (replace(SETTINGS, check=CheckSettings(automatic=False)), False),
        (replace(SETTINGS, server=ServerSettings(url="disabled")), False),
        (SETTINGS, True),
    ],
)
def test_no_check_by_itself_where_it_is_not_wanted(bench: AgentBench, settings: Settings, is_test_image: bool) -> None:
    bench.settings, bench.is_test_image = settings, is_test_image
    bench.start()
    bench.loop.advance(DAY)
    assert not bench.workers.started
    assert bench.agent.status().next_check_at == 0


def test_disabled_server_says_so_to_a_person(bench: AgentBench) -> None:
    bench.settings = replace(SETTINGS, server=ServerSettings(url="disabled"))
    bench.start()
    with pytest.raises(ConfigurationError):
        bench.agent.check()
    bench.agent.install(InstallOptions(payload="/tmp/update.payload"))
    assert len(bench.workers.started) == 1


def test_attempt_with_a_disabled_server_fails_and_the_call_does_not(bench: AgentBench) -> None:
    bench.settings = replace(SETTINGS, server=ServerSettings(url="disabled"))
    bench.start()
    bench.agent.attempt_update()
    assert bench.recorder.operations == ["IDLE", "CHECKING_FOR_UPDATE", "REPORTING_ERROR_EVENT", "IDLE"]
    error = bench.agent.status().last_error
    assert error is not None
    assert error.kind == Kind.CONFIGURATION
    assert not bench.workers.started


def test_automatic_check_without_automatic_install_only_looks(bench: AgentBench) -> None:
    bench.settings = replace(SETTINGS, install=InstallSettings(automatic=False))
    bench.start()
    bench.loop.advance(421)
    assert bench.workers.last.job.kind is JobKind.CHECK


def test_update_waits_until_the_running_slot_is_good(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.health = Health(verdict="waiting", text="settling")
    boot(bench)
    started = len(bench.workers.started)
    bench.loop.advance(600)
    assert len(bench.workers.started) == started
    with open_machine(bench.image, writable=True, booted=SlotName.B) as machine:
        activation.mark_good(machine.disk, machine.slots.b)
    bench.health = Health(verdict="good", text="all checks hold")
    bench.agent.refresh()
    bench.loop.advance(61)
    assert len(bench.workers.started) == started + 1


def test_update_waits_until_the_running_slot_is_good_also_when_it_has_tries_left(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    with open_machine(bench.image, writable=True) as machine:
        activation.activate(machine.disk, machine.slots.b, tries=3)
    bench.health = Health(verdict="waiting", text="settling")
    boot(bench)
    started = len(bench.workers.started)
    bench.loop.advance(600)
    assert len(bench.workers.started) == started


# --- what goes wrong around it


def test_backoff_is_kept_and_given_to_the_next_child(bench: AgentBench) -> None:
    bench.start()
    backoff = Backoff(signature="text", attempt_number=1, expiry_at=5)
    bench.agent.install(InstallOptions())
    bench.workers.last.say(Checked(), OFFER, BackoffChanged(backoff=backoff))
    bench.workers.last.end()
    bench.start()
    bench.agent.install(InstallOptions())
    assert bench.workers.last.job.backoff == backoff


def test_full_disk_for_the_state_is_a_warning_and_the_update_goes_on(bench: AgentBench) -> None:
    bench.start()
    bench.file.fails = Kind.NO_SPACE
    install(bench)
    status = bench.agent.status()
    assert status.state == "updated-need-reboot"
    assert any("No space left" in warning for warning in status.warnings)
    bench.file.fails = None
    bench.agent.check()
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert not bench.agent.status().warnings
    assert bench.state.pending is not None


def test_damaged_state_file_is_told_and_the_flags_still_count(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    bench.files["state.json"] = bench.files["state.json"][:50]
    bench.start()
    status = bench.agent.status()
    assert (status.state, status.pending_version) == ("updated-need-reboot", "2.0.0")
    assert any("state.json.damaged" in warning for warning in status.warnings)


def test_disk_that_is_not_there_is_told_and_looked_for_again(bench: AgentBench, tmp_path: Path) -> None:
    image, bench.image = bench.image, tmp_path / "missing"
    bench.start()
    status = bench.agent.status()
    assert (status.state, status.slots) == ("idle", ())
    assert any("missing" in warning for warning in status.warnings)
    with pytest.raises(UpdateAgentError):
        bench.agent.rollback()
    bench.image = image
    bench.agent.refresh()
    assert bench.agent.status().booted == "A"


def test_reload_takes_the_new_configuration(bench: AgentBench) -> None:
    bench.start()
    bench.settings = replace(SETTINGS, server=replace(SETTINGS.server, channel="alpha"))
    bench.warnings = ("50-site.toml:3: unknown key",)
    bench.agent.reload()
    status = bench.agent.status()
    assert (status.channel, status.warnings) == ("alpha", ("50-site.toml:3: unknown key",))


def test_reload_puts_the_next_check_off_only_when_its_settings_changed(bench: AgentBench) -> None:
    bench.start()
    bench.loop.advance(400)
    bench.agent.reload()
    assert bench.agent.status().next_check_at == 1_000_000 + 420
    bench.settings = replace(SETTINGS, check=CheckSettings(interval_secs=600))
    bench.agent.reload()
    assert bench.agent.status().next_check_at == 1_000_000 + 400 + 600
    bench.settings = replace(SETTINGS, check=CheckSettings(automatic=False))
    bench.agent.reload()
    assert bench.agent.status().next_check_at == 0
    bench.settings = SETTINGS
    bench.agent.reload()
    assert bench.agent.status().next_check_at == 1_000_000 + 400 + 2700


def test_reload_during_a_check_by_a_person_counts_for_the_next_one(bench: AgentBench) -> None:
    bench.start()
    bench.agent.check()
    bench.settings = replace(SETTINGS, check=CheckSettings(interval_secs=600))
    bench.agent.reload()
    bench.workers.last.say(Checked(), NothingNew())
    bench.workers.last.end()
    assert bench.agent.status().next_check_at == 1_000_000 + 600


def test_flags_changed_by_somebody_else_are_followed(bench: AgentBench) -> None:
    bench.start()
    install(bench)
    run_sgdisk(bench.image, "-A", "4:=:0")
    bench.agent.refresh()
    assert bench.agent.status().state == "idle"
    assert bench.state.pending is None


# --- what nobody thought of


class Broken:
    """A listener that fails."""

    def status_changed(self, status: NodeStatus) -> None:
        raise RuntimeError(status.state)

    def compat_signal(self, status: CompatStatus) -> None:
        raise RuntimeError(status.current_operation)


def test_listener_that_fails_does_not_stop_the_update_and_is_logged_once(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    agent = bench.make()
    agent.listen(Broken())
    after = Recorder()
    agent.listen(after)
    agent.start()
    install(bench)
    assert after.states[-1] == bench.agent.status().state == "updated-need-reboot"
    assert after.operations[-1] == "UPDATED_NEED_REBOOT"
    assert [record.message for record in caplog.records].count("Broken failed, which is a bug") == 1


def test_check_by_itself_that_ends_in_a_bug_is_not_the_last(bench: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    with monkeypatch.context() as broken:
        broken.setattr(bench.agent, "_begin", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            bench.loop.advance(DAY)
    bench.loop.advance(60 * 60)
    assert len(bench.workers.started) == 1
