"""A child process that misbehaves: what it does is the name of the disk in its job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from update_agent.domain.messages import LINE_BYTES_MAX, Checked, NothingNew, to_line


def say(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def say_checked() -> None:
    say(to_line(Checked()))


def deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    say_checked()
    time.sleep(60)


def die_by_signal() -> None:
    say_checked()
    os.kill(os.getpid(), signal.SIGSEGV)


def leave_somebody() -> None:
    say_checked()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        sys.stderr.write(f"{sleeper.pid}\n")
        sys.stderr.flush()
        say(to_line(NothingNew(version=str(sleeper.pid))))
        os._exit(0)


def tell_signals() -> None:
    """Which signals were blocked and ignored at the start."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    say(to_line(NothingNew(message=f"{status['SigBlk']} {status['SigIgn']} {os.getsid(0) == os.getpid()}")))


def wait_for_signal() -> None:
    say_checked()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    time.sleep(60)


def write_slowly() -> None:
    for byte in to_line(Checked(poll_interval_secs=7)):
        say(bytes([byte]))
        time.sleep(0.001)


def say_and_stay(data: bytes) -> None:
    say_checked()
    say(data)
    time.sleep(60)


BEHAVIOURS: dict[str, Callable[[], None]] = {
    "good": lambda: say(to_line(Checked()) + to_line(NothingNew())),
    "silent": lambda: None,
    "slow writer": write_slowly,
    "garbage": lambda: say_and_stay(b"Traceback (most recent call last):\n"),
    "endless line": lambda: say_and_stay(b"x" * (4 * LINE_BYTES_MAX)),
    "half a line": lambda: say(to_line(Checked()) + b'{"type": "Nothing'),
    "flood": lambda: say(to_line(Checked()) * 20_000),
    "exit 3": lambda: sys.exit(3),
    "signal": die_by_signal,
    "deaf": deaf,
    "grandchild": leave_somebody,
    "signals": tell_signals,
    "wait": wait_for_signal,
}


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    name = job["disk"]
    if name == "size":
        say(to_line(NothingNew(version=str(len(job["root"])))))
        return
    BEHAVIOURS[name]()


if __name__ == "__main__":
    if os.environ.get("FAKE_WORKER_IS_DEAF_TO_ITS_JOB"):
        os.close(0)
        sys.exit(5)
    main()
