"""Measures the daemon from outside: what it takes at rest, and how it answers while it works.

Called by scripts/benchmark. Real processes on a private bus, see benchmark_node.py; GetStatus is called by a foreign
client, benchmark_client.py. Every figure is printed with its limit, and with how busy the machine was with other things
just before.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmark import machine
from benchmark_node import Node, Quiet, Threads, make_all, memory_kib, native_modules, payload_requests, running_node

IDLE_AFTER_SECS = 30
WINDOW_SECS = 120
CLIENT_SECS = 3
IDLE_ROUNDS = 3
INSTALLS = 10
STATUS_ROUNDS = 20
CALLS = 100_000
SETTLE_SECS = 5

LIMIT_IDLE_MIB = 40
LIMIT_WAKE_UPS_PER_MINUTE = 2
LIMIT_CALLS_PER_SEC = 1000
LIMIT_P99_MS = 20
LIMIT_STATUS_SECS = 0.3
LIMIT_INSTALLS_MIB = 4
LIMIT_CALLS_MIB = 2

# What belongs to the child process and the command line only.
FOREIGN = ("requests", "urllib3", "cryptography", "google.protobuf", "rich", "defusedxml", "yaml", "backports.zstd")

CLIENTS = {"serial": "one after the other", "pipelined": "eight at once"}
"""What benchmark_client.py calls them, and what the table does."""

LIST_MODULES = f"""
import sys, update_agent.daemon.main
print(*(name for name in {FOREIGN!r} if name in sys.modules))
"""


class Report:
    """Prints one line per figure and knows whether all limits were kept."""

    def __init__(self) -> None:
        self.is_good = True

    def add(self, name: str, value: str, limit: str, quiet: Quiet, *, good: bool) -> None:
        self.is_good &= good
        print(f"| {name} | {value} | {limit} | {'PASS' if good else 'MISSED'} | {quiet} |", flush=True)

    def note(self, text: str) -> None:
        print(f"|   {text} | | | | |", flush=True)


def spread(values: Sequence[float], unit: str, digits: int = 0) -> str:
    """Median and range."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} {unit} ({low}..{high})"


