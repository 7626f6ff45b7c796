"""Version numbers of releases, and which of two is newer.

Semantic Versioning 2.0.0, item 11, for any number of dotted components from 1 to 8: image builders number with two
("24.04"), three ("4152.2.1") and four ("2.1.0.7") of them, and with dates ("2026.01.05").
"""

import functools
import re
from dataclasses import dataclass, field
from typing import Final, Self

from update_agent.errors import FormatError, Kind

MAX_CHARS: Final = 128

_IDENTIFIERS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION: Final = re.compile(rf"([0-9]{{1,18}}(?:\.[0-9]{{1,18}}){{0,7}})(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?")

_Identifier = tuple[bool, int, str]
_Key = tuple[tuple[int, ...], bool, tuple[_Identifier, ...]]


def _malformed(text: str) -> FormatError:
    shown = text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + "..."
    return FormatError(
        Kind.VERSION_MALFORMED,
        f"version: expected 1 to 8 numbers with dots, then perhaps -pre and +build, got {shown!r}",
        hint="examples: 4152.2.1, 4230.1.0-rc.1, 4230.1.0+nightly-20260101",
    )


def _identifier(text: str) -> _Identifier:
    """Numbers sort before words, and by value."""
    return (False, int(text), "") if text.isdigit() else (True, 0, text)


def _key(text: str) -> _Key:
    match = _VERSION.fullmatch(text) if len(text) <= MAX_CHARS else None
    if match is None:
        raise _malformed(text)
    numbers = [int(number) for number in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    identifiers = () if match[2] is None else tuple(_identifier(each) for each in match[2].split("."))
    return tuple(numbers), match[2] is None, identifiers


@functools.total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A release's number.

    Two are equal when neither is newer: missing components count as 0, and what follows a "+" does not count.

    Attributes:
        text: as it was written.

    Raises:
        FormatError: version-malformed.
    """

    text: str
    _order: _Key = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", _key(self.text))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The version that `text` spells, at most 128 characters.

        Raises:
            FormatError: version-malformed.
        """
        return cls(text)

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self._order == other._order if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: "Version") -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)
