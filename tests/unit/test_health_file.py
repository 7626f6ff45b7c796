from pathlib import Path

import pytest
from gi.repository import GLib

from tests.support.processes import wait_until
from update_agent.daemon.health_file import FILE_NAME, HealthFile
from update_agent.daemon.view import Health
from update_agent.domain.health import HealthRecord, Verdict

RECORD = HealthRecord(boot_id="this", verdict=Verdict.WAITING, text="not up yet", at=5, started_uptime_secs=1.5)


def test_verdict_of_this_boot_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(RECORD.to_bytes())
    assert HealthFile(tmp_path, "this").read() == Health(verdict="waiting", text="not up yet")


def test_verdict_of_another_boot_does_not_count(tmp_path: Path) -> None:
    """Else a folder that outlives a reboot would hold updates back for ever."""
    (tmp_path / FILE_NAME).write_bytes(RECORD.to_bytes())
    assert HealthFile(tmp_path, "that").read() == Health()


@pytest.mark.parametrize(
    "data", [None, b"", b"[1]", b"[" * 60_000, b'{"schema": 1, "boot_id": "this", "verdict": "?"}']
)
def test_verdict_that_is_missing_or_makes_no_sense_is_unknown(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / FILE_NAME).write_bytes(data)
    assert HealthFile(tmp_path, "this").read() == Health()


def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    seen: list[Health] = []
    file = HealthFile(tmp_path, "this")
    file.watch(lambda: seen.append(file.read()))
    (tmp_path / "beside").write_bytes(RECORD.to_bytes())
    (tmp_path / "beside").replace(tmp_path / FILE_NAME)

    def is_noticed() -> bool:
        GLib.MainContext.default().iteration(False)
        return bool(seen) and seen[-1].verdict == "waiting"

    wait_until(is_noticed, "the change is noticed")
