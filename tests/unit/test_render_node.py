"""What the status of a node says to a person: the first line in every state, and what explains it."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.node_statuses import FINALIZING, MIB, PENDING, RUNNING, VERIFYING, downloading, failure, slot
from update_agent.api.node import NodeStatus
from update_agent.cli.console import Color, Console
from update_agent.cli.render_node import format_span, headline, render_node
from update_agent.domain.machine import State
from update_agent.domain.state import BadRelease
from update_agent.errors import Kind

NOW = 1_790_000_300
OFFER = {"offered_version": "4230.1.0", "offered_size_bytes": 412 * MIB}


def rendered(status: NodeStatus, *, color: Color = Color.NEVER) -> str:
    return render_node(status, Console(color=color), NOW)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "Running 4152.2.1, no update pending"),
        ({"running_version": ""}, "Running unknown version, no update pending"),
        (OFFER, "Update available: 4152.2.1 → 4230.1.0 (412.0 MiB)"),
        ({**OFFER, "offered_size_bytes": 0}, "Update available: 4152.2.1 → 4230.1.0"),
        (
            {"last_error": failure(Kind.PAYLOAD_HASH, "x")},
            "Running 4152.2.1, no update pending; the last attempt failed: payload-hash",
        ),
        (
            {**OFFER, "interrupted_at_bytes": 100 * MIB},
            "Update interrupted: 4152.2.1 → 4230.1.0, 100.0 MiB of 412.0 MiB done; it goes on by itself",
        ),
        ({"next_boot": ""}, "No slot boots: the boot loader will stop with an error"),
        ({"state": "checking-for-update"}, "Asking the update server; running 4152.2.1"),
        ({**OFFER, "state": "update-available"}, "Beginning to install 4230.1.0; running 4152.2.1"),
        ({**OFFER, **downloading(75)}, "Downloading 4230.1.0: 309.0 of 412.0 MiB (75 %), 18.0 MiB/s"),
        ({**OFFER, **downloading(0)}, "Downloading 4230.1.0: 0 bytes of 412.0 MiB (0 %), 18.0 MiB/s"),
        ({"state": "downloading"}, "Downloading unknown version"),
        ({**OFFER, **VERIFYING}, "Verifying 4230.1.0: 1.0 of 1.0 GiB (100 %)"),
        ({**OFFER, **FINALIZING}, "Finishing 4230.1.0: kernel, post-install, boot flags"),
        ({"state": "reporting-error-event"}, "Telling the update server about a failure; running 4152.2.1"),
        ({"state": "dreaming"}, "In state dreaming; running 4152.2.1"),
    ],
)
def test_headline_in_a_state_answers(fields: dict[str, Any], line: str) -> None:
    assert headline(replace(RUNNING, **fields)) == line


def test_headline_of_every_state_is_written_for_it() -> None:
    for state in State:
        assert "In state" not in headline(replace(RUNNING, state=state))


def test_headline_of_a_pending_update_names_both_releases() -> None:
    assert headline(PENDING) == "Update installed, reboot pending: 4152.2.1 → 4230.1.0"


def test_headline_of_a_rollback_does_not_call_it_an_update() -> None:
    back = replace(
        PENDING, pending_version="4081.3.0", slots=(PENDING.slots[0], slot("B", "next-boot", "", successful=True))
    )
    assert headline(back) == "Rolled back, reboot pending: 4152.2.1 → 4081.3.0"


def test_headline_while_busy_still_says_what_waits_for_its_reboot() -> None:
    checking = replace(PENDING, state=State.CHECKING_FOR_UPDATE)
    assert headline(checking) == "Asking the update server; running 4152.2.1 (4230.1.0 waits for its reboot)"


def test_status_has_the_answer_first_and_the_slots_next() -> None:
    lines = rendered(PENDING).splitlines()
    assert lines[:4] == [
        "Update installed, reboot pending: 4152.2.1 → 4230.1.0     channel stable",
        "    SLOT  VERSION   PRIORITY  TRIES  SUCCESSFUL  STATE",
        "  ● A     4152.2.1         1      0  yes         booted",
        "  ↻ B     4230.1.0         2      1  no          next boot",
    ]


def test_status_without_a_channel_or_slots_says_nothing_of_them() -> None:
    lines = rendered(NodeStatus(state="idle")).splitlines()
    assert lines[0] == "Running unknown version, no update pending"
    assert lines[2:] == ["last check:  never", "this boot:   unknown"]


def test_status_explains_when_health_error_and_bad_releases() -> None:
    status = replace(
        RUNNING,
        last_error=failure(Kind.PAYLOAD_HASH, "payload: expected this, got that", "try again", at=NOW - 60),
        bad_releases=(BadRelease(version="4200.0.0", reason="fell back", at=NOW - 2 * 86400),),
    )
    assert rendered(status).splitlines()[4:] == [
        "last check:  5 minutes ago (2026-09-21 14:13:20 UTC)",
        "next check:  in 40 minutes (2026-09-21 14:58:20 UTC)",
        "this boot:   good: all checks held for 30 s",
        "last error:  payload: expected this, got that [payload-hash]",
        "             1 minute ago (2026-09-21 14:17:20 UTC)",
        "             hint: try again",
        "bad release: 4200.0.0: fell back, 2 days ago (2026-09-19 14:18:20 UTC)",
    ]


@pytest.mark.parametrize(
    ("success_at", "text"),
    [
        (NOW - 3600, "now (2026-09-21 14:18:20 UTC), failed; last answer: 1 hour ago (2026-09-21 13:18:20 UTC)"),
        (0, "now (2026-09-21 14:18:20 UTC), failed; last answer: never"),
    ],
)
def test_status_of_a_failed_check_says_when_the_last_answer_was(success_at: int, text: str) -> None:
    status = replace(RUNNING, last_check_at=NOW, last_success_at=success_at)
    assert f"last check:  {text}\n" in rendered(status)


def test_status_of_a_slot_in_a_state_of_a_newer_daemon_is_shown_with_a_question_mark() -> None:
    assert "  ? B     -               0      0  no          on loan" in rendered(
        replace(RUNNING, slots=(slot("B", "on-loan", "", priority=0, tries=0),))
    )


@pytest.mark.parametrize(("health", "code"), [("good", "32"), ("bad", "31"), ("waiting", "33"), ("off", "2")])
def test_status_in_colour_says_the_same(health: str, code: str) -> None:
    status = replace(RUNNING, health=health, health_text="")
    assert f"this boot:   \x1b[{code}m{health}\x1b[0m" in rendered(status, color=Color.ALWAYS)
    assert rendered(status, color=Color.ALWAYS).startswith(
        "\x1b[1mRunning 4152.2.1, no update pending\x1b[0m     channel"
    )


@pytest.mark.parametrize(
    ("secs", "text"),
    [(0.4, "no time"), (1, "1 second"), (119, "1 minute"), (7200, "2 hours"), (90000, "1 day")],
)
def test_span_is_told_in_its_largest_unit(secs: float, text: str) -> None:
    assert format_span(secs) == text
