"""The process that mounts a slot and runs a program in it (`update_agent.host.slot_program` starts it).

1. It ends when its parent does, and becomes the parent of whatever the program leaves behind.
2. It enters a mount namespace of its own and mounts the slot.
3. It starts the program and waits; SIGTERM is passed on, and a few seconds later everything is killed.
4. When the program has ended, what it has started is killed: while one of them lives, the slot stays mounted.
5. It says how it went. The mount, and the loop device under it, go with its end.
"""

import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from update_agent.host import mounts
from update_agent.host.slot_program import Ending, How, SlotCall

_TERMINATE_SECS: Final = 3.0
"""From SIGTERM to SIGKILL; less than the parent leaves to this process."""

_CLEAN_UP_SECS: Final = 1.5
"""Until processes that cannot be killed are left alone."""

_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_TOLD_BYTES_MAX: Final = 1024 * 1024
_STAT_BYTES_MAX: Final = 4096
_CANNOT_START: Final = 127
"""Exit status of a program that is none, as a shell has it."""

_OUT_OF_REACH: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOSYS})


def main() -> None:
    """Do what the file behind the descriptor named on the command line says, and answer there."""
    told = int(sys.argv[1])
    fcntl.fcntl(told, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    call = SlotCall.from_bytes(os.pread(told, _TOLD_BYTES_MAX, 0))
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS | {signal.SIGCHLD})
    mounts.die_with_parent(signal.SIGTERM)
    mounts.adopt_orphans()
    if os.getppid() != call.parent:
        return
    ending = _carry_out(call)
    os.ftruncate(told, 0)
    os.pwrite(told, ending.to_bytes(), 0)


class _UnfitError(Exception):
    """The program is not run."""

    def __init__(self, how: How, text: str) -> None:
        super().__init__(text)
        self.ending = Ending(how=how, text=text)


def _carry_out(call: SlotCall) -> Ending:
    try:
        with contextlib.ExitStack() as stack:
            device = _make_device(call, stack)
            program = _mount(call, device)
            status = _supervise(_start(program, call, device))
            _kill_descendants()
    except _UnfitError as unfit:
        return unfit.ending
    return Ending(how=How.EXITED, status=status)


def _make_device(call: SlotCall, stack: contextlib.ExitStack) -> Path:
    """What to mount, in a namespace of its own."""
    try:
        Path(call.mount_point).mkdir(parents=True, exist_ok=True)
        mounts.enter_private_namespace()
        return stack.enter_context(
            mounts.read_only_loop(Path(call.backing), start_bytes=call.start_bytes, size_bytes=call.size_bytes)
        )
    except OSError as error:
        how = How.FAILED if call.device else How.UNREACHABLE
        raise _UnfitError(how, f"{call.backing}: cannot be mounted here: {error.strerror}") from error


def _mount(call: SlotCall, device: Path) -> Path:
    """The program, where it is now."""
    mount_point = Path(call.mount_point)
    try:
        kind = mounts.find_file_system(Path(call.backing), call.start_bytes)
        if kind is None:
            raise _UnfitError(How.MISSING, f"{call.backing}: holds no file system that is known")
        mounts.mount_read_only(device, mount_point, kind)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return _running_program(call)
        how = How.UNREACHABLE if error.errno in _OUT_OF_REACH and not call.device else How.FAILED
        raise _UnfitError(how, f"{call.backing}: cannot be mounted: {error.strerror}") from error
    return _checked(mount_point, call.program)


def _checked(mount_point: Path, name: str) -> Path:
    program = mount_point / name
    if not os.path.lexists(program):
        raise _UnfitError(How.MISSING, f"there is no {name} in the slot")
    try:
        is_inside = program.resolve(strict=True).is_relative_to(mount_point.resolve())
    except (OSError, RuntimeError) as error:
        raise _UnfitError(How.FAILED, f"{name}: cannot be read: {error}") from error
    if not is_inside:
        raise _UnfitError(How.FAILED, f"{name}: expected a file of the slot, got a link that leaves it")
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise _UnfitError(How.FAILED, f"{name}: expected an executable file, got something else")
    return program


def _running_program(call: SlotCall) -> Path:
    program = Path(call.fallback)
    sys.stderr.write(f"the slot has the file system that is mounted already, running {program} instead\n")
    sys.stderr.flush()
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise _UnfitError(How.MISSING, f"there is no {program}")
    return program


def _start(program: Path, call: SlotCall, loop: Path) -> int:
    pid = os.fork()
    if pid == 0:
        _become(program, [call.device or str(loop), *call.arguments], call.environment)
    return pid


def _become(program: Path, arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    try:
        mounts.die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        os.execve(program, [str(program), *arguments], environment)  # noqa: S606
    except OSError as error:
        os.write(2, f"{program.name}: cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(_CANNOT_START)


def _supervise(pid: int) -> int:
    """The exit status of the program; reaps what is left to this process meanwhile."""
    kill_at: float | None = None
    while True:
        secs = 60.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        received = signal.sigtimedwait(_STOPS | {signal.SIGCHLD}, secs)
        ended = _reap()
        if pid in ended:
            return ended[pid]
        if received is not None and received.si_signo in _STOPS and kill_at is None:
            kill_at = time.monotonic() + _TERMINATE_SECS
            os.kill(pid, signal.SIGTERM)
        if kill_at is not None and time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
            kill_at = time.monotonic() + _TERMINATE_SECS


def _reap() -> dict[int, int]:
    """Exit status of every child that has ended since."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _kill_descendants() -> None:
    """Kill children until there are none; theirs become ours as they end."""
    deadline = time.monotonic() + _CLEAN_UP_SECS
    while (children := _children()) and time.monotonic() < deadline:
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # ours: it is not gone before it is reaped
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        _reap()


def _children() -> list[int]:
    me, found = os.getpid(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError), (entry / "stat").open("rb") as file:
                # proc_pid_stat(5): the name is in brackets and may hold anything; state and parent follow.
                after_name = file.read(_STAT_BYTES_MAX).rpartition(b")")[2].split()
                if int(after_name[1]) == me:
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main()
