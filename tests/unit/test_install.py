"""Whole installs on a machine in memory: what they bring, and what they refuse."""

import hashlib
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.damage import DamagingDevice
from tests.support.devices import MemoryDevice
from tests.support.images import ab_parts, boot_attributes, make_image
from tests.support.nodes import CHECKPOINT, RECORDS, BytesSource, Node, make_node
from tests.support.payloads import RSA_A, RSA_B, RSA_B_PUBLIC, PayloadMaker, make_payload
from update_agent.domain import activation
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.progress import Phase
from update_agent.domain.reader import Expectation
from update_agent.domain.records import SlotRecord
from update_agent.domain.slots import SlotName
from update_agent.errors import (
    ConfigurationError,
    DeviceError,
    FormatError,
    InstallError,
    Kind,
    RefusedError,
    UpdateAgentError,
    VerificationError,
)
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.gptprio import UNBOOTABLE
from update_agent.formats.operations import Extent, Operation, OperationType
from update_agent.formats.payload import Header

USR_BYTES = 64 * 1024


def content(seed: int, size_bytes: int = USR_BYTES) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.randbytes(64) + bytes(64) for _ in range(-(-size_bytes // 128)))[:size_bytes]


OLD = content(1)
NEW = content(2)
KERNEL = content(3, 20_001)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Runs A, which holds OLD; knows no kernels."""
    return make_node(tmp_path, usr_bytes=USR_BYTES, content_a=OLD)


@pytest.fixture
def boot_node(node: Node, tmp_path: Path) -> Node:
    """The same with a real folder of kernels."""
    node.boot_folder = tmp_path / "boot"
    node.boot_folder.mkdir()
    (node.boot_folder / "vmlinuz-a").write_bytes(b"old kernel")
    return node


def whole_disk(node: Node) -> bytes:
    return node.device.read_at(0, node.device.size_bytes)


def assert_untouched(node: Node, disk: bytes, caught: pytest.ExceptionInfo[UpdateAgentError], kind: Kind) -> None:
    """Refused for that reason, before anything was changed."""
    assert caught.value.kind is kind
    assert whole_disk(node) == disk
    assert not node.files


def assert_old_boots(node: Node) -> None:
    """Refused when the target was already being written: it cannot boot, and what ran is as it was."""
    assert node.next_boot() is SlotName.A
    assert node.content(SlotName.A) == OLD
    assert node.slots.b.flags == UNBOOTABLE
    record = node.records.get(node.slots.b.unique_guid)
    assert record is not None
    assert not record.is_complete


# What an install brings


@pytest.mark.parametrize("major", [1, 2])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_install_full_payload_boots_new_release_once(node: Node, major: int, workers: int) -> None:
    payload = make_payload(NEW, major=major)
    report = node.install(payload, workers=workers)
    assert (report.slot, report.key, report.payload_bytes) == (SlotName.B, "rsa-a.pub.pem", len(payload))
    assert (report.version, report.previous_version, report.resumed_at_bytes) == (
        None if major == 1 else "2.0.0",
        None,
        0,
    )
    assert node.content(SlotName.B) == NEW
    assert node.content(SlotName.A) == OLD
    assert node.next_boot() is SlotName.B
    assert (node.slots.b.flags.tries, node.slots.b.flags.successful) == (1, False)
    assert CHECKPOINT not in node.files


def test_install_records_what_is_in_the_slot(node: Node) -> None:
    node.install(make_payload(NEW))
    assert node.records.get(node.slots.b.unique_guid) == SlotRecord(
        version="2.0.0",
        sha256=hashlib.sha256(NEW).hexdigest(),
        size_bytes=USR_BYTES,
        installed_at="2026-01-02T03:04:05Z",
        is_complete=True,
    )


def test_install_image_smaller_than_slot_leaves_the_rest(node: Node) -> None:
    slot = node.slots.b
    node.device.write_at(slot.start_bytes, b"\xee" * USR_BYTES)
    node.install(make_payload(NEW[:40_960], op_bytes=4096))
    assert node.content(SlotName.B) == NEW[:40_960] + b"\xee" * (USR_BYTES - 40_960)


@pytest.mark.parametrize("major", [1, 2])
def test_install_kernel_goes_to_file_of_target_slot(boot_node: Node, major: int) -> None:
    boot_node.install(make_payload(NEW, KERNEL, major=major))
    assert boot_node.boot_folder is not None
    assert {path.name: path.read_bytes() for path in boot_node.boot_folder.iterdir()} == {
        "vmlinuz-a": b"old kernel",
        "vmlinuz-b": KERNEL,
    }


def test_install_from_b_goes_to_a(node: Node) -> None:
    node.install(make_payload(NEW))
    activation.mark_good(node.disk, node.slots.b)
    report = node.install(make_payload(content(4), version="3.0.0"))
    assert (report.slot, report.previous_version) == (SlotName.A, "2.0.0")
    assert node.content(SlotName.A) == content(4)
    assert node.content(SlotName.B) == NEW


def test_install_policy_file_goes_to_state_folder_and_unknown_procedure_nowhere(boot_node: Node) -> None:
    maker = PayloadMaker(usr=NEW, kernel=KERNEL, pcr_policy=b"policy" * 99, ignored=content(9, 5000), major=1)
    boot_node.install(maker.make())
    assert (boot_node.folder / "pcrs-b.zip").read_bytes() == b"policy" * 99
    assert sorted(path.name for path in boot_node.folder.iterdir()) == ["boot", "pcrs-b.zip"]


def test_install_kernel_skipped_on_request_is_verified_and_dropped(node: Node) -> None:
    node.skip_kernel = True
    node.install(make_payload(NEW, KERNEL))
    assert node.next_boot() is SlotName.B
    assert not list(node.folder.iterdir())


def test_install_kernel_that_is_in_place_is_left_alone(boot_node: Node) -> None:
    assert boot_node.boot_folder is not None
    kernel = boot_node.boot_folder / "vmlinuz-b"
    kernel.write_bytes(KERNEL)
    before = kernel.stat()
    boot_node.install(make_payload(NEW, KERNEL))
    assert (kernel.stat().st_ino, kernel.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("size", [0, len(KERNEL) - 1, len(KERNEL), len(KERNEL) + 1])
def test_install_another_kernel_in_place_is_replaced(boot_node: Node, size: int) -> None:
    assert boot_node.boot_folder is not None
    (boot_node.boot_folder / "vmlinuz-b").write_bytes(bytes(size))
    boot_node.install(make_payload(NEW, KERNEL))
    assert (boot_node.boot_folder / "vmlinuz-b").read_bytes() == KERNEL


def test_install_over_stale_staged_kernel_gives_new_one(boot_node: Node) -> None:
    assert boot_node.boot_folder is not None
    (boot_node.boot_folder / "vmlinuz-b.new").write_bytes(b"\xee" * 99_999)
    boot_node.install(make_payload(NEW, KERNEL))
    assert (boot_node.boot_folder / "vmlinuz-b").read_bytes() == KERNEL
    assert not (boot_node.boot_folder / "vmlinuz-b.new").exists()


def test_install_where_nothing_is_bootable_goes_to_b(tmp_path: Path) -> None:
    device = MemoryDevice.of(bytes(make_image(ab_parts(a=0, b=0, sectors=USR_BYTES // 512))))
    node = Node(device=device, folder=tmp_path)
    assert node.install(make_payload(NEW)).slot is SlotName.B
    assert node.next_boot() is SlotName.B


def test_install_progress_only_rises_within_each_phase_and_reaches_its_end(boot_node: Node) -> None:
    boot_node.install(make_payload(NEW, KERNEL, op_bytes=4096))
    for phase in (Phase.DOWNLOADING, Phase.VERIFYING, Phase.FINALIZING):
        points = [point for point in boot_node.progress if point.phase is phase]
        done = [point.done_bytes for point in points]
        assert done == sorted(done)
        assert len({point.total_bytes for point in points}) == 1
        assert done[-1] == points[0].total_bytes
    phases = [point.phase for point in boot_node.progress]
    assert phases == sorted(phases, key=list(Phase).index)


@pytest.mark.parametrize("size_is_known", [True, False])
@pytest.mark.parametrize("major", [1, 2])
def test_install_everything_announced_and_true_is_accepted(node: Node, major: int, size_is_known: bool) -> None:
    payload = make_payload(NEW, major=major)
    expectation = Expectation(sha256=hashlib.sha256(payload).digest(), size_bytes=len(payload), version="2.0.0")
    report = node.install(BytesSource(payload, size_is_known=size_is_known), expectation=expectation)
    assert report.version == "2.0.0"


# Refused before anything is changed


def test_kernel_without_boot_folder_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(ConfigurationError) as caught:
        node.install(make_payload(NEW, KERNEL))
    assert_untouched(node, disk, caught, Kind.KERNEL_TARGET_MISSING)


def test_boot_folder_without_space_is_refused_before_writing(boot_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        fields = list(real(path))
        fields[4] = 0  # f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", full)
    disk = whole_disk(boot_node)
    with pytest.raises(DeviceError) as caught:
        boot_node.install(make_payload(NEW, KERNEL))
    assert_untouched(boot_node, disk, caught, Kind.NO_SPACE)
    assert "free 20480 bytes there" in str(caught.value.hint)


def test_image_larger_than_partition_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(DeviceError) as caught:
        node.install(make_payload(NEW + bytes(4096)))
    assert_untouched(node, disk, caught, Kind.DEVICE_TOO_SMALL)


def test_disk_without_usr_b_is_refused_before_writing(tmp_path: Path) -> None:
    parts = [part for part in ab_parts(sectors=USR_BYTES // 512) if part.label != "USR-B"]
    node = Node(device=MemoryDevice.of(bytes(make_image(parts))), folder=tmp_path)
    disk = whole_disk(node)
    with pytest.raises(InstallError) as caught:
        node.install(make_payload(NEW))
    assert_untouched(node, disk, caught, Kind.SLOT_MISSING)


def test_booted_slot_as_target_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(RefusedError) as caught:
        node.install(make_payload(NEW), target=SlotName.A)
    assert_untouched(node, disk, caught, Kind.TARGET_BOOTED)


def test_only_bootable_slot_as_target_is_refused_and_keeps_its_record(tmp_path: Path) -> None:
    parts = ab_parts(a=0, b=boot_attributes(1, 0, 1), sectors=USR_BYTES // 512)
    node = Node(device=MemoryDevice.of(bytes(make_image(parts))), folder=tmp_path)
    record = SlotRecord(version="1.0.0", sha256="", size_bytes=0, installed_at="", is_complete=True)
    node.records.put(node.slots.b.unique_guid, record)
    disk = whole_disk(node)
    with pytest.raises(RefusedError) as caught:
        node.install(make_payload(NEW), booted=SlotName.A)
    assert caught.value.kind is Kind.NOTHING_BOOTABLE
    assert whole_disk(node) == disk
    assert node.records.get(node.slots.b.unique_guid) == record


@pytest.mark.parametrize(
    ("offered", "running", "policy", "kind"),
    [
        ("2.0.0", "2.0.1", VersionPolicy(), Kind.DOWNGRADE),
        ("2.0.0", "10.0.0", VersionPolicy(allow_same=True), Kind.DOWNGRADE),
        ("2.0.0", "2.0.0", VersionPolicy(), Kind.SAME_VERSION),
        ("2.0.0", "2.0.0", VersionPolicy(allow_downgrade=True), Kind.SAME_VERSION),
        ("two", "2.0.0", VersionPolicy(), Kind.VERSION_MALFORMED),
        ("2.0.0", "two", VersionPolicy(), Kind.VERSION_MALFORMED),
    ],
)
def test_release_that_policy_forbids_is_refused_before_writing(
    node: Node, offered: str, running: str, policy: VersionPolicy, kind: Kind
) -> None:
    disk = whole_disk(node)
    with pytest.raises(UpdateAgentError) as caught:
        node.install(make_payload(NEW, version=offered), running_version=running, versions=policy)
    assert_untouched(node, disk, caught, kind)


@pytest.mark.parametrize(
    ("offered", "running", "policy"),
    [
        ("2.0.0", "1.9.9", VersionPolicy()),
        ("2.0.0", "2.0.1", VersionPolicy(allow_downgrade=True)),
        ("2.0.0", "2.0.0", VersionPolicy(allow_same=True)),
        ("2.0.0", None, VersionPolicy()),
        (None, "2.0.0", VersionPolicy()),
    ],
)
def test_release_that_policy_allows_is_installed(
    node: Node, offered: str | None, running: str | None, policy: VersionPolicy
) -> None:
    report = node.install(make_payload(NEW, version=offered), running_version=running, versions=policy)
    assert report.version == offered


def test_release_recorded_for_running_slot_is_not_installed_again(node: Node) -> None:
    node.install(make_payload(NEW))
    activation.mark_good(node.disk, node.slots.b)
    with pytest.raises(RefusedError) as caught:
        node.install(make_payload(NEW))
    assert caught.value.kind is Kind.SAME_VERSION


def test_announced_version_is_used_where_none_is_signed(node: Node) -> None:
    with pytest.raises(RefusedError) as caught:
        node.install(make_payload(NEW, major=1), expectation=Expectation(version="1.0.0"), running_version="2.0.0")
    assert caught.value.kind is Kind.DOWNGRADE


def test_announced_version_other_than_signed_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW), expectation=Expectation(version="9.0.0"))
    assert_untouched(node, disk, caught, Kind.VERSION_MISMATCH)


@pytest.mark.parametrize("difference", [-1, 1])
def test_announced_size_wrong_is_refused_before_writing(node: Node, difference: int) -> None:
    disk = whole_disk(node)
    payload = make_payload(NEW)
    with pytest.raises(VerificationError) as caught:
        node.install(payload, expectation=Expectation(size_bytes=len(payload) + difference))
    assert_untouched(node, disk, caught, Kind.PAYLOAD_SIZE)


@pytest.mark.parametrize("major", [1, 2])
def test_trailing_bytes_in_source_of_known_size_are_refused_before_writing(node: Node, major: int) -> None:
    disk = whole_disk(node)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW, major=major) + b"\0")
    assert_untouched(node, disk, caught, Kind.PAYLOAD_SIZE)


def test_v2_payload_signed_by_another_key_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW), keys=RSA_B_PUBLIC)
    assert_untouched(node, disk, caught, Kind.SIGNATURE_INVALID)


def test_v2_payload_without_metadata_signature_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW, sign_metadata=False))
    assert_untouched(node, disk, caught, Kind.SIGNATURE_MISSING)


def test_v1_payload_without_signature_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW, major=1, keys=()))
    assert_untouched(node, disk, caught, Kind.SIGNATURE_MISSING)


def test_v2_payload_with_signed_metadata_alone_is_refused_before_writing(node: Node) -> None:
    disk = whole_disk(node)
    payload = PayloadMaker(usr=NEW, keys=(), metadata_keys=(RSA_A,)).make()
    with pytest.raises(VerificationError) as caught:
        node.install(payload)
    assert_untouched(node, disk, caught, Kind.SIGNATURE_MISSING)


@pytest.mark.parametrize("size_bytes", [1, 2, 3])
def test_v1_manifest_shorter_than_rest_of_header_is_refused(node: Node, size_bytes: int) -> None:
    """Once it made the reader wait for ever for a negative number of bytes."""
    disk = whole_disk(node)
    with pytest.raises(FormatError) as caught:
        node.install(b"CrAU" + struct.pack(">QQ", 1, size_bytes) + bytes(100))
    assert_untouched(node, disk, caught, Kind.PAYLOAD_MALFORMED)


# Refused when the target was being written


@pytest.mark.parametrize("major", [1, 2])
def test_trailing_bytes_in_source_of_unknown_size_are_not_activated(node: Node, major: int) -> None:
    with pytest.raises(VerificationError) as caught:
        node.install(BytesSource(make_payload(NEW, major=major) + b"\0", size_is_known=False))
    assert caught.value.kind is Kind.PAYLOAD_SIZE
    assert_old_boots(node)


def boundaries(payload: bytes) -> Iterator[int]:
    """Where one piece of the payload ends and the next begins, and the inside of each piece."""
    header = Header.from_bytes(payload)
    ends = [0, 1, 4, 12, 20, header.size_bytes, header.metadata_size, header.data_start, len(payload)]
    blobs = range(header.data_start, len(payload), 3000)
    for end in {*ends, *blobs}:
        yield from (cut for cut in (end - 1, end, end + 1) if 0 <= cut < len(payload))


@pytest.mark.parametrize("major", [1, 2])
def test_payload_truncated_at_any_boundary_is_not_activated(tmp_path: Path, major: int) -> None:
    payload = make_payload(NEW, major=major)
    for cut in sorted(set(boundaries(payload))):
        node = make_node(tmp_path, usr_bytes=USR_BYTES, content_a=OLD)
        with pytest.raises(FormatError) as caught:
            node.install(BytesSource(payload[:cut], size_is_known=False))
        assert caught.value.kind is Kind.PAYLOAD_TRUNCATED, cut
        assert node.next_boot() is SlotName.A
        assert not node.slots.b.flags.is_bootable
        assert node.content(SlotName.A) == OLD


def test_announced_sha256_wrong_is_not_activated_and_not_resumed(node: Node) -> None:
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW), expectation=Expectation(sha256=bytes(32)))
    assert caught.value.kind is Kind.PAYLOAD_HASH
    assert_old_boots(node)
    assert CHECKPOINT not in node.files


def test_v1_payload_signed_by_another_key_is_not_activated(node: Node) -> None:
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW, major=1), keys=RSA_B_PUBLIC)
    assert caught.value.kind is Kind.SIGNATURE_INVALID
    assert_old_boots(node)
    assert CHECKPOINT not in node.files


def test_v2_payload_whose_blobs_another_key_signed_is_not_activated(node: Node) -> None:
    payload = PayloadMaker(usr=NEW, keys=(RSA_B,), metadata_keys=(RSA_A,)).make()
    with pytest.raises(VerificationError) as caught:
        node.install(payload)
    assert caught.value.kind is Kind.SIGNATURE_INVALID
    assert_old_boots(node)


def test_manifest_that_promises_other_content_is_not_activated(node: Node) -> None:
    def lie(manifest: pb2.Manifest) -> None:
        manifest.partitions[0].new_partition_info.hash = bytes(32)

    with pytest.raises(VerificationError) as caught:
        node.install(replace(PayloadMaker(usr=NEW), mutate_manifest=lie).make())
    assert caught.value.kind is Kind.PARTITION_HASH
    assert_old_boots(node)


@pytest.mark.parametrize("major", [1, 2])
def test_operation_that_reaches_beyond_the_slot_does_not_touch_the_next_partition(node: Node, major: int) -> None:
    """Generators may give the last operation more blocks than the content needs; a liar may fill them."""
    operation = Operation(type=OperationType.REPLACE, dst_extents=(Extent(USR_BYTES // 4096 - 1, 4),))
    payload = make_payload(NEW, major=major, operations=[(operation, b"\xee" * 4 * 4096)])
    disk = whole_disk(node)
    end = node.slots.b.start_bytes + USR_BYTES
    with pytest.raises(DeviceError) as caught:
        node.install(payload)
    assert caught.value.kind is Kind.DEVICE_TOO_SMALL
    assert_old_boots(node)
    gpt_bytes = 33 * 512
    assert whole_disk(node)[end:-gpt_bytes] == disk[end:-gpt_bytes]


def test_blob_changed_after_hashing_is_not_activated(node: Node) -> None:
    def damage(blobs: bytearray) -> None:
        blobs[len(blobs) // 2] ^= 1

    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW, mutate_blobs=damage))
    assert caught.value.kind is Kind.OPERATION_HASH
    assert_old_boots(node)


@pytest.mark.parametrize("at", [0, 30_000, USR_BYTES - 1])
def test_medium_that_damages_is_noticed_and_next_run_begins_anew(node: Node, at: int) -> None:
    node.wrap_target = lambda device: DamagingDevice(device, at=at)
    with pytest.raises(VerificationError) as caught:
        node.install(make_payload(NEW))
    assert caught.value.kind is Kind.PARTITION_HASH
    assert_old_boots(node)
    assert CHECKPOINT not in node.files
    node.wrap_target = lambda device: device
    assert node.install(make_payload(NEW)).resumed_at_bytes == 0
    assert node.content(SlotName.B) == NEW


def test_kernel_with_wrong_hash_is_not_put_in_place(boot_node: Node) -> None:
    def lie(manifest: pb2.Manifest) -> None:
        manifest.partitions[1].new_partition_info.hash = bytes(32)

    with pytest.raises(VerificationError) as caught:
        boot_node.install(PayloadMaker(usr=NEW, kernel=KERNEL, mutate_manifest=lie).make())
    assert caught.value.kind is Kind.KERNEL_HASH
    assert_old_boots(boot_node)
    assert boot_node.boot_folder is not None
    assert not (boot_node.boot_folder / "vmlinuz-b").exists()


def test_records_file_damaged_costs_no_install(node: Node) -> None:
    node.files[RECORDS] = b"{"
    node.install(make_payload(NEW))
    assert node.next_boot() is SlotName.B


def test_install_of_what_waits_already_changes_nothing(node: Node) -> None:
    node.install(make_payload(NEW))
    disk, files = whole_disk(node), dict(node.files)
    report = node.install(make_payload(NEW))
    assert (report.key, report.version, report.slot) == (None, "2.0.0", SlotName.B)
    assert whole_disk(node) == disk
    assert node.files == files


def test_install_of_what_waited_but_was_marked_bad_starts_again(node: Node) -> None:
    node.install(make_payload(NEW))
    activation.mark_bad(node.disk, node.slots.b)
    assert node.install(make_payload(NEW)).key is not None
    assert node.next_boot() is SlotName.B
