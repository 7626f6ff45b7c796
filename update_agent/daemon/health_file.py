"""What `update-agent-boot-good` found about this boot, read and watched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio

from update_agent.daemon.view import Health

FILE_NAME: Final = "health.json"
_BYTES_MAX: Final = 64 * 1024


class HealthFile:
    """`health.json` in the run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / FILE_NAME
        self._monitor: Any = None

    def read(self) -> Health:
        """The verdict; unknown where there is none yet, or where it makes no sense."""
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(_BYTES_MAX))
            return Health(verdict=str(document["verdict"]), text=str(document["text"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Health()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call whenever the file was replaced."""
        file = Gio.File.new_for_path(str(self._path))
        self._monitor = file.monitor_file(Gio.FileMonitorFlags.NONE, None)
        self._monitor.connect("changed", lambda *_: changed())
