"""Files that appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from update_agent.errors import DeviceError, Kind
from update_agent.host.output import PIECE_BYTES, OutputFile


@pytest.fixture(params=["unnamed", "hidden"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file system knows files without a name, or not."""
    if request.param == "hidden":
        real_open = os.open

        def refuse_unnamed(path: str | Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return real_open(path, flags, mode)

        monkeypatch.setattr(os, "open", refuse_unnamed)
    return tmp_path


def test_publish_gives_the_name_and_nothing_else(folder: Path) -> None:
    with OutputFile(folder / "file") as file:
        file.append(b"first ")
        file.append(memoryview(b"second"))
        assert not (folder / "file").exists()
        file.publish()
        assert file.size_bytes == 12
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"first second"


def test_publish_respects_the_umask(folder: Path) -> None:
    before = os.umask(0o027)
    try:
        with OutputFile(folder / "file") as file:
            file.publish()
    finally:
        os.umask(before)
    assert (folder / "file").stat().st_mode & 0o777 == 0o640


def test_publish_replaces_an_older_file(folder: Path) -> None:
    (folder / "file").write_bytes(b"older")
    with OutputFile(folder / "file") as file:
        file.append(b"newer")
        file.publish()
    assert (folder / "file").read_bytes() == b"newer"


def test_close_without_publish_leaves_nothing(folder: Path) -> None:
    with OutputFile(folder / "file") as file:
        file.append(b"data")
    assert list(folder.iterdir()) == []


def test_unnamed_file_cannot_be_seen(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "file") as file:
        file.append(b"data")
        assert list(tmp_path.iterdir()) == []


def test_failed_publish_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Path, "replace", refuse)
    with OutputFile(folder / "file") as file, pytest.raises(DeviceError, match="cannot publish") as caught:
        file.publish()
    assert caught.value.kind is Kind.DEVICE_IO
    assert list(folder.iterdir()) == []


def test_pieces_give_back_what_was_appended(folder: Path) -> None:
    data = os.urandom(PIECE_BYTES + 7)
    with OutputFile(folder / "file") as file:
        file.append(data)
        pieces = list(file.pieces())
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, 7]
    assert b"".join(pieces) == data


def test_pieces_of_a_file_that_was_cut_raise(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with OutputFile(tmp_path / "file") as file:
        file.append(b"data")
        os.truncate(file._fd, 2)
        with pytest.raises(DeviceError, match="cut") as caught:
            list(file.pieces())
    assert caught.value.kind is Kind.DEVICE_IO


def test_pieces_that_cannot_be_read_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "broken")

    with OutputFile(tmp_path / "file") as file:
        file.append(b"data")
        monkeypatch.setattr(os, "pread", refuse)
        with pytest.raises(DeviceError, match="cannot read back"):
            list(file.pieces())


def test_append_goes_on_after_a_short_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:3], offset))
    with OutputFile(tmp_path / "file") as file:
        file.append(b"0123456789")
        assert list(file.pieces()) == [b"0123456789"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_append_to_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "full")

    with OutputFile(tmp_path / "file") as file:
        monkeypatch.setattr(os, "pwrite", refuse)
        with pytest.raises(DeviceError) as caught:
            file.append(b"data")
    assert caught.value.kind is Kind.NO_SPACE
    assert caught.value.hint is not None


def test_output_in_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file") as caught:
        OutputFile(tmp_path / "missing" / "file")
    assert caught.value.kind is Kind.DEVICE_OPEN


@pytest.mark.parametrize("what", ["folder", "device"])
def test_output_over_something_else_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(DeviceError, match="expected a file or a free name") as caught:
        OutputFile(tmp_path if what == "folder" else Path("/dev/null"))
    assert caught.value.kind is Kind.DEVICE_OPEN


def test_publish_flushes_data_before_the_name_and_the_folder_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(fd: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "data")
        real_fsync(fd)

    def replace(path: Path, target: Path) -> Path:
        events.append("name")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with OutputFile(folder / "file") as file:
        file.append(b"data")
        file.publish()
    assert events == ["data", "name", "folder"]
