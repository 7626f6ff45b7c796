"""The postinst of a real file system in a slot, mounted where nobody else sees it, and gone whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.images import MIB
from tests.support.processes import LIMIT_SECS, is_running, wait_until
from tests.support.slot_disks import (
    attached,
    loops_over,
    make_file_system,
    make_slot_disk,
    make_tree,
    mounts_at,
    require_private_mounts,
    slot_b,
)
from update_agent.errors import Kind, ServiceError
from update_agent.host import mounts
from update_agent.host.slot_program import Ending, How, SlotProgram

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = "#!/bin/sh\n"


@dataclass
class Bench:
    """A folder with a disk whose slot B holds a release, and what its postinst has printed."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def mount_point(self) -> Path:
        return self.folder / "run/postinstall"

    def fill(self, postinst: str | None, *, kind: str = "ext4", change: Callable[[Path], None] | None = None) -> None:
        """Make the disk; `change` may do more to the tree."""
        make_tree(self.tree, postinst)
        if change is not None:
            change(self.tree)
        make_slot_disk(self.disk, make_file_system(self.tree, self.folder / "slot.img", kind=kind))

    def run(
        self,
        *arguments: str,
        disk: Path | None = None,
        environment: Mapping[str, str] = {"PATH": PATH},
        timeout_secs: float = LIMIT_SECS,
        fallback: Path = Path("/nonexistent"),
        check: Callable[[], None] = lambda: None,
    ) -> Ending:
        programs = SlotProgram(disk or self.disk, mount_point=self.mount_point, fallback=fallback)
        return programs.run(
            slot_b(disk or self.disk).partition,
            arguments=arguments,
            environment=environment,
            timeout_secs=timeout_secs,
            on_line=self.lines.append,
            check=check,
        )

    def assert_nothing_left(self) -> None:
        """Neither mount nor loop device; the kernel gives the device back a moment after the last process."""
        assert mounts_at(self.mount_point) == []
        wait_until(lambda: loops_over(self.disk) == [])

    def slot_bytes(self) -> bytes:
        slot = slot_b(self.disk)
        return self.disk.read_bytes()[slot.start_bytes : slot.start_bytes + slot.size_bytes]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    require_private_mounts()
    return Bench(tmp_path)


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "btrfs", "erofs", "squashfs"])
def test_program_of_a_slot_gets_its_device_arguments_and_environment(bench: Bench, kind: str) -> None:
    bench.fill(SHELL + 'echo "$0 $#"; echo "$1"; echo "$2"; cat "${0%/*}/release"; exec env', kind=kind)
    ending = bench.run("KERNEL=/boot/vmlinuz b", environment={"PATH": PATH, "HTTP_PROXY": "http://user:pass@p:1"})
    assert ending == Ending(how=How.EXITED, status=0)
    zero, device, kernel, release, *environment = bench.lines
    assert zero == f"{bench.mount_point}/postinst 2"
    assert device.startswith("/dev/loop")
    assert (kernel, release) == ("KERNEL=/boot/vmlinuz b", "new")
    assert sorted(environment) == ["HTTP_PROXY=http://user:pass@p:1", f"PATH={PATH}", "PWD=/"]
    bench.assert_nothing_left()


def test_program_sees_its_slot_read_only_and_nobody_else_sees_it(bench: Bench) -> None:
    bench.fill(SHELL + 'touch "${0%/*}/x" && echo written; grep " ${0%/*} " /proc/self/mountinfo; echo ready; read x')
    before = bench.slot_bytes()
    seen: list[list[str]] = []

    def check() -> None:
        if "ready" in bench.lines and not seen:
            seen.append(mounts_at(bench.mount_point))

    assert bench.run(check=check).how is How.EXITED
    assert "written" not in bench.lines
    assert [line.split()[5] for line in bench.lines if " - ext4 " in line] == ["ro,nosuid,nodev,relatime"]
    assert mounts_at(bench.mount_point) == []
    assert bench.slot_bytes() == before


def test_program_of_a_slot_with_a_journal_to_replay_changes_nothing(bench: Bench) -> None:
    if shutil.which("debugfs") is None:
        pytest.skip("debugfs (package e2fsprogs) is not installed")
    image = bench.folder / "slot.img"
    make_file_system(make_tree(bench.tree, SHELL + "echo here"), image, size_bytes=8 * MIB)
    subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", image], check=True, capture_output=True)
    make_slot_disk(bench.disk, image.read_bytes())
    before = bench.slot_bytes()
    assert bench.run().how is How.EXITED
    assert bench.lines == ["here"]
    assert bench.slot_bytes() == before


