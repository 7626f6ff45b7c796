"""The order of things when a safe point is on its way while an operation without a way back begins."""

import random
import threading
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.deltas import DeltaScript
from tests.support.devices import MemoryDevice
from tests.support.nodes import BytesSource
from tests.support.payloads import RSA_A_PUBLIC, PayloadMaker, make_payload
from update_agent.domain.apply import PartApplier
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.pipeline import OperationPipeline
from update_agent.domain.progress import CancelToken, Progress
from update_agent.domain.reader import Expectation, PayloadReader
from update_agent.domain.trust import KeyRing
from update_agent.errors import DeviceError, Kind, UpdateAgentError, VerificationError
from update_agent.formats.manifest import PartName
from update_agent.formats.operations import OperationType

BLOCK = 1024


class Checkpoints:
    """Remembers what it was told; a save may take until it is allowed to end."""

    def __init__(self, *, slow: bool = False) -> None:
        self.log: list[str] = []
        self.saved: list[int] = []
        self.fails = False
        self._slow = slow
        self._forbidden = threading.Event()

    def snapshot(self, next_operation: int) -> Checkpoint | None:
        return Checkpoint(
            target=UUID(int=1),
            metadata_sha256=b"",
            metadata_bytes=0,
            version="",
            next_operation=next_operation,
            data_offset=0,
            signed_state=b"",
            whole_state=None,
        )

    def save(self, snapshot: Checkpoint) -> None:
        if self.fails:
            raise DeviceError(Kind.STATE_FILE, "checkpoint: cannot write")
        if self._slow:
            self._forbidden.wait(0.3)
        self.log.append(f"save {snapshot.next_operation}")
        self.saved.append(snapshot.next_operation)

    def forbid(self) -> None:
        self.log.append("forbid")
        self._forbidden.set()


class Run:
    """One payload through the pipeline, onto devices in memory."""

    def __init__(self, payload: bytes, folder: Path, *, checkpoints: Checkpoints | None = None, size: int = 1 << 16):
        self.checkpoints = checkpoints or Checkpoints()
        self.reader = PayloadReader(BytesSource(payload), KeyRing.load(RSA_A_PUBLIC), Expectation())
        self.manifest = self.reader.begin()
        self.devices = {part.name: MemoryDevice(size, name=part.name) for part in self.manifest.parts}
        self.progress: list[Progress] = []
        self.cancel = CancelToken()
        self._folder = folder

    def go(self, *, workers: int = 2, interval: int = 2048, first: int = 0) -> None:
        appliers = {
            name: PartApplier(
                target=device, source=None, block_size=self.manifest.block_size, spool_folder=self._folder
            )
            for name, device in self.devices.items()
        }
        OperationPipeline(
            reader=self.reader,
            appliers=appliers,
            checkpointer=self.checkpoints,
            workers=workers,
            spool_folder=self._folder,
            checkpoint_interval_bytes=interval,
            progress=self.progress.append,
            cancel=self.cancel,
        ).run(self.manifest, first)


def content(seed: int, blocks: int) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


def in_place(script: DeltaScript, old: bytes) -> PayloadMaker:
    return PayloadMaker(usr=bytes(script.content), old_usr=old, operations=script.steps, major=1, block_size=BLOCK)


def run_script(script: DeltaScript, folder: Path, *, interval: int = 1 << 20) -> Run:
    run = Run(in_place(script, script.old).make(), folder, size=len(script.old))
    run.devices[PartName.USR].write_at(0, script.old)
    run.go(interval=interval)
    assert run.devices[PartName.USR].content == script.content
    return run


@pytest.mark.parametrize("workers", [1, 4])
def test_run_saves_on_the_way_and_at_the_end_in_order(tmp_path: Path, workers: int) -> None:
    usr = content(1, 64)
    run = Run(make_payload(usr, op_bytes=1024, block_size=BLOCK), tmp_path)
    run.go(workers=workers)
    saved = run.checkpoints.saved
    assert saved == sorted(set(saved))
    assert saved[-1] == 64
    assert len(saved) > 10
    assert run.devices[PartName.USR].content == usr
    assert [point.done_bytes for point in run.progress] == sorted(point.done_bytes for point in run.progress)


def test_run_save_under_way_lands_before_an_operation_without_way_back(tmp_path: Path) -> None:
    """Else the checkpoint would be there again after it was forbidden, and the operation carried out twice."""
    old = content(2, 8)
    script = DeltaScript(old, block_size=BLOCK, in_place=True)
    script.copy([(0, 4)], [(1, 4)])
    maker = PayloadMaker(usr=content(3, 4), kernel=bytes(script.content), major=1, op_bytes=1024, block_size=BLOCK)
    maker.types = (OperationType.REPLACE,)
    maker.kernel_operations, maker.old_kernel = script.steps, old
    maker.mutate_manifest = lambda manifest: manifest.ClearField("noop_operations")
    run = Run(maker.make(), tmp_path, checkpoints=Checkpoints(slow=True))
    run.go(interval=5000)  # due half-way: after three of four blobs, and not again
    log = run.checkpoints.log
    forbidden = log.index("forbid")
    assert "save 3" in log[:forbidden]
    assert log[forbidden + 1 :] == ["save 5", "save 5"]


