"""The status of a node as the daemon knows it, and its forms as JSON and on D-Bus."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from update_agent.api.disk import SlotStatus
from update_agent.api.forms import SCHEMA
from update_agent.domain.machine import State
from update_agent.domain.state import BadRelease, LastError

BUS_NAME: Final = "org.updateagent1"
OBJECT_PATH: Final = "/org/updateagent1"
MANAGER_INTERFACE: Final = "org.updateagent1.Manager"
SLOT_INTERFACE: Final = "org.updateagent1.Slot"
SLOT_PATH_PREFIX: Final = "/org/updateagent1/slots/"
"""Followed by `a` or `b`."""

COMPAT_BUS_NAME: Final = "com.coreos.update1"
COMPAT_OBJECT_PATH: Final = "/com/coreos/update1"
COMPAT_INTERFACE: Final = "com.coreos.update1.Manager"

Property = tuple[str, Any]
"""D-Bus signature and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """One slot; `version`, `content_sha256` and `installed_at` are empty where unknown."""

    name: str
    state: str
    version: str
    priority: int
    tries: int
    successful: bool
    partition: int
    partition_guid: str
    size_bytes: int
    content_sha256: str
    installed_at: str

    @classmethod
    def of(cls, status: SlotStatus) -> "SlotView":
        """The slot of a disk that is at hand."""
        flags, record = status.slot.flags, status.record
        return cls(
            name=status.slot.name,
            state=status.state,
            version=status.version or "",
            priority=flags.priority,
            tries=flags.tries,
            successful=bool(flags.successful),
            partition=status.slot.number,
            partition_guid=str(status.slot.unique_guid),
            size_bytes=status.slot.size_bytes,
            content_sha256=record.sha256 if record else "",
            installed_at=record.installed_at if record else "",
        )

    def to_json(self) -> dict[str, Any]:
        """As `update_agent.api.disk.SlotStatus.to_json`, but for what only the disk's state file knows."""
        return {
            "name": self.name,
            "state": self.state,
            "version": self.version or None,
            "priority": self.priority,
            "tries": self.tries,
            "successful": self.successful,
            "partition": self.partition,
            "partition_guid": self.partition_guid,
            "size_bytes": self.size_bytes,
            "content_sha256": self.content_sha256 or None,
            "installed_at": self.installed_at or None,
        }

    def to_properties(self) -> dict[str, Property]:
        """Of `org.updateagent1.Slot`."""
        return {
            "Name": ("s", self.name),
            "State": ("s", self.state),
            "Version": ("s", self.version),
            "Priority": ("u", self.priority),
            "Tries": ("u", self.tries),
            "Successful": ("b", self.successful),
            "Partition": ("u", self.partition),
            "PartitionGuid": ("s", self.partition_guid),
            "SizeBytes": ("t", self.size_bytes),
            "ContentSha256": ("s", self.content_sha256),
            "InstalledAt": ("s", self.installed_at),
        }

    @classmethod
    def from_properties(cls, values: Mapping[str, Any]) -> "SlotView":
        """The reverse."""
        return cls(
            name=values["Name"],
            state=values["State"],
            version=values["Version"],
            priority=values["Priority"],
            tries=values["Tries"],
            successful=values["Successful"],
            partition=values["Partition"],
            partition_guid=values["PartitionGuid"],
            size_bytes=values["SizeBytes"],
            content_sha256=values["ContentSha256"],
            installed_at=values["InstalledAt"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Everything a person may ask; empty text and 0 stand for "none" or "unknown"; times are unix seconds.

    Attributes:
        state: a word of `update_agent.domain.machine.State`.
        phase: what the install does, a word of `update_agent.domain.progress.Phase`.
        progress_done_bytes, progress_total_bytes, rate_bytes_per_sec: of the phase.
        running_version: release of the booted slot.
        offered_version, offered_size_bytes: what is being installed, or was found by a mere check.
        interrupted_at_bytes: how much of an interrupted update is done, if the service goes on with it by itself.
        pending_version, pending_slot: what boots next when that is not what runs.
        pending_at: when it was installed.
        channel, server: who decides.
        last_check_at: last attempt to ask; last_success_at: last answer; next_check_at: by itself.
        last_error: None after a success.
        bad_releases: not tried again by themselves.
        health: `good`, `bad`, `waiting`, `off`, or `unknown` before the first look.
        health_text: a sentence.
        disk, disk_guid, booted, next_boot, slots, gpt_problems: as `update_agent.api.disk.Status`.
        warnings: sentences about the configuration and the state.
        agent_version: of this program.
    """

    state: str
    phase: str = ""
    progress_done_bytes: int = 0
    progress_total_bytes: int = 0
    rate_bytes_per_sec: int = 0
    running_version: str = ""
    offered_version: str = ""
    offered_size_bytes: int = 0
    interrupted_at_bytes: int = 0
    pending_version: str = ""
    pending_slot: str = ""
    pending_at: int = 0
    channel: str = ""
    server: str = ""
    last_check_at: int = 0
    last_success_at: int = 0
    next_check_at: int = 0
    last_error: LastError | None = None
    bad_releases: tuple[BadRelease, ...] = ()
    health: str = "unknown"
    health_text: str = ""
    disk: str = ""
    disk_guid: str = ""
    booted: str = ""
    next_boot: str = ""
    slots: tuple[SlotView, ...] = ()
    gpt_problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    agent_version: str = ""

    @property
    def is_reboot_pending(self) -> bool:
        """Whether another slot boots next than the one that runs."""
        return bool(self.pending_slot)

    @property
    def is_resting(self) -> bool:
        """Whether nothing is under way."""
        return self.state in {State.IDLE, State.UPDATED_NEED_REBOOT}

    def to_properties(self) -> dict[str, Property]:
        """Of `org.updateagent1.Manager`; the slots are objects of their own."""
        error = self.last_error
        return {
            "State": ("s", self.state),
            "Phase": ("s", self.phase),
            "ProgressDoneBytes": ("t", self.progress_done_bytes),
            "ProgressTotalBytes": ("t", self.progress_total_bytes),
            "RateBytesPerSec": ("t", self.rate_bytes_per_sec),
            "RunningVersion": ("s", self.running_version),
            "OfferedVersion": ("s", self.offered_version),
            "OfferedSizeBytes": ("t", self.offered_size_bytes),
            "InterruptedAtBytes": ("t", self.interrupted_at_bytes),
            "PendingVersion": ("s", self.pending_version),
            "PendingSlot": ("s", self.pending_slot),
            "PendingAt": ("x", self.pending_at),
            "RebootPending": ("b", self.is_reboot_pending),
            "Channel": ("s", self.channel),
            "Server": ("s", self.server),
            "LastCheckAt": ("x", self.last_check_at),
            "LastSuccessAt": ("x", self.last_success_at),
            "NextCheckAt": ("x", self.next_check_at),
            "LastError": (
                "(sssxi)",
                (error.kind, error.message, error.hint, error.at, error.omaha_code) if error else ("", "", "", 0, 0),
            ),
            "BadReleases": ("a(ssx)", [(each.version, each.reason, each.at) for each in self.bad_releases]),
            "Health": ("s", self.health),
            "HealthText": ("s", self.health_text),
            "Disk": ("s", self.disk),
            "DiskGuid": ("s", self.disk_guid),
            "Booted": ("s", self.booted),
            "NextBoot": ("s", self.next_boot),
            "GptProblems": ("as", list(self.gpt_problems)),
            "Warnings": ("as", list(self.warnings)),
            "AgentVersion": ("s", self.agent_version),
        }

    @classmethod
    def from_properties(cls, values: Mapping[str, Any], slots: Sequence[Mapping[str, Any]]) -> "NodeStatus":
        """The reverse; `slots` are the properties of the slots' objects.

        Raises:
            KeyError, TypeError, ValueError: when the values are those of another interface.
        """
        error = LastError(**dict(zip(_ERROR_FIELDS, values["LastError"], strict=True)))
        releases = tuple(
            BadRelease(version=version, reason=reason, at=at) for version, reason, at in values["BadReleases"]
        )
        return cls(
            **{name: values[name.title().replace("_", "")] for name in _PLAIN_FIELDS},
            last_error=error if error.kind else None,
            bad_releases=releases,
            gpt_problems=tuple(values["GptProblems"]),
            warnings=tuple(values["Warnings"]),
            slots=tuple(SlotView.from_properties(slot) for slot in slots),
        )

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON document; what is not known or not there is null."""
        words = {name: getattr(self, name) or None for name in _PLAIN_FIELDS}
        return {
            "schema": SCHEMA,
            "state": words["state"],
            "phase": words["phase"],
            "progress_done_bytes": self.progress_done_bytes if self.phase else None,
            "progress_total_bytes": self.progress_total_bytes if self.phase else None,
            "rate_bytes_per_sec": self.rate_bytes_per_sec if self.phase else None,
            "running_version": words["running_version"],
            "offered_version": words["offered_version"],
            "offered_size_bytes": words["offered_size_bytes"],
            "interrupted_at_bytes": words["interrupted_at_bytes"],
            "reboot_pending": self.is_reboot_pending,
            "pending_version": words["pending_version"],
            "pending_slot": words["pending_slot"],
            "pending_at": _time(self.pending_at),
            "channel": words["channel"],
            "server": words["server"],
            "last_check_at": _time(self.last_check_at),
            "last_success_at": _time(self.last_success_at),
            "next_check_at": _time(self.next_check_at),
            "last_error": _error_to_json(self.last_error) if self.last_error else None,
            "bad_releases": [
                {"version": release.version, "reason": release.reason, "at": _time(release.at)}
                for release in self.bad_releases
            ],
            "health": words["health"],
            "health_text": words["health_text"],
            "disk": words["disk"],
            "disk_guid": words["disk_guid"],
            "booted": words["booted"],
            "next_boot": words["next_boot"],
            "slots": [slot.to_json() for slot in self.slots],
            "gpt_problems": list(self.gpt_problems),
            "warnings": list(self.warnings),
            "agent_version": words["agent_version"],
        }


_ERROR_FIELDS: Final = tuple(LastError.__dataclass_fields__)
_NOT_PLAIN: Final = frozenset({"last_error", "bad_releases", "gpt_problems", "warnings", "slots"})
_PLAIN_FIELDS: Final = tuple(name for name in NodeStatus.__dataclass_fields__ if name not in _NOT_PLAIN)
"""Text and numbers, named on D-Bus as here but in another case."""


def _error_to_json(error: LastError) -> dict[str, Any]:
    return {
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint or None,
        "at": _time(error.at),
        "omaha_code": error.omaha_code,
    }


def _time(unix_secs: int) -> str | None:
    """RFC 3339 in UTC; None for 0, which stands for never."""
    if unix_secs <= 0:
        return None
    return dt.datetime.fromtimestamp(unix_secs, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
