"""Settings from values and back, and what is said about wrong ones."""

import json
import platform
from dataclasses import fields
from typing import Any

import pytest

from update_agent.config.defaults import default_board
from update_agent.config.schema import ITEMS_MAX, TEXTS, redacted
from update_agent.config.settings import SETTINGS, PostInstall, Settings, Strategy
from update_agent.domain.health import HealthMode
from update_agent.errors import ConfigurationError, Kind


def refused(key: str, value: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.of({key: value})
    assert caught.value.kind is Kind.CONFIGURATION
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    return caught.value.message


def test_settings_of_nothing_are_the_defaults() -> None:
    assert Settings.of({}) == Settings()


def test_settings_of_values_have_their_types() -> None:
    settings = Settings.of(
        {
            "server.channel": "beta",
            "check.automatic": False,
            "check.interval_secs": 60,
            "install.public_keys": ["/a", "/b"],
            "install.postinstall": "never",
            "health.mode": "timer",
            "reboot.strategy": "etcd-lock",
        }
    )
    assert settings.server.channel == "beta"
    assert settings.check.automatic is False
    assert settings.check.interval_secs == 60
    assert settings.install.public_keys == ("/a", "/b")
    assert settings.install.postinstall is PostInstall.NEVER
    assert settings.health.mode is HealthMode.TIMER
    assert settings.reboot.strategy is Strategy.ETCD_LOCK


def test_settings_to_values_has_every_key_in_json() -> None:
    values = Settings().to_values()
    assert list(values) == list(SETTINGS)
    sections = {section.name: getattr(Settings(), section.name) for section in fields(Settings)}
    assert set(values) == {f"{name}.{each.name}" for name, section in sections.items() for each in fields(section)}
    assert Settings.of(json.loads(json.dumps(values))) == Settings()


@pytest.mark.parametrize("key", SETTINGS)
def test_setting_default_fits_itself(key: str) -> None:
    setting = SETTINGS[key]
    assert setting.check(setting.to_plain(setting.default)) == setting.default
    assert Settings().get(key) == setting.default


@pytest.mark.parametrize("key", SETTINGS)
def test_setting_says_what_it_is_for_and_what_it_expects(key: str) -> None:
    assert SETTINGS[key].text
    assert SETTINGS[key].expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("check.interval_secs", "60", "expected a whole number from 10 to 604800, got '60'"),
        ("check.interval_secs", True, "expected a whole number from 10 to 604800, got true"),
        ("check.interval_secs", 60.0, "expected a whole number from 10 to 604800, got 60.0"),
        ("check.interval_secs", 9, "expected a whole number from 10 to 604800, got 9"),
        ("check.interval_secs", 604801, "expected a whole number from 10 to 604800, got 604801"),
        (
            "check.interval_secs",
            10**4000,
            "expected a whole number from 10 to 604800, got a huge number",
        ),
        ("install.nice", True, "expected a whole number from 0 to 19, got true"),
        ("check.automatic", 1, "expected true or false, got 1"),
        ("check.automatic", "yes", "expected true or false, got 'yes'"),
        ("server.channel", ["a"], "expected a text, got a list"),
        ("server.channel", {"a": 1}, "expected a text, got a table"),
        ("server.channel", "a\nb", "expected a text without control characters, got 'a\\nb'"),
        ("server.app_id", "a\x7f", "expected a text without control characters, got 'a\\x7f'"),
        ("server.machine_alias", "\udc80", "expected a text without control characters, got '\\udc80'"),
        ("server.url", "ftp://h/", "expected an http or https URL or 'disabled', got 'ftp://h/'"),
        ("server.url", "", "expected an http or https URL or 'disabled', got ''"),
        ("server.url", "off", "expected an http or https URL or 'disabled', got 'off'"),
        ("metrics.listen", "9100", "expected HOST:PORT, got '9100'"),
        ("metrics.listen", "::1:9100", "expected HOST:PORT, got '::1:9100'"),
        ("metrics.listen", "a:65536", "expected HOST:PORT, got 'a:65536'"),
        ("metrics.listen", "a:1:2", "expected HOST:PORT, got 'a:1:2'"),
        ("metrics.socket", "run/x", "expected a path that starts with /, got 'run/x'"),
        ("install.public_keys", "/a", "expected a list, each a path that starts with /, got '/a'"),
        ("install.public_keys", [3], "expected a list, each a path that starts with /, got 3"),
        ("install.public_keys", [""], "expected a list, each a path that starts with /, got ''"),
        ("reboot.etcd_endpoints", ["h:1"], "expected a list, each an http or https URL, got 'h:1'"),
        ("install.postinstall", "maybe", "expected one of if-present, required, never, got 'maybe'"),
        ("install.postinstall", [], "expected one of if-present, required, never, got a list"),
        ("transfer.limit_rate_bytes_per_sec", 1, "expected 0, or at least 1024, got 1"),
    ],
)  # fmt: skip
def test_settings_of_wrong_value_names_key_and_what_was_expected_and_got(key: str, value: Any, message: str) -> None:
    assert refused(key, value) == f"{key}: {message}"


