"""Settings from a cloud-config document, as a fragment."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from update_agent.config.flatcar import locksmith_value
from update_agent.config.schema import printable
from update_agent.config.settings import SETTINGS
from update_agent.config.writing import to_toml
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.cloud_config import CloudConfig

_HEADER: Final = "# Made by update-agent config import-cloud-config.\n"
_UPDATE: Final = {"reboot_strategy": "reboot.strategy", "group": "server.channel", "server": "server.url"}
_LOCKSMITH: Final = {
    "endpoint": "reboot.etcd_endpoints",
    "etcd_cafile": "reboot.etcd_ca",
    "etcd_certfile": "reboot.etcd_cert",
    "etcd_keyfile": "reboot.etcd_key",
    "group": "reboot.group",
    "window_start": "reboot.window_start",
    "window_length": "reboot.window_length",
}
_SUBSTITUTED: Final = re.compile(r"\$(public|private)_ipv[46]")


def to_fragment(cloud: CloudConfig) -> tuple[str, tuple[str, ...]]:
    """The text of a fragment, empty if there is nothing to say, and a warning for each value that has no place."""
    tables: dict[str, dict[str, Any]] = {}
    warnings = []
    for origin, key, value in _pairs(cloud):
        try:
            plain = _plain(key, value)
        except ConfigurationError as error:
            warnings.append(f"{origin}: {error.message}; it is left out")
            continue
        section, _, name = key.partition(".")
        tables.setdefault(section, {})[name] = plain
    return (_HEADER + to_toml(tables) if tables else ""), tuple(warnings)


def _pairs(cloud: CloudConfig) -> Iterator[tuple[str, str, str]]:
    """Where a value is, the setting that it is for, or empty, and the value; those that are empty say nothing."""
    sections: tuple[tuple[str, Mapping[str, str], Mapping[str, str]], ...] = (
        ("update", cloud.update, _UPDATE),
        ("locksmith", cloud.locksmith, _LOCKSMITH),
    )
    for section, values, keys in sections:
        for name, value in values.items():
            if value.strip():
                yield f"coreos.{section}.{printable(name)}", keys.get(name, ""), value.strip()


def _plain(key: str, value: str) -> Any:
    """As TOML has it; raises ConfigurationError if it cannot be taken over."""
    if not key:
        raise ConfigurationError(Kind.CONFIGURATION, "there is no such setting")
    substituted = _SUBSTITUTED.search(value)
    if substituted:
        raise ConfigurationError(Kind.CONFIGURATION, f"{key}: {substituted[0]} is not known here")
    setting = SETTINGS[key]
    return setting.to_plain(setting.check(locksmith_value(key, value)))
