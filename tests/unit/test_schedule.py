import dataclasses

import pytest

from update_agent.domain.schedule import Schedule

MINUTE = 60
HOUR = 60 * MINUTE
REGULAR = 45 * MINUTE
SCHEDULE = Schedule(
    first_delay_secs=7 * MINUTE, interval_secs=REGULAR, jitter_secs=10 * MINUTE, interval_max_secs=4 * HOUR
)


@pytest.mark.parametrize(("random", "delay"), [(0.0, 2), (0.5, 7), (1.0, 12)])
def test_first_check_comes_seven_minutes_after_the_start_give_or_take_five(random: float, delay: int) -> None:
    first = SCHEDULE.first_check(random)
    assert (first.interval_secs, first.delay_secs) == (REGULAR, delay * MINUTE)


def test_first_check_with_more_jitter_than_delay_comes_at_once() -> None:
    assert dataclasses.replace(SCHEDULE, jitter_secs=HOUR).first_check(0.0).delay_secs == 0


@pytest.mark.parametrize(("random", "delay"), [(0.0, 40), (0.5, 45), (0.75, 47.5), (1.0, 50)])
def test_next_check_comes_after_the_regular_interval_give_or_take_five_minutes(random: float, delay: float) -> None:
    following = SCHEDULE.next_check(random)
    assert (following.interval_secs, following.delay_secs) == (REGULAR, delay * MINUTE)


@pytest.mark.parametrize(
    ("last", "poll", "status", "interval"),
    [
        (REGULAR, 0, 500, 90 * MINUTE),
        (REGULAR, 0, 503, 90 * MINUTE),
        (REGULAR + 50, 0, 500, 2 * (REGULAR + 50)),
        (2 * HOUR, 0, 503, 4 * HOUR),
        (2 * HOUR + 1, 0, 503, 4 * HOUR),
        (4 * HOUR, 0, 500, 4 * HOUR),
        (0, 0, 500, 90 * MINUTE),
        (4 * HOUR, 0, 404, REGULAR),
        (4 * HOUR, 0, 501, REGULAR),
        (4 * HOUR, 0, 0, REGULAR),
        (REGULAR, REGULAR + 50, 0, REGULAR + 50),
        (REGULAR, 4 * HOUR + 1, 0, 4 * HOUR),
        (REGULAR, 4 * HOUR - 1, 0, 4 * HOUR - 1),
        (REGULAR, REGULAR - 1, 0, REGULAR),
        (REGULAR, 1, 0, REGULAR),
        (REGULAR, -1, 0, REGULAR),
        (2 * HOUR, REGULAR + 10, 500, REGULAR + 10),
    ],
)
def test_next_check_interval_is_made_by_server_or_errors(last: int, poll: int, status: int, interval: int) -> None:
    following = SCHEDULE.next_check(0.5, last_interval_secs=last, poll_interval_secs=poll, http_status=status)
    assert (following.interval_secs, following.delay_secs) == (interval, interval)


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.5), (1.0, 1.5)])
def test_next_check_of_another_interval_is_shifted_by_half_of_it(random: float, factor: float) -> None:
    assert SCHEDULE.next_check(random, poll_interval_secs=2 * HOUR).delay_secs == 2 * HOUR * factor
    assert SCHEDULE.next_check(random, http_status=500).delay_secs == 90 * MINUTE * factor


def test_next_check_with_more_jitter_than_interval_never_lies_in_the_past() -> None:
    assert dataclasses.replace(SCHEDULE, jitter_secs=3 * HOUR).next_check(0.0).delay_secs == 0


def test_next_check_of_an_operator_who_waits_longer_than_the_maximum_is_left_alone() -> None:
    daily = dataclasses.replace(SCHEDULE, interval_secs=24 * HOUR)
    assert daily.next_check(0.5, http_status=500).interval_secs == 24 * HOUR
    assert daily.next_check(0.5, poll_interval_secs=HOUR).interval_secs == 24 * HOUR
    assert daily.next_check(0.5).delay_secs == 24 * HOUR
