import dataclasses
from pathlib import Path

import pytest

from tests.support.payloads import KEYS, RSA_A_PUBLIC, RSA_B_PUBLIC
from tests.support.workers import make_job
from update_agent.config.settings import Settings, TransferSection
from update_agent.daemon.job import Job, JobKind
from update_agent.daemon.job_settings import load_keys, transfer_settings
from update_agent.daemon.ports import InstallOptions
from update_agent.domain.state import Backoff
from update_agent.errors import ConfigurationError, FormatError, Kind, VerificationError
from update_agent.net.settings import TransferSettings


def test_job_survives_the_way_through_the_pipe(tmp_path: Path) -> None:
    plain = make_job(tmp_path)
    full = dataclasses.replace(
        plain,
        kind=JobKind.CHECK,
        settings=Settings.of({"transfer.password": "p\u00e4ss", "install.public_keys": ["/a", "/b"]}),
        options=InstallOptions(payload="/x", ignore_backoff=False, allow_bad=True, target="B"),
        previous_version="",
        has_fallen_back=True,
        pending_version="2.0.0",
        bad_releases=("1.0.0", "2.0.0"),
        backoff=Backoff(signature="a\nb", attempt_number=1, url_index=2, url_failure_count=3, expiry_at=4),
        is_test_image=True,
    )
    for job in (plain, full):
        assert Job.from_bytes(job.to_bytes()) == job


# Keys


def test_keys_of_all_places_that_exist_count(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "b.pem").write_bytes(RSA_B_PUBLIC.read_bytes())
    (folder / "note.txt").write_text("no key")
    (tmp_path / "empty").mkdir()
    ring = load_keys([tmp_path / "nothing", folder, tmp_path / "empty", RSA_A_PUBLIC])
    assert [key.name for key in ring.keys] == ["b.pem", RSA_A_PUBLIC.name]


@pytest.mark.parametrize("names", [(), ("nothing", "empty")])
def test_keys_of_nowhere_are_missing(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VerificationError) as caught:
        load_keys([tmp_path / name for name in names])
    assert caught.value.kind is Kind.KEY_MISSING
    assert all(name in caught.value.message for name in names)


def test_keys_with_one_that_is_none_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no key")
    with pytest.raises(FormatError):
        load_keys([KEYS / RSA_A_PUBLIC.name, tmp_path])


# Transfers


def test_transfer_settings_by_default_are_those_of_a_transfer() -> None:
    assert transfer_settings(TransferSection()) == TransferSettings()


@pytest.mark.parametrize(("proxy", "used"), [("", None), ("none", ""), ("http://p:1", "http://p:1")])
def test_transfer_settings_tell_no_proxy_from_the_usual_one(proxy: str, used: str | None) -> None:
    assert transfer_settings(TransferSection(proxy=proxy)).proxy == used


@pytest.mark.parametrize(("configured", "of_server", "used"), [(0, 0, 10), (0, 3, 3), (5, 3, 5), (0, 1 << 32, 1 << 32)])
def test_transfer_settings_take_the_failures_of_the_server_unless_configured(
    configured: int, of_server: int, used: int
) -> None:
    section = TransferSection(max_failures_per_url=configured)
    assert transfer_settings(section, max_failures_per_url=of_server).max_failures_per_url == used


def test_transfer_settings_carry_everything_else() -> None:
    section = TransferSection(
        connect_timeout_secs=1,
        stall_secs=2,
        limit_rate_bytes_per_sec=4096,
        max_size_bytes=5,
        ca="/ca",
        client_cert="/cert",
        user="u",
        password="p",
    )
    assert transfer_settings(section) == TransferSettings(
        connect_timeout_secs=1,
        stall_secs=2,
        rate_limit_bytes_per_sec=4096,
        max_bytes=5,
        ca_file=Path("/ca"),
        client_cert=Path("/cert"),
        user="u",
        password="p",
    )


def test_transfer_settings_with_a_rate_that_is_too_low_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        transfer_settings(TransferSection(limit_rate_bytes_per_sec=1))