def test_program_of_a_partition_that_the_install_still_holds_is_told_its_node(bench: Bench) -> None:
    bench.fill(SHELL + 'echo "$1"')
    with attached(bench.disk) as device:
        node = Path(f"{device}p4")
        holder = os.open(node, os.O_RDWR | os.O_EXCL)
        try:
            assert bench.run(disk=device) == Ending(how=How.EXITED, status=0)
        finally:
            os.close(holder)
        wait_until(lambda: loops_over(node) == [])
    assert bench.lines == [str(node)]


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", -9), ("kill $$", -15)])
def test_program_that_fails_says_how(bench: Bench, script: str, status: int) -> None:
    bench.fill(SHELL + script)
    assert bench.run() == Ending(how=How.EXITED, status=status)


def test_program_without_interpreter_fails_and_says_so(bench: Bench) -> None:
    bench.fill("#!/nonexistent/sh\n")
    assert bench.run() == Ending(how=How.EXITED, status=127)
    assert bench.lines == ["postinst: cannot be started: No such file or directory"]


def test_program_that_hangs_is_ended_with_everything_it_started(bench: Bench) -> None:
    bench.fill(SHELL + "trap '' TERM; echo $$; sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1000' & wait")
    assert bench.run(timeout_secs=1).how is How.TIMED_OUT
    pids = [int(line) for line in bench.lines]
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)))
    bench.assert_nothing_left()


def test_program_that_leaves_a_daemon_ends_with_it(bench: Bench) -> None:
    bench.fill(
        SHELL + 'cd "${0%/*}"; (setsid sh -c \'(echo $$; trap "" TERM HUP; sleep 1000; sleep 1000) &\' &) ; sleep 0.3'
    )
    assert bench.run() == Ending(how=How.EXITED, status=0)
    assert len(bench.lines) == 1
    bench.assert_nothing_left()


def test_program_is_ended_when_the_caller_wants_to_stop(bench: Bench) -> None:
    bench.fill(SHELL + "echo $$; exec sleep 1000")

    def check() -> None:
        if bench.lines:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(check=check)
    wait_until(lambda: not is_running(int(bench.lines[0])))
    bench.assert_nothing_left()


def test_slot_without_the_program_has_none(bench: Bench) -> None:
    bench.fill(None)
    assert bench.run() == Ending(how=How.MISSING, text="there is no postinst in the slot")


@pytest.mark.parametrize("content", [bytes(1024), b"\xff" * 100_000])
def test_slot_without_a_file_system_has_no_program(bench: Bench, content: bytes) -> None:
    make_slot_disk(bench.disk, content)
    ending = bench.run()
    assert ending.how is How.MISSING
    assert "no file system" in ending.text


def link(target: str) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        (tree / "postinst").symlink_to(target)

    return change


def test_program_that_is_a_link_within_the_slot_is_run(bench: Bench) -> None:
    def change(tree: Path) -> None:
        (tree / "sbin").mkdir()
        (tree / "sbin/real").write_text(SHELL + 'echo "$0"')
        (tree / "sbin/real").chmod(0o755)
        (tree / "postinst").symlink_to("sbin/real")

    bench.fill(None, change=change)
    assert bench.run() == Ending(how=How.EXITED, status=0)
    assert bench.lines == [f"{bench.mount_point}/postinst"]


def drop_right_to_execute(tree: Path) -> None:
    (tree / "postinst").write_text(SHELL)


def make_folder(tree: Path) -> None:
    (tree / "postinst").mkdir()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (link("/bin/true"), "leaves it"),
        (link("../../../../../../../../../../bin/true"), "leaves it"),
        (link("postinst"), "cannot be read"),
        (link("missing"), "cannot be read"),
        (drop_right_to_execute, "something else"),
        (make_folder, "something else"),
    ],
)
def test_program_that_is_none_of_the_slots_is_not_run(bench: Bench, change: Callable[[Path], None], text: str) -> None:
    bench.fill(None, change=change)
    ending = bench.run()
    assert ending.how is How.FAILED
    assert text in ending.text
    assert bench.lines == []


def test_slot_with_a_broken_file_system_fails(bench: Bench) -> None:
    bench.fill(SHELL + "echo here")
    with bench.disk.open("r+b") as file:
        file.seek(slot_b(bench.disk).start_bytes + 1024)
        file.write(bytes(0x38))  # the superblock up to its magic number
    ending = bench.run()
    assert (ending.how, bench.lines) == (How.FAILED, [])
    bench.assert_nothing_left()


def test_slot_of_an_image_that_has_no_mount_point_is_out_of_reach(bench: Bench) -> None:
    bench.fill(SHELL)
    bench.mount_point.parent.write_text("a file")
    assert bench.run().how is How.UNREACHABLE


PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from tests.support.slot_disks import mounts_at, slot_b
from update_agent.host.slot_program import SlotProgram

disk, mount_point, other = map(Path, sys.argv[1:])

