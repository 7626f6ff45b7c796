"""The README says what the programs say."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from update_agent.domain.machine import Machine
from update_agent.errors import Kind

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HELP_BLOCKS = dict(re.findall(r"<!-- help: (\S+) -->\n```\n(.*?)\n```\n", README, re.DOTALL))
MODULES = {"update-agent": "update_agent.cli.main", "update-agentd": "update_agent.daemon.main"}


@pytest.mark.parametrize("program", MODULES)
def test_help_in_the_readme_is_what_the_program_prints(program: str) -> None:
    command = [sys.executable, "-m", MODULES[program], "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT, timeout=60)
    assert HELP_BLOCKS[program] == said.stdout.rstrip("\n")


def test_states_picture_has_every_transition_of_the_machine() -> None:
    arrows = re.findall(r"^    (?:IDLE|[A-Z_]+) --> [A-Z_]+ : (.+)$", README, re.MULTILINE)
    named = {name.strip() for arrow in arrows for name in arrow.split(",")}
    assert named == {name for name in vars(Machine) if not name.startswith("_") and name != "snapshot"}


def test_failures_table_has_every_kind_as_the_manual_explains_it() -> None:
    table = README.partition("<!-- failures -->")[2].partition("<!-- end -->")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", table, re.MULTILINE))
    texts = tomllib.loads((ROOT / "systemd" / "man" / "failures.toml").read_text(encoding="utf-8"))
    assert rows == texts
    assert set(rows) == {str(kind) for kind in Kind}


def test_verbs_that_the_readme_shows_exist() -> None:
    verbs = set(re.findall(r"^    ([a-z-]+)  ", HELP_BLOCKS["update-agent"], re.MULTILINE))
    shown = set(re.findall(r"^    update-agent (?:--image DISK )?([a-z][a-z-]*)", README, re.MULTILINE))
    assert shown
    assert shown <= verbs
