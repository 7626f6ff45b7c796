import ctypes
from types import SimpleNamespace

import pytest

from update_agent.host.memory import keep_freed_memory


def test_keep_freed_memory_keeps_buffers_in_one_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    trims: list[int] = []
    library = SimpleNamespace(mallopt=lambda name, value: calls.append((name, value)), malloc_trim=trims.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    keep_freed_memory()
    # malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1, M_ARENA_MAX is -8; 32 MiB is the most glibc takes.
    assert set(calls) == {(-3, 32 << 20), (-1, 32 << 20), (-8, 1)}
    assert trims == [0]


@pytest.mark.parametrize("error", [OSError("no C library"), AttributeError("mallopt")])
def test_keep_freed_memory_with_another_library_does_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    keep_freed_memory()


def test_keep_freed_memory_works_here() -> None:
    keep_freed_memory()
