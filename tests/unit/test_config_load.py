"""Fragments, Flatcar's files, credentials and the running system, put together."""

import os
import platform
import socket
from pathlib import Path

import pytest

from tests.support.node_files import NodeFiles
from update_agent.config.defaults import DEFAULT_APP_ID, DEFAULT_SERVER
from update_agent.config.fragments import index_lines
from update_agent.config.load import Configuration
from update_agent.config.settings import SETTINGS, Settings, Strategy

FOLDER = "/etc/update-agent/config.d"
FLATCAR = "etc/flatcar/update.conf"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeFiles:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return NodeFiles(tmp_path)


def said(configuration: Configuration, key: str) -> tuple[object, str]:
    """Value and place; the settings say the same."""
    origin = configuration.origins[key]
    assert configuration.settings.to_values()[key] == origin.value
    return origin.value, origin.place


# Nothing


def test_load_without_files_is_the_defaults_for_this_machine(node: NodeFiles) -> None:
    configuration = node.load()
    assert configuration.settings == Settings.of({"server.board": "amd64-usr"})
    assert configuration.warnings == ()
    assert (configuration.oem_id, configuration.oem_version) == ("", "")
    assert list(configuration.origins) == list(SETTINGS)
    assert said(configuration, "server.board") == ("amd64-usr", "this machine's architecture")
    assert {each.place for key, each in configuration.origins.items() if key != "server.board"} == {"default"}


def test_load_on_unknown_architecture_has_no_board(node: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert said(node.load(), "server.board") == ("", "default")


def test_load_of_the_real_root_never_raises() -> None:
    assert isinstance(node_of_this_machine().load().settings, Settings)


def node_of_this_machine() -> NodeFiles:
    return NodeFiles(Path("/"))


# Fragments


def test_fragment_value_comes_with_file_and_line(node: NodeFiles) -> None:
    node.fragment("50-site.toml", '# ours\n[server]\nchannel = "beta"\nurl = "disabled"\n')
    configuration = node.load()
    assert said(configuration, "server.channel") == ("beta", f"{FOLDER}/50-site.toml:3")
    assert said(configuration, "server.url") == ("disabled", f"{FOLDER}/50-site.toml:4")
    assert configuration.warnings == ()


def test_fragment_later_name_wins_whatever_its_folder(node: NodeFiles) -> None:
    node.fragment("60.toml", 'server.channel = "vendor"\nserver.board = "b"\n', place="usr/lib")
    node.fragment("50.toml", 'server.channel = "admin"\nserver.machine_alias = "a"\n')
    configuration = node.load()
    assert said(configuration, "server.channel") == ("vendor", "/usr/lib/update-agent/config.d/60.toml:1")
    assert said(configuration, "server.board") == ("b", "/usr/lib/update-agent/config.d/60.toml:2")
    assert said(configuration, "server.machine_alias") == ("a", f"{FOLDER}/50.toml:2")


def test_fragment_of_same_name_in_later_folder_replaces_the_whole_file(node: NodeFiles) -> None:
    for place in ("usr/lib", "run", "etc"):
        node.fragment("50.toml", f'server.channel = "{place}"\nserver.machine_alias = "{place}"\n', place=place)
    assert said(node.load(), "server.channel")[0] == "etc"
    node.fragment("50.toml", 'server.channel = "etc"\n')
    assert said(node.load(), "server.machine_alias") == ("", "default")
    (node.root / "etc/update-agent/config.d/50.toml").unlink()
    assert said(node.load(), "server.machine_alias")[0] == "run"


@pytest.mark.parametrize("how", ["empty", "null", "comment"])
def test_fragment_that_is_nothing_masks_one_of_its_name(node: NodeFiles, how: str) -> None:
    node.fragment("50.toml", 'server.channel = "vendor"\n', place="usr/lib")
    path = node.fragment("50.toml", "# nothing\n" if how == "comment" else "")
    if how == "null":
        path.unlink()
        path.symlink_to("/dev/null")
    configuration = node.load()
    assert said(configuration, "server.channel") == ("stable", "default")
    assert configuration.warnings == ()


@pytest.mark.parametrize("name", ["50.conf", "50.toml~", "50.toml.new", ".50.toml", "50"])
def test_fragment_with_another_kind_of_name_does_not_count(node: NodeFiles, name: str) -> None:
    node.fragment(name, 'server.channel = "x"\n')
    assert said(node.load(), "server.channel") == ("stable", "default")


def test_fragment_through_a_link_counts(node: NodeFiles) -> None:
    target = node.put("usr/share/some.toml", 'server.channel = "linked"\n')
    path = node.fragment("50.toml", "")
    path.unlink()
    path.symlink_to(os.path.relpath(target, path.parent))
    assert said(node.load(), "server.channel") == ("linked", f"{FOLDER}/50.toml:1")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[server]\n\nchanel = 1\n", ":3: unknown setting server.chanel; did you mean server.channel?"),
        ('[server]\nchannel = "a"\n[server.more]\nx = 1\n', ":3: unknown setting server.more"),
        ("a = 1\n", ":1: unknown setting a"),
        ('"a\\nb" = 1\n', ": unknown setting a?b"),
        ("\n[zoo]\nx = 1\n", ":2: unknown section [zoo]"),
        ("[[zoo]]\nx = 1\n", ":1: unknown setting zoo"),
        ("server = 3\n", ":1: server: expected a section, got one value"),
        ("\n[[server]]\nchannel = 1\n", ":2: server: expected a section, got one value"),
        ('"server.channel" = "x"\n', ": unknown setting server.channel; did you mean server.channel?"),
        (
            "[check]\ninterval_secs = 3\n",
            ":2: check.interval_secs: expected a whole number from 10 to 604800, got 3; it is left out",
        ),
        (
            "[install]\npublic_keys = [\n'/a',\n3]\n",
            ":2: install.public_keys: expected a list, each a path that starts with /, got 3; it is left out",
        ),
        (
            "[transfer]\npassword = ['SECRET']\n",
            ":2: transfer.password: expected a text, got something else; it is left out",
        ),
        ("[check]\ninterval_secs = 2020-01-01\n", "got datetime.date(2020, 1, 1); it is left out"),
        ("[check]\ninterval_secs = nan\n", "got nan; it is left out"),
    ],
)
def test_fragment_with_one_wrong_key_says_file_and_line_and_keeps_the_rest(
    node: NodeFiles, text: str, warning: str
) -> None:
    node.fragment("50.toml", text)
    node.fragment("60.toml", '[server]\nmachine_alias = "kept"\n')
    configuration = node.load()
    assert said(configuration, "server.machine_alias")[0] == "kept"
    assert len(configuration.warnings) == 1
    assert configuration.warnings[0].startswith(f"{FOLDER}/50.toml:")
    assert configuration.warnings[0].endswith(warning)
    assert "SECRET" not in configuration.warnings[0]


