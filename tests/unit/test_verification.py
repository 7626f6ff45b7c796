"""Reading back behind the writer: what may be read when, and that it is what the medium holds."""

import hashlib
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.devices import FaultyDevice, MemoryDevice
from tests.support.nodes import make_node
from tests.support.payloads import make_payload
from update_agent.domain.progress import CancelToken, Phase, Progress, ignore_progress
from update_agent.domain.readback import ReadbackHash
from update_agent.domain.slots import SlotName
from update_agent.domain.verification import written_prefixes
from update_agent.formats.operations import ContentInfo, Extent, Operation, OperationType, Part, PartName
from update_agent.host.blockdev import BlockDevice, Buffer

MIB = 1024 * 1024
BLOCK = 4096


class CountingDevice(FaultyDevice):
    """Notes at every write how many bytes were read back before."""

    def __init__(self, device: BlockDevice, read_before_write: list[int]) -> None:
        super().__init__(device)
        self._read_before_write = read_before_write
        self._read_bytes = 0

    def write_at(self, offset: int, data: Buffer) -> None:
        self._read_before_write.append(self._read_bytes)
        super().write_at(offset, data)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        super().read_into(offset, buffer, uncached=uncached)
        self._read_bytes += len(buffer)


def part(*extents: tuple[int, int], kind: OperationType = OperationType.ZERO) -> Part:
    operations = tuple(Operation(type=kind, dst_extents=(Extent(start, count),)) for start, count in extents)
    return Part(name=PartName.USR, operations=operations, old=None, new=ContentInfo(size_bytes=9, sha256=bytes(32)))


def test_prefixes_of_blocks_in_order_grow_with_every_operation() -> None:
    assert written_prefixes(part((0, 2), (2, 3), (5, 1)), BLOCK) == (0, 2 * BLOCK, 5 * BLOCK, 6 * BLOCK)


def test_prefixes_wait_for_blocks_that_come_late() -> None:
    assert written_prefixes(part((2, 3), (5, 1), (0, 2), (9, 1)), BLOCK) == (0, 0, 0, 6 * BLOCK, 6 * BLOCK)


def test_prefixes_of_a_part_changed_in_place_are_empty() -> None:
    in_place = part((0, 2), kind=OperationType.MOVE)
    assert written_prefixes(in_place, BLOCK) == (0,)


@pytest.mark.parametrize("steps", [(), (1,), (5 * MIB,), (300_000, 300_000, 33 * MIB), (40 * MIB,)])
def test_readback_in_steps_gives_the_hash_of_the_whole(steps: tuple[int, ...]) -> None:
    content = hashlib.shake_128(b"content").digest(40 * MIB)
    points: list[Progress] = []
    with closing(ReadbackHash(MemoryDevice.of(content))) as readback:
        for step in steps:
            readback.advance(step)
        found = readback.finish(len(content), phase=Phase.VERIFYING, progress=points.append, cancel=CancelToken())
    assert found == hashlib.sha256(content).digest()
    assert points[-1].done_bytes == len(content)


def test_readback_does_not_look_at_what_was_not_promised() -> None:
    device = MemoryDevice.of(bytes(8 * MIB))
    with closing(ReadbackHash(device)) as readback:
        readback.advance(4 * MIB)
        device.write_at(4 * MIB, b"late" * 1024)
        found = readback.finish(8 * MIB, phase=Phase.VERIFYING, progress=ignore_progress, cancel=CancelToken())
    assert found == hashlib.sha256(device.content).digest()


def test_install_reads_back_while_it_still_writes(tmp_path: Path) -> None:
    content = hashlib.shake_128(b"usr").digest(16 * MIB)
    node = make_node(tmp_path, usr_bytes=len(content))
    node.checkpoint_interval_bytes = 64 * 1024
    read_before_write: list[int] = []
    node.wrap_target = lambda device: CountingDevice(device, read_before_write)
    node.install(make_payload(content, op_bytes=64 * 1024))
    assert node.content(SlotName.B) == content
    assert read_before_write[-1] > MIB
