"""The status of the node, put together from what the parts of the daemon know."""

from dataclasses import dataclass
from typing import Final

from update_agent import __version__
from update_agent.api.node import NodeStatus, SlotView
from update_agent.config.settings import Settings
from update_agent.daemon.node import Node
from update_agent.domain.machine import Release, Snapshot
from update_agent.domain.state import AgentState

_HEALTH_UNKNOWN: Final = "nothing has looked at this boot yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was found about this boot: a word and a sentence (`update_agent.domain.health`)."""

    verdict: str = "unknown"
    text: str = _HEALTH_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the status comes from."""

    node: Node
    snapshot: Snapshot
    state: AgentState
    settings: Settings
    health: Health
    running_version: str
    found: Release | None
    next_check_at: int
    rate_bytes_per_sec: int
    warnings: tuple[str, ...]


def node_status(parts: Parts) -> NodeStatus:
    """The whole status."""
    snapshot, state, status = parts.snapshot, parts.state, parts.node.status
    offered = snapshot.offered or parts.found
    waiting, progress = parts.node.waiting, snapshot.progress
    return NodeStatus(
        state=snapshot.state,
        phase=progress.phase if progress else "",
        progress_done_bytes=progress.done_bytes if progress else 0,
        progress_total_bytes=progress.total_bytes if progress else 0,
        rate_bytes_per_sec=parts.rate_bytes_per_sec,
        running_version=parts.running_version,
        offered_version=offered.version if offered else "",
        offered_size_bytes=offered.size_bytes if offered else 0,
        interrupted_at_bytes=_interrupted_at(parts),
        pending_version=snapshot.pending.version if snapshot.pending else "",
        pending_slot=waiting.name if waiting and snapshot.pending else "",
        pending_at=state.pending.at if state.pending else 0,
        channel=parts.settings.server.channel,
        server=parts.settings.server.url,
        last_check_at=state.last_check_at,
        last_success_at=state.last_success_at,
        next_check_at=parts.next_check_at,
        last_error=state.last_error,
        bad_releases=state.bad_releases,
        health=parts.health.verdict,
        health_text=parts.health.text,
        disk=status.disk if status else "",
        disk_guid=status.disk_guid if status else "",
        booted=(status.booted or "") if status else "",
        next_boot=(status.next_boot or "") if status else "",
        slots=tuple(SlotView.of(slot) for slot in status.slots) if status else (),
        gpt_problems=status.problems if status else (),
        warnings=parts.warnings,
        agent_version=__version__,
    )


def _interrupted_at(parts: Parts) -> int:
    """At rest, what the checkpoint of an update says that goes on by itself."""
    status = parts.node.status
    if status is None or parts.state.unfinished is None or not parts.snapshot.state.is_resting:
        return 0
    return status.interrupted_at_bytes or 0
