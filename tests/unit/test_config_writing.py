"""Fragments that the program writes."""

import datetime as dt
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_files import NodeFiles
from update_agent.config.writing import format_value, set_key, to_toml
from update_agent.errors import ConfigurationError, DeviceError, Kind

LOCAL = "etc/update-agent/config.d/90-local.toml"


@pytest.fixture
def node(tmp_path: Path) -> NodeFiles:
    return NodeFiles(tmp_path)


def test_set_key_without_file_makes_it(node: NodeFiles) -> None:
    path = set_key(node.paths, "server.channel", "beta")
    assert path == node.root / LOCAL
    assert path.read_text() == (
        "# Written by update-agent. Settings that are added by hand stay when it writes again; comments do not.\n"
        '\n[server]\nchannel = "beta"\n'
    )
    assert [each.name for each in path.parent.iterdir()] == ["90-local.toml"]
    origin = node.load().origins["server.channel"]
    assert (origin.value, origin.place) == ("beta", f"/{LOCAL}:4")


def test_set_key_twice_keeps_the_last(node: NodeFiles) -> None:
    set_key(node.paths, "server.channel", "beta")
    set_key(node.paths, "server.channel", "alpha")
    assert node.load().settings.server.channel == "alpha"


def test_set_key_keeps_everything_else(node: NodeFiles) -> None:
    path = node.put(
        LOCAL,
        "top = 1979-05-27T07:32:00Z\n[server]\nchannel = 'a'\nboard = 'b'\n'odd key' = [1.5, inf, {x = 07:32:00}]\n"
        '[zoo.deep]\n"quo\\"te" = \'"\\\'\n[check]\nautomatic = false\ninterval_secs = 60\n',
    )
    before = tomllib.loads(path.read_text())
    set_key(node.paths, "server.channel", "beta")
    before["server"]["channel"] = "beta"
    assert tomllib.loads(path.read_text()) == before


def test_set_key_of_list_and_enum_writes_them(node: NodeFiles) -> None:
    set_key(node.paths, "install.public_keys", ["/a", "/b"])
    set_key(node.paths, "reboot.strategy", "etcd-lock")
    settings = node.load().settings
    assert settings.install.public_keys == ("/a", "/b")
    assert settings.reboot.strategy == "etcd-lock"


@pytest.mark.parametrize(("key", "value"), [("server.chanel", "x"), ("server.channel", "a\nb"), ("server.channel", 3)])
def test_set_key_that_is_wrong_is_refused_and_writes_nothing(node: NodeFiles, key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        set_key(node.paths, key, value)
    assert caught.value.kind is Kind.CONFIGURATION
    assert key in caught.value.message
    assert not (node.root / LOCAL).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = ", f"/{LOCAL}:1: expected TOML, got invalid value"),
        (b"\xff", f"/{LOCAL}: expected UTF-8, got other bytes in line 1"),
        (b"server = 3", f"/{LOCAL}: server: expected a section, got one value"),
    ],
)
def test_set_key_into_file_that_would_be_lost_is_refused(node: NodeFiles, content: bytes, message: str) -> None:
    path = node.put(LOCAL, content)
    with pytest.raises(ConfigurationError) as caught:
        set_key(node.paths, "server.channel", "x")
    assert caught.value.message == message
    assert caught.value.hint
    assert path.read_bytes() == content


def test_set_key_keeps_the_mode_of_the_file(node: NodeFiles) -> None:
    path = node.put(LOCAL, "transfer.password = 'p'\n")
    path.chmod(0o600)
    set_key(node.paths, "server.channel", "x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert node.load().settings.transfer.password == "p"


def test_set_key_where_nothing_can_be_written_is_an_error_of_the_file_system(node: NodeFiles) -> None:
    node.put("etc/update-agent", "")
    with pytest.raises(DeviceError) as caught:
        set_key(node.paths, "server.channel", "x")
    assert caught.value.kind is Kind.STATE_FILE


@pytest.mark.parametrize(
    "value",
    [True, False, 0, -1, 1.5, float("inf"), "", 'a"b\\c\n\t\x00\x1f\x7f\x85é🙂', [], ["a", [1]], {"a b": {"c": 1}},
     dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), dt.time(1, 2)],
)  # fmt: skip
def test_format_value_is_read_back_as_it_was(value: Any) -> None:
    assert tomllib.loads(f"x = {format_value(value)}") == {"x": value}


def test_to_toml_of_nothing_is_empty() -> None:
    assert to_toml({}) == ""


def test_to_toml_of_an_empty_name_and_section_keeps_them() -> None:
    tables = {"": {"": 1}, "a.b": {}, "c": 1}
    assert tomllib.loads(to_toml(tables)) == tables