def test_in_place_overlapping_move_is_forbidden_before_and_saved_after(tmp_path: Path) -> None:
    script = DeltaScript(content(4, 16), block_size=BLOCK, in_place=True)
    script.copy([(0, 4)], [(8, 4)])
    script.copy([(4, 3)], [(5, 3)])
    assert run_script(script, tmp_path).checkpoints.log == ["forbid", "save 2", "save 2"]


def test_in_place_write_over_what_was_read_is_saved_before(tmp_path: Path) -> None:
    script = DeltaScript(content(5, 16), block_size=BLOCK, in_place=True)
    script.copy([(0, 4)], [(8, 4)])
    script.copy([(12, 2)], [(14, 2)])
    script.replace(OperationType.REPLACE, [(3, 1)], content(6, 1))
    script.copy([(9, 1)], [(2, 1)])
    script.replace(OperationType.REPLACE, [(9, 1)], content(7, 1))
    assert run_script(script, tmp_path).checkpoints.saved == [2, 4, 5]


def test_in_place_without_hazard_saves_only_when_due(tmp_path: Path) -> None:
    script = DeltaScript(content(8, 32), block_size=BLOCK, in_place=True)
    for number in range(8):
        script.copy([(number, 1)], [(16 + number, 1)])
    assert run_script(script, tmp_path).checkpoints.saved == [8]


def test_in_place_many_reads_are_saved_before_too_many_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("update_agent.domain.pipeline._REDO_EXTENTS_MAX", 3)
    script = DeltaScript(content(9, 32), block_size=BLOCK, in_place=True)
    for number in range(8):
        script.copy([(number, 1)], [(16 + number, 1)])
    assert run_script(script, tmp_path).checkpoints.saved == [3, 6, 8]


def test_in_place_same_blocks_of_two_parts_are_no_hazard(tmp_path: Path) -> None:
    usr, kernel = content(10, 16), content(11, 16)
    scripts = []
    for old in (usr, kernel):
        script = DeltaScript(old, block_size=BLOCK, in_place=True)
        script.copy([(0, 4)], [(8, 4)])
        script.copy([(8, 4)], [(12, 4)])
        scripts.append(script)
    maker = in_place(scripts[0], usr)
    maker.kernel, maker.old_kernel, maker.kernel_operations = bytes(scripts[1].content), kernel, scripts[1].steps
    maker.mutate_manifest = lambda manifest: manifest.ClearField("noop_operations")
    run = Run(maker.make(), tmp_path, size=16 * BLOCK)
    run.devices[PartName.USR].write_at(0, usr)
    run.devices[PartName.KERNEL].write_at(0, kernel)
    run.go(interval=1 << 20)
    assert run.checkpoints.saved == [4]
    assert run.devices[PartName.KERNEL].content == scripts[1].content


def test_run_failing_save_ends_it(tmp_path: Path) -> None:
    run = Run(make_payload(content(12, 64), op_bytes=1024, block_size=BLOCK), tmp_path)
    run.checkpoints.fails = True
    with pytest.raises(DeviceError) as caught:
        run.go()
    assert caught.value.kind is Kind.STATE_FILE


@pytest.mark.parametrize("workers", [1, 4])
def test_run_first_failure_by_order_of_operations_is_raised(tmp_path: Path, workers: int) -> None:
    def damage(blobs: bytearray) -> None:
        for at in range(10 * 1024, len(blobs), 1024):
            blobs[at] ^= 1

    payload = PayloadMaker(
        usr=content(13, 64), types=(OperationType.REPLACE,), op_bytes=1024, block_size=BLOCK, mutate_blobs=damage
    ).make()
    run = Run(payload, tmp_path)
    with pytest.raises(VerificationError, match=r"operation 10 \(usr, REPLACE\)"):
        run.go(workers=workers)
    assert max(run.checkpoints.saved) <= 10


def test_run_cancelled_stops_before_next_blob(tmp_path: Path) -> None:
    run = Run(make_payload(content(14, 64), op_bytes=1024, block_size=BLOCK), tmp_path)
    run.cancel.cancel()
    with pytest.raises(UpdateAgentError) as caught:
        run.go()
    assert caught.value.kind is Kind.INTERRUPTED
    assert run.reader.data_offset == 0


def test_run_part_without_applier_is_verified_and_dropped(tmp_path: Path) -> None:
    run = Run(make_payload(content(15, 4), content(16, 4), op_bytes=1024, block_size=BLOCK), tmp_path)
    del run.devices[PartName.KERNEL]
    run.go()
    assert run.checkpoints.saved[-1] == 8
