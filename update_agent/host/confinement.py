"""What a process gives up for good before it handles what comes from the network."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import Final

# linux/prctl.h
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38

# linux/capability.h
_CAPABILITY_VERSION_3: Final = 0x20080522
_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID = range(8)
_LINUX_IMMUTABLE, _SYS_CHROOT, _SYS_ADMIN, _MKNOD, _SETFCAP = 9, 18, 21, 27, 31
FILES_AND_MOUNTS: Final = frozenset(
    {
        _CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID,
        _LINUX_IMMUTABLE, _SYS_CHROOT, _SYS_ADMIN, _MKNOD, _SETFCAP,
    }
)  # fmt: skip
"""Capabilities to write disks, mount file systems and install files as root does; nothing of network, kernel, time."""

# linux/ioprio.h
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_BEST_EFFORT_LOWEST: Final = 2 << 13 | 7
"""The class idle would starve for ever beside a busy database."""

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def step_back(nice: int, oom_score: int) -> None:
    """Let other programs go first at the processor and the disk, and be the one that ends when memory does.

    What the kernel refuses or does not know is left as it is: nothing depends on it.

    Args:
        nice: 0 to 19.
        oom_score: -1000 to 1000; a higher one that is set already stays.
    """
    with contextlib.suppress(OSError):
        os.nice(nice)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        arguments = (_IOPRIO_WHO_PROCESS, 0, _IOPRIO_BEST_EFFORT_LOWEST)
        _libc().syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    with contextlib.suppress(OSError, ValueError):
        if int(_OOM_SCORE.read_text()) < oom_score:
            _OOM_SCORE.write_text(str(oom_score))


def give_up_privileges(kept: frozenset[int] = FILES_AND_MOUNTS) -> None:
    """Keep these capabilities and never gain others, not even by a program that would give them.

    Programs started later have no more either. Call it before the first thread. A process without privileges has
    nothing to give up; where the kernel refuses, the rest is still done.
    """
    libc = _libc()
    number = 0
    while _prctl(libc, _PR_CAPBSET_READ, number) >= 0:
        if number not in kept:
            _prctl(libc, _PR_CAPBSET_DROP, number)
        number += 1
    _drop_own(libc, kept)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)


def _drop_own(libc: ctypes.CDLL, kept: frozenset[int]) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable of capabilities 0 to 31, then of 32 to 63.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        return
    for index in range(len(sets)):
        first = 32 * (index // 3)
        sets[index] &= sum(1 << (number - first) for number in kept if first <= number < first + 32)
    libc.capset(header, sets)


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> int:
    return int(libc.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0))))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
