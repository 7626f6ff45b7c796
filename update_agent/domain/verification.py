"""Comparing what the targets really hold with the manifest, most of it while the rest is still on its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from update_agent.domain.apply import has_in_place
from update_agent.domain.progress import CancelToken, CombinedProgress, Phase, ProgressSink
from update_agent.domain.readback import ReadbackHash, check_content
from update_agent.domain.targets import PartTarget, flush_targets
from update_agent.formats.manifest import ContentInfo, Manifest, Part, PartName
from update_agent.host.blockdev import BlockDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    device: BlockDevice
    part: PartName
    new: ContentInfo
    readback: ReadbackHash
    first_operation: int
    prefixes: tuple[int, ...]


class Verification:
    """Reads every target back past the page cache, behind the operations that write it."""

    def __init__(self, manifest: Manifest, targets: Sequence[PartTarget]) -> None:
        counts = (len(part.operations) for part in manifest.parts)
        starts = dict(zip((part.name for part in manifest.parts), accumulate(counts, initial=0), strict=False))
        self._targets = targets
        self._watched = tuple(
            _Watched(
                device=target.device,
                part=target.part.name,
                new=target.new,
                readback=ReadbackHash(target.device),
                first_operation=starts[target.part.name],
                prefixes=written_prefixes(target.part, manifest.block_size),
            )
            for target in targets
            if target.device is not None
        )

    def note_flushed(self, next_operation: int) -> None:
        """Everything before that operation, counted over all parts, is on the medium."""
        for watched in self._watched:
            done = min(max(next_operation - watched.first_operation, 0), len(watched.prefixes) - 1)
            watched.readback.advance(min(watched.prefixes[done], watched.new.size_bytes))

    def finish(self, *, progress: ProgressSink, cancel: CancelToken) -> None:
        """Flush every target, read the rest back and compare.

        Raises:
            VerificationError: partition-hash, kernel-hash, pcr-policy-hash.
            DeviceError: from the devices.
            InterruptedByUserError: interrupted.
        """
        flush_targets(self._targets)
        combined = CombinedProgress(progress, sum(watched.new.size_bytes for watched in self._watched))
        for watched in self._watched:
            found = watched.readback.finish(
                watched.new.size_bytes, phase=Phase.VERIFYING, progress=combined, cancel=cancel
            )
            check_content(found, watched.new, watched.part, watched.device.name)

    def close(self) -> None:
        """End the threads."""
        for watched in self._watched:
            watched.readback.close()


def written_prefixes(part: Part, block_size: int) -> tuple[int, ...]:
    """For 0, 1, ... operations done: how many bytes from the start of the part have their final content.

    Parts that are changed in place have none before their end: any operation may write anywhere again.
    """
    if has_in_place(part):
        return (0,)
    prefixes, done, scattered = [0], 0, dict[int, int]()
    for operation in part.operations:
        for extent in operation.dst_extents:
            scattered[extent.start_block] = extent.start_block + extent.num_blocks
        while done in scattered:
            done = scattered.pop(done)
        prefixes.append(done * block_size)
    return tuple(prefixes)
