from collections.abc import Callable

import pytest

from update_agent.domain.machine import NO_VERSION, Machine, Release, Snapshot, State
from update_agent.domain.progress import Phase, Progress
from update_agent.errors import Kind, RefusedError

OLD = Release(version="2.0.0", size_bytes=100)
NEW = Release(version="3.0.0", size_bytes=200)
RESTING = {State.IDLE, State.UPDATED_NEED_REBOOT}
INSTALLING = {State.UPDATE_AVAILABLE, State.DOWNLOADING, State.VERIFYING, State.FINALIZING}

TRANSITIONS: dict[str, tuple[Callable[[Machine], None], set[State], State | None]] = {
    "start_check": (lambda m: m.start_check(), RESTING, State.CHECKING_FOR_UPDATE),
    "find_nothing": (lambda m: m.find_nothing(), {State.CHECKING_FOR_UPDATE}, State.IDLE),
    "find_update": (lambda m: m.find_update(NEW), {State.CHECKING_FOR_UPDATE}, State.UPDATE_AVAILABLE),
    "take_target": (lambda m: m.take_target(), INSTALLING, None),
    "start_download": (lambda m: m.start_download(), {State.UPDATE_AVAILABLE}, State.DOWNLOADING),
    "start_verifying": (
        lambda m: m.start_verifying(),
        {State.UPDATE_AVAILABLE, State.DOWNLOADING},
        State.VERIFYING,
    ),
    "start_finalizing": (lambda m: m.start_finalizing(), INSTALLING - {State.FINALIZING}, State.FINALIZING),
    "finish": (lambda m: m.finish(NEW), INSTALLING, State.UPDATED_NEED_REBOOT),
    "fail": (lambda m: m.fail(), INSTALLING | {State.CHECKING_FOR_UPDATE}, State.REPORTING_ERROR_EVENT),
    "abandon": (lambda m: m.abandon(), INSTALLING | {State.CHECKING_FOR_UPDATE}, State.IDLE),
    "finish_report": (lambda m: m.finish_report(), {State.REPORTING_ERROR_EVENT}, State.IDLE),
    "await_reboot": (lambda m: m.await_reboot(NEW), RESTING, State.UPDATED_NEED_REBOOT),
    "reset": (lambda m: m.reset(), RESTING, State.IDLE),
    "advance": (lambda m: m.advance(Progress(phase=Phase.CHECKING, done_bytes=0, total_bytes=1)), INSTALLING, None),
}


def make(snapshot: Snapshot) -> tuple[Machine, list[Snapshot]]:
    seen: list[Snapshot] = []
    return Machine(snapshot, seen.append), seen


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("state", State)
def test_transition_from_each_state_arrives_or_is_refused(name: str, state: State) -> None:
    act, allowed, target = TRANSITIONS[name]
    start = Snapshot(state=state)
    machine, seen = make(start)
    if state in allowed:
        act(machine)
        assert machine.snapshot.state is (target or state)
        assert seen[-1] == machine.snapshot
    else:
        with pytest.raises(RefusedError) as caught:
            act(machine)
        assert caught.value.kind is Kind.WRONG_STATE
        assert machine.snapshot == start
        assert not seen


def test_every_public_method_is_a_transition_of_the_table() -> None:
    methods = {name for name in vars(Machine) if not name.startswith("_") and name != "snapshot"}
    assert methods == set(TRANSITIONS)


@pytest.mark.parametrize(
    ("phases", "states"),
    [
        (
            (Phase.DOWNLOADING, Phase.VERIFYING, Phase.FINALIZING),
            (State.DOWNLOADING, State.VERIFYING, State.FINALIZING),
        ),
        ((Phase.COPYING, Phase.VERIFYING), (State.UPDATE_AVAILABLE, State.VERIFYING)),
        ((Phase.FINALIZING,), (State.FINALIZING,)),
        ((Phase.DOWNLOADING, Phase.FINALIZING), (State.DOWNLOADING, State.FINALIZING)),
        ((Phase.VERIFYING, Phase.DOWNLOADING), (State.VERIFYING, State.VERIFYING)),
    ],
)
def test_progress_enters_the_state_of_its_phase(phases: tuple[Phase, ...], states: tuple[State, ...]) -> None:
    machine, _ = make(Snapshot(state=State.UPDATE_AVAILABLE, offered=NEW))
    reached = []
    for phase in phases:
        machine.advance(Progress(phase=phase, done_bytes=1, total_bytes=2))
        reached.append(machine.snapshot.state)
    assert tuple(reached) == states
    assert machine.snapshot.progress == Progress(phase=phases[-1], done_bytes=1, total_bytes=2)


