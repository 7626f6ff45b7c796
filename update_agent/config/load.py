"""The configuration of a node: every setting, where it comes from, and what is wrong with the files.

What counts, the last most: the built-in default, Flatcar's files, the fragments; then credentials for secrets that are
still empty, and the running system for what says so.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from update_agent.config import credentials, flatcar, fragments
from update_agent.config.defaults import default_board
from update_agent.config.paths import Paths
from update_agent.config.reading import Finding, Gathered
from update_agent.config.settings import SETTINGS, Settings
from update_agent.errors import ConfigurationError

DEFAULT_PLACE: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A setting's value and who says so.

    Attributes:
        value: as `Settings.to_values` has it; it may be a secret.
        place: such as `/etc/update-agent/config.d/50-site.toml:3`, `default` or `credential update-agent.proxy`.
    """

    value: Any = field(repr=False)
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All of it.

    Attributes:
        settings: valid.
        origins: of every setting, by `section.key`.
        warnings: each with file and line, without secrets.
        oem_id: what kind of machine the image was made for, or empty.
        oem_version: of the OEM's part of the image, or empty.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...]
    oem_id: str
    oem_version: str


class _Merge:
    """What was found so far; a wrong value leaves the former one in place."""

    def __init__(self) -> None:
        self.values = {key: each.default for key, each in SETTINGS.items()}
        self.places = dict.fromkeys(SETTINGS, DEFAULT_PLACE)
        self.warnings: list[str] = []

    def take(self, gathered: Gathered, *, only_empty: bool = False) -> None:
        self.warnings += gathered.warnings
        for finding in gathered.findings:
            if not (only_empty and self.values[finding.key]):
                self._put(finding)

    def _put(self, finding: Finding) -> None:
        try:
            self.values[finding.key] = SETTINGS[finding.key].check(finding.value)
        except ConfigurationError as error:
            self.warnings.append(f"{finding.place}: {error.message}; it is left out")
        else:
            self.places[finding.key] = finding.place


def load(paths: Paths, *, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read everything anew. Whatever is in the files, it ends with settings; what is wrong is in the warnings."""
    merge = _Merge()
    merge.take(flatcar.gather(paths))
    merge.take(fragments.gather(paths))
    merge.take(credentials.gather(environment), only_empty=True)
    if not merge.values["server.running_version"]:
        merge.take(flatcar.gather_os_release(paths), only_empty=True)
    board = Finding(key="server.board", value=default_board(), place="this machine's architecture")
    merge.take(Gathered(findings=(board,) if board.value else (), warnings=()), only_empty=True)
    oem = flatcar.KeyValueFiles(paths, paths.oem_files)
    origins = {
        key: Origin(value=each.to_plain(merge.values[key]), place=merge.places[key]) for key, each in SETTINGS.items()
    }
    return Configuration(
        settings=Settings.of(merge.values),
        origins=origins,
        warnings=(*merge.warnings, *oem.warnings),
        oem_id=oem.value("ID"),
        oem_version=oem.value("VERSION_ID"),
    )
