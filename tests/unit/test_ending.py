import pytest

from update_agent.domain.ending import Ending
from update_agent.domain.messages import Checked, Failed, Installed, Message, NothingNew, Reported
from update_agent.errors import InterruptedByUserError, Kind

STOPPED = Failed(kind="interrupted", message="stopped")
INSTALLED = Installed(slot="B", version="2.0.0", previous_version="1.0.0", size_bytes=1)


@pytest.fixture
def told() -> list[Message]:
    return []


@pytest.fixture
def ending(told: list[Message]) -> Ending:
    return Ending(told.append)


@pytest.mark.parametrize("last", [NothingNew(), INSTALLED, Failed(kind="transfer", message="no")])
def test_tell_after_the_end_passes_on_only_that_it_was_reported(
    ending: Ending, told: list[Message], last: Message
) -> None:
    messages = [Checked(), last, Checked(), INSTALLED, STOPPED, Reported(was_delivered=True)]
    for message in messages:
        ending.tell(message)
    assert told == [Checked(), last, Reported(was_delivered=True)]


def test_abandon_in_the_middle_tells_the_failure_and_nothing_after(ending: Ending, told: list[Message]) -> None:
    ending.tell(Checked())
    assert ending.abandon(STOPPED) is STOPPED
    ending.tell(INSTALLED)
    assert told == [Checked(), STOPPED]


def test_abandon_after_the_end_says_what_the_end_was(ending: Ending, told: list[Message]) -> None:
    ending.tell(NothingNew())
    assert ending.abandon(STOPPED) == NothingNew()
    assert told == [NothingNew()]


def test_commit_after_abandon_is_refused(ending: Ending) -> None:
    ending.abandon(STOPPED)
    with pytest.raises(InterruptedByUserError) as caught:
        ending.commit()
    assert caught.value.kind is Kind.INTERRUPTED


def test_abandon_after_commit_has_to_wait_until_it_is_settled(ending: Ending, told: list[Message]) -> None:
    ending.commit()
    assert ending.abandon(STOPPED) is None
    assert told == []
    ending.settle(INSTALLED)
    assert ending.abandon(STOPPED) is INSTALLED
    ending.tell(INSTALLED)
    assert told == [INSTALLED]


def test_abandon_after_a_failure_past_the_commit_says_that(ending: Ending, told: list[Message]) -> None:
    ending.commit()
    failure = Failed(kind="device-io", message="no")
    ending.tell(failure)
    assert ending.abandon(STOPPED) is failure
    assert told == [failure]
