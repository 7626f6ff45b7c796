"""Health checks as files: found in folders, and run.

What root runs must be root's: a check that somebody else could have written is not run and counts as failed.
"""

import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from update_agent.errors import ServiceError
from update_agent.host.commands import run_command

_LOG: Final = logging.getLogger(__name__)
_ROOT_UID: Final = 0
_KILL_AFTER_SECS: Final = 2.0
_NULL_DEVICE: Final = os.makedev(1, 3)

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFile:
    """One check.

    Attributes:
        path: of the executable.
        environment: what it sees, and nothing else.
        refusal: why it must not be run; None if it may.
    """

    path: Path
    environment: Mapping[str, str]
    refusal: str | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return self.path.name

    def run(self, timeout_secs: float) -> str | None:
        """Run it; its output goes to the log. What is wrong, as the end of a sentence, or None."""
        if self.refusal is not None:
            return self.refusal
        try:
            status = run_command(
                [str(self.path)],
                env=self.environment,
                timeout_secs=timeout_secs,
                on_line=lambda line: _LOG.info("check %s: %s", self.name, line),
                cwd=Path("/"),
                kill_after_secs=_KILL_AFTER_SECS,
            )
        except ServiceError as error:
            return f"failed: {error.message}"
        if status is None:
            return f"did not end within {timeout_secs:.3g} s"
        if status < 0:
            return f"was ended by signal {-status}"
        return f"failed with exit status {status}" if status else None


class CheckFolders:
    """The folders that checks are looked for in.

    A file replaces one of the same name in an earlier folder; a link to /dev/null takes it away. They run in the order
    of their names.
    """

    def __init__(self, folders: Sequence[Path], make_environment: Callable[[], Mapping[str, str]]) -> None:
        self._folders = folders
        self._make_environment = make_environment
        self._said: set[str] = set()

    def find(self) -> tuple[CheckFile, ...]:
        """All there are now; what is no check is passed over, and logged once."""
        environment = {"PATH": SEARCH_PATH, **self._make_environment()}
        files: dict[str, CheckFile] = {}
        for folder in self._folders:
            try:
                paths = list(folder.iterdir())
                distrust = _distrust(folder.stat())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                paths, distrust = [folder], f"cannot be listed: {os.strerror(error.errno or 0)}"
            for path in paths:
                refusal = f"is not run: its folder {distrust}" if distrust else None
                files[path.name] = CheckFile(path=path, environment=environment, refusal=refusal)
        found = (self._inspect(files[name]) for name in sorted(files))
        return tuple(check for check in found if check is not None)

    def _inspect(self, check: CheckFile) -> CheckFile | None:
        """The check as it may be run, or None if it is none."""
        if check.refusal is not None:
            return check
        try:
            status = check.path.stat()
        except OSError as error:
            return self._refused(check, os.strerror(error.errno or 0))
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE:
            return None
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            self._say_once("%s: is not an executable file, so it is no health check", check.path)
            return None
        distrust = _distrust(status)
        return self._refused(check, f"it {distrust}") if distrust else check

    def _refused(self, check: CheckFile, why: str) -> CheckFile:
        return CheckFile(path=check.path, environment=check.environment, refusal=f"is not run: {why}")

    def _say_once(self, text: str, path: Path) -> None:
        if str(path) not in self._said:
            self._said.add(str(path))
            _LOG.info(text, path)


def _distrust(status: os.stat_result) -> str | None:
    if status.st_uid != _ROOT_UID:
        return f"belongs to user {status.st_uid}, not to root"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
