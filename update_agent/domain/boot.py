"""What a boot says about the last update: it was taken, it proved itself, or it fell back.

A release is on trial from its first boot until its slot is marked successful; a machine that runs the other slot before
that has fallen back, whoever decided so: the boot loader, a health check, or a person at the console.
"""

from dataclasses import dataclass, replace

from update_agent.domain.slots import SlotName
from update_agent.domain.state import AgentState, BadRelease, LastError, PendingUpdate
from update_agent.errors import InstallError, Kind

FELL_BACK_CODE = 44
"""update_engine's RollbackError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What is known about the running system.

    Attributes:
        boot_id: of this boot.
        booted: the slot that runs.
        is_proven: it is marked successful.
        next_boot: the slot that the boot loader would choose, or None.
        at: unix seconds.
    """

    boot_id: str
    booted: SlotName
    is_proven: bool
    next_boot: SlotName | None
    at: int


def note_boot(state: AgentState, boot: Boot) -> AgentState:
    """The state after a look at the running system; the same state when there is nothing to note."""
    # That a release proved itself may have gone unnoticed until a later update has ended: it is the older news.
    return _end_trial(_note_pending(_note_proof(state, boot), boot), boot)


def has_just_fallen_back(before: AgentState, after: AgentState) -> bool:
    """Whether it was this look that found out, with `after` made of `before` by `note_boot`."""
    return after.last_error is not before.last_error


def _note_pending(state: AgentState, boot: Boot) -> AgentState:
    pending = state.pending
    if pending is None:
        return state
    if pending.boot_id != boot.boot_id:
        if boot.booted == pending.slot:
            return replace(state, pending=None, trial=pending)
        return _fallen_back(replace(state, pending=None), pending, boot)
    # Somebody may have changed the flags by hand meanwhile.
    return state if boot.next_boot == pending.slot else replace(state, pending=None)


def _end_trial(state: AgentState, boot: Boot) -> AgentState:
    trial = state.trial
    if trial is not None and boot.booted != trial.slot:
        return _fallen_back(replace(state, trial=None), trial, boot)
    return _note_proof(state, boot)


def _note_proof(state: AgentState, boot: Boot) -> AgentState:
    trial = state.trial
    if trial is None or boot.booted != trial.slot or not boot.is_proven:
        return state
    proven = state.without_bad(trial.version)
    return replace(proven, trial=None, previous_version=trial.previous_version, has_fallen_back=False)


def _fallen_back(state: AgentState, update: PendingUpdate, boot: Boot) -> AgentState:
    error = InstallError(
        Kind.UPDATE_FELL_BACK,
        f"update: expected {update.version or 'the release'} to run from slot {update.slot}, got slot {boot.booted}: "
        "it did not come up, or was not healthy",
        hint="see the journal of its boot, journalctl -b -1; to try it again, update-agent install --allow-bad-release",
    )
    told = replace(
        state,
        has_fallen_back=True,
        previous_version=update.previous_version,
        last_error=LastError.of(error, at=boot.at, omaha_code=FELL_BACK_CODE),
    )
    if not update.version:
        return told
    return told.with_bad(BadRelease(version=update.version, reason="fell back after its first boot", at=boot.at))