def on_line(line):
    print(line, flush=True)
    if line == "look":
        print("outside", *mounts_at(mount_point), flush=True)
        subprocess.run(["mount", "-t", "tmpfs", "later", other], check=True)

SlotProgram(disk, mount_point=mount_point).run(
    slot_b(disk).partition,
    arguments=[],
    environment={"PATH": os.environ["PATH"]},
    timeout_secs=30,
    on_line=on_line,
)
"""


def program_line(bench: Bench, *before: str) -> list[str]:
    """The run as a process of its own, behind the words of another program."""
    paths = (bench.disk, bench.mount_point, bench.folder)
    return [*before, sys.executable, "-c", PROGRAM, *map(str, paths)]


def test_mounts_of_the_machine_come_in_and_the_slots_does_not_go_out(bench: Bench) -> None:
    bench.fill(
        SHELL
        + "grep -q postinstall /proc/self/mountinfo && echo inside; echo look; "
        + "until grep later /proc/self/mountinfo; do sleep 0.05; done"
    )
    # As systemd has it: what is mounted in one namespace is mounted in those made of it, and the other way round.
    line = program_line(bench, "unshare", "--mount", "--propagation", "shared")
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, later = done.stdout.splitlines()
    assert lines == ["inside", "look", "outside"]
    assert " - tmpfs later " in later
    bench.assert_nothing_left()


def test_nothing_is_left_after_the_installing_process_was_killed(bench: Bench) -> None:
    bench.fill(SHELL + "trap '' TERM; setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.2; echo $$; sleep 1000")
    with subprocess.Popen(program_line(bench), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        assert loops_over(bench.disk) != []
        process.kill()
    wait_until(lambda: not any(map(is_running, pids)))
    bench.assert_nothing_left()


def test_nothing_is_left_after_both_processes_were_killed(bench: Bench) -> None:
    bench.fill(SHELL + "echo $PPID; echo $$; exec sleep 1000")
    with subprocess.Popen(program_line(bench), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        mounting, program = (int(process.stdout.readline()) for _ in range(2))
        os.kill(mounting, signal.SIGSTOP)  # it does not notice that the other is gone
        process.kill()
        process.wait()
        os.kill(mounting, signal.SIGKILL)
    wait_until(lambda: not is_running(program))
    bench.assert_nothing_left()


def test_nothing_is_left_after_the_mounting_process_was_killed(bench: Bench) -> None:
    bench.fill(SHELL + "echo $PPID; echo $$; exec sleep 1000")

    def check() -> None:
        if len(bench.lines) == 2 and is_running(int(bench.lines[0])):
            os.kill(int(bench.lines[0]), signal.SIGKILL)

    with pytest.raises(ServiceError) as caught:
        bench.run(check=check)
    assert caught.value.kind is Kind.COMMAND_FAILED
    assert "status -9" in caught.value.message
    wait_until(lambda: not is_running(int(bench.lines[1])))
    bench.assert_nothing_left()


def test_btrfs_of_the_running_slot_does_not_keep_the_new_ones_program_from_running(bench: Bench) -> None:
    bench.fill(SHELL + 'echo "$1"', kind="btrfs")
    running, fallback = bench.folder / "running.img", bench.folder / "running-postinst"
    shutil.copy(bench.folder / "slot.img", running)  # with the same identity
    fallback.write_text(SHELL + 'echo "$1"')
    fallback.chmod(0o755)
    script = f"mount -t btrfs -o ro,loop {running} /mnt && echo mounted; read x"
    argv = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        assert bench.run(fallback=fallback) == Ending(how=How.EXITED, status=0)
        holder.communicate("\n")
    # Linux before 6.7 refuses the second one: then the program of the running slot was run, and a line says so.
    assert bench.lines[-1].startswith("/dev/loop")
    assert bench.lines[:-1] in (
        [],
        [f"the slot has the file system that is mounted already, running {fallback} instead"],
    )


def test_program_of_a_disk_that_is_gone_is_our_error(bench: Bench) -> None:
    bench.fill(SHELL)
    partition = slot_b(bench.disk).partition
    bench.disk.unlink()
    programs = SlotProgram(bench.disk, mount_point=bench.mount_point)
    with pytest.raises(ServiceError) as caught:
        programs.run(partition, arguments=[], environment={}, timeout_secs=1, on_line=print)
    assert caught.value.kind is Kind.COMMAND_FAILED
    assert str(bench.disk) in caught.value.message


def test_magic_numbers_are_those_of_the_kernel(tmp_path: Path) -> None:
    for kind in mounts.FILE_SYSTEMS:
        image = tmp_path / kind.attempts[0][0]
        with image.open("wb") as file:
            file.truncate(200_000)
            file.seek(4096 + kind.magic_at)
            file.write(kind.magic)
        assert mounts.find_file_system(image, 4096) is kind
        assert mounts.find_file_system(image, 0) is None
