"""What is shipped under systemd/ for D-Bus and polkit fits the program."""

import re
from pathlib import Path

import pytest
from defusedxml import ElementTree

from tests.support.dbus import SLOT_A, SYSTEMD_FOLDER
from update_agent.api.node import MANAGER_INTERFACE, NodeStatus
from update_agent.daemon import interfaces
from update_agent.daemon.interfaces import load_interfaces
from update_agent.errors import Kind, ServiceError

INTERFACE_FILES = sorted(path.stem for path in SYSTEMD_FOLDER.glob("*.xml"))


def test_interface_files_are_the_three() -> None:
    assert INTERFACE_FILES == ["com.coreos.update1", "org.updateagent1.Manager", "org.updateagent1.Slot"]


@pytest.mark.parametrize("name", INTERFACE_FILES)
def test_interface_file_explains_every_member(name: str) -> None:
    text = (SYSTEMD_FOLDER / f"{name}.xml").read_text()
    members = re.findall(r"(-->\n)?[ ]*<(?:method|signal|property) name=\"(\w+)\"", text)
    assert len(members) >= 4
    assert [member for comment, member in members if not comment] == []


def test_manager_file_has_the_properties_of_the_status() -> None:
    (info,) = load_interfaces(MANAGER_INTERFACE)
    expected = {name: signature for name, (signature, _) in NodeStatus(state="idle").to_properties().items()}
    assert {each.name: each.signature for each in info.properties} == expected


def test_slot_file_has_the_properties_of_a_slot() -> None:
    (info,) = load_interfaces("org.updateagent1.Slot")
    expected = {name: signature for name, (signature, _) in SLOT_A.to_properties().items()}
    assert {each.name: each.signature for each in info.properties} == expected


def test_manager_file_names_the_action_of_each_method() -> None:
    text = (SYSTEMD_FOLDER / "org.updateagent1.Manager.xml").read_text()
    (info,) = load_interfaces(MANAGER_INTERFACE)
    policy = ElementTree.parse(SYSTEMD_FOLDER / "org.updateagent1.policy")
    actions = [action.attrib["id"] for action in policy.iter("action")]
    assert sorted(re.findall(r"\((org\.updateagent1\.[a-z-]+)\)", text)) == sorted(actions)
    assert len(actions) == len(info.methods)


def test_polkit_lets_only_the_person_at_the_console_check() -> None:
    policy = ElementTree.parse(SYSTEMD_FOLDER / "org.updateagent1.policy")
    for action in policy.iter("action"):
        expected = "yes" if action.attrib["id"] == "org.updateagent1.check" else "auth_admin_keep"
        assert action.findtext("defaults/allow_active") == expected
        assert action.findtext("defaults/allow_inactive") == "auth_admin_keep"
        assert action.findtext("defaults/allow_any") == "auth_admin_keep"
        assert action.findtext("description")
        assert action.findtext("message")


def test_interface_file_beside_the_module_is_used_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.xml").write_text('<node><interface name="a.b"/></node>')
    monkeypatch.setattr(interfaces, "_FOLDERS", (tmp_path, SYSTEMD_FOLDER))
    assert [each.name for each in load_interfaces("x")] == ["a.b"]
    assert load_interfaces("org.updateagent1.Slot")


def test_interface_file_that_is_missing_is_our_error() -> None:
    with pytest.raises(ServiceError, match=r"expected nothing\.xml in .*/daemon/interfaces, found none") as caught:
        load_interfaces("nothing")
    assert caught.value.kind is Kind.BUS
