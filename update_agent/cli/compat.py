"""update_engine's program for the command line, `update_engine_client`: its flags, its words, its exit statuses.

It differs on purpose in three things: what it prints reaches a pipe at once, it says why an update failed where the
daemon tells, and then ends with 1. With `UPDATE_ENGINE_CLIENT_COMPAT=1` in the environment a failed update ends as
there: with 0.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from update_agent.api.node import (
    BUS_NAME,
    COMPAT_BUS_NAME,
    COMPAT_INTERFACE,
    COMPAT_OBJECT_PATH,
    MANAGER_INTERFACE,
    OBJECT_PATH,
)
from update_agent.cli.client import Bus
from update_agent.cli.gflags import Flags
from update_agent.domain.machine import State
from update_agent.errors import ConfigurationError, Kind, ServiceError, UpdateAgentError

_COMPAT_VARIABLE: Final = "UPDATE_ENGINE_CLIENT_COMPAT"
_POLL_SECS: Final = 5.0
_TRIES: Final = 4
_RETRY_SECS: Final = 10.0
_ABORTED: Final = 134
"""What a shell makes of SIGABRT."""
_BROKEN_PIPE: Final = 141
"""Likewise of SIGPIPE: nobody reads any more."""
_INTERRUPTED: Final = 130

_DBUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_IDLE: Final = State.IDLE.wire_name
_NEED_REBOOT: Final = State.UPDATED_NEED_REBOOT.wire_name
_REPORTING_ERROR: Final = State.REPORTING_ERROR_EVENT.wire_name

FLAGS: Final = Flags(
    switches={
        "check_for_update": "Initiate check for updates.",
        "reset_status": "Sets the status in update_engine to idle.",
        "status": "Print the status to stdout.",
        "update": "Forces an update and waits for its completion. Exit status is 0 if the update succeeded, else 1.",
        "watch_for_updates": "Listen for status updates and print them to the screen.",
        "help": "show help on all flags",
    },
    ignored_switches=frozenset(
        {
            "alsologtostderr", "colorlogtostderr", "colorlogtostdout", "drop_log_memory", "log_prefix",
            "log_utc_time", "log_year_in_prefix", "logtostderr", "logtostdout", "stop_logging_if_full_disk",
            "symbolize_stacktrace", "timestamp_in_logfile_name",
        }
    ),
    ignored_values=frozenset(
        {
            "alsologtoemail", "log_backtrace_at", "log_dir", "log_link", "logbuflevel", "logbufsecs",
            "logcleansecs", "logemaillevel", "logfile_mode", "logmailer", "max_log_size", "minloglevel",
            "stderrthreshold", "v", "vmodule",
        }
    ),
)  # fmt: skip
"""Of the program itself; then glog's, which have no effect here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the program waits: between two looks at the status, and for a daemon that is not there."""

    poll_secs: float = _POLL_SECS
    retry_secs: float = _RETRY_SECS


