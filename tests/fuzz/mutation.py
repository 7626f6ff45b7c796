"""Random changes: of bytes, and of protobuf messages without breaking their form."""

import random
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

_BASES = (1, 16, 512, 4096, *(1 << bits for bits in (31, 32, 63, 64)))
_NUMBERS = tuple(base + step for base in _BASES for step in (-1, 0, 1))
_LONGEST_RUN = 64


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change one to four places of `data`."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_EDITS)(changed, rng)
    return bytes(changed)


def _run(data: bytearray, rng: random.Random) -> slice:
    start = rng.randint(0, len(data))
    return slice(start, start + rng.randint(1, rng.choice((1, 4, _LONGEST_RUN))))


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.randbytes(rng.randint(1, 8))


def _delete(data: bytearray, rng: random.Random) -> None:
    del data[_run(data, rng)]


def _double(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = data[_run(data, rng)]


def _copy(data: bytearray, rng: random.Random) -> None:
    piece = data[_run(data, rng)]
    at = rng.randint(0, len(data))
    data[at : at + len(piece)] = piece


def _number(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 2, 4, 8))
    at = rng.randint(0, len(data))
    number = rng.choice(_NUMBERS) % (1 << 8 * width)
    data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randint(0, len(data)) :]


_EDITS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _set, _set, _insert, _delete, _double, _copy, _number, _number),
    _cut,
)


def mutate_message(message: Message, rng: random.Random) -> None:
    """Change one to three fields, anywhere in `message`: numbers, bytes, how many of what there are, in which order."""
    for _ in range(rng.randint(1, 3)):
        inner = rng.choice(_messages(message))
        _mutate_field(inner, rng.choice(list(inner.DESCRIPTOR.fields_by_name)), rng)


def _messages(message: Message) -> list[Message]:
    """The message and those in it, twenty of each kind at most."""
    found = [message]
    for _, value in message.ListFields():
        if isinstance(value, Message):
            found += _messages(value)
        elif hasattr(value, "add"):
            for each in value[:20]:
                found += _messages(each)
    return found


def _mutate_field(message: Message, name: str, rng: random.Random) -> None:
    value = getattr(message, name)
    if hasattr(value, "add"):
        _mutate_list(value, rng)
    elif rng.random() < 0.1:
        message.ClearField(name)
    elif isinstance(value, Message):
        value.SetInParent()
    elif isinstance(value, bytes):
        setattr(message, name, mutate_bytes(value, rng))
    else:
        _mutate_number(message, name, value, rng)


def _mutate_list(values: Any, rng: random.Random) -> None:
    choice = rng.randrange(4)
    if not values or choice == 0:
        values.add()
        return
    picked = rng.randrange(len(values))
    if choice == 1:
        values.add().CopyFrom(values[picked])
    elif choice == 2:
        del values[picked]
    else:
        values.append(values.pop(picked))


def _mutate_number(message: Message, name: str, value: int, rng: random.Random) -> None:
    near = (value + 1, abs(value - 1), value * 2, value // 2)
    changed = rng.choice((*near, rng.choice(_NUMBERS), rng.randrange(16), rng.getrandbits(64)))
    try:
        setattr(message, name, changed)
    except ValueError:  # beyond the range of the field
        setattr(message, name, changed & 0xFFFFFFFF)
