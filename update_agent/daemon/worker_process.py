"""Starting the child process, listening to it and ending it, from the main loop of the daemon and without waiting.

What the child says is bounded and checked before anybody sees it; a child that says anything else is killed.
"""

import contextlib
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gi.repository import GLib

from update_agent.daemon.job import Job
from update_agent.daemon.workers import WorkerExit
from update_agent.domain.messages import LINE_BYTES_MAX, Message, from_line
from update_agent.errors import FormatError, Kind, ServiceError

_LOG: Final = logging.getLogger(__name__)

KILL_AFTER_SECS: Final = 10

_READ_BYTES: Final = 64 * 1024
_STDIN: Final = 0
_STDOUT: Final = 1
_MODULE: Final = "update_agent.daemon.worker"


class WorkerProcess:
    """Starts children, each in a session of its own, so that a key pressed in a terminal ends the daemon alone."""

    def __init__(self, module: str = _MODULE, *, kill_after_secs: float = KILL_AFTER_SECS) -> None:
        self._module = module
        self._kill_after_secs = kill_after_secs

    def start(
        self, job: Job, *, on_message: Callable[[Message], None], on_exit: Callable[[WorkerExit], None]
    ) -> "Child":
        """Begin; nothing is called before the main loop runs, and `on_exit` once, after the last message.

        Raises:
            ServiceError: worker-died, when it cannot be started.
        """
        try:
            process, stdin, stdout = _spawn(self._module)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ServiceError(
                Kind.WORKER_DIED, f"child process: cannot start it: {reason}", hint="is the machine out of memory?"
            ) from error
        child = Child(process, kill_after_secs=self._kill_after_secs, on_message=on_message, on_exit=on_exit)
        child.begin(stdin, stdout, job.to_bytes())
        return child


