"""Patches: any bytes, and well-packed blocks that say the wrong thing, compared with a second implementation."""

import bz2
import random
from collections.abc import Iterator

import bsdiff4

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target, join_parts, split_parts
from update_agent.errors import FormatError
from update_agent.formats.bsdiff import HEADER_BYTES, MAGIC, apply_patch

_NEW_BYTES_MAX = 20_000
_RAW, _PACKED = 0, 1
"""First byte of an input: the patch as it is, or new length and blocks that are packed into one first."""


def _run(data: bytes) -> None:
    kind, old, *rest = data[0] % 2 if data else 0, *split_parts(data[1:], 2)
    patch = rest[0] if kind == _RAW else _pack(rest[0])
    try:
        new = _applied(old, patch)
    except FormatError:
        return
    assert len(new) == _number(patch[24:32])
    if kind == _PACKED:
        _, control, diff, extra = split_parts(rest[0], 4)
        assert new == _expected(old, len(new), control, diff, extra)


def _applied(old: bytes, patch: bytes) -> bytes:
    def read(data: bytes, offset: int, length: int) -> bytes:
        assert length >= 0
        assert 0 <= offset <= offset + length <= len(data)
        return data[offset : offset + length]

    new = bytearray()
    for piece in apply_patch(
        read_patch=lambda offset, length: read(patch, offset, length),
        patch_bytes=len(patch),
        read_old=lambda offset, length: read(old, offset, length),
        old_bytes=len(old),
        new_bytes_max=_NEW_BYTES_MAX,
    ):
        assert len(piece) <= 65536
        new += piece
        assert len(new) <= _NEW_BYTES_MAX
    return bytes(new)


def _expected(old: bytes, new_bytes: int, control: bytes, diff: bytes, extra: bytes) -> bytes:
    """What bsdiff's description says, byte by byte."""
    new = bytearray()
    position = diff_at = extra_at = triple = 0
    while len(new) < new_bytes:
        add, copy, seek = (_number(control[triple + at : triple + at + 8]) for at in (0, 8, 16))
        triple += 24
        for at in range(add):
            old_byte = old[position + at] if 0 <= position + at < len(old) else 0
            new.append((diff[diff_at + at] + old_byte) % 256)
        new += extra[extra_at : extra_at + copy]
        diff_at, extra_at, position = diff_at + add, extra_at + copy, position + add + seek
    return bytes(new)


def _number(data: bytes) -> int:
    sign = -1 if data[7] & 0x80 else 1
    return sign * int.from_bytes(data[:7] + bytes([data[7] & 0x7F]), "little")


def _pack(data: bytes) -> bytes:
    new_bytes, *blocks = split_parts(data, 4)
    control, diff, extra = (bz2.compress(block, 1) for block in blocks)
    lengths = len(control).to_bytes(8, "little") + len(diff).to_bytes(8, "little")
    return MAGIC + lengths + new_bytes[:8].ljust(8, b"\0") + control + diff + extra


def _seeds() -> Iterator[bytes]:
    old = bytes(range(200)) * 6
    for new in (b"", b"short", old[300:] + b"more" + old[:200], bytes(2000)):
        patch = bsdiff4.diff(old, new)
        yield bytes([_RAW]) + join_parts((old, patch))
        control_bytes, diff_bytes = (_number(patch[at : at + 8]) for at in (8, 16))
        diff_at, extra_at = HEADER_BYTES + control_bytes, HEADER_BYTES + control_bytes + diff_bytes
        blocks = (patch[HEADER_BYTES:diff_at], patch[diff_at:extra_at], patch[extra_at:])
        unpacked = join_parts((patch[24:32], *map(bz2.decompress, blocks)))
        yield bytes([_PACKED]) + join_parts((old, unpacked))
    back = 1 << 63
    for new_bytes, triples in (
        (11, (4, 0, 1 << 62, 4, 0, back | 1 << 62, 0, 3, 0)),
        (11, (4, 0, back | 6, 4, 3, 0)),  # from two bytes before the start
        (11, (0, 3, 1198, 8, 0, 0)),  # to beyond the end
        (10, (8, 3, 0)),
        (2, (0, 3, 0)),
    ):
        control = b"".join(number.to_bytes(8, "little") for number in triples)
        yield bytes([_PACKED]) + join_parts(
            (old, join_parts((new_bytes.to_bytes(8, "little"), control, bytes(8), b"abc")))
        )


def _mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3 or not data or data[0] % 2 == _RAW:
        return mutate_bytes(data, rng)
    old, rest = split_parts(data[1:], 2)
    parts = split_parts(rest, 4)
    chosen = rng.choice((0, 1, 1, 1, 2, 3))
    parts[chosen] = mutate_bytes(parts[chosen], rng)
    return data[:1] + join_parts((old, join_parts(parts)))


TARGETS = {"bsdiff": Target(run=_run, seeds=_seeds, mutate=_mutate, max_bytes=8192)}
