"""The states of the agent, and what leads from one to the next.

One method per transition, named after what happened; a picture of them is in the README. A transition that the state
does not allow raises `RefusedError` (wrong-state) and changes nothing. Nothing in here looks at the machine, writes a
file or knows the time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from typing import Final

from update_agent.domain.progress import Phase, Progress
from update_agent.errors import Kind, RefusedError

NO_VERSION: Final = "0.0.0"
"""What update_engine says where there is no release to name."""


@unique
class State(StrEnum):
    """What the agent is doing; in this order `is_past_download` compares."""

    IDLE = "idle"
    CHECKING_FOR_UPDATE = "checking-for-update"
    UPDATE_AVAILABLE = "update-available"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    FINALIZING = "finalizing"
    UPDATED_NEED_REBOOT = "updated-need-reboot"
    REPORTING_ERROR_EVENT = "reporting-error-event"

    @property
    def wire_name(self) -> str:
        """As update_engine spells it on D-Bus."""
        return "UPDATE_STATUS_" + self.replace("-", "_").upper()

    @property
    def is_resting(self) -> bool:
        """Whether nothing is under way, so that a check may begin."""
        return self in {State.IDLE, State.UPDATED_NEED_REBOOT}


INSTALLING: Final = frozenset({State.UPDATE_AVAILABLE, State.DOWNLOADING, State.VERIFYING, State.FINALIZING})
"""Between an offer and its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release on its way into a slot, or in it.

    Attributes:
        version: as the server or the payload names it; empty if neither does.
        size_bytes: of the payload; 0 if unknown.
    """

    version: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The machine at one moment.

    Attributes:
        state: what is being done.
        offered: the release that is being installed; None outside of an update.
        pending: the release that boots next; None when the running slot does.
        progress: the last point told by the install, or None.
    """

    state: State = State.IDLE
    offered: Release | None = None
    pending: Release | None = None
    progress: Progress | None = None

    @property
    def wire_state(self) -> State:
        """What update_engine's interface shows.

        A release that waits for its reboot goes on waiting while the server is asked for a newer one, so whoever
        reboots on UPDATED_NEED_REBOOT sees no gap; what is told there changes when the slot does.
        """
        if self.pending is not None and not self.state.is_resting:
            return State.UPDATED_NEED_REBOOT
        return self.state

    @property
    def wire_release(self) -> Release:
        """What update_engine's interface shows as new version and size."""
        if self.wire_state is State.UPDATED_NEED_REBOOT:
            release = self.pending
        else:
            release = self.offered if self.wire_state in INSTALLING else None
        if release is None:
            return Release(version=NO_VERSION)
        return release if release.version else replace(release, version=NO_VERSION)

    @property
    def wire_progress(self) -> float:
        """0 to 1 while downloading, else 0."""
        progress = self.progress
        if self.wire_state is not State.DOWNLOADING or progress is None or not progress.total_bytes:
            return 0.0
        return min(progress.done_bytes / progress.total_bytes, 1.0)


