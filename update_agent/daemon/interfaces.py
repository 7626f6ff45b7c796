"""The interface files: `systemd/*.xml` in a checkout, `interfaces/*.xml` beside this module in an installed package."""

from pathlib import Path
from typing import Any, Final

from update_agent.errors import Kind, ServiceError
from update_agent.host.dbus_service import parse_interfaces

_FOLDERS: Final = (Path(__file__).with_suffix(""), Path(__file__).parents[2] / "systemd")


def load_interfaces(name: str) -> tuple[Any, ...]:
    """The `Gio.DBusInterfaceInfo` of each interface in `name`.xml.

    Raises:
        ServiceError: bus, when the program is not installed as it should be.
    """
    return parse_interfaces(read_interface_file(name))


def read_interface_file(name: str) -> str:
    """The text of `name`.xml. Raises as `load_interfaces`."""
    for folder in _FOLDERS:
        path = folder / f"{name}.xml"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ServiceError(
        Kind.BUS, f"D-Bus: expected {name}.xml in {_FOLDERS[0]}, found none", hint="install update-agent again"
    )
