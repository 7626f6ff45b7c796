"""The status of a node as the daemon knows it, and its forms as JSON and on D-Bus."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
