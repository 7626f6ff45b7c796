"""Extents of a device as one run of bytes: gathered when read, filled in order when written."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from update_agent.errors import InstallError, Kind
from update_agent.formats.manifest import SPARSE_HOLE, Extent
from update_agent.host.blockdev import BlockDevice, Buffer


def count_bytes(extents: Sequence[Extent], block_size: int) -> int:
    """Bytes that the extents cover, holes included."""
    return sum(extent.num_blocks for extent in extents) * block_size


def are_overlapping(left: Sequence[Extent], right: Sequence[Extent]) -> bool:
    """Whether any block is in both; holes are nowhere."""
    # One sorted pass: a manifest may have so many extents that comparing each with each would take hours.
    spans = sorted(
        (extent.start_block, extent.num_blocks, side)
        for side, extents in enumerate((left, right))
        for extent in extents
        if extent.start_block != SPARSE_HOLE
    )
    ends = [0, 0]
    for start, blocks, side in spans:
        if start < ends[1 - side]:
            return True
        ends[side] = max(ends[side], start + blocks)
    return False


class ExtentReader:
    """Random access to the bytes that extents gather; a hole reads as zeros."""

    def __init__(self, device: BlockDevice, extents: Sequence[Extent], block_size: int, length: int | None) -> None:
        """Look at the first `length` bytes, or at all.

        Raises:
            InstallError: operation-failed, when `length` is longer than the extents.
        """
        self._device = device
        self._extents = tuple(extents)
        self._block_size = block_size
        self._starts = tuple(accumulate((e.num_blocks * block_size for e in extents), initial=0))
        self.size_bytes = self._starts[-1] if length is None else length
        if self.size_bytes > self._starts[-1]:
            raise InstallError(
                Kind.OPERATION_FAILED, f"operation: expected {self.size_bytes} source bytes, got {self._starts[-1]}"
            )

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        end = min(offset + length, self.size_bytes)
        pieces = []
        index = bisect_right(self._starts, offset) - 1
        while offset < end:
            extent = self._extents[index]
            inside = offset - self._starts[index]
            count = min(end, self._starts[index + 1]) - offset
            if extent.start_block == SPARSE_HOLE:
                pieces.append(bytes(count))
            else:
                pieces.append(self._device.read_at(extent.start_block * self._block_size + inside, count))
            offset += count
            index += 1
        return b"".join(pieces)


class ExtentWriter:
    """Fills extents from the first byte on; what falls into a hole is dropped."""

    def __init__(self, device: BlockDevice, extents: Sequence[Extent], block_size: int) -> None:
        self._device = device
        self._extents = tuple(extents)
        self._block_size = block_size
        self._index = 0
        self._inside = 0

    def write(self, data: Buffer) -> None:
        """Append `data`.

        Raises:
            InstallError: operation-failed, when there is more data than room.
            DeviceError: from the device.
        """
        view = memoryview(data)
        while view:
            if self._index == len(self._extents):
                raise InstallError(Kind.OPERATION_FAILED, "operation: expected its data to fit its extents, got more")
            extent = self._extents[self._index]
            room = extent.num_blocks * self._block_size - self._inside
            piece = view[:room]
            if extent.start_block != SPARSE_HOLE:
                self._device.write_at(extent.start_block * self._block_size + self._inside, piece)
            self._inside += len(piece)
            if len(piece) == room:
                self._index, self._inside = self._index + 1, 0
            view = view[len(piece) :]

    def finish(self) -> None:
        """Fill the last block that was begun with zeros, as upstream does."""
        rest = -self._inside % self._block_size
        if rest:
            self.write(bytes(rest))
