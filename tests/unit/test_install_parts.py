"""Small parts of an install on their own: checkpoints, records, versions, progress, reading back."""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import FailingReadDevice
from tests.support.devices import MemoryDevice
from tests.support.nodes import BytesSource, MemoryFile
from tests.support.payloads import RSA_A_PUBLIC, make_payload
from update_agent.domain.apply import PartApplier
from update_agent.domain.checkpoint import Checkpoint, CheckpointStore, seal, unseal
from update_agent.domain.policy import VersionPolicy, choose_version
from update_agent.domain.progress import CancelToken, CombinedProgress, Phase, Progress, ignore_progress
from update_agent.domain.readback import hash_device, verify_content, verify_source
from update_agent.domain.reader import Expectation, PayloadReader, reading
from update_agent.domain.records import SlotRecord, SlotRecords
from update_agent.domain.trust import KeyRing
from update_agent.errors import DeviceError, FormatError, InterruptedByUserError, Kind, RefusedError, VerificationError
from update_agent.formats.operations import ContentInfo, Extent, Operation, OperationType, PartName
from update_agent.host.spool import MemoryBlob

CHECKPOINT = Checkpoint(
    target=UUID(int=5),
    metadata_sha256=bytes(range(32)),
    metadata_bytes=321,
    version="1.2.3",
    next_operation=7,
    data_offset=12345,
    signed_state=b"s" * 104,
    whole_state=b"w" * 104,
)
RECORD = SlotRecord(version="1.2.3", sha256="ab" * 32, size_bytes=99, installed_at="then", is_complete=True)
SLOT_A, SLOT_B = UUID(int=1), UUID(int=2)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


# Checkpoints


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, replace(CHECKPOINT, whole_state=None, version="")])
def test_checkpoint_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert Checkpoint.from_bytes(checkpoint.to_bytes()) == checkpoint


def test_checkpoint_any_bit_changed_counts_as_none() -> None:
    data = CHECKPOINT.to_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        assert Checkpoint.from_bytes(bytes(changed)) is None


def test_checkpoint_cut_anywhere_counts_as_none() -> None:
    data = CHECKPOINT.to_bytes()
    for cut in range(len(data)):
        assert Checkpoint.from_bytes(data[:cut]) is None


@given(st.binary(max_size=300))
def test_checkpoint_any_bytes_count_as_none(data: bytes) -> None:
    assert Checkpoint.from_bytes(data) is None


@given(st.sampled_from(["target", "next_operation", "data_offset", "whole_state", "signed_state"]), json_values)
def test_checkpoint_well_sealed_with_odd_fields_raises_nothing(name: str, value: object) -> None:
    fields = unseal(CHECKPOINT.to_bytes())
    assert fields is not None
    Checkpoint.from_bytes(seal({**fields, name: value}))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"next_operation": float("inf")},
        {"target": 5},
        {"target": "5"},
        {"metadata_bytes": -1},
        {"next_operation": -1},
        {"data_offset": -1},
    ],
)
def test_checkpoint_of_another_form_counts_as_none(change: dict[str, object]) -> None:
    fields = unseal(CHECKPOINT.to_bytes())
    assert fields is not None
    assert Checkpoint.from_bytes(seal({**fields, **change})) is None


