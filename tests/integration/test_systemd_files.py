"""The units, the folders, the catalog: read by systemd's own programs, and in step with the program."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from update_agent.config import credentials
from update_agent.config.paths import Paths
from update_agent.config.settings import Settings
from update_agent.domain.journal_events import JournalEvent

SYSTEMD: Final = Path(__file__).parents[2] / "systemd"
UNITS: Final = ("update-agentd.service", "update-agent-boot-good.service")
EXPOSURE_MAX: Final = 30
"""Ten times what systemd-analyze shows."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


def values(unit: str, key: str) -> list[str]:
    """Of all lines with that key, in order."""
    lines = (SYSTEMD / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def make_root(folder: Path) -> Path:
    """A tree with the units, systemd's own, and programs of the right names."""
    for name in ("usr/lib/systemd/system", "usr/bin"):
        (folder / name).mkdir(parents=True)
    for path in Path("/usr/lib/systemd/system").iterdir():
        if path.is_file() and not path.is_symlink() and path.suffix in {".target", ".slice", ".socket"}:
            shutil.copy(path, folder / "usr/lib/systemd/system")
    for unit in UNITS:
        shutil.copy(SYSTEMD / unit, folder / "usr/lib/systemd/system")
        program = folder / "usr/bin" / unit.removesuffix(".service")
        program.touch(mode=0o755)
    (folder / "usr/bin/sh").touch(mode=0o755)
    (folder / "bin").symlink_to("usr/bin")
    return folder


# Units


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_understood_by_systemd_in_every_line(tmp_path: Path, unit: str) -> None:
    root = make_root(tmp_path)
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", "--recursive-errors=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unit_with_a_wrong_line_would_be_seen(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    path = root / "usr/lib/systemd/system" / UNITS[0]
    path.write_text(path.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", "--recursive-errors=no", UNITS[0])
    assert "ProtectClocks" in done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_exposed_no_more_than_it_has_to_be(unit: str) -> None:
    threshold = f"--threshold={EXPOSURE_MAX}"
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, SYSTEMD / unit)
    assert done.returncode == 0, done.stdout
    assert re.search(r"Overall exposure level for \S+: [0-3]\.\d", done.stdout)


def explained_settings(text: str) -> set[str]:
    """Those that a comment names, and those right below a comment that speaks of an exception."""
    found: set[str] = set()
    is_below_exception = was_comment = False
    for line in text.splitlines():
        if line.startswith("#"):
            found |= set(re.findall(r"\b([A-Z][A-Za-z]+)=", line))
            is_below_exception = "Exception" in line or (was_comment and is_below_exception)
        elif is_below_exception:
            found.add(line.partition("=")[0])
        was_comment = line.startswith("#")
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_unit_explains_each_exception_from_the_sandbox(unit: str) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", SYSTEMD / unit)
    open_settings = set(re.findall(r"^✗ (\w+)=", done.stdout, re.MULTILINE))
    assert len(open_settings) > 10
    assert open_settings - explained_settings((SYSTEMD / unit).read_text()) == set()


def test_unit_of_the_daemon_has_every_credential_that_is_read(tmp_path: Path) -> None:
    names = values(UNITS[0], "LoadCredential")
    assert sorted(names) == sorted({**credentials._CONTENTS, **credentials._FILES})
    for name in names:
        (tmp_path / name).write_text("http://value.example/")
    gathered = credentials.gather({credentials.FOLDER_VARIABLE: str(tmp_path)})
    assert sorted(finding.place for finding in gathered.findings) == sorted(f"credential {name}" for name in names)
    # With a path behind the name, a credential that is not there would keep the service from starting.
    assert not any(":" in name for name in names)


def test_unit_of_the_daemon_may_write_what_the_settings_name() -> None:
    writable = " ".join(values(UNITS[0], "ReadWritePaths")).replace("-/", "/").split()
    writable += [f"/var/lib/{name}" for name in values(UNITS[0], "StateDirectory")]
    paths, settings = Paths(), Settings()
    for needed in (paths.state_folder, paths.run_folder, paths.reboot_required, paths.update_engine_prefs):
        assert any(needed.is_relative_to(place) for place in writable), needed
    assert any(Path(settings.metrics.socket).is_relative_to(place) for place in writable)
    assert {"/boot", "/oem", "/etc/flatcar"} <= set(writable)


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_started_by_preset_and_boot(unit: str) -> None:
    assert f"enable {unit}" in (SYSTEMD / "update-agent.preset").read_text().splitlines()
    assert values(unit, "WantedBy") == ["multi-user.target"]


def test_unit_of_the_daemon_is_update_engine_for_others() -> None:
    assert values(UNITS[0], "Alias") == ["update-engine.service"]


def test_libraries_of_the_daemon_need_no_memory_that_is_writable_and_executable() -> None:
    program = """
import ctypes, errno, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("it is allowed")
except PermissionError:
    pass
from gi.repository import Gio, GLib
import pydbus, pyudev, update_agent.daemon.main
loop = GLib.MainLoop()
GLib.timeout_add(1, loop.quit)
loop.run()
ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number)(1)
from cryptography.hazmat.primitives.asymmetric import rsa
rsa.generate_private_key(65537, 2048)
import google.protobuf, requests, update_agent.domain.install
print("fine")
"""
    done = run(sys.executable, "-c", program)
    if done.returncode == 77:
        pytest.skip("the kernel is older than 6.3 and has no PR_SET_MDWE")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# Folders


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles here")
def test_tmpfiles_make_the_folders_and_leave_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    config = SYSTEMD / "update-agent.tmpfiles.conf"
    assert run("systemd-tmpfiles", f"--root={tmp_path}", "--create", config).stderr == ""
    paths = Paths(root=tmp_path)
    kept = paths.at("run/update-agent/health.d/check")
    kept.touch()
    again = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "--remove", "--clean", config)
    assert (again.stderr, kept.exists()) == ("", True)
    of_settings = [paths.at(place) for place in Settings().health.folders if not place.startswith("/usr")]
    fragments = [folder for folder in paths.fragment_folders if not folder.is_relative_to(tmp_path / "usr")]
    for folder in (paths.state_folder, paths.run_folder, paths.update_engine_prefs, *of_settings, *fragments):
        assert folder.is_dir(), folder
    assert paths.at("etc/update-agent/keys").is_dir()


# Catalog


def entries() -> dict[str, str]:
    """Text by MESSAGE_ID, as it is in the file."""
    parts = re.split(r"^-- ([0-9a-f]{32})\n", (SYSTEMD / "update-agent.catalog").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_catalog_explains_every_event_and_nothing_else() -> None:
    assert set(entries()) == set(JournalEvent)
    assert len(re.findall(r"^-- ", (SYSTEMD / "update-agent.catalog").read_text(), re.MULTILINE)) == len(JournalEvent)


def test_catalog_entries_have_a_subject_a_page_and_a_text_for_a_terminal() -> None:
    for text in entries().values():
        head, _, body = text.partition("\n\n")
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        assert set(fields) == {"Subject", "Defined-By", "Documentation"}
        assert not fields["Subject"].endswith(".")
        assert all(
            re.fullmatch(r"man:update-agent(d|\.toml)?\([158]\)", page) for page in fields["Documentation"].split()
        )
        assert len(body.split()) > 12
        assert all(len(line) <= 82 for line in text.splitlines())


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="no journalctl here")
def test_catalog_is_taken_by_journalctl(tmp_path: Path) -> None:
    for folder in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SYSTEMD / "update-agent.catalog", tmp_path / "usr/lib/systemd/catalog")
    update = run("journalctl", f"--root={tmp_path}", "--update-catalog")
    assert (update.returncode, update.stderr) == (0, "")
    listed = run("journalctl", f"--root={tmp_path}", "--list-catalog").stdout.splitlines()
    assert sorted(line.split(" ", 1)[0] for line in listed) == sorted(JournalEvent)
    assert all(line.split(" ", 1)[1].startswith("update-agent: ") for line in listed)
