import json
import re
from pathlib import Path

import pytest

from tests.support.devices import MemoryDevice
from tests.support.images import A_GOOD, USR_A_GUID, USR_B_GUID, ab_parts, boot_attributes, make_image
from tests.support.nodes import MemoryFile
from update_agent.api.disk import DiskState, SlotState, Status
from update_agent.api.forms import ERROR_FORMS, ExitStatus, dbus_error_name, error_to_json
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.records import SlotRecord, SlotRecords
from update_agent.domain.slots import SlotName
from update_agent.errors import Kind, RefusedError, TransferError
from update_agent.host.disk import GptDisk

COMPLETE = SlotRecord(
    version="1.0.0", sha256="ab" * 32, size_bytes=4096, installed_at="2026-01-02T03:04:05Z", is_complete=True
)
HALF = SlotRecord(version="2.0.0", sha256="", size_bytes=0, installed_at="2026-01-02T03:04:05Z", is_complete=False)
CHECKPOINT = Checkpoint(
    target=USR_B_GUID,
    metadata_sha256=bytes(32),
    metadata_bytes=500,
    version="2.0.0",
    next_operation=3,
    data_offset=123456,
    signed_state=b"state",
    whole_state=None,
)
ONE_TRY = boot_attributes(priority=2, tries=1)
BETTER = boot_attributes(priority=2, successful=1)
SPENT = boot_attributes(priority=2)


def status_of(
    a: int,
    b: int,
    *,
    record_a: SlotRecord | None = COMPLETE,
    record_b: SlotRecord | None = None,
    checkpoint: Checkpoint | None = None,
    booted: SlotName | None = None,
) -> Status:
    disk = GptDisk(MemoryDevice.of(bytes(make_image(ab_parts(a=a, b=b))), name="disk.img"))
    records = SlotRecords(MemoryFile({}, "slots.json"))
    for guid, record in ((USR_A_GUID, record_a), (USR_B_GUID, record_b)):
        if record is not None:
            records.put(guid, record)
    return Status.of(disk, records, checkpoint, booted)


def states(status: Status) -> tuple[SlotState, ...]:
    return tuple(each.state for each in status.slots)


# Errors


def test_error_forms_cover_every_kind_and_nothing_else() -> None:
    assert set(ERROR_FORMS) == set(Kind)


def test_error_forms_name_each_kind_once() -> None:
    source = (Path(__file__).parents[2] / "update_agent" / "api" / "forms.py").read_text()
    table = source[source.index("ERROR_FORMS") : source.index("def dbus_error_name")]
    assert sorted(re.findall(r"Kind\.([A-Z_]+)", table)) == sorted(kind.name for kind in Kind)


def test_dbus_error_names_are_valid_and_unique() -> None:
    names = [dbus_error_name(kind) for kind in Kind]
    assert len(set(names)) == len(names)
    for name in names:
        # D-Bus specification, "Error names": as interface names, at most 255 bytes.
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", name)
        assert len(name) <= 255


def test_dbus_error_name_is_the_kind_in_camel_case() -> None:
    assert dbus_error_name(Kind.PAYLOAD_HASH) == "org.updateagent1.Error.PayloadHash"


@pytest.mark.parametrize(
    ("first", "last", "status"),
    [
        (Kind.USAGE, Kind.CONFIGURATION, ExitStatus.USAGE),
        (Kind.GPT_INVALID, Kind.OMAHA_INVALID, ExitStatus.FAILED),
        (Kind.KEY_MISSING, Kind.VERSION_MISMATCH, ExitStatus.UNVERIFIED),
        (Kind.TRANSFER, Kind.SOURCE_MISSING, ExitStatus.FAILED),
        (Kind.KERNEL_TARGET_MISSING, Kind.KERNEL_TARGET_MISSING, ExitStatus.USAGE),
        (Kind.TARGET_BOOTED, Kind.BUSY, ExitStatus.REFUSED),
        (Kind.INTERRUPTED, Kind.INTERRUPTED, ExitStatus.INTERRUPTED),
    ],
)
def test_exit_status_follows_the_class_of_the_error(first: Kind, last: Kind, status: ExitStatus) -> None:
    kinds = list(Kind)
    for kind in kinds[kinds.index(first) : kinds.index(last) + 1]:
        assert ERROR_FORMS[kind].exit_status is status, kind


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.OMAHA_TRANSFER, 2),
        (Kind.TRANSFER, 9),
        (Kind.HTTP_STATUS, 9),
        (Kind.PAYLOAD_HASH, 10),
        (Kind.PAYLOAD_SIZE, 11),
        (Kind.PARTITION_HASH, 15),
        (Kind.KERNEL_HASH, 16),
        (Kind.SIGNATURE_MISSING, 17),
        (Kind.SIGNATURE_INVALID, 18),
        (Kind.PAYLOAD_MAGIC, 21),
        (Kind.MANIFEST_MALFORMED, 23),
        (Kind.OPERATION_HASH, 29),
        (Kind.OMAHA_EMPTY, 30),
        (Kind.OMAHA_MALFORMED, 31),
        (Kind.OMAHA_REFUSED, 34),
        (Kind.OMAHA_INVALID, 34),
        (Kind.OPERATION_HASH_MISSING, 38),
        (Kind.PCR_POLICY_HASH, 42),
    ],
)
def test_omaha_code_is_the_one_that_update_engine_was_seen_to_send(kind: Kind, code: int) -> None:
    assert ERROR_FORMS[kind].omaha_code == code


