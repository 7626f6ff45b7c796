"""What a fuzz target is, and how inputs with several parts are written down as bytes."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One function that has to survive any bytes.

    Attributes:
        run: takes an input; whatever it raises is a finding, so it lets pass what is documented.
        seeds: makes the inputs to start from, each of which does something of its own.
        mutate: changes an input by knowing its form; without it, bytes are changed blindly.
        max_bytes: no input is longer.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Callable[[bytes, random.Random], bytes] | None = None
    max_bytes: int = 1 << 16


_LENGTH_BYTES = 3


def join_parts(parts: Sequence[bytes]) -> bytes:
    """All parts but the last behind their length, in three bytes; the last one takes what is left."""
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in parts[:-1]) + parts[-1]


def split_parts(data: bytes, count: int) -> list[bytes]:
    """`count` parts out of any bytes: what `join_parts` was given, if it made them."""
    parts = []
    for _ in range(count - 1):
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        parts.append(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        data = data[_LENGTH_BYTES + length :]
    return [*parts, data]
