"""Requests and images that cannot become a payload."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.builds import BLOCK, build, request
from tests.support.payloads import P256, RSA_A
from update_agent.domain.encode import Compression
from update_agent.domain.trust import SigningKey
from update_agent.errors import ConfigurationError, Kind

RSA_KEY = SigningKey.load(RSA_A)
P256_KEY = SigningKey.load(P256)
V1 = {"major": 1, "compression": Compression.BZIP2}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"major": 3}, "major version 1 or 2"),
        ({"version": ""}, "version"),
        ({"version": " "}, "version"),
        ({"version": "1\n2"}, "version"),
        ({"version": "ä"}, "version"),
        ({"version": "1" * 129}, "version"),
        ({"workers": 0}, "workers"),
        ({"workers": 1025}, "workers"),
        ({"level": 0}, "level"),
        ({"level": 23}, "level"),
        ({"level": 9, "compression": Compression.XZ}, "level"),
        ({"level": 10, "compression": Compression.BZIP2}, "level"),
        ({"level": 1, "compression": Compression.NONE}, "level"),
        ({"keys": ()}, "keys to sign with"),
        ({"keys": (RSA_KEY,), "signature_sizes": (256,)}, "keys to sign with"),
        ({"signature_sizes": (2048,)}, "RSA or P-256 signature, got 2048"),
        ({"signature_sizes": (0,)}, "RSA or P-256 signature, got 0"),
        ({"signature_sizes": (-256,)}, "RSA or P-256 signature, got -256"),
        ({"keys": (RSA_KEY,) * 17}, "at most 16 signatures"),
        ({"pcr_policy": Path("policy")}, "pcr-policy"),
        ({"major": 1}, "bzip2 or none"),
        ({"major": 1, "compression": Compression.XZ}, "bzip2 or none"),
        (V1 | {"source_usr": Path("old")}, "delta"),
        (V1 | {"keys": (RSA_KEY, P256_KEY)}, "RSA"),
        (V1 | {"signature_sizes": (72,)}, "RSA"),
        (V1 | {"keys": (RSA_KEY,) * 4}, "at most 3 signatures"),
    ],
)
def test_request_that_cannot_be_built_is_refused_with_a_hint(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        request(tmp_path, **changes)
    assert caught.value.kind is Kind.CONFIGURATION
    assert caught.value.hint


@pytest.mark.parametrize(
    "changes", [{"version": "1" * 128}, {"workers": 1024}, {"level": 22}, {"signature_sizes": (72, 512)}]
)
def test_request_at_the_limit_is_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    request(tmp_path, **changes)


@pytest.mark.parametrize("which", ["usr", "source_usr"])
def test_build_from_image_of_broken_blocks_says_how_to_pad_it(tmp_path: Path, which: str) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    (tmp_path / "odd").write_bytes(b"x" * (BLOCK + 1))
    with pytest.raises(ConfigurationError, match="multiple of 4096 bytes, got 4097") as caught:
        build(tmp_path, **{which: tmp_path / "odd"})
    assert caught.value.hint is not None
    assert "truncate" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "usr.img"]


@pytest.mark.parametrize("which", ["usr", "kernel", "source_usr"])
def test_build_from_empty_file_is_refused(tmp_path: Path, which: str) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigurationError, match="empty file"):
        build(tmp_path, **{which: tmp_path / "empty"})


def test_build_over_its_own_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    (tmp_path / "link").symlink_to("usr.img")
    with pytest.raises(ConfigurationError, match="output"):
        build(tmp_path, output=tmp_path / "link")
    assert (tmp_path / "usr.img").read_bytes() == b"x" * BLOCK


def test_build_delta_without_bsdiff4_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr.img").write_bytes(b"x" * BLOCK)
    monkeypatch.setitem(sys.modules, "bsdiff4", None)
    with pytest.raises(ConfigurationError, match="bsdiff4") as caught:
        build(tmp_path, source_usr=tmp_path / "usr.img", output=tmp_path / "out")
    assert caught.value.hint is not None
    assert "update-agent[build]" in caught.value.hint
