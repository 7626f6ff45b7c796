"""The service that marks a boot good, or goes back to the other slot; the entry point `update-agent-boot-good`."""

import logging
import os
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from update_agent import __version__
from update_agent.config.load import load
from update_agent.config.paths import Paths
from update_agent.config.settings import HealthSettings
from update_agent.daemon.node import Disk, Node
from update_agent.domain import activation, marking
from update_agent.domain.boot_watch import BootWatch
from update_agent.domain.health import RECORD_BYTES_MAX, Check, HealthRecord, HealthRules, Trial, Verdict
from update_agent.domain.slots import SlotName
from update_agent.errors import DeviceError, Kind, ServiceError, UpdateAgentError
from update_agent.host import identity, logind, systemd_manager
from update_agent.host.check_files import SEARCH_PATH, CheckFolders
from update_agent.host.commands import run_command
from update_agent.host.files import StateFile
from update_agent.host.journal import set_up_logging
from update_agent.host.notify import Notifier
from update_agent.host.system_disk import find_booted

_LOG: Final = logging.getLogger(__name__)

GOOD: Final = 0
BAD: Final = 1
CRASHED: Final = 70
"""As EX_SOFTWARE in sysexits.h: nothing was decided, so it is worth another start."""

_TARGET: Final = "boot-complete.target"
_RECORD_FILE: Final = "health.json"
_FAILED_SHOWN_MAX: Final = 5
_REBOOT_TIMEOUT_SECS: Final = 60.0

