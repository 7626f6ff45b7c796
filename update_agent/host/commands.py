"""Running a program of somebody else: for a limited time, with limited output, and nothing of it left behind."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from update_agent.errors import Kind, ServiceError

LINE_BYTES_MAX: Final = 8 * 1024
"""Of a longer line the rest is dropped."""

OUTPUT_BYTES_MAX: Final = 1024 * 1024
LINES_MAX: Final = 10_000
"""What comes after either is dropped, and a last line says so."""

DROPPED: Final = "(more output is dropped)"
CUT: Final = " (cut)"

_POLL_SECS: Final = 0.2
"""How long a stop that somebody asked for may go unnoticed."""

_READ_BYTES: Final = 64 * 1024


def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_secs: float,
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    kill_after_secs: float = 5.0,
    check: Callable[[], None] = lambda: None,
    pass_fds: Sequence[int] = (),
) -> int | None:
    """Run a program in a session of its own; its standard input is empty.

    When it has ended, in whatever way, what is left of its process group is killed. A process that left the group and
    holds the output open is not waited for.

    Args:
        argv: the program and its arguments.
        env: its whole environment.
        timeout_secs: then its group gets SIGTERM, and SIGKILL after `kill_after_secs`.
        on_line: gets each line of standard output and standard error as it comes, without control characters.
        cwd: where it runs.
        kill_after_secs: see above.
        check: called several times a second; when it raises (or `on_line` does), the program is ended likewise and the
            exception passes on.
        pass_fds: what it inherits beside standard input, output and error.

    Returns:
        Its exit status, negative for a signal; None when the time was up.

    Raises:
        ServiceError: command-failed, when it could not be started.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            bufsize=0,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ServiceError(
            Kind.COMMAND_FAILED,
            f"{argv[0]}: cannot be started: {reason}",
            hint="check that it is there, executable, and that its first line names an interpreter that is there",
        ) from error
    return _Running(process, _Lines(on_line), kill_after_secs).wait(timeout_secs, check)


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise ServiceError(Kind.COMMAND_FAILED, f"process {pid}: cannot be watched: {error.strerror}") from error


class _Lines:
    """Bytes in, lines out, both bounded."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._line = bytearray()
        self._is_cut = False
        self._left_bytes = OUTPUT_BYTES_MAX
        self._left_lines = LINES_MAX
        self._is_full = False

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        if self._is_full:
            return
        kept = data[: self._left_bytes]
        *whole, rest = kept.split(b"\n", maxsplit=self._left_lines)
        for piece in whole:
            self._add(piece)
            self._end_line()
        self._is_full = len(data) > self._left_bytes or (self._left_lines == 0 and rest != b"")
        self._left_bytes -= len(kept)
        if self._left_lines > 0:
            self._add(rest)
        if self._is_full:
            self.finish()
            self._on_line(DROPPED)

    def finish(self) -> None:
        """There is no more."""
        if self._line:
            self._end_line()

    def _add(self, piece: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._line)
        self._line += piece[:room]
        self._is_cut |= len(piece) > room

    def _end_line(self) -> None:
        text = _printable(bytes(self._line)) + (CUT if self._is_cut else "")
        self._line.clear()
        self._is_cut = False
        self._left_lines -= 1
        self._on_line(text)


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\r").replace("\t", " ")
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char)[0] == "C" else char for char in text)


class _Running:
    """A program that was started."""

    def __init__(self, process: subprocess.Popen[bytes], lines: _Lines, kill_after_secs: float) -> None:
        self._process = process
        self._lines = lines
        self._kill_after_secs = kill_after_secs

    def wait(self, timeout_secs: float, check: Callable[[], None]) -> int | None:
        """Its status once it has ended, None after it was ended."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._finish)
            output = self._process.stdout
            self._pidfd = _open_pidfd(self._process.pid)
            stack.callback(os.close, self._pidfd)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._pidfd, selectors.EVENT_READ)
            if output is not None:
                stack.enter_context(output)
                os.set_blocking(output.fileno(), False)
                self._selector.register(output.fileno(), selectors.EVENT_READ)
            try:
                has_ended = self._follow(timeout_secs, check)
                if not has_ended:
                    self._end()
                self._drain()
                self._lines.finish()
            except BaseException:
                self._lines = _Lines(lambda _: None)  # nobody listens any more
                self._end()
                raise
        return self._process.returncode if has_ended else None

    def _follow(self, secs: float, check: Callable[[], None] = lambda: None) -> bool:
        """Hand its output on until it ends; False when the time is up first."""
        deadline = time.monotonic() + secs
        while (left := deadline - time.monotonic()) > 0:
            check()
            for key, _ in self._selector.select(min(left, _POLL_SECS)):
                if key.fd == self._pidfd:
                    return True
                self._read(key.fd)
        return False

    def _read(self, fd: int) -> int:
        """Hand on what is there; how much that was."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._selector.unregister(fd)  # closed, or the end
        self._lines.feed(data)
        return len(data)

    def _drain(self) -> None:
        """What was written before the end is in the pipe; what others write into it now is not waited for."""
        fds = [key.fd for key in self._selector.get_map().values() if key.fd != self._pidfd]
        for fd in fds:
            drained = 0
            while drained < OUTPUT_BYTES_MAX and (count := self._read(fd)):
                drained += count

    def _end(self) -> None:
        """SIGTERM, time to obey, SIGKILL."""
        self._signal(signal.SIGTERM)
        if not self._follow(self._kill_after_secs):
            self._signal(signal.SIGKILL)
            self._follow(self._kill_after_secs)  # longer only in the middle of input or output that hangs

    def _finish(self) -> None:
        # It is not reaped before, so nobody else can have its number.
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._kill_after_secs)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
