"""What a daemon may say, and steps from one such status to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from update_agent.api.node import NodeStatus, SlotView
from update_agent.domain.machine import State
from update_agent.domain.state import LastError
from update_agent.errors import Kind

Steps = Sequence[Mapping[str, Any]]
"""Each is fields of the status to change, or as `scripted_agent` says: a file to wait for, or an end."""

MIB: Final = 1 << 20


def slot(name: str, state: str, version: str, **fields: Any) -> SlotView:
    """A slot; booted ones are successful, others wait for their first boot."""
    is_booted = state == "booted"
    given: dict[str, Any] = {
        "name": name,
        "state": state,
        "version": version,
        "priority": 1 if is_booted else 2,
        "tries": 0 if is_booted else 1,
        "successful": is_booted,
        "partition": 3 if name == "A" else 4,
        "partition_guid": f"00000000-0000-0000-0000-00000000000{name.lower()}",
        "size_bytes": 1 << 30,
        "content_sha256": "ab" * 32 if version else "",
        "installed_at": "2026-01-02T03:04:05Z" if version else "",
    }
    return SlotView(**{**given, **fields})


RUNNING: Final = NodeStatus(
    state=State.IDLE,
    running_version="4152.2.1",
    channel="stable",
    server="https://updates.example/v1/update/",
    last_check_at=1_790_000_000,
    last_success_at=1_790_000_000,
    next_check_at=1_790_002_700,
    health="good",
    health_text="all checks held for 30 s",
    disk="/dev/vda",
    disk_guid="00000000-0000-0000-0000-000000000001",
    booted="A",
    next_boot="A",
    slots=(slot("A", "booted", "4152.2.1"), slot("B", "bootable", "4081.3.0", priority=0, tries=0)),
    agent_version="1.0",
)
"""A node on which all is well."""

PENDING: Final = replace(
    RUNNING,
    state=State.UPDATED_NEED_REBOOT,
    pending_version="4230.1.0",
    pending_slot="B",
    pending_at=1_790_000_100,
    next_boot="B",
    slots=(RUNNING.slots[0], slot("B", "next-boot", "4230.1.0")),
)

CHECKING: Final[Mapping[str, Any]] = {"state": State.CHECKING_FOR_UPDATE, "last_check_at": 1_790_000_200}
FOUND: Final[Mapping[str, Any]] = {
    "state": State.UPDATE_AVAILABLE,
    "offered_version": "4230.1.0",
    "offered_size_bytes": 412 * MIB,
}


def at_rest(**fields: Any) -> Mapping[str, Any]:
    """The step that ends a command."""
    return {"state": State.IDLE, **_NO_PROGRESS, **fields}


_NO_PROGRESS: Final = {
    "phase": "",
    "progress_done_bytes": 0,
    "progress_total_bytes": 0,
    "rate_bytes_per_sec": 0,
    "offered_version": "",
    "offered_size_bytes": 0,
}


def downloading(percent: int) -> Mapping[str, Any]:
    """A step of a download."""
    return {
        "state": State.DOWNLOADING,
        "phase": "downloading",
        "progress_done_bytes": -(-412 * MIB * percent // 100),
        "progress_total_bytes": 412 * MIB,
        "rate_bytes_per_sec": 18 * MIB,
    }


VERIFYING: Final[Mapping[str, Any]] = {
    "state": State.VERIFYING,
    "phase": "verifying",
    "progress_done_bytes": 1 << 30,
    "progress_total_bytes": 1 << 30,
}
FINALIZING: Final[Mapping[str, Any]] = {
    "state": State.FINALIZING,
    "phase": "finalizing",
    "progress_done_bytes": 0,
    "progress_total_bytes": 0,
}
INSTALLED: Final[Mapping[str, Any]] = {
    **_NO_PROGRESS,
    "state": State.UPDATED_NEED_REBOOT,
    "pending_version": "4230.1.0",
    "pending_slot": "B",
    "pending_at": 1_790_000_300,
    "next_boot": "B",
    "slots": PENDING.slots,
}
GOOD_INSTALL: Final[Steps] = (
    CHECKING,
    FOUND,
    *(downloading(percent) for percent in (1, 30, 60, 100)),
    VERIFYING,
    FINALIZING,
    INSTALLED,
)


def failure(kind: Kind, message: str, hint: str = "", at: int = 1_790_000_250) -> LastError:
    """An error for `last_error`."""
    return LastError(kind=kind, message=message, hint=hint, at=at, omaha_code=10)
