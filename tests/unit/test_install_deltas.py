"""Deltas of both major versions, and operations that are too large for memory."""

import hashlib
import random
from pathlib import Path

import pytest

from tests.support.deltas import DeltaScript
from tests.support.devices import MemoryDevice
from tests.support.images import ab_parts, make_image
from tests.support.nodes import CHECKPOINT, Node, make_node
from tests.support.payloads import PayloadMaker
from update_agent.domain.progress import Phase
from update_agent.domain.slots import SlotName
from update_agent.errors import InstallError, Kind, VerificationError
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.operations import SPARSE_HOLE, OperationType

BLOCK = 1024
BLOCKS = 64
USR_BYTES = BLOCKS * BLOCK
OLD_KERNEL = random.Random(5).randbytes(5 * BLOCK + 77)


def content(seed: int, blocks: int) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.randbytes(512) + bytes(512) for _ in range(blocks))


OLD = content(1, BLOCKS)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = make_node(tmp_path / "state", usr_bytes=USR_BYTES, content_a=OLD)
    node.boot_folder = tmp_path / "boot"
    node.boot_folder.mkdir()
    (node.boot_folder / "vmlinuz-a").write_bytes(OLD_KERNEL)
    node.folder.mkdir()
    return node


def kernel_of(node: Node) -> bytes:
    assert node.boot_folder is not None
    return (node.boot_folder / "vmlinuz-b").read_bytes()


def without_noops(manifest: pb2.Manifest) -> None:
    manifest.ClearField("noop_operations")


def delta_maker(script: DeltaScript, *, in_place: bool) -> PayloadMaker:
    return PayloadMaker(
        usr=bytes(script.content),
        old_usr=script.old,
        operations=script.steps,
        major=1 if in_place else 2,
        block_size=BLOCK,
        minor_version=0 if in_place else 3,
    )


def assert_installs(node: Node, maker: PayloadMaker, *, workers: int = 2) -> None:
    node.install(maker.make(), workers=workers)
    assert node.content(SlotName.B) == maker.usr
    assert node.content(SlotName.A) == OLD
    assert node.next_boot() is SlotName.B
    assert not list(node.folder.iterdir())


# Major version 2


def v2_script() -> DeltaScript:
    script = DeltaScript(OLD, block_size=BLOCK)
    script.copy([(0, 8), (20, 2)], [(10, 5), (0, 5)])
    script.patch([(22, 8)], [(5, 5)], content(2, 4) + b"tail", src_length=8 * BLOCK - 100)
    script.clear(OperationType.ZERO, [(15, 3), (60, 1)])
    script.clear(OperationType.DISCARD, [(18, 6)])
    script.replace(OperationType.REPLACE_XZ, [(24, 8)], content(3, 8))
    script.replace(OperationType.REPLACE_BZ, [(32, 8)], content(4, 8))
    script.replace(OperationType.REPLACE_ZSTD, [(40, 8)], content(5, 8))
    script.replace(OperationType.REPLACE, [(48, 4), (56, 4)], content(6, 8))
    script.patch([], [(52, 4)], content(7, 4))
    script.copy([(61, 3)], [(61, 3)])
    return script


@pytest.mark.parametrize("workers", [1, 3])
def test_v2_delta_with_every_operation_gives_new_content(node: Node, workers: int) -> None:
    node.device.write_at(node.slots.b.start_bytes, b"\xee" * USR_BYTES)  # ZERO has something to do
    assert_installs(node, delta_maker(v2_script(), in_place=False), workers=workers)


def test_v2_kernel_delta_reads_kernel_of_booted_slot(node: Node) -> None:
    kernel = OLD_KERNEL[1000:] + b"more"
    script = DeltaScript(OLD_KERNEL, block_size=BLOCK)
    script.patch([(0, 6)], [(0, 5)], kernel, src_length=len(OLD_KERNEL))
    maker = delta_maker(v2_script(), in_place=False)
    maker.kernel, maker.old_kernel, maker.kernel_operations = kernel, OLD_KERNEL, script.steps
    assert_installs(node, maker)
    assert kernel_of(node) == kernel


