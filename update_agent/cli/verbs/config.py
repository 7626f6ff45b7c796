"""`config cat`, `config import-cloud-config`, `channel`: what the node is told to do."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.cli.console import Console
from update_agent.config.importing import to_fragment
from update_agent.config.load import Configuration, load
from update_agent.config.paths import Paths
from update_agent.config.reading import decode, read_small
from update_agent.config.schema import MASK, redacted
from update_agent.config.settings import SETTINGS
from update_agent.config.writing import format_value, set_key
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.cloud_config import CloudConfig, parse_cloud_config
from update_agent.host.files import StateFile

Reload = Callable[[Console], bool]
"""Asks the daemon to read its configuration again; False if there is none."""

_CHANNEL = "server.channel"


def run_config_cat(args: Namespace, console: Console) -> ExitStatus:
    """Print every setting and the place that it comes from; what is wrong with the files goes to stderr."""
    configuration = load(Paths(root=args.root))
    if console.is_json:
        console.answer_json(
            {
                "schema": SCHEMA,
                "settings": {
                    key: {"value": _shown(key, origin.value), "from": origin.place}
                    for key, origin in configuration.origins.items()
                },
                "warnings": list(configuration.warnings),
            }
        )
        return ExitStatus.DONE
    _warn(configuration, console)
    console.answer(
        "\n".join(
            f"{key} = {format_value(_shown(key, origin.value))}  # {origin.place}"
            for key, origin in configuration.origins.items()
        )
    )
    return ExitStatus.DONE


def run_config_import(args: Namespace, console: Console, *, reload: Reload) -> ExitStatus:
    """Make a fragment of what a cloud-config document says."""
    paths = Paths(root=args.root)
    text, warnings = to_fragment(_read(args.file))
    for warning in warnings:
        console.warn(f"{args.file}: {warning}")
    if not text:
        raise ConfigurationError(
            Kind.CONFIGURATION, f"{args.file}: expected settings in coreos.update or coreos.locksmith, got none"
        )
    if args.stdout:
        console.answer(text.removesuffix("\n"))
        return ExitStatus.DONE
    output: Path = args.output or paths.imported_fragment
    StateFile(output).replace(text.encode())
    _answer_written(console, paths.shown(output))
    _reload(console, reload)
    return ExitStatus.DONE


def run_channel(args: Namespace, console: Console, *, reload: Reload) -> ExitStatus:
    """Print the channel that the node follows, or choose another."""
    paths = Paths(root=args.root)
    if args.name is None:
        return _show_channel(load(paths), console)
    if not args.name:
        raise ConfigurationError(Kind.USAGE, "channel: expected a name, got nothing")
    path = set_key(paths, _CHANNEL, args.name)
    configuration = load(paths)
    origin = configuration.origins[_CHANNEL]
    if not origin.place.startswith(f"{paths.shown(path)}:"):
        console.warn(f"{origin.place} says {origin.value!r}, which counts more than {paths.shown(path)}")
    _show_channel(configuration, console)
    _reload(console, reload)
    return ExitStatus.DONE


def _show_channel(configuration: Configuration, console: Console) -> ExitStatus:
    origin = configuration.origins[_CHANNEL]
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "channel": origin.value, "from": origin.place})
    else:
        console.answer(f"{origin.value}  # {origin.place}")
    return ExitStatus.DONE


def _answer_written(console: Console, place: str) -> None:
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "file": place})
    else:
        console.answer(place)


def _reload(console: Console, reload: Reload) -> None:
    if reload(console):
        console.say("the daemon was asked to read its configuration again")
    else:
        console.say("the daemon does not run: it reads this when it starts")


def _warn(configuration: Configuration, console: Console) -> None:
    for warning in configuration.warnings:
        console.warn(warning)


def _shown(key: str, value: object) -> object:
    """A value as everybody may see it."""
    if SETTINGS[key].is_secret:
        return MASK if value else ""
    if isinstance(value, list):
        return [redacted(each) for each in value]
    return redacted(value) if isinstance(value, str) else value


def _read(path: Path) -> CloudConfig:
    try:
        data = read_small(path)
        if data is None:
            raise ConfigurationError(Kind.CONFIGURATION, "no such file")
        return parse_cloud_config(decode(data))
    except ConfigurationError as error:
        raise ConfigurationError(Kind.CONFIGURATION, f"{path}: {error.message}") from error
