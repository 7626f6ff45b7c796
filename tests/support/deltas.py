"""Writes the operations of a delta and works out, one after the other, what they give."""

from collections.abc import Sequence

import bsdiff4

from tests.support.payloads import Step
from update_agent.formats.compression import compress
from update_agent.formats.operations import SPARSE_HOLE, Extent, Operation, OperationType

Run = tuple[int, int]
"""First block and number of blocks."""


class DeltaScript:
    """A delta from `old`; in place (major version 1) it reads what it has written, else always `old`.

    After the last step `content` is what the target has to hold.
    """

    def __init__(self, old: bytes, *, block_size: int = 1024, in_place: bool = False) -> None:
        self.old = old
        self.content = bytearray(old if in_place else len(old))
        self.steps: list[Step] = []
        self._block_size = block_size
        self._in_place = in_place

    def copy(self, src: Sequence[Run], dst: Sequence[Run], *, src_sha256: bytes | None = None) -> None:
        """MOVE or SOURCE_COPY."""
        type_ = OperationType.MOVE if self._in_place else OperationType.SOURCE_COPY
        data = self._gather(src)
        self._add(
            Operation(type=type_, src_extents=_extents(src), dst_extents=_extents(dst), src_sha256=src_sha256), b""
        )
        self._scatter(dst, data)

    def patch(self, src: Sequence[Run], dst: Sequence[Run], data: bytes, *, src_length: int | None = None) -> None:
        """BSDIFF or SOURCE_BSDIFF that makes `data`."""
        type_ = OperationType.BSDIFF if self._in_place else OperationType.SOURCE_BSDIFF
        old = self._gather(src)[:src_length]
        operation = Operation(
            type=type_,
            src_extents=_extents(src),
            dst_extents=_extents(dst),
            src_length=src_length,
            dst_length=len(data),
        )
        self._add(operation, bsdiff4.diff(old, data))
        self._scatter(dst, data.ljust(-(-len(data) // self._block_size) * self._block_size, b"\0"))

    def replace(self, type_: OperationType, dst: Sequence[Run], data: bytes) -> None:
        """One of REPLACE*."""
        self._add(Operation(type=type_, dst_extents=_extents(dst)), compress(type_, data))
        self._scatter(dst, data)

    def clear(self, type_: OperationType, dst: Sequence[Run]) -> None:
        """ZERO or DISCARD."""
        self._add(Operation(type=type_, dst_extents=_extents(dst)), b"")
        self._scatter(dst, bytes(sum(count for _, count in dst) * self._block_size))

    def _add(self, operation: Operation, blob: bytes) -> None:
        self.steps.append((operation, blob))

    def _gather(self, runs: Sequence[Run]) -> bytes:
        content = self.content if self._in_place else self.old
        size = self._block_size
        return b"".join(
            bytes(count * size)
            if start == SPARSE_HOLE
            else bytes(content[start * size : (start + count) * size]).ljust(count * size, b"\0")
            for start, count in runs
        )

    def _scatter(self, runs: Sequence[Run], data: bytes) -> None:
        for start, count in runs:
            piece, data = data[: count * self._block_size], data[count * self._block_size :]
            if start != SPARSE_HOLE:
                self.content[start * self._block_size : start * self._block_size + len(piece)] = piece


def _extents(runs: Sequence[Run]) -> tuple[Extent, ...]:
    return tuple(Extent(start, count) for start, count in runs)
