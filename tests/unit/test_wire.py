import pytest

from update_agent.errors import FormatError, Kind
from update_agent.formats.wire import Shape, check_counts


def refuse(what: str) -> FormatError:
    return FormatError(Kind.MANIFEST_MALFORMED, what)


LEAF = Shape(name="leaves", max_count=3)
TREE = Shape(name="trees", max_count=1, children={1: Shape(name="branches", max_count=2, children={2: LEAF})})

VARINT = b"\x18\xff\x01"
FIXED64 = b"\x19" + bytes(8)
FIXED32 = b"\x1d" + bytes(4)
TEXT = b"\x22\x03abc"
BRANCH_OF_TWO = b"\x0a\x04" + b"\x12\x00" * 2


@pytest.mark.parametrize("data", [b"", VARINT, FIXED64, FIXED32, TEXT, BRANCH_OF_TWO, b"\x92\x03\x00", b"\x0a\x80\x00"])
def test_counts_of_a_small_message_are_accepted(data: bytes) -> None:
    check_counts(data, TREE, max_fields=10, refuse=refuse)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x00" * 3, "at most 2 branches"),
        (BRANCH_OF_TWO * 2, "at most 3 leaves"),
        (VARINT * 11, "at most 10 fields"),
        (b"\x0a\x05" + BRANCH_OF_TWO[2:], "longer than what holds it"),
        (b"\x0a\x02\x12\x01\x00", "longer than what holds it"),
        (b"\x0a", "a number does not end"),
        (b"\x0a\x80", "a number does not end"),
        (b"\x80", "a number does not end"),
        (b"\x18" + b"\xff" * 10 + b"\x00", "a number does not end"),
        (b"\x0a\x02\x18\xff\x01", "a number does not end"),
        (FIXED64[:-1], "longer than what holds it"),
        (FIXED32[:-1], "longer than what holds it"),
        (b"\x00\x00", "0 is no field number"),
        (b"\x8a\x80\x80\x80\x10\x00", "536870913 is no field number"),
        (b"\x0b\x0c", "wire type 3 is not in use"),
    ],
)
def test_message_that_is_too_much_or_broken_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        check_counts(data, TREE, max_fields=10, refuse=refuse)
    assert caught.value.kind is Kind.MANIFEST_MALFORMED


def test_leaves_outside_of_a_branch_are_not_counted() -> None:
    check_counts(b"\x12\x00" * 9, TREE, max_fields=10, refuse=refuse)
