"""The service from its arguments to its end; the entry point `update-agentd`."""

import logging
import random
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from update_agent import __version__
from update_agent.config.load import Configuration, load
from update_agent.config.paths import Paths
from update_agent.daemon.agent import Agent
from update_agent.daemon.assignment import Facts
from update_agent.daemon.bus import BusService
from update_agent.daemon.health_file import HealthFile
from update_agent.daemon.ledger import Ledger
from update_agent.daemon.loop import GLibLoop
from update_agent.daemon.metrics import Metrics
from update_agent.daemon.node import Disk, Node
from update_agent.daemon.reboot_required import RebootRequired
from update_agent.daemon.status_text import StatusText
from update_agent.daemon.worker_process import WorkerProcess
from update_agent.domain.slots import SlotName
from update_agent.domain.state import AgentState, StateStore
from update_agent.errors import UpdateAgentError
from update_agent.host import identity
from update_agent.host.files import StateFile
from update_agent.host.journal import set_up_logging
from update_agent.host.notify import Notifier, watchdog_interval_secs
from update_agent.host.prefs import ALEPH_VERSION, PREVIOUS_VERSION, read_prefs
from update_agent.host.system_disk import find_booted

_LOG: Final = logging.getLogger(__name__)

_DESCRIPTION: Final = (
    "Keep this machine up to date: ask, install into the slot that does not run, tell who decides about reboots."
)
_EPILOG: Final = """\
signals:
  SIGHUP   read the configuration again
  SIGTERM  end; an update under way goes on after the next start

examples:
  systemctl start update-agentd
  DBUS_SYSTEM_BUS_ADDRESS=unix:path=/tmp/bus update-agentd --image disk.img --root /tmp/node
"""


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="update-agentd",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"update-agentd {__version__}")
    parser.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("/"), help="where configuration and state are (/)"
    )
    parser.add_argument("--image", metavar="DISK", type=Path, help="look after this disk instead of the one that runs")
    parser.add_argument("--booted", metavar="A|B", type=SlotName, help="with --image: the slot that counts as running")
    parser.add_argument("--bus", metavar="ADDRESS", help="bus to serve on (the system bus)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end.

    Returns:
        0 after SIGTERM or SIGINT, 1 when the service cannot start.
    """
    args = build_parser().parse_args(arguments)
    set_up_logging(identifier="update-agentd", verbose=args.verbose)
    try:
        return _Service(args).run()
    except UpdateAgentError as error:
        _LOG.critical("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return 1


class _Service:
    """Everything that is real, put together."""

    def __init__(self, args: Namespace) -> None:
        self._paths = Paths(root=args.root)
        self._loop = GLibLoop()
        self._notifier = Notifier()
        facts = _facts(args.root)
        self._health_file = HealthFile(self._paths.run_folder, facts.boot_id)
        self._agent = Agent(
            loop=self._loop,
            node=Node(lambda: _find_disk(args)),
            ledger=Ledger(StateStore(StateFile(self._paths.state_folder / "state.json"), _taken_over(self._paths))),
            workers=WorkerProcess(),
            configure=self._configure,
            read_health=self._health_file.read,
            facts=facts,
            random=random.SystemRandom().random,
        )
        self._bus = BusService(self._agent, address=args.bus)
        settings = load(self._paths).settings
        self._metrics = Metrics(settings.metrics, self._paths, self._loop)
        self._bus.on_back = self._metrics.bus_returned
        self._agent.on_reload = lambda configuration: self._metrics.reload(configuration.settings.metrics)
        for listener in (self._metrics, RebootRequired(self._paths.reboot_required), StatusText(self._notifier)):
            self._agent.listen(listener)

    def run(self) -> int:
        """Serve until a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._stop)
        self._loop.on_signal(signal.SIGHUP, self._reload)
        self._bus.start()
        self._metrics.start()
        self._agent.start()
        self._health_file.watch(self._agent.refresh)
        interval = watchdog_interval_secs()
        if interval is not None:
            self._loop.call_every(interval / 3, self._notifier.watchdog)
        self._notifier.ready()
        self._loop.run()
        return 0

    def _configure(self) -> Configuration:
        return load(self._paths)

    def _reload(self) -> None:
        self._notifier.reloading()
        self._agent.reload()
        self._notifier.ready()

    def _stop(self) -> None:
        self._notifier.stopping()
        self._agent.stop(self._end)

    def _end(self) -> None:
        self._metrics.stop()
        self._bus.stop()
        self._loop.quit()


def _find_disk(args: Namespace) -> Disk:
    if args.image is not None:
        return Disk(path=args.image, booted=args.booted)
    found = find_booted()
    return Disk(path=found.disk, booted=None, partition_number=found.partition_number)


def _taken_over(paths: Paths) -> AgentState:
    """What update_engine knew, where it looked after this node before."""
    known = read_prefs(paths.update_engine_prefs)
    previous = known.get(PREVIOUS_VERSION)
    return AgentState(
        aleph_version=known.get(ALEPH_VERSION, ""),
        previous_version=previous,
        has_fallen_back=bool(previous) and previous == load(paths).settings.server.running_version,
    )


def _facts(root: Path) -> Facts:
    return Facts(
        root=str(root),
        boot_id=identity.boot_id(),
        machine_id=identity.machine_id(root),
        machine=identity.machine(),
        is_test_image=identity.is_test_image(root),
    )


if __name__ == "__main__":
    sys.exit(main())