@pytest.mark.parametrize("key", ["server.chanel", "channel", "server", ""])
def test_settings_of_unknown_key_names_it(key: str) -> None:
    assert refused(key, {}) == f"unknown setting {key}"


def test_settings_of_unknown_key_of_many_lines_names_it_in_one() -> None:
    assert refused("a\nb" + "c" * 100, 1) == f"unknown setting a?b{'c' * 77}..."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.url", "disabled"),
        ("server.url", "https://updates.example/v1/update/"),
        ("server.channel", ""),
        ("check.interval_secs", 10),
        ("check.interval_secs", 604800),
        ("metrics.listen", ""),
        ("metrics.listen", "127.0.0.1:9100"),
        ("metrics.listen", "[::1]:9100"),
        ("metrics.listen", "localhost:0"),
        ("metrics.socket", ""),
        ("transfer.proxy", "none"),
        ("transfer.proxy", ""),
        ("transfer.proxy", "http://user:password@proxy:3128"),
        ("transfer.limit_rate_bytes_per_sec", 0),
        ("transfer.limit_rate_bytes_per_sec", 1024),
        ("install.public_keys", []),
        ("health.folders", ["/x"] * ITEMS_MAX),
        ("server.machine_alias", "Küche 7"),
    ],
)
def test_settings_of_right_value_keep_it(key: str, value: Any) -> None:
    assert Settings.of({key: value}).to_values()[key] == value


def test_settings_of_list_without_end_is_refused() -> None:
    refused("health.folders", ["/x"] * (ITEMS_MAX + 1))


def test_settings_of_long_text_is_shown_short() -> None:
    message = refused("server.url", "x" * 100_000)
    assert message.endswith("xxx...")


@pytest.mark.parametrize("value", ["p\nSECRET", 12345, ["SECRET"]])
def test_settings_of_wrong_secret_do_not_say_it(value: Any) -> None:
    message = refused("transfer.password", value)
    assert message.endswith("got something else")
    assert "SECRET" not in message
    assert "12345" not in message


def test_settings_of_wrong_url_do_not_say_its_password_nor_its_query() -> None:
    message = refused("server.url", "ftp://user:SECRET@host/path?token=SECRET")
    assert message.endswith("got 'ftp://***@host/path'")


def test_settings_in_a_log_do_not_show_secrets() -> None:
    settings = Settings.of({"transfer.password": "SECRET", "transfer.proxy": "http://u:SECRET@p/"})
    assert "SECRET" not in repr(settings)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("server.chanel", "server.channel"),
        ("channel", "server.channel"),
        ("sever.channel", "server.channel"),
        ("check.intervall_secs", "check.interval_secs"),
        ("server.more", None),
        ("server.interval_secs", None),
        ("zzz", None),
        ("", None),
    ],
)
def test_settings_of_unknown_key_hint_at_the_one_that_was_meant(key: str, meant: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.of({key: "x"})
    assert caught.value.hint == (None if meant is None else f"did you mean {meant}?")


def test_redacted_takes_user_and_password_out_of_urls_only() -> None:
    assert redacted("http://u:p@h/a@b") == "http://***@h/a@b"
    assert redacted("http://h/a@b, u:p@h") == "http://h/a@b, u:p@h"


def test_settings_that_are_lists_are_those_with_several_values() -> None:
    assert {key for key, each in SETTINGS.items() if each.value_type == TEXTS} == {
        "install.public_keys",
        "health.folders",
        "reboot.etcd_endpoints",
    }


@pytest.mark.parametrize(("machine", "board"), [("x86_64", "amd64-usr"), ("aarch64", "arm64-usr"), ("riscv64", "")])
def test_default_board_is_that_of_the_architecture(monkeypatch: pytest.MonkeyPatch, machine: str, board: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert default_board() == board
