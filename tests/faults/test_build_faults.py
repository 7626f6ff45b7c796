"""A builder that is stopped by the system leaves nothing behind."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builds import BLOCK, MIB, build
from tests.support.payloads import RSA_A
from update_agent.domain.encode import Compression
from update_agent.domain.signing import attach_signatures
from update_agent.errors import DeviceError, Kind

NOISE = random.Random(2).randbytes(MIB)

STOPPED_BUILD = """
import os, signal, sys
from pathlib import Path
from update_agent.domain.build import build_payload
from update_agent.domain.build_request import BuildRequest
from update_agent.domain.trust import SigningKey

def stop(done: int, total: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

folder, key = map(Path, sys.argv[1:])
keys = (SigningKey.load(key),)
request = BuildRequest(usr=folder / "usr.img", version="1", keys=keys, level=1, output=folder / "out.payload")
build_payload(request, stop)
"""


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let writes fail beyond that size (EFBIG), as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [BLOCK, 2 * MIB + 100])
def test_build_whose_writes_fail_leaves_the_older_payload(tmp_path: Path, limit: int) -> None:
    # The first limit is met by the blobs, the second by the payload, which is longer than its blobs.
    (tmp_path / "usr.img").write_bytes(NOISE * 2)
    (tmp_path / "out.payload").write_bytes(b"older")
    with file_size_limit(limit), pytest.raises(DeviceError, match="cannot write") as caught:
        build(tmp_path, compression=Compression.NONE)
    assert caught.value.kind is Kind.DEVICE_IO
    assert (tmp_path / "out.payload").read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.payload", "usr.img"]


def test_attach_whose_writes_fail_leaves_the_payload_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(NOISE)
    build(tmp_path, compression=Compression.NONE, signature_sizes=(256,))
    before = (tmp_path / "out.payload").read_bytes()
    with file_size_limit(MIB // 2), pytest.raises(DeviceError):
        attach_signatures(
            tmp_path / "out.payload",
            metadata_signatures=(b"s" * 256,),
            payload_signatures=(b"s" * 256,),
            output=tmp_path / "out.payload",
        )
    assert (tmp_path / "out.payload").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.payload", "usr.img"]


def test_build_on_a_disk_that_fills_up_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr.img").write_bytes(NOISE * 2)
    real_pwrite = os.pwrite

    def write_until_full(fd: int, data: memoryview, offset: int) -> int:
        if offset >= MIB:
            raise OSError(errno.ENOSPC, "full")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", write_until_full)
    with pytest.raises(DeviceError) as caught:
        build(tmp_path, compression=Compression.NONE)
    assert caught.value.kind is Kind.NO_SPACE
    assert list(tmp_path.iterdir()) == [tmp_path / "usr.img"]


def test_build_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(NOISE * 2)
    with contextlib.suppress(OSError), (tmp_path / "probe").open("wb"):
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
        (tmp_path / "probe").unlink()
    if (tmp_path / "probe").exists():
        pytest.skip("the file system of the temporary folder knows no files without a name")
    done = subprocess.run([sys.executable, "-c", STOPPED_BUILD, tmp_path, RSA_A], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == [tmp_path / "usr.img"]
