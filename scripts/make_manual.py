"""Write the manual pages, and an example of the configuration with every setting, into a folder.

make_manual.py FOLDER

What a program, a setting, an event or a metric says of itself is taken from there; the texts around it are
systemd/man/*.in, in which a line of the form @NAME@ stands for a part that is made here.
"""

import argparse
import datetime as dt
import json
import os
import re
import sys
import textwrap
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from update_agent import __version__
from update_agent.api.forms import ERROR_FORMS, ExitStatus
from update_agent.api.node import BUS_NAME, COMPAT_BUS_NAME, OBJECT_PATH
from update_agent.cli import parser as cli
from update_agent.config import credentials
from update_agent.config.paths import Paths
from update_agent.config.schema import Setting
from update_agent.config.settings import SETTINGS, Settings
from update_agent.daemon import boot_good, main
from update_agent.daemon.node_metrics import NodeMetrics
from update_agent.domain.journal_events import JournalEvent
from update_agent.errors import Kind

LINE_CHARS: Final = 78
SYSTEMD: Final = Path(__file__).parents[1] / "systemd"

TITLES: Final = {
    "update-agent.1": "keep a node with two slots, or the image of one, up to date",
    "update-agentd.8": "install releases into the slot that does not run",
    "update-agent-boot-good.8": "mark a boot good, or go back to the other slot",
    "update-agent.toml.5": "settings of the update agent",
}

EXIT_STATUS: Final = {
    ExitStatus.DONE: "Done, yes, or there was nothing to do.",
    ExitStatus.FAILED: "Failed.",
    ExitStatus.USAGE: "Wrong use, or wrong configuration.",
    ExitStatus.NO: "No: the answer of is-pending and next-boot.",
    ExitStatus.UNREACHABLE: "The daemon cannot be reached.",
    ExitStatus.REFUSED: "Possible, but refused: by policy, by the state, or because it is not allowed.",
    ExitStatus.UNVERIFIED: "What was downloaded or written is not what was signed or announced.",
    ExitStatus.INTERRUPTED: "Interrupted.",
}

FILES: Final = {
    "/etc/update-agent/config.d": "Configuration, see update-agent.toml(5).",
    "/etc/update-agent/keys": "Public keys that are trusted to sign releases; so is /usr/share/update-agent/keys.",
    "/etc/credstore/update-agent.*": "Secrets, see update-agent.toml(5).",
    "/var/lib/update-agent/state.json": "What the agent must know after a restart.",
    "/var/lib/update-agent/disks": "Per disk: what its slots hold, and how far a download has come.",
    "/var/lib/update_engine/prefs": "Two files that post-install programs made for update_engine read.",
    "/run/update-agent/health.json": "What was found about this boot.",
    "/run/update-agent/metrics.sock": "Metrics, over HTTP.",
    "/run/reboot-required": "Exists exactly while a reboot is pending.",
    "/usr/.noupdate": "If it is there, both services do not start.",
}


def escape(text: str) -> str:
    """Text for roff, whatever is in it."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    )
    text = text.replace("~", "\\(ti").replace('"', "\\(dq")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.splitlines())


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def items(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of terms, which are roff, and texts."""
    return "\n".join(f".TP\n{term}\n{escape(text)}" for term, text in pairs)


# --- programs


def option_term(action: argparse.Action) -> str:
    argument = "" if action.nargs == 0 else f" \\fI{escape(argument_name(action))}\\fR"
    return ", ".join(bold(name) + argument for name in action.option_strings) or argument.strip()


def argument_name(action: argparse.Action) -> str:
    if action.metavar is not None:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else "What to work on."
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def shown(parser: argparse.ArgumentParser, *, is_verb: bool) -> list[argparse.Action]:
    """Options and arguments; of a verb, without those that every verb has."""
    common = {"common options"} if is_verb else set()
    skipped = {
        id(action) for group in parser._action_groups if group.title in common for action in group._group_actions
    }
    return [
        action
        for action in parser._actions
        if id(action) not in skipped
        and action.help != argparse.SUPPRESS
        and not isinstance(action, (argparse._SubParsersAction, argparse._HelpAction))
    ]


