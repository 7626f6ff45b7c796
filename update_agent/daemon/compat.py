"""When update_engine would emit StatusUpdate, and what it would say.

At the start; at every change of what its interface shows as the operation; once more when a check ends while an update
waits for its reboot, as there the ping did; and during a download when it has come 1 % further, after 10 seconds, and
with the last byte. ResetStatus was never announced.
"""

from typing import Final

from update_agent.daemon.ports import CompatStatus
from update_agent.domain.machine import Snapshot, State

_STEP: Final = 0.01
_INTERVAL_SECS: Final = 10.0


def compat_status(snapshot: Snapshot, last_checked_at: int) -> CompatStatus:
    """What GetStatus answers."""
    release = snapshot.wire_release
    return CompatStatus(
        last_checked_time=last_checked_at,
        progress=snapshot.wire_progress,
        current_operation=snapshot.wire_state.wire_name,
        new_version=release.version,
        new_size=release.size_bytes,
    )


class Cadence:
    """Says of each snapshot whether it is to be announced."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        self._told_progress = 0.0
        self._told_at = 0.0

    def wants(self, snapshot: Snapshot, now: float) -> bool:
        """Whether to emit; `now` is monotonic seconds."""
        before, self._last = self._last, snapshot
        if before.state.is_resting and snapshot.state is State.IDLE:
            return False
        if snapshot.wire_state is not before.wire_state:
            return self._tell(snapshot, now)
        if snapshot.wire_state is State.UPDATED_NEED_REBOOT:
            has_ended = snapshot.state.is_resting and not before.state.is_resting
            return has_ended and self._tell(snapshot, now)
        if snapshot.wire_state is State.DOWNLOADING:
            progress = snapshot.wire_progress
            is_last = progress == 1.0 and before.wire_progress < 1.0
            if is_last or progress - self._told_progress >= _STEP or now - self._told_at >= _INTERVAL_SECS:
                return self._tell(snapshot, now)
        return False

    def _tell(self, snapshot: Snapshot, now: float) -> bool:
        self._told_progress, self._told_at = snapshot.wire_progress, now
        return True
