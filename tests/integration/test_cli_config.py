"""`config cat`, `config import-cloud-config` and `channel`, on the files of a node in a folder."""

import contextlib
import io
import json
import tomllib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Result, run_cli
from tests.support.node_files import NodeFiles
from update_agent.api.forms import ExitStatus
from update_agent.cli.console import Console
from update_agent.cli.verbs import config
from update_agent.config.settings import SETTINGS
from update_agent.errors import ConfigurationError, DeviceError, Kind

LOCAL = "/etc/update-agent/config.d/90-local.toml"
IMPORTED = "/etc/update-agent/config.d/50-cloud-config.toml"
DOCUMENT = "#cloud-config\ncoreos: {update: {group: beta, colour: red}, locksmith: {group: db}}\n"


class Node(NodeFiles):
    """With what is typed on it."""

    def run(self, function: Callable[..., ExitStatus], *, is_json: bool = False, **arguments: Any) -> Result:
        out, err = io.StringIO(), io.StringIO()
        console = Console(is_json=is_json, environment={}, stdout=out, stderr=err)
        args = Namespace(**{"root": self.root, "name": None, "stdout": False, "output": None, **arguments})
        hook = {"reload": lambda _: self.has_daemon()} if function is not config.run_config_cat else {}
        return Result(function(args, console, **hook), out.getvalue(), err.getvalue())

    def has_daemon(self) -> bool:
        asked = self.root / "asked"
        asked.write_text("reload")
        return not (self.root / "no-daemon").exists()

    @property
    def was_asked(self) -> bool:
        return (self.root / "asked").exists()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return Node(tmp_path)


# config cat


def test_config_cat_lines_are_toml_with_the_place_behind(node: Node) -> None:
    node.fragment("50.toml", '[server]\nchannel = "be\\"ta"\nchanel = 1\n[transfer]\npassword = "SECRET"\n')
    node.put("etc/flatcar/update.conf", "SERVER=https://u:SECRET@own.example/\n")
    result = node.run(config.run_config_cat)
    lines = result.out.splitlines()
    assert [line.partition(" = ")[0] for line in lines] == list(SETTINGS)
    assert 'server.channel = "be\\"ta"  # /etc/update-agent/config.d/50.toml:2' in lines
    assert 'server.url = "https://***@own.example/"  # /etc/flatcar/update.conf:1' in lines
    assert 'transfer.password = "***"  # /etc/update-agent/config.d/50.toml:5' in lines
    assert 'transfer.proxy = ""  # default' in lines
    tables = tomllib.loads(result.out)
    assert tables["check"]["interval_secs"] == 2700
    assert tables["install"]["public_keys"][0] == "/etc/update-agent/keys"
    assert result.err == (
        "update-agent: warning: /etc/update-agent/config.d/50.toml:3: unknown setting server.chanel; "
        "did you mean server.channel?\n"
    )
    assert "SECRET" not in result.out + result.err
    assert result.status == ExitStatus.DONE


def test_config_cat_in_json_has_values_places_and_warnings(node: Node) -> None:
    node.fragment("50.toml", '[transfer]\npassword = "SECRET"\nx = 1\n[check]\nautomatic = false\n')
    result = node.run(config.run_config_cat, is_json=True)
    document = result.json
    place = "/etc/update-agent/config.d/50.toml"
    assert document["schema"] == 1
    assert list(document["settings"]) == list(SETTINGS)
    assert document["settings"]["transfer.password"] == {"value": "***", "from": f"{place}:2"}
    assert document["settings"]["check.automatic"] == {"value": False, "from": f"{place}:5"}
    assert document["settings"]["check.interval_secs"] == {"value": 2700, "from": "default"}
    assert document["warnings"] == [f"{place}:3: unknown setting transfer.x"]
    assert result.err == ""
    assert "SECRET" not in result.out


def test_config_cat_of_list_of_urls_hides_passwords(node: Node) -> None:
    node.fragment("50.toml", 'reboot.etcd_endpoints = ["http://u:SECRET@h"]\n')
    result = node.run(config.run_config_cat)
    assert 'reboot.etcd_endpoints = ["http://***@h"]' in result.out
    assert "SECRET" not in result.out


# channel


def test_channel_without_name_says_it_and_its_place(node: Node) -> None:
    assert node.run(config.run_channel).out == "stable  # default\n"
    node.put("etc/flatcar/update.conf", "GROUP=beta")
    assert node.run(config.run_channel, is_json=True).json == {
        "schema": 1,
        "channel": "beta",
        "from": "/etc/flatcar/update.conf:1",
    }
    assert not node.was_asked


