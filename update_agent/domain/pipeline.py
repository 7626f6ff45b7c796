"""All operations of a payload, with fetching, hashing, decompressing and writing at the same time.

The calling thread takes blobs from the stream, in order, and hands them to workers; bz2, lzma, zstd, SHA-256 and
pwrite all release the interpreter lock, so every core works. Memory is bounded by the number of operations under way.
Where the order matters - in-place operations of version 1 - the pipeline waits for what came before.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from update_agent.domain.apply import PartApplier, has_in_place, overwrites_its_source, verify_blob
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.extents import are_overlapping
from update_agent.domain.progress import CancelToken, Phase, Progress, ProgressSink
from update_agent.domain.reader import PayloadReader
from update_agent.formats.manifest import Extent, Manifest, Operation, Part, PartName
from update_agent.host.spool import MEMORY_BLOB_BYTES_MAX, Blob

CHECKPOINT_INTERVAL_BYTES: Final = 16 * 1024 * 1024
"""Bytes of payload that a crash may cost: they are fetched a second time."""

_REDO_EXTENTS_MAX: Final = 1024
"""Extents read in place since the last checkpoint; each new operation is compared with all of them."""


class Checkpointer(Protocol):
    """Keeps the way back to a point of the stream."""

    def snapshot(self, next_operation: int) -> Checkpoint | None:
        """What must be saved to go on at `next_operation`, taken now; None where that cannot be saved."""

    def save(self, snapshot: Checkpoint) -> None:
        """Flush the targets, then make the snapshot durable."""

    def forbid(self) -> None:
        """Forget what was saved, durably: what comes next cannot be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation with its place in the whole."""

    index: int
    part: Part
    operation: Operation

    @property
    def name(self) -> str:
        """For messages."""
        return f"operation {self.index} ({self.part.name}, {self.operation.type.name})"


def list_steps(manifest: Manifest) -> Iterator[Step]:
    """Every operation in the order of execution, which is the order of the blobs."""
    index = 0
    for part in manifest.parts:
        for operation in part.operations:
            yield Step(index=index, part=part, operation=operation)
            index += 1


class _Redo:
    """What must not be overwritten because going on from the last checkpoint would read it again."""

    def __init__(self) -> None:
        self._read: list[Extent] = []
        self._part: PartName | None = None

    @property
    def is_full(self) -> bool:
        return len(self._read) >= _REDO_EXTENTS_MAX

    def is_hazard(self, step: Step) -> bool:
        return step.part.name is self._part and are_overlapping(self._read, step.operation.dst_extents)

    def note(self, step: Step) -> None:
        if step.part.name is not self._part:
            self.clear()
            self._part = step.part.name
        self._read += step.operation.src_extents

    def clear(self) -> None:
        self._read.clear()


class OperationPipeline:
    """Runs the steps of one payload from one reader."""

    def __init__(
        self,
        *,
        reader: PayloadReader,
        appliers: Mapping[PartName, PartApplier],
        checkpointer: Checkpointer,
        workers: int,
        spool_folder: Path,
        checkpoint_interval_bytes: int,
        progress: ProgressSink,
        cancel: CancelToken,
    ) -> None:
        """Prepare; nothing is read or started.

        Args:
            reader: begun, and resumed if the first step is not the first operation.
            appliers: who carries out a part's operations; a part without one is read and verified, not written.
            checkpointer: told at safe points.
            workers: threads that decompress and write, at least 1.
            spool_folder: for blobs too large for memory.
            checkpoint_interval_bytes: bytes of payload that a crash may cost.
            progress: told after every blob.
            cancel: looked at before every blob.
        """
        self._reader = reader
        self._appliers = appliers
        self._checkpointer = checkpointer
        self._workers = workers
        self._spool_folder = spool_folder
        self._progress = progress
        self._cancel = cancel
        self._pending: deque[Future[None] | Checkpoint] = deque()
        self._saving: Future[None] | None = None
        self._redo = _Redo()
        self._ordered: frozenset[PartName] = frozenset()
        self._total_bytes = 0
        # Taken at half the interval: while one is being flushed, and in the socket's buffers, more bytes arrive.
        self._checkpoint_every = checkpoint_interval_bytes // 2
        self._checkpoint_at = reader.data_offset + self._checkpoint_every

    def run(self, manifest: Manifest, first: int) -> None:
        """Carry out every operation from index `first` on; all done and written, not flushed, on return.

        Raises:
            UpdateAgentError: the first failure, by the order of the operations.
        """
        self._ordered = frozenset(part.name for part in manifest.parts if has_in_place(part))
        self._total_bytes = manifest.blob_bytes
        steps = [step for step in list_steps(manifest) if step.index >= first]
        # Threads outlive the block only until their current operation is done: the executors wait for them.
        with ThreadPoolExecutor(self._workers, "apply") as pool, ThreadPoolExecutor(1, "checkpoint") as saver:
            try:
                for step in steps:
                    self._cancel.raise_if_cancelled()
                    self._start(step, pool, saver)
                    self._collect(saver, limit=self._workers + 2)
                    self._report()
                self._save_now(first + len(steps), saver)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _start(self, step: Step, pool: ThreadPoolExecutor, saver: ThreadPoolExecutor) -> None:
        if step.part.name in self._ordered:
            self._run_alone(step, saver)
            return
        if self._reader.data_offset >= self._checkpoint_at:
            self._mark(step.index)
        blob = self._reader.take_blob(step.operation.data_length, self._spool_folder)
        if blob.size_bytes > MEMORY_BLOB_BYTES_MAX:
            self._collect(saver, limit=0)  # one large operation at a time
            self._carry_out(step, blob)
        else:
            self._pending.append(pool.submit(self._carry_out, step, blob))

    def _run_alone(self, step: Step, saver: ThreadPoolExecutor) -> None:
        """Carry out one operation of an in-place part, so that a crash at any moment can be repaired."""
        self._collect(saver, limit=0)
        is_due = self._reader.data_offset >= self._checkpoint_at or self._redo.is_full
        if is_due or self._redo.is_hazard(step):
            self._save_now(step.index, saver)
        cannot_be_repeated = overwrites_its_source(step.operation)
        if cannot_be_repeated:
            self._finish_saving()  # or it would land after what follows
            self._checkpointer.forbid()
        blob = self._reader.take_blob(step.operation.data_length, self._spool_folder)
        self._carry_out(step, blob)
        self._redo.note(step)
        if cannot_be_repeated:
            self._save_now(step.index + 1, saver)

    def _save_now(self, next_operation: int, saver: ThreadPoolExecutor) -> None:
        self._mark(next_operation)
        self._collect(saver, limit=0)
        self._finish_saving()
        self._redo.clear()

    def _carry_out(self, step: Step, blob: Blob) -> None:
        try:
            verify_blob(step.operation, blob, step.name)
            applier = self._appliers.get(step.part.name)
            if applier is not None:
                applier.apply(step.operation, blob)
        finally:
            blob.close()

    def _mark(self, next_operation: int) -> None:
        """Put a checkpoint into the queue: it is saved when everything before it is done."""
        self._checkpoint_at = self._reader.data_offset + self._checkpoint_every
        snapshot = self._checkpointer.snapshot(next_operation)
        if snapshot is not None:
            self._pending.append(snapshot)

    def _collect(self, saver: ThreadPoolExecutor, *, limit: int) -> None:
        """Take finished work from the front of the queue; wait until no more than `limit` are left."""
        while self._pending:
            front = self._pending[0]
            if isinstance(front, Future):
                if len(self._pending) <= limit and not front.done():
                    return
                front.result()
            else:
                self._finish_saving()
                self._saving = saver.submit(self._checkpointer.save, front)
            self._pending.popleft()

    def _finish_saving(self) -> None:
        if self._saving is not None:
            self._saving.result()
            self._saving = None

    def _report(self) -> None:
        self._progress(
            Progress(phase=Phase.DOWNLOADING, done_bytes=self._reader.data_offset, total_bytes=self._total_bytes)
        )
