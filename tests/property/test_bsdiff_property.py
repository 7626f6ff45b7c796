"""bsdiff4 makes the patches, Debian's bspatch judges them; lies raise only the documented error."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import bsdiff4
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from update_agent.errors import FormatError
from update_agent.formats.bsdiff import apply_patch

HAS_BSPATCH = shutil.which("bspatch") is not None


def patched(old: bytes, patch: bytes, limit: int) -> bytes:
    return b"".join(
        apply_patch(
            read_patch=lambda offset, length: patch[offset : offset + length],
            patch_bytes=len(patch),
            read_old=lambda offset, length: old[offset : offset + length],
            old_bytes=len(old),
            new_bytes_max=limit,
        )
    )


@st.composite
def related_files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two files that share runs, in another order, with bytes changed and put in between."""
    old = draw(st.binary(max_size=400)) * draw(st.integers(1, 20))
    pieces = []
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(old)))
        pieces.append(old[start : start + draw(st.integers(0, 2000))])
        pieces.append(draw(st.binary(max_size=40)))
    return old, b"".join(pieces)


@given(related_files())
@settings(max_examples=150, deadline=None)
def test_apply_patch_gives_what_bsdiff4_was_given(files: tuple[bytes, bytes]) -> None:
    old, new = files
    assert patched(old, bsdiff4.diff(old, new), len(new)) == new


@pytest.mark.skipif(not HAS_BSPATCH, reason="bspatch (package bsdiff) is not installed")
@given(related_files())
@settings(max_examples=40, deadline=None)
def test_apply_patch_agrees_with_bspatch(files: tuple[bytes, bytes]) -> None:
    old, new = files
    patch = bsdiff4.diff(old, new)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").write_bytes(old)
        (folder / "patch").write_bytes(patch)
        subprocess.run(["bspatch", "old", "new", "patch"], cwd=folder, check=True, timeout=30)
        assert patched(old, patch, len(new)) == (folder / "new").read_bytes()


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"", b"BSDIFF40" + bytes(24))
@settings(max_examples=200, deadline=None)
def test_any_bytes_raise_only_format_error(old: bytes, patch: bytes) -> None:
    try:
        patched(old, patch, 1000)
    except FormatError:
        return


@given(related_files(), st.data())
@settings(max_examples=200, deadline=None)
def test_changed_patch_raises_only_format_error_and_stays_in_its_room(
    files: tuple[bytes, bytes], data: st.DataObject
) -> None:
    old, new = files
    patch = bytearray(bsdiff4.diff(old, new))
    for _ in range(data.draw(st.integers(1, 4))):
        patch[data.draw(st.integers(0, len(patch) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(patched(old, bytes(patch), len(new))) <= len(new)
    except FormatError:
        return
