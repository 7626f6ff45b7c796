"""Options of verbs that use the network, and the values they make."""

import platform
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

from update_agent import __version__
from update_agent.cli.machine import Machine
from update_agent.domain.install import recorded_version
from update_agent.domain.session import UpdateSession
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.omaha import AppInfo, InstallSource
from update_agent.net.settings import TransferSettings

DEFAULT_APP_ID: Final = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
"""Flatcar Container Linux; servers for other products have other applications."""

_BOARDS: Final = {"x86_64": "amd64-usr", "aarch64": "arm64-usr"}
_UNKNOWN_VERSION: Final = "0.0.0"


def add_transfer_options(parser: ArgumentParser) -> None:
    """How data is fetched."""
    group = parser.add_argument_group("transfer options")
    defaults = TransferSettings()
    group.add_argument("--ca", metavar="FILE|DIR", type=Path, help="certificates to trust instead of the system's")
    group.add_argument("--client-cert", metavar="PEM", type=Path, help="certificate and key to identify with")
    group.add_argument("--proxy", metavar="URL", help="proxy for everything ('' for none; else the environment's)")
    group.add_argument("--limit-rate", metavar="BYTES", type=int, help="bytes per second at most")
    group.add_argument(
        "--max-size", metavar="BYTES", type=int, default=defaults.max_bytes, help="refuse a larger payload (16 GiB)"
    )
    group.add_argument(
        "--connect-timeout", metavar="SECS", type=float, default=defaults.connect_timeout_secs, help="(30)"
    )
    group.add_argument(
        "--stall-timeout",
        metavar="SECS",
        type=float,
        default=defaults.stall_secs,
        help="give up a transfer that stays below 10 bytes per second for so long (90)",
    )


def add_server_options(parser: ArgumentParser) -> None:
    """Who asks the update server."""
    group = parser.add_argument_group("update server options")
    group.add_argument("--app-id", metavar="ID", default=DEFAULT_APP_ID, help="application to ask for")
    group.add_argument("--channel", metavar="NAME", default="stable", help="what to follow (stable)")
    group.add_argument(
        "--board", metavar="NAME", default=_BOARDS.get(platform.machine(), ""), help="as the server says"
    )
    group.add_argument("--machine-id", metavar="HEX", help="32 hexadecimal digits (the GUID of the disk)")
    group.add_argument("--running-version", metavar="V", help="release that runs (as recorded for the slot)")


def transfer_settings(args: Namespace, *, max_failures_per_url: int | None = None) -> TransferSettings:
    """The settings that the options make.

    Raises:
        ConfigurationError: configuration.
    """
    defaults = TransferSettings()
    return TransferSettings(
        connect_timeout_secs=args.connect_timeout,
        stall_secs=args.stall_timeout,
        max_bytes=args.max_size,
        rate_limit_bytes_per_sec=args.limit_rate,
        proxy=args.proxy,
        ca_file=args.ca,
        client_cert=args.client_cert,
        max_failures_per_url=max_failures_per_url or defaults.max_failures_per_url,
    )


def open_session(args: Namespace, machine: Machine) -> UpdateSession:
    """A conversation with the server of `--server` about the disk.

    Raises:
        ConfigurationError: usage, configuration.
    """
    # Only verbs that use the network pay for the import.
    from update_agent.net.omaha_client import OmahaClient

    if not args.server:
        raise ConfigurationError(Kind.USAGE, "expected an update server, got none", hint="give --server URL")
    booted = machine.slots.booted(machine.booted)
    version = args.running_version or recorded_version(machine.records, booted) or _UNKNOWN_VERSION
    app = AppInfo(
        app_id=args.app_id,
        version=version,
        track=args.channel,
        boot_id="{" + str(machine.disk.disk_guid) + "}",
        machine=platform.machine(),
        aleph_version=version,
        machine_id=args.machine_id or machine.disk.disk_guid.hex,
        board=args.board,
    )
    return UpdateSession(
        server=OmahaClient(args.server, transfer_settings(args)),
        url=args.server,
        app=app,
        updater=f"update_agent-{__version__}",
        install_source=InstallSource.ON_DEMAND,
    )
