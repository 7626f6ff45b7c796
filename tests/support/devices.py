"""Block devices in memory: plain, failing, stopping, and recording what is written in which order."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import BlockDevice, Buffer, check_range


class MemoryDevice:
    """A device whose content is a bytearray; safe for threads that touch different ranges."""

    def __init__(self, size_bytes: int, *, name: str = "memory", content: bytes | bytearray = b"") -> None:
        """Make `size_bytes` zeroes, the first of them replaced by `content`."""
        if len(content) > size_bytes:
            raise ValueError(f"content of {len(content)} bytes does not fit into {size_bytes}")
        self._data = bytearray(size_bytes)
        self._data[: len(content)] = content
        self._name = name

    @classmethod
    def of(cls, content: bytes | bytearray, *, name: str = "memory") -> "MemoryDevice":
        """A device that holds exactly `content`."""
        return cls(len(content), name=name, content=content)

    @property
    def name(self) -> str:
        return self._name

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    @property
    def content(self) -> bytes:
        """A copy of everything."""
        return bytes(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        check_range(self, offset, length)
        return bytes(self._data[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        buffer[:] = self.read_at(offset, len(buffer))

    def write_at(self, offset: int, data: Buffer) -> None:
        check_range(self, offset, len(data))
        self._data[offset : offset + len(data)] = data

    def flush(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class Write:
    """`data` landed at byte `offset` of the device of that name."""

    device: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything written to the device before is durable."""

    device: str


@dataclass(frozen=True, slots=True)
class FileReplace:
    """A file was replaced atomically and durably; `data` is None when it was removed."""

    name: str
    data: bytes | None


Event = Write | Flush | FileReplace


class Journal:
    """What happened to several devices and files, in one order; safe for threads."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.RLock()

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything recorded so far."""
        with self._lock:
            return tuple(self._events)

    def append(self, event: Event) -> None:
        """Record one event after all others."""
        with self._lock:
            self._events.append(event)

    @contextmanager
    def recording(self, event: Event) -> Iterator[None]:
        """Do the act inside of the block; it is recorded if it succeeds, and nothing else comes between."""
        with self._lock:
            yield
            self._events.append(event)

    def replace_file(self, name: str, data: bytes | None) -> None:
        """Record that a state or kernel file now holds `data`, or is gone."""
        self.append(FileReplace(name, data))


class RecordingDevice:
    """Passes everything on to `device` and records its writes and flushes under its name."""

    def __init__(self, device: BlockDevice, journal: Journal, *, name: str | None = None) -> None:
        self._device = device
        self._journal = journal
        self._name = name or device.name

    @property
    def name(self) -> str:
        return self._name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        return self._device.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        self._device.read_into(offset, buffer, uncached=uncached)

    def write_at(self, offset: int, data: Buffer) -> None:
        with self._journal.recording(Write(self._name, offset, bytes(data))):
            self._device.write_at(offset, data)

    def flush(self) -> None:
        with self._journal.recording(Flush(self._name)):
            self._device.flush()


class PowerCutError(BaseException):
    """The machine is off: not an `Exception`, so that no handler of the code under test goes on after it."""


class FaultyDevice:
    """Passes everything on to `device` until the chosen write or flush.

    Writes and flushes are counted from 0, each on their own. With `fail_*`, that one call raises a
    `DeviceError` of `error_number`; with `stop_*` that call and every one after it raises
    `PowerCutError`. The first `torn_bytes` of a write that fails or stops still land.
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        fail_at_write: int | None = None,
        fail_at_flush: int | None = None,
        stop_at_write: int | None = None,
        stop_at_flush: int | None = None,
        fail_reads: bool = False,
        error_number: int = errno.EIO,
        torn_bytes: int = 0,
    ) -> None:
        self._device = device
        self._fail_at_write = fail_at_write
        self._fail_at_flush = fail_at_flush
        self._stop_at_write = stop_at_write
        self._stop_at_flush = stop_at_flush
        self._fail_reads = fail_reads
        self._error_number = error_number
        self._torn_bytes = torn_bytes
        self._is_stopped = False
        self._lock = threading.Lock()
        self.writes = 0
        self.flushes = 0

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    def _error(self, what: str) -> DeviceError:
        if self._error_number == errno.ENOSPC:
            return DeviceError(Kind.NO_SPACE, f"{self.name}: cannot {what}: no space left")
        return DeviceError(Kind.DEVICE_IO, f"{self.name}: cannot {what}: errno {self._error_number}")

    def _check_power(self) -> None:
        if self._is_stopped:
            raise PowerCutError

    def read_at(self, offset: int, length: int) -> bytes:
        self._check_power()
        if self._fail_reads:
            raise self._error("read")
        return self._device.read_at(offset, length)

    def read_into(self, offset: int, buffer: memoryview, *, uncached: bool = False) -> None:
        self._check_power()
        if self._fail_reads:
            raise self._error("read")
        self._device.read_into(offset, buffer, uncached=uncached)

    def write_at(self, offset: int, data: Buffer) -> None:
        with self._lock:
            self._check_power()
            number = self.writes
            self.writes += 1
            self._is_stopped = number == self._stop_at_write
        if number not in (self._fail_at_write, self._stop_at_write):
            self._device.write_at(offset, data)
            return
        if self._torn_bytes:
            self._device.write_at(offset, data[: self._torn_bytes])
        if self._is_stopped:
            raise PowerCutError
        raise self._error("write")

    def flush(self) -> None:
        with self._lock:
            self._check_power()
            number = self.flushes
            self.flushes += 1
            self._is_stopped = number == self._stop_at_flush
        if self._is_stopped:
            raise PowerCutError
        if number == self._fail_at_flush:
            raise self._error("flush")
        self._device.flush()
