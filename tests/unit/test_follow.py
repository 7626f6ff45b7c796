"""When a client of the daemon takes what it began to have ended."""

from dataclasses import replace

import pytest

from tests.support.node_statuses import PENDING, RUNNING, downloading, failure
from update_agent.api.node import NodeStatus
from update_agent.cli import follow
from update_agent.cli.follow import Ending
from update_agent.errors import Kind, ServiceError

BUSY = replace(RUNNING, **downloading(30))
FAILED = replace(RUNNING, last_error=failure(Kind.HTTP_STATUS, "server: 500"))


def test_ending_is_rest_after_work_even_if_nothing_else_differs() -> None:
    ending = Ending(RUNNING)
    assert [ending(status) for status in (RUNNING, BUSY, RUNNING)] == [False, False, True]


def test_ending_of_what_was_under_way_before_is_rest() -> None:
    assert Ending(BUSY)(RUNNING)


@pytest.mark.parametrize("after", [PENDING, FAILED, replace(RUNNING, last_check_at=5)])
def test_ending_that_nobody_saw_working_is_known_by_its_traces(after: NodeStatus) -> None:
    assert Ending(RUNNING)(after)


def test_ending_without_a_trace_is_taken_for_granted_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(RUNNING)
    assert not ending(RUNNING)
    monkeypatch.setattr(follow, "_QUIET_SECS", -1)
    assert ending(RUNNING)


def test_error_of_an_attempt_that_was_seen_is_raised_even_if_it_is_the_old_one() -> None:
    ending = Ending(FAILED)
    assert not ending(replace(BUSY, last_error=FAILED.last_error))
    with pytest.raises(ServiceError) as caught:
        ending.raise_error(FAILED)
    assert (caught.value.kind, caught.value.message) == (Kind.HTTP_STATUS, "server: 500")


def test_error_of_before_is_not_raised_for_an_attempt_that_nobody_saw() -> None:
    Ending(FAILED).raise_error(FAILED)
    with pytest.raises(ServiceError):
        Ending(RUNNING).raise_error(FAILED)