_DESCRIPTION: Final = "Watch this boot: mark its slot good when the system is healthy, or go back to the other slot."
_EPILOG: Final = """\
exit status:
  0   the boot is good, or nobody asks (mode off)
  1   the boot is bad: the machine is about to reboot into the other slot, or the slot was marked bad
  70  a bug; nothing was decided

examples:
  systemctl start update-agent-boot-good
  update-agent-boot-good --root /tmp/node --image disk.img --booted B
"""


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = ArgumentParser(
        prog="update-agent-boot-good",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"update-agent-boot-good {__version__}")
    parser.add_argument(
        "--root", metavar="DIR", type=Path, default=Path("/"), help="where configuration, state and checks are (/)"
    )
    parser.add_argument("--image", metavar="DISK", type=Path, help="look after this disk instead of the one that runs")
    parser.add_argument("--booted", metavar="A|B", type=SlotName, help="with --image: the slot that counts as running")
    parser.add_argument("--bus", metavar="ADDRESS", help="bus of systemd and logind (the system bus)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until the boot is good or given up.

    Returns:
        0 when it is good, 1 when it is bad and nothing is left to try, 70 for a bug.
    """
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.bus is None and (args.image is not None or args.root != Path("/")):
        parser.error("--root and --image need --bus: the machine that runs is not the one to reboot")
    set_up_logging(identifier="update-agent-boot-good", verbose=args.verbose)
    try:
        verdict = _make_watch(args).run()
    except UpdateAgentError as error:
        _LOG.critical("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return CRASHED
    except Exception:  # noqa: BLE001  the top loop
        _LOG.exception("stopped by a bug; nothing was decided about this boot")
        return CRASHED
    return BAD if verdict is Verdict.BAD else GOOD


def _make_watch(args: Namespace) -> BootWatch:
    paths = Paths(root=args.root)
    configuration = load(paths)
    for warning in configuration.warnings:
        _LOG.warning("%s", warning)
    settings = configuration.settings
    slots = _DiskSlots(Node(lambda: _find_disk(args)))
    boot_id = identity.boot_id(paths.at("proc"))

    def make_environment() -> Mapping[str, str]:
        return {
            "UPDATE_AGENT_SLOT": slots.name(),
            "UPDATE_AGENT_VERSION": settings.server.running_version,
            "UPDATE_AGENT_BOOT_ID": boot_id,
        }

    folders = CheckFolders([paths.at(folder) for folder in settings.health.folders], make_environment)
    board = _Board(StateFile(paths.run_folder / _RECORD_FILE), Notifier())
    watch = BootWatch(
        _rules(settings.health),
        boot_id=boot_id,
        clock=_BootClock(paths.at("proc/uptime")),
        system=_System(folders, args.bus),
        slots=slots,
        reboot=lambda: _reboot(paths, args.bus),
        publish=board.publish,
        previous=board.read(),
    )
    board.start()
    return watch


def _rules(settings: HealthSettings) -> HealthRules:
    return HealthRules(
        mode=settings.mode,
        settle_secs=settings.settle_secs,
        interval_secs=settings.interval_secs,
        check_timeout_secs=settings.check_timeout_secs,
        deadline_secs=settings.deadline_secs,
        timer_secs=settings.timer_secs,
        fall_back=settings.fall_back,
    )


def _find_disk(args: Namespace) -> Disk:
    if args.image is not None:
        return Disk(path=args.image, booted=args.booted)
    found = find_booted(args.root)
    return Disk(path=found.disk, partition_number=found.partition_number)


def _reboot(paths: Paths, bus: str | None) -> None:
    """Through logind; without it, or against its will, through systemd.

    Raises:
        ServiceError: command-failed, when neither did.
    """
    os.sync()
    try:
        logind.reboot(address=bus)
    except ServiceError as error:
        _LOG.warning("%s; trying systemctl reboot", error.message)
    else:
        return
    command = [str(paths.at("usr/bin/systemctl")), "reboot"]
    status = run_command(
        command,
        env={"PATH": SEARCH_PATH},
        timeout_secs=_REBOOT_TIMEOUT_SECS,
        on_line=lambda line: _LOG.info("systemctl: %s", line),
    )
    if status != 0:
        raise ServiceError(
            Kind.COMMAND_FAILED,
            "systemctl reboot: " + ("did not end in time" if status is None else f"failed with exit status {status}"),
        )


class _BootClock:
    """Time since the kernel started, as it says itself; time in which the machine slept does not count."""

    def __init__(self, uptime_file: Path) -> None:
        try:
            uptime = float(uptime_file.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._offset = uptime - time.monotonic()

    def uptime(self) -> float:
        return time.monotonic() + self._offset

    def unix_now(self) -> float:
        return time.time()

    def sleep(self, secs: float) -> None:
        time.sleep(secs)


class _System:
    """What systemd knows, and the checks in the folders."""

    def __init__(self, folders: CheckFolders, bus: str | None) -> None:
        self._folders, self._bus = folders, bus

    def why_not_up(self) -> str | None:
        try:
            state = systemd_manager.unit_state(_TARGET, address=self._bus)
        except ServiceError as error:
            return f"{_TARGET} cannot be asked for: {error.message}"
        if state.is_active:
            return None
        failed: tuple[str, ...] = ()
        with suppress(ServiceError):
            failed = systemd_manager.failed_units(address=self._bus)
        text = f"{_TARGET} is not reached ({state.active if state.load == 'loaded' else state.load})"
        if not failed:
            return text
        left = len(failed) - _FAILED_SHOWN_MAX
        names = ", ".join(failed[:_FAILED_SHOWN_MAX])
        return f"{text}; failed units: {names}" + (f" and {left} more" if left > 0 else "")

    def checks(self) -> Sequence[Check]:
        return self._folders.find()


class _DiskSlots:
    """The slots of the disk, opened for a moment each time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name: SlotName | None = None

    def name(self) -> str:
        """Of the slot that runs; empty while the disk cannot be read."""
        if self._name is None:
            with suppress(UpdateAgentError):
                self.trial()
        return self._name or ""

    def trial(self) -> Trial:
        with self._node.open(writable=False) as machine:
            running = marking.require_booted(machine.slots, machine.booted)
            self._name = running.name
            return Trial(booted=running.name, flags=running.flags, other_flags=machine.slots.other(running).flags)

    def confirm(self) -> None:
        with self._node.open(writable=True) as machine:
            activation.confirm(machine.disk, marking.require_booted(machine.slots, machine.booted))

    def give_up(self) -> None:
        with self._node.open(writable=True) as machine:
            activation.mark_bad(machine.disk, marking.require_booted(machine.slots, machine.booted))


class _Board:
    """Where the verdict is read: a file for the daemon, a line for the service manager."""

    def __init__(self, file: StateFile, notifier: Notifier) -> None:
        self._file, self._notifier = file, notifier

    def start(self) -> None:
        """The service counts as started."""
        self._notifier.ready()

    def read(self) -> HealthRecord | None:
        """What was published last, in this boot or another."""
        try:
            data = self._file.read(RECORD_BYTES_MAX)
            return HealthRecord.from_bytes(data) if data is not None else None
        except DeviceError as error:
            _LOG.warning("%s", error.message)
            return None

    def publish(self, record: HealthRecord) -> None:
        """For everybody to read."""
        self._notifier.status(f"{record.verdict}: {record.text}")
        self._file.replace(record.to_bytes())


if __name__ == "__main__":
    sys.exit(main())
