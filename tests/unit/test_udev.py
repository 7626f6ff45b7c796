from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pyudev

from update_agent.errors import DeviceError, Kind
from update_agent.host.udev import find_partition_node


class Attributes:
    """Of one device."""

    def __init__(self, number: int) -> None:
        self._number = number

    def asint(self, name: str) -> int:
        assert name == "partition"
        return self._number


@dataclass
class Partition:
    """As far as udev is asked about it."""

    number: int
    device_node: str | None

    @property
    def attributes(self) -> Attributes:
        return Attributes(self.number)


@dataclass
class Context:
    """Lists these partitions of any disk, or fails."""

    partitions: list[Partition] = field(default_factory=list)
    error: Exception | None = None

    def list_devices(self, **matches: object) -> Iterator[Partition]:
        assert matches["subsystem"] == "block"
        assert matches["DEVTYPE"] == "partition"
        if self.error is not None:
            raise self.error
        return iter(self.partitions)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    """A kernel with partitions 3 and 4 of every disk; libudev has no place for a double of its own."""
    context = Context([Partition(3, "/dev/vda3"), Partition(4, "/dev/vda4"), Partition(5, None)])
    monkeypatch.setattr(pyudev, "Context", lambda: context)
    monkeypatch.setattr(pyudev.Devices, "from_device_file", lambda _context, path: path)
    return context


@pytest.mark.parametrize(("number", "node"), [(3, Path("/dev/vda3")), (4, Path("/dev/vda4")), (5, None), (6, None)])
def test_find_partition_node_goes_by_the_number(context: Context, number: int, node: Path | None) -> None:
    assert context.partitions
    assert find_partition_node(Path("/dev/vda"), number) == node


@pytest.mark.parametrize("error", [OSError("no"), KeyError("partition"), ValueError("x")])
def test_find_partition_node_that_fails_is_our_error(context: Context, error: Exception) -> None:
    context.error = error
    with pytest.raises(DeviceError) as caught:
        find_partition_node(Path("/dev/vda"), 3)
    assert (caught.value.kind, caught.value.hint) == (Kind.DEVICE_OPEN, "is /sys mounted?")


@pytest.mark.parametrize("path", ["/nonexistent", __file__])
def test_find_partition_node_of_what_is_no_device_is_our_error(path: str) -> None:
    with pytest.raises(DeviceError) as caught:
        find_partition_node(Path(path), 1)
    assert caught.value.kind is Kind.DEVICE_OPEN
