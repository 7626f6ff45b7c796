"""Each call in a process of its own: what is given up does not come back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from update_agent.host.confinement import FILES_AND_MOUNTS

ROOT = Path(__file__).parents[2]
NET_ADMIN, SYS_ADMIN, SYSLOG = 12, 21, 34


def status_after(code: str) -> dict[str, str]:
    """What the kernel says about a process that has run `code`."""
    tail = "; import pathlib; print(pathlib.Path('/proc/self/status').read_text())"
    line = [sys.executable, "-c", f"from update_agent.host.confinement import *; {code}{tail}"]
    done = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    return {name: value.strip() for name, _, value in (each.partition(":") for each in done.stdout.splitlines())}


def output_after(code: str, program: str) -> str:
    line = [sys.executable, "-c", f"import os; from update_agent.host.confinement import *; {code}; {program}"]
    return subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def capabilities(text: str) -> set[int]:
    return {number for number in range(64) if int(text, 16) >> number & 1}


def test_give_up_privileges_keeps_what_disks_and_mounts_need_and_nothing_else() -> None:
    before = status_after("pass")
    after = status_after("give_up_privileges()")
    for name in ("CapBnd", "CapEff", "CapPrm", "CapInh"):
        # Without the privilege to do so, the bounding set stays; it is of no use then.
        if name != "CapBnd" or os.geteuid() == 0:
            assert capabilities(after[name]) == capabilities(before[name]) & FILES_AND_MOUNTS
    assert (before["NoNewPrivs"], after["NoNewPrivs"]) == ("0", "1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_give_up_privileges_counts_for_programs_started_later() -> None:
    text = output_after("give_up_privileges()", "os.execvp('grep', ['grep', 'CapEff', '/proc/self/status'])")
    kept = capabilities(text.split()[1])
    assert kept <= FILES_AND_MOUNTS
    assert SYS_ADMIN in kept
    assert not kept & {NET_ADMIN, SYSLOG}


def test_give_up_privileges_of_the_second_word_of_the_sets_too() -> None:
    kept = capabilities(status_after("give_up_privileges(frozenset({34}))")["CapPrm"])
    assert kept <= {SYSLOG}


def test_step_back_lowers_processor_disk_and_memory() -> None:
    text = output_after(
        "step_back(7, 300)",
        "print(os.nice(0), open('/proc/self/oom_score_adj').read().strip(), flush=True);"
        "os.execvp('ionice', ['ionice', '-p', str(os.getpid())])",
    )
    assert text.splitlines() == ["7 300", "best-effort: prio 7"]


def test_step_back_leaves_a_higher_score_alone() -> None:
    text = output_after("step_back(0, 800); step_back(0, 300)", "print(open('/proc/self/oom_score_adj').read())")
    assert text == "800"
