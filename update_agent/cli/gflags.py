"""Command lines as the gflags library reads them: `-flag`, `--flag`, `-noflag`, `-flag=true`, `-flag value`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from update_agent.errors import ConfigurationError, Kind

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes"})
_FALSE: Final = frozenset({"0", "f", "false", "n", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a program knows; of switches the text of its help.

    Attributes:
        switches: flags that are true or false, false unless given.
        ignored_switches: likewise, accepted and without effect.
        ignored_values: flags with a value, accepted and without effect.
    """

    switches: Mapping[str, str]
    ignored_switches: frozenset[str]
    ignored_values: frozenset[str]

    def parse(self, arguments: Sequence[str]) -> frozenset[str]:
        """The switches that are on; what is no flag is passed over, as is everything after `--`.

        Raises:
            ConfigurationError: usage.
        """
        on: set[str] = set()
        remaining = iter(arguments)
        for argument in remaining:
            if argument == "--":
                break
            if not argument.startswith("-") or argument == "-":
                continue
            text = argument.removeprefix("-").removeprefix("-")
            name, _, value = text.partition("=")
            if name in self.ignored_values:
                if name == text and next(remaining, None) is None:
                    raise _error(f"flag '{argument}' is missing its argument")
                continue
            name, is_on = self._switch(name, value if name != text else None)
            on = on | {name} if is_on else on - {name}
        return frozenset(on & self.switches.keys())

    def _switch(self, name: str, value: str | None) -> tuple[str, bool]:
        known = self.switches.keys() | self.ignored_switches
        if name not in known and value is None and name.startswith("no") and name[2:] in known:
            return name[2:], False
        if name not in known:
            raise _error(f"unknown command line flag '{name}'")
        word = "true" if value is None else value.lower()
        if word not in _TRUE | _FALSE:
            raise _error(f"illegal value '{value}' specified for bool flag '{name}'")
        return name, word in _TRUE


def _error(text: str) -> ConfigurationError:
    return ConfigurationError(Kind.USAGE, f"ERROR: {text}")
