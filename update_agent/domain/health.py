"""What it means that a boot is good: the rules, what they look at, and what everybody may read about it.

`update_agent.domain.boot_watch` applies them. Nothing in here looks at the machine: the clock, the checks and the disk
come in as Protocols.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from typing import Any, Final, Protocol, Self

from update_agent.domain.slots import SlotName
from update_agent.errors import DeviceError, Kind
from update_agent.formats.gptprio import BootFlags

SCHEMA: Final = 1
RECORD_BYTES_MAX: Final = 64 * 1024


@unique
class HealthMode(StrEnum):
    """When a boot counts as good."""

    CHECKS = "checks"
    TIMER = "timer"
    OFF = "off"


@unique
class Verdict(StrEnum):
    """What is known about this boot."""

    WAITING = "waiting"
    GOOD = "good"
    BAD = "bad"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecord:
    """What everybody may read about this boot.

    Attributes:
        boot_id: of the kernel.
        verdict: so far.
        text: a sentence.
        at: unix seconds, of the last change.
        started_uptime_secs: since when this boot is watched, also by an earlier process.
    """

    boot_id: str
    verdict: Verdict
    text: str
    at: int
    started_uptime_secs: float

    def to_bytes(self) -> bytes:
        """JSON, for people too."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote.

        Raises:
            DeviceError: state-file.
        """
        try:
            document: dict[str, Any] = json.loads(data)
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}")
            return cls(
                boot_id=str(document["boot_id"]),
                verdict=Verdict(document["verdict"]),
                text=str(document["text"]),
                at=int(document["at"]),
                started_uptime_secs=float(document["started_uptime_secs"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DeviceError(Kind.STATE_FILE, f"health: expected what the agent wrote, got {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """The settings of the same names, `update_agent.config.settings.HealthSettings`."""

    mode: HealthMode
    settle_secs: float
    interval_secs: float
    check_timeout_secs: float
    deadline_secs: float
    timer_secs: float
    fall_back: bool

    def deadline(self, started_uptime_secs: float) -> float:
        """Until when the boot must have become good, as uptime.

        Whoever starts late, on a slow machine or because the service was just put there, gets one fair try.
        """
        fair_try_secs = self.settle_secs + self.interval_secs + self.check_timeout_secs
        return max(self.deadline_secs, started_uptime_secs + fair_try_secs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The flags of both slots, seen from the running one."""

    booted: SlotName
    flags: BootFlags
    other_flags: BootFlags

    @property
    def is_marked_good(self) -> bool:
        """Whether there is nothing left to write."""
        return self.flags.successful and self.flags.priority > 0 and not self.flags.tries

    @property
    def is_given_up(self) -> bool:
        """Whether somebody marked the running slot bad, and the other one boots next."""
        return self.flags.priority == 0 and self.other_flags.is_bootable


def reason_to_stay(trial: Trial, *, may_fall_back: bool) -> str | None:
    """Why a bad boot must not end in the other slot; None when it must."""
    if trial.flags.successful:
        return f"slot {trial.booted} has booted well before"
    if not trial.other_flags.is_bootable:
        return f"slot {trial.booted.other} could not boot"
    if not may_fall_back:
        return "the setting health.fall_back is off"
    return None


class Clock(Protocol):
    """Time of this boot."""

    def uptime(self) -> float:
        """Seconds since the kernel started."""

    def unix_now(self) -> float:
        """Seconds since 1970."""

    def sleep(self, secs: float) -> None:
        """Let time pass."""


class Check(Protocol):
    """Something that must hold."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    def run(self, timeout_secs: float) -> str | None:
        """What is wrong, as the end of a sentence that begins with the name; None if it holds."""


class System(Protocol):
    """What is looked at."""

    def why_not_up(self) -> str | None:
        """Why the system does not count as started; None when it does."""

    def checks(self) -> Sequence[Check]:
        """All there are now, in the order to run them."""


class TrialSlots(Protocol):
    """The slots of the disk. All methods raise `UpdateAgentError`, `busy` among them."""

    def trial(self) -> Trial:
        """Both slots as they are now."""

    def confirm(self) -> None:
        """Mark the running slot good, durably."""

    def give_up(self) -> None:
        """Mark the running slot bad, durably; refused when nothing else could boot."""