def test_delta_for_another_release_is_refused_before_anything_is_written(node: Node) -> None:
    maker = delta_maker(v2_script(), in_place=False)
    payload = maker.make()
    node.device.write_at(node.slots.a.start_bytes + 9000, b"changed")
    disk = node.device.read_at(0, node.device.size_bytes)
    with pytest.raises(VerificationError) as caught:
        node.install(payload)
    assert caught.value.kind is Kind.SOURCE_HASH
    assert caught.value.hint == "install a full payload"
    assert node.device.read_at(0, node.device.size_bytes) == disk
    assert not node.files


def test_delta_from_larger_release_than_slot_is_refused(node: Node) -> None:
    maker = delta_maker(v2_script(), in_place=False)
    maker.old_usr = OLD + bytes(BLOCK)
    with pytest.raises(VerificationError) as caught:
        node.install(maker.make())
    assert caught.value.kind is Kind.SOURCE_HASH


def test_delta_without_booted_slot_is_refused(tmp_path: Path) -> None:
    device = MemoryDevice.of(bytes(make_image(ab_parts(a=0, b=0, sectors=USR_BYTES // 512))))
    node = Node(device=device, folder=tmp_path)
    with pytest.raises(InstallError) as caught:
        node.install(delta_maker(v2_script(), in_place=False).make())
    assert caught.value.kind is Kind.SOURCE_MISSING


def test_kernel_delta_without_old_kernel_is_refused_before_writing(node: Node) -> None:
    assert node.boot_folder is not None
    (node.boot_folder / "vmlinuz-a").unlink()
    script = DeltaScript(OLD_KERNEL, block_size=BLOCK)
    script.copy([(0, 6)], [(0, 6)])
    maker = delta_maker(v2_script(), in_place=False)
    maker.kernel, maker.old_kernel, maker.kernel_operations = OLD_KERNEL, OLD_KERNEL, script.steps
    disk = node.device.read_at(0, node.device.size_bytes)
    with pytest.raises(InstallError) as caught:
        node.install(maker.make())
    assert caught.value.kind is Kind.SOURCE_MISSING
    assert node.device.read_at(0, node.device.size_bytes) == disk


def test_source_operation_with_wrong_source_hash_is_refused(node: Node) -> None:
    script = DeltaScript(OLD, block_size=BLOCK)
    script.copy([(0, BLOCKS)], [(0, BLOCKS)], src_sha256=bytes(32))
    with pytest.raises(VerificationError) as caught:
        node.install(delta_maker(script, in_place=False).make())
    assert caught.value.kind is Kind.SOURCE_HASH
    assert node.next_boot() is SlotName.A


def test_source_operation_with_right_source_hash_is_carried_out(node: Node) -> None:
    script = DeltaScript(OLD, block_size=BLOCK)
    script.copy([(0, BLOCKS)], [(0, BLOCKS)], src_sha256=hashlib.sha256(OLD).digest())
    assert_installs(node, delta_maker(script, in_place=False))


# Major version 1: in place


def v1_script() -> DeltaScript:
    script = DeltaScript(OLD, block_size=BLOCK, in_place=True)
    script.copy([(0, 8)], [(3, 8)])
    script.copy([(20, 2), (30, 2)], [(40, 4)])
    script.patch([(16, 4)], [(14, 4)], content(11, 3) + b"odd", src_length=4 * BLOCK - 5)
    script.patch([(44, 4)], [(50, 4)], content(12, 4))
    script.replace(OperationType.REPLACE_BZ, [(30, 2)], content(13, 2))
    script.patch([(1, 1), (4, 2), (SPARSE_HOLE, 1), (0, 1)], [(55, 2), (SPARSE_HOLE, 2), (58, 1)], content(14, 5))
    script.replace(OperationType.REPLACE, [(60, 1), (SPARSE_HOLE, 1), (61, 1)], content(15, 3))
    script.copy([(60, 2), (SPARSE_HOLE, 2)], [(60, 4)])
    return script


@pytest.mark.parametrize("workers", [1, 3])
def test_v1_delta_in_place_gives_new_content(node: Node, workers: int) -> None:
    assert_installs(node, delta_maker(v1_script(), in_place=True), workers=workers)


def test_v1_delta_without_old_info_is_applied_and_judged_by_its_result(node: Node) -> None:
    maker = delta_maker(v1_script(), in_place=True)
    maker.old_usr = None
    assert_installs(node, maker)


def test_v1_delta_without_old_info_on_another_release_is_not_activated(node: Node) -> None:
    maker = delta_maker(v1_script(), in_place=True)
    maker.old_usr = None
    node.device.write_at(node.slots.a.start_bytes + 63 * BLOCK - 600, b"changed")
    node.device.write_at(node.slots.a.start_bytes + 38 * BLOCK, b"changed")
    with pytest.raises(VerificationError) as caught:
        node.install(maker.make())
    assert caught.value.kind is Kind.PARTITION_HASH
    assert node.next_boot() is SlotName.A
    assert CHECKPOINT not in node.files


@pytest.mark.parametrize("shrinks", [True, False])
def test_v1_kernel_delta_in_place_changes_a_copy(node: Node, shrinks: bool) -> None:
    padded = OLD_KERNEL.ljust((4 if shrinks else 9) * BLOCK, b"\0")
    script = DeltaScript(padded, block_size=BLOCK, in_place=True)
    script.copy([(0, 3)], [(1, 3)])
    script.patch([(2, 2)], [(0, 2)], content(21, 2))
    if not shrinks:
        script.replace(OperationType.REPLACE_BZ, [(6, 3)], content(22, 3))
    kernel = bytes(script.content[: 3 * BLOCK + 9 if shrinks else 8 * BLOCK + 1])
    maker = delta_maker(v1_script(), in_place=True)
    maker.kernel, maker.old_kernel, maker.kernel_operations = kernel, OLD_KERNEL, script.steps
    maker.mutate_manifest = without_noops
    assert_installs(node, maker)
    assert kernel_of(node) == kernel
    assert node.boot_folder is not None
    assert (node.boot_folder / "vmlinuz-a").read_bytes() == OLD_KERNEL


def test_delta_progress_only_rises_within_each_phase(node: Node) -> None:
    script = DeltaScript(OLD_KERNEL, block_size=BLOCK, in_place=True)
    script.copy([(0, 3)], [(1, 3)])
    kernel = bytes(script.content)
    maker = delta_maker(v1_script(), in_place=True)
    maker.kernel, maker.old_kernel, maker.kernel_operations = kernel, OLD_KERNEL, script.steps
    maker.mutate_manifest = without_noops
    node.install(maker.make())
    for phase in (Phase.CHECKING, Phase.COPYING, Phase.DOWNLOADING, Phase.VERIFYING, Phase.FINALIZING):
        points = [point for point in node.progress if point.phase is phase]
        assert [point.done_bytes for point in points] == sorted(point.done_bytes for point in points)
        assert {point.total_bytes for point in points} == {points[-1].done_bytes}


# Operations that are too large for memory


@pytest.fixture
def _small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stream", "apply", "pipeline"):
        monkeypatch.setattr(f"update_agent.domain.{module}.MEMORY_BLOB_BYTES_MAX", 1000)
    monkeypatch.setattr("update_agent.domain.apply.PIECE_BYTES", 700)


@pytest.mark.usefixtures("_small_memory")
@pytest.mark.parametrize("in_place", [True, False])
def test_large_operations_of_a_delta_go_through_files(node: Node, in_place: bool) -> None:
    assert_installs(node, delta_maker(v1_script() if in_place else v2_script(), in_place=in_place))


@pytest.mark.usefixtures("_small_memory")
@pytest.mark.parametrize("size", [1000, 1001, 50_000])
def test_large_blobs_are_verified_before_they_are_written(node: Node, size: int) -> None:
    """A blob whose hash is wrong leaves no byte on the target."""

    def damage(blobs: bytearray) -> None:
        blobs[size // 2] ^= 1

    usr = random.Random(size).randbytes(size)
    maker = PayloadMaker(usr=usr, types=(OperationType.REPLACE,), op_bytes=53_248, mutate_blobs=damage)
    with pytest.raises(VerificationError) as caught:
        node.install(maker.make())
    assert caught.value.kind is Kind.OPERATION_HASH
    assert node.content(SlotName.B) == bytes(USR_BYTES)
    assert not list(node.folder.iterdir())


def test_blob_of_six_mib_spools(tmp_path: Path) -> None:
    usr = random.Random(1).randbytes(6 << 20)
    node = make_node(tmp_path, usr_bytes=8 << 20)
    node.install(PayloadMaker(usr=usr, types=(OperationType.REPLACE,), op_bytes=6 << 20).make())
    assert node.content(SlotName.B)[: len(usr)] == usr
