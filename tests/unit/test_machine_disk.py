"""Disks of the kernel, which tests without special devices do not have: a file stands in for each node."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import OLD, Bench, make_bench
from update_agent.api import machine
from update_agent.api.machine import Machine, open_machine
from update_agent.domain.slots import SlotName
from update_agent.errors import DeviceError, Kind, RefusedError
from update_agent.host import udev
from update_agent.host.blockdev import FileDevice


class BlockFile(FileDevice):
    """A file that says it is a block device with sectors of 512 bytes; a node named busy cannot be opened."""

    def __init__(self, path: Path, *, writable: bool = False, exclusive: bool = False) -> None:
        if path.name == "busy":
            assert exclusive
            raise DeviceError(Kind.DEVICE_OPEN, f"{path}: cannot open", hint="unmount it") from OSError(errno.EBUSY, "")
        super().__init__(path, writable=writable, exclusive=exclusive)

    @property
    def is_block(self) -> bool:
        return True

    @property
    def logical_sector_bytes(self) -> int:
        return 512


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture
def block_machine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(machine, "FileDevice", BlockFile)
    with open_machine(bench.image, writable=True, state_folder=bench.folder / "state") as opened:
        yield opened


def use_node(monkeypatch: pytest.MonkeyPatch, node: Path | None) -> None:
    monkeypatch.setattr(udev, "find_partition_node", lambda _disk, number: node if number == 4 else None)


def test_target_of_a_kernel_disk_is_its_own_node(
    block_machine: Machine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_node(monkeypatch, bench.put("node", bytes(4096)))
    with block_machine.open_target(block_machine.slots.b) as device:
        device.write_at(0, b"new")
    assert (bench.folder / "node").read_bytes()[:3] == b"new"
    assert bench.content("B")[:3] == bytes(3)


def test_target_without_a_node_is_a_range_of_the_disk(
    block_machine: Machine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_node(monkeypatch, None)
    with block_machine.open_target(block_machine.slots.b) as device:
        device.write_at(0, b"new")
    assert bench.content("B")[:3] == b"new"


def test_target_in_use_is_refused(block_machine: Machine, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    use_node(monkeypatch, bench.folder / "busy")
    with pytest.raises(RefusedError) as caught:
        block_machine.open_target(block_machine.slots.b)
    assert (caught.value.kind, caught.value.hint) == (Kind.TARGET_BUSY, "unmount it")


def test_target_that_cannot_be_opened_for_another_reason_is_not_called_busy(
    block_machine: Machine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_node(monkeypatch, bench.folder / "missing")
    with pytest.raises(DeviceError) as caught:
        block_machine.open_target(block_machine.slots.b)
    assert caught.value.kind is Kind.DEVICE_OPEN


def test_source_is_a_range_of_the_disk(block_machine: Machine) -> None:
    with block_machine.open_source(block_machine.slots.by_name(SlotName.A)) as device:
        assert device.read_at(0, 16) == OLD[:16]


def test_state_of_a_kernel_disk_is_on_the_node_by_its_guid(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All disks of a node share that folder, and disks of one image share the GUIDs of their slots."""
    monkeypatch.setattr(machine, "FileDevice", BlockFile)
    with open_machine(bench.image, writable=False) as opened:
        guid = str(opened.disk.disk_guid)
        assert opened.state_folder == Path("/var/lib/update-agent/disks") / guid