def test_channel_with_name_writes_it_and_asks_the_daemon(node: Node) -> None:
    result = node.run(config.run_channel, name="alpha")
    assert result.out == f"alpha  # {LOCAL}:4\n"
    assert result.err == "the daemon was asked to read its configuration again\n"
    assert node.load().settings.server.channel == "alpha"
    assert node.was_asked


def test_channel_without_daemon_says_so(node: Node) -> None:
    node.put("no-daemon", "")
    result = node.run(config.run_channel, name="alpha")
    assert result.err == "the daemon does not run: it reads this when it starts\n"
    assert result.status == ExitStatus.DONE


def test_channel_that_another_file_overrules_is_said(node: Node) -> None:
    node.fragment("95.toml", 'server.channel = "lts"\n')
    result = node.run(config.run_channel, name="alpha")
    assert result.out == "lts  # /etc/update-agent/config.d/95.toml:1\n"
    assert f"/etc/update-agent/config.d/95.toml:1 says 'lts', which counts more than {LOCAL}" in result.err


@pytest.mark.parametrize(("name", "kind"), [("", Kind.USAGE), ("a\nb", Kind.CONFIGURATION)])
def test_channel_with_wrong_name_is_refused_and_nothing_is_written(node: Node, name: str, kind: Kind) -> None:
    with pytest.raises(ConfigurationError) as caught:
        node.run(config.run_channel, name=name)
    assert caught.value.kind is kind
    assert not node.paths.at(LOCAL).exists()
    assert not node.was_asked


def test_channel_where_nothing_can_be_written_does_not_ask_the_daemon(node: Node) -> None:
    node.put("etc/update-agent", "")
    with pytest.raises(DeviceError):
        node.run(config.run_channel, name="alpha")
    assert not node.was_asked


# config import-cloud-config


def test_config_import_writes_the_fragment_that_counts_from_then_on(node: Node) -> None:
    file = node.put("user_data", DOCUMENT)
    result = node.run(config.run_config_import, file=file)
    assert result.out == f"{IMPORTED}\n"
    assert result.err == (
        f"update-agent: warning: {file}: coreos.update.colour: there is no such setting; it is left out\n"
        "the daemon was asked to read its configuration again\n"
    )
    configuration = node.load()
    assert configuration.settings.server.channel == "beta"
    assert configuration.settings.reboot.group == "db"
    assert configuration.origins["server.channel"].place == f"{IMPORTED}:4"
    assert configuration.warnings == ()
    assert node.was_asked


def test_config_import_to_stdout_writes_nothing(node: Node) -> None:
    result = node.run(config.run_config_import, file=node.put("user_data", DOCUMENT), stdout=True)
    assert tomllib.loads(result.out) == {"server": {"channel": "beta"}, "reboot": {"group": "db"}}
    assert not node.paths.at(IMPORTED).exists()
    assert not node.was_asked


def test_config_import_to_a_file_in_json_names_it(node: Node) -> None:
    output = node.root / "out.toml"
    result = node.run(config.run_config_import, file=node.put("user_data", DOCUMENT), output=output, is_json=True)
    assert json.loads(result.out) == {"schema": 1, "file": "/out.toml"}
    assert tomllib.loads(output.read_text())["server"] == {"channel": "beta"}
    assert not node.paths.at(IMPORTED).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hostname: x", "expected settings in coreos.update or coreos.locksmith, got none"),
        (b"\xff", "expected UTF-8, got other bytes in line 1"),
        (b"a: [", "expected YAML"),
        (b"#" * ((1 << 20) + 1), "expected at most 1048576 bytes, got more"),
        (None, "no such file"),
    ],
)
def test_config_import_of_something_else_is_refused(node: Node, content: bytes | None, message: str) -> None:
    file = node.root / "user_data"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        node.run(config.run_config_import, file=file)
    assert message in caught.value.message
    assert caught.value.kind is Kind.CONFIGURATION
    assert not node.paths.at(IMPORTED).exists()
    assert not node.was_asked


# The program


def test_program_shows_the_configuration_of_a_root(node: Node) -> None:
    node.fragment("50.toml", 'server.channel = "beta"\n')
    result = run_cli("config", "cat", "--root", node.root)
    assert result.status == ExitStatus.DONE
    assert 'server.channel = "beta"  # /etc/update-agent/config.d/50.toml:1' in result.out
    assert run_cli("channel", "--root", node.root, "--json").json["channel"] == "beta"


def test_program_imports_to_stdout(node: Node) -> None:
    file = node.put("user_data", DOCUMENT)
    with contextlib.chdir(node.root):
        result = run_cli("config", "import-cloud-config", "--stdout", file)
    assert tomllib.loads(result.out)["server"] == {"channel": "beta"}
