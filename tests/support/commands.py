"""The command line on a disk image of its own: run in this process, or as a program of its own."""

import contextlib
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from tests.support.firmware import BootEntry, choose, read_entries
from tests.support.images import HAS_SGDISK, Part, ab_parts, make_image, run_sgdisk
from tests.support.payloads import RSA_A_PUBLIC
from update_agent.cli.main import main

USR_BYTES: Final = 512 * 1024
OLD: Final = random.Random(1).randbytes(USR_BYTES)
NEW: Final = random.Random(2).randbytes(256 * 1024)

_SECTOR_BYTES: Final = 512
_TIMEOUT_SECS: Final = 30


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def kind(self) -> str:
        """Of the error in the JSON document."""
        return str(self.json["error"]["kind"])


def run_cli(*arguments: str | Path) -> Result:
    """The command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            status = error.code if isinstance(error.code, int) else 1
    return Result(int(status), out.getvalue(), err.getvalue())


def command_line(*arguments: str | Path) -> list[str]:
    """The command as a program of its own."""
    return [sys.executable, "-m", "update_agent.cli.main", *map(str, arguments)]


@contextlib.contextmanager
def started(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed at the end of the block if it still does."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command_line(*arguments), **(defaults | options)) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run_program(*arguments: str | Path, **options: Any) -> Result:
    """The command as a program, to its end."""
    with started(*arguments, **options) as process:
        out, err = process.communicate(timeout=_TIMEOUT_SECS)
        return Result(process.returncode, out or "", err or "")


def wait_for_line(stream: IO[str], start: str) -> str:
    """Read lines until one starts so; it is returned."""
    for line in stream:
        if line.startswith(start):
            return line
    raise AssertionError(f"expected a line {start!r}, got the end")


@dataclass(frozen=True)
class Bench:
    """A folder with the image of a disk: slot A runs and holds OLD, slot B is empty."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "disk.img"

    @property
    def state(self) -> Path:
        return self.folder / "disk.img.state"

    def run(self, *arguments: str | Path) -> Result:
        """The command on the image, in this process."""
        return run_cli("--image", self.image, *arguments)

    def install(self, *arguments: str | Path, key: Path = RSA_A_PUBLIC) -> Result:
        return self.run("install", "--public-key", key, *arguments)

    def put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def content(self, slot: str) -> bytes:
        """All bytes of slot A or B."""
        entry = self._entry(slot)
        return self.image.read_bytes()[entry.start : entry.end]

    def fill(self, slot: str, content: bytes) -> None:
        with self.image.open("r+b") as file:
            file.seek(self._entry(slot).start)
            file.write(content)

    def boots(self) -> str | None:
        """The slot that a boot loader would choose that shares nothing with the package."""
        entry = choose(self.image.read_bytes())
        return None if entry is None else entry.label.removeprefix("USR-")

    def flags(self, slot: str) -> tuple[int, int, int]:
        """(priority, tries, successful), likewise."""
        entry = self._entry(slot)
        return entry.priority, entry.tries, entry.successful

    def assert_sound(self) -> None:
        """A second program finds nothing wrong with the partition table."""
        if HAS_SGDISK:
            assert "No problems found" in run_sgdisk(self.image, "--verify")

    def assert_old_release_boots(self) -> None:
        assert self.content("A") == OLD
        assert self.boots() == "A"
        self.assert_sound()

    def _entry(self, slot: str) -> BootEntry:
        entries = read_entries(self.image.read_bytes()) or []
        return next(entry for entry in entries if entry.label == f"USR-{slot}")


def make_bench(folder: Path, parts: Sequence[Part] | None = None, *, content: bytes = OLD) -> Bench:
    """The image, made in memory; `content` says how large slots are unless `parts` does."""
    bench = Bench(folder)
    bench.image.write_bytes(make_image(parts or ab_parts(sectors=len(content) // _SECTOR_BYTES)))
    bench.fill("A", content)
    return bench
