import itertools
import random
import time
from collections.abc import Sequence

import pytest

from tests.support.devices import MemoryDevice
from update_agent.domain.extents import ExtentReader, ExtentWriter, are_overlapping, count_bytes
from update_agent.errors import InstallError, Kind
from update_agent.formats.operations import SPARSE_HOLE, Extent

BLOCK = 4
DATA = bytes(range(40))
SCATTERED = (Extent(5, 2), Extent(SPARSE_HOLE, 1), Extent(0, 1))
GATHERED = DATA[20:28] + bytes(4) + DATA[:4]


def test_count_bytes_counts_holes() -> None:
    assert count_bytes(SCATTERED, BLOCK) == 16


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([], [], False),
        ([(0, 4)], [], False),
        ([(0, 4)], [(4, 4)], False),
        ([(4, 4)], [(0, 4)], False),
        ([(0, 4)], [(3, 1)], True),
        ([(3, 1)], [(0, 4)], True),
        ([(0, 9)], [(2, 1)], True),
        ([(5, 1)], [(5, 1)], True),
        ([(0, 1), (0, 9)], [(4, 1)], True),
        ([(0, 9), (1, 1)], [(4, 1)], True),
        ([(0, 2), (2, 2)], [(4, 1)], False),
        ([(SPARSE_HOLE, 4)], [(SPARSE_HOLE, 4)], False),
        ([(SPARSE_HOLE, 4), (7, 1)], [(7, 1), (SPARSE_HOLE, 4)], True),
    ],
)
def test_are_overlapping(left: list[tuple[int, int]], right: list[tuple[int, int]], expected: bool) -> None:
    assert are_overlapping([Extent(*run) for run in left], [Extent(*run) for run in right]) is expected


def blocks_of(extents: Sequence[Extent]) -> set[int]:
    return {block for extent in extents for block in range(extent.start_block, extent.start_block + extent.num_blocks)}


def test_are_overlapping_agrees_with_comparing_blocks() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        left, right = (
            [Extent(rng.randrange(30), rng.randint(1, 4)) for _ in range(rng.randrange(4))] for _ in range(2)
        )
        blocks = [
            {extent.start_block + i for extent in side for i in range(extent.num_blocks)} for side in (left, right)
        ]
        assert are_overlapping(left, right) is bool(blocks[0] & blocks[1])


def test_are_overlapping_takes_no_time_with_as_many_extents_as_a_manifest_may_have() -> None:
    left = [Extent(2 * number, 1) for number in range(262_144)]
    right = [Extent(2 * number + 1, 1) for number in range(262_144)]
    start = time.process_time()
    assert not are_overlapping(left, right)
    assert time.process_time() - start < 20  # each with each would take hours


def test_reader_any_range_gives_gathered_bytes() -> None:
    reader = ExtentReader(MemoryDevice.of(DATA), SCATTERED, BLOCK, None)
    assert reader.size_bytes == 16
    for start, length in itertools.product(range(18), range(20)):
        assert reader.read_at(start, length) == GATHERED[start : start + length]


def test_reader_with_length_ends_inside_of_last_block() -> None:
    reader = ExtentReader(MemoryDevice.of(DATA), SCATTERED, BLOCK, 13)
    assert reader.read_at(0, 99) == GATHERED[:13]


def test_reader_longer_than_extents_is_refused() -> None:
    with pytest.raises(InstallError) as caught:
        ExtentReader(MemoryDevice.of(DATA), SCATTERED, BLOCK, 17)
    assert caught.value.kind is Kind.OPERATION_FAILED


@pytest.mark.parametrize("step", [1, 3, 4, 5, 16])
def test_writer_pieces_of_any_size_land_in_order(step: int) -> None:
    device = MemoryDevice.of(b"\xee" * 40)
    writer = ExtentWriter(device, SCATTERED, BLOCK)
    data = bytes(range(100, 116))
    for start in range(0, 16, step):
        writer.write(data[start : start + step])
    writer.finish()
    assert device.content == data[12:16] + b"\xee" * 16 + data[:8] + b"\xee" * 12


def test_writer_finish_fills_last_block_and_leaves_the_rest() -> None:
    device = MemoryDevice.of(b"\xee" * 40)
    writer = ExtentWriter(device, [Extent(1, 3)], BLOCK)
    writer.write(b"12345")
    writer.finish()
    assert device.content == b"\xee" * 4 + b"12345\0\0\0" + b"\xee" * 28


def test_writer_more_data_than_room_is_refused() -> None:
    writer = ExtentWriter(MemoryDevice.of(DATA), SCATTERED, BLOCK)
    with pytest.raises(InstallError) as caught:
        writer.write(bytes(17))
    assert caught.value.kind is Kind.OPERATION_FAILED
