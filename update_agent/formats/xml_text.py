"""Text within XML, written as libxml2 does it, which the servers in the field were tested with."""

import re
from typing import Final

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_SPECIAL: Final = re.compile(r'[^\t\n\x20-\x7e]|[&<>"]')


def _escape_one(match: re.Match[str]) -> str:
    char = match[0]
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char == "\r":
        return "&#13;"
    code = ord(char)
    if code < 0x7F or 0xD800 <= code < 0xE000 or code in {0xFFFE, 0xFFFF}:
        return ""
    return f"&#x{code:X};"


def escape(text: str) -> str:
    """`text` as the value of an attribute in double quotes, in ASCII; what XML cannot carry is left out."""
    return _SPECIAL.sub(_escape_one, text)
