from dataclasses import replace

import pytest

from update_agent.domain.boot import Boot, has_just_fallen_back, note_boot
from update_agent.domain.slots import SlotName
from update_agent.domain.state import AgentState, BadRelease, PendingUpdate

UPDATE = PendingUpdate(version="2", size_bytes=5, slot="B", previous_version="1", boot_id="first", at=7)
BEFORE = Boot(boot_id="first", booted=SlotName.A, is_proven=True, next_boot=SlotName.B, at=100)
INTO_B = Boot(boot_id="second", booted=SlotName.B, is_proven=False, next_boot=SlotName.A, at=200)
BACK_IN_A = Boot(boot_id="third", booted=SlotName.A, is_proven=True, next_boot=SlotName.A, at=300)
PENDING = AgentState(pending=UPDATE, previous_version="")
TRIAL = AgentState(trial=UPDATE, previous_version="")


@pytest.mark.parametrize("boot", [BEFORE, INTO_B, BACK_IN_A])
def test_boot_without_an_update_changes_nothing(boot: Boot) -> None:
    assert note_boot(AgentState(), boot) == AgentState()


def test_pending_update_stays_until_the_reboot() -> None:
    assert note_boot(PENDING, BEFORE) == PENDING


def test_pending_update_whose_flags_somebody_took_back_is_gone() -> None:
    assert note_boot(PENDING, replace(BEFORE, next_boot=SlotName.A)) == AgentState(previous_version="")


def test_first_boot_of_an_update_is_its_trial() -> None:
    assert note_boot(PENDING, INTO_B) == TRIAL


def test_trial_goes_on_until_the_slot_is_marked_good() -> None:
    assert note_boot(TRIAL, replace(INTO_B, boot_id="again")) == TRIAL
    proven = note_boot(TRIAL, replace(INTO_B, is_proven=True))
    assert proven == AgentState(previous_version="1")


def test_first_boot_of_a_slot_that_is_proven_ends_the_trial_at_once() -> None:
    assert note_boot(PENDING, replace(INTO_B, is_proven=True)) == AgentState(previous_version="1")


@pytest.mark.parametrize("state", [PENDING, TRIAL])
def test_boot_of_the_other_slot_has_fallen_back(state: AgentState) -> None:
    after = note_boot(state, BACK_IN_A)
    assert (after.pending, after.trial, after.has_fallen_back, after.previous_version) == (None, None, True, "1")
    assert after.is_bad("2")
    assert after.last_error is not None
    assert (after.last_error.kind, after.last_error.omaha_code, after.last_error.at) == ("update-fell-back", 44, 300)
    assert note_boot(after, BACK_IN_A) == after


def test_update_of_unknown_version_falls_back_without_a_bad_release() -> None:
    after = note_boot(AgentState(trial=replace(UPDATE, version="")), BACK_IN_A)
    assert after.has_fallen_back
    assert after.bad_releases == ()
    assert after.last_error is not None
    assert "the release" in after.last_error.message


def test_update_that_falls_back_to_a_release_whose_proof_nobody_noticed_has_fallen_back() -> None:
    later = replace(UPDATE, version="3", slot="A", previous_version="2", boot_id="second")
    before = AgentState(trial=UPDATE, pending=later, previous_version="")
    after = note_boot(before, replace(INTO_B, boot_id="fourth", is_proven=True))
    assert (after.pending, after.trial, after.has_fallen_back, after.previous_version) == (None, None, True, "2")
    assert after.is_bad("3")


def test_update_taken_after_one_whose_proof_nobody_noticed_is_on_trial() -> None:
    later = replace(UPDATE, version="3", slot="A", previous_version="2", boot_id="second")
    before = AgentState(trial=UPDATE, pending=later, previous_version="")
    after = note_boot(before, replace(BACK_IN_A, is_proven=False))
    assert after == AgentState(trial=later, previous_version="")


def test_fall_back_is_news_once_also_after_one_that_nobody_was_told() -> None:
    before = replace(PENDING, has_fallen_back=True)
    after = note_boot(before, BACK_IN_A)
    assert has_just_fallen_back(before, after)
    assert not has_just_fallen_back(after, note_boot(after, BACK_IN_A))


def test_release_that_proves_itself_after_all_is_no_longer_bad() -> None:
    bad = tuple(BadRelease(version=version, reason="fell back", at=1) for version in ("1.5", "2"))
    after = note_boot(replace(TRIAL, bad_releases=bad), replace(INTO_B, is_proven=True))
    assert [release.version for release in after.bad_releases] == ["1.5"]
