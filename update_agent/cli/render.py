"""A disk's status as text."""

from typing import Final

from update_agent.api.disk import DiskState, SlotState, SlotStatus, Status
from update_agent.cli.console import Console, Style, format_bytes

_GLYPHS: Final = {
    SlotState.BOOTED: ("●", Style.GOOD),
    SlotState.NEXT_BOOT: ("↻", Style.WARNING),
    SlotState.BOOTABLE: ("○", Style.GOOD),
    SlotState.UNBOOTABLE: ("✗", Style.DIM),
    SlotState.INCOMPLETE: ("…", Style.WARNING),
}
_HEADINGS: Final = ("SLOT", "VERSION", "PRIORITY", "TRIES", "SUCCESSFUL", "STATE")
_NUMBERS: Final = frozenset({"PRIORITY", "TRIES"})


def render_status(status: Status, console: Console) -> str:
    """The answer in the first line, then the slots."""
    return "\n".join((_headline(status, console), *_table(status, console)))


def render_slots(status: Status, console: Console) -> str:
    """The slots with what is known of their partitions and content."""
    lines = list(_table(status, console))
    for slot_status in status.slots:
        slot, record = slot_status.slot, slot_status.record
        lines.append(f"slot {slot.name}: partition {slot.number}, {slot.unique_guid}, {format_bytes(slot.size_bytes)}")
        if record is not None and record.is_complete:
            lines.append(f"  installed {record.installed_at}, SHA-256 {record.sha256}")
    return "\n".join(lines)


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


def _table(status: Status, console: Console) -> tuple[str, ...]:
    rows = [_HEADINGS] + [
        (
            str(slot_status.slot.name),
            slot_status.version or "-",
            str(slot_status.slot.flags.priority),
            str(slot_status.slot.flags.tries),
            "yes" if slot_status.slot.flags.successful else "no",
            slot_status.state.replace("-", " "),
        )
        for slot_status in status.slots
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for cell, width, heading in zip(row, widths, _HEADINGS, strict=True)
        ]
        text = "  ".join(cells).rstrip()
        if number == 0:
            lines.append(f"    {console.paint(Style.DIM, text)}")
        else:
            glyph, style = _GLYPHS[status.slots[number - 1].state]
            lines.append(f"  {console.paint(style, f'{glyph} {text}')}")
    return tuple(lines)
