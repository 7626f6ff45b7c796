"""Where a payload's bytes come from: the protocol the installer reads from, and a local file."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from update_agent.errors import ConfigurationError, DeviceError, Kind, VerificationError

CHUNK_BYTES: Final = 1 << 20
"""No chunk is longer."""


class PayloadSource(Protocol):
    """The bytes of one payload, from any offset on."""

    @property
    def name(self) -> str:
        """What a person calls it, without query and credentials."""

    @property
    def size_bytes(self) -> int | None:
        """How long the payload is, if known; over HTTP often only after the first bytes of `open`."""

    def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
        """Chunks of 1 byte to 1 MiB from `offset` to the end of the payload, or to byte `end` if that comes first.

        Retries and other places to get the same bytes happen inside. Closing the generator ends the transfer.

        Raises:
            TransferError, VerificationError, DeviceError: while iterating.
        """

    def close(self) -> None:
        """Give back connections and file descriptors."""


class FileSource:
    """A payload in a regular file; it must not become shorter while it is read."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            ConfigurationError: usage, when there is no such readable regular file.
        """
        self._path = path
        try:
            # O_NONBLOCK: opening a FIFO would wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigurationError(
                Kind.USAGE, f"{path}: cannot open: {os.strerror(error.errno or errno.EIO)}"
            ) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise ConfigurationError(Kind.USAGE, f"{path}: expected a regular file, got something else")
        self._size_bytes = status.st_size
        self._is_open = True

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    @property
    def size_bytes(self) -> int:
        """The size when the file was opened."""
        return self._size_bytes

    def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
        """Chunks of 1 MiB, the last one shorter.

        Raises:
            DeviceError: device-io.
            VerificationError: payload-changed, when the file is shorter than it was.
        """
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._fd, offset, 0, os.POSIX_FADV_SEQUENTIAL)
        position = offset
        stop = self._size_bytes if end is None else min(end, self._size_bytes)
        while position < stop:
            chunk = self._read(position, min(CHUNK_BYTES, stop - position))
            position += len(chunk)
            yield chunk

    def _read(self, position: int, wanted: int) -> bytes:
        try:
            chunk = os.pread(self._fd, wanted, position)
        except OSError as error:
            raise DeviceError(
                Kind.DEVICE_IO, f"{self._path}: cannot read: {os.strerror(error.errno or errno.EIO)}"
            ) from error
        if not chunk:
            raise VerificationError(
                Kind.PAYLOAD_CHANGED,
                f"{self._path}: expected {self._size_bytes} bytes, the file now ends at {position}",
                hint="wait until nothing writes to the file any more, then try again",
            )
        return chunk

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        if self._is_open:
            self._is_open = False
            os.close(self._fd)
