"""Checks in folders: which are found, which are trusted, how they end."""

import logging
import os
import socket
import time
from pathlib import Path

import pytest

from update_agent.host.check_files import CheckFile, CheckFolders

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root are needed")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / "usr", tmp_path / "run", tmp_path / "etc"]


def put(folder: Path, name: str, script: str = "exit 0", *, mode: int = 0o755, uid: int = 0) -> Path:
    folder.mkdir(mode=0o755, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    os.chown(path, uid, 0)
    return path


def find(folders: list[Path], **environment: str) -> tuple[CheckFile, ...]:
    return CheckFolders(folders, lambda: environment).find()


def only(folders: list[Path]) -> CheckFile:
    (check,) = find(folders)
    return check


def test_folders_that_are_missing_hold_no_checks(folders: list[Path]) -> None:
    assert find(folders) == ()


def test_checks_come_in_the_order_of_their_names(folders: list[Path]) -> None:
    for folder, name in zip(folders, ["30-c", "10-a", "20-b"], strict=True):
        put(folder, name)
    assert [check.name for check in find(folders)] == ["10-a", "20-b", "30-c"]


def test_later_folder_replaces_a_file_of_the_same_name(folders: list[Path]) -> None:
    put(folders[0], "10-a", "exit 1")
    put(folders[2], "10-a", "exit 0")
    put(folders[1], "10-a", "exit 2")
    check = only(folders)
    assert check.path == folders[2] / "10-a"
    assert check.run(10) is None


def test_link_to_the_null_device_takes_a_check_away(folders: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    put(folders[0], "10-a", "exit 1")
    folders[2].mkdir()
    (folders[2] / "10-a").symlink_to("/dev/null")
    assert find(folders) == ()
    assert caplog.text == ""


def test_what_is_no_executable_is_passed_over_and_told_once(
    folders: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(folders[0], "README", mode=0o644)
    (folders[0] / "folder").mkdir()
    os.mkfifo(folders[0] / "pipe", 0o755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folders[0] / "socket"))
    checks = CheckFolders(folders, dict)
    assert (checks.find(), checks.find()) == ((), ())
    assert len(caplog.records) == 4


def test_file_that_is_not_executable_replaces_a_check(folders: list[Path]) -> None:
    put(folders[0], "10-a")
    put(folders[2], "10-a", mode=0o644)
    assert find(folders) == ()


@pytest.mark.parametrize(
    ("mode", "uid", "words"),
    [
        (0o775, 0, "it can be written by others than root (mode 0775)"),
        (0o757, 0, "it can be written by others than root (mode 0757)"),
        (0o755, 65534, "it belongs to user 65534, not to root"),
    ],
)
def test_check_that_others_could_have_written_fails_and_is_not_run(
    folders: list[Path], tmp_path: Path, mode: int, uid: int, words: str
) -> None:
    put(folders[0], "10-a", f"touch {tmp_path}/ran", mode=mode, uid=uid)
    assert only(folders).run(10) == f"is not run: {words}"
    assert not (tmp_path / "ran").exists()


def test_link_is_judged_by_what_it_leads_to(folders: list[Path], tmp_path: Path) -> None:
    target = put(tmp_path / "elsewhere", "program", mode=0o777)
    folders[0].mkdir()
    (folders[0] / "10-a").symlink_to(target)
    assert only(folders).run(10) == "is not run: it can be written by others than root (mode 0777)"
    target.chmod(0o755)
    assert only(folders).run(10) is None


def test_link_to_nothing_fails(folders: list[Path]) -> None:
    folders[0].mkdir()
    (folders[0] / "10-a").symlink_to("/nowhere")
    assert only(folders).run(10) == "is not run: No such file or directory"


@pytest.mark.parametrize(("mode", "uid"), [(0o777, 0), (0o755, 65534)])
def test_checks_in_a_folder_that_others_can_change_are_not_run(folders: list[Path], mode: int, uid: int) -> None:
    put(folders[0], "10-a")
    folders[0].chmod(mode)
    os.chown(folders[0], uid, 0)
    assert str(only(folders).run(10)).startswith("is not run: its folder ")


def test_folder_that_is_a_file_holds_no_checks(folders: list[Path]) -> None:
    folders[0].write_text("x")
    assert find(folders) == ()


def test_folder_that_cannot_be_listed_fails(folders: list[Path]) -> None:
    folders[0].symlink_to(folders[0])
    assert only(folders).run(10) == "is not run: its folder cannot be listed: Too many levels of symbolic links"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 0", None),
        ("exit 3", "failed with exit status 3"),
        ("kill -9 $$", "was ended by signal 9"),
        ("kill -11 $$", "was ended by signal 11"),
        ("exec sleep 100", "did not end within 0.5 s"),
        ("trap '' TERM; while :; do sleep 1; done", "did not end within 0.5 s"),
        ("sleep 100 & exit 0", None),
        ("setsid sleep 3 & exit 0", None),
        ("yes | head -c 10000000; exit 0", None),
    ],
)
def test_check_ends(folders: list[Path], script: str, words: str | None) -> None:
    put(folders[0], "10-a", script)
    timeout = 0.5 if words and "within" in words else 20
    before = time.monotonic()
    assert only(folders).run(timeout) == words
    assert time.monotonic() - before < 15


def test_check_that_cannot_be_started_fails(folders: list[Path]) -> None:
    put(folders[0], "10-a").write_text("#!/nowhere/sh\n")
    assert "cannot be started" in str(only(folders).run(10))


def test_check_sees_a_clean_environment_and_speaks_to_the_log(
    folders: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    put(folders[0], "10-a", "exec /usr/bin/env >&2")
    (check,) = find(folders, UPDATE_AGENT_SLOT="B")
    assert check.run(10) is None
    lines = {record.getMessage() for record in caplog.records}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines == {f"check 10-a: PATH={path}", "check 10-a: UPDATE_AGENT_SLOT=B", "check 10-a: PWD=/"}