def test_fragment_with_one_wrong_key_keeps_the_others_in_it_and_the_lower_value(node: NodeFiles) -> None:
    node.fragment("40.toml", "[check]\ninterval_secs = 60\n", place="usr/lib")
    node.fragment("50.toml", '[check]\ninterval_secs = "often"\njitter_secs = 7\n')
    configuration = node.load()
    assert said(configuration, "check.interval_secs") == (60, "/usr/lib/update-agent/config.d/40.toml:2")
    assert said(configuration, "check.jitter_secs") == (7, f"{FOLDER}/50.toml:3")
    assert len(configuration.warnings) == 1


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (b'[server]\nchannel = "a\n', ":2: expected TOML, got illegal character '\\n'"),
        (b"[server]\nchannel", ":2: expected TOML, got expected '=' after a key in a key/value pair"),
        (b"[server]\nchannel =", ":2: expected TOML, got invalid value"),
        (b"a = 1\na = 2\n", ":2: expected TOML, got cannot overwrite a value"),
        (b"a = " + b"9" * 5000, ": expected TOML, got a number that is too long"),
        (b"a = " + b"[" * 100_000, ": expected TOML, got lists in lists without end"),
        (b"\n" + b"a." * 201 + b"a = 1", ":2: expected at most 200 dots in a line, got more"),
        (b'[server]\nchannel = "\xff"\n', ": expected UTF-8, got other bytes in line 2"),
        (b"#" * (1 << 20) + b"\n", ": expected at most 1048576 bytes, got more"),
    ],
)
def test_fragment_that_is_broken_is_left_out_and_what_it_would_replace_counts(
    node: NodeFiles, content: bytes, warning: str
) -> None:
    node.fragment("50.toml", content)
    node.fragment("50.toml", 'server.channel = "vendor"\n', place="usr/lib")
    configuration = node.load()
    assert configuration.warnings == (f"{FOLDER}/50.toml{warning}",)
    assert said(configuration, "server.channel") == ("vendor", "/usr/lib/update-agent/config.d/50.toml:1")


