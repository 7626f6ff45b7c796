"""A look at protobuf bytes before they are parsed: how many messages would they become?

Two bytes are enough for an empty message, and a parser makes a hundred or more out of them. So the messages are counted
first, in constant memory, and bytes that ask for too many are refused. Only structure is looked at, no value.

It also refuses what parsers do not agree about: that of protobuf 3.21 stops at field number 0 and calls it success, and
drops the bits of a tag beyond 32.

Encoding: protobuf.dev, "Encoding", "Message Structure".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from update_agent.errors import FormatError

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH_DELIMITED: Final = 2
_FIXED32: Final = 5
_VARINT_MAX_BYTES: Final = 10
_TAGS: Final = range(1 << 3, 1 << 32)
_MORE: Final = 0x80
"""Set in every byte of a number but its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A message type: what to call it in an error, how many are allowed, and the messages inside by field number.

    One without messages inside is counted, not looked into.
    """

    name: str
    max_count: int
    children: Mapping[int, "Shape"] = field(default_factory=dict)


Refuse = Callable[[str], FormatError]
"""Makes the error out of what is wrong."""


def check_counts(data: bytes, shape: Shape, *, max_fields: int, refuse: Refuse) -> None:
    """Refuse bytes that hold more messages of any shape, or more fields in all, than allowed.

    Shapes nest as deep as `shape` says, whatever the bytes; groups (retired from protobuf) are refused.

    Raises:
        FormatError: whatever `refuse` makes.
    """
    _Walk(data, max_fields=max_fields, refuse=refuse).message(0, len(data), shape)


class _Walk:
    """One pass over the bytes, with what is left of each allowance."""

    def __init__(self, data: bytes, *, max_fields: int, refuse: Refuse) -> None:
        self._data = data
        self._refuse = refuse
        self._max_fields = max_fields
        self._fields = 0
        self._counts: dict[str, int] = {}

    def message(self, position: int, end: int, shape: Shape) -> None:
        """Count what is in the message of `shape` between `position` and `end`."""
        data, children = self._data, shape.children
        while position < end:
            self._fields += 1
            if self._fields > self._max_fields:
                raise self._refuse(f"expected at most {self._max_fields} fields, got more")
            # Nearly every tag of a real manifest fits one byte; the call for the others costs more than the byte.
            tag = data[position]
            position += 1
            if tag >= _MORE:
                tag, position = self._varint(position - 1, end)
            if tag not in _TAGS:
                raise self._refuse(f"{tag >> 3} is no field number")
            if tag & 7 != _LENGTH_DELIMITED:
                position = self._skip(tag & 7, position, end)
                continue
            length, position = self._varint(position, end)
            if length > end - position:
                raise self._refuse("a field is longer than what holds it")
            child = children.get(tag >> 3)
            if child is not None:
                self._count(child)
                if child.children:
                    self.message(position, position + length, child)
            position += length

    def _count(self, shape: Shape) -> None:
        count = self._counts.get(shape.name, 0) + 1
        if count > shape.max_count:
            raise self._refuse(f"expected at most {shape.max_count} {shape.name}, got more")
        self._counts[shape.name] = count

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for at in range(position, min(position + _VARINT_MAX_BYTES, end)):
            byte = self._data[at]
            value |= (byte & 0x7F) << shift
            if byte < _MORE:
                return value, at + 1
            shift += 7
        raise self._refuse("a number does not end")

    def _skip(self, wire_type: int, position: int, end: int) -> int:
        if wire_type == _VARINT:
            return self._varint(position, end)[1]
        if wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise self._refuse(f"wire type {wire_type} is not in use")
        if position > end:
            raise self._refuse("a field is longer than what holds it")
        return position
