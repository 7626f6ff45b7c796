"""How the C library keeps memory."""

import ctypes
from typing import Final

# malloc.h of glibc
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 32 * 1024 * 1024


def keep_freed_memory() -> None:
    """Let freed megabyte buffers be used again instead of given back and fetched anew.

    An install allocates one buffer after another of about 1 MiB. By default glibc maps and unmaps each of them, and the
    kernel zeroes every page: 0.7 s of a 512 MiB install. What is kept is bounded by what is in use at once; all threads
    share it, else each would keep its own. Where the C library is another one, nothing happens.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_ARENA_MAX, 1)
    malloc_trim(0)  # what the imports have left behind