def test_fragment_of_the_largest_size_counts(node: NodeFiles) -> None:
    text = 'server.channel = "x"\n#'
    node.fragment("50.toml", text + "x" * ((1 << 20) - len(text)))
    assert said(node.load(), "server.channel")[0] == "x"


def test_fragment_with_many_dots_in_comments_and_few_in_keys_counts(node: NodeFiles) -> None:
    node.fragment("50.toml", f" # {'.' * 500}\nserver.channel = '{'.' * 199}'\n")
    assert node.load().settings.server.channel == "." * 199


@pytest.mark.parametrize("what", ["folder", "pipe", "socket", "loop", "dangling"])
def test_fragment_that_is_no_file_is_said_and_does_not_block(node: NodeFiles, what: str) -> None:
    path = node.fragment("50.toml", "")
    path.unlink()
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                here = os.open(path.parent, os.O_RDONLY)  # the path itself may be too long
                listener.bind(f"/proc/self/fd/{here}/50.toml")
                os.close(here)
        case "loop":
            path.symlink_to("50.toml")
        case _:
            path.symlink_to("nowhere")
    node.fragment("50.toml", 'server.channel = "vendor"\n', place="usr/lib")
    configuration = node.load()
    assert said(configuration, "server.channel")[0] == "vendor"
    assert len(configuration.warnings) == 1
    assert configuration.warnings[0].startswith(f"{FOLDER}/50.toml: ")


def test_fragment_folder_that_is_a_file_is_passed_over(node: NodeFiles) -> None:
    node.put("etc/update-agent", "")
    node.put("run/update-agent/config.d", "")
    assert node.load().warnings == ()


def test_fragment_folder_that_cannot_be_read_is_said(node: NodeFiles) -> None:
    folder = node.root / "etc/update-agent/config.d"
    folder.parent.mkdir(parents=True)
    folder.symlink_to("config.d")
    assert node.load().warnings == (f"{FOLDER}: cannot read: Too many levels of symbolic links",)


def test_fragment_with_a_name_of_many_lines_is_said_in_one(node: NodeFiles) -> None:
    node.fragment("5\n0.toml", "a = 1\n")
    assert node.load().warnings == (f"{FOLDER}/5?0.toml:1: unknown setting a",)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("[server]\nchannel = 1", "server.channel", 2),
        ("[check]\nchannel = 1\n[server]\n# channel = 1\nchannel = 1", "server.channel", 5),
        ("server.channel = 1", "server.channel", 1),
        (" [ server ] # x\n 'channel'=1", "server.channel", 2),
        ('["server"]\n"channel" = 1', "server.channel", 2),
        ("server . channel = 1", "server.channel", 1),
        ("\n[[server]]\n", "server", 2),
        ("[server.more]\nx = 1", "server.more", 1),
        ("server.more.x = 1", "server.more", 1),
        ("[server]\nchannel = 1\n[check]\n[server]\nchannel = 1", "server.channel", 2),
        ("[server]\nchannels = 1", "server.channel", None),
        ("", "server.channel", None),
    ],
)
def test_index_lines_has_the_line_of_a_key(text: str, key: str, line: int | None) -> None:
    assert index_lines(text).get(key) == line


def test_fragment_with_an_inline_table_is_said_without_line_of_the_key(node: NodeFiles) -> None:
    node.fragment("50.toml", 'server = { channel = "beta" }\n')
    assert said(node.load(), "server.channel") == ("beta", f"{FOLDER}/50.toml")


def test_fragment_with_many_unknown_keys_is_quick_and_says_some(node: NodeFiles) -> None:
    node.fragment("50.toml", "[server]\n" + "".join(f"key{number} = 1\n" for number in range(50_000)))
    warnings = node.load().warnings
    assert len(warnings) == 21
    assert warnings[-1] == f"{FOLDER}/50.toml: more that is unknown"


# Flatcar's files