def test_checkpoint_with_a_field_missing_counts_as_none() -> None:
    fields = unseal(CHECKPOINT.to_bytes())
    assert fields is not None
    del fields["data_offset"]
    assert Checkpoint.from_bytes(seal(fields)) is None


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_unseal_sealed_text_that_is_no_object_is_none(text: bytes) -> None:
    assert unseal(text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n") is None


def test_checkpoint_store_saves_loads_and_clears() -> None:
    files: dict[str, bytes] = {}
    store = CheckpointStore(MemoryFile(files, "checkpoint"))
    assert store.load() is None
    store.save(CHECKPOINT)
    assert store.load() == CHECKPOINT
    store.clear()
    assert not files


def test_checkpoint_store_damaged_file_is_none_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert CheckpointStore(MemoryFile({"checkpoint": b"x"}, "checkpoint")).load() is None
    assert "starts anew" in caplog.text


# Records


def test_records_are_kept_by_partition() -> None:
    records = SlotRecords(MemoryFile({}, "records"))
    other = replace(RECORD, version="2")
    records.put(SLOT_A, RECORD)
    records.put(SLOT_B, other)
    assert (records.get(SLOT_A), records.get(SLOT_B), records.get(UUID(int=3))) == (RECORD, other, None)


def test_records_mark_incomplete_forgets_what_was_there() -> None:
    records = SlotRecords(MemoryFile({}, "records"))
    records.put(SLOT_A, RECORD)
    records.mark_incomplete(SLOT_A, "2", "now")
    assert records.get(SLOT_A) == SlotRecord(
        version="2", sha256="", size_bytes=0, installed_at="now", is_complete=False
    )


def test_records_mark_incomplete_again_writes_nothing() -> None:
    files: dict[str, bytes] = {}
    records = SlotRecords(MemoryFile(files, "records"))
    records.mark_incomplete(SLOT_A, "2", "now")
    before = files["records"]
    records.mark_incomplete(SLOT_A, "2", "later")
    assert files["records"] == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        seal({"schema": 2, "slots": {}}),
        seal({"schema": 1}),
        seal({"schema": 1, "slots": []}),
        seal({"schema": 1, "slots": {"no guid": {}}}),
        seal({"schema": 1, "slots": {str(SLOT_A): {}}}),
        seal({"schema": 1, "slots": {str(SLOT_A): 5}}),
    ],
)
def test_records_damaged_file_means_nothing_is_known(data: bytes) -> None:
    assert SlotRecords(MemoryFile({"records": data}, "records")).load() == {}


@given(json_values)
def test_records_well_sealed_with_odd_slots_raise_nothing(value: object) -> None:
    file = MemoryFile({"records": seal({"schema": 1, "slots": value})}, "records")
    SlotRecords(file).load()
    fields = {"version": "", "sha256": "", "size_bytes": value, "installed_at": "", "is_complete": value}
    file.replace(seal({"schema": 1, "slots": {str(SLOT_A): fields}}))
    SlotRecords(file).load()


def test_records_file_is_json_that_a_person_can_read() -> None:
    files: dict[str, bytes] = {}
    SlotRecords(MemoryFile(files, "records")).put(SLOT_A, RECORD)
    assert json.loads(files["records"].splitlines()[0])["slots"][str(SLOT_A)]["version"] == "1.2.3"


# Versions


@pytest.mark.parametrize(
    ("offered", "running"), [("2", "1"), ("1.10", "1.9"), ("1.0", "1.0-rc.1"), (None, "1"), ("1", "")]
)
def test_policy_newer_or_unknown_release_passes(offered: str | None, running: str | None) -> None:
    VersionPolicy().check(offered, running)


@pytest.mark.parametrize(
    ("offered", "running", "kind"),
    [("1", "2", Kind.DOWNGRADE), ("1.9", "1.10", Kind.DOWNGRADE), ("1.0", "1", Kind.SAME_VERSION)],
)
def test_policy_release_that_is_not_newer_is_refused(offered: str, running: str, kind: Kind) -> None:
    with pytest.raises(RefusedError) as caught:
        VersionPolicy().check(offered, running)
    assert caught.value.kind is kind
    VersionPolicy(allow_downgrade=True, allow_same=True).check(offered, running)


@pytest.mark.parametrize(
    ("signed", "announced", "chosen"), [(None, None, None), ("1", None, "1"), (None, "2", "2"), ("1.0", "1", "1.0")]
)
def test_choose_version_prefers_the_signed_one(signed: str | None, announced: str | None, chosen: str | None) -> None:
    assert choose_version(signed, announced) == chosen


def test_choose_version_contradiction_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        choose_version("1.0", "1.1")
    assert caught.value.kind is Kind.VERSION_MISMATCH


