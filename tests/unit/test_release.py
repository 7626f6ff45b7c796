import itertools

import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.release import Version

# Semantic Versioning 2.0.0, item 11, with some from the field between.
ASCENDING = (
    "0",
    "0.0.1-alpha",
    "0.0.1",
    "1.0.0-1",
    "1.0.0-9",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.1.0",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.0.1",
    "1.2.3.4",
    "1.9",
    "1.10",
    "4152.2.1",
    "4230.1.0",
    "4230.1.0.0.0.0.0.1",
)


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(ASCENDING, 2)))
def test_order_of_two_versions_is_that_of_the_list(older: str, newer: str) -> None:
    low, high = Version.parse(older), Version.parse(newer)
    assert low < high
    assert high > low
    assert low != high
    assert low <= high


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.2", "1.2.0"),
        ("1.0.0.0", "1"),
        ("0", "0.0.0"),
        ("4230.1.0+nightly-20260101", "4230.1.0"),
        ("1.0-rc.1+a", "1.0.0-rc.1+b"),
        ("2026.01.05", "2026.1.5"),
    ],
)
def test_versions_that_differ_in_spelling_only_are_equal(one: str, other: str) -> None:
    assert Version.parse(one) == Version.parse(other)
    assert hash(Version.parse(one)) == hash(Version.parse(other))
    assert not Version.parse(one) < Version.parse(other)


def test_text_is_kept() -> None:
    assert str(Version.parse("4230.1.0+nightly-20260101")) == "4230.1.0+nightly-20260101"
    assert repr(Version("1.0")) == "Version(text='1.0')"


def test_comparison_with_something_else_is_unequal() -> None:
    assert Version("1.0") != "1.0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".1",
        "1..2",
        "v1.0",
        " 1.0",
        "1.0\n",
        "1.0-",
        "1.0-a..b",
        "1.0+",
        "1.0+a+b",
        "1.2.3.4.5.6.7.8.9",
        "1234567890123456789",
        "1.0-\u00e4",
        "\u0661.0",
        "-1",
        "1.0-" + "a" * 125,
        "1" * 100_000,
    ],
)
def test_parse_something_else_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Version.parse(text)
    assert caught.value.kind is Kind.VERSION_MALFORMED
    assert len(caught.value.message) < 300


def test_parse_longest_version_is_accepted() -> None:
    text = "1.0-" + "9" * 124
    assert Version.parse(text).text == text
