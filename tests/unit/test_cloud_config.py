"""cloud-config's sections about updates, and the fragment that is made of them."""

import tomllib

import pytest

from update_agent.config.importing import to_fragment
from update_agent.config.settings import Settings
from update_agent.errors import ConfigurationError, Kind
from update_agent.formats.cloud_config import CHARS_MAX, CloudConfig, parse_cloud_config

DOCUMENT = """\
#cloud-config
hostname: node
coreos:
  etcd2: {name: x}
  update:
    reboot-strategy: off
    group: beta
    server: https://own.example/v1/update/
  locksmith:
    endpoint: http://a:2379,http://b:2379
    etcd_cafile: /ca
    etcd-certfile: /cert
    etcd_keyfile: /key
    group: db
    window-start: 04:00
    window_length: 1h
"""


def cloud(text: str) -> CloudConfig:
    return parse_cloud_config(text)


def test_cloud_config_has_both_sections_as_text_with_either_spelling() -> None:
    config = cloud(DOCUMENT)
    assert config.update == {"reboot_strategy": "off", "group": "beta", "server": "https://own.example/v1/update/"}
    assert config.locksmith == {
        "endpoint": "http://a:2379,http://b:2379",
        "etcd_cafile": "/ca",
        "etcd_certfile": "/cert",
        "etcd_keyfile": "/key",
        "group": "db",
        "window_start": "04:00",
        "window_length": "1h",
    }


@pytest.mark.parametrize("text", ["", "#cloud-config\n", "a: 1", "coreos:", "coreos: {update: }", "[]", "coreos: []"])
def test_cloud_config_without_sections_is_empty(text: str) -> None:
    assert cloud(text) == CloudConfig(update={}, locksmith={})


def test_cloud_config_list_of_endpoints_is_joined() -> None:
    assert cloud("coreos: {locksmith: {endpoint: [http://a, http://b]}}").locksmith["endpoint"] == "http://a,http://b"


def test_cloud_config_alias_is_followed() -> None:
    assert cloud("x: &x beta\ncoreos: {update: {group: *x}}").update == {"group": "beta"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "expected YAML, got mapping values are not allowed here in line 1"),
        ("a: 1\nb: [", "expected YAML, got expected the node content, but found '<stream end>' in line 2"),
        ("a: \x00", "expected YAML, got characters that it does not have"),
        ('a: "\\UFFFFFFFF"', "expected YAML, got characters that it does not have"),
        ("a: *b", "expected YAML, got found undefined alias 'b' in line 1"),
        ("a: 1\n---\nb: 1", "expected YAML, got but found another document in line 2"),
        ("? [a]\n: b", "expected YAML, got found unhashable key in line 1"),
        ("text", "document: expected names with values, got something else"),
        ("coreos: text", "coreos: expected names with values, got something else"),
        ("coreos: {update: text}", "coreos.update: expected names with values, got something else"),
        ("coreos: {update: {group: {a: b}}}", "coreos.update.group: expected a text, got something else"),
        ("coreos: {update: {group: [[a]]}}", "coreos.update.group: expected a text, got something else"),
        ("[" * 33, "expected at most 32 levels, got more"),
        ("a: &a [x]\nb: [" + "*a, " * 65, "expected at most 64 aliases, got more"),
        ("- a\n" * 20_000, "expected at most 20000 values, got more"),
        ("#" * (CHARS_MAX + 1), f"expected at most {CHARS_MAX} characters, got {CHARS_MAX + 1}"),
    ],
    ids=range(16),
)
def test_cloud_config_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_cloud_config(text)
    assert caught.value.kind is Kind.CONFIGURATION
    assert caught.value.message == f"cloud-config: {message}"


@pytest.mark.parametrize("ending", ["[" * 31 + "]" * 31, "[" + ", ".join(["*a"] * 64) + "]"])
def test_cloud_config_at_the_limits_is_read(ending: str) -> None:
    assert cloud(f"x: &a b\ny: {ending}\ncoreos: {{update: {{group: c}}}}").update == {"group": "c"}


def test_cloud_config_with_alias_to_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        parse_cloud_config("coreos: &a {update: *a}")


def test_cloud_config_makes_no_objects() -> None:
    assert cloud("coreos: {update: {group: !!python/object/apply:os.getcwd []}}").update == {"group": ""}


def test_fragment_of_cloud_config_has_all_settings() -> None:
    text, warnings = to_fragment(cloud(DOCUMENT))
    assert warnings == ()
    assert text.startswith("# Made by update-agent config import-cloud-config.\n")
    tables = tomllib.loads(text)
    assert tables == {
        "server": {"channel": "beta", "url": "https://own.example/v1/update/"},
        "reboot": {
            "strategy": "off",
            "group": "db",
            "window_start": "04:00",
            "window_length": "1h",
            "etcd_endpoints": ["http://a:2379", "http://b:2379"],
            "etcd_ca": "/ca",
            "etcd_cert": "/cert",
            "etcd_key": "/key",
        },
    }
    Settings.of({f"{section}.{name}": value for section, table in tables.items() for name, value in table.items()})


@pytest.mark.parametrize(
    ("section", "name", "value", "warning"),
    [
        ("update", "reboot-strategy", "best-effort", "reboot_strategy: reboot.strategy: expected one of off"),
        ("update", "colour", "red", "colour: there is no such setting; it is left out"),
        ("update", "window-start", "04:00", "window_start: there is no such setting; it is left out"),
        ("locksmith", "etcd_password", "SECRET", "etcd_password: there is no such setting; it is left out"),
        ("locksmith", "endpoint", "http://$private_ipv4:1", "endpoint: reboot.etcd_endpoints: $private_ipv4 is not kn"),
        ("locksmith", "endpoint", "a:1", "endpoint: reboot.etcd_endpoints: expected a list, each an http or https URL"),
        ("update", "server", "none", "server: server.url: expected an http or https URL or 'disabled', got 'none'"),
    ],
)
def test_fragment_of_cloud_config_warns_of_what_it_cannot_take_over(
    section: str, name: str, value: str, warning: str
) -> None:
    text, warnings = to_fragment(cloud(f"coreos: {{update: {{group: beta}}, {section}: {{'{name}': '{value}'}}}}"))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"coreos.{section}.{warning}")
    assert warnings[0].endswith("; it is left out")
    assert "SECRET" not in warnings[0] + text


def test_fragment_of_cloud_config_with_empty_values_is_empty() -> None:
    assert to_fragment(cloud("coreos: {update: {group: , server: ' '}}")) == ("", ())
