"""scripts/install into the tree of an image, what is then in it, and scripts/uninstall."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from update_agent import __version__

REPOSITORY: Final = Path(__file__).parents[2]
UNINSTALL: Final = REPOSITORY / "scripts/uninstall"
HOME: Final = "usr/lib/update-agent"
PROGRAMS: Final = {"update-agent", "update-agentd", "update-agent-boot-good", "update_engine_client"}

pytestmark = pytest.mark.slow


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"DESTDIR": ""} | environment,
    )


def install(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = run(REPOSITORY / "scripts/install", *options, tree)
    if "could not be installed" in done.stderr:
        pytest.skip(f"no Python packages to be had here: {done.stderr.splitlines()[-1]}")
    return done


def listing(tree: Path) -> dict[str, str]:
    """What is in a tree but for the Python packages: of a link its target, of a file its mode and content."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name != "venv"]
        for path in (Path(folder, name) for name in (*folders, *files)):
            name = str(path.relative_to(tree))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file():
                found[name] = f"{path.stat().st_mode & 0o777:o} {path.read_text()}"
            else:
                found[name] = f"{path.stat().st_mode & 0o777:o}"
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image with the agent in it."""
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    (folder / "etc").mkdir(mode=0o755)
    done = install(folder)
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def in_the_image(tree: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that sees the image's files where a node has them, above those of this machine."""
    mounts = "".join(
        f"mount -t overlay -o lowerdir={tree}/{name}:/{name} overlay /{name} || exit 77\n" for name in ("usr", "etc")
    )
    done = run("unshare", "--mount", "sh", "-c", f"{mounts}{script}")
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mount namespaces with overlays here: {done.stderr.strip()}")
    return done


def test_install_puts_everything_where_it_is_looked_for(tree: Path) -> None:
    found = listing(tree)
    files = {
        "usr/lib/systemd/system/update-agentd.service",
        "usr/lib/systemd/system/update-agent-boot-good.service",
        "usr/lib/systemd/system-preset/50-update-agent.preset",
        "usr/lib/systemd/catalog/update-agent.catalog",
        "usr/lib/tmpfiles.d/update-agent.conf",
        "usr/share/dbus-1/system.d/com.coreos.update1.conf",
        "usr/share/dbus-1/system.d/org.updateagent1.conf",
        "usr/share/dbus-1/interfaces/com.coreos.update1.xml",
        "usr/share/polkit-1/actions/org.updateagent1.policy",
        "usr/share/man/man1/update-agent.1",
        "usr/share/man/man5/update-agent.toml.5",
        "usr/share/man/man8/update-agentd.8",
        "usr/share/man/man8/update-agent-boot-good.8",
        "usr/share/bash-completion/completions/update-agent",
        "usr/share/zsh/vendor-completions/_update-agent",
        "usr/share/doc/update-agent/example.toml",
        f"{HOME}/manifest",
        f"{HOME}/uninstall",
    }
    assert files <= set(found)
    assert {f"{HOME}/{name}" for name in ("config.d", "health.d")} <= set(found)
    assert {name for name in found if name.startswith("usr/bin/")} >= {f"usr/bin/{name}" for name in PROGRAMS}
    assert {mode.split()[0] for mode in found.values()} == {"->", "644", "755"}
    assert not {name for name in found if name.startswith(("var", "run", "root"))}


def test_install_leaves_no_trace_of_the_tree_or_the_checkout_in_files(tree: Path) -> None:
    for place in (tree, REPOSITORY):
        found = run("grep", "-rlF", "--exclude=*.so*", str(place), tree).stdout
        assert found == ""


def test_installed_programs_run_in_the_image(tree: Path) -> None:
    done = in_the_image(
        tree,
        "for name in update-agent update-agentd update-agent-boot-good; do $name --version || exit 1; done\n"
        "update-agent payload inspect /dev/null; update_engine_client -status --help >/dev/null 2>&1; exit 0",
    )
    assert done.stdout.splitlines() == [
        f"{name} {__version__}" for name in ("update-agent", "update-agentd", "update-agent-boot-good")
    ]
    assert done.stderr.startswith("update-agent: /dev/null: ")


def test_installed_daemon_finds_its_interface_files(tree: Path) -> None:
    program = (
        "from update_agent.daemon.interfaces import load_interfaces as load\\nprint(len(load('com.coreos.update1')))"
    )
    done = in_the_image(tree, f'printf "{program}" | /{HOME}/venv/bin/python -I -')
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_installed_bytecode_is_used_and_names_files_of_the_node(tree: Path) -> None:
    program = "import update_agent.errors as e; print(e.__cached__, e.UpdateAgentError.__init__.__code__.co_filename)"
    done = in_the_image(tree, f'/{HOME}/venv/bin/python -vI -c "{program}"')
    assert re.search(
        r"matches .*/venv/.*update_agent/errors\.py|code object from .*errors\.cpython.*\.pyc", done.stderr
    )
    cached, source = done.stdout.split()
    assert (tree / cached.lstrip("/")).is_file()
    assert source.startswith(f"/{HOME}/venv/lib/python3")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_installed_units_are_sound_with_their_programs_and_pages(tree: Path) -> None:
    pages = "yes" if shutil.which("man") else "no"
    verify = f"systemd-analyze verify --man={pages}"
    done = in_the_image(tree, f"{verify} update-agentd.service update-agent-boot-good.service")
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="no systemctl here")
def test_installed_units_are_enabled_as_systemctl_does_it(tree: Path, tmp_path: Path) -> None:
    units = ("update-agentd.service", "update-agent-boot-good.service")
    places = tmp_path / "usr/lib/systemd/system"
    places.mkdir(parents=True)
    for unit in units:
        shutil.copy(tree / "usr/lib/systemd/system" / unit, places)
    run("systemctl", f"--root={tmp_path}", "enable", *units)
    by_systemctl = listing(tmp_path / "etc/systemd")
    assert listing(tree / "etc/systemd") == by_systemctl
    assert by_systemctl["system/update-engine.service"].startswith("-> ")


