"""Flatcar's key/value files and os-release(5)."""

import pytest

from update_agent.formats.keyvalue import parse_key_values, parse_os_release


def test_key_values_of_upstreams_own_example_are_the_ten_that_it_has() -> None:
    blob = (
        "A=B\nC=\n=\nFOO=BAR=BAZ\nALIAS='my alias'\nEMPTY=''\nD=\"\"\nTEST=\"this is a test\"\nBAR=BAX\nMISSING=NEWLINE"
    )
    entries = parse_key_values(blob)
    assert {key: entry.value for key, entry in entries.items()} == {
        "A": "B",
        "C": "",
        "": "",
        "FOO": "BAR=BAZ",
        "ALIAS": "my alias",
        "EMPTY": "",
        "D": "",
        "TEST": "this is a test",
        "BAR": "BAX",
        "MISSING": "NEWLINE",
    }
    assert [entry.line for entry in entries.values()] == list(range(1, 11))


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (" A = b ", " A ", " b "),
        ("#A=b", "#A", "b"),
        ("A='", "A", "'"),
        ("A='b", "A", "'b"),
        ("A='b\"", "A", "'b\""),
        ("A=''b''", "A", "'b'"),
        ("A=b\\nc", "A", "b\\nc"),
        ("A=b\r", "A", "b\r"),
    ],
)
def test_key_values_line_is_neither_trimmed_nor_a_comment_nor_unescaped(line: str, key: str, value: str) -> None:
    assert {name: entry.value for name, entry in parse_key_values(line).items()} == {key: value}


def test_key_values_later_duplicate_wins_and_line_without_equals_does_not_count() -> None:
    entries = parse_key_values("A=1\nnothing\n\nA=2\n")
    assert [(key, entry.value, entry.line) for key, entry in entries.items()] == [("A", "2", 4)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("VERSION_ID=4152.2.1", "4152.2.1"),
        ('VERSION_ID="12"', "12"),
        ("VERSION_ID='1$2\\\\'", "1$2\\\\"),
        ('VERSION_ID="a\\"b\\$c\\\\d\\`e"', 'a"b$c\\d`e'),
        ("VERSION_ID=a\\$b", "a$b"),
        ("  VERSION_ID=3  \r", "3"),
        ("VERSION_ID=", ""),
        ("# VERSION_ID=1\nVERSION_ID=2", "2"),
        ("VERSION_ID=1\nVERSION_ID=2", "2"),
    ],
)
def test_os_release_value_is_what_the_shell_makes_of_it(text: str, value: str) -> None:
    assert parse_os_release(text)["VERSION_ID"].value == value


@pytest.mark.parametrize("text", ["", "#VERSION_ID=1", "VERSION_ID", "VERSION ID=1", "1A=b", "=x"])
def test_os_release_without_assignment_is_empty(text: str) -> None:
    assert parse_os_release(text) == {}


def test_os_release_entry_has_its_line() -> None:
    assert parse_os_release("NAME=x\n\nVERSION_ID=1\n")["VERSION_ID"].line == 3
