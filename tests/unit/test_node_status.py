"""The status of a node: what goes over D-Bus comes back, and its JSON document says "unknown" as null."""

from dataclasses import replace

import pytest

from tests.support.node_statuses import PENDING, RUNNING, downloading, failure
from update_agent.api.node import NodeStatus, SlotView
from update_agent.domain.state import BadRelease
from update_agent.errors import Kind

FULL = replace(
    PENDING,
    **downloading(10),
    last_error=failure(Kind.DEVICE_IO, "disk: broken", "buy another"),
    bad_releases=(BadRelease(version="1.0", reason="fell back", at=7),),
    gpt_problems=("the backup table is damaged",),
    warnings=("a.toml:1: unknown key",),
)


@pytest.mark.parametrize("status", [RUNNING, PENDING, FULL, NodeStatus(state="idle")])
def test_status_goes_over_dbus_and_back(status: NodeStatus) -> None:
    values = {name: value for name, (_, value) in status.to_properties().items()}
    slots = [{name: value for name, (_, value) in slot.to_properties().items()} for slot in status.slots]
    assert NodeStatus.from_properties(values, slots) == status


def test_status_without_a_property_is_a_key_error() -> None:
    values = {name: value for name, (_, value) in RUNNING.to_properties().items()}
    del values["Channel"]
    with pytest.raises(KeyError, match="Channel"):
        NodeStatus.from_properties(values, [])


def test_json_of_a_node_of_which_nothing_is_known_is_null() -> None:
    document = NodeStatus(state="idle").to_json()
    known = {"schema": 1, "state": "idle", "reboot_pending": False, "health": "unknown"}
    empty: dict[str, list[str]] = {"bad_releases": [], "slots": [], "gpt_problems": [], "warnings": []}
    assert {name: value for name, value in document.items() if value is not None} == {**known, **empty}


def test_json_has_times_in_utc_and_units_in_names() -> None:
    document = FULL.to_json()
    assert document["pending_at"] == "2026-09-21T14:15:00Z"
    assert document["rate_bytes_per_sec"] == 18 << 20
    assert document["last_error"] == {
        "kind": "device-io",
        "message": "disk: broken",
        "hint": "buy another",
        "at": "2026-09-21T14:17:30Z",
        "omaha_code": 10,
    }
    assert document["bad_releases"] == [{"version": "1.0", "reason": "fell back", "at": "1970-01-01T00:00:07Z"}]


def test_json_names_every_property_that_dbus_has() -> None:
    """Names as on D-Bus, in the case of JSON."""
    names = {name.lower() for name in FULL.to_properties()}
    assert names == {name.replace("_", "") for name in FULL.to_json()} - {"schema", "slots"}


def test_json_of_a_slot_names_what_the_slot_of_a_disk_names() -> None:
    assert FULL.slots[0].to_json().keys() == set(SlotView.__dataclass_fields__)
