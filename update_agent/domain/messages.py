"""What the child process that checks and installs tells the daemon: one JSON object per line.

The daemon believes none of it blindly: a line that is no message, or that the state does not allow, counts as a failure
of the child. Nothing here decides anything about what boots; that is on the disk.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from update_agent.domain.progress import Phase
from update_agent.domain.state import Backoff
from update_agent.errors import FormatError, Kind

TEXT_CHARS_MAX: Final = 4096
"""Of a longer text the rest is left out."""

LINE_BYTES_MAX: Final = 256 * 1024
"""JSON needs up to 12 bytes for a character, and no message has more than four texts."""

_NUMBER_MAX: Final = (1 << 63) - 1
"""What D-Bus can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The server answered. `poll_interval_secs` is what it wants, 0 for nothing said."""

    poll_interval_secs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingNew:
    """There is nothing to install.

    Attributes:
        kind: empty when the server has nothing; else why its offer is not taken (same-version, downgrade, bad-release,
            backoff).
        message, hint: as an error's.
        version: what was offered, or empty.
        omaha_code: as reported to the server, 0 if nothing was.
    """

    kind: str = ""
    message: str = ""
    hint: str = ""
    version: str = ""
    omaha_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A release that will now be installed, or, after a mere check, could be."""

    version: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTaken:
    """The target slot is unbootable now; what waited in it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """A point on the way, at most ten times a second."""

    phase: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffChanged:
    """To be kept for the next attempt."""

    backoff: Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It went wrong; the server is about to be told.

    Attributes:
        kind, message, hint: of the error.
        omaha_code: with flags, as the server is told.
        http_status: of the check, 0 if that did not fail by its status.
    """

    kind: str
    message: str
    hint: str = ""
    omaha_code: int = 0
    http_status: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The release boots next.

    Attributes:
        slot: A or B.
        version: of the release, or empty.
        previous_version: what runs, or empty.
        size_bytes: of the payload.
        key: name of the key that had signed; empty if the slot held the release already.
        resumed_at_bytes: what an earlier attempt had done.
    """

    slot: str
    version: str
    previous_version: str
    size_bytes: int
    key: str = ""
    resumed_at_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """The server was told about the failure, or could not be."""

    was_delivered: bool


Message: TypeAlias = (
    Checked | NothingNew | Offered | TargetTaken | Advanced | BackoffChanged | Failed | Installed | Reported
)

_FORMS: Final[dict[str, type[Message]]] = {
    form.__name__: form
    for form in (Checked, NothingNew, Offered, TargetTaken, Advanced, BackoffChanged, Failed, Installed, Reported)
}


def to_line(message: Message) -> bytes:
    """One line of JSON, at most `LINE_BYTES_MAX` bytes long."""
    return json.dumps({"type": type(message).__name__, **_cleaned(asdict(message))}).encode() + b"\n"


def _cleaned(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _cleaned_value(value) for name, value in values.items()}


def _cleaned_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _cleaned(value)
    if not isinstance(value, str):
        return value
    # Names of files may hold any bytes; what is no text cannot go over D-Bus.
    return value[:TEXT_CHARS_MAX].replace("\0", "?").encode(errors="replace").decode()


def from_line(line: bytes) -> Message:
    """The message in a line.

    Raises:
        FormatError: message-malformed, for anything that `to_line` did not write.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        form = _FORMS[values.pop("type")]
        if form is BackoffChanged:
            values["backoff"] = Backoff(**values["backoff"])
        message = form(**values)
        _check(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            Kind.MESSAGE_MALFORMED, f"message: expected one of the child's, got {line[:100]!r}"
        ) from error
    return message


def _check(message: Message) -> None:
    if isinstance(message, BackoffChanged):
        _check_values(message.backoff)
        return
    _check_values(message)
    if isinstance(message, Advanced):
        Phase(message.phase)


def _check_values(values: object) -> None:
    """Every field has the type of its annotation and can go over D-Bus."""
    for name, wanted in type(values).__annotations__.items():
        value = getattr(values, name)
        if type(value) is not wanted:
            raise TypeError(name)
        if wanted is int and not 0 <= value <= _NUMBER_MAX:
            raise ValueError(name)
        if wanted is str and (len(value) > TEXT_CHARS_MAX or "\0" in value):
            raise ValueError(name)
        if wanted is str:
            value.encode()  # half a surrogate pair raises
