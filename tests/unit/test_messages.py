import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from update_agent.domain.messages import (
    LINE_BYTES_MAX,
    TEXT_CHARS_MAX,
    Advanced,
    BackoffChanged,
    Checked,
    Failed,
    Installed,
    Message,
    NothingNew,
    Offered,
    Reported,
    TargetTaken,
    from_line,
    to_line,
)
from update_agent.domain.state import Backoff
from update_agent.errors import FormatError, Kind

MESSAGES: list[Message] = [
    Checked(poll_interval_secs=3600),
    NothingNew(),
    NothingNew(kind="backoff", message="release 2: waits", hint="wait", version="2.0.0", omaha_code=40 | 1 << 28),
    Offered(version="2.0.0", size_bytes=(1 << 63) - 1),
    TargetTaken(),
    Advanced(phase="downloading", done_bytes=1, total_bytes=2),
    BackoffChanged(backoff=Backoff(signature="a\nb", attempt_number=1, url_index=2, url_failure_count=3, expiry_at=4)),
    Failed(kind="transfer", message="x: „no“ \u2028", hint="", omaha_code=9, http_status=500),
    Installed(slot="B", version="2.0.0", previous_version="", size_bytes=1, key="k.pem", resumed_at_bytes=5),
    Reported(was_delivered=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_survives_the_way_through_a_line(message: Message) -> None:
    line = to_line(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert from_line(line) == message


def test_message_with_endless_text_fits_into_a_line() -> None:
    endless = "\U0001f600" * 10**6
    line = to_line(NothingNew(kind=endless, message=endless, hint=endless, version=endless))
    assert len(line) <= LINE_BYTES_MAX
    cut = endless[:TEXT_CHARS_MAX]
    assert from_line(line) == NothingNew(kind=cut, message=cut, hint=cut, version=cut)


@pytest.mark.parametrize(
    ("text", "cleaned"), [("a\0b", "a?b"), ("/boot/\udcff", "/boot/?"), ("\ud800\udc00", "??"), ("ä\n", "ä\n")]
)
def test_message_with_what_is_no_text_is_cleaned(text: str, cleaned: str) -> None:
    assert from_line(to_line(Failed(kind="transfer", message=text))) == Failed(kind="transfer", message=cleaned)


def line_of(**values: object) -> bytes:
    return json.dumps(values).encode()


ADVANCED = {"type": "Advanced", "phase": "copying", "done_bytes": 1, "total_bytes": 2}
BACKOFF = {"signature": "s", "attempt_number": 1, "url_index": 2, "url_failure_count": 3, "expiry_at": 4}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        b"Traceback (most recent call last):",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"type": "Checked", "poll_interval_secs": ' + b"9" * 5000 + b"}",
        line_of(type="Nonsense"),
        line_of(type=["Checked"]),
        line_of(type="Checked", poll_interval_secs="1"),
        line_of(type="Checked", poll_interval_secs=1.0),
        line_of(type="Checked", poll_interval_secs=True),
        line_of(type="Checked", poll_interval_secs=None),
        line_of(type="Checked", poll_interval_secs=-1),
        line_of(type="Checked", poll_interval_secs=1 << 63),
        line_of(type="Checked", other=1),
        line_of(type="Reported"),
        line_of(type="Reported", was_delivered=1),
        line_of(**{**ADVANCED, "phase": "dancing"}),
        line_of(**{**ADVANCED, "phase": 1}),
        line_of(**{**ADVANCED, "done_bytes": -1}),
        line_of(type="Failed", kind="transfer", message_="x"),
        line_of(type="Offered", version="x" * (TEXT_CHARS_MAX + 1), size_bytes=1),
        line_of(type="Offered", version="\0", size_bytes=1),
        line_of(type="Offered", version="\ud800", size_bytes=1),
        line_of(type="BackoffChanged"),
        line_of(type="BackoffChanged", backoff=[]),
        line_of(type="BackoffChanged", backoff={**BACKOFF, "other": 1}),
        line_of(type="BackoffChanged", backoff={**BACKOFF, "signature": 1}),
        line_of(type="BackoffChanged", backoff={**BACKOFF, "expiry_at": -1}),
    ],
)
def test_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(FormatError, match="message: expected one of the child's, got") as caught:
        from_line(line)
    assert caught.value.kind is Kind.MESSAGE_MALFORMED
    assert len(caught.value.message) < 600


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_line_of_any_bytes_raises_nothing_else(line: bytes) -> None:
    with pytest.raises(FormatError):
        from_line(line)
