"""An install as the command line asks for it, wherever the payload comes from."""

from argparse import Namespace
from collections.abc import Callable

from update_agent.api.forms import SCHEMA, ExitStatus
from update_agent.api.machine import Machine
from update_agent.api.workplace import make_workplace
from update_agent.cli.console import Console, format_bytes
from update_agent.domain.install import InstallReport, InstallRequest, install
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.progress import ProgressSink
from update_agent.domain.reader import Expectation
from update_agent.domain.trust import KeyRing
from update_agent.net.source import PayloadSource


def carry_out(
    args: Namespace,
    console: Console,
    machine: Machine,
    keyring: KeyRing,
    source: PayloadSource,
    expectation: Expectation,
    wrap_progress: Callable[[ProgressSink], ProgressSink],
) -> InstallReport:
    """Install from `source` with what the options say; `wrap_progress` may listen to the progress.

    Raises:
        UpdateAgentError: any of the tree.
    """
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
        workplace = make_workplace(
            machine, boot_folder=args.boot_dir, skip_kernel=args.skip_kernel, progress=wrap_progress(sink)
        )
        return install(request, workplace)


def show_report(report: InstallReport, console: Console) -> ExitStatus:
    """Print what was installed."""
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
