"""The folder of kernels in memory: files in place, and files that are being written beside their places.

A staged file is a device of fixed capacity, so that its writes and flushes are events of the journal like those of the
disk; its length is a small file `NAME.new` among the files in place, as a journalling file system keeps it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.devices import Journal, MemoryDevice, RecordingDevice
from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import BlockDevice, Region

CAPACITY_BYTES = 64 * 1024


@dataclass(kw_only=True)
class BootFolder:
    """Files by name, and the data of staged files by name.

    Attributes:
        files: shared with the node, so that a crash state holds all of them.
        staged: capacity behind each `NAME.new`.
        journal: what happened, if it is to be recorded.
    """

    files: dict[str, bytes]
    staged: dict[str, MemoryDevice] = field(default_factory=dict)
    journal: Journal | None = None

    def stage(self, path: Path) -> "MemoryStaged":
        """In place of `update_agent.host.staged.StagedFile`."""
        return MemoryStaged(self, path.name)


class MemoryStaged:
    """One file that is written beside its place."""

    def __init__(self, folder: BootFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._beside = f"{name}.new"

    @property
    def is_begun(self) -> bool:
        return self._beside in self._folder.files

    def require_space(self, size_bytes: int) -> None:
        if size_bytes > CAPACITY_BYTES:
            raise DeviceError(Kind.NO_SPACE, f"{self._beside}: expected {size_bytes} bytes free")

    def open(self, size_bytes: int) -> contextlib.AbstractContextManager[BlockDevice]:
        device = self._device()
        length = int(self._folder.files.get(self._beside, b"0"))
        if size_bytes > length:
            device.write_at(length, bytes(size_bytes - length))
            device.flush()
        self._set(self._beside, str(size_bytes).encode())
        return contextlib.nullcontext(Region(device, 0, size_bytes, name=self._beside))

    @contextlib.contextmanager
    def open_current(self) -> Iterator[BlockDevice]:
        if self._name not in self._folder.files:
            raise DeviceError(Kind.DEVICE_OPEN, f"{self._name}: no such file")
        yield MemoryDevice.of(self._folder.files[self._name], name=self._name)

    def trim(self, size_bytes: int) -> None:
        self._set(self._beside, str(size_bytes).encode())
        self._device().flush()

    def commit(self) -> None:
        self._set(self._name, self._device().read_at(0, int(self._folder.files[self._beside])))
        self._set(self._beside, None)

    def _device(self) -> BlockDevice:
        device = self._folder.staged.setdefault(self._beside, MemoryDevice(CAPACITY_BYTES, name=self._beside))
        journal = self._folder.journal
        return device if journal is None else RecordingDevice(device, journal, name=self._beside)

    def _set(self, name: str, data: bytes | None) -> None:
        if data is None:
            self._folder.files.pop(name, None)
        else:
            self._folder.files[name] = data
        if self._folder.journal is not None:
            self._folder.journal.replace_file(name, data)
