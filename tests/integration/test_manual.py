"""The manual: made, without mistakes, and with everything in it that the programs have."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from update_agent.api.forms import ExitStatus
from update_agent.cli import parser as cli
from update_agent.config.settings import SETTINGS, Settings
from update_agent.daemon import boot_good
from update_agent.daemon import main as daemon
from update_agent.daemon.node_metrics import NodeMetrics
from update_agent.domain.journal_events import JournalEvent
from update_agent.errors import Kind

REPOSITORY: Final = Path(__file__).parents[2]
PAGES: Final = ("update-agent.1", "update-agentd.8", "update-agent-boot-good.8", "update-agent.toml.5")


def make(folder: Path, **environment: str) -> Path:
    program = REPOSITORY / "scripts/make_manual.py"
    subprocess.run([sys.executable, str(program), str(folder)], check=True, env=os.environ | environment, timeout=60)
    return folder


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("manual"))


def text_of(page: Path) -> str:
    """As a person reads it, in one line; hyphens are plain."""
    if shutil.which("mandoc") is not None:
        command = ["mandoc", "-T", "ascii", "-O", "width=200", str(page)]
    elif shutil.which("groff") is not None:
        command = ["groff", "-man", "-T", "ascii", "-rLL=200n", "-P", "-c", str(page)]
    else:
        pytest.skip("no program for manual pages here")
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " ".join(re.sub(r".\x08", "", out).split())


def programs() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield "update-agent.1", cli.build_parser()
    yield "update-agentd.8", daemon.build_parser()
    yield "update-agent-boot-good.8", boot_good.build_parser()


def with_verbs(parser: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                yield from with_verbs(verb, f"{words} {name}")


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_mistakes(manual: Path, name: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("no mandoc here")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "style", manual / name], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_mistakes_for_the_other_program(manual: Path, name: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("no groff here")
    done = subprocess.run(["groff", "-man", "-ww", "-z", manual / name], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", PAGES)
def test_page_has_nothing_left_to_fill_in(manual: Path, name: str) -> None:
    text = (manual / name).read_text()
    assert not re.search(r"@[A-Z_]+@|%\(\w+\)|None|SUPPRESS|PosixPath", text)


def test_pages_have_every_verb_and_option(manual: Path) -> None:
    for name, program in programs():
        text = text_of(manual / name)
        for words, parser in with_verbs(program, program.prog):
            assert words in text, words
            options = {
                option
                for action in parser._actions
                if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
                for option in action.option_strings
            }
            assert {option for option in options if f" {option}" not in text} == set(), words


def test_page_of_the_settings_has_every_setting_with_its_default(manual: Path) -> None:
    text = text_of(manual / "update-agent.toml.5")
    for key, each in SETTINGS.items():
        section, _, name = key.partition(".")
        assert f"[{section}]" in text
        assert re.search(
            rf" {name} {re.escape(each.text[0].upper() + each.text[1:])}\. Expected: {re.escape(each.expected)}", text
        ), key


def test_page_of_the_daemon_has_every_failure_event_and_metric(manual: Path) -> None:
    text = text_of(manual / "update-agentd.8")
    for kind in Kind:
        assert re.search(rf" {kind} [A-Z].*\(Exit status \d+, code \d+\.\)", text), kind
    assert [event for event in JournalEvent if event not in text] == []
    assert [metric.name for metric in NodeMetrics().collect() if metric.name not in text] == []
    for signal in ("SIGHUP", "SIGTERM", "SIGINT"):
        assert signal in text


def test_page_of_the_program_has_every_exit_status(manual: Path) -> None:
    text = text_of(manual / "update-agent.1").partition(" EXIT STATUS ")[2].partition(" ENVIRONMENT ")[0]
    assert [int(number) for number in re.findall(r"(?:^| )(\d+) [A-Z]", text)] == [int(status) for status in ExitStatus]


def test_failures_have_a_text_for_each_kind_and_no_other() -> None:
    texts = tomllib.loads((REPOSITORY / "systemd/man/failures.toml").read_text())
    assert list(texts) == [str(kind) for kind in Kind]
    assert all(text.endswith((".", "?")) and len(text) < 160 for text in texts.values())


def test_example_with_every_line_uncommented_is_the_default(manual: Path) -> None:
    text = (manual / "example.toml").read_text()
    assert tomllib.loads(text) == {section: {} for section in Settings.__dataclass_fields__}
    document = tomllib.loads(re.sub(r"^#(?! )", "", text, flags=re.MULTILINE))
    values = {f"{section}.{name}": value for section, keys in document.items() for name, value in keys.items()}
    assert values == Settings().to_values()
    assert Settings.of(values) == Settings()


def test_manual_made_twice_from_the_same_is_the_same(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, SOURCE_DATE_EPOCH="86400") for name in ("first", "second"))
    for name in (*PAGES, "example.toml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert '"1970-01-02"' in (first / PAGES[0]).read_text()
