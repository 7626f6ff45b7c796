"""Installs that were stopped, and what the next one makes of it."""

import hashlib
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.deltas import DeltaScript
from tests.support.devices import FaultyDevice, PowerCutError
from tests.support.nodes import CHECKPOINT, BytesSource, Node, make_node
from tests.support.payloads import PayloadMaker, make_payload
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.progress import CancelToken, Phase, Progress
from update_agent.domain.reader import Expectation
from update_agent.domain.slots import SlotName
from update_agent.errors import FormatError, InterruptedByUserError, Kind, VerificationError
from update_agent.formats.operations import OperationType

USR_BYTES = 128 * 1024
INTERVAL_BYTES = 16 * 1024
NEW = random.Random(1).randbytes(USR_BYTES)
OLD = random.Random(2).randbytes(USR_BYTES)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path, usr_bytes=USR_BYTES, content_a=OLD)


def payload(major: int = 2, seed: int = 1) -> bytes:
    return make_payload(random.Random(seed).randbytes(USR_BYTES), major=major, op_bytes=4096)


def cut_at_write(node: Node, number: int, data: bytes, *, expectation: Expectation | None = None) -> None:
    """Install until that write to the target; then the power goes."""
    node.wrap_target = lambda device: FaultyDevice(device, stop_at_write=number)
    with pytest.raises(PowerCutError):
        node.install(data, workers=1, expectation=expectation)
    node.wrap_target = lambda device: device


