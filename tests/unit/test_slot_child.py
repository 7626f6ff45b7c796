"""What the mounting process answers where the kernel refuses."""

import errno
import os
from pathlib import Path

import pytest

from update_agent.host import mounts, slot_child
from update_agent.host.slot_program import Ending, How, SlotCall


def call(folder: Path, *, device: str = "", fallback: Path = Path("/nonexistent")) -> SlotCall:
    return SlotCall(
        parent=os.getpid(),
        backing=str(folder / "disk.img"),
        start_bytes=512,
        size_bytes=1024,
        device=device,
        mount_point=str(folder / "mnt"),
        program="postinst",
        fallback=str(fallback),
        arguments=("A=1",),
        environment={"PATH": "/bin"},
    )


class Kernel:
    """Mounts nothing: each step fails with the number it is given, or does nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespace = self.loop = self.mount = 0
        monkeypatch.setattr(mounts, "enter_private_namespace", lambda: self._step(self.namespace))
        monkeypatch.setattr(mounts, "_configure_free_loop", self._make_loop)
        monkeypatch.setattr(mounts, "find_file_system", lambda *_: mounts.FILE_SYSTEMS[0])
        monkeypatch.setattr(mounts, "mount_read_only", lambda *_: self._step(self.mount))

    def _step(self, number: int) -> None:
        if number:
            raise OSError(number, os.strerror(number))

    def _make_loop(self, *_: int) -> tuple[Path, int]:
        self._step(self.loop)
        return Path("/dev/loop9"), os.open("/dev/null", os.O_RDONLY)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kernel:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    return Kernel(monkeypatch)


@pytest.mark.parametrize("step", ["namespace", "loop", "mount"])
@pytest.mark.parametrize(("device", "how"), [("", How.UNREACHABLE), ("/dev/vda4", How.FAILED)])
def test_slot_that_may_not_be_mounted_is_a_failure_on_a_node_only(
    kernel: Kernel, tmp_path: Path, step: str, device: str, how: How
) -> None:
    setattr(kernel, step, errno.EPERM)
    ending = slot_child._carry_out(call(tmp_path, device=device))
    assert ending.how is how
    assert "Operation not permitted" in ending.text


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EUCLEAN, errno.EIO])
def test_slot_that_is_damaged_is_a_failure_everywhere(kernel: Kernel, tmp_path: Path, number: int) -> None:
    kernel.mount = number
    assert slot_child._carry_out(call(tmp_path)).how is How.FAILED


def test_slot_that_cannot_be_read_is_a_failure(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "disk.img").unlink()
    assert slot_child._carry_out(call(tmp_path, device="/dev/vda4")).how is How.FAILED
    assert kernel.mount == 0


def test_slot_whose_file_system_runs_already_has_the_running_ones_program_run(
    kernel: Kernel, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "running-postinst"
    program.write_text('#!/bin/sh\necho "$@"\nexit 4\n')
    program.chmod(0o755)
    kernel.mount = errno.EEXIST
    monkeypatch.setattr(slot_child, "_start", lambda *found: found)
    monkeypatch.setattr(slot_child, "_supervise", lambda found: len(found))
    monkeypatch.setattr(slot_child, "_kill_descendants", lambda: None)
    ending = slot_child._carry_out(call(tmp_path, fallback=program))
    assert ending == Ending(how=How.EXITED, status=3)
    assert f"running {program} instead" in capfd.readouterr().err


def test_slot_whose_file_system_runs_already_without_a_program_has_none(kernel: Kernel, tmp_path: Path) -> None:
    kernel.mount = errno.EEXIST
    ending = slot_child._carry_out(call(tmp_path))
    assert ending == Ending(how=How.MISSING, text="there is no /nonexistent")


def mount_calls(monkeypatch: pytest.MonkeyPatch, *failures: int) -> list[tuple[str | None, str]]:
    """What is tried when these attempts fail."""
    tried: list[tuple[str | None, str]] = []
    numbers = iter(failures)

    def mount(_source: str, _target: Path, kind: str | None, _flags: int, options: str) -> None:
        tried.append((kind, options))
        if number := next(numbers, 0):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mounts, "_mount", mount)
    return tried


def test_mount_falls_back_to_what_the_kernel_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = mount_calls(monkeypatch, errno.ENODEV, errno.ENODEV)
    mounts.mount_read_only(Path("/dev/loop9"), Path("/mnt"), mounts.FILE_SYSTEMS[0])
    assert tried == [("ext4", "noload"), ("ext3", "noload"), ("ext2", "")]


def test_mount_that_nothing_helps_gives_the_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    mount_calls(monkeypatch, errno.EINVAL, errno.ENODEV, errno.ENODEV)
    with pytest.raises(OSError, match="Invalid argument"):
        mounts.mount_read_only(Path("/dev/loop9"), Path("/mnt"), mounts.FILE_SYSTEMS[0])


def test_mount_that_fails_otherwise_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = mount_calls(monkeypatch, errno.EEXIST)
    with pytest.raises(FileExistsError):
        mounts.mount_read_only(Path("/dev/loop9"), Path("/mnt"), mounts.FILE_SYSTEMS[1])
    assert tried == [("btrfs", "rescue=nologreplay")]
