"""Every write, flush and read of an install fails once: our error, what ran still boots, and the next run completes."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import firmware
from tests.support.damage import FailingReadDevice
from tests.support.deltas import DeltaScript
from tests.support.devices import FaultyDevice, MemoryDevice
from tests.support.nodes import CHECKPOINT, MemoryFile, Node, make_node
from tests.support.payloads import PayloadMaker
from update_agent.domain.slots import SlotName
from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import BlockDevice
from update_agent.host.disk import GptDisk

USR_BYTES = 32 * 1024
BLOCK = 1024
OLD = random.Random(1).randbytes(USR_BYTES)
NEW = random.Random(2).randbytes(USR_BYTES)


def in_place() -> PayloadMaker:
    script = DeltaScript(OLD, block_size=BLOCK, in_place=True)
    script.copy([(0, 8)], [(4, 8)])
    script.copy([(20, 4)], [(0, 4)])
    script.patch([(24, 4)], [(20, 4)], NEW[: 4 * BLOCK])
    return PayloadMaker(usr=bytes(script.content), old_usr=OLD, operations=script.steps, major=1, block_size=BLOCK)


def from_source() -> PayloadMaker:
    script = DeltaScript(OLD, block_size=BLOCK)
    script.copy([(0, 16)], [(16, 16)])
    script.patch([(8, 16)], [(0, 16)], NEW[: 16 * BLOCK])
    return PayloadMaker(usr=bytes(script.content), old_usr=OLD, operations=script.steps, block_size=BLOCK)


PAYLOADS: dict[str, PayloadMaker] = {
    "full": PayloadMaker(usr=NEW, op_bytes=4096),
    "v1-in-place": in_place(),
    "v2-delta": from_source(),
}

Wrap = Callable[[BlockDevice, int | None], FaultyDevice | FailingReadDevice]

FAULTS: dict[str, Wrap] = {
    "write": lambda device, number: FaultyDevice(device, fail_at_write=number),
    "torn-write": lambda device, number: FaultyDevice(device, fail_at_write=number, torn_bytes=512),
    "full-disk": lambda device, number: FaultyDevice(device, fail_at_write=number, error_number=errno.ENOSPC),
    "flush": lambda device, number: FaultyDevice(device, fail_at_flush=number),
    "read": lambda device, number: FailingReadDevice(device, fail_at_read=number),
}


def new_node(folder: Path) -> tuple[Node, MemoryDevice]:
    node = make_node(folder, usr_bytes=USR_BYTES, content_a=OLD)
    node.checkpoint_interval_bytes = 8192
    device = node.device
    assert isinstance(device, MemoryDevice)
    return node, device


def count_calls(wrap: Wrap, payload: bytes, folder: Path, workers: int) -> int:
    node, device = new_node(folder)
    wrapped = wrap(device, None)
    node.device = wrapped
    node.install(payload, workers=workers)
    if isinstance(wrapped, FailingReadDevice):
        return wrapped.reads
    return wrapped.flushes if wrap is FAULTS["flush"] else wrapped.writes


def check_boot(device: MemoryDevice, new: bytes) -> None:
    chosen = firmware.choose(device.content)
    assert chosen is not None
    known = {"USR-A": OLD, "USR-B": new}
    assert device.content[chosen.start : chosen.end] == known[chosen.label]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_fault_at_any_call_is_our_error_and_next_run_completes(
    tmp_path: Path, name: str, fault: str, workers: int
) -> None:
    maker, wrap = PAYLOADS[name], FAULTS[fault]
    payload = maker.make()
    calls = count_calls(wrap, payload, tmp_path, workers)
    assert calls > 4
    for number in range(calls):
        node, device = new_node(tmp_path)
        node.device = wrap(device, number)
        with pytest.raises(DeviceError) as caught:
            node.install(payload, workers=workers)
        assert caught.value.kind in {Kind.DEVICE_IO, Kind.NO_SPACE}, number
        check_boot(device, maker.usr)
        assert device.read_at(node_slot_start(device), USR_BYTES) == OLD, number
        node.device = device
        node.install(payload, workers=workers)
        assert node.content(SlotName.B) == maker.usr, number
        assert node.next_boot() is SlotName.B
        assert GptDisk(device).problems == ()
        assert CHECKPOINT not in node.files


def node_slot_start(device: MemoryDevice) -> int:
    entries = firmware.read_entries(device.content) or []
    return next(entry.start for entry in entries if entry.label == "USR-A")


@pytest.mark.parametrize("name", PAYLOADS)
def test_state_file_failing_at_any_change_is_our_error_and_next_run_completes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = PAYLOADS[name]
    real_replace, real_remove = MemoryFile.replace, MemoryFile.remove
    calls = 0
    fail_at: int | None = None

    def count() -> None:
        nonlocal calls
        number, calls = calls, calls + 1
        if number == fail_at:
            raise DeviceError(Kind.STATE_FILE, "state: cannot write")

    def replace(self: MemoryFile, data: bytes) -> None:
        count()
        real_replace(self, data)

    def remove(self: MemoryFile) -> None:
        count()
        real_remove(self)

    monkeypatch.setattr(MemoryFile, "replace", replace)
    monkeypatch.setattr(MemoryFile, "remove", remove)
    payload = maker.make()
    new_node(tmp_path)[0].install(payload)
    for number in range(calls):
        node, device = new_node(tmp_path)
        calls, fail_at = 0, number
        with pytest.raises(DeviceError) as caught:
            node.install(payload)
        assert caught.value.kind is Kind.STATE_FILE
        check_boot(device, maker.usr)
        fail_at = None
        node.install(payload)
        assert node.content(SlotName.B) == maker.usr
        assert node.next_boot() is SlotName.B
