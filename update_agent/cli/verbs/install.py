"""`check`, `install`: from the update server or from a payload at hand."""

from argparse import Namespace
from pathlib import Path

from update_agent.api import ERROR_FORMS, SCHEMA, ExitStatus
from update_agent.cli.console import Console, format_bytes
from update_agent.cli.machine import Machine, now, open_machine
from update_agent.cli.network import open_session, transfer_settings
from update_agent.domain.attempt import Workplace
from update_agent.domain.install import InstallReport, InstallRequest, install
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.progress import Phase, Progress, ProgressSink
from update_agent.domain.reader import Expectation
from update_agent.domain.session import UpdateSession
from update_agent.domain.targets import Places
from update_agent.domain.trust import KeyRing
from update_agent.errors import ConfigurationError, Kind, TransferError, UpdateAgentError, VerificationError
from update_agent.formats.omaha import NoUpdate, Update
from update_agent.host.memory import keep_freed_memory
from update_agent.net.source import FileSource, PayloadSource

_HTTP_CODE_BASE = 2000


def run_check(args: Namespace, console: Console) -> ExitStatus:
    """Print what the server offers."""
    with open_machine(args, writable=False) as machine:
        session = open_session(args, machine)
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


def run_install(args: Namespace, console: Console) -> ExitStatus:
    """Install from `--payload` or from what `--server` offers."""
    if bool(args.payload) == bool(args.server):
        raise ConfigurationError(
            Kind.USAGE, "install: expected either --payload or --server", hint="see update-agent install --help"
        )
    if args.public_key is None:
        raise VerificationError(
            Kind.KEY_MISSING,
            "install: no public key was given, so no payload can be trusted",
            hint="give --public-key PEM, or a folder of such files",
        )
    keep_freed_memory()
    keyring = KeyRing.load(args.public_key)
    with open_machine(args, writable=True) as machine:
        if args.server:
            return _install_from_server(args, console, machine, keyring)
        source = _open_payload(args)
        try:
            report = _install(args, console, machine, keyring, source, Expectation(), None)
        finally:
            source.close()
    return _answer(report, console)


def _open_payload(args: Namespace) -> PayloadSource:
    if not args.payload[0].startswith(("http://", "https://")):
        if len(args.payload) > 1:
            raise ConfigurationError(Kind.USAGE, "install: expected one file or only URLs as --payload")
        return FileSource(Path(args.payload[0]))
    # A local payload does not pay for the import.
    from update_agent.net.transfer import HttpSource

    return HttpSource(args.payload, transfer_settings(args))


def _install_from_server(args: Namespace, console: Console, machine: Machine, keyring: KeyRing) -> ExitStatus:
    from update_agent.net.transfer import HttpSource

    session = open_session(args, machine)
    try:
        answer = session.check()
    except UpdateAgentError as error:
        session.report_failed(_check_code(error), was_resumed=False)
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
        report = _install(args, console, machine, keyring, source, expectation, session)
    except UpdateAgentError as error:
        session.report_failed(ERROR_FORMS[error.kind].omaha_code, was_resumed=was_resumed)
        raise
    finally:
        source.close()
    session.report_installed()
    return _answer(report, console)


def _check_code(error: UpdateAgentError) -> int:
    """update_engine's number for a failed check: HTTP statuses count from 2000."""
    status = getattr(error, "status", None) if isinstance(error, TransferError) else None
    return _HTTP_CODE_BASE + status if isinstance(status, int) else ERROR_FORMS[error.kind].omaha_code


def _install(
    args: Namespace,
    console: Console,
    machine: Machine,
    keyring: KeyRing,
    source: PayloadSource,
    expectation: Expectation,
    session: UpdateSession | None,
) -> InstallReport:
    request = InstallRequest(
        source=source,
        keyring=keyring,
        expectation=expectation,
        running_version=args.running_version,
        versions=VersionPolicy(allow_downgrade=args.allow_downgrade, allow_same=args.allow_same_version),
        booted=args.booted,
        target=args.target,
        workers=args.workers,
    )
    with console.progress() as sink:
        workplace = Workplace(
            disk=machine.disk,
            places=Places(
                open_target=machine.open_target,
                open_source=machine.open_source,
                boot_folder=args.boot_dir,
                skip_kernel=args.skip_kernel,
                state_folder=machine.state_folder,
            ),
            checkpoints=machine.checkpoints,
            records=machine.records,
            now=now,
            progress=sink if session is None else _reporting(sink, session),
        )
        return install(request, workplace)


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


def _answer(report: InstallReport, console: Console) -> ExitStatus:
    if console.is_json:
        console.answer_json(
            {
                "schema": SCHEMA,
                "result": "installed" if report.key else "already-installed",
                "slot": report.slot,
                "version": report.version,
                "previous_version": report.previous_version,
                "key": report.key,
                "payload_size_bytes": report.payload_bytes,
                "resumed_at_bytes": report.resumed_at_bytes,
            }
        )
        return ExitStatus.DONE
    old, new = report.previous_version or "unknown version", report.version or "unknown version"
    if report.key is None:
        console.answer(f"{new} is in slot {report.slot} already, it boots next (running: {old})")
        return ExitStatus.DONE
    resumed = f", resumed after {format_bytes(report.resumed_at_bytes)}" if report.resumed_at_bytes else ""
    console.answer(
        f"Installed {new} in slot {report.slot}, it boots next (running: {old}, signed by {report.key}{resumed})"
    )
    return ExitStatus.DONE
