"""Steps 3 to 12 of an install (`update_agent.domain.install` tells the whole story)."""

import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from update_agent.domain import activation
from update_agent.domain.apply import has_in_place
from update_agent.domain.checkpoint import Checkpoint, CheckpointStore
from update_agent.domain.pipeline import CHECKPOINT_INTERVAL_BYTES, OperationPipeline, list_steps
from update_agent.domain.progress import CancelToken, Phase, Progress, ProgressSink, ignore_progress
from update_agent.domain.reader import PayloadReader, Proof
from update_agent.domain.records import SlotRecord, SlotRecords
from update_agent.domain.slots import Slot
from update_agent.domain.targets import (
    PartTarget,
    Places,
    copy_old_content,
    flush_targets,
    verify_sources,
)
from update_agent.domain.verification import Verification
from update_agent.errors import Kind, VerificationError
from update_agent.formats.manifest import Manifest, PartName
from update_agent.host.disk import GptDisk

_LOG: Final = logging.getLogger(__name__)

_FETCH_AGAIN: Final = frozenset({Kind.OPERATION_HASH, Kind.PAYLOAD_CHANGED})
"""What was fetched last is wrong, what is on the target is not: the next attempt may go on from the checkpoint."""


PostInstall = Callable[[Slot, Mapping[PartName, Path]], None]
"""Raises `InstallError` when the release must not boot."""


def skip_post_install(_slot: Slot, _files: Mapping[PartName, Path]) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """One disk and what belongs to it.

    Attributes:
        disk: the partition table.
        places: where parts go.
        checkpoints: the way back into an interrupted install.
        records: what is in each slot.
        now: RFC 3339 time in UTC.
        progress: told about every step.
        cancel: stops the install at the next safe point.
        target_taken: told once the target was made unbootable.
        post_install: what the new release itself wants to do before it boots; gets the target and the files that its
            parts went to. When it raises, the target stays unbootable.
        checkpoint_interval_bytes: bytes of payload that a crash may cost.
    """

    disk: GptDisk
    places: Places
    checkpoints: CheckpointStore
    records: SlotRecords
    now: Callable[[], str]
    progress: ProgressSink = ignore_progress
    cancel: CancelToken = field(default_factory=CancelToken)
    target_taken: Callable[[], None] = lambda: None
    post_install: PostInstall = skip_post_install
    checkpoint_interval_bytes: int = CHECKPOINT_INTERVAL_BYTES


