"""Boot flags in a partition's attributes, and the boot loader's rule over them.

The bits are those of ChromeOS: priority, tries left, successful. `next_boot` and `consume` are what
GRUB's `gptprio.next` does, `prioritize` is what `cgpt prioritize` does.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from update_agent.errors import FormatError, Kind

USR_TYPE_GUID: Final = uuid.UUID("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6")
"""Type of the partitions that the boot loader chooses from (cgpt: flatcar-usr, flatcar-rootfs, coreos-usr)."""

MAX_PRIORITY: Final = 15
MAX_TRIES: Final = 15

_PRIORITY_SHIFT: Final = 48
_TRIES_SHIFT: Final = 52
_SUCCESSFUL_SHIFT: Final = 56
_NIBBLE: Final = 0xF
_MASK: Final = (_NIBBLE << _PRIORITY_SHIFT) | (_NIBBLE << _TRIES_SHIFT) | (1 << _SUCCESSFUL_SHIFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFlags:
    """What the boot loader knows about a slot.

    Attributes:
        priority: 0-15; 0 is never booted, the highest comes first.
        tries: 0-15; how many more boots may be tried.
        successful: booted well before, so needs no tries.
    """

    priority: int
    tries: int
    successful: bool

    def __post_init__(self) -> None:
        """Refuse what the bits cannot hold.

        Raises:
            FormatError: gpt-invalid.
        """
        for name, value, limit in (("priority", self.priority, MAX_PRIORITY), ("tries", self.tries, MAX_TRIES)):
            if not 0 <= value <= limit:
                raise FormatError(Kind.GPT_INVALID, f"boot flags: expected a {name} of 0 to {limit}, got {value}")

    @classmethod
    def from_attributes(cls, attributes: int) -> "BootFlags":
        """Take them out of the 64 attribute bits of a partition."""
        return cls(
            priority=attributes >> _PRIORITY_SHIFT & _NIBBLE,
            tries=attributes >> _TRIES_SHIFT & _NIBBLE,
            successful=bool(attributes >> _SUCCESSFUL_SHIFT & 1),
        )

    def to_attributes(self, attributes: int) -> int:
        """Put them into the 64 attribute bits of a partition; the other bits stay."""
        flags = (
            self.priority << _PRIORITY_SHIFT | self.tries << _TRIES_SHIFT | int(self.successful) << _SUCCESSFUL_SHIFT
        )
        return attributes & ~_MASK | flags

    @property
    def is_bootable(self) -> bool:
        """Whether the boot loader may choose it."""
        return self.priority > 0 and (self.tries > 0 or self.successful)


UNBOOTABLE: Final = BootFlags(priority=0, tries=0, successful=False)


def next_boot(candidates: Mapping[int, BootFlags]) -> int | None:
    """Which of the partitions, by number, boots next; None when none can.

    The highest priority among the bootable ones; the lowest number when several share it.
    """
    bootable = [number for number, flags in candidates.items() if flags.is_bootable]
    return min(bootable, key=lambda number: (-candidates[number].priority, number), default=None)


def consume(flags: BootFlags) -> BootFlags:
    """What the boot loader leaves behind when it boots the slot: one try less, even of a successful one."""
    return replace(flags, tries=flags.tries - 1) if flags.tries else flags


def prioritize(
    candidates: Mapping[int, BootFlags], first: int | None = None, *, top: int | None = None, with_friends: bool = False
) -> dict[int, BootFlags]:
    """Renumber the priorities downwards without gaps, keeping their order; 0 stays 0.

    Args:
        candidates: flags by partition number.
        first: the partition to put on top of all others, whatever its priority was.
        top: highest priority to give, 1-15; by default as many as there are different ones. Below 1
            nobody is pushed, so the lowest ranks may become equal.
        with_friends: those that share the priority of `first` go on top with it.
    """
    chosen = _top_group(candidates, first, with_friends=with_friends)
    ranks = {
        number: MAX_PRIORITY + 1 if number in chosen else flags.priority
        for number, flags in candidates.items()
        if number in chosen or flags.priority > 0
    }
    ladder = sorted(set(ranks.values()), reverse=True)
    highest = top if top is not None else min(len(ladder), MAX_PRIORITY)
    priorities = {rank: max(highest - step, 1) for step, rank in enumerate(ladder)}
    return {
        number: replace(flags, priority=priorities[ranks[number]]) if number in ranks else flags
        for number, flags in candidates.items()
    }


def _top_group(candidates: Mapping[int, BootFlags], first: int | None, *, with_friends: bool) -> set[int]:
    if first is None or first not in candidates:
        return set()
    if not with_friends:
        return {first}
    return {number for number, flags in candidates.items() if flags.priority == candidates[first].priority}