def cancel_when(node: Node, wanted: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    def sink(progress: Progress) -> None:
        if wanted(progress):
            node.cancel.cancel()

    return sink


def assert_installed(node: Node) -> None:
    assert node.content(SlotName.B) == NEW
    assert node.next_boot() is SlotName.B
    assert CHECKPOINT not in node.files


@pytest.mark.parametrize("major", [1, 2])
def test_resume_fetches_little_more_than_what_was_missing(node: Node, major: int) -> None:
    data = payload(major)
    cut_at_write(node, 20, data)
    done = 20 * 4096
    source = BytesSource(data, chunk_bytes=512)
    report = node.install(source)
    assert report.resumed_at_bytes >= done - INTERVAL_BYTES
    assert source.opened_at[0] == 0
    assert len(source.opened_at) == 2
    assert source.given_bytes <= len(data) - done + INTERVAL_BYTES + 8192
    assert report.payload_bytes == len(data)
    assert_installed(node)


def test_resume_after_last_operation_only_verifies(node: Node) -> None:
    data = payload()

    def lose_power(progress: Progress) -> None:
        if progress.phase is Phase.VERIFYING:
            raise PowerCutError

    node.progress_sink = lose_power
    with pytest.raises(PowerCutError):
        node.install(data)
    node.progress_sink = None
    source = BytesSource(data, chunk_bytes=512)
    node.install(source)
    assert source.given_bytes < 4096
    assert_installed(node)


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("op_bytes", [2048, 4096, 8192])
@pytest.mark.parametrize("is_announced", [True, False])
def test_resume_with_another_payload_begins_anew(node: Node, major: int, op_bytes: int, is_announced: bool) -> None:
    """Its metadata may be longer or shorter than those of the payload that the checkpoint is for."""
    cut_at_write(node, 20, payload(major, seed=3))
    data = make_payload(NEW, major=major, op_bytes=op_bytes, block_size=1024)
    source = BytesSource(data)
    expectation = Expectation(sha256=hashlib.sha256(data).digest()) if is_announced else None
    assert node.install(source, expectation=expectation).resumed_at_bytes == 0
    assert source.given_bytes < len(data) + 8192
    assert_installed(node)


def test_resume_where_payload_became_shorter_than_its_metadata_is_truncated(node: Node) -> None:
    data = payload()
    cut_at_write(node, 20, data)
    with pytest.raises(FormatError) as caught:
        node.install(BytesSource(data[:500], size_is_known=False))
    assert caught.value.kind is Kind.PAYLOAD_TRUNCATED
    assert node.install(data).resumed_at_bytes > 0
    assert_installed(node)


def test_resume_where_something_else_is_served_is_refused_and_checkpoint_stays(node: Node) -> None:
    data = payload()
    cut_at_write(node, 20, data)
    with pytest.raises(FormatError) as caught:
        node.install(b"<html>please log in</html>" * 999)
    assert caught.value.kind is Kind.PAYLOAD_MAGIC
    assert node.install(data).resumed_at_bytes > 0


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"x" + data[1:], lambda _: b"", lambda _: b"\n"]
)
def test_resume_with_damaged_checkpoint_begins_anew_and_says_so(
    node: Node, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cut_at_write(node, 20, payload())
    node.files[CHECKPOINT] = damage(node.files[CHECKPOINT])
    with caplog.at_level(logging.WARNING):
        assert node.install(payload()).resumed_at_bytes == 0
    assert "checkpoint of the last install is damaged" in caplog.text
    assert_installed(node)


def test_resume_with_checkpoint_of_another_slot_begins_anew(node: Node) -> None:
    cut_at_write(node, 20, payload())
    checkpoint = node.checkpoints.load()
    assert checkpoint is not None
    node.checkpoints.save(replace(checkpoint, target=UUID(int=7)))
    assert node.install(payload()).resumed_at_bytes == 0
    assert_installed(node)


def test_resume_of_lying_checkpoint_is_noticed_and_next_run_begins_anew(node: Node) -> None:
    """The slot was changed behind the checkpoint: reading it back finds out."""
    cut_at_write(node, 20, payload())
    node.device.write_at(node.slots.b.start_bytes, bytes(4096))
    with pytest.raises(VerificationError) as caught:
        node.install(payload())
    assert caught.value.kind is Kind.PARTITION_HASH
    assert node.next_boot() is SlotName.A
    assert node.install(payload()).resumed_at_bytes == 0
    assert_installed(node)


def test_resume_without_libcrypto_begins_anew(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at_write(node, 20, payload())
    monkeypatch.setattr("update_agent.host.sha256._load_library", lambda: None)
    assert node.install(payload()).resumed_at_bytes == 0
    assert_installed(node)


def test_install_without_libcrypto_saves_no_checkpoint(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("update_agent.host.sha256._load_library", lambda: None)
    cut_at_write(node, 20, payload())
    assert CHECKPOINT not in node.files
    node.install(payload())
    assert_installed(node)


def test_resume_with_signed_state_of_wrong_length_begins_anew(node: Node) -> None:
    cut_at_write(node, 20, payload())
    checkpoint = node.checkpoints.load()
    assert checkpoint is not None
    node.checkpoints.save(replace(checkpoint, signed_state=b"short"))
    assert node.install(payload()).resumed_at_bytes == 0
    assert_installed(node)


@pytest.mark.parametrize(
    "lie",
    [
        lambda true: replace(true, data_offset=2**64),
        lambda true: replace(true, data_offset=0),
        lambda true: replace(true, next_operation=1),
        lambda true: replace(true, next_operation=99),
    ],
)
def test_resume_of_checkpoint_whose_operation_is_elsewhere_begins_anew(
    node: Node, lie: Callable[[Checkpoint], Checkpoint]
) -> None:
    """Else the install would end as cut short, time after time, and never begin anew."""
    cut_at_write(node, 20, payload())
    checkpoint = node.checkpoints.load()
    assert checkpoint is not None
    node.checkpoints.save(lie(checkpoint))
    assert node.install(payload()).resumed_at_bytes == 0
    assert_installed(node)


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize(
    ("first", "second", "is_resumed"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_resume_needs_hash_of_file_only_if_it_is_announced(
    node: Node, major: int, first: bool, second: bool, is_resumed: bool
) -> None:
    data = payload(major)
    announced = Expectation(sha256=hashlib.sha256(data).digest())
    cut_at_write(node, 20, data, expectation=announced if first else None)
    report = node.install(data, expectation=announced if second else None)
    assert bool(report.resumed_at_bytes) is is_resumed
    assert_installed(node)


def test_resume_checks_announced_hash_over_bytes_of_both_runs(node: Node) -> None:
    data = payload()
    wrong = Expectation(sha256=bytes(32))
    cut_at_write(node, 20, data, expectation=wrong)
    with pytest.raises(VerificationError) as caught:
        node.install(data, expectation=wrong)
    assert caught.value.kind is Kind.PAYLOAD_HASH


@pytest.mark.parametrize("major", [1, 2])
def test_resume_with_blob_changed_in_between_is_not_activated(node: Node, major: int) -> None:
    """The metadata are the same, so the checkpoint is taken up; the new bytes still have to be right."""
    data = payload(major)
    cut_at_write(node, 20, data)
    changed = bytearray(data)
    changed[-9000] ^= 1
    with pytest.raises(VerificationError) as caught:
        node.install(bytes(changed))
    assert caught.value.kind is Kind.OPERATION_HASH
    assert node.next_boot() is SlotName.A


def test_cancel_in_the_middle_keeps_what_is_done(node: Node) -> None:
    node.progress_sink = cancel_when(node, lambda point: point.done_bytes > USR_BYTES // 2)
    with pytest.raises(InterruptedByUserError) as caught:
        node.install(payload(), workers=1)
    assert caught.value.is_retryable
    assert node.next_boot() is SlotName.A
    assert not node.slots.b.flags.is_bootable
    node.progress_sink, node.cancel = None, CancelToken()
    assert node.install(payload()).resumed_at_bytes >= USR_BYTES // 2 - INTERVAL_BYTES
    assert_installed(node)


@pytest.mark.parametrize("phase", [Phase.CHECKING, Phase.COPYING, Phase.VERIFYING])
def test_cancel_in_any_phase_of_a_delta_then_run_again(
    node: Node, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("targets._COPY_BYTES", "readback._PIECE_BYTES"):
        monkeypatch.setattr(f"update_agent.domain.{module}", 4096)
    script = DeltaScript(OLD, block_size=4096, in_place=True)
    script.copy([(0, 8)], [(4, 8)])
    script.patch([(8, 2)], [(8, 2)], NEW[:8192])
    maker = PayloadMaker(usr=bytes(script.content), old_usr=OLD, operations=script.steps, major=1)
    node.progress_sink = cancel_when(node, lambda point: point.phase is phase)
    with pytest.raises(InterruptedByUserError):
        node.install(maker.make())
    assert node.next_boot() is SlotName.A
    node.progress_sink, node.cancel = None, CancelToken()
    node.install(maker.make())
    assert node.content(SlotName.B) == maker.usr


def test_source_damaged_in_place_after_checkpoint_is_noticed_and_next_run_begins_anew(node: Node) -> None:
    """Going on would meet the wrong source again and again."""
    script = DeltaScript(OLD, block_size=4096, in_place=True)
    script.replace(OperationType.REPLACE, [(0, 8)], NEW[: 8 * 4096])
    script.copy([(20, 2)], [(10, 2)], src_sha256=hashlib.sha256(OLD[20 * 4096 : 22 * 4096]).digest())
    maker = PayloadMaker(usr=bytes(script.content), old_usr=OLD, operations=script.steps, major=1)
    node.checkpoint_interval_bytes = 1
    cut_at_write(node, 2, maker.make())
    assert CHECKPOINT in node.files
    node.device.write_at(node.slots.b.start_bytes + 20 * 4096, bytes(99))
    with pytest.raises(VerificationError) as caught:
        node.install(maker.make())
    assert caught.value.kind is Kind.SOURCE_HASH
    node.install(maker.make())
    assert node.content(SlotName.B) == maker.usr


def test_checkpoint_names_payload_slot_and_release(node: Node) -> None:
    cut_at_write(node, 20, payload())
    checkpoint = node.checkpoints.load()
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.target, checkpoint.version) == (node.slots.b.unique_guid, "2.0.0")
    assert 0 < checkpoint.next_operation <= 20
