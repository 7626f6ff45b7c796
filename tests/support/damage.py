"""Devices that do not keep what they were given, or fail when read."""

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import BlockDevice, Buffer


class DamagingDevice:
    """Changes one bit of whatever is written over byte `at`."""

    def __init__(self, device: BlockDevice, *, at: int = 0) -> None:
        self._device = device
        self._at = at

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        return self._device.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        self._device.read_into(offset, buffer, uncached=uncached)

    def write_at(self, offset: int, data: Buffer) -> None:
        changed = bytearray(data)
        if offset <= self._at < offset + len(changed):
            changed[self._at - offset] ^= 1
        self._device.write_at(offset, changed)

    def flush(self) -> None:
        self._device.flush()


class FailingReadDevice:
    """Fails the read of that number, counted from 0 over both kinds of reads."""

    def __init__(self, device: BlockDevice, *, fail_at_read: int | None = None) -> None:
        self._device = device
        self._fail_at_read = fail_at_read
        self.reads = 0

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    def _count(self) -> None:
        number = self.reads
        self.reads += 1
        if number == self._fail_at_read:
            raise DeviceError(Kind.DEVICE_IO, f"{self.name}: cannot read")

    def read_at(self, offset: int, length: int) -> bytes:
        self._count()
        return self._device.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        self._count()
        self._device.read_into(offset, buffer, uncached=uncached)

    def write_at(self, offset: int, data: Buffer) -> None:
        self._device.write_at(offset, data)

    def flush(self) -> None:
        self._device.flush()
