"""Talking to a person, or to a program: the answer on stdout, the conversation on stderr."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, TextIO

from update_agent.api.forms import error_to_json
from update_agent.domain.progress import Phase, Progress, ProgressSink
from update_agent.errors import DeviceError, Kind, UpdateAgentError

PROGRAM: Final = "update-agent"

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


class Color(StrEnum):
    """When to use colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Style(StrEnum):
    """What a piece of text means; the code that a terminal shows it with."""

    GOOD = "32"
    WARNING = "33"
    BAD = "31"
    DIM = "2"
    BOLD = "1"


class Console:
    """Where a command writes; decides once about colour and JSON.

    A reader that has gone, as `head` does, is no failure: nobody wants the rest, and the work goes on.
    """

    def __init__(
        self,
        *,
        color: Color = Color.AUTO,
        is_json: bool = False,
        environment: Mapping[str, str] = os.environ,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self._out = stdout or sys.stdout
        self._err = stderr or sys.stderr
        self.is_json = is_json
        self._colors_out = _wants_color(color, environment, self._out)
        self._colors_err = _wants_color(color, environment, self._err)
        self._has_reader = True
        self._has_bars = self._err.isatty() and environment.get("TERM") != "dumb"
        if isinstance(self._out, io.TextIOWrapper):
            # Glyphs, and names of files that are not in the encoding of the locale.
            self._out.reconfigure(errors="backslashreplace")

    @property
    def has_reader(self) -> bool:
        """Whether somebody still takes the answers."""
        return self._has_reader

    def answer(self, text: str) -> None:
        """Print what was asked for.

        Raises:
            DeviceError: no-space, device-io, when stdout cannot take it.
        """
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:
            self._has_reader = False
            _silence(self._out)
        except OSError as error:
            _silence(self._out)
            kind = Kind.NO_SPACE if error.errno == errno.ENOSPC else Kind.DEVICE_IO
            raise DeviceError(kind, f"stdout: cannot write: {os.strerror(error.errno or errno.EIO)}") from error

    def answer_json(self, document: Mapping[str, Any]) -> None:
        """Print what was asked for, for a program."""
        self.answer(json.dumps(document, indent=2))

    def say(self, text: str) -> None:
        """Print something about the work, which goes on also when that cannot be printed."""
        try:
            print(text, file=self._err, flush=True)
        except OSError:
            _silence(self._err)

    def warn(self, text: str) -> None:
        """Print something that a person should look at."""
        self.say(f"{PROGRAM}: {_paint(Style.WARNING, 'warning', on=self._colors_err)}: {text}")

    def fail(self, error: UpdateAgentError) -> None:
        """Print an error and what can be done about it; with JSON, a document on stdout too."""
        if self.is_json:
            with contextlib.suppress(DeviceError):
                self.answer_json(error_to_json(error))
        self.say(f"{PROGRAM}: {_paint(Style.BAD, error.message, on=self._colors_err)}")
        if error.hint:
            self.say(f"hint: {error.hint}")

    def paint(self, style: Style, text: str) -> str:
        """`text` for stdout, coloured if that is wanted."""
        return _paint(style, text, on=self._colors_out)

    @contextlib.contextmanager
    def progress(self) -> Iterator[ProgressSink]:
        """A sink that shows progress: a bar on a terminal, else a line per phase and per ten percent."""
        if self._has_bars:
            # Only a terminal pays for the import.
            from update_agent.cli.progress_bar import progress_bar

            with progress_bar(self._err, colors=self._colors_err) as sink:
                yield sink
        else:
            yield _line_progress(self.say)


def _wants_color(color: Color, environment: Mapping[str, str], stream: TextIO) -> bool:
    if color is Color.AUTO:
        return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb" and stream.isatty()
    return color is Color.ALWAYS


def _silence(stream: TextIO) -> None:
    """Let what is still in the buffer, and what comes, go nowhere; or the interpreter complains about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _paint(style: Style, text: str, *, on: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if on else text


def _line_progress(say: Callable[[str], None]) -> ProgressSink:
    last: tuple[Phase | None, int] = (None, -1)

    def show(progress: Progress) -> None:
        nonlocal last
        tenth = 10 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 10
        if (progress.phase, tenth) == last:
            return
        if progress.phase is not last[0] and progress.phase is Phase.FINALIZING:
            say(f"{progress.phase}")
        elif progress.phase is not Phase.FINALIZING:
            say(f"{progress.phase}: {tenth * 10} % of {format_bytes(progress.total_bytes)}")
        last = (progress.phase, tenth)

    return show


def format_bytes(count: int) -> str:
    """A size for a person: `1.5 MiB`, `12 bytes`."""
    power = min((max(count, 1).bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}" if power else f"{count} bytes"
