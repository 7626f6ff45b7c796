"""`install`: from a payload at hand, or as the update server says."""

from argparse import Namespace
from pathlib import Path

from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Console
from update_agent.cli.installing import carry_out, show_report
from update_agent.cli.machine import open_chosen
from update_agent.cli.network import transfer_settings
from update_agent.domain.reader import Expectation
from update_agent.domain.trust import KeyRing
from update_agent.errors import ConfigurationError, Kind, VerificationError
from update_agent.host.memory import keep_freed_memory
from update_agent.net.source import FileSource, PayloadSource


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
    with open_chosen(args, writable=True) as machine:
        if args.server:
            # A payload at hand does not pay for the import.
            from update_agent.cli.verbs.server import install_from_server

            return install_from_server(args, console, machine, keyring)
        source = _open_payload(args)
        try:
            report = carry_out(args, console, machine, keyring, source, Expectation(), lambda sink: sink)
        finally:
            source.close()
    return show_report(report, console)


def _open_payload(args: Namespace) -> PayloadSource:
    if not args.payload[0].startswith(("http://", "https://")):
        if len(args.payload) > 1:
            raise ConfigurationError(Kind.USAGE, "install: expected one file or only URLs as --payload")
        return FileSource(Path(args.payload[0]))
    # A local payload does not pay for the import.
    from update_agent.net.transfer import HttpSource

    return HttpSource(args.payload, transfer_settings(args))
