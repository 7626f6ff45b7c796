"""TOML fragments: files in several folders, put together as systemd does with its drop-ins.

A file replaces one of the same name in an earlier folder, an empty file or a link to /dev/null takes it away; what
remains counts in the order of the names, a later file more than an earlier one. A broken fragment must not stop a node
from updating: it is left out, and the file that it would have replaced counts.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from update_agent.config.paths import Paths
from update_agent.config.reading import Finding, Gathered, decode, read_small
from update_agent.config.schema import printable, unknown_key
from update_agent.config.settings import SETTINGS
from update_agent.errors import ConfigurationError, Kind

SUFFIX: Final = ".toml"

_WARNINGS_MAX: Final = 20
# tomllib's time grows with the square of the parts of a key: one key of the largest file would take an hour.
_DOTS_MAX: Final = 200

_SECTIONS: Final = frozenset(key.partition(".")[0] for key in SETTINGS)
_LINE_OF_ERROR: Final = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$")
_HEADER: Final = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]")
_ASSIGNMENT: Final = re.compile(r"\s*([A-Za-z0-9_.\"' \t-]+?)\s*=")


def gather(paths: Paths) -> Gathered:
    """Everything that the fragments on a node say."""
    warnings: list[str] = []
    findings: list[Finding] = []
    for _, candidates in sorted(_by_name(paths, warnings).items()):
        for path in reversed(candidates):
            place = paths.shown(path)
            try:
                gathered = _fragment(path, place)
            except ConfigurationError as error:
                warnings.append(f"{place}{error.message}")
                continue
            findings += gathered.findings
            warnings += gathered.warnings
            break
    return Gathered(findings=tuple(findings), warnings=tuple(warnings))


def parse_fragment(text: str) -> dict[str, Any]:
    """The tables of a fragment.

    Raises:
        ConfigurationError: configuration; the message begins with ":" and the number of the line, if that is known.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _DOTS_MAX and not line.lstrip().startswith("#"):
            raise ConfigurationError(
                Kind.CONFIGURATION, f":{number}: expected at most {_DOTS_MAX} dots in a line, got more"
            )
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigurationError(Kind.CONFIGURATION, ": expected TOML, got lists in lists without end") from error
    except ValueError as error:  # also of a number with thousands of digits
        message = str(error)
        match = _LINE_OF_ERROR.search(message)
        line = f":{match[1] or text.count(chr(10)) + 1}" if match else ""
        reason = message[: match.start()] if match else "a number that is too long"
        raise ConfigurationError(Kind.CONFIGURATION, f"{line}: expected TOML, got {reason.lower()}") from error


def _by_name(paths: Paths, warnings: list[str]) -> dict[str, list[Path]]:
    """The files by name; of one name, that of the last folder is last."""
    files: dict[str, list[Path]] = {}
    for folder in paths.fragment_folders:
        try:
            names = os.listdir(folder)  # noqa: PTH208 - names are what is needed
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            warnings.append(f"{paths.shown(folder)}: cannot read: {os.strerror(error.errno or 0)}")
            continue
        for name in names:
            if name.endswith(SUFFIX) and not name.startswith("."):
                files.setdefault(name, []).append(folder / name)
    return files


def _is_link_to_nothing(path: Path) -> bool:
    try:
        return os.readlink(path) == os.devnull  # noqa: PTH115 - the text, not a path
    except OSError:
        return False


def _fragment(path: Path, place: str) -> Gathered:
    """Raises ConfigurationError, whose message goes behind the place, when the file as a whole is of no use."""
    if _is_link_to_nothing(path):
        return Gathered(findings=(), warnings=())
    try:
        data = read_small(path)
        text = decode(data) if data is not None else None
    except ConfigurationError as error:
        raise ConfigurationError(Kind.CONFIGURATION, f": {error.message}") from error
    if text is None:
        raise ConfigurationError(Kind.CONFIGURATION, ": a link to nothing")
    lines = index_lines(text)
    findings: list[Finding] = []
    warnings: list[str] = []
    for key, value, complaint in _entries(parse_fragment(text)):
        where = f"{place}:{lines[key]}" if key in lines else place
        if complaint is None:
            findings.append(Finding(key=key, value=value, place=where))
        elif len(warnings) < _WARNINGS_MAX:
            warnings.append(f"{where}: {complaint(key)}")
        else:
            return Gathered(findings=tuple(findings), warnings=(*warnings, f"{place}: more that is unknown"))
    return Gathered(findings=tuple(findings), warnings=tuple(warnings))


def _entries(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any, Callable[[str], str] | None]]:
    """Key and value of what is in a fragment; and what makes a complaint of the key if it is no setting."""
    for section, table in tables.items():
        if section not in _SECTIONS:
            yield section, None, _unknown_section if isinstance(table, dict) else _unknown
        elif not isinstance(table, dict):
            yield section, None, _no_section
        else:
            for name, value in table.items():
                key = f"{section}.{name}"
                yield key, value, None if key in SETTINGS else _unknown


def _unknown_section(section: str) -> str:
    return f"unknown section [{printable(section)}]"


def _no_section(section: str) -> str:
    return f"{section}: expected a section, got one value"


def _unknown(key: str) -> str:
    error = unknown_key(key, SETTINGS)
    return f"{error.message}; {error.hint}" if error.hint else error.message


def index_lines(text: str) -> Mapping[str, int]:
    """The first line of each `section.key` and each section, by its looks, as tomllib does not say."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        header = _HEADER.match(line)
        if header is not None:
            section = _plain(header[1])
            _note(lines, section, number)
        elif (assignment := _ASSIGNMENT.match(line)) is not None:
            name = _plain(assignment[1])
            _note(lines, f"{section}.{name}" if section else name, number)
    return lines


def _note(lines: dict[str, int], key: str, number: int) -> None:
    """Where a key is, and the first two parts of it: no setting has more."""
    section, dot, rest = key.partition(".")
    lines.setdefault(section, number)
    lines.setdefault(section + dot + rest.partition(".")[0], number)
    lines.setdefault(key, number)


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
