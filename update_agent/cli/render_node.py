"""The status of a node as text: first the answer, then the slots, then what explains it."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.cli.console import Console, Style, format_bytes
from update_agent.cli.render import slot_table
from update_agent.domain.machine import State

UNKNOWN_VERSION: Final = "unknown version"

_SPANS: Final = ((24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute"), (1, "second"))
_HEALTH_STYLES: Final = {"good": Style.GOOD, "bad": Style.BAD, "waiting": Style.WARNING}
_NAME_WIDTH: Final = 12


def render_node(status: NodeStatus, console: Console, now: float) -> str:
    """Everything that a person may want to know; `now` is unix seconds."""
    return "\n".join(
        (_first_line(status, console), *slot_table(status.slots, console), *_explanations(status, console, now))
    )


def headline(status: NodeStatus) -> str:
    """What the node is doing, in one line."""
    line = _HEADLINES.get(status.state, _unknown_headline)(status)
    if status.is_reboot_pending and status.state != State.UPDATED_NEED_REBOOT:
        line += f" ({version(status.pending_version)} waits for its reboot)"
    return line


def version(text: str) -> str:
    """A release as it is named to a person."""
    return text or UNKNOWN_VERSION


def update_text(status: NodeStatus) -> str:
    """From which release to which: the one that waits, else the one that is offered."""
    new = status.pending_version if status.is_reboot_pending else status.offered_version
    return f"{version(status.running_version)} → {version(new)}"


def format_time(unix_secs: int) -> str:
    """A time for a person, in UTC as in the JSON document."""
    return dt.datetime.fromtimestamp(unix_secs, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def format_span(secs: float) -> str:
    """How long: in the largest unit that fits."""
    for length, name in _SPANS:
        if secs >= length:
            count = int(secs // length)
            return f"{count} {name}{'s' * (count != 1)}"
    return "no time"


def _first_line(status: NodeStatus, console: Console) -> str:
    style = Style.BAD if not status.next_boot and status.disk else Style.BOLD
    line = console.paint(style, headline(status))
    return f"{line}     channel {status.channel}" if status.channel else line


def _idle_headline(status: NodeStatus) -> str:
    if status.disk and not status.next_boot:
        return "No slot boots: the boot loader will stop with an error"
    if status.interrupted_at_bytes:
        done = f"{format_bytes(status.interrupted_at_bytes)} of {format_bytes(status.offered_size_bytes)}"
        return f"Update interrupted: {update_text(status)}, {done} done; it goes on by itself"
    if status.offered_version:
        size = f" ({format_bytes(status.offered_size_bytes)})" if status.offered_size_bytes else ""
        return f"Update available: {update_text(status)}{size}"
    failed = f"; the last attempt failed: {status.last_error.kind}" if status.last_error else ""
    return f"Running {version(status.running_version)}, no update pending{failed}"


def _pending_headline(status: NodeStatus) -> str:
    proven = any(slot.successful for slot in status.slots if slot.name == status.pending_slot)
    what = "Rolled back" if proven else "Update installed"
    return f"{what}, reboot pending: {update_text(status)}"


def _checking_headline(status: NodeStatus) -> str:
    return f"Asking the update server; running {version(status.running_version)}"


def _available_headline(status: NodeStatus) -> str:
    return f"Beginning to install {version(status.offered_version)}; running {version(status.running_version)}"


def _downloading_headline(status: NodeStatus) -> str:
    return f"Downloading {version(status.offered_version)}{_how_far(status)}{_rate(status)}"


def _verifying_headline(status: NodeStatus) -> str:
    return f"Verifying {version(status.offered_version)}{_how_far(status)}{_rate(status)}"


def _finalizing_headline(status: NodeStatus) -> str:
    return f"Finishing {version(status.offered_version)}: kernel, post-install, boot flags"


def _reporting_headline(status: NodeStatus) -> str:
    return f"Telling the update server about a failure; running {version(status.running_version)}"


def _unknown_headline(status: NodeStatus) -> str:
    return f"In state {status.state}; running {version(status.running_version)}"


_HEADLINES: Final[dict[str, Callable[[NodeStatus], str]]] = {
    State.IDLE: _idle_headline,
    State.CHECKING_FOR_UPDATE: _checking_headline,
    State.UPDATE_AVAILABLE: _available_headline,
    State.DOWNLOADING: _downloading_headline,
    State.VERIFYING: _verifying_headline,
    State.FINALIZING: _finalizing_headline,
    State.UPDATED_NEED_REBOOT: _pending_headline,
    State.REPORTING_ERROR_EVENT: _reporting_headline,
}


def _how_far(status: NodeStatus) -> str:
    done, total = status.progress_done_bytes, status.progress_total_bytes
    if not total:
        return ""
    amount, unit = format_bytes(total).split(" ")
    done_amount, done_unit = format_bytes(done).split(" ")
    shown = done_amount if done_unit == unit else f"{done_amount} {done_unit}"
    return f": {shown} of {amount} {unit} ({100 * done // total} %)"


def _rate(status: NodeStatus) -> str:
    return f", {format_bytes(status.rate_bytes_per_sec)}/s" if status.rate_bytes_per_sec else ""


def _explanations(status: NodeStatus, console: Console, now: float) -> Iterator[str]:
    yield _named("last check", _last_check(status, now))
    if status.next_check_at:
        yield _named("next check", _when(status.next_check_at, now))
    health = f"{status.health}: {status.health_text}" if status.health_text else status.health
    yield _named("this boot", console.paint(_HEALTH_STYLES.get(status.health, Style.DIM), health))
    if status.last_error is not None:
        error = status.last_error
        yield _named("last error", console.paint(Style.BAD, f"{error.message} [{error.kind}]"))
        yield _named("", _when(error.at, now))
        if error.hint:
            yield _named("", f"hint: {error.hint}")
    for release in status.bad_releases:
        yield _named("bad release", f"{version(release.version)}: {release.reason}, {_when(release.at, now)}")


def _named(name: str, text: str) -> str:
    return f"{name + ':' if name else '':{_NAME_WIDTH}} {text}"


def _last_check(status: NodeStatus, now: float) -> str:
    if not status.last_check_at:
        return "never"
    if status.last_success_at >= status.last_check_at:
        return _when(status.last_check_at, now)
    if status.state == State.CHECKING_FOR_UPDATE:
        return f"{_when(status.last_check_at, now)}, not answered yet"
    answered = _when(status.last_success_at, now) if status.last_success_at else "never"
    return f"{_when(status.last_check_at, now)}, failed; last answer: {answered}"


def _when(unix_secs: int, now: float) -> str:
    span = unix_secs - now
    relative = f"in {format_span(span)}" if span >= 1 else f"{format_span(-span)} ago" if span <= -1 else "now"
    return f"{relative} ({format_time(unix_secs)})"