class Machine:
    """Holds the snapshot; tells `changed` after every transition and every step of the progress."""

    def __init__(self, snapshot: Snapshot, changed: Callable[[Snapshot], None]) -> None:
        self._snapshot = snapshot
        self._changed = changed

    @property
    def snapshot(self) -> Snapshot:
        """What it is now."""
        return self._snapshot

    def start_check(self) -> None:
        """The server is asked: from rest to CHECKING_FOR_UPDATE."""
        self._require("start_check", State.IDLE, State.UPDATED_NEED_REBOOT)
        self._go(State.CHECKING_FOR_UPDATE, offered=None, progress=None)

    def find_nothing(self) -> None:
        """The server has nothing, or nothing that may be installed: back to rest."""
        self._require("find_nothing", State.CHECKING_FOR_UPDATE)
        self._rest()

    def find_update(self, release: Release) -> None:
        """The server offers a release that may be installed: to UPDATE_AVAILABLE."""
        self._require("find_update", State.CHECKING_FOR_UPDATE)
        self._go(State.UPDATE_AVAILABLE, offered=release)

    def take_target(self) -> None:
        """The target slot was made unbootable: whatever waited in it for a reboot is gone."""
        self._require("take_target", *INSTALLING)
        self._go(self._snapshot.state, pending=None)

    def start_download(self) -> None:
        """The first bytes came: to DOWNLOADING."""
        self._require("start_download", State.UPDATE_AVAILABLE)
        self._go(State.DOWNLOADING, progress=None)

    def start_verifying(self) -> None:
        """All bytes are there, the slot is read back: to VERIFYING."""
        self._require("start_verifying", State.UPDATE_AVAILABLE, State.DOWNLOADING)
        self._go(State.VERIFYING, progress=None)

    def start_finalizing(self) -> None:
        """The slot is right, what is left is the kernel, the post-install and the flags: to FINALIZING."""
        self._require("start_finalizing", State.UPDATE_AVAILABLE, State.DOWNLOADING, State.VERIFYING)
        self._go(State.FINALIZING, progress=None)

    def finish(self, release: Release) -> None:
        """The release boots next: to UPDATED_NEED_REBOOT."""
        self._require("finish", *INSTALLING)
        self._go(State.UPDATED_NEED_REBOOT, offered=None, pending=release, progress=None)

    def fail(self) -> None:
        """The check or the update went wrong, and the server is told: to REPORTING_ERROR_EVENT."""
        self._require("fail", State.CHECKING_FOR_UPDATE, *INSTALLING)
        self._go(State.REPORTING_ERROR_EVENT, offered=None, progress=None)

    def abandon(self) -> None:
        """The daemon ends in the middle, and goes on after its next start: back to rest."""
        self._require("abandon", State.CHECKING_FOR_UPDATE, *INSTALLING)
        self._rest()

    def finish_report(self) -> None:
        """The server was told, or could not be: back to rest."""
        self._require("finish_report", State.REPORTING_ERROR_EVENT)
        self._rest()

    def await_reboot(self, release: Release) -> None:
        """The other slot was made to boot next by hand: from rest to UPDATED_NEED_REBOOT."""
        self._require("await_reboot", State.IDLE, State.UPDATED_NEED_REBOOT)
        self._go(State.UPDATED_NEED_REBOOT, pending=release)

    def reset(self) -> None:
        """The running slot boots next again: from rest to IDLE."""
        self._require("reset", State.IDLE, State.UPDATED_NEED_REBOOT)
        self._go(State.IDLE, offered=None, pending=None, progress=None)

    def advance(self, progress: Progress) -> None:
        """The update has come further; enters the state that the phase belongs to."""
        self._require("advance", *INSTALLING)
        enter = {
            (State.UPDATE_AVAILABLE, Phase.DOWNLOADING): self.start_download,
            (State.UPDATE_AVAILABLE, Phase.VERIFYING): self.start_verifying,
            (State.DOWNLOADING, Phase.VERIFYING): self.start_verifying,
            (State.UPDATE_AVAILABLE, Phase.FINALIZING): self.start_finalizing,
            (State.DOWNLOADING, Phase.FINALIZING): self.start_finalizing,
            (State.VERIFYING, Phase.FINALIZING): self.start_finalizing,
        }.get((self._snapshot.state, progress.phase))
        if enter is not None:
            enter()
        self._go(self._snapshot.state, progress=progress)

    def _rest(self) -> None:
        state = State.IDLE if self._snapshot.pending is None else State.UPDATED_NEED_REBOOT
        self._go(state, offered=None, progress=None)

    def _require(self, transition: str, *allowed: State) -> None:
        if self._snapshot.state not in allowed:
            expected = " or ".join(sorted(allowed))
            raise RefusedError(
                Kind.WRONG_STATE,
                f"{transition}: expected state {expected}, got {self._snapshot.state}",
                hint="wait until the update under way has ended, or cancel it: update-agent cancel",
            )

    def _go(self, state: State, **fields: Release | Progress | None) -> None:
        self._snapshot = replace(self._snapshot, state=state, **fields)  # type: ignore[arg-type]
        self._changed(self._snapshot)
