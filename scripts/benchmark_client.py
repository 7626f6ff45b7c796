"""A foreign client of the daemon: GDBus and nothing of ours. Calls GetStatus and prints what it measured as JSON.

    benchmark_client.py serial 5            one call after the other for 5 seconds
    benchmark_client.py pipelined install   eight calls under way at any time, for as long as an install lasts
    benchmark_client.py pipelined 100000x   so many calls

`install` prints "ready", then counts the calls that the daemon answered with a state of an update; it ends with it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from gi.repository import Gio, GLib

GET_STATUS = ("com.coreos.update1", "/com/coreos/update1", "com.coreos.update1.Manager", "GetStatus")
TIMEOUT_MS = 30_000
UNDER_WAY = 8

IDLE, DONE, FAILED = "UPDATE_STATUS_IDLE", "UPDATE_STATUS_UPDATED_NEED_REBOOT", "UPDATE_STATUS_REPORTING_ERROR_EVENT"


class Tally:
    """Seconds that each counted call took, and when the first was sent and the last answered."""

    def __init__(self, until: str) -> None:
        self.during_install = until == "install"
        self.calls_max = int(until[:-1]) if until.endswith("x") else 0
        self.secs = 0.0 if self.during_install or self.calls_max else float(until)
        self.times: list[float] = []
        self.calls = 0
        self.first = self.last = time.perf_counter()

    def take(self, sent: float, answer: Any) -> bool:
        """Count a call; False when it was the last."""
        self.calls += 1
        now = time.perf_counter()
        if self.during_install:
            state = answer.get_child_value(2).get_string()
            if state == FAILED:
                sys.exit("the install failed")
            if state == IDLE:
                self.first = now
                return True
            if state == DONE:
                return False
        self.times.append(now - sent)
        self.last = now
        if self.calls_max:
            return self.calls < self.calls_max
        return self.during_install or now - self.first < self.secs

    def print(self) -> None:
        p99 = statistics.quantiles(self.times, n=100)[98]
        print(
            json.dumps(
                {
                    "calls": len(self.times),
                    "secs": self.last - self.first,
                    "p99_ms": p99 * 1000,
                    "times_ms": [] if self.calls_max else [round(each * 1000, 3) for each in self.times],
                }
            )
        )


def serial(connection: Any, tally: Tally) -> None:
    """Call, wait, call."""
    while True:
        sent = time.perf_counter()
        answer = connection.call_sync(*GET_STATUS, None, None, Gio.DBusCallFlags.NONE, TIMEOUT_MS, None)
        if not tally.take(sent, answer):
            return


def pipelined(connection: Any, tally: Tally) -> None:
    """As many clients at once would."""
    loop = GLib.MainLoop()

    def send() -> None:
        connection.call(
            *GET_STATUS, None, None, Gio.DBusCallFlags.NONE, TIMEOUT_MS, None, answered, time.perf_counter()
        )

    def answered(source: Any, result: Any, sent: float) -> None:
        if tally.take(sent, source.call_finish(result)):
            send()
        else:
            loop.quit()

    for _ in range(UNDER_WAY):
        send()
    loop.run()


def main(how: str, until: str) -> None:
    """Measure."""
    modes: dict[str, Callable[[Any, Tally], None]] = {"serial": serial, "pipelined": pipelined}
    connection = Gio.bus_get_sync(Gio.BusType.SYSTEM, None)
    connection.call_sync(*GET_STATUS, None, None, Gio.DBusCallFlags.NONE, TIMEOUT_MS, None)
    print("ready", flush=True)
    tally = Tally(until)
    modes[how](connection, tally)
    tally.print()


main(*sys.argv[1:])
