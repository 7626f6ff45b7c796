import ctypes
import hashlib
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from update_agent.host import sha256
from update_agent.host.sha256 import STATE_BYTES, new_hash, resume_hash


@pytest.fixture(autouse=True)
def _fresh_library() -> Iterator[None]:
    sha256._load_library.cache_clear()
    yield
    sha256._load_library.cache_clear()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@given(st.binary(max_size=300), st.integers(0, 300))
def test_hash_goes_on_from_its_state(data: bytes, cut: int) -> None:
    first = new_hash()
    first.update(data[:cut])
    state = first.state()
    assert state is not None
    assert len(state) == STATE_BYTES
    second = resume_hash(state)
    assert second is not None
    second.update(data[cut:])
    assert second.digest() == digest(data)


def test_hash_state_is_that_of_update_engine() -> None:
    """Eight words of the machine, bits as a 64-bit number, the block that is not full yet."""
    running = new_hash()
    running.update(b"abc")
    state = running.state()
    assert state is not None
    words = struct.unpack("=8I", state[:32])
    assert words[0] == 0x6A09E667
    assert struct.unpack("=Q", state[32:40])[0] == 24
    assert state[40:] == b"abc" + bytes(61)


def test_hash_counts_beyond_32_bits() -> None:
    piece = bytes(1 << 20)
    running, expected = new_hash(), hashlib.sha256()
    for _ in range(513):  # 2^32 bits are 512 MiB
        running.update(piece)
        expected.update(piece)
    state = running.state()
    assert state is not None
    again = resume_hash(state)
    assert again is not None
    assert again.digest() == expected.digest()


@pytest.mark.parametrize("has_library", [True, False])
def test_hash_copy_and_digest_leave_it_alone(has_library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_library:
        monkeypatch.setattr(sha256, "_load_library", lambda: None)
    running = new_hash()
    running.update(b"one")
    copy = running.copy()
    copy.update(b"two")
    assert (running.digest(), running.digest(), copy.digest()) == (digest(b"one"), digest(b"one"), digest(b"onetwo"))
    assert (running.state() is not None) is has_library


def test_resume_hash_without_libcrypto_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "_load_library", lambda: None)
    assert resume_hash(bytes(STATE_BYTES)) is None


@pytest.mark.parametrize("state", [b"", bytes(STATE_BYTES - 1), bytes(STATE_BYTES + 1)])
def test_resume_hash_of_wrong_length_is_none(state: bytes) -> None:
    assert resume_hash(state) is None


def test_resume_hash_of_bits_that_are_no_bytes_is_none() -> None:
    assert resume_hash(bytes(32) + struct.pack("=Q", 3) + bytes(64)) is None


@given(st.binary(min_size=STATE_BYTES, max_size=STATE_BYTES))
def test_resume_hash_any_state_is_harmless(state: bytes) -> None:
    running = resume_hash(state)
    if running is not None:
        running.update(b"more")
        assert len(running.digest()) == 32


def test_library_missing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "_LIBRARIES", ("libmissing-1.so", "libc.so.6"))
    assert new_hash().state() is None


def test_library_of_another_layout_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sha256, "_is_right", lambda _: False)
    assert new_hash().state() is None


def test_library_that_hashes_otherwise_is_noticed() -> None:
    library = sha256._load_library()
    assert isinstance(library, ctypes.CDLL)
    assert sha256._is_right(library)
