"""Reading back what a device really holds."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from update_agent.domain.progress import CancelToken, Phase, Progress, ProgressSink
from update_agent.errors import Kind, VerificationError
from update_agent.formats.manifest import ContentInfo, PartName
from update_agent.host.blockdev import BlockDevice, aligned_buffer

_PIECE_BYTES: Final = 512 * 1024
_BUFFERS: Final = 3
"""One being hashed, one being read, one waiting."""

_MISMATCH_KINDS: Final = {
    PartName.USR: Kind.PARTITION_HASH,
    PartName.KERNEL: Kind.KERNEL_HASH,
    PartName.PCR_POLICY: Kind.PCR_POLICY_HASH,
}


def hash_device(
    device: BlockDevice, size_bytes: int, *, phase: Phase, progress: ProgressSink, cancel: CancelToken
) -> bytes:
    """SHA-256 of the first `size_bytes`, read from the medium where the device allows it.

    Reading and hashing overlap; memory is a few MiB.

    Raises:
        DeviceError: from the device.
        InterruptedByUserError: interrupted.
    """
    found = hashlib.sha256()
    buffers = [aligned_buffer(_PIECE_BYTES) for _ in range(_BUFFERS)]

    def read(number: int) -> memoryview:
        offset = number * _PIECE_BYTES
        view = buffers[number % _BUFFERS][: min(_PIECE_BYTES, size_bytes - offset)]
        device.read_into(offset, view, uncached=True)
        return view

    count = -(-size_bytes // _PIECE_BYTES)
    with ThreadPoolExecutor(1, "readback") as reader:
        ahead = [reader.submit(read, number) for number in range(min(_BUFFERS - 1, count))]
        for number in range(count):
            cancel.raise_if_cancelled()
            view = ahead.pop(0).result()
            if number + _BUFFERS - 1 < count:
                ahead.append(reader.submit(read, number + _BUFFERS - 1))
            found.update(view)
            done = min((number + 1) * _PIECE_BYTES, size_bytes)
            progress(Progress(phase=phase, done_bytes=done, total_bytes=size_bytes))
    return found.digest()


def verify_content(
    device: BlockDevice, expected: ContentInfo, part: PartName, *, progress: ProgressSink, cancel: CancelToken
) -> None:
    """Refuse a device that does not hold what the manifest promises.

    Raises:
        VerificationError: partition-hash, kernel-hash, pcr-policy-hash.
    """
    found = hash_device(device, expected.size_bytes, phase=Phase.VERIFYING, progress=progress, cancel=cancel)
    if found != expected.sha256:
        raise VerificationError(
            _MISMATCH_KINDS[part],
            f"{device.name}: expected content with SHA-256 {expected.sha256.hex()}, read back {found.hex()}",
            hint="the medium may be failing; run the install again, and check the disk if it happens twice",
        )


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