def test_rest_returns_to_what_waits_for_its_reboot() -> None:
    machine, _ = make(Snapshot(state=State.UPDATED_NEED_REBOOT, pending=OLD))
    machine.start_check()
    machine.find_nothing()
    assert machine.snapshot == Snapshot(state=State.UPDATED_NEED_REBOOT, pending=OLD)
    machine.start_check()
    machine.fail()
    machine.finish_report()
    assert machine.snapshot.state is State.UPDATED_NEED_REBOOT


def test_newer_release_supersedes_the_pending_one_when_it_takes_the_slot() -> None:
    machine, seen = make(Snapshot(state=State.UPDATED_NEED_REBOOT, pending=OLD))
    machine.start_check()
    machine.find_update(NEW)
    assert {snapshot.wire_state for snapshot in seen} == {State.UPDATED_NEED_REBOOT}
    assert machine.snapshot.wire_release == OLD
    machine.take_target()
    assert machine.snapshot.wire_state is State.UPDATE_AVAILABLE
    assert machine.snapshot.wire_release == NEW
    machine.fail()
    machine.finish_report()
    assert machine.snapshot.state is State.IDLE


@pytest.mark.parametrize(
    ("snapshot", "release", "progress"),
    [
        (Snapshot(), Release(version=NO_VERSION), 0.0),
        (Snapshot(state=State.UPDATED_NEED_REBOOT), Release(version=NO_VERSION), 0.0),
        (Snapshot(state=State.CHECKING_FOR_UPDATE, offered=NEW), Release(version=NO_VERSION), 0.0),
        (Snapshot(state=State.DOWNLOADING, offered=NEW), NEW, 0.0),
        (
            Snapshot(state=State.UPDATED_NEED_REBOOT, pending=Release(version="", size_bytes=5)),
            Release(version=NO_VERSION, size_bytes=5),
            0.0,
        ),
        (
            Snapshot(
                state=State.DOWNLOADING,
                offered=NEW,
                progress=Progress(phase=Phase.DOWNLOADING, done_bytes=50, total_bytes=200),
            ),
            NEW,
            0.25,
        ),
        (
            Snapshot(
                state=State.DOWNLOADING,
                offered=NEW,
                progress=Progress(phase=Phase.DOWNLOADING, done_bytes=0, total_bytes=0),
            ),
            NEW,
            0.0,
        ),
        (
            Snapshot(
                state=State.VERIFYING,
                offered=NEW,
                progress=Progress(phase=Phase.VERIFYING, done_bytes=50, total_bytes=200),
            ),
            NEW,
            0.0,
        ),
    ],
)
def test_wire_values_are_those_of_update_engine(snapshot: Snapshot, release: Release, progress: float) -> None:
    assert (snapshot.wire_release, snapshot.wire_progress) == (release, progress)


def test_wire_names_are_those_of_update_engine() -> None:
    assert [state.wire_name for state in State] == [
        "UPDATE_STATUS_IDLE",
        "UPDATE_STATUS_CHECKING_FOR_UPDATE",
        "UPDATE_STATUS_UPDATE_AVAILABLE",
        "UPDATE_STATUS_DOWNLOADING",
        "UPDATE_STATUS_VERIFYING",
        "UPDATE_STATUS_FINALIZING",
        "UPDATE_STATUS_UPDATED_NEED_REBOOT",
        "UPDATE_STATUS_REPORTING_ERROR_EVENT",
    ]
