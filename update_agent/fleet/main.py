"""The command `update-agent-fleet`."""

import argparse
import contextlib
import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from enum import IntEnum, unique
from pathlib import Path
from typing import Final, TextIO

from update_agent.errors import ConfigurationError, Kind, TransferError, UpdateAgentError
from update_agent.fleet.catalog import Catalog
from update_agent.fleet.server import FleetServer, ServerSettings

FLATCAR_APP_ID: Final = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
"""What nodes call their product when nobody told them otherwise."""

_EXAMPLE: Final = """example:
  update-agent-fleet serve --payloads /srv/payloads --listen 0.0.0.0:8000

Nodes ask http://HOST:8000/v1/update/. They are offered the payload with the highest version. To publish a release,
move its file into the folder; to withdraw it, move it out. Major version 1 payloads say no version: call their file
NAME-VERSION.payload.

exit status: 0 ended by a signal, 1 failed, 2 usage"""


@unique
class _Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise argparse.ArgumentTypeError(f"expected ADDRESS:PORT, got {text!r}")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected an IP address before the port, got {host!r}") from error


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="update-agent-fleet", description="An update server for a small fleet.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser(
        "serve",
        help="offer the newest payload of a folder",
        description="Offer the newest payload of a folder to every node that runs an older version.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--payloads", metavar="DIR", type=Path, required=True, help="folder of *.payload and *.gz files")
    serve.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        type=_address,
        default=("127.0.0.1", 8000),
        help="port 0 takes a free one (default: 127.0.0.1:8000)",
    )
    serve.add_argument(
        "--app-id", metavar="UUID", default=FLATCAR_APP_ID, help="product to serve (default: %(default)s)"
    )
    serve.add_argument(
        "--url-base", metavar="URL", help="how nodes reach this server, if not by the name that they ask for"
    )
    serve.add_argument("--access-log", metavar="FILE", type=Path, help="append one line per request to FILE")
    return parser


def _open_log(path: Path | None) -> contextlib.AbstractContextManager[TextIO | None]:
    if path is None:
        return contextlib.nullcontext()
    try:
        return path.open("a", encoding="ascii")
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigurationError(Kind.USAGE, f"{path}: cannot open: {reason}") from error


def _serve(options: argparse.Namespace) -> None:
    catalog = Catalog(options.payloads)
    with _open_log(options.access_log) as log:
        settings = ServerSettings(app_id=options.app_id, url_base=options.url_base, access_log=log)
        try:
            server = FleetServer(options.listen, catalog, settings)
        except OSError as error:
            host, port = options.listen
            reason = os.strerror(error.errno or 0).lower()
            raise TransferError(Kind.TRANSFER, f"{host}:{port}: cannot listen: {reason}") from error
        with server:
            # shutdown() waits for serve_forever(), which runs in this thread.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            sys.stdout.write(f"listening on {server.url}\n")
            sys.stdout.flush()
            server.serve_forever(poll_interval=0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="update-agent-fleet: %(message)s")
    try:
        _serve(options)
    except UpdateAgentError as error:
        sys.stderr.write(f"update-agent-fleet: {error.message}\n")
        return _Exit.USAGE if error.kind is Kind.USAGE else _Exit.FAILED
    return _Exit.DONE
