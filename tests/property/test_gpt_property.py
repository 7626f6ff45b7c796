"""Any bytes, any flags: only documented errors, write then read is identity, the rule is GRUB's."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.devices import MemoryDevice
from tests.support.images import (
    A_GOOD,
    Geometry,
    ab_parts,
    make_image,
    resign_entries,
    resign_header,
)
from update_agent.domain.slots import SlotTable
from update_agent.errors import DeviceError, FormatError, InstallError
from update_agent.formats.gpt import Header, Lba, check_protective_mbr
from update_agent.formats.gptprio import BootFlags, consume, next_boot, prioritize
from update_agent.host.disk import GptDisk

SMALL = Geometry(entry_count=8)
U64 = st.integers(0, 2**64 - 1)
FLAGS = st.builds(BootFlags, priority=st.integers(0, 15), tries=st.integers(0, 15), successful=st.booleans())
CANDIDATES = st.dictionaries(st.integers(1, 128), FLAGS, max_size=20)


def exercise(content: bytes) -> None:
    with contextlib.suppress(FormatError, DeviceError, InstallError):
        disk = GptDisk(MemoryDevice.of(content))
        for partition in disk.partitions:
            partition.name.encode()
            with contextlib.suppress(DeviceError):
                disk.region(partition)
        disk.repair()
        assert not disk.problems
        SlotTable.from_disk(disk)


@given(st.binary(max_size=8192))
def test_disk_of_any_bytes_raises_only_documented_errors(content: bytes) -> None:
    exercise(content)


@given(st.binary(min_size=512, max_size=512), U64)
def test_header_of_any_bytes_raises_only_documented_errors(sector: bytes, lba: int) -> None:
    with contextlib.suppress(FormatError):
        Header.from_bytes(sector, lba=Lba(lba))
    with contextlib.suppress(FormatError):
        check_protective_mbr(sector)


@given(
    st.lists(st.tuples(st.integers(0, 91), st.integers(0, 255)), max_size=6),
    st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
@settings(max_examples=300)
def test_disk_with_any_lies_under_right_crcs_raises_only_documented_errors(
    header_lies: list[tuple[int, int]], entry_lies: list[tuple[int, int]], both: bool
) -> None:
    image = make_image(ab_parts(), Geometry(entry_count=9))
    last = len(image) // 512 - 1
    for lba, entries_lba in ((1, 2), (last, last - 3)) if both else ((1, 2),):
        for at, value in entry_lies:
            image[entries_lba * 512 + at] = value
        resign_entries(image, lba)
        for at, value in header_lies:
            image[lba * 512 + at] = value
        resign_header(image, lba)
    exercise(bytes(image))


@given(U64, U64)
def test_attributes_written_are_read_back_and_nothing_else_changes(a: int, b: int) -> None:
    geometry = Geometry(entry_count=12, header_bytes=256, reserved=0x33)
    device = MemoryDevice.of(make_image(ab_parts(), geometry))
    GptDisk(device).set_attributes({3: a, 4: b})
    assert device.content == make_image(ab_parts(a=a, b=b), geometry)
    GptDisk(device).set_attributes({3: A_GOOD, 4: 0})
    assert device.content == make_image(ab_parts(), geometry)


@given(FLAGS, U64)
def test_flags_survive_attributes_and_attributes_survive_flags(flags: BootFlags, attributes: int) -> None:
    packed = flags.to_attributes(attributes)
    assert BootFlags.from_attributes(packed) == flags
    assert BootFlags.from_attributes(attributes).to_attributes(packed) == attributes


def grub_choice(candidates: dict[int, BootFlags]) -> int | None:
    """The rule as a boot loader runs it: one pass in the order of the table."""
    chosen, best = None, 0
    for number in range(1, 129):
        flags = candidates.get(number)
        if flags is not None and (flags.tries or flags.successful) and flags.priority > best:
            chosen, best = number, flags.priority
    return chosen


@given(CANDIDATES)
def test_next_boot_is_what_one_pass_over_the_table_chooses(candidates: dict[int, BootFlags]) -> None:
    assert next_boot(candidates) == grub_choice(candidates)


@given(CANDIDATES)
def test_boots_repeated_end_in_a_successful_slot_or_nothing(candidates: dict[int, BootFlags]) -> None:
    state = dict(candidates)
    for _ in range(15 * 20 + 1):
        number = next_boot(state)
        if number is None:
            break
        state[number] = consume(state[number])
    assert number is None or (state[number].successful and not state[number].tries)


@given(CANDIDATES, st.integers(1, 128))
def test_prioritize_keeps_the_order_and_puts_one_on_top(candidates: dict[int, BootFlags], first: int) -> None:
    after = prioritize(candidates, first)
    for one, before_one in candidates.items():
        for other, before_other in candidates.items():
            if first not in (one, other) and before_one.priority <= before_other.priority:
                assert after[one].priority <= after[other].priority
    if first in candidates:
        assert after[first].priority == max(flags.priority for flags in after.values()) > 0


@given(st.integers(0, 2**20), st.integers(1, 64))
@settings(max_examples=50)
def test_disk_cut_or_grown_anywhere_raises_only_documented_errors(cut: int, factor: int) -> None:
    image = make_image(ab_parts(), SMALL)
    exercise(bytes(image[:cut]))
    exercise(bytes(image) + bytes(factor * 100))
