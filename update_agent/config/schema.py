"""What a setting may be: its type, its range and the form of its text; which settings a class of sections has.

Nothing here knows a particular setting.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from update_agent.errors import ConfigurationError, Kind
from update_agent.net.url import parse_url

ITEMS_MAX: Final = 1024
MASK: Final = "***"

_SHOWN_CHARS_MAX: Final = 80
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USER_INFORMATION: Final = re.compile(r"//[^/\s]*@")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORT_MAX: Final = 65535
_LIKENESS: Final = 0.8
TEXTS: Final = tuple[str, ...]
"""The type of a setting that is a list."""

_TYPE_NAMES: Final = {bool: "true or false", int: "a whole number", str: "a text", TEXTS: "a list of texts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a value must look like beyond its type; of a list, each item.

    Attributes:
        expected: for messages.
        accepts: whether a value is so.
    """

    expected: str
    accepts: Callable[[Any], bool]


def _is_url(text: str) -> bool:
    try:
        parse_url(text)
    except ConfigurationError:
        return False
    return True


def _is_host_port(text: str) -> bool:
    match = _HOST_PORT.fullmatch(text)
    return match is not None and int(match[2]) <= _PORT_MAX


URL: Final = Rule(expected="an http or https URL", accepts=_is_url)
SERVER_URL: Final = Rule(
    expected="an http or https URL or 'disabled'", accepts=lambda text: text == "disabled" or _is_url(text)
)
PROXY_URL: Final = Rule(
    expected="an http or https URL or 'none'", accepts=lambda text: text in {"", "none"} or _is_url(text)
)
HOST_PORT: Final = Rule(expected="HOST:PORT", accepts=lambda text: not text or _is_host_port(text))
ABSOLUTE_PATH: Final = Rule(expected="a path that starts with /", accepts=lambda text: not text or text[0] == "/")
RATE: Final = Rule(expected="0, or at least 1024", accepts=lambda number: number == 0 or number >= 1024)


def redacted(text: str) -> str:
    """Without the user and password of URLs in it."""
    return _USER_INFORMATION.sub(f"//{MASK}@", text)


def printable(text: str) -> str:
    """For a message of one line: without control characters, and not too long."""
    text = _UNPRINTABLE.sub("?", text[: _SHOWN_CHARS_MAX + 1])
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."


def _shown(value: object) -> str:
    """A value for a message: short, printable, without the secrets that URLs carry."""
    if not isinstance(value, str):
        text = _shown_other(value)
    else:
        text = repr(redacted(value[: 2 * _SHOWN_CHARS_MAX]).partition("?")[0])
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."


def _shown_other(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a huge number"
    if isinstance(value, list | tuple):
        return "a list"
    return "a table" if isinstance(value, Mapping) else repr(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of them.

    Attributes:
        key: `section.name`.
        default: if nobody says anything.
        text: what it is for.
        value_type: bool, int, str, `tuple[str, ...]` or a `StrEnum`.
        minimum: of a number, or None.
        maximum: likewise.
        is_secret: its value must not be shown.
        rule: what else is expected, or None.
    """

    key: str
    default: Any = field(repr=False)
    text: str
    value_type: Any
    minimum: int | None
    maximum: int | None
    is_secret: bool
    rule: Rule | None

    @property
    def expected(self) -> str:
        """What a value may be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.rule is not None:
            return self.rule.expected if self.value_type != TEXTS else f"a list, each {self.rule.expected}"
        name = _TYPE_NAMES[self.value_type]
        if self.minimum is None:
            return name
        return f"{name} from {self.minimum}" + (f" to {self.maximum}" if self.maximum is not None else " on")

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be; empty if it is free."""
        is_enum = isinstance(self.value_type, type) and issubclass(self.value_type, StrEnum)
        return tuple(str(word) for word in self.value_type) if is_enum else ()

    def check(self, value: object) -> Any:
        """The value as the dataclass has it, from what TOML or JSON has.

        Raises:
            ConfigurationError: configuration, naming the key, and the value unless it is a secret.
        """
        if self.value_type == TEXTS:
            return self._check_list(value)
        if self.choices:
            if value not in self.choices:
                raise self._error(value)
            return self.value_type(value)
        if type(value) is not self.value_type or not self._fits(value):
            raise self._error(value)
        return value

    def to_plain(self, value: Any) -> Any:
        """The reverse of `check`: as JSON and TOML have it."""
        if isinstance(value, StrEnum):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    def _check_list(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or len(value) > ITEMS_MAX:
            raise self._error(value)
        for item in value:
            if not isinstance(item, str) or not item or not self._fits(item):
                raise self._error(item)
        return tuple(value)

    def _fits(self, value: Any) -> bool:
        if isinstance(value, str) and _UNPRINTABLE.search(value):
            return False
        if self.minimum is not None and value < self.minimum:
            return False
        if self.maximum is not None and value > self.maximum:
            return False
        return self.rule is None or self.rule.accepts(value)

    def _error(self, value: object) -> ConfigurationError:
        expected = self.expected
        if isinstance(value, str) and _UNPRINTABLE.search(value):
            expected += " without control characters"
        got = "something else" if self.is_secret else _shown(value)
        return ConfigurationError(Kind.CONFIGURATION, f"{self.key}: expected {expected}, got {got}")


def describe(owner: Any) -> Mapping[str, Setting]:
    """Every setting of a class whose fields are sections, in order, by key."""
    return {
        setting.key: setting
        for section in dataclasses.fields(owner)
        for setting in (_setting(section.name, each) for each in dataclasses.fields(section.type))  # type: ignore[arg-type]
    }


def _setting(section: str, each: "dataclasses.Field[Any]") -> Setting:
    return Setting(
        key=f"{section}.{each.name}",
        default=each.default,
        text=each.metadata["text"],
        value_type=each.type,
        minimum=each.metadata["minimum"],
        maximum=each.metadata["maximum"],
        is_secret=each.metadata["secret"],
        rule=each.metadata["rule"],
    )


def unknown_key(key: str, known: Mapping[str, Setting]) -> ConfigurationError:
    """The error for a key that no setting has, with the one that was probably meant."""
    section, dot, name = key[: 2 * _SHOWN_CHARS_MAX].rpartition(".")
    in_section = [each for each in known if each.startswith(section + dot)]
    names = {each.rpartition(".")[2]: each for each in in_section or known}
    near = difflib.get_close_matches(name, names, n=1, cutoff=_LIKENESS)
    hint = f"did you mean {names[near[0]]}?" if near else None
    return ConfigurationError(Kind.CONFIGURATION, f"unknown setting {printable(key)}", hint=hint)