# Progress


def test_combined_progress_makes_one_rising_count() -> None:
    points: list[Progress] = []
    combined = CombinedProgress(points.append, 30)
    for size in (10, 20):
        for done in (size // 2, size):
            combined(Progress(phase=Phase.COPYING, done_bytes=done, total_bytes=size))
    assert [(point.done_bytes, point.total_bytes) for point in points] == [(5, 30), (10, 30), (20, 30), (30, 30)]


def test_cancel_token_stops_only_when_asked() -> None:
    token = CancelToken()
    token.raise_if_cancelled()
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    with pytest.raises(InterruptedByUserError) as caught:
        token.raise_if_cancelled()
    assert caught.value.kind is Kind.INTERRUPTED


# Reading back


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (4 << 20) - 1, 5 << 20])
def test_hash_device_agrees_with_hashlib(size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    points: list[Progress] = []
    found = hash_device(
        MemoryDevice.of(data + b"beyond"), size, phase=Phase.VERIFYING, progress=points.append, cancel=CancelToken()
    )
    assert found == hashlib.sha256(data).digest()
    done = [point.done_bytes for point in points]
    assert done == sorted(set(done))
    assert done[-1:] == ([size] if size else [])


def test_hash_device_failing_read_is_raised() -> None:
    device = FailingReadDevice(MemoryDevice(4 << 20), fail_at_read=2)
    with pytest.raises(DeviceError):
        hash_device(device, 4 << 20, phase=Phase.VERIFYING, progress=ignore_progress, cancel=CancelToken())


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (PartName.USR, Kind.PARTITION_HASH),
        (PartName.KERNEL, Kind.KERNEL_HASH),
        (PartName.PCR_POLICY, Kind.PCR_POLICY_HASH),
    ],
)
def test_verify_content_mismatch_names_the_part(part: PartName, kind: Kind) -> None:
    expected = ContentInfo(size_bytes=10, sha256=bytes(32))
    with pytest.raises(VerificationError) as caught:
        verify_content(MemoryDevice(10), expected, part, progress=ignore_progress, cancel=CancelToken())
    assert caught.value.kind is kind


def test_verify_source_that_is_there_passes() -> None:
    expected = ContentInfo(size_bytes=3, sha256=hashlib.sha256(b"old").digest())
    verify_source(MemoryDevice.of(b"old and more"), expected, progress=ignore_progress, cancel=CancelToken())


# Operations


@pytest.mark.parametrize("type_", [OperationType.SOURCE_COPY, OperationType.SOURCE_BSDIFF])
def test_apply_source_operation_without_source_is_refused(tmp_path: Path, type_: OperationType) -> None:
    applier = PartApplier(target=MemoryDevice(4096), source=None, block_size=4096, spool_folder=tmp_path)
    operation = Operation(type=type_, src_extents=(Extent(0, 1),), dst_extents=(Extent(0, 1),))
    with pytest.raises(FormatError) as caught:
        applier.apply(operation, MemoryBlob(b""))
    assert caught.value.kind is Kind.PAYLOAD_MALFORMED


# Reading a payload


def test_reading_closes_the_transfer_also_after_an_error() -> None:
    closed = []

    class Source(BytesSource):
        def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
            try:
                yield from super().open(offset, end)
            finally:
                closed.append(offset)

    def fail_in_the_middle() -> None:
        with reading(Source(make_payload(bytes(8192))), KeyRing.load(RSA_A_PUBLIC), Expectation()) as reader:
            reader.begin()
            assert not closed
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert closed == [0]


def test_reader_takes_chunks_from_any_iterator() -> None:
    class Source(BytesSource):
        def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
            return iter([self.payload[offset:end]])

    source = Source(make_payload(bytes(8192)))
    reader = PayloadReader(source, KeyRing.load(RSA_A_PUBLIC), Expectation())
    assert reader.begin().version == "2.0.0"
    reader.close()
