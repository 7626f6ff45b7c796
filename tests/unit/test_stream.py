import hashlib
import os
from pathlib import Path

import pytest

from update_agent.domain.stream import PayloadHashes, PayloadStream
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.host.sha256 import resume_hash
from update_agent.host.spool import SpooledBlob

DATA = bytes(range(256)) * 20


def stream(data: bytes = DATA, *, chunk_bytes: int = 7, hashes: PayloadHashes | None = None) -> PayloadStream:
    chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
    return PayloadStream(chunks, hashes or PayloadHashes(track_whole=True))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 99_999])
def test_take_gives_exact_lengths_whatever_the_chunks(chunk_bytes: int) -> None:
    taken = stream(chunk_bytes=chunk_bytes)
    assert [taken.take(length) for length in (0, 1, 63, 64, 65)] == [
        DATA[:0],
        DATA[:1],
        DATA[1:64],
        DATA[64:128],
        DATA[128:193],
    ]
    assert taken.position == 193


def test_take_beyond_end_names_both_lengths() -> None:
    taken = stream(b"12345")
    taken.take(2)
    with pytest.raises(FormatError) as caught:
        taken.take(9)
    assert caught.value.kind is Kind.PAYLOAD_TRUNCATED
    assert "expected at least 11 bytes, got 5" in caught.value.message


def test_hashes_signed_leaves_out_what_is_unsigned_and_whole_does_not() -> None:
    hashes = PayloadHashes(track_whole=True)
    taken = stream(hashes=hashes)
    taken.take(10)
    assert (hashes.signed_digest, hashes.whole_digest) == (sha256(DATA[:10]), sha256(DATA[:10]))
    taken.take_unsigned(5)
    taken.take(10)
    assert hashes.signed_digest == sha256(DATA[:10] + DATA[15:25])
    assert hashes.whole_digest == sha256(DATA[:25])


def test_hashes_whole_untracked_is_none() -> None:
    hashes = PayloadHashes(track_whole=False)
    taken = stream(hashes=hashes)
    taken.take(3)
    taken.take_unsigned(3)
    assert hashes.whole_digest is None
    states = hashes.states()
    assert states is not None
    assert states[1] is None


@pytest.mark.parametrize("unsigned", [0, 5])
def test_hashes_states_go_on_in_other_hashes(unsigned: int) -> None:
    hashes = PayloadHashes(track_whole=True)
    taken = stream(hashes=hashes)
    taken.take(100)
    if unsigned:
        taken.take_unsigned(unsigned)
    states = hashes.states()
    assert states is not None
    assert states[1] is not None
    again = PayloadHashes(signed=resume_hash(states[0]), whole=resume_hash(states[1]), track_whole=True)
    again.take_signed(b"more")
    assert again.signed_digest == sha256(DATA[:100] + b"more")
    assert again.whole_digest == sha256(DATA[: 100 + unsigned] + b"more")


def test_hashes_states_without_libcrypto_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("update_agent.host.sha256._load_library", lambda: None)
    hashes = PayloadHashes(track_whole=True)
    hashes.take_signed(b"1")
    hashes.take_unsigned(b"2")
    assert hashes.states() is None
    assert (hashes.signed_digest, hashes.whole_digest) == (sha256(b"1"), sha256(b"12"))


def test_expect_end_at_end_passes() -> None:
    taken = stream(b"123")
    taken.take(3)
    taken.expect_end()


def test_expect_end_before_end_is_refused() -> None:
    taken = stream(b"123")
    taken.take(2)
    with pytest.raises(VerificationError) as caught:
        taken.expect_end()
    assert caught.value.kind is Kind.PAYLOAD_SIZE


def test_take_blob_large_one_spools_and_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("update_agent.domain.stream.MEMORY_BLOB_BYTES_MAX", 1000)
    hashes = PayloadHashes(track_whole=False)
    taken = stream(hashes=hashes)
    assert not isinstance(taken.take_blob(1000, tmp_path), SpooledBlob)
    blob = taken.take_blob(3500, tmp_path)
    assert isinstance(blob, SpooledBlob)
    assert blob.read_at(0, 9999) == DATA[1000:4500]
    assert hashes.signed_digest == sha256(DATA[:4500])
    blob.close()


def test_take_blob_truncated_gives_its_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("update_agent.domain.stream.MEMORY_BLOB_BYTES_MAX", 1000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(FormatError):
            stream().take_blob(len(DATA) + 1, tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
