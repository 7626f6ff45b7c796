"""Which blocks of the new image are in the old one, and where to look for what resembles the rest.

Compares content in units of one block, anywhere in the image: on an image that was built anew the unchanged files lie
elsewhere, so the same offset finds a quarter of what is there. Knows no file system. Decides only; `encode.py` acts.
"""

import bisect
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from update_agent.domain.encode import BLOCK_BYTES, CHUNK_BLOCKS, Piece, PieceKind
from update_agent.formats.manifest import ContentInfo, Extent
from update_agent.host.blockdev import BlockDevice

COPY_BLOCKS_MAX: Final = 4 * 1024 * 1024 // BLOCK_BYTES
"""A node reads the source of an operation before it writes: this bounds its memory."""

PATCH_BLOCKS_MAX: Final = 2 * 1024 * 1024 // BLOCK_BYTES
"""A patch finds more in a larger piece, but the node's memory and the builder's time grow with it."""

WINDOW_BLOCKS_MAX: Final = 6 * 1024 * 1024 // BLOCK_BYTES
"""Source of one patch: two guesses for a piece of the largest size, with their margins."""

GAP_BLOCKS_MAX: Final = 64 * 1024 // BLOCK_BYTES
"""Known blocks between two unknown runs that are patched along with them: cheaper than one more operation."""

MARGIN_BLOCKS: Final = 400 * 1024 // BLOCK_BYTES
"""How far similar bytes may have moved from where the neighbours say."""

_READ_BYTES: Final = 1024 * 1024
_DIGEST_BYTES: Final = 16  # enough to find candidates; copies are compared byte by byte before they are used
_ABSENT: Final = -1
_ZERO: Final = -2


def _digest(block: bytes | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST_BYTES).digest()