def test_omaha_codes_are_numbers_of_update_engine() -> None:
    assert {form.omaha_code for form in ERROR_FORMS.values()} <= set(range(1, 45))


def test_error_to_json_has_everything_a_program_needs() -> None:
    document = error_to_json(RefusedError(Kind.BUSY, "disk: busy", hint="wait"))
    assert json.loads(json.dumps(document)) == {
        "schema": 1,
        "error": {"kind": "busy", "message": "disk: busy", "hint": "wait", "retryable": True, "omaha_code": 1},
    }


def test_error_to_json_without_hint_is_null() -> None:
    assert error_to_json(TransferError(Kind.REDIRECT_REFUSED, "no"))["error"]["hint"] is None


# Status


def test_status_of_a_fresh_disk_is_idle() -> None:
    status = status_of(A_GOOD, 0)
    assert (status.state, status.booted, status.next_boot) == (DiskState.IDLE, SlotName.A, SlotName.A)
    assert states(status) == (SlotState.BOOTED, SlotState.UNBOOTABLE)
    assert [each.version for each in status.slots] == ["1.0.0", None]


def test_status_of_an_activated_slot_is_reboot_pending() -> None:
    status = status_of(A_GOOD, ONE_TRY, record_b=COMPLETE)
    assert status.state is DiskState.REBOOT_PENDING
    assert states(status) == (SlotState.BOOTED, SlotState.NEXT_BOOT)


def test_status_of_two_good_slots_counts_the_first_choice_as_running() -> None:
    status = status_of(A_GOOD, BETTER)
    assert (status.state, status.booted) == (DiskState.IDLE, SlotName.B)
    assert states(status) == (SlotState.BOOTABLE, SlotState.BOOTED)


def test_status_with_a_slot_said_to_be_booted_believes_it() -> None:
    status = status_of(A_GOOD, BETTER, booted=SlotName.A)
    assert (status.state, status.booted, status.next_boot) == (DiskState.REBOOT_PENDING, SlotName.A, SlotName.B)


def test_status_of_a_slot_without_tries_is_unbootable() -> None:
    assert states(status_of(A_GOOD, SPENT)) == (SlotState.BOOTED, SlotState.UNBOOTABLE)


@pytest.mark.parametrize(("checkpoint", "done"), [(CHECKPOINT, 123456), (None, None)])
def test_status_of_half_a_release_is_install_interrupted(checkpoint: Checkpoint | None, done: int | None) -> None:
    status = status_of(A_GOOD, 0, record_b=HALF, checkpoint=checkpoint)
    assert status.state is DiskState.INSTALL_INTERRUPTED
    assert states(status) == (SlotState.BOOTED, SlotState.INCOMPLETE)
    assert status.interrupted_at_bytes == done


@pytest.mark.parametrize("record_b", [COMPLETE, None])
def test_status_with_the_checkpoint_of_a_finished_install_has_nothing_interrupted(record_b: SlotRecord | None) -> None:
    status = status_of(A_GOOD, ONE_TRY, record_b=record_b, checkpoint=CHECKPOINT)
    assert (status.state, status.interrupted_at_bytes) == (DiskState.REBOOT_PENDING, None)


def test_status_of_a_disk_from_which_nothing_boots_is_unbootable() -> None:
    status = status_of(0, 0, record_a=None)
    assert (status.state, status.booted, status.next_boot) == (DiskState.UNBOOTABLE, None, None)
    assert states(status) == (SlotState.UNBOOTABLE, SlotState.UNBOOTABLE)
    assert status.by_name(status.booted) is None


def test_status_to_json_is_json_with_words_and_units() -> None:
    document = json.loads(json.dumps(status_of(A_GOOD, 0, record_b=HALF, checkpoint=CHECKPOINT).to_json()))
    assert document["schema"] == 1
    assert (document["state"], document["booted"], document["interrupted_at_bytes"]) == (
        "install-interrupted",
        "A",
        123456,
    )
    a, b = document["slots"]
    assert (a["content_sha256"], a["content_size_bytes"], a["successful"]) == ("ab" * 32, 4096, True)
    assert (b["state"], b["version"], b["content_sha256"], b["content_size_bytes"]) == (
        "incomplete",
        "2.0.0",
        None,
        None,
    )


def test_status_to_json_of_unknown_content_is_null() -> None:
    a = status_of(A_GOOD, 0, record_a=None).to_json()["slots"][0]
    assert (a["version"], a["content_sha256"], a["content_size_bytes"], a["installed_at"]) == (None, None, None, None)
