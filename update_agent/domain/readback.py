"""Reading back what a device really holds."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final

from update_agent.domain.progress import CancelToken, Phase, Progress, ProgressSink
from update_agent.errors import Kind, VerificationError
from update_agent.formats.manifest import ContentInfo, PartName
from update_agent.host.blockdev import BlockDevice, aligned_buffer

_PIECE_BYTES: Final = 512 * 1024
_READERS: Final = 2
"""Reads under way: past the page cache nobody reads ahead for us, and one at a time halves the rate of a disk."""

_BUFFERS: Final = _READERS + 1
"""One more is being hashed."""

_JOB_BYTES: Final = 16 * 1024 * 1024
"""How much is read between two looks at progress and cancellation."""

_MISMATCH_KINDS: Final = {
    PartName.USR: Kind.PARTITION_HASH,
    PartName.KERNEL: Kind.KERNEL_HASH,
    PartName.PCR_POLICY: Kind.PCR_POLICY_HASH,
}


class ReadbackHash:
    """SHA-256 of a device from its first byte on, read from the medium where the device allows it.

    May run behind whoever writes the device: what is promised never to change any more is hashed in the background.
    Reading and hashing overlap; memory is a few buffers.
    """

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._hash = hashlib.sha256()
        self._buffers = [aligned_buffer(_PIECE_BYTES) for _ in range(_BUFFERS)]
        self._hasher = ThreadPoolExecutor(1, "readback-hash")
        self._reader = ThreadPoolExecutor(_READERS, "readback-read")
        self._jobs: deque[Future[int]] = deque()
        self._promised_bytes = 0

    def advance(self, end: int) -> None:
        """Promise that the bytes before `end` are flushed and stay as they are; they are hashed in the background."""
        self._start(end - end % _PIECE_BYTES)  # reads past the page cache want round offsets

    def _start(self, end: int) -> None:
        while self._promised_bytes < end:
            start, self._promised_bytes = self._promised_bytes, min(self._promised_bytes + _JOB_BYTES, end)
            self._jobs.append(self._hasher.submit(self._take, start, self._promised_bytes))

    def finish(self, size_bytes: int, *, phase: Phase, progress: ProgressSink, cancel: CancelToken) -> bytes:
        """The hash of the first `size_bytes`, none of which changes any more.

        Raises:
            DeviceError: from the device, also from what was read in the background.
            InterruptedByUserError: interrupted.
        """
        self._start(size_bytes)
        while self._jobs:
            done = self._jobs.popleft().result()
            progress(Progress(phase=phase, done_bytes=done, total_bytes=size_bytes))
            cancel.raise_if_cancelled()
        return self._hash.digest()

    def close(self) -> None:
        """End the threads, at most one job later."""
        self._hasher.shutdown(cancel_futures=True)
        self._reader.shutdown(cancel_futures=True)

    def _take(self, start: int, end: int) -> int:
        """Hash the bytes from `start` to `end`; gives `end`."""
        offsets = range(start, end, _PIECE_BYTES)
        ahead = deque(self._read_later(offset, end) for offset in offsets[:_READERS])
        for number in range(len(offsets)):
            view = ahead.popleft().result()
            ahead.extend(self._read_later(offset, end) for offset in offsets[number + _READERS :][:1])
            self._hash.update(view)
        return end

    def _read_later(self, offset: int, end: int) -> Future[memoryview]:
        buffer = self._buffers[offset // _PIECE_BYTES % _BUFFERS]
        return self._reader.submit(self._read, offset, buffer[: min(_PIECE_BYTES, end - offset)])

    def _read(self, offset: int, view: memoryview) -> memoryview:
        self._device.read_into(offset, view, uncached=True)
        return view


def hash_device(
    device: BlockDevice, size_bytes: int, *, phase: Phase, progress: ProgressSink, cancel: CancelToken
) -> bytes:
    """SHA-256 of the first `size_bytes`, read from the medium where the device allows it.

    Raises:
        DeviceError: from the device.
        InterruptedByUserError: interrupted.
    """
    with closing(ReadbackHash(device)) as readback:
        return readback.finish(size_bytes, phase=phase, progress=progress, cancel=cancel)


def check_content(found: bytes, expected: ContentInfo, part: PartName, name: str) -> None:
    """Refuse a hash that is not the one the manifest promises for the part.

    Raises:
        VerificationError: partition-hash, kernel-hash, pcr-policy-hash.
    """
    if found != expected.sha256:
        raise VerificationError(
            _MISMATCH_KINDS[part],
            f"{name}: expected content with SHA-256 {expected.sha256.hex()}, read back {found.hex()}",
            hint="the medium may be failing; run the install again, and check the disk if it happens twice",
        )


def verify_content(
    device: BlockDevice, expected: ContentInfo, part: PartName, *, progress: ProgressSink, cancel: CancelToken
) -> None:
    """Refuse a device that does not hold what the manifest promises.

    Raises:
        VerificationError: partition-hash, kernel-hash, pcr-policy-hash.
    """
    found = hash_device(device, expected.size_bytes, phase=Phase.VERIFYING, progress=progress, cancel=cancel)
    check_content(found, expected, part, device.name)


def verify_source(device: BlockDevice, expected: ContentInfo, *, progress: ProgressSink, cancel: CancelToken) -> None:
    """Refuse an old content that a delta was not made for, before anything is changed.

    Raises:
        VerificationError: source-hash.
    """
    if expected.size_bytes <= device.size_bytes:
        found = hash_device(device, expected.size_bytes, phase=Phase.CHECKING, progress=progress, cancel=cancel)
        if found == expected.sha256:
            return
    raise VerificationError(
        Kind.SOURCE_HASH,
        f"{device.name}: expected the release that the delta was made from ({expected.size_bytes} bytes, SHA-256 "
        f"{expected.sha256.hex()}), found another content",
        hint="install a full payload",
    )
