"""Fragments that the program writes: settings to TOML, and one setting changed in the fragment that is its own."""

import datetime as dt
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from update_agent.config.fragments import parse_fragment
from update_agent.config.paths import Paths
from update_agent.config.reading import decode, read_small
from update_agent.config.schema import unknown_key
from update_agent.config.settings import SETTINGS
from update_agent.errors import ConfigurationError, Kind
from update_agent.host.files import StateFile

_HEADER: Final = """\
# Written by update-agent. Settings that are added by hand stay when it writes again; comments do not.
"""
_HINT: Final = "mend the file or take it away, then try again"


def set_key(paths: Paths, key: str, value: Any) -> Path:
    """Write one setting to `/etc/update-agent/config.d/90-local.toml`, durable on return; the others in it stay.

    Returns:
        The file.

    Raises:
        ConfigurationError: configuration, when there is no such setting, the value is wrong, or the file that is there
            cannot be understood and would be lost.
        DeviceError: no-space, state-file.
    """
    if key not in SETTINGS:
        raise unknown_key(key, SETTINGS)
    setting = SETTINGS[key]
    plain = setting.to_plain(setting.check(value))
    path = paths.local_fragment
    tables = _present(paths)
    section, _, name = key.partition(".")
    if not isinstance(tables.setdefault(section, {}), dict):
        raise ConfigurationError(
            Kind.CONFIGURATION, f"{paths.shown(path)}: {section}: expected a section, got one value", hint=_HINT
        )
    tables[section][name] = plain
    StateFile(path).replace((_HEADER + to_toml(tables)).encode(), mode=_mode(path))
    return path


def to_toml(tables: Mapping[str, Any]) -> str:
    """A fragment of sections, a blank line before each; what is in no section comes first."""
    loose = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    text = _lines(loose)
    for section, table in tables.items():
        if section not in loose:
            text += f"\n[{_name(section)}]\n{_lines(table)}"
    return text


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_name(name)} = {format_value(value)}\n" for name, value in table.items())


def format_value(value: Any) -> str:
    """One value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_name(name)} = {format_value(each)}' for name, each in value.items())}}}"
    return repr(value)


def _name(name: str) -> str:
    is_bare = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return name if is_bare else format_value(name)


def _present(paths: Paths) -> dict[str, Any]:
    path = paths.local_fragment
    place = paths.shown(path)
    try:
        data = read_small(path)
        text = decode(data) if data is not None else ""
    except ConfigurationError as error:
        raise ConfigurationError(Kind.CONFIGURATION, f"{place}: {error.message}", hint=_HINT) from error
    try:
        return parse_fragment(text)
    except ConfigurationError as error:
        raise ConfigurationError(Kind.CONFIGURATION, f"{place}{error.message}", hint=_HINT) from error


def _mode(path: Path) -> int | None:
    """Of the file that is there: somebody may have made it unreadable for others because of a password in it."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