@pytest.mark.skipif(
    shutil.which("mandoc") is None and shutil.which("man") is None, reason="no program for manual pages"
)
def test_installed_completion_knows_the_verbs(tree: Path) -> None:
    script = (tree / "usr/share/bash-completion/completions/update-agent").read_text()
    assert run("bash", "-n", "-c", script).returncode == 0
    assert "rollback" in script


def test_install_again_changes_nothing_and_takes_away_what_is_no_longer_shipped(tree: Path) -> None:
    before = listing(tree)
    (tree / "usr/share/doc/update-agent/old").write_text("of an earlier version")
    manifest = tree / HOME / "manifest"
    manifest.write_text(f"{manifest.read_text()}f /usr/share/doc/update-agent/old\n")
    (tree / "usr/bin/update-agent").unlink()
    done = install(tree)
    assert done.returncode == 0, done.stderr
    assert listing(tree) == before


def test_install_over_a_file_of_others_is_refused_unless_told(tmp_path: Path) -> None:
    other = tmp_path / "usr/bin/update_engine_client"
    other.parent.mkdir(parents=True)
    other.write_text("theirs")
    done = install(tmp_path)
    assert (done.returncode, other.read_text()) == (1, "theirs")
    assert f"{other} is there and not ours" in done.stderr
    # What had been put until then can be taken away.
    assert run(UNINSTALL, tmp_path).returncode == 0
    assert listing(tmp_path) == {"usr": "755", "usr/bin": "755", "usr/bin/update_engine_client": "644 theirs"}


def test_uninstall_takes_away_what_was_installed_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "image"
    shutil.copytree(tree, copy, symlinks=True)
    kept = {
        "etc/update-agent/config.d/site.toml": "configuration",
        "var/lib/update-agent/state.json": "state",
        f"{HOME}/health.d/site": "of the image's builder",
        "usr/bin/other": "of others",
    }
    for name, content in kept.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(content)
    done = run(copy / HOME / "uninstall", copy)
    assert done.returncode == 0, done.stderr
    files = {name for name, text in listing(copy).items() if text.startswith(("->", "644", "6"))}
    assert files == set(kept)
    assert "configuration and state stay" in done.stdout
    assert f"{copy}/{HOME}/health.d stays" in done.stderr


def test_uninstall_with_purge_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "image"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "var/lib/update-agent").mkdir(parents=True)
    (copy / "var/lib/update-agent/state.json").touch()
    done = run(UNINSTALL, "--purge", DESTDIR=str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    assert listing(copy) == {"etc": "755", "var": "755", "var/lib": "755"}
    again = run(UNINSTALL, copy)
    assert (again.returncode, "nothing is installed" in again.stderr) == (1, True)


def test_install_on_this_machine_and_uninstall(tmp_path: Path) -> None:
    """In a mount namespace in which the system's folders are copies that are thrown away."""
    script = "mount -t tmpfs tmpfs /mnt || exit 77\n"
    for name in ("usr", "etc", "var"):
        script += f"mkdir -p /mnt/{name}/upper /mnt/{name}/work\n"
        script += f"mount -t overlay -o lowerdir=/{name},upperdir=/mnt/{name}/upper,workdir=/mnt/{name}/work "
        script += f"overlay /{name} || exit 77\n"
    script += f"""
mount -t tmpfs tmpfs /run
{REPOSITORY}/scripts/install || exit 1
update-agentd --version
ls -d /var/lib/update-agent /run/update-agent/health.d /etc/update-agent/keys
journalctl --list-catalog | grep -c update-agent:
touch /etc/update-agent/config.d/site.toml
/{HOME}/uninstall || exit 1
ls -d /{HOME} /usr/bin/update-agent* /etc/systemd/system/update* /etc/update-agent/config.d/site.toml
"""
    done = run("unshare", "--mount", "sh", "-c", script)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mount namespaces with overlays here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    for line in (
        f"update-agentd {__version__}",
        "/var/lib/update-agent",
        "/run/update-agent/health.d",
        "/etc/update-agent/keys",
        "install: done; the units start with the next boot",
        "uninstall: done",
    ):
        assert line in lines, done.stderr
    assert lines[-1] == "/etc/update-agent/config.d/site.toml"
    assert not Path("/usr/lib/update-agent").exists()


@pytest.mark.parametrize("script", ["install", "uninstall"])
def test_script_with_a_wrong_option_says_what_it_expects(script: str) -> None:
    done = run(REPOSITORY / "scripts" / script, "--wrong")
    assert (done.returncode, done.stdout) == (1, "")
    assert "got '--wrong'" in done.stderr
    assert run(REPOSITORY / "scripts" / script, "--help").stdout.startswith(("Puts update-agent", "Takes away"))
