"""The two files of update_engine's that post-install scripts read, and the two that the agent takes over."""

import errno
import os
from pathlib import Path

import pytest

from update_agent.errors import DeviceError, Kind
from update_agent.host import prefs
from update_agent.host.prefs import read_prefs, write_prefs

IN_2100_NS = 4_102_444_800 * 10**9


def write(folder: Path, version: str = "1.0.0", response: bytes = b"<response/>") -> None:
    write_prefs(folder, previous_version=version, full_response=response)


def test_prefs_are_for_root_alone(tmp_path: Path) -> None:
    folder = tmp_path / "lib/update_engine/prefs"
    umask = os.umask(0)
    try:
        write(folder)
    finally:
        os.umask(umask)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "previous-version": 0o600,
        "full-response": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o755
    assert (folder / "full-response").read_bytes() == b"<response/>"
    assert (folder / "previous-version").read_text() == "1.0.0"


def test_prefs_of_an_answer_are_not_older_than_the_version(tmp_path: Path) -> None:
    write(tmp_path)
    for _ in range(20):
        write(tmp_path, "", b"x")
        ages = [(tmp_path / name).stat().st_mtime_ns for name in ("previous-version", "full-response")]
        assert ages == sorted(ages)


def test_prefs_written_while_the_clock_goes_back_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = prefs._replace

    def replace(path: Path, data: bytes, *, not_before_ns: int) -> None:
        written(path, data, not_before_ns=not_before_ns)
        if path.name == "previous-version":
            os.utime(path, ns=(IN_2100_NS, IN_2100_NS))

    monkeypatch.setattr(prefs, "_replace", replace)
    write(tmp_path)
    assert (tmp_path / "full-response").stat().st_mtime_ns >= IN_2100_NS


def test_prefs_replace_a_link_and_what_a_crash_has_left(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    folder = tmp_path / "prefs"
    folder.mkdir()
    (folder / "full-response").symlink_to(victim)
    (folder / "full-response.new").symlink_to(victim)
    write(folder)
    assert victim.read_text() == "keep"
    assert sorted(path.name for path in folder.iterdir()) == ["full-response", "previous-version"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, Kind.NO_SPACE), (errno.EIO, Kind.STATE_FILE)])
def test_prefs_on_a_file_system_that_fails_are_our_error_and_keep_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: Kind
) -> None:
    write(tmp_path)

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DeviceError) as caught:
        write(tmp_path, "2.0.0", b"new")
    assert caught.value.kind is kind
    assert (tmp_path / "previous-version").read_text() == "1.0.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full-response", "previous-version"]


def test_prefs_below_a_file_are_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError) as caught:
        write(tmp_path / "file/prefs")
    assert caught.value.kind is Kind.STATE_FILE


def test_prefs_of_update_engine_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "aleph-version").write_text("1.2.3\n")
    (tmp_path / "previous-version").write_text("")
    (tmp_path / "update-state-next-operation").write_text("-1")
    assert read_prefs(tmp_path) == {"aleph-version": "1.2.3", "previous-version": ""}


def test_prefs_that_are_no_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aleph-version")
    (tmp_path / "previous-version").symlink_to("/etc/passwd")
    assert read_prefs(tmp_path) == {}
    assert read_prefs(tmp_path / "none") == {}


def test_prefs_that_are_huge_or_no_text_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "aleph-version").write_bytes(b"\xff" * 1_000_000)
    assert len(read_prefs(tmp_path)["aleph-version"]) == 4096