def test_flatcar_keys_become_settings_with_their_places(node: NodeFiles) -> None:
    node.put(FLATCAR, "GROUP=beta\nSERVER=https://own.example/v1/update/\nMACHINE_ALIAS='my node'\n")
    node.put(
        "usr/share/flatcar/release",
        "FLATCAR_RELEASE_VERSION=4152.2.1\nFLATCAR_RELEASE_BOARD=arm64-usr\nFLATCAR_RELEASE_APPID={x}\n",
    )
    node.put("usr/share/flatcar/update.conf", "DOWNLOAD_USER=me\nDOWNLOAD_PASSWORD=SECRET\nGROUP=stable\n")
    configuration = node.load()
    assert said(configuration, "server.channel") == ("beta", "/etc/flatcar/update.conf:1")
    assert said(configuration, "server.url") == ("https://own.example/v1/update/", "/etc/flatcar/update.conf:2")
    assert said(configuration, "server.machine_alias") == ("my node", "/etc/flatcar/update.conf:3")
    assert said(configuration, "server.running_version") == ("4152.2.1", "/usr/share/flatcar/release:1")
    assert said(configuration, "server.board") == ("arm64-usr", "/usr/share/flatcar/release:2")
    assert said(configuration, "server.app_id") == ("{x}", "/usr/share/flatcar/release:3")
    assert said(configuration, "transfer.user") == ("me", "/usr/share/flatcar/update.conf:1")
    assert said(configuration, "transfer.password") == ("SECRET", "/usr/share/flatcar/update.conf:2")
    assert configuration.warnings == ()
    assert "SECRET" not in repr(configuration)


def test_flatcar_first_file_with_the_key_wins_even_when_it_is_empty(node: NodeFiles) -> None:
    node.put(FLATCAR, "GROUP=\n")
    node.put("usr/share/flatcar/update.conf", "GROUP=beta\nMACHINE_ALIAS=a\n")
    node.put("usr/share/flatcar/release", "GROUP=alpha\nMACHINE_ALIAS=b\nFLATCAR_RELEASE_APPID=c\n")
    configuration = node.load()
    assert said(configuration, "server.channel") == ("", "/etc/flatcar/update.conf:1")
    assert said(configuration, "server.machine_alias") == ("a", "/usr/share/flatcar/update.conf:2")
    assert said(configuration, "server.app_id") == ("c", "/usr/share/flatcar/release:3")


@pytest.mark.parametrize("value", ["", "off", "none", "http:/x", "https://own.example/\r"])
def test_flatcar_server_that_is_no_url_asks_nobody(node: NodeFiles, value: str) -> None:
    node.put(FLATCAR, f"SERVER={value}\n")
    configuration = node.load()
    assert said(configuration, "server.url") == ("disabled", "/etc/flatcar/update.conf:1")
    assert len(configuration.warnings) == 1
    assert configuration.warnings[0].startswith("/etc/flatcar/update.conf:1: server.url: expected an http or https URL")
    assert configuration.warnings[0].endswith("; no server is asked")


def test_flatcar_server_disabled_is_fine(node: NodeFiles) -> None:
    node.put(FLATCAR, "SERVER=disabled\n")
    configuration = node.load()
    assert said(configuration, "server.url")[0] == "disabled"
    assert configuration.warnings == ()


def test_flatcar_value_that_is_wrong_is_said_and_the_default_counts(node: NodeFiles) -> None:
    node.put(FLATCAR, b"GROUP=beta\r\nMACHINE_ALIAS=\xff\nREBOOT_STRATEGY=best-effort\n")
    configuration = node.load()
    assert said(configuration, "server.channel") == ("stable", "default")
    assert said(configuration, "server.machine_alias") == ("", "default")
    assert said(configuration, "reboot.strategy") == ("off", "default")
    assert configuration.warnings == (
        "/etc/flatcar/update.conf:1: server.channel: expected a text without control characters, got 'beta\\r'; "
        "it is left out",
        "/etc/flatcar/update.conf:2: server.machine_alias: expected a text without control characters, "
        "got '\\udcff'; it is left out",
        "/etc/flatcar/update.conf:3: reboot.strategy: expected one of off, reboot, etcd-lock, fleet-lock, "
        "got 'best-effort'; it is left out",
    )


