"""The crash model itself: a model that forgets a state would make every crash test green."""

import errno

import pytest

from tests.support.crash import CrashState, always, crash_states
from tests.support.devices import (
    Event,
    FaultyDevice,
    FileReplace,
    Flush,
    Journal,
    MemoryDevice,
    PowerCutError,
    RecordingDevice,
    Write,
)
from update_agent.errors import DeviceError, Kind

A, B = b"a" * 512, b"b" * 512
ZERO = bytes(512)


def contents(states: list[CrashState]) -> list[bytes]:
    return [state.devices["disk"] for state in states]


def test_prefixes_come_in_order() -> None:
    events: list[Event] = [Write("disk", 0, A), Flush("disk"), Write("disk", 512, B)]
    states = list(crash_states({"disk": ZERO * 2}, events))
    assert contents(states) == [ZERO * 2, A + ZERO, A + ZERO, A + B]


def test_torn_write_lands_by_its_head_or_its_tail_at_every_sector() -> None:
    events: list[Event] = [Write("disk", 256, b"x" * 1024)]
    states = contents(list(crash_states({"disk": bytes(2048)}, events, torn=always)))
    landed = [(state.count(b"x"), state.find(b"x")) for state in states]
    assert landed == [(0, -1), (256, 256), (768, 512), (768, 256), (256, 1024), (1024, 256)]


def test_subsets_keep_what_was_flushed_and_reach_every_combination_of_the_rest() -> None:
    events: list[Event] = [Write("disk", 0, A), Flush("disk"), Write("disk", 512, A), Write("disk", 1024, B)]
    states = list(crash_states({"disk": ZERO * 3}, events, subsets=50))
    last = {state.devices["disk"] for state in states if "event 3" in state.description}
    assert last == {A + x + y for x in (ZERO, A) for y in (ZERO, B)}


def test_flush_of_one_device_says_nothing_about_another() -> None:
    events: list[Event] = [Write("disk", 0, A), Write("boot", 0, B), Flush("boot")]
    states = list(crash_states({"disk": ZERO, "boot": ZERO}, events, subsets=20))
    after = [state for state in states if "event 2" in state.description]
    assert {state.devices["disk"] for state in after} == {ZERO, A}
    assert {state.devices["boot"] for state in after} == {B}


def test_subsets_of_the_same_seed_are_the_same() -> None:
    events: list[Event] = [Write("disk", 512 * number, A * 3) for number in range(5)]
    first, second = ([*crash_states({"disk": ZERO * 8}, events, torn=always, subsets=9, seed=5)] for _ in range(2))
    assert first == second


def test_file_events_are_atomic_unless_they_may_be_torn() -> None:
    events = [FileReplace("vmlinuz-b", b"kernel"), FileReplace("vmlinuz-b", None)]
    before = {"vmlinuz-b": b"old"}
    whole = [state.files.get("vmlinuz-b") for state in crash_states({}, events, files=before)]
    assert whole == [b"old", b"kernel", None]
    torn = [state.files.get("vmlinuz-b") for state in crash_states({}, events, files=before, torn=always)]
    assert torn == [b"old", b"", b"ker", b"kernel", None]


def test_recorder_keeps_the_order_over_devices_and_files() -> None:
    journal = Journal()
    disk = RecordingDevice(MemoryDevice(1024, name="disk"), journal)
    boot = RecordingDevice(MemoryDevice(1024), journal, name="boot")
    data = bytearray(b"one")
    disk.write_at(5, memoryview(data))
    data[:] = b"two"
    journal.replace_file("state", b"{}")
    boot.flush()
    assert journal.events == (Write("disk", 5, b"one"), FileReplace("state", b"{}"), Flush("boot"))
    assert disk.read_at(5, 3) == b"one"


def test_recorder_leaves_out_a_write_that_failed() -> None:
    journal = Journal()
    disk = RecordingDevice(FaultyDevice(MemoryDevice(1024), fail_at_write=0), journal)
    with pytest.raises(DeviceError):
        disk.write_at(0, b"x")
    assert journal.events == ()


def test_device_that_fails_once_works_afterwards() -> None:
    memory = MemoryDevice(1024)
    device = FaultyDevice(memory, fail_at_write=1, error_number=errno.ENOSPC, torn_bytes=2)
    device.write_at(0, b"aaaa")
    with pytest.raises(DeviceError) as caught:
        device.write_at(4, b"bbbb")
    device.write_at(8, b"cccc")
    assert caught.value.kind is Kind.NO_SPACE
    assert memory.content[:12] == b"aaaabb\0\0cccc"


def test_device_that_stopped_stays_off() -> None:
    device = FaultyDevice(MemoryDevice(1024), stop_at_flush=0)
    with pytest.raises(PowerCutError):
        device.flush()
    with pytest.raises(PowerCutError):
        device.read_at(0, 1)
    with pytest.raises(PowerCutError):
        device.write_at(0, b"x")
