"""The parts of a cloud-config document that are about updates: `coreos.update` and `coreos.locksmith`.

The document is what coreos-cloudinit read on Container Linux. Every value is taken as text: YAML would otherwise make
`false` of `off`, and a number of `04:00`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from update_agent.errors import ConfigurationError, Kind

CHARS_MAX: Final = 1 << 20

_DEPTH_MAX: Final = 32
_ALIASES_MAX: Final = 64
_EVENTS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """What is said about updates; names have "_" where the document may have "-".

    Attributes:
        update: `coreos.update`.
        locksmith: `coreos.locksmith`.
    """

    update: Mapping[str, str]
    locksmith: Mapping[str, str]


def parse_cloud_config(text: str) -> CloudConfig:
    """The two sections, empty if they are missing; everything else in the document is passed over.

    Raises:
        ConfigurationError: configuration, when it is no YAML, too large, too deep, or a section is no section.
    """
    if len(text) > CHARS_MAX:
        raise _error(f"expected at most {CHARS_MAX} characters, got {len(text)}")
    try:
        _check_events(text)
        document = yaml.BaseLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _error(f"expected YAML, got {error.problem}{line}") from error
    # Out of range are what \U and %YAML may name.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _error("expected YAML, got characters that it does not have") from error
    coreos = _table(document, "coreos", "document")
    return CloudConfig(update=_section(coreos, "update"), locksmith=_section(coreos, "locksmith"))


def _error(message: str) -> ConfigurationError:
    return ConfigurationError(Kind.CONFIGURATION, f"cloud-config: {message}")


def _check_events(text: str) -> None:
    """Before anything is built of it: what is built follows the depth by recursion, and each alias."""
    depth = aliases = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.BaseLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _DEPTH_MAX:
            raise _error(f"expected at most {_DEPTH_MAX} levels, got more")
        if aliases > _ALIASES_MAX:
            raise _error(f"expected at most {_ALIASES_MAX} aliases, got more")
        if number > _EVENTS_MAX:
            raise _error(f"expected at most {_EVENTS_MAX} values, got more")


def _table(owner: Any, name: str, owner_name: str) -> Mapping[Any, Any]:
    """A part of a table, which is a table; nothing if it is missing or empty."""
    if not owner:
        return {}
    if not isinstance(owner, dict):
        raise _error(f"{owner_name}: expected names with values, got something else")
    return owner.get(name) or {}


def _section(coreos: Any, name: str) -> Mapping[str, str]:
    section = _table(coreos, name, "coreos")
    if not isinstance(section, dict):
        raise _error(f"coreos.{name}: expected names with values, got something else")
    return {str(key).replace("-", "_"): _text(value, f"coreos.{name}.{key}") for key, value in section.items()}


def _text(value: object, name: str) -> str:
    """A value; of a list, its items with commas between them."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    if not isinstance(value, str):
        raise _error(f"{name}: expected a text, got something else")
    return value
