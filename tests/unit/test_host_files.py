"""State files, locks, staged files and spooled blobs on a real file system, and what they do when it fails."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from update_agent.errors import DeviceError, Kind
from update_agent.host.blockdev import FileDevice
from update_agent.host.files import StateFile, exclusive_lock
from update_agent.host.spool import MemoryBlob, SpooledBlob
from update_agent.host.staged import StagedFile


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# State files


def test_state_file_is_made_with_its_folder_replaced_and_removed(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "a" / "b" / "state")
    assert file.read(99) is None
    file.replace(b"one")
    file.replace(b"two two")
    assert (file.read(99), file.read(3)) == (b"two two", b"two")
    assert [path.name for path in file.path.parent.iterdir()] == ["state"]
    file.remove()
    file.remove()
    assert file.read(99) is None


def test_state_file_replace_is_flushed_before_and_after_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def logged_fsync(fd: int) -> None:
        log.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def logged_rename(self: Path, target: Path) -> Path:
        log.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_rename)
    StateFile(tmp_path / "state").replace(b"data")
    assert log == ["sync state.new", "rename", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_state_file_failing_replace_keeps_old_version_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    file = StateFile(tmp_path / "state")
    file.replace(b"old")
    owner = os if what == "fsync" else Path
    with monkeypatch.context() as patch:
        patch.setattr(owner, what, failing(number))
        with pytest.raises(DeviceError) as caught:
            file.replace(b"new")
    assert caught.value.kind is (Kind.NO_SPACE if number == errno.ENOSPC else Kind.STATE_FILE)
    assert file.read(99) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("what", ["read", "remove", "replace"])
def test_state_file_that_is_a_folder_is_an_error(tmp_path: Path, what: str) -> None:
    file = StateFile(tmp_path)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: file.read(9),
        "remove": file.remove,
        "replace": lambda: file.replace(b""),
    }
    with pytest.raises(DeviceError) as caught:
        acts[what]()
    assert caught.value.kind is Kind.STATE_FILE


def test_state_file_removal_that_cannot_be_made_durable_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path / "state")
    file.replace(b"old")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(DeviceError) as caught:
        file.remove()
    assert caught.value.kind is Kind.STATE_FILE


# The lock


def test_lock_keeps_another_process_out_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    program = (
        "import sys; from pathlib import Path\n"
        "from update_agent.host.files import exclusive_lock\n"
        "from update_agent.errors import RefusedError\n"
        "try:\n"
        "    with exclusive_lock(Path(sys.argv[1])): print('got it')\n"
        "except RefusedError as error: print(error.kind)\n"
    )

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with exclusive_lock(path):
        assert other() == Kind.BUSY
    assert other() == "got it"


def test_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught, exclusive_lock(tmp_path):
        pass
    assert caught.value.kind is Kind.STATE_FILE


# Staged files


def test_staged_file_leaves_place_alone_until_commit(tmp_path: Path) -> None:
    place = tmp_path / "kernel"
    place.write_bytes(b"old")
    staged = StagedFile(place)
    assert (staged.path, staged.is_begun) == (place, False)
    staged.require_space(4096)
    with staged.open(4096) as device:
        device.write_at(0, b"new and padding")
        device.flush()
        assert device.size_bytes == 4096
    assert staged.is_begun
    with staged.open_current() as current:
        assert current.read_at(0, 3) == b"old"
    staged.trim(3)
    assert place.read_bytes() == b"old"
    staged.commit()
    assert place.read_bytes() == b"new"
    assert not staged.is_begun


def test_staged_file_open_keeps_what_an_earlier_run_wrote(tmp_path: Path) -> None:
    with StagedFile(tmp_path / "kernel").open(100) as device:
        device.write_at(50, b"kept")
    with StagedFile(tmp_path / "kernel").open(200) as device:
        assert device.read_at(50, 4) == b"kept"
        assert device.size_bytes == 200


def test_staged_file_discard_removes_it_and_may_be_repeated(tmp_path: Path) -> None:
    staged = StagedFile(tmp_path / "kernel")
    staged.open(10).close()
    staged.discard()
    staged.discard()
    assert not list(tmp_path.iterdir())


def test_staged_file_what_it_has_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = StagedFile(tmp_path / "kernel")
    with staged.open(8192) as device:
        device.write_at(0, b"x" * 8192)
        device.flush()
    real = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        return os.statvfs_result([*list(real(path))[:4], 0, *list(real(path))[5:]])

    monkeypatch.setattr(os, "statvfs", full)
    staged.require_space(8192)
    with pytest.raises(DeviceError) as caught:
        staged.require_space(1 << 20)
    assert caught.value.kind is Kind.NO_SPACE


def test_staged_file_failures_are_device_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = StagedFile(tmp_path / "missing" / "kernel")
    for act in (
        lambda: staged.require_space(1),
        lambda: staged.open(1),
        lambda: staged.open_current(),
        lambda: staged.trim(1),
        staged.commit,
    ):
        with pytest.raises(DeviceError):
            act()
    (tmp_path / "kernel.new").mkdir()
    with pytest.raises(DeviceError):
        StagedFile(tmp_path / "kernel").discard()
    monkeypatch.setattr(os, "ftruncate", failing(errno.ENOSPC))
    with pytest.raises(DeviceError) as caught:
        StagedFile(tmp_path / "other").open(1)
    assert caught.value.kind is Kind.NO_SPACE


# Blobs


def test_memory_blob_reads_like_a_file() -> None:
    blob = MemoryBlob(b"0123456789")
    assert (blob.size_bytes, blob.read_at(8, 5), blob.read_at(99, 1)) == (10, b"89", b"")
    blob.close()


def test_spooled_blob_has_no_name_and_gives_its_space_back(tmp_path: Path) -> None:
    blob = SpooledBlob(tmp_path / "spool")
    blob.append(b"01234")
    blob.append(b"56789")
    assert (blob.size_bytes, blob.read_at(3, 4), blob.read_at(8, 5)) == (10, b"3456", b"89")
    assert not list((tmp_path / "spool").iterdir())
    blob.close()


def test_spooled_blob_failures_are_device_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceError) as caught:
        SpooledBlob(tmp_path / "file")
    assert caught.value.kind is Kind.NO_SPACE
    blob = SpooledBlob(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        patch.setattr(os, "pread", failing(errno.EIO))
        with pytest.raises(DeviceError):
            blob.append(b"1")
        with pytest.raises(DeviceError):
            blob.read_at(0, 1)
    blob.close()


def test_spooled_blob_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    blob = SpooledBlob(tmp_path)
    blob.append(b"0123456789")
    assert blob.read_at(0, 99) == b"0123456789"
    blob.close()


def test_staged_device_is_the_files_device(tmp_path: Path) -> None:
    with StagedFile(tmp_path / "kernel").open(10) as device:
        assert isinstance(device, FileDevice)
