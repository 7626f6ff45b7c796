"""What the options of verbs that use the network make."""

import platform
from argparse import Namespace
from typing import Final

from update_agent import __version__
from update_agent.cli.machine import Machine
from update_agent.domain.install import recorded_version
from update_agent.domain.session import UpdateSession
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.omaha import AppInfo, InstallSource
from update_agent.net.settings import TransferSettings

_UNKNOWN_VERSION: Final = "0.0.0"


def transfer_settings(args: Namespace, *, max_failures_per_url: int | None = None) -> TransferSettings:
    """The settings that the options make; `max_failures_per_url` is what the update server wants.

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
        max_failures_per_url=args.attempts or max_failures_per_url or defaults.max_failures_per_url,
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
