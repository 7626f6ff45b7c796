"""With `--image` a verb works on that disk, without it asks the daemon; some verbs and options know only one."""

from argparse import SUPPRESS, Action, ArgumentParser, Namespace, _ArgumentGroup
from collections.abc import Callable
from enum import Enum, auto, unique
from typing import Any, Final, Protocol

from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Console
from update_agent.errors import ConfigurationError, Kind

Runner = Callable[[Namespace, Console], ExitStatus]

_TABLE: Final = "options_of_places"
_COMMON_IMAGE_OPTIONS: Final = (("state_dir", "--state-dir"), ("booted", "--booted"))


@unique
class Place(Enum):
    """Where a verb does its work."""

    IMAGE = auto()
    DAEMON = auto()


class Options(Protocol):
    """What options are added to: a parser, a group of it, or those of one place."""

    def add_argument(self, *names: str, **rest: Any) -> Action:
        """As `ArgumentParser.add_argument`."""


class PlaceOptions:
    """Options of a verb that mean something only in one place; elsewhere they are wrong use, and not ignored."""

    def __init__(self, parser: ArgumentParser, place: Place, title: str) -> None:
        self._group: _ArgumentGroup = parser.add_argument_group(title)
        self._place = place
        if parser.get_default(_TABLE) is None:
            parser.set_defaults(**{_TABLE: {}})
        self._table: dict[str, tuple[Place, str, Any]] = parser.get_default(_TABLE)

    def add_argument(self, *names: str, default: Any = None, **rest: Any) -> Action:
        """As `ArgumentParser.add_argument`; the default is filled in once it is known that nothing was given."""
        if rest.get("action") == "store_true":
            default = False
        action = self._group.add_argument(*names, default=SUPPRESS, **rest)
        self._table[action.dest] = (self._place, names[0], default)
        return action


def by_place(*, image: Runner | None, daemon: Runner | None) -> Runner:
    """One function for a verb: that of the place that the options name.

    The function raises `ConfigurationError` (usage) when the verb or an option knows only the other place.
    """

    def run(args: Namespace, console: Console) -> ExitStatus:
        place = Place.DAEMON if args.image is None else Place.IMAGE
        runner = daemon if place is Place.DAEMON else image
        if runner is None:
            raise _wrong_place(args, place)
        _settle_options(args, place)
        return runner(args, console)

    return run


def _wrong_place(args: Namespace, place: Place) -> ConfigurationError:
    if place is Place.DAEMON:
        return ConfigurationError(
            Kind.USAGE,
            f"{args.verb}: expected a disk to work on, got none",
            hint="give --image DISK, an image file or a block device: the daemon does not do this",
        )
    return ConfigurationError(
        Kind.USAGE,
        f"{args.verb}: expected no --image, got {args.image}",
        hint="this is about the node and its daemon: leave --image away",
    )


def _settle_options(args: Namespace, place: Place) -> None:
    if place is Place.DAEMON:
        for name, option in _COMMON_IMAGE_OPTIONS:
            if getattr(args, name) is not None:
                raise _wrong_option(option, place)
    table: dict[str, tuple[Place, str, Any]] = getattr(args, _TABLE, {})
    for name, (belongs, option, default) in table.items():
        if not hasattr(args, name):
            setattr(args, name, default)
        elif belongs is not place:
            raise _wrong_option(option, place)


def _wrong_option(option: str, place: Place) -> ConfigurationError:
    if place is Place.DAEMON:
        return ConfigurationError(
            Kind.USAGE,
            f"{option}: works only with --image DISK",
            hint="the daemon goes by its configuration: update-agent config cat",
        )
    return ConfigurationError(Kind.USAGE, f"{option}: does not work with --image, only with the daemon")