def test_flatcar_locksmith_keys_become_settings(node: NodeFiles) -> None:
    node.put(
        FLATCAR,
        "REBOOT_STRATEGY=etcd-lock\n"
        "LOCKSMITHD_GROUP=db\n"
        "LOCKSMITHD_ENDPOINT=http://a:2379, http://b:2379,\n"
        "LOCKSMITHD_ETCD_CAFILE=/ca\n"
        "LOCKSMITHD_ETCD_CERTFILE=/cert\n"
        "LOCKSMITHD_ETCD_KEYFILE=/key\n"
        'LOCKSMITHD_REBOOT_WINDOW_START="Thu 04:00"\n'
        "LOCKSMITHD_REBOOT_WINDOW_LENGTH=1h30m \n",
    )
    configuration = node.load()
    reboot = configuration.settings.reboot
    assert reboot.strategy is Strategy.ETCD_LOCK
    assert (reboot.group, reboot.window_start, reboot.window_length) == ("db", "Thu 04:00", "1h30m")
    assert reboot.etcd_endpoints == ("http://a:2379", "http://b:2379")
    assert (reboot.etcd_ca, reboot.etcd_cert, reboot.etcd_key) == ("/ca", "/cert", "/key")
    assert said(configuration, "reboot.etcd_key")[1] == "/etc/flatcar/update.conf:6"
    assert configuration.warnings == ()


def test_flatcar_locksmith_value_of_less_weight_counts_when_the_other_is_empty(node: NodeFiles) -> None:
    node.put(FLATCAR, "LOCKSMITHD_REBOOT_WINDOW_START=\nREBOOT_WINDOW_START=03:00\nREBOOT_WINDOW_LENGTH=1h\n")
    node.put("usr/share/flatcar/update.conf", "LOCKSMITHD_REBOOT_WINDOW_LENGTH=2h\nLOCKSMITHD_ENDPOINTS=http://c:1\n")
    reboot = node.load().settings.reboot
    assert (reboot.window_start, reboot.window_length) == ("03:00", "2h")
    assert reboot.etcd_endpoints == ("http://c:1",)


def test_flatcar_empty_reboot_strategy_is_what_locksmith_makes_of_it(node: NodeFiles) -> None:
    node.put(FLATCAR, "REBOOT_STRATEGY=\n")
    assert said(node.load(), "reboot.strategy") == ("reboot", "/etc/flatcar/update.conf:1")


def test_flatcar_key_without_counterpart_is_said_unless_it_is_empty(node: NodeFiles) -> None:
    node.put(FLATCAR, "PCR_POLICY_SERVER=http://h/\nLOCKSMITHD_ETCD_PASSWORD=SECRET\nLOCKSMITHD_ETCD_USERNAME=\n")
    assert node.load().warnings == (
        "/etc/flatcar/update.conf:1: PCR_POLICY_SERVER is not supported and has no effect",
        "/etc/flatcar/update.conf:2: LOCKSMITHD_ETCD_PASSWORD is not supported and has no effect",
    )


def test_flatcar_file_that_cannot_be_read_is_said_and_the_next_counts(node: NodeFiles) -> None:
    node.put(FLATCAR, "GROUP=x" + "\n" * (1 << 20))
    node.put("usr/share/flatcar/update.conf", "GROUP=beta\n")
    configuration = node.load()
    assert said(configuration, "server.channel")[0] == "beta"
    assert configuration.warnings == ("/etc/flatcar/update.conf: expected at most 1048576 bytes, got more",)


def test_fragment_counts_more_than_flatcars_files(node: NodeFiles) -> None:
    node.put(FLATCAR, "GROUP=beta\nMACHINE_ALIAS=a\n")
    node.fragment("00.toml", 'server.channel = "lts"\n', place="usr/lib")
    configuration = node.load()
    assert said(configuration, "server.channel") == ("lts", "/usr/lib/update-agent/config.d/00.toml:1")
    assert said(configuration, "server.machine_alias")[0] == "a"


# The running system


def test_oem_is_read_per_key(node: NodeFiles) -> None:
    node.put("etc/oem-release", "ID=qemu\n")
    node.put("usr/share/oem/oem-release", 'ID=other\nVERSION_ID="1.2.3\x07"\n')
    configuration = node.load()
    assert (configuration.oem_id, configuration.oem_version) == ("qemu", "1.2.3?")


def test_oem_file_that_cannot_be_read_is_said(node: NodeFiles) -> None:
    node.paths.at("etc/oem-release").mkdir(parents=True)
    assert node.load().warnings == ("/etc/oem-release: expected a regular file, got something else",)


