"""The data of one operation: in memory if it is small, else in a temporary file."""

import os
import tempfile
from pathlib import Path
from typing import Final, Protocol

from update_agent.errors import DeviceError, Kind

MEMORY_BLOB_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger blob waits in a temporary file: it must be whole before its hash is known, and memory is bounded."""


class Blob(Protocol):
    """The data of one operation, its hash already checked."""

    @property
    def size_bytes(self) -> int:
        """Length."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""

    def close(self) -> None:
        """Give memory or space back."""


class MemoryBlob:
    """A blob that fits in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size_bytes(self) -> int:
        """Length."""
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        return self.data[offset : offset + length]

    def close(self) -> None:
        """Nothing to give back that the garbage collector does not."""


class SpooledBlob:
    """A blob in a temporary file without a name: gone when it is closed, or when the process dies.

    Every method raises `DeviceError` (no-space) when the file system fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size_bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd, name = tempfile.mkstemp(dir=folder, prefix="blob-")
            Path(name).unlink()
        except OSError as error:
            raise self._error(error) from error

    @property
    def size_bytes(self) -> int:
        """Length so far."""
        return self._size_bytes

    def append(self, data: bytes) -> None:
        """Add to the end."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, self._size_bytes)
                self._size_bytes += written
                view = view[written:]
        except OSError as error:
            raise self._error(error) from error

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Give the space back."""
        os.close(self._fd)

    def _error(self, error: OSError) -> DeviceError:
        return DeviceError(
            Kind.NO_SPACE,
            f"{self._folder}: cannot hold a large operation: {error.strerror}",
            hint="free some space there",
        )