@dataclass(frozen=True, slots=True)
class _Process:
    """A process and a descriptor of it, which never means another one (pidfd_open(2))."""

    pid: int
    fd: int

    @classmethod
    def hold(cls, pid: int) -> "_Process":
        """Of a child that nobody has waited for.

        Raises:
            OSError: no descriptor is free; the child was killed.
        """
        try:
            return cls(pid, os.pidfd_open(pid))
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def signal(self, number: int) -> None:
        """Send it a signal; fine if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)


def _spawn(module: str) -> tuple[_Process, int, int]:
    """Process, and our ends of the pipes from which it reads and to which it writes."""
    child_in, ours_in = os.pipe()
    try:
        ours_out, child_out = os.pipe()
    except OSError:
        _close(child_in, ours_in)
        raise
    try:
        pid = os.posix_spawn(
            sys.executable,
            # -P: whatever the current folder holds, it is not imported.
            [sys.executable, "-P", "-m", module, str(os.getpid())],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, child_in, _STDIN), (os.POSIX_SPAWN_DUP2, child_out, _STDOUT)],
            setsid=True,
            # Until the child can deal with it: a cancel that comes early is not lost.
            setsigmask=[signal.SIGINT],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        )
        process = _Process.hold(pid)
    except OSError:
        _close(ours_in, ours_out)
        raise
    finally:
        _close(child_in, child_out)
    os.set_blocking(ours_in, False)
    os.set_blocking(ours_out, False)
    return process, ours_in, ours_out


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class Child:
    """One child process, from its start to its end."""

    def __init__(
        self,
        process: _Process,
        *,
        kill_after_secs: float,
        on_message: Callable[[Message], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> None:
        self._process = process
        self._kill_after_secs = kill_after_secs
        self._on_message, self._on_exit = on_message, on_exit
        self._is_running = True
        self._input, self._output, self._exit = _Watched(), _Watched(), _Watched()
        self._unsent = b""
        self._received = bytearray()
        self._problem: str | None = None
        self._killer = 0

    @property
    def pid(self) -> int:
        """Its number, also after its end."""
        return self._process.pid

    def begin(self, stdin: int, stdout: int, job: bytes) -> None:
        """Hand over the job as it is taken, and listen."""
        self._unsent = job
        self._input.watch(stdin, GLib.IOCondition.OUT | GLib.IOCondition.ERR, self._send)
        self._output.watch(stdout, GLib.IOCondition.IN | GLib.IOCondition.HUP, self._receive)
        self._exit.watch(self._process.fd, GLib.IOCondition.IN, self._ended)

    def cancel(self, *, by_person: bool) -> None:
        """Ask it to end, and kill it when it has not after a while; fine if it has ended."""
        self._signal(signal.SIGINT if by_person else signal.SIGTERM)
        if self._is_running and not self._killer:
            self._killer = GLib.timeout_add(int(self._kill_after_secs * 1000), self._kill)

    def _signal(self, number: int) -> None:
        if self._is_running:
            self._process.signal(number)

    def _kill(self) -> bool:
        self._killer = 0
        self._signal(signal.SIGKILL)
        return bool(GLib.SOURCE_REMOVE)

    def _send(self, fd: int) -> bool:
        try:
            self._unsent = self._unsent[os.write(fd, self._unsent) :]
        except BlockingIOError:
            return True
        except OSError:
            return False  # it is gone; its exit says the rest
        return bool(self._unsent)

    def _receive(self, fd: int) -> bool:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            self._take_rest()
            return False
        self._received += data
        self._take_lines()
        return self._problem is None

    def _take_lines(self) -> None:
        *lines, rest = bytes(self._received).split(b"\n")
        self._received = bytearray(rest)
        for line in lines:
            if self._problem is None:
                self._take(line)
        if len(rest) > LINE_BYTES_MAX and self._problem is None:
            self._complain(f"a line of more than {LINE_BYTES_MAX} bytes")

    def _take(self, line: bytes) -> None:
        try:
            message = from_line(line)
        except FormatError as error:
            self._complain(error.message)
            return
        try:
            self._on_message(message)
        except Exception:  # noqa: BLE001  GLib would stop calling us, and the child would wait for ever
            _LOG.exception("child process: a message could not be dealt with")

    def _take_rest(self) -> None:
        if self._received and self._problem is None:
            self._complain(f"half a line of {len(self._received)} bytes")

    def _complain(self, problem: str) -> None:
        self._problem = problem
        self._signal(signal.SIGKILL)

    def _ended(self, _fd: int) -> bool:
        _, wait_status = os.waitpid(self._process.pid, 0)
        self._is_running = False
        if self._killer:
            GLib.source_remove(self._killer)
            self._killer = 0
        self._input.close()
        # What it said last may still be in the pipe; who else holds it open is not waited for.
        self._output.drain()
        self._output.close()
        was_signal = os.WIFSIGNALED(wait_status)
        status = os.WTERMSIG(wait_status) if was_signal else os.WEXITSTATUS(wait_status)
        self._on_exit(WorkerExit(status=status, was_signal=was_signal, problem=self._problem))
        return False


class _Watched:
    """A descriptor of the main loop, until it is of no more use."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._source = 0
        self._handle: Callable[[int], bool] = lambda _: False

    def watch(self, fd: int, condition: Any, handle: Callable[[int], bool]) -> None:
        """Call `handle` when there is something to do, until it gives False."""
        self._fd, self._handle = fd, handle
        self._source = GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, fd, condition, self._ready)

    def _ready(self, fd: int, *_: Any) -> bool:
        if self._handle(fd):
            return bool(GLib.SOURCE_CONTINUE)
        self._source = 0
        self.close()
        return bool(GLib.SOURCE_REMOVE)

    def drain(self) -> None:
        """Take what is there now."""
        poll = select.poll()
        if self._fd is not None:
            poll.register(self._fd, select.POLLIN)
            while poll.poll(0) and self._handle(self._fd):
                pass

    def close(self) -> None:
        """No more calls, and the descriptor is given back."""
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