def options(parser: argparse.ArgumentParser, *, is_verb: bool = False) -> str:
    return items((option_term(action), help_of(parser, action)) for action in shown(parser, is_verb=is_verb))


def subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Verbs with their actions, in the order of the program's help."""
    for name, child in subparsers(parser).items():
        if subparsers(child):
            yield from leaves(child, (*words, name))
        else:
            yield " ".join((*words, name)), child


def usage(words: str, parser: argparse.ArgumentParser) -> str:
    parts = [bold(words)]
    actions = shown(parser, is_verb=True)
    parts += ["[\\fIoption\\fR...]"] if any(action.option_strings for action in actions) else []
    for action in actions:
        if not action.option_strings:
            name = f"\\fI{escape(argument_name(action))}\\fR"
            parts.append(f"[{name}]" if action.nargs == "?" else name)
    return " ".join(parts)


def verbs(parser: argparse.ArgumentParser) -> str:
    parts = []
    for words, verb in leaves(parser):
        example = (verb.epilog or "").removeprefix("example:\n").splitlines()
        parts += [
            f".SS {escape(words)}",
            f"{usage(f'update-agent {words}', verb)}",
            ".PP",
            escape(verb.description or ""),
        ]
        parts += [options(verb, is_verb=True)]
        parts += (
            [".PP", "Example:", ".PP", ".EX", *(escape(line.strip()) for line in example), ".EE"] if example else []
        )
    return "\n".join(part for part in parts if part)


def program_options(parser: argparse.ArgumentParser) -> str:
    return f".SH OPTIONS\n{options(parser)}"


# --- settings


def settings() -> str:
    parts = []
    for section in Settings.__dataclass_fields__.values():
        parts += [f".SH [{escape(section.name)}]", escape((section.type.__doc__ or "").strip())]
        parts += [setting(each) for key, each in SETTINGS.items() if key.partition(".")[0] == section.name]
    return "\n".join(parts)


def setting(each: Setting) -> str:
    default = json.dumps(each.to_plain(each.default))
    text = f"{each.text[0].upper()}{each.text[1:]}.\n.br\nExpected: {each.expected}. Default: {default}."
    if each.is_secret:
        text += " A secret."
    lines = [line if line == ".br" else escape(line) for line in text.splitlines()]
    return "\n".join([".TP", bold(each.key.partition(".")[2]), *lines])


def example_toml() -> str:
    lines = ["# Every setting of update-agent with its default; see update-agent.toml(5).", ""]
    for section in Settings.__dataclass_fields__.values():
        lines += [f"# {(section.type.__doc__ or '').strip().splitlines()[0]}", f"[{section.name}]"]
        for key, each in SETTINGS.items():
            if key.partition(".")[0] == section.name:
                value = json.dumps(each.to_plain(each.default))
                lines += [f"# {each.text} ({each.expected})", f"#{key.partition('.')[2]} = {value}"]
        lines.append("")
    return "\n".join(lines)


# --- the daemon


def failures() -> str:
    texts: dict[str, str] = tomllib.loads((SYSTEMD / "man/failures.toml").read_text())
    forms = ERROR_FORMS
    return items(
        (
            bold(kind),
            f"{texts[kind]} (Exit status {int(forms[kind].exit_status)}, code {forms[kind].omaha_code}.)",
        )
        for kind in Kind
    )


def events() -> str:
    catalog = (SYSTEMD / "update-agent.catalog").read_text()
    subjects = dict(re.findall(r"^-- ([0-9a-f]{32})\nSubject: (.*)$", catalog, re.MULTILINE))
    return items((bold(event), f"{subjects[event]}.") for event in JournalEvent)


def metrics() -> str:
    def name(metric: Any) -> str:
        suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
        return bold(metric.name + suffix)

    return items((name(metric), metric.documentation) for metric in NodeMetrics().collect())