_ZERO_DIGEST: Final = _digest(bytes(BLOCK_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDigests:
    """What every block of an image contains, and the image as a whole."""

    digests: tuple[bytes, ...]
    content: ContentInfo

    @classmethod
    def of(cls, image: BlockDevice) -> "BlockDigests":
        """Read the whole of `image`, whose size is a multiple of the block.

        Raises:
            DeviceError: device-io.
        """
        digests: list[bytes] = []
        whole = hashlib.sha256()
        for offset in range(0, image.size_bytes, _READ_BYTES):
            data = memoryview(image.read_at(offset, min(_READ_BYTES, image.size_bytes - offset)))
            whole.update(data)
            digests.extend(_digest(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES))
        return cls(digests=tuple(digests), content=ContentInfo(size_bytes=image.size_bytes, sha256=whole.digest()))


def plan_delta(old: Sequence[bytes], new: Sequence[bytes]) -> tuple[Piece, ...]:
    """Cut the new image into pieces that say where to look in the old one.

    The pieces cover the new image from its first block to its last, in order, and depend on nothing but the arguments.

    Args:
        old: digest of every block of the old image.
        new: digest of every block of the new image.
    """
    sources = _match(old, new)
    windows = _Windows(old, sources)
    pieces: list[Piece] = []
    done = 0
    for start, end in _unknown_regions(sources):
        pieces += _known_pieces(sources, done, start)
        pieces += windows.pieces(start, end)
        done = end
    return (*pieces, *_known_pieces(sources, done, len(sources)))


def _match(old: Sequence[bytes], new: Sequence[bytes]) -> "array[int]":
    """Old block for every new block, or `_ABSENT`, or `_ZERO`.

    Of several candidates the one that goes on with the current run wins, then the one at the same place, then the
    first: long runs make few operations.
    """
    first: dict[bytes, int] = {}
    for block, digest in enumerate(old):
        first.setdefault(digest, block)
    sources = array("q")
    expected = 0
    for block, digest in enumerate(new):
        if digest == _ZERO_DIGEST:
            source = _ZERO
        elif expected < len(old) and old[expected] == digest:
            source = expected
        elif block < len(old) and old[block] == digest:
            source = block
        else:
            source = first.get(digest, _ABSENT)
        expected = (source if source >= 0 else expected) + 1
        sources.append(source)
    return sources


def _unknown_regions(sources: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of absent blocks as [start, end), joined over small gaps."""
    start = end = None
    for block, source in enumerate(sources):
        if source != _ABSENT:
            continue
        if start is None or end is None:
            start = block
        elif block - end > GAP_BLOCKS_MAX:
            yield start, end
            start = block
        end = block + 1
    if start is not None and end is not None:
        yield start, end


def _known_pieces(sources: Sequence[int], start: int, end: int) -> Iterator[Piece]:
    """Copies and zeros for [start, end), which has no absent block."""
    while start < end:
        is_zero = sources[start] == _ZERO
        limit = min(end, start + (CHUNK_BLOCKS if is_zero else COPY_BLOCKS_MAX))
        stop = start + 1
        while stop < limit and (sources[stop] == _ZERO) == is_zero:
            stop += 1
        yield Piece(
            start_block=start,
            num_blocks=stop - start,
            length_bytes=(stop - start) * BLOCK_BYTES,
            kind=PieceKind.WHOLE if is_zero else PieceKind.COPY,
            source=() if is_zero else _extents(sources[start:stop]),
        )
        start = stop


def _extents(blocks: Sequence[int]) -> tuple[Extent, ...]:
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([block, 1])
    return tuple(Extent(start_block=start, num_blocks=count) for start, count in runs)


class _Windows:
    """Guesses where in the old image something like a piece of the new one is."""

    def __init__(self, old: Sequence[bytes], sources: Sequence[int]) -> None:
        self._old = old
        self._sources = sources
        self._known = [block for block, source in enumerate(sources) if source >= 0]

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Cut the unknown region [start, end) evenly."""
        count = -(-(end - start) // PATCH_BLOCKS_MAX)
        step = -(-(end - start) // count)
        for piece_start in range(start, end, step):
            piece_end = min(end, piece_start + step)
            source = self._window(piece_start, piece_end)
            yield Piece(
                start_block=piece_start,
                num_blocks=piece_end - piece_start,
                length_bytes=(piece_end - piece_start) * BLOCK_BYTES,
                kind=PieceKind.PATCH if source else PieceKind.WHOLE,
                source=source,
            )

    def _window(self, start: int, end: int) -> tuple[Extent, ...]:
        """Blocks to patch from, in order; the likeliest guess comes first until the window is full."""
        chosen: set[int] = set()
        for guess_start, guess_end in self._guesses(start, end):
            for block in range(max(0, guess_start), min(len(self._old), guess_end)):
                if len(chosen) == WINDOW_BLOCKS_MAX:
                    break
                if self._is_useful(block):
                    chosen.add(block)
        return _extents(sorted(chosen))

    def _guesses(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        first = bisect.bisect_left(self._known, start)
        last = bisect.bisect_left(self._known, end)
        if first > 0:  # what goes on after the neighbour before
            before = self._known[first - 1]
            at = self._sources[before] + start - before
            yield at - MARGIN_BLOCKS, at + (end - start) + MARGIN_BLOCKS
        if last < len(self._known):  # what leads to the neighbour behind
            behind = self._known[last]
            at = self._sources[behind] - (behind - end)
            yield at - (end - start) - MARGIN_BLOCKS, at + MARGIN_BLOCKS
        for block in self._known[first:last]:
            at = self._sources[block]
            yield at - MARGIN_BLOCKS // 4, at + MARGIN_BLOCKS // 4
        if not self._known:
            yield start - MARGIN_BLOCKS, end + MARGIN_BLOCKS

    def _is_useful(self, block: int) -> bool:
        """Leave out zeros and repetitions: they hold nothing new, and long runs make bsdiff take quadratic time."""
        digest = self._old[block]
        return digest != _ZERO_DIGEST and (block == 0 or digest != self._old[block - 1])
