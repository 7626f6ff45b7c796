"""Which partition is which slot, which slot runs, which is the target."""

import uuid
from dataclasses import replace

import pytest

from tests.support.devices import MemoryDevice
from tests.support.images import (
    A_GOOD,
    ROOT_TYPE,
    USR_A_GUID,
    USR_A_NUMBER,
    USR_B_GUID,
    USR_B_NUMBER,
    Part,
    ab_parts,
    boot_attributes,
    make_image,
)
from update_agent.domain.slots import SlotName, SlotTable
from update_agent.errors import InstallError, Kind, RefusedError
from update_agent.formats.gptprio import BootFlags
from update_agent.host.disk import GptDisk

B_TRY = boot_attributes(2, 1)


def slots_of(*parts: Part) -> SlotTable:
    return SlotTable.from_disk(GptDisk(MemoryDevice.of(make_image(parts), name="disk")))


def slots(a: int = A_GOOD, b: int = 0) -> SlotTable:
    return slots_of(*ab_parts(a=a, b=b))


def usr(number: int, label: str, guid: uuid.UUID | None = None, attributes: int = 0) -> Part:
    return Part(number=number, label=label, sectors=8, unique_guid=guid, attributes=attributes)


def test_slot_names_are_each_others_other() -> None:
    assert SlotName.A.other is SlotName.B
    assert SlotName.B.other is SlotName.A


def test_slots_of_a_disk_are_found_with_their_places_and_flags() -> None:
    table = slots(b=B_TRY)
    assert [slot.name for slot in table] == [SlotName.A, SlotName.B]
    assert (table.a.number, table.b.number) == (USR_A_NUMBER, USR_B_NUMBER)
    assert table.a.unique_guid == USR_A_GUID
    assert table.by_name(SlotName.B) is table.b
    assert table.other(table.a) is table.b
    assert table.b.flags == BootFlags(priority=2, tries=1, successful=False)
    assert table.b.start_bytes - table.a.start_bytes == table.a.size_bytes == 8 * 512


def test_slots_with_swapped_numbers_go_by_label() -> None:
    table = slots_of(usr(3, "USR-B", USR_A_GUID), usr(4, "USR-A", USR_B_GUID))
    assert (table.a.number, table.b.number) == (4, 3)


def test_slots_without_labels_go_by_well_known_guid() -> None:
    table = slots_of(usr(1, "", USR_B_GUID), usr(2, "x", USR_A_GUID))
    assert (table.a.number, table.b.number) == (2, 1)


WRONG_LAYOUTS = {
    "no partition": (),
    "b missing": (usr(3, "USR-A"),),
    "a missing": (usr(4, "USR-B"),),
    "b of another type": (usr(3, "USR-A"), replace(usr(4, "USR-B"), type_guid=ROOT_TYPE)),
    "a twice": (usr(3, "USR-A"), usr(4, "USR-A"), usr(5, "USR-B")),
    "one partition is both": (usr(3, "USR-A", USR_B_GUID),),
    "unknown names": (usr(3, "left"), usr(4, "right")),
    "a third that could boot": (usr(3, "USR-A"), usr(4, "USR-B"), usr(5, "USR-C", attributes=A_GOOD)),
    "labels in lower case": (usr(3, "usr-a"), usr(4, "usr-b")),
}


@pytest.mark.parametrize("layout", WRONG_LAYOUTS)
def test_slots_missing_or_ambiguous_are_refused_with_a_hint(layout: str) -> None:
    parts = WRONG_LAYOUTS[layout] or (replace(usr(1, "ROOT"), type_guid=ROOT_TYPE),)
    with pytest.raises(InstallError) as caught:
        slots_of(*parts)
    assert caught.value.kind is Kind.SLOT_MISSING
    assert caught.value.hint


NONE, A, B = None, SlotName.A, SlotName.B


@pytest.mark.parametrize(
    ("a", "b", "next_boot", "booted"),
    [
        ((1, 0, 1), (0, 0, 0), A, A),
        ((1, 0, 1), (2, 1, 0), B, A),
        ((1, 0, 1), (2, 0, 0), A, A),
        ((1, 0, 1), (2, 0, 1), B, B),
        ((2, 0, 1), (2, 0, 1), A, A),
        ((0, 0, 1), (1, 3, 0), B, B),
        ((0, 0, 0), (0, 0, 0), NONE, NONE),
        ((0, 0, 1), (0, 0, 1), NONE, NONE),
        ((3, 0, 0), (0, 9, 1), NONE, NONE),
    ],
)
def test_booted_of_an_image_is_the_best_proven_slot_else_the_next(
    a: tuple[int, int, int], b: tuple[int, int, int], next_boot: SlotName | None, booted: SlotName | None
) -> None:
    table = slots(boot_attributes(*a), boot_attributes(*b))
    following, running = table.next_boot(), table.booted(None)
    assert (following and following.name) == next_boot
    assert (running and running.name) == booted


def test_booted_that_the_caller_knows_is_believed() -> None:
    assert slots().booted(SlotName.B) == slots().b


def test_target_is_the_other_slot() -> None:
    table = slots()
    assert table.target(table.a, None) is table.b
    assert table.target(table.b, None) is table.a
    assert table.target(table.a, SlotName.B) is table.b


def test_target_of_a_disk_with_nothing_booted_is_b_or_the_callers() -> None:
    table = slots()
    assert table.target(None, None) is table.b
    assert table.target(None, SlotName.A) is table.a


@pytest.mark.parametrize("name", SlotName)
def test_target_that_is_booted_is_refused(name: SlotName) -> None:
    table = slots()
    with pytest.raises(RefusedError) as caught:
        table.target(table.by_name(name), name)
    assert caught.value.kind is Kind.TARGET_BOOTED
