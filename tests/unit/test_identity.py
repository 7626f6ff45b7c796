import os
import platform
from pathlib import Path

from update_agent.host import identity


def test_machine_id_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef\n")
    assert identity.machine_id(tmp_path) == "0123456789abcdef"


def test_boot_id_is_read_from_proc(tmp_path: Path) -> None:
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_text("5d1d\n")
    assert identity.boot_id(tmp_path) == "5d1d"
    assert len(identity.boot_id()) == 36


def test_identity_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert identity.machine_id(tmp_path) == ""
    (tmp_path / "etc/machine-id").mkdir(parents=True)
    assert identity.machine_id(tmp_path) == ""


def test_identity_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/machine-id")
    assert identity.machine_id(tmp_path) == ""


def test_identity_that_is_huge_or_no_text_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_bytes(b"\xff" * 100_000)
    assert len(identity.machine_id(tmp_path)) == 4096


def test_machine_is_the_kernels_word() -> None:
    assert identity.machine() == platform.machine()


def test_test_image_is_known_by_its_file(tmp_path: Path) -> None:
    assert not identity.is_test_image(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/.dev_mode").touch()
    assert identity.is_test_image(tmp_path)
    assert not identity.is_test_image(tmp_path / ("x" * 300))
