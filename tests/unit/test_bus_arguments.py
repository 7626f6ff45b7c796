from typing import Any

import pytest

from update_agent.daemon.bus_arguments import parse_install_options, parse_mark
from update_agent.daemon.ports import InstallOptions
from update_agent.domain.slots import SlotName


def test_parse_install_options_of_nothing_is_the_default() -> None:
    assert parse_install_options({}) == InstallOptions()


def test_parse_install_options_takes_each_option() -> None:
    values: dict[str, Any] = {
        "payload": "/p",
        "ignore_backoff": False,
        "allow_bad": True,
        "allow_downgrade": True,
        "allow_same_version": True,
        "target": "B",
    }
    assert parse_install_options(values) == InstallOptions(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"force": True}, "option 'force': expected one of payload, "),
        ({"allow_bad": 1}, "option allow_bad: expected bool, got int"),
        ({"payload": True}, "option payload: expected str, got bool"),
        ({"payload": "x" * 4097}, "option payload: expected 4096 characters at most, got 4097"),
        ({"target": "C"}, "slot: expected A, B or nothing, got 'C'"),
        ({"target": "a"}, "slot: expected A, B or nothing, got 'a'"),
    ],
)
def test_parse_install_options_of_what_is_wrong_says_so(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        parse_install_options(values)


@pytest.mark.parametrize(("slot", "name"), [("A", SlotName.A), ("B", SlotName.B), ("", None)])
def test_parse_mark_knows_the_slots(slot: str, name: SlotName | None) -> None:
    assert parse_mark(slot, "good") == (name, "good")


@pytest.mark.parametrize(("slot", "mark"), [("A", "Good"), ("A", ""), ("C", "good"), ("ab", "bad")])
def test_parse_mark_of_what_is_wrong_raises(slot: str, mark: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_mark(slot, mark)
