"""A disk's status as text, and the table of slots that it shares with the status of a node."""

from collections.abc import Sequence
from typing import Final

from update_agent.api.disk import DiskState, SlotState, SlotStatus, Status
from update_agent.api.node import SlotView
from update_agent.cli.console import Console, Style, format_bytes

_GLYPHS: Final[dict[str, tuple[str, Style]]] = {
    SlotState.BOOTED: ("●", Style.GOOD),
    SlotState.NEXT_BOOT: ("↻", Style.WARNING),
    SlotState.BOOTABLE: ("○", Style.GOOD),
    SlotState.UNBOOTABLE: ("✗", Style.DIM),
    SlotState.INCOMPLETE: ("…", Style.WARNING),
}
_UNKNOWN_GLYPH: Final = ("?", Style.WARNING)
_HEADINGS: Final = ("SLOT", "VERSION", "PRIORITY", "TRIES", "SUCCESSFUL", "STATE")
_NUMBERS: Final = frozenset({"PRIORITY", "TRIES"})


def render_status(status: Status, console: Console) -> str:
    """The answer in the first line, then the slots."""
    return "\n".join((_headline(status, console), *slot_table(_views(status), console)))


def render_slots(slots: Sequence[SlotView], console: Console) -> str:
    """The slots with what is known of their partitions and content."""
    lines = list(slot_table(slots, console))
    for slot in slots:
        lines.append(
            f"slot {slot.name}: partition {slot.partition}, {slot.partition_guid}, {format_bytes(slot.size_bytes)}"
        )
        if slot.content_sha256 and slot.state != SlotState.INCOMPLETE:
            lines.append(f"  installed {slot.installed_at}, SHA-256 {slot.content_sha256}")
    return "\n".join(lines)


def slot_table(slots: Sequence[SlotView], console: Console) -> tuple[str, ...]:
    """A line of headings, and one for each slot; glyph, word and colour say the same."""
    rows = [_HEADINGS, *(_row(slot) for slot in slots)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [f"    {console.paint(Style.DIM, _line(rows[0], widths))}"]
    for slot, row in zip(slots, rows[1:], strict=True):
        glyph, style = _look(slot)
        lines.append(f"  {console.paint(style, f'{glyph} {_line(row, widths)}')}")
    return tuple(lines)


def _row(slot: SlotView) -> tuple[str, ...]:
    return (
        slot.name,
        slot.version or "-",
        str(slot.priority),
        str(slot.tries),
        "yes" if slot.successful else "no",
        slot.state.replace("-", " "),
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
        for cell, width, heading in zip(row, widths, _HEADINGS, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _look(slot: SlotView) -> tuple[str, Style]:
    # A newer daemon may know states that this program does not.
    return _GLYPHS.get(slot.state, _UNKNOWN_GLYPH)


def _views(status: Status) -> tuple[SlotView, ...]:
    return tuple(SlotView.of(slot) for slot in status.slots)


def _headline(status: Status, console: Console) -> str:
    booted, following = status.by_name(status.booted), status.by_name(status.next_boot)
    match status.state:
        case DiskState.REBOOT_PENDING:
            is_proven = following is not None and following.slot.flags.successful
            what = "Rolled back" if is_proven else "Update installed"
            return console.paint(Style.BOLD, f"{what}, reboot pending: {_version(booted)} → {_version(following)}")
        case DiskState.INSTALL_INTERRUPTED:
            done = status.interrupted_at_bytes
            how_far = f" after {format_bytes(done)}" if done is not None else ""
            return console.paint(Style.WARNING, f"Install unfinished{how_far}; running {_running(booted)}")
        case DiskState.UNBOOTABLE:
            return console.paint(Style.BAD, "No slot boots: the boot loader will stop with an error")
        case DiskState.IDLE:
            return console.paint(Style.BOLD, f"Running {_running(booted)}, no update pending")


def _running(booted: SlotStatus | None) -> str:
    return f"{_version(booted)} from slot {booted.slot.name}" if booted is not None else "nothing"


def _version(status: SlotStatus | None) -> str:
    return status.version or "unknown version" if status is not None else "nothing"
