"""`check`, and `install --server`: as the update server says."""

import platform
from argparse import Namespace
from typing import Final

from update_agent import __version__
from update_agent.api.codes import check_code, omaha_code
from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.api.machine import Machine
from update_agent.cli.console import Console, format_bytes
from update_agent.cli.installing import carry_out, show_report
from update_agent.cli.machine import open_chosen
from update_agent.cli.network import transfer_settings
from update_agent.domain.install import recorded_version
from update_agent.domain.progress import Phase, Progress, ProgressSink
from update_agent.domain.reader import Expectation
from update_agent.domain.session import UpdateSession
from update_agent.domain.trust import KeyRing
from update_agent.errors import ConfigurationError, Kind, UpdateAgentError
from update_agent.formats.omaha import NoUpdate, Update
from update_agent.formats.omaha_request import AppInfo, InstallSource
from update_agent.net.omaha_client import OmahaClient
from update_agent.net.transfer import HttpSource

_UNKNOWN_VERSION: Final = "0.0.0"


def run_check(args: Namespace, console: Console) -> ExitStatus:
    """Print what the server offers."""
    with open_chosen(args, writable=False) as machine:
        session = _open_session(args, machine)
        answer = session.check()
    if console.is_json:
        console.answer_json({"schema": SCHEMA, "update": None if isinstance(answer, NoUpdate) else _to_json(answer)})
    elif isinstance(answer, NoUpdate):
        console.answer(f"No update: {session.app.version} is what the server wants here")
    else:
        console.answer(
            f"Update available: {session.app.version} → {answer.version} ({format_bytes(answer.size_bytes)})"
        )
    return ExitStatus.DONE


def _to_json(update: Update) -> dict[str, object]:
    return {
        "version": str(update.version),
        "size_bytes": update.size_bytes,
        "sha256": update.sha256.hex(),
        "urls": list(update.urls),
    }


def install_from_server(args: Namespace, console: Console, machine: Machine, keyring: KeyRing) -> ExitStatus:
    """Ask what to install, install it, and report how it went.

    Raises:
        UpdateAgentError: any of the tree.
    """
    session = _open_session(args, machine)
    try:
        answer = session.check()
    except UpdateAgentError as error:
        session.report_failed(check_code(error), was_resumed=False)
        raise
    if isinstance(answer, NoUpdate):
        if console.is_json:
            console.answer_json({"schema": SCHEMA, "result": "no-update"})
        else:
            console.answer(f"No update: {session.app.version} is what the server wants here")
        return ExitStatus.DONE
    settings = transfer_settings(args, max_failures_per_url=answer.max_failure_count_per_url)
    source = HttpSource(answer.urls, settings, expected_size=answer.size_bytes)
    expectation = Expectation(sha256=answer.sha256, size_bytes=answer.size_bytes, version=str(answer.version))
    begun = machine.checkpoints.load()
    was_resumed = begun is not None and begun.version == str(answer.version)
    try:
        session.report_started()
        report = carry_out(args, console, machine, keyring, source, expectation, lambda sink: _reporting(sink, session))
    except UpdateAgentError as error:
        session.report_failed(omaha_code(error), was_resumed=was_resumed)
        raise
    finally:
        source.close()
    session.report_installed()
    return show_report(report, console)


def _reporting(sink: ProgressSink, session: UpdateSession) -> ProgressSink:
    """Tell the server, too, when the download is over."""
    was_reported = False

    def show(progress: Progress) -> None:
        nonlocal was_reported
        if progress.phase is Phase.VERIFYING and not was_reported:
            was_reported = True
            session.report_finished()
        sink(progress)

    return show


def _open_session(args: Namespace, machine: Machine) -> UpdateSession:
    """A conversation with the server of `--server` about the disk.

    Raises:
        ConfigurationError: usage, configuration.
    """
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
