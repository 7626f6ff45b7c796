"""What `update-agent-boot-good` found about this boot, read and watched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio

from update_agent.daemon.view import Health
from update_agent.domain.health import RECORD_BYTES_MAX, HealthRecord
from update_agent.errors import DeviceError

FILE_NAME: Final = "health.json"


class HealthFile:
    """`health.json` in the run folder; what it says of another boot than `boot_id` does not count."""

    def __init__(self, run_folder: Path, boot_id: str) -> None:
        self._path = run_folder / FILE_NAME
        self._boot_id = boot_id
        self._monitor: Any = None

    def read(self) -> Health:
        """The verdict; unknown where there is none yet, or where it makes no sense."""
        try:
            with self._path.open("rb") as file:
                record = HealthRecord.from_bytes(file.read(RECORD_BYTES_MAX))
        except (OSError, DeviceError):
            return Health()
        if record.boot_id != self._boot_id:
            return Health()
        return Health(verdict=record.verdict, text=record.text)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call whenever the file was replaced."""
        file = Gio.File.new_for_path(str(self._path))
        self._monitor = file.monitor_file(Gio.FileMonitorFlags.NONE, None)
        self._monitor.connect("changed", lambda *_: changed())
