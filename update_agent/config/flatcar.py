"""What Flatcar's files say: update_engine's settings, locksmith's, the release and the OEM.

A node that ran update_engine and locksmithd needs no other configuration. What these two would have done with a strange
value is done here as well, and said.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from update_agent.config.paths import Paths
from update_agent.config.reading import Finding, Gathered, read_small
from update_agent.config.settings import SETTINGS, Strategy
from update_agent.errors import ConfigurationError
from update_agent.formats.keyvalue import Entry, parse_key_values, parse_os_release

_UPDATE_ENGINE: Final = {
    "GROUP": "server.channel",
    "FLATCAR_RELEASE_APPID": "server.app_id",
    "FLATCAR_RELEASE_BOARD": "server.board",
    "FLATCAR_RELEASE_VERSION": "server.running_version",
    "MACHINE_ALIAS": "server.machine_alias",
    "DOWNLOAD_USER": "transfer.user",
    "DOWNLOAD_PASSWORD": "transfer.password",
}
"""An empty value counts."""

_LOCKSMITH: Final = {
    "LOCKSMITHD_GROUP": "reboot.group",
    "LOCKSMITHD_REBOOT_WINDOW_START": "reboot.window_start",
    "REBOOT_WINDOW_START": "reboot.window_start",
    "LOCKSMITHD_REBOOT_WINDOW_LENGTH": "reboot.window_length",
    "REBOOT_WINDOW_LENGTH": "reboot.window_length",
    "LOCKSMITHD_ENDPOINT": "reboot.etcd_endpoints",
    "LOCKSMITHD_ENDPOINTS": "reboot.etcd_endpoints",
    "LOCKSMITHD_ETCD_CAFILE": "reboot.etcd_ca",
    "LOCKSMITHD_ETCD_CERTFILE": "reboot.etcd_cert",
    "LOCKSMITHD_ETCD_KEYFILE": "reboot.etcd_key",
}
"""An empty value says nothing; of two for one setting, the first counts."""

_WITHOUT_COUNTERPART: Final = ("PCR_POLICY_SERVER", "LOCKSMITHD_ETCD_USERNAME", "LOCKSMITHD_ETCD_PASSWORD")

_Parser = Callable[[str], Mapping[str, Entry]]


class KeyValueFiles:
    """Several files of which, for each key, the first one that has it counts.

    Attributes:
        warnings: of files that cannot be read.
    """

    def __init__(self, paths: Paths, files: Sequence[Path], parse: _Parser = parse_key_values) -> None:
        self.warnings: list[str] = []
        self._files: list[tuple[str, Mapping[str, Entry]]] = []
        for file in files:
            place = paths.shown(file)
            try:
                data = read_small(file)
            except ConfigurationError as error:
                self.warnings.append(f"{place}: {error.message}")
                continue
            if data is not None:
                # What is not UTF-8 must not hide the other keys; the check of the value says so if it matters.
                self._files.append((place, parse(data.decode(errors="surrogateescape"))))

    def find(self, name: str) -> tuple[str, str] | None:
        """The value and its place, or None if no file has it."""
        for place, entries in self._files:
            if name in entries:
                return entries[name].value, f"{place}:{entries[name].line}"
        return None

    def value(self, name: str) -> str:
        """The value, or empty; printable."""
        found = self.find(name)
        return "" if found is None else "".join(each if each.isprintable() else "?" for each in found[0])


def gather(paths: Paths) -> Gathered:
    """What the files of update_engine and locksmith say; the environment of the latter's unit is the same files."""
    files = KeyValueFiles(paths, paths.flatcar_files)
    warnings = files.warnings
    findings = [
        Finding(key=key, value=found[0], place=found[1])
        for name, key in _UPDATE_ENGINE.items()
        if (found := files.find(name)) is not None
    ]
    findings += _server(files, warnings) + _strategy(files) + _locksmith(files)
    for name in _WITHOUT_COUNTERPART:
        found = files.find(name)
        if found is not None and found[0]:
            warnings.append(f"{found[1]}: {name} is not supported and has no effect")
    return Gathered(findings=tuple(findings), warnings=tuple(warnings))


def _server(files: KeyValueFiles, warnings: list[str]) -> list[Finding]:
    """What is no URL stops update_engine's checks, so it must not send us to the default server."""
    found = files.find("SERVER")
    if found is None:
        return []
    value, place = found
    try:
        SETTINGS["server.url"].check(value)
    except ConfigurationError as error:
        warnings.append(f"{place}: {error.message}; no server is asked")
        value = "disabled"
    return [Finding(key="server.url", value=value, place=place)]


def _strategy(files: KeyValueFiles) -> list[Finding]:
    found = files.find("REBOOT_STRATEGY")
    if found is None:
        return []
    return [Finding(key="reboot.strategy", value=found[0].strip() or str(Strategy.REBOOT), place=found[1])]


def _locksmith(files: KeyValueFiles) -> list[Finding]:
    findings: dict[str, Finding] = {}
    for name, key in _LOCKSMITH.items():
        found = files.find(name)
        if found is not None and found[0].strip() and key not in findings:
            findings[key] = Finding(key=key, value=locksmith_value(key, found[0].strip()), place=found[1])
    return list(findings.values())


def locksmith_value(key: str, text: str) -> Any:
    """What one of locksmith's texts means: of the endpoints, a list with commas."""
    if key == "reboot.etcd_endpoints":
        return [each.strip() for each in text.split(",") if each.strip()]
    return text


def gather_os_release(paths: Paths) -> Gathered:
    """The running release as os-release(5) has it: in the first of the files that exists."""
    existing = [file for file in paths.os_release_files if os.path.exists(file)]  # noqa: PTH110 - it never raises
    files = KeyValueFiles(paths, existing[:1], parse_os_release)
    found = files.find("VERSION_ID")
    findings = () if found is None else (Finding(key="server.running_version", value=found[0], place=found[1]),)
    return Gathered(findings=findings, warnings=tuple(files.warnings))