def test_running_version_comes_from_os_release_if_flatcars_files_do_not_have_it(node: NodeFiles) -> None:
    node.put("usr/lib/os-release", "NAME=x\nVERSION_ID=7\n")
    assert said(node.load(), "server.running_version") == ("7", "/usr/lib/os-release:2")
    node.put("etc/os-release", 'VERSION_ID="8.1"\n')
    assert said(node.load(), "server.running_version") == ("8.1", "/etc/os-release:1")
    node.put("usr/share/flatcar/release", "FLATCAR_RELEASE_VERSION=9\n")
    assert said(node.load(), "server.running_version") == ("9", "/usr/share/flatcar/release:1")


def test_running_version_is_unknown_if_the_first_os_release_does_not_say_it(node: NodeFiles) -> None:
    node.put("etc/os-release", "NAME=rolling\n")
    node.put("usr/lib/os-release", "VERSION_ID=7\n")
    assert said(node.load(), "server.running_version") == ("", "default")


def test_board_that_a_file_says_is_kept(node: NodeFiles) -> None:
    node.fragment("50.toml", 'server.board = "mine"\n')
    assert said(node.load(), "server.board")[0] == "mine"


# Credentials


def test_credential_fills_what_is_empty(node: NodeFiles) -> None:
    node.credential("update-agent.download-user", "me")
    node.credential("update-agent.download-password", "p w\n")
    node.credential("update-agent.proxy", "http://u:p@proxy:1/\r\n")
    path = node.credential("update-agent.client-cert", b"\xff")
    configuration = node.load()
    assert said(configuration, "transfer.user") == ("me", "credential update-agent.download-user")
    assert said(configuration, "transfer.password") == ("p w", "credential update-agent.download-password")
    assert said(configuration, "transfer.proxy") == ("http://u:p@proxy:1/", "credential update-agent.proxy")
    assert said(configuration, "transfer.client_cert") == (str(path), "credential update-agent.client-cert")
    assert configuration.warnings == ()


def test_credential_does_not_replace_what_a_file_says(node: NodeFiles) -> None:
    node.credential("update-agent.download-user", "credential")
    node.credential("update-agent.download-password", "credential")
    node.put(FLATCAR, "DOWNLOAD_USER=flatcar\n")
    node.fragment("50.toml", 'transfer.password = "fragment"\n')
    configuration = node.load()
    assert said(configuration, "transfer.user")[0] == "flatcar"
    assert said(configuration, "transfer.password")[0] == "fragment"


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("download-password", b"SECRET\nSECRET", "transfer.password: expected a text without control characters"),
        ("download-password", b"SECRET\xff", "expected UTF-8, got other bytes in line 1"),
        ("download-password", b"S" * 65537, "expected at most 65536 bytes, got more"),
        ("proxy", b"SECRET", "transfer.proxy: expected an http or https URL or 'none', got something else"),
    ],
)
def test_credential_that_is_wrong_is_said_without_its_value(
    node: NodeFiles, name: str, content: bytes, warning: str
) -> None:
    node.credential(f"update-agent.{name}", content)
    configuration = node.load()
    assert len(configuration.warnings) == 1
    assert configuration.warnings[0].startswith(f"credential update-agent.{name}: {warning}")
    assert "SECRET" not in configuration.warnings[0]
    assert configuration.settings.transfer == Settings().transfer


def test_credential_of_the_largest_size_counts(node: NodeFiles) -> None:
    node.credential("update-agent.download-password", "p" * 65536)
    assert len(node.load().settings.transfer.password) == 65536


def test_credential_folder_that_is_not_there_is_passed_over(node: NodeFiles) -> None:
    node.environment["CREDENTIALS_DIRECTORY"] = str(node.root / "nothing")
    assert node.load().warnings == ()


def test_load_again_sees_what_changed(node: NodeFiles) -> None:
    path = node.fragment("50.toml", 'server.channel = "a"\n')
    assert said(node.load(), "server.channel")[0] == "a"
    path.write_text('server.channel = "b"\n')
    assert said(node.load(), "server.channel")[0] == "b"
    path.unlink()
    assert said(node.load(), "server.channel")[0] == "stable"


def test_defaults_are_those_of_flatcar(node: NodeFiles) -> None:
    server = node.load().settings.server
    assert (server.url, server.app_id, server.channel) == (DEFAULT_SERVER, DEFAULT_APP_ID, "stable")
