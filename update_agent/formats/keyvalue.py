"""Files of `KEY=VALUE` lines: update_engine's `update.conf`, `release` and `oem-release`, and os-release(5).

The two look alike and are not: update_engine knows no comments, no blanks and no escapes, os-release(5) has a part of
the shell's quoting.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_QUOTES: Final = frozenset("'\"")
_ASSIGNMENT: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*?)\s*")
_ESCAPE: Final = re.compile(r'\\([\\$"`])')


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a key has, and the number of its line."""

    value: str
    line: int


def parse_key_values(text: str) -> Mapping[str, Entry]:
    """The entries of a file as update_engine reads it.

    A line without "=" does not count, a later line replaces an earlier one with the same key, nothing is trimmed, and
    one pair of quotes around a value is taken away.
    """
    entries = {}
    for number, line in enumerate(text.split("\n"), 1):
        key, equals, value = line.partition("=")
        if equals:
            entries[key] = Entry(value=_without_quotes(value), line=number)
    return entries


def parse_os_release(text: str) -> Mapping[str, Entry]:
    """The entries of an os-release file; a line that is no assignment does not count."""
    entries = {}
    for number, line in enumerate(text.split("\n"), 1):
        match = _ASSIGNMENT.fullmatch(line)
        if match is not None:
            entries[match[1]] = Entry(value=_unquoted(match[2]), line=number)
    return entries


def _without_quotes(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
    return value[1:-1] if is_quoted else value


def _unquoted(value: str) -> str:
    """A value of os-release(5): in single quotes as it is, otherwise with backslashes before what the shell knows."""
    plain = _without_quotes(value)
    return plain if value.startswith("'") else _ESCAPE.sub(r"\1", plain)
