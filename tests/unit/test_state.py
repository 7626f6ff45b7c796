import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.agents import KeptMemoryFile
from update_agent.domain.state import (
    BAD_RELEASES_MAX,
    AgentState,
    Backoff,
    BadRelease,
    LastError,
    PendingUpdate,
    StateStore,
)
from update_agent.errors import DeviceError, Kind, TransferError
from update_agent.host.files import StateFile

PENDING = PendingUpdate(version="2", size_bytes=5, slot="B", previous_version="1", boot_id="boot", at=7)
FULL = AgentState(
    aleph_version="1",
    previous_version="0.9",
    has_fallen_back=True,
    pending=PENDING,
    trial=PENDING,
    unfinished="3",
    unfinished_size_bytes=9,
    bad_releases=(BadRelease(version="2", reason="fell back", at=1),),
    backoff=Backoff(signature="text", attempt_number=2, url_index=1, url_failure_count=3, expiry_at=99),
    last_check_at=10,
    last_success_at=11,
    check_interval_secs=12,
    last_error=LastError(kind="transfer", message="no", hint="yes", at=4, omaha_code=9),
)


@pytest.mark.parametrize("state", [AgentState(), FULL])
def test_bytes_and_back_is_the_same_state(state: AgentState) -> None:
    assert AgentState.from_bytes(state.to_bytes()) == state


def test_names_of_a_later_version_are_ignored_and_missing_ones_have_their_defaults() -> None:
    data = json.dumps({"schema": 1, "from_the_future": 1, "aleph_version": "1"}).encode()
    assert AgentState.from_bytes(data) == AgentState(aleph_version="1")


def test_every_prefix_of_a_file_is_refused_as_a_whole() -> None:
    data = FULL.to_bytes()
    for length in range(len(data) - 1):
        with pytest.raises(DeviceError) as caught:
            AgentState.from_bytes(data[:length])
        assert caught.value.kind is Kind.STATE_FILE


def _wrong() -> list[dict[str, object]]:
    good = {"schema": 1, **asdict(FULL)}
    changes: list[dict[str, object]] = [
        {"schema": 2},
        {"pending": {"version": "2"}},
        {"pending": [1]},
        {"bad_releases": [{"version": 1, "reason": "", "at": 0}]},
        {"bad_releases": 3},
        {"backoff": None},
        {"backoff": {"attempt_number": "1"}},
        {"last_check_at": True},
        {"last_check_at": "soon"},
        {"last_check_at": -1},
        {"last_success_at": 253_402_300_800},
        {"unfinished_size_bytes": 1 << 63},
        {"backoff": {"attempt_number": -1}},
        {"bad_releases": [{"version": "2", "reason": "", "at": 10**30}]},
        {"has_fallen_back": 1},
        {"previous_version": 5},
        {"unfinished": []},
    ]
    return [{**good, **change} for change in changes]


@pytest.mark.parametrize("document", _wrong())
def test_wrong_value_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(DeviceError) as caught:
        AgentState.from_bytes(json.dumps(document).encode())
    assert caught.value.kind is Kind.STATE_FILE


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_state_are_refused(data: bytes) -> None:
    with pytest.raises(DeviceError):
        AgentState.from_bytes(data)


def test_bad_releases_are_remembered_once_and_at_most_sixteen() -> None:
    state = AgentState()
    for number in range(20):
        state = state.with_bad(BadRelease(version=str(number), reason="first", at=0))
    state = state.with_bad(BadRelease(version="10", reason="second", at=1))
    assert len(state.bad_releases) == BAD_RELEASES_MAX
    assert state.bad_releases[-1].reason == "second"
    assert [release.version for release in state.bad_releases].count("10") == 1
    assert (state.is_bad("19"), state.is_bad("0")) == (True, False)


def test_last_error_has_what_the_error_says() -> None:
    error = TransferError(Kind.TRANSFER, "no route")
    assert LastError.of(error, at=5, omaha_code=9) == LastError(
        kind="transfer", message="no route", hint="", at=5, omaha_code=9
    )


def test_store_keeps_what_was_saved(tmp_path: Path) -> None:
    store = StateStore(StateFile(tmp_path / "state.json"))
    assert store.load() == (AgentState(), None)
    store.save(FULL)
    assert store.load() == (FULL, None)


def test_store_without_a_file_has_the_state_of_the_first_day(tmp_path: Path) -> None:
    store = StateStore(StateFile(tmp_path / "state.json"), AgentState(aleph_version="0.1"))
    assert store.load() == (AgentState(aleph_version="0.1"), None)
    store.save(FULL)
    assert store.load() == (FULL, None)


def test_store_sets_a_damaged_file_aside_and_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(FULL.to_bytes()[:-20])
    state, error = StateStore(StateFile(path)).load()
    assert state == AgentState()
    assert error is not None
    assert error.kind is Kind.STATE_FILE
    assert "state.json.damaged" in error.message
    assert (tmp_path / "state.json.damaged").read_bytes() == FULL.to_bytes()[:-20]
    assert StateStore(StateFile(path)).load() == (AgentState(), None)


def test_store_that_cannot_set_a_file_aside_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeptMemoryFile({"state.json": b"junk"}, "state.json")

    def fail() -> str:
        raise DeviceError(Kind.STATE_FILE, "state.json: cannot set aside: Read-only file system")

    monkeypatch.setattr(file, "set_aside", fail)
    state, error = StateStore(file).load()
    assert state == AgentState()
    assert error is not None
    assert "expected what the agent wrote" in error.message
    assert "Read-only" in error.message
