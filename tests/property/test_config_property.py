"""Whatever is in the files, a node has settings; whatever the settings are, they come back as they went out."""

import contextlib
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.node_files import NodeFiles
from update_agent.config.importing import to_fragment
from update_agent.config.schema import TEXTS, Setting
from update_agent.config.settings import SETTINGS, Settings
from update_agent.config.writing import to_toml
from update_agent.errors import ConfigurationError
from update_agent.formats.cloud_config import parse_cloud_config
from update_agent.formats.keyvalue import parse_key_values, parse_os_release

FILES = (
    "etc/update-agent/config.d/50.toml",
    "run/update-agent/config.d/50.toml",
    "usr/lib/update-agent/config.d/60.toml",
    "etc/flatcar/update.conf",
    "usr/share/flatcar/release",
    "etc/oem-release",
    "etc/os-release",
)
TOML_WORDS = st.lists(
    st.sampled_from(
        (*(f"{key} = " for key in SETTINGS), *(f"[{key.partition('.')[0]}]" for key in SETTINGS), "[[", "]", "]]", "{",
         "}", "\n", "\r\n", '"', '"""', "'", "'''", "#", ",", ".", "=", "\\", "\\u0000", "\\uD800", "\x00", "true", "1",
         "-1", "0x", "1e999", "nan", "1979-05-27", "07:32:00", "x", " ", "\u00e9", "\ufeff")
    )
).map("".join)  # fmt: skip
KEY_WORDS = st.lists(
    st.sampled_from(
        ("SERVER=", "GROUP=", "REBOOT_STRATEGY=", "LOCKSMITHD_ENDPOINT=", "DOWNLOAD_PASSWORD=", "VERSION_ID=", "ID=",
         "FLATCAR_RELEASE_VERSION=", "\n", "\r", "'", '"', "\\", "=", ",", "http://", "x", "\x00", "[", "]", "\u2028")
    )
).map("".join)  # fmt: skip
YAML_WORDS = st.lists(
    st.sampled_from(
        ("coreos", "update", "locksmith", "group", "endpoint", ": ", "\n", "\n  ", "\n    ", "- ", "? ", "&a", "*a",
         "!!x", "!", "!<", ">", "|",
         "'", '"', "\\U", "\\x", "%YAML 1", "%TAG", "---", "...", "{", "}", "[", "]", ",", "#",
         "<<", "~", "@", "`", "\x85", "\t", "\ufeff", "9", "\ud800")
    )
).map("".join)  # fmt: skip


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(FILES), st.one_of(st.binary(), TOML_WORDS.map(str.encode), KEY_WORDS.map(str.encode))
    ),
    st.binary(max_size=100),
)
def test_any_bytes_in_any_file_make_settings(files: dict[str, bytes], credential: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node = NodeFiles(Path(folder))
        for name, content in files.items():
            node.put(name, content)
        node.credential("update-agent.download-password", credential)
        configuration = node.load()
    assert Settings.of(configuration.settings.to_values()) == configuration.settings
    assert all("\n" not in warning and warning.isprintable() for warning in configuration.warnings)
    json.dumps([*configuration.warnings, configuration.oem_id, configuration.oem_version]).encode()


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """What the setting takes."""
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.value_type is bool:
        return st.booleans()
    if setting.value_type is int:
        numbers = st.integers(setting.minimum, setting.maximum)
        return numbers if setting.rule is None else numbers.filter(setting.rule.accepts)
    texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
    if setting.rule is not None:
        texts = texts.map(lambda text: f"/{text}").filter(setting.rule.accepts) | st.sampled_from(
            [
                text
                for text in ("", "disabled", "none", "http://h/", "https://[::1]:1/é", "h:1")
                if setting.rule.accepts(text)
            ]
        )
    return st.lists(texts.filter(bool), max_size=3) if setting.value_type == TEXTS else texts


VALUES = st.fixed_dictionaries({}, optional={key: values_of(setting) for key, setting in SETTINGS.items()})


@given(VALUES)
def test_settings_come_back_from_json_and_from_a_fragment(values: dict[str, Any]) -> None:
    chosen = Settings.of(values)
    plain = chosen.to_values()
    assert {key: plain[key] for key in values} == values
    assert Settings.of(json.loads(json.dumps(plain))) == chosen
    tables: dict[str, dict[str, Any]] = {}
    for key, value in plain.items():
        section, _, name = key.partition(".")
        tables.setdefault(section, {})[name] = value
    assert tomllib.loads(to_toml(tables)) == tables


@given(st.one_of(st.text(), KEY_WORDS))
def test_any_text_is_key_values_and_os_release(text: str) -> None:
    for entry in (*parse_key_values(text).values(), *parse_os_release(text).values()):
        assert entry.value in text or "\\" in text
        assert 1 <= entry.line <= text.count("\n") + 1


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), YAML_WORDS))
def test_any_text_is_a_cloud_config_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        fragment, warnings = to_fragment(parse_cloud_config(text))
        tables = tomllib.loads(fragment)
        Settings.of({f"{section}.{name}": value for section, table in tables.items() for name, value in table.items()})
        assert all("\n" not in warning for warning in warnings)
