"""Options that several verbs share, and how a verb is added."""

import importlib
import os
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
    _SubParsersAction,
)
from pathlib import Path
from typing import Any, Final, TypeAlias

from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Color, Console
from update_agent.cli.places import Options, Place, PlaceOptions, Runner
from update_agent.config.defaults import DEFAULT_APP_ID, default_board
from update_agent.domain.slots import SlotName
from update_agent.errors import FormatError
from update_agent.formats.release import Version
from update_agent.net.settings import TransferSettings

Verbs: TypeAlias = "_SubParsersAction[ArgumentParser]"
"""What verbs are added to. (argparse gives its type no public name.)"""

_COUNT_MAX: Final = 1024
_DIGITS_MAX: Final = 9
_DAY_SECS: Final = 24 * 60 * 60


def late(module: str, function: str) -> Runner:
    """A verb's function, whose module is imported when it is called: most commands need little of the program."""

    def run(args: Namespace, console: Console) -> ExitStatus:
        runner: Runner = getattr(importlib.import_module(f"update_agent.cli.verbs.{module}"), function)
        return runner(args, console)

    return run


def slot_name(text: str) -> SlotName:
    """A or B, in either case."""
    try:
        return SlotName(text.upper())
    except ValueError:
        raise ArgumentTypeError(f"expected A or B, got {text!r}") from None


def release(text: str) -> str:
    """A version that can be compared with others."""
    try:
        return Version.parse(text).text
    except FormatError as error:
        raise ArgumentTypeError(error.message) from None


def small_count(text: str) -> int:
    """1 to 1024."""
    if not text.isdecimal() or not 1 <= int(text[:_DIGITS_MAX]) <= _COUNT_MAX:
        raise ArgumentTypeError(f"expected 1 to {_COUNT_MAX}, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """More than nothing, and at most a day; longer waits overflow the clocks of some kernels."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _DAY_SECS:
        raise ArgumentTypeError(f"expected more than 0 and at most {_DAY_SECS} seconds, got {text!r}")
    return value


def add_common_options(parser: ArgumentParser, *, is_verb: bool) -> None:
    """What may stand before or after the verb; after it, an option that is not given must not undo one before it."""
    group = parser.add_argument_group("common options")

    def add(*names: str, default: Any, **rest: Any) -> Action:
        return group.add_argument(*names, default=SUPPRESS if is_verb else default, **rest)

    add(
        "--image",
        metavar="DISK",
        type=Path,
        default=None,
        help="disk image or block device to work on (none: ask the daemon of this node)",
    )
    add(
        "--state-dir",
        metavar="DIR",
        type=Path,
        default=None,
        help="with --image: where state is kept (DISK.state; of a block device /var/lib/update-agent/disks/GUID)",
    )
    add("--booted", metavar="A|B", type=slot_name, default=None, help="with --image: the slot that counts as running")
    add("--bus", metavar="ADDRESS", default=None, help=SUPPRESS)
    add("--timeout", metavar="SECS", type=seconds, default=10.0, help="how long the daemon may take to answer (10)")
    add("--json", action="store_true", default=False, help="answer in JSON")
    add("--color", choices=[str(color) for color in Color], default=str(Color.AUTO), help="when to use colour (auto)")
    add("-v", "--verbose", action="count", default=0, help="say more; twice: with tracebacks")


def add_verb(verbs: Verbs, name: str, *, text: str, example: str) -> ArgumentParser:
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


def add_key_option(parser: Options) -> None:
    """Whose signature counts."""
    parser.add_argument(
        "--public-key",
        metavar="PEM|DIR",
        type=Path,
        default=None,
        help="public key, or a folder of them; any of them may have signed, without one nothing is trusted",
    )


def add_workers_option(parser: Options) -> None:
    """How many threads."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=small_count,
        default=os.cpu_count() or 1,
        help="threads that do the work (one per core)",
    )


def add_transfer_options(parser: ArgumentParser) -> None:
    """How data is fetched."""
    group = PlaceOptions(parser, Place.IMAGE, "transfer options, with --image")
    defaults = TransferSettings()
    group.add_argument("--ca", metavar="FILE|DIR", type=Path, help="certificates to trust instead of the system's")
    group.add_argument("--client-cert", metavar="PEM", type=Path, help="certificate and key to identify with")
    group.add_argument("--proxy", metavar="URL", help="proxy for everything ('' for none; else the environment's)")
    group.add_argument("--limit-rate", metavar="BYTES", type=int, help="bytes per second at most")
    group.add_argument(
        "--max-size", metavar="BYTES", type=int, default=defaults.max_bytes, help="refuse a larger payload (16 GiB)"
    )
    group.add_argument(
        "--attempts",
        metavar="N",
        type=small_count,
        help="attempts without a new byte until a URL is given up (10, or what the update server says)",
    )
    group.add_argument(
        "--connect-timeout", metavar="SECS", type=seconds, default=defaults.connect_timeout_secs, help="(30)"
    )
    group.add_argument(
        "--stall-timeout",
        metavar="SECS",
        type=seconds,
        default=defaults.stall_secs,
        help="give up a transfer that stays below 10 bytes per second for so long (90)",
    )


def add_server_options(parser: ArgumentParser) -> None:
    """Who asks the update server."""
    group = PlaceOptions(parser, Place.IMAGE, "update server options, with --image")
    group.add_argument("--app-id", metavar="ID", default=DEFAULT_APP_ID, help="application to ask for")
    group.add_argument("--channel", metavar="NAME", default="stable", help="what to follow (stable)")
    group.add_argument("--board", metavar="NAME", default=default_board(), help="as the server says")
    group.add_argument("--machine-id", metavar="HEX", help="32 hexadecimal digits (the GUID of the disk)")
    group.add_argument(
        "--running-version", metavar="V", type=release, help="release that runs (as recorded for the slot)"
    )
