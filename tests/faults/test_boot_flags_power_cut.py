"""A power cut at any moment of a flag change leaves the old flags or the new ones, never neither."""

from collections.abc import Callable

import pytest

from tests.support.crash import CrashState, always, crash_states
from tests.support.devices import FaultyDevice, Journal, MemoryDevice, PowerCutError, RecordingDevice, Write
from tests.support.images import A_GOOD, Geometry, ab_parts, boot_attributes, make_image
from update_agent.domain import activation
from update_agent.domain.slots import Slot, SlotTable
from update_agent.formats.gptprio import BootFlags
from update_agent.host.disk import GptDisk

Change = Callable[[GptDisk, Slot], object]

B_OLD = boot_attributes(3, 2, 1)

CHANGES: dict[str, tuple[int, int, Change]] = {
    "deactivate": (A_GOOD, B_OLD, activation.deactivate),
    "activate": (A_GOOD, 0, activation.activate),
    "mark good": (A_GOOD, boot_attributes(2), activation.mark_good),
    "rollback": (A_GOOD, B_OLD, activation.rollback),
    "boot": (A_GOOD, B_OLD, lambda disk, _slot: activation.consume_boot(disk)),
}

GEOMETRIES = {
    "512": Geometry(),
    "4096": Geometry(sector_bytes=4096),
    "entries of 256": Geometry(entry_bytes=256, entry_count=64),
    "gaps": Geometry(gap_sectors=3, entry_count=16),
}


def nothing(image: bytearray, _geometry: Geometry) -> None:
    """A sound disk."""
    del image


def primary_header(image: bytearray, geometry: Geometry) -> None:
    image[geometry.sector_bytes + 24] ^= 0xFF


def primary_header_gone(image: bytearray, geometry: Geometry) -> None:
    image[geometry.sector_bytes : 2 * geometry.sector_bytes] = bytes(geometry.sector_bytes)


def primary_entries(image: bytearray, geometry: Geometry) -> None:
    image[(2 + geometry.gap_sectors) * geometry.sector_bytes + 600] ^= 0xFF


def backup_header(image: bytearray, geometry: Geometry) -> None:
    image[-geometry.sector_bytes :] = bytes(geometry.sector_bytes)


def backup_entries(image: bytearray, geometry: Geometry) -> None:
    sectors = 1 + geometry.overhead_sectors
    image[-sectors * geometry.sector_bytes] ^= 0xFF


def backup_stale(image: bytearray, geometry: Geometry) -> None:
    stale = make_image(ab_parts(a=boot_attributes(9, 9), b=boot_attributes(9, 9)), geometry)
    sectors = 1 + geometry.overhead_sectors
    image[-sectors * geometry.sector_bytes :] = stale[-sectors * geometry.sector_bytes :]


def grown(image: bytearray, geometry: Geometry) -> None:
    image.extend(bytes(50 * geometry.sector_bytes))


STARTS: tuple[Callable[[bytearray, Geometry], None], ...] = (
    nothing,
    primary_header,
    primary_header_gone,
    primary_entries,
    backup_header,
    backup_entries,
    backup_stale,
    grown,
)


def flags_of(disk: GptDisk) -> dict[int, BootFlags]:
    return SlotTable.from_disk(disk).flags


def start_image(change: str, start: Callable[[bytearray, Geometry], None], geometry: Geometry) -> bytes:
    a, b, _ = CHANGES[change]
    image = make_image(ab_parts(a=a, b=b), geometry)
    start(image, geometry)
    return bytes(image)


def record(image: bytes, act: Callable[[GptDisk], object]) -> Journal:
    journal = Journal()
    act(GptDisk(RecordingDevice(MemoryDevice.of(image, name="disk"), journal)))
    return journal


def change_b(change: str) -> Callable[[GptDisk], object]:
    return lambda disk: CHANGES[change][2](disk, SlotTable.from_disk(disk).b)


def flags_after(state: CrashState) -> dict[int, BootFlags]:
    """What a boot loader would find; fails if no copy is valid."""
    return flags_of(GptDisk(state.device("disk")))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_flags_after_a_power_cut_are_the_old_or_the_new_ones(
    start: Callable[[bytearray, Geometry], None], geometry: Geometry
) -> None:
    image = start_image("activate", start, geometry)
    old = flags_of(GptDisk(MemoryDevice.of(image)))
    journal = record(image, change_b("activate"))
    states = list(crash_states({"disk": image}, journal.events, torn=always, subsets=20, seed=1))
    assert flags_after(states[0]) == old
    new = flags_after(states[-1])
    assert new != old
    for state in states:
        assert flags_after(state) in (old, new), state.description


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_after_a_power_cut_is_done_or_not_done(change: str) -> None:
    image = start_image(change, nothing, Geometry())
    old = flags_of(GptDisk(MemoryDevice.of(image)))
    journal = record(image, change_b(change))
    states = list(crash_states({"disk": image}, journal.events, torn=always, subsets=20, seed=2))
    new = flags_after(states[-1])
    assert new != old
    for state in states:
        assert flags_after(state) in (old, new), state.description


@pytest.mark.parametrize("killed_at", range(8))
def test_change_by_a_restarted_process_is_durable_although_the_first_never_flushed(killed_at: int) -> None:
    """What a killed process wrote is in the page cache, looks written, and may still be lost."""
    image = start_image("deactivate", nothing, Geometry(entry_count=16))
    old = flags_of(GptDisk(MemoryDevice.of(image)))
    before = record(image, change_b("deactivate")).events[:killed_at]
    cached = list(crash_states({"disk": image}, before))[-1].devices["disk"]
    events = (*before, *record(cached, change_b("deactivate")).events)
    states = list(crash_states({"disk": image}, events, torn=always, subsets=40, seed=5))
    new = flags_after(states[-1])
    for state in states:
        assert flags_after(state) in (old, new), state.description
    lost = crash_states({"disk": image}, (*events, Write("disk", 0, b"")), subsets=40, seed=6)
    for state in list(lost)[-40:]:
        assert flags_after(state) == new, state.description


def test_repair_interrupted_too_never_loses_the_flags() -> None:
    image = start_image("activate", nothing, Geometry(entry_count=16))
    journal = record(image, change_b("activate"))
    for first in crash_states({"disk": image}, journal.events, torn=always, subsets=5, seed=3):
        expected = flags_after(first)
        repair = record(first.devices["disk"], GptDisk.repair)
        for second in crash_states(first.devices, repair.events, torn=always, subsets=5, seed=4):
            assert flags_after(second) == expected, f"{first.description}; then {second.description}"
        assert not GptDisk(second.device("disk")).problems


@pytest.mark.parametrize("torn_bytes", [0, 100, 512])
@pytest.mark.parametrize("number", range(4))
def test_machine_that_stops_in_a_write_can_finish_the_change_later(number: int, torn_bytes: int) -> None:
    image = start_image("activate", nothing, Geometry())
    memory = MemoryDevice.of(image)
    disk = GptDisk(FaultyDevice(memory, stop_at_write=number, torn_bytes=torn_bytes))
    slot = SlotTable.from_disk(disk).b
    with pytest.raises(PowerCutError):
        activation.activate(disk, slot)
    again = GptDisk(memory)
    activation.activate(again, SlotTable.from_disk(again).b)
    assert memory.content == make_image(ab_parts(a=A_GOOD, b=boot_attributes(2, 1)))
