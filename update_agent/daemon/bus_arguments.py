"""Arguments of callers, checked; what is wrong with one is a `ValueError`, told to the caller as it is."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from update_agent.daemon.ports import InstallOptions
from update_agent.domain.marking import Mark
from update_agent.domain.slots import SlotName

_TYPES: Final = {field.name: type(field.default) for field in fields(InstallOptions)}
_TEXT_CHARS_MAX: Final = 4096


def parse_install_options(values: Mapping[str, Any]) -> InstallOptions:
    """The options of `Install`."""
    for name, value in values.items():
        if name not in _TYPES:
            raise ValueError(f"option {name!r}: expected one of {', '.join(_TYPES)}")
        if type(value) is not _TYPES[name]:
            raise ValueError(f"option {name}: expected {_TYPES[name].__name__}, got {type(value).__name__}")
        if isinstance(value, str) and len(value) > _TEXT_CHARS_MAX:
            raise ValueError(f"option {name}: expected {_TEXT_CHARS_MAX} characters at most, got {len(value)}")
    options = InstallOptions(**values)
    parse_slot(options.target)
    return options


def parse_slot(name: str) -> SlotName | None:
    """A, B, or None for the empty text."""
    if name not in {"", *SlotName}:
        raise ValueError(f"slot: expected A, B or nothing, got {name!r}")
    return SlotName(name) if name else None


def parse_mark(slot: str, mark: str) -> tuple[SlotName | None, str]:
    """The arguments of `MarkSlot`."""
    if mark not in set(Mark):
        raise ValueError(f"mark: expected {', '.join(Mark)}, got {mark!r}")
    return parse_slot(slot), mark
