"""Boot flags and the boot loader's rule, by the published examples."""

import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.gptprio import UNBOOTABLE, BootFlags, consume, next_boot, prioritize


def flags(priority: int, tries: int, successful: int) -> BootFlags:
    return BootFlags(priority=priority, tries=tries, successful=bool(successful))


def by_priority(priorities: str) -> dict[int, BootFlags]:
    return {number: flags(int(word), 1, 0) for number, word in enumerate(priorities.split(), start=1)}


def test_flags_from_attributes_are_the_documented_bits() -> None:
    attributes = 0xFE00_FFFF_FFFF_FFFF | 5 << 48 | 7 << 52 | 1 << 56
    assert BootFlags.from_attributes(attributes) == flags(5, 7, 1)


def test_flags_to_attributes_leave_the_other_bits() -> None:
    assert flags(0, 0, 0).to_attributes(2**64 - 1) == 0xFE00_FFFF_FFFF_FFFF
    assert flags(15, 15, 1).to_attributes(0b101) == 0x01FF_0000_0000_0005


@pytest.mark.parametrize(("priority", "tries"), [(16, 0), (-1, 0), (0, 16), (0, -1)])
def test_flags_that_the_bits_cannot_hold_are_refused(priority: int, tries: int) -> None:
    with pytest.raises(FormatError) as caught:
        flags(priority, tries, 0)
    assert caught.value.kind is Kind.GPT_INVALID


NEXT_BOOT = [
    ({}, None),
    ({3: (0, 0, 0), 4: (0, 0, 0)}, None),
    ({3: (1, 0, 1), 4: (0, 0, 0)}, 3),
    ({3: (1, 0, 1), 4: (2, 1, 0)}, 4),
    ({3: (1, 0, 1), 4: (2, 0, 0)}, 3),
    ({3: (0, 1, 1), 4: (0, 1, 0)}, None),
    ({3: (2, 0, 1), 4: (2, 1, 0)}, 3),
    ({4: (2, 0, 1), 3: (2, 1, 0)}, 3),
    ({3: (15, 15, 1), 4: (14, 15, 1)}, 3),
    ({3: (3, 0, 0), 4: (0, 0, 1)}, None),
]


@pytest.mark.parametrize(("candidates", "expected"), NEXT_BOOT)
def test_next_boot_follows_the_rule(candidates: dict[int, tuple[int, int, int]], expected: int | None) -> None:
    assert next_boot({number: flags(*values) for number, values in candidates.items()}) == expected


def test_boots_one_after_the_other_use_up_tries_then_fall_back() -> None:
    state = {2: flags(3, 3, 0), 3: flags(2, 2, 0), 4: flags(1, 0, 1)}
    seen = []
    for _ in range(7):
        number = next_boot(state)
        assert number is not None
        state[number] = consume(state[number])
        seen.append((number, state[number].tries))
    assert seen == [(2, 2), (2, 1), (2, 0), (3, 1), (3, 0), (4, 0), (4, 0)]


def test_boot_of_a_successful_slot_with_tries_takes_one() -> None:
    assert consume(flags(1, 2, 1)) == flags(1, 1, 1)


def test_boot_without_tries_changes_nothing() -> None:
    assert consume(flags(1, 0, 1)) == flags(1, 0, 1)


def test_unbootable_flags_are_all_zero() -> None:
    assert flags(0, 0, 0) == UNBOOTABLE
    assert not UNBOOTABLE.is_bootable


PRIORITIZE = [
    ("2 0 0", 1, None, False, "1 0 0"),
    ("1 0 0", 2, None, False, "1 2 0"),
    ("1 2 0", 1, None, False, "2 1 0"),
    ("8 8 0 8", None, None, False, "1 1 0 1"),
    ("4 4 4 4", 3, 5, False, "4 4 5 4"),
    ("1 1 2 2 3 3 4 4 5 5 0 6 7 7", None, 2, False, "1 1 1 1 1 1 1 1 1 1 0 1 2 2"),
    ("0 0 0", None, None, False, "0 0 0"),
    ("0 0 0", 2, None, False, "0 1 0"),
    ("3 3 5", 1, None, False, "3 1 2"),
    ("3 3 5", 1, None, True, "2 2 1"),
    ("0 0 5", 1, None, True, "2 2 1"),
    ("1 2 3", 9, None, True, "1 2 3"),
    ("1 2 3", 1, 15, False, "15 13 14"),
    ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 15", 1, None, False, "15 1 2 3 4 5 6 7 8 9 10 11 12 13 14 14"),
    ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 1", 1, None, False, "15 1 2 3 4 5 6 7 8 9 10 11 12 13 14 1"),
]


@pytest.mark.parametrize(("before", "first", "top", "with_friends", "after"), PRIORITIZE)
def test_prioritize_renumbers_downwards(
    before: str, first: int | None, top: int | None, with_friends: bool, after: str
) -> None:
    assert prioritize(by_priority(before), first, top=top, with_friends=with_friends) == by_priority(after)


def test_prioritize_leaves_tries_and_successful() -> None:
    state = {3: flags(7, 3, 1), 4: flags(0, 15, 0)}
    assert prioritize(state, 4) == {3: flags(1, 3, 1), 4: flags(2, 15, 0)}


def test_prioritize_nothing_is_nothing() -> None:
    assert prioritize({}) == {}