def polkit_actions() -> str:
    tree = ET.parse(SYSTEMD / "org.updateagent1.policy")
    return ", ".join(bold(action.attrib["id"]) for action in tree.iter("action"))


def parts() -> Mapping[str, Callable[[], str]]:
    """What stands for @NAME@."""
    paths = Paths()
    folders = "\n.br\n".join(f"\\fI{escape(str(folder))}/*.toml\\fR" for folder in paths.fragment_folders)
    known = {**credentials._CONTENTS, **credentials._FILES}
    flatcar = [*paths.flatcar_files, *paths.os_release_files, *paths.oem_files]
    return {
        "PROGRAM_OPTIONS": lambda: program_options(cli.build_parser()),
        "DAEMON_OPTIONS": lambda: program_options(main.build_parser()),
        "BOOT_GOOD_OPTIONS": lambda: program_options(boot_good.build_parser()),
        "VERBS": lambda: verbs(cli.build_parser()),
        "EXIT_STATUS": lambda: items((bold(str(int(status))), EXIT_STATUS[status]) for status in ExitStatus),
        "BUS_NAME": lambda: escape(BUS_NAME),
        "OBJECT_PATH": lambda: escape(OBJECT_PATH),
        "COMPAT_BUS_NAME": lambda: escape(COMPAT_BUS_NAME),
        "POLKIT_ACTIONS": polkit_actions,
        "METRICS": metrics,
        "FAILURES": failures,
        "EVENTS": events,
        "FELL_BACK_ID": lambda: str(JournalEvent.UPDATE_FELL_BACK),
        "HEALTH_FOLDERS": lambda: "\n.br\n".join(
            f"\\fI{escape(folder)}\\fR" for folder in SETTINGS["health.folders"].default
        ),
        "FILES": lambda: items((f"\\fI{escape(name)}\\fR", text) for name, text in FILES.items()),
        "FRAGMENT_FOLDERS": lambda: folders,
        "SETTINGS": settings,
        "CREDENTIALS": lambda: items((bold(name), f"For {key}.") for name, key in known.items()),
        "FLATCAR_FILES": lambda: "\n.br\n".join(f"\\fI{escape(str(path))}\\fR" for path in flatcar),
    }


def page(name: str) -> str:
    title, _, section = name.rpartition(".")
    head = [
        f'.\\" Made by scripts/make-manual from systemd/man/{name}.in and from the programs.',
        f'.TH {escape(title).upper()} {section} "{date()}" "update\\-agent {escape(__version__)}"',
        ".SH NAME",
        f"{escape(title)} \\- {escape(TITLES[name])}",
    ]
    if section != "5":
        verb = " [\\fIVERB\\fR]" if section == "1" else ""
        head += [".SH SYNOPSIS", f"{bold(title)} [\\fIoption\\fR...]{verb}"]
    made = parts()
    body = re.sub(r"@([A-Z_]+)@", lambda match: made[match[1]](), (SYSTEMD / f"man/{name}.in").read_text())
    return wrap("\n".join([*head, body.strip(), ""]))


def date() -> str:
    """Of today, or as a reproducible build wants it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return str((dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else dt.datetime.now(dt.UTC)).date())


def wrap(text: str) -> str:
    """Lines that a person can read in the source, too; examples stay as they are."""
    lines: list[str] = []
    is_example = False
    for line in text.splitlines():
        is_example = line == ".EX" or (is_example and line != ".EE")
        if is_example or line.startswith(".") or len(line) < LINE_CHARS:
            lines.append(line)
        else:
            folded = textwrap.wrap(line, LINE_CHARS, break_long_words=False, break_on_hyphens=False)
            lines += [f"\\&{each}" if each[0] in ".'" else each for each in folded]
    return "\n".join([*lines, ""])


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TITLES:
        (folder / name).write_text(page(name))
    (folder / "example.toml").write_text(example_toml())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