class Attempt:
    """One payload, its metadata read, on its way into one slot."""

    def __init__(
        self,
        *,
        workplace: Workplace,
        reader: PayloadReader,
        manifest: Manifest,
        slot: Slot,
        targets: tuple[PartTarget, ...],
        version: str,
        checkpoint: Checkpoint | None,
        workers: int,
    ) -> None:
        self._work = workplace
        self._checkpoint = checkpoint
        self._reader = reader
        self._manifest = manifest
        self._slot = slot
        self._targets = targets
        self._version = version
        self._workers = workers
        self._verification = Verification(manifest, targets)

    def run(self) -> tuple[Proof, int]:
        """Carry out the steps; gives what was proved, and the bytes of blobs that an earlier attempt had done."""
        work = self._work
        checkpoint = self._take_up()  # steps 3 and 4
        activation.deactivate(work.disk, self._slot)  # step 5
        work.records.mark_incomplete(self._slot.unique_guid, self._version, work.now())
        work.target_taken()
        if checkpoint is None:
            self._begin_anew()  # step 6
        first = checkpoint.next_operation if checkpoint else 0
        resumed_at_bytes = checkpoint.data_offset if checkpoint else 0
        try:
            with closing(self._verification):
                self._carry_out(first)  # step 7
                proof = self._prove()  # steps 8 and 9
        except VerificationError as error:
            if error.kind not in _FETCH_AGAIN:
                work.checkpoints.clear()  # going on from there would only find the same again
            raise
        self._put_in_place()  # steps 10 to 12
        return proof, resumed_at_bytes

    def _take_up(self) -> Checkpoint | None:
        """The checkpoint to go on from, with the reader moved there; None after everything of another was removed."""
        work = self._work
        found = self._checkpoint
        checkpoint = found if found is not None and self._can_follow(found) else None
        if self._reader.resume(checkpoint) and checkpoint is not None:
            _LOG.info("going on after %d bytes of an earlier attempt", checkpoint.data_offset)
            return checkpoint
        verify_sources(self._targets, progress=work.progress, cancel=work.cancel)
        work.checkpoints.clear()
        return None

    def _can_follow(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint names this slot, and an operation where the manifest has its blob."""
        lengths = [step.operation.data_length for step in list_steps(self._manifest)]
        done = checkpoint.next_operation
        return (
            checkpoint.target == self._slot.unique_guid
            and 0 <= done <= len(lengths)
            and checkpoint.data_offset == sum(lengths[:done])
        )

    def _begin_anew(self) -> None:
        if not any(has_in_place(target.part) for target in self._targets):
            return
        copy_old_content(self._targets, progress=self._work.progress, cancel=self._work.cancel)

    def _carry_out(self, first: int) -> None:
        self._verification.note_flushed(first)
        folder = self._work.places.state_folder
        appliers = {
            target.part.name: applier
            for target in self._targets
            if (applier := target.applier(self._manifest, folder)) is not None
        }
        OperationPipeline(
            reader=self._reader,
            appliers=appliers,
            checkpointer=self,
            workers=self._workers,
            spool_folder=folder,
            checkpoint_interval_bytes=self._work.checkpoint_interval_bytes,
            progress=self._work.progress,
            cancel=self._work.cancel,
        ).run(self._manifest, first)

    def snapshot(self, next_operation: int) -> Checkpoint | None:
        """What to save to go on at `next_operation`; None where the running hash cannot be saved."""
        states = self._reader.hash_states()
        if states is None:
            return None
        return Checkpoint(
            target=self._slot.unique_guid,
            metadata_sha256=self._reader.metadata_sha256,
            metadata_bytes=self._reader.metadata_bytes,
            version=self._version,
            next_operation=next_operation,
            data_offset=self._reader.data_offset,
            signed_state=states[0],
            whole_state=states[1],
        )

    def save(self, snapshot: Checkpoint) -> None:
        """Flush every target, then save: a checkpoint names only what is on the medium."""
        flush_targets(self._targets)
        self._work.checkpoints.save(snapshot)
        self._verification.note_flushed(snapshot.next_operation)

    def forbid(self) -> None:
        """No way back from here: an operation is about to overwrite what it reads."""
        self._work.checkpoints.clear()

    def _prove(self) -> Proof:
        work = self._work
        proof = self._reader.finish(self._manifest)  # step 8
        self._verification.finish(progress=work.progress, cancel=work.cancel)  # step 9
        return proof

    def _run_post_install(self) -> None:
        files: dict[PartName, Path] = {
            target.part.name: self._work.places.file_for(target.part.name, self._slot)
            for target in self._targets
            if target.staged is not None
        }
        try:
            self._work.post_install(self._slot, files)
        except BaseException:
            # It may have set boot flags by itself before it failed.
            activation.mark_bad(self._work.disk, self._slot)
            raise

    def _put_in_place(self) -> None:
        work = self._work
        work.progress(Progress(phase=Phase.FINALIZING, done_bytes=0, total_bytes=1))
        for target in self._targets:  # step 10
            if target.staged is not None:
                target.staged.trim(target.new.size_bytes)
                target.staged.commit()
        self._run_post_install()
        usr = next(target.new for target in self._targets if target.part.name is PartName.USR)
        record = SlotRecord(
            version=self._version,
            sha256=usr.sha256.hex(),
            size_bytes=usr.size_bytes,
            installed_at=work.now(),
            is_complete=True,
        )
        work.records.put(self._slot.unique_guid, record)  # step 11
        activation.activate(work.disk, self._slot)
        work.checkpoints.clear()  # step 12
        work.progress(Progress(phase=Phase.FINALIZING, done_bytes=1, total_bytes=1))
