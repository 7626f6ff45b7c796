"""Options that several verbs share."""

import os
from argparse import SUPPRESS, Action, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from update_agent.cli.console import Color
from update_agent.domain.slots import SlotName

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def slot_name(text: str) -> SlotName:
    """A or B, in either case."""
    try:
        return SlotName(text.upper())
    except ValueError:
        raise ArgumentTypeError(f"expected A or B, got {text!r}") from None


def add_common_options(parser: ArgumentParser, *, is_verb: bool) -> None:
    """What may stand before or after the verb; after it, an option that is not given must not undo one before it."""
    group = parser.add_argument_group("common options")

    def add(*names: str, default: Any, **rest: Any) -> Action:
        return group.add_argument(*names, default=SUPPRESS if is_verb else default, **rest)

    add("--image", metavar="DISK", type=Path, default=None, help="disk image or block device to work on")
    add("--state-dir", metavar="DIR", type=Path, default=None, help="where checkpoints are kept (DISK.state)")
    add("--booted", metavar="A|B", type=slot_name, default=None, help="the slot that counts as running")
    add("--json", action="store_true", default=False, help="answer in JSON")
    add("--color", type=Color, choices=tuple(Color), default=Color.AUTO, help="when to use colour (auto)")
    add("-v", "--verbose", action="count", default=0, help="say more; twice: with tracebacks")


def add_verb(verbs: "_SubParsersAction[ArgumentParser]", name: str, *, text: str, example: str) -> ArgumentParser:
    """A verb with its help and an example."""
    parser = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common_options(parser, is_verb=True)
    return parser


def add_key_option(parser: ArgumentParser) -> None:
    """Whose signature counts."""
    parser.add_argument(
        "--public-key",
        metavar="PEM|DIR",
        type=Path,
        default=None,
        help="public key, or a folder of them; any of them may have signed, without one nothing is trusted",
    )


def add_workers_option(parser: ArgumentParser) -> None:
    """How many threads."""
    parser.add_argument(
        "--workers", metavar="N", type=int, default=os.cpu_count() or 1, help="threads that do the work (one per core)"
    )
