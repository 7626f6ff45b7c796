"""Waiting for what the daemon does, across its restarts."""

import time
from collections.abc import Callable
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.cli.client import Agent, AgentGoneError, remote_error
from update_agent.cli.console import Console
from update_agent.domain.progress import Phase, Progress, ProgressSink

RETURN_SECS: Final = 30.0
"""How long a daemon may take to restart."""

_HEARTBEAT_SECS: Final = 2.0

_QUIET_SECS: Final = 3.0
"""A daemon that still rests so long after it was told to begin has ended already."""

_PHASES: Final = frozenset(Phase)


class Ending:
    """Recognises that what was begun has ended: the daemon was busy and rests, or has something new to say."""

    def __init__(self, before: NodeStatus) -> None:
        self._before = before
        self._traces = _traces(before)
        self._was_busy = not before.is_resting
        self._begun = time.monotonic()

    def __call__(self, status: NodeStatus) -> bool:
        """Whether it has; called with every status, and now and then with the same."""
        if not status.is_resting:
            self._was_busy = True
            return False
        has_ended = self._was_busy or _traces(status) != self._traces
        return has_ended or time.monotonic() - self._begun > _QUIET_SECS

    def raise_error(self, after: NodeStatus) -> None:
        """Raise what the daemon says went wrong, unless that is still what it said before.

        Every attempt clears the last error or leaves its own, which may be the same as before to the letter.
        """
        error = after.last_error
        if error is not None and (self._was_busy or error != self._before.last_error):
            raise remote_error(error.kind, error.message, error.hint)


def _traces(status: NodeStatus) -> tuple[object, ...]:
    return (status.last_check_at, status.last_error, status.pending_version, status.pending_at)


def follow(
    agent: Agent,
    console: Console,
    is_over: Callable[[NodeStatus], bool],
    came_back: Callable[[NodeStatus], None] = lambda _: None,
) -> NodeStatus:
    """Show the progress until `is_over`; `came_back` is called when the daemon was away.

    Raises:
        ServiceError: service-unreachable, when the daemon went away for good, or hangs.
        UpdateAgentError: what `came_back` raises.
    """
    while True:
        try:
            with console.progress() as sink:
                for status in agent.changes(_HEARTBEAT_SECS):
                    _show(status, sink)
                    if is_over(status):
                        return status
        except AgentGoneError:
            console.say(f"update-agentd has gone; waiting up to {RETURN_SECS:.0f} s for its return")
        came_back(agent.wait_for_return(RETURN_SECS))
        console.say("update-agentd is back")


def _show(status: NodeStatus, sink: ProgressSink) -> None:
    if status.phase in _PHASES and not status.is_resting:
        done, total = status.progress_done_bytes, status.progress_total_bytes
        sink(Progress(phase=Phase(status.phase), done_bytes=done, total_bytes=total))