def mib(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB"


def measure_idle(node: Node, report: Report) -> None:
    """Memory, and what was imported."""
    quiet = Quiet()
    memory = memory_kib(node.pid)
    value = f"{mib(memory['rss'])} resident; {mib(memory['anon'])} anonymous, {mib(memory['pss'])} proportional"
    name = f"idle daemon, {IDLE_AFTER_SECS} s after its start, metrics socket on"
    report.add(name, value, f"{LIMIT_IDLE_MIB} MiB", quiet, good=memory["rss"] <= LIMIT_IDLE_MIB * 1024)
    listed = subprocess.run([sys.executable, "-c", LIST_MODULES], check=True, capture_output=True, text=True)
    native = native_modules(node.pid)
    found = native.union(listed.stdout.split())
    foreign = [name for name in FOREIGN if name in found or name.partition(".")[0] in native]
    what = "modules that belong to the child and the command line"
    report.add(what, ", ".join(foreign) or "none", "none", quiet, good=not foreign)


def measure_wake_ups(node: Node, report: Report, secs: float) -> None:
    """All threads, and nobody calls."""
    quiet = Quiet()
    started, before = time.monotonic(), Threads.of(node.pid)
    time.sleep(secs)
    counts = Threads.of(node.pid).since(before)
    minutes = (time.monotonic() - started) / 60
    rate = sum(map(sum, counts.values())) / minutes
    pings = node.manager.said("WATCHDOG=1", since=started)
    each = ", ".join(f"{name}: {given}+{taken}" for name, (given, taken) in counts.items())
    value = f"{rate:.1f} a minute in {minutes:.1f} minutes; voluntary+not, {each}; {pings} of them call the watchdog"
    report.add("wake-ups at rest", value, f"{LIMIT_WAKE_UPS_PER_MINUTE}", quiet, good=rate <= LIMIT_WAKE_UPS_PER_MINUTE)


def add_answers(report: Report, when: str, how: str, runs: Sequence[dict[str, Any]], quiet: Quiet) -> None:
    """Rate and times of the runs of one kind of client."""
    rates = [run["calls"] / run["secs"] for run in runs]
    good = statistics.median(rates) >= LIMIT_CALLS_PER_SEC
    report.add(f"GetStatus {when}, {how}", spread(rates, "calls/s"), f"{LIMIT_CALLS_PER_SEC}/s", quiet, good=good)
    times = sorted(each for run in runs for each in run["times_ms"])
    middle, p99 = (times[len(times) * part // 1000] for part in (500, 990))
    each_p99 = ", ".join(f"{run['p99_ms']:.1f}" for run in runs)
    value = f"{p99:.1f} ms of {len(times)} calls; each run {each_p99}; median {middle:.2f}, worst {times[-1]:.0f} ms"
    name = f"GetStatus {when}, {how}, 99th percentile"
    report.add(name, value, f"{LIMIT_P99_MS} ms", quiet, good=p99 < LIMIT_P99_MS)


def measure_answers(node: Node, report: Report, rounds: int) -> None:
    """At rest."""
    quiet = Quiet()
    for how, name in CLIENTS.items():
        add_answers(report, "at rest", name, [node.measure(how, str(CLIENT_SECS)) for _ in range(rounds)], quiet)


def measure_installs(node: Node, report: Report, installs: int, first: dict[str, int]) -> None:
    """Each is done anew; every other one with the other kind of client. `first` is the memory at rest."""
    quiet = Quiet()
    runs: dict[str, list[dict[str, Any]]] = {how: [] for how in CLIENTS}
    for number in range(installs):
        if number:
            node.update_agent("reset")
        how = tuple(CLIENTS)[number % len(CLIENTS)]
        runs[how].append(node.measure(how, "install", lambda: node.update_agent("install", "--no-wait")))
    every = [run["secs"] for each in runs.values() for run in each]
    requests, sent = payload_requests()
    report.note(
        f"{installs} installs of {node.size_mib} MiB over HTTP, each {spread(every, 's', 1)}, while the client called; "
        f"the server sent {sent / node.payload_bytes:.2f} payloads in {requests} requests"
    )
    if sent != installs * node.payload_bytes:
        sys.exit("benchmark: expected every install to fetch the whole payload")
    for how, name in CLIENTS.items():
        add_answers(report, "while an install runs", name, runs[how], quiet)
    time.sleep(SETTLE_SECS)
    add_growth(report, f"memory after {installs} installs", node, first, LIMIT_INSTALLS_MIB, quiet)


def add_growth(
    report: Report, name: str, node: Node, before: dict[str, int], limit_mib: int, quiet: Quiet, more: str = ""
) -> None:
    now = memory_kib(node.pid)
    grown, anon = now["rss"] - before["rss"], now["anon"] - before["anon"]
    value = f"{grown / 1024:+.1f} MiB resident ({mib(now['rss'])}), {anon / 1024:+.1f} MiB anonymous{more}"
    report.add(name, value, f"+{limit_mib} MiB", quiet, good=grown <= limit_mib * 1024)


def measure_calls(node: Node, report: Report, calls: int) -> None:
    """Many of them leave nothing."""
    quiet = Quiet()
    before = memory_kib(node.pid)
    run = node.measure("pipelined", f"{calls}x")
    time.sleep(1)
    more = f"; {run['calls'] / run['secs']:.0f} calls/s"
    add_growth(report, f"memory after {calls} calls of GetStatus", node, before, LIMIT_CALLS_MIB, quiet, more)


def measure_status(node: Node, report: Report, rounds: int) -> None:
    """The command line from its start to its end."""
    quiet = Quiet()
    secs = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        node.update_agent("status")
        secs.append(time.perf_counter() - started)
    good = statistics.median(secs[1:]) <= LIMIT_STATUS_SECS
    value = spread(secs[1:], "s", 3)
    report.add(f"`update-agent status`, {rounds} times", value, f"{LIMIT_STATUS_SECS} s", quiet, good=good)


def main() -> int:
    """Print the table; 1 if a limit was missed."""
    parser = argparse.ArgumentParser(description="Measure the daemon at rest and at work.")
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--installs", type=int, default=INSTALLS)
    parser.add_argument("--idle-secs", type=float, default=WINDOW_SECS, help="for how long wake-ups are counted")
    args = parser.parse_args()
    make_all(args.size_mib)
    report = Report()
    print(f"The daemon on a private bus and a disk image; {machine()}\n")
    print("| figure | measured, median (range) | limit | met | the machine before |\n|---|---|---|---|---|", flush=True)
    with running_node(args.size_mib) as node:
        time.sleep(IDLE_AFTER_SECS)
        first = memory_kib(node.pid)
        measure_idle(node, report)
        measure_wake_ups(node, report, args.idle_secs)
        measure_status(node, report, STATUS_ROUNDS)
        measure_answers(node, report, IDLE_ROUNDS)
        measure_installs(node, report, args.installs, first)
        measure_calls(node, report, CALLS)
    print("\nCommands: `update-agentd --image DISK --booted A --root ROOT`; `update-agent install --no-wait`, `reset`;")
    print(
        "`benchmark_client.py serial|pipelined 3|install|100000x` calls GetStatus of com.coreos.update1 through GDBus."
    )
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
