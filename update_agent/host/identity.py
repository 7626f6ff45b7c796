"""Who this machine is. Nothing here fails: what cannot be read is empty."""

import os
from pathlib import Path
from typing import Final

_BYTES_MAX: Final = 4096


def machine_id(root: Path = Path("/")) -> str:
    """The machine's number, the same in every boot."""
    return _read(root / "etc/machine-id")


def boot_id(proc: Path = Path("/proc")) -> str:
    """The boot's number, another one in every boot."""
    return _read(proc / "sys/kernel/random/boot_id")


def machine() -> str:
    """The kernel's word for the hardware, such as x86_64."""
    return os.uname().machine


def is_test_image(root: Path = Path("/")) -> bool:
    """Whether the image was made for developers."""
    try:
        return (root / "root/.dev_mode").exists()
    except OSError:
        return False


def _read(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(fd, _BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)