def main(arguments: Sequence[str] | None = None, pace: Pace = Pace()) -> int:
    """Run the program; gives its exit status."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        flags = FLAGS.parse(sys.argv[1:] if arguments is None else arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    if "help" in flags:
        _print_help()
        return 1
    try:
        return _Client(_connect(pace), pace).run(flags)
    except UpdateAgentError as error:
        _log("E", error.message + (f" ({error.hint})" if error.hint else ""))
        return 1
    except BrokenPipeError:
        # What is still in the buffer goes nowhere, or the interpreter complains about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _connect(pace: Pace) -> Bus:
    # Flags that are wrong do not pay for the import.
    from update_agent.host.dbus import connect

    bus = connect()
    for attempt in range(_TRIES):
        if bus.call(*_DBUS, "NameHasOwner", "s", (COMPAT_BUS_NAME,))[0]:
            return bus
        _log("E", f"Error getting dbus proxy for {COMPAT_BUS_NAME}: it has no owner")
        if attempt + 1 < _TRIES:
            time.sleep(pace.retry_secs)
    raise ServiceError(
        Kind.SERVICE_UNREACHABLE,
        f"Giving up: {COMPAT_BUS_NAME} did not appear",
        hint="systemctl start update-agentd",
    )


class _Client:
    """Talks to a daemon that has update_engine's interface."""

    def __init__(self, bus: Bus, pace: Pace) -> None:
        self._bus = bus
        self._pace = pace
        self._has_failed = False

    def run(self, flags: frozenset[str]) -> int:
        """The first flag that is set, in this order."""
        actions: tuple[tuple[str, Callable[[], int]], ...] = (
            ("reset_status", self._reset),
            ("status", self._show_status),
            ("update", self._update),
            ("check_for_update", self._attempt),
            ("watch_for_updates", self._watch),
        )
        for name, action in actions:
            if name in flags:
                return action()
        _log("I", "Done.")
        return 0

    def _reset(self) -> int:
        _log("I", "Setting Update Engine status to idle ...")
        self._call("ResetStatus")
        _log("I", "ResetStatus succeeded; the running slot boots next.")
        return 0

    def _show_status(self) -> int:
        _log("I", "Querying Update Engine status...")
        self._print_status()
        return 0

    def _attempt(self) -> int:
        _log("I", "Initiating update check and install.")
        try:
            self._call("AttemptUpdate")
        except UpdateAgentError as error:
            _log("F", f"Error from AttemptUpdate: {error.message}")
            return _ABORTED if _is_compat() else 1
        return 0

    def _update(self) -> int:
        self._bus.watch(COMPAT_BUS_NAME, COMPAT_OBJECT_PATH, COMPAT_INTERFACE, "StatusUpdate", self._note_failure)
        status = self._attempt()
        if status:
            return status
        _log("I", "Waiting for update to complete.")
        while True:
            self._bus.run(lambda: False, self._pace.poll_secs)
            operation = self._print_status()
            if operation == _NEED_REBOOT:
                _log("I", "Update succeeded -- reboot needed.")
                return 0
            if operation == _IDLE:
                return self._end_idle()

    def _note_failure(self, args: tuple[Any, ...]) -> None:
        self._has_failed = self._has_failed or args[2] == _REPORTING_ERROR

    def _end_idle(self) -> int:
        if self._has_failed and not _is_compat():
            _log("E", f"Update failed{self._reason()}")
            return 1
        _log("E", "No update available")
        return 0

    def _reason(self) -> str:
        """As our own interface tells it, which another daemon does not have."""
        try:
            error = self._bus.get_all(BUS_NAME, OBJECT_PATH, MANAGER_INTERFACE).get("LastError")
        except UpdateAgentError:
            return "."
        return f": {error[1]} [{error[0]}]" + (f" ({error[2]})" if error[2] else "") if error and error[0] else "."

    def _watch(self) -> int:
        self._bus.watch(COMPAT_BUS_NAME, COMPAT_OBJECT_PATH, COMPAT_INTERFACE, "StatusUpdate", _show_signal)
        _log("I", "Watching for status updates.")
        self._bus.run(lambda: False)
        return 0

    def _print_status(self) -> str:
        """Print the status, and give its operation."""
        checked_at, progress, operation, version, size = self._call("GetStatus")
        sys.stdout.write(
            f"LAST_CHECKED_TIME={checked_at}\nPROGRESS={progress:f}\nCURRENT_OP={operation}\n"
            f"NEW_VERSION={version}\nNEW_SIZE={size}\n"
        )
        return str(operation)

    def _call(self, method: str) -> tuple[Any, ...]:
        return self._bus.call(COMPAT_BUS_NAME, COMPAT_OBJECT_PATH, COMPAT_INTERFACE, method)


def _show_signal(args: tuple[Any, ...]) -> None:
    checked_at, progress, operation, version, size = args
    _log("I", "Got status update:")
    _log("I", f"  last_checked_time: {checked_at}")
    _log("I", f"  progress: {progress:g}")
    _log("I", f"  current_operation: {operation}")
    _log("I", f"  new_version: {version}")
    _log("I", f"  new_size: {size}")


def _is_compat() -> bool:
    return os.environ.get(_COMPAT_VARIABLE) == "1"


def _log(severity: str, text: str) -> None:
    """A line as glog writes it, but for the place in the source."""
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now))
    sys.stderr.write(f"{severity}{stamp}.{int(now % 1 * 1e6):06} {os.getpid():5} update_engine_client] {text}\n")


def _print_help() -> None:
    sys.stdout.write("update_engine_client: client of the update daemon, as update_engine's\n\n  Flags:\n")
    for name, text in sorted(FLAGS.switches.items()):
        sys.stdout.write(f"    -{name} ({text}) type: bool default: false\n")


if __name__ == "__main__":
    sys.exit(main())
