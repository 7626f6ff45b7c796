import ctypes
from types import SimpleNamespace

import pytest

from update_agent.host.memory import keep_freed_memory


def test_keep_freed_memory_sets_both_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: calls.append((name, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    keep_freed_memory()
    # malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1; 32 MiB is the largest that glibc takes.
    assert {(-3, 32 << 20), (-1, 32 << 20)} <= set(calls)


@pytest.mark.parametrize("error", [OSError("no C library"), AttributeError("mallopt")])
def test_keep_freed_memory_with_another_library_does_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    keep_freed_memory()


def test_keep_freed_memory_works_here() -> None:
    keep_freed_memory()
