"""Changes of boot flags, and what they refuse."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.support.devices import Flush, Journal, MemoryDevice, RecordingDevice, Write
from tests.support.images import ab_parts, boot_attributes, make_image
from update_agent.domain import activation
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.errors import ConfigurationError, InstallError, Kind, RefusedError
from update_agent.host.disk import GptDisk

Flags = tuple[int, int, int]
OTHER_BITS = 1 << 60 | 0b111


def disk_of(a: Flags, b: Flags) -> GptDisk:
    image = make_image(ab_parts(a=boot_attributes(*a) | OTHER_BITS, b=boot_attributes(*b) | OTHER_BITS))
    return GptDisk(MemoryDevice.of(image, name="disk"))


def slot(disk: GptDisk, name: SlotName) -> Slot:
    return SlotTable.from_disk(disk).by_name(name)


def flags(disk: GptDisk) -> tuple[Flags, Flags]:
    """As on the device, both copies in step, the other attribute bits untouched."""
    fresh = GptDisk(disk.device)
    assert not fresh.problems
    table = SlotTable.from_disk(fresh)
    assert all(slot.partition.attributes & OTHER_BITS == OTHER_BITS for slot in table)
    a, b = ((slot.flags.priority, slot.flags.tries, int(slot.flags.successful)) for slot in table)
    return a, b


def test_activate_after_an_install_boots_the_slot_once() -> None:
    disk = disk_of((1, 0, 1), (0, 0, 0))
    activation.activate(disk, slot(disk, SlotName.B))
    assert flags(disk) == ((1, 0, 1), (2, 1, 0))


def test_activate_with_tries_boots_the_slot_as_often() -> None:
    disk = disk_of((15, 3, 1), (0, 0, 0))
    activation.activate(disk, slot(disk, SlotName.B), tries=5)
    assert flags(disk) == ((1, 3, 1), (2, 5, 0))


def test_activate_of_a_proven_slot_keeps_it_proven() -> None:
    disk = disk_of((1, 0, 1), (2, 0, 1))
    activation.activate(disk, slot(disk, SlotName.A))
    assert flags(disk) == ((2, 0, 1), (1, 0, 1))


@pytest.mark.parametrize("tries", [-1, 0, 16])
def test_activate_with_impossible_tries_is_refused(tries: int) -> None:
    disk = disk_of((1, 0, 1), (0, 0, 0))
    with pytest.raises(ConfigurationError) as caught:
        activation.activate(disk, slot(disk, SlotName.B), tries)
    assert caught.value.kind is Kind.USAGE
    assert flags(disk) == ((1, 0, 1), (0, 0, 0))


def test_mark_good_after_the_first_boot_makes_it_stay() -> None:
    disk = disk_of((1, 0, 1), (2, 0, 0))
    activation.mark_good(disk, slot(disk, SlotName.B))
    assert flags(disk) == ((1, 0, 1), (2, 0, 1))


def test_mark_good_of_the_only_slot_starts_from_one() -> None:
    disk = disk_of((0, 0, 0), (0, 0, 0))
    activation.mark_good(disk, slot(disk, SlotName.A))
    assert flags(disk) == ((1, 0, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (((1, 0, 1), (2, 0, 0)), ((1, 0, 1), (2, 0, 1))),  # the first boot of an update
        (((1, 0, 1), (2, 3, 0)), ((1, 0, 1), (2, 0, 1))),
        (((3, 1, 0), (2, 0, 0)), ((3, 1, 0), (2, 0, 1))),  # an update waits for its reboot
        (((2, 0, 1), (1, 0, 0)), ((2, 0, 1), (1, 0, 1))),  # a rollback does
        (((3, 0, 0), (2, 0, 0)), ((1, 0, 0), (2, 0, 1))),  # a former one that used up its tries
        (((2, 0, 1), (2, 0, 0)), ((1, 0, 1), (2, 0, 1))),
        (((0, 0, 0), (0, 0, 0)), ((0, 0, 0), (1, 0, 1))),
    ],
)
def test_confirm_keeps_what_was_chosen_meanwhile(before: tuple[Flags, Flags], after: tuple[Flags, Flags]) -> None:
    disk = disk_of(*before)
    activation.confirm(disk, slot(disk, SlotName.B))
    assert flags(disk) == after


@pytest.mark.parametrize("change", [activation.deactivate, activation.mark_bad])
def test_unbootable_slot_loses_all_flags(change: Callable[[GptDisk, Slot], None]) -> None:
    disk = disk_of((1, 0, 1), (2, 3, 1))
    change(disk, slot(disk, SlotName.B))
    assert flags(disk) == ((1, 0, 1), (0, 0, 0))


@pytest.mark.parametrize("change", [activation.deactivate, activation.mark_bad])
@pytest.mark.parametrize("other", [(0, 0, 0), (2, 0, 0), (0, 1, 1)])
def test_last_bootable_slot_is_not_made_unbootable(change: Callable[[GptDisk, Slot], None], other: Flags) -> None:
    disk = disk_of(other, (1, 0, 1))
    with pytest.raises(RefusedError) as caught:
        change(disk, slot(disk, SlotName.B))
    assert caught.value.kind is Kind.NOTHING_BOOTABLE
    assert caught.value.hint
    assert flags(disk) == (other, (1, 0, 1))


@pytest.mark.parametrize("other", [(2, 1, 0), (1, 15, 0)])
def test_only_slot_that_has_booted_well_is_not_overwritten(other: Flags) -> None:
    """The other one boots once more, and what then?"""
    disk = disk_of(other, (1, 0, 1))
    with pytest.raises(RefusedError) as caught:
        activation.deactivate(disk, slot(disk, SlotName.B))
    assert caught.value.kind is Kind.NOTHING_BOOTABLE
    assert caught.value.hint is not None
    assert "mark-good A" in caught.value.hint
    assert flags(disk) == (other, (1, 0, 1))


@pytest.mark.parametrize("target", [(0, 0, 0), (1, 1, 0), (0, 0, 1)])
def test_slot_that_is_none_to_go_back_to_is_overwritten_before_the_other_has_booted_well(target: Flags) -> None:
    """The first update of an image that was never marked good, and one that replaces another."""
    disk = disk_of((2, 1, 0), target)
    activation.deactivate(disk, slot(disk, SlotName.B))
    assert flags(disk) == ((2, 1, 0), (0, 0, 0))


def test_deactivate_of_a_slot_that_cannot_boot_anyway_loses_nothing() -> None:
    disk = disk_of((0, 0, 0), (3, 0, 0))
    activation.deactivate(disk, slot(disk, SlotName.B))
    assert flags(disk) == ((0, 0, 0), (0, 0, 0))


def test_rollback_puts_the_other_slot_on_top() -> None:
    disk = disk_of((1, 0, 1), (2, 0, 1))
    back = activation.rollback(disk, slot(disk, SlotName.B))
    assert back == slot(disk, SlotName.A)
    assert flags(disk) == ((2, 0, 1), (1, 0, 1))


@pytest.mark.parametrize("other", [(0, 0, 0), (1, 0, 0), (0, 1, 1)])
def test_rollback_to_a_slot_that_cannot_boot_is_refused(other: Flags) -> None:
    disk = disk_of(other, (2, 0, 1))
    with pytest.raises(RefusedError, match="slot A: expected a bootable slot") as caught:
        activation.rollback(disk, slot(disk, SlotName.B))
    assert caught.value.kind is Kind.NOTHING_BOOTABLE
    assert flags(disk) == (other, (2, 0, 1))


def test_boots_after_an_activation_that_never_becomes_good_fall_back() -> None:
    disk = disk_of((1, 0, 1), (0, 0, 0))
    activation.activate(disk, slot(disk, SlotName.B), tries=2)
    assert [activation.consume_boot(disk).name for _ in range(4)] == ["B", "B", "A", "A"]
    assert flags(disk) == ((1, 0, 1), (2, 0, 0))


def test_boot_that_takes_a_try_returns_what_is_left() -> None:
    disk = disk_of((1, 2, 1), (0, 0, 0))
    assert activation.consume_boot(disk).flags.tries == 1
    assert flags(disk) == ((1, 1, 1), (0, 0, 0))


def test_boot_that_takes_no_try_does_not_even_repair() -> None:
    image = make_image(ab_parts())
    image[-512:] = bytes(512)
    device = MemoryDevice.of(image)
    assert activation.consume_boot(GptDisk(device)).name is SlotName.A
    assert device.content == image


def test_boot_with_nothing_bootable_is_refused_and_says_why() -> None:
    disk = disk_of((0, 0, 1), (3, 0, 0))
    with pytest.raises(RefusedError, match="A with priority 0, tries 0, successful 1, B with priority 3") as caught:
        activation.consume_boot(disk)
    assert caught.value.kind is Kind.NOTHING_BOOTABLE


CHANGES: dict[str, Callable[[GptDisk, Slot], object]] = {
    "deactivate": activation.deactivate,
    "activate": activation.activate,
    "mark good": activation.mark_good,
    "mark bad": activation.mark_bad,
    "rollback": activation.rollback,
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_flags_is_one_write_of_each_copy(change: str) -> None:
    image = make_image(ab_parts(a=boot_attributes(2, 0, 1), b=boot_attributes(3, 2, 1)))
    journal = Journal()
    disk = GptDisk(RecordingDevice(MemoryDevice.of(image), journal))
    CHANGES[change](disk, slot(disk, SlotName.B))
    assert [type(event) for event in journal.events] == [Flush, Write, Write, Flush, Write, Write, Flush]


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_flags_sees_what_another_program_did_meanwhile(change: str) -> None:
    disk = disk_of((2, 0, 1), (3, 2, 1))
    stale = slot(disk, SlotName.B)
    activation.mark_bad(GptDisk(disk.device), slot(disk, SlotName.A))
    with suppress(RefusedError):  # some changes would leave nothing to boot now
        CHANGES[change](disk, stale)
    assert flags(disk)[0] == (0, 0, 0)
    assert flags(disk)[1][0] > 0


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_flags_on_a_disk_partitioned_anew_is_refused(change: str) -> None:
    other_disk = GptDisk(MemoryDevice.of(make_image(ab_parts(sectors=16))))
    disk = disk_of((2, 0, 1), (3, 2, 1))
    with pytest.raises(InstallError, match="got another partition") as caught:
        CHANGES[change](disk, slot(other_disk, SlotName.B))
    assert caught.value.kind is Kind.SLOT_MISSING
    assert flags(disk) == ((2, 0, 1), (3, 2, 1))
