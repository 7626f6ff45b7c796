"""Our own objects: `org.updateagent1.Manager` and one `org.updateagent1.Slot` for each slot."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gi.repository import GLib

from update_agent.api.node import MANAGER_INTERFACE, OBJECT_PATH, SLOT_INTERFACE, SLOT_PATH_PREFIX, NodeStatus, Property
from update_agent.daemon.bus_access import Access
from update_agent.daemon.bus_arguments import parse_install_options, parse_mark
from update_agent.daemon.interfaces import load_interfaces
from update_agent.daemon.ports import Commands
from update_agent.host.dbus_link import BusLink, make_variant
from update_agent.host.dbus_service import Call, ServedObject, clean_text, parse_interfaces

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_INVALID_ARGS: Final = "org.freedesktop.DBus.Error.InvalidArgs"

_OBJECT_MANAGER_XML: Final = """
<node><interface name="org.freedesktop.DBus.ObjectManager">
  <method name="GetManagedObjects">
    <arg name="objpath_interfaces_and_properties" type="a{oa{sa{sv}}}" direction="out"/>
  </method>
  <signal name="InterfacesAdded">
    <arg name="object_path" type="o"/>
    <arg name="interfaces_and_properties" type="a{sa{sv}}"/>
  </signal>
  <signal name="InterfacesRemoved">
    <arg name="object_path" type="o"/>
    <arg name="interfaces" type="as"/>
  </signal>
</interface></node>
"""

_PROGRESS: Final = frozenset({"ProgressDoneBytes", "ProgressTotalBytes", "RateBytesPerSec"})
_PROGRESS_EVERY_SECS: Final = 0.25


class PropertyObject:
    """An object with one interface of properties that tells what changed; `handle` gets all other calls."""

    def __init__(self, link: BusLink, path: str, interface: str, *others: Any, handle: Callable[[Call], None]) -> None:
        self._link = link
        self._path = path
        self._interface = interface
        self._handle_other = handle
        self._values: dict[str, Property] = {}
        self._told: dict[str, Property] = {}
        self._answer: Any = None
        self._told_at = -_PROGRESS_EVERY_SECS
        self._timer: int | None = None
        self._served = ServedObject(path=path, interfaces=(*load_interfaces(interface), *others), handle=self._handle)

    def publish(self, values: Mapping[str, Property]) -> None:
        """Begin with these values."""
        self._values = self._told = dict(values)
        self._link.publish(self._served)

    def withdraw(self) -> None:
        """No longer be there."""
        self.cancel()
        self._link.withdraw(self._path)

    def cancel(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            GLib.source_remove(self._timer)
            self._timer = None

    def change(self, values: Mapping[str, Property]) -> None:
        """Have these values; what changed is told at once, mere progress at most four times a second."""
        self._values = dict(values)
        self._answer = None
        changed = self._changed()
        if not changed:
            return
        wait_secs = self._told_at + _PROGRESS_EVERY_SECS - time.monotonic()
        if wait_secs <= 0 or not changed.keys() <= _PROGRESS:
            self._tell()
        elif self._timer is None:
            self._timer = GLib.timeout_add(int(wait_secs * 1000) + 1, self._tell)

    def properties(self) -> dict[str, Any]:
        """As `a{sv}` is made of."""
        return {name: _to_variant(value) for name, value in self._values.items()}

    def _changed(self) -> dict[str, Property]:
        return {name: value for name, value in self._values.items() if self._told.get(name) != value}

    def _tell(self) -> bool:
        self.cancel()
        changed = self._changed()
        if changed:
            self._told, self._told_at = self._values, time.monotonic()
            values = {name: _to_variant(value) for name, value in changed.items()}
            arguments = make_variant("sa{sv}as", self._interface, values, [])
            self._link.emit(self._path, _PROPERTIES, "PropertiesChanged", arguments)
        return bool(GLib.SOURCE_REMOVE)

    def _handle(self, call: Call) -> None:
        if call.interface != _PROPERTIES:
            self._handle_other(call)
        elif call.method == "GetAll":
            call.reply(self._all(call.args.unpack()[0]))
        elif call.method == "Get":
            # GDBus lets nothing through but what the interface file has.
            call.reply(make_variant("v", _to_variant(self._values[call.args.unpack()[1]])))
        else:
            call.fail(_INVALID_ARGS, "the properties can only be read")

    def _all(self, interface: str) -> Any:
        if interface != self._interface:
            return make_variant("a{sv}", {})
        if self._answer is None:
            self._answer = make_variant("a{sv}", self.properties())
        return self._answer


class AgentObjects:
    """Publishes the agent and its slots, and carries out what callers may ask."""

    def __init__(self, link: BusLink, commands: Commands, access: Access) -> None:
        self._link = link
        self._commands = commands
        self._access = access
        self._slots: dict[str, PropertyObject] = {}
        self._manager = PropertyObject(
            link, OBJECT_PATH, MANAGER_INTERFACE, *parse_interfaces(_OBJECT_MANAGER_XML), handle=self._handle
        )
        self._methods: Final[dict[str, Callable[[Call], None]]] = {
            "Check": lambda call: self._run(call, "check", commands.check),
            "Install": self._install,
            "Cancel": self._cancel,
            "Reset": lambda call: self._run(call, "reset", commands.reset),
            "Rollback": lambda call: self._run(call, "rollback", commands.rollback),
            "MarkSlot": self._mark_slot,
            "Reload": lambda call: self._run(call, "reload", commands.reload),
            "GetManagedObjects": self._get_managed_objects,
        }
        status = commands.status()
        self._manager.publish(status.to_properties())
        self._change_slots(status)

    def status_changed(self, status: NodeStatus) -> None:
        """Tell whoever listens."""
        self._manager.change(status.to_properties())
        self._change_slots(status)

    def stop(self) -> None:
        """Tell nothing any more."""
        for each in (self._manager, *self._slots.values()):
            each.cancel()

    def _change_slots(self, status: NodeStatus) -> None:
        slots = {SLOT_PATH_PREFIX + slot.name.lower(): slot.to_properties() for slot in status.slots}
        for path in self._slots.keys() - slots.keys():
            self._slots.pop(path).withdraw()
            self._emit("InterfacesRemoved", "oas", path, [SLOT_INTERFACE])
        for path, values in slots.items():
            if path in self._slots:
                self._slots[path].change(values)
            else:
                self._slots[path] = PropertyObject(self._link, path, SLOT_INTERFACE, handle=self._handle)
                self._slots[path].publish(values)
                self._emit("InterfacesAdded", "oa{sa{sv}}", path, {SLOT_INTERFACE: self._slots[path].properties()})

    def _emit(self, signal: str, signature: str, *values: Any) -> None:
        self._link.emit(OBJECT_PATH, _OBJECT_MANAGER, signal, make_variant(signature, *values))

    def _handle(self, call: Call) -> None:
        self._methods[call.method](call)

    def _get_managed_objects(self, call: Call) -> None:
        objects = {path: {SLOT_INTERFACE: slot.properties()} for path, slot in self._slots.items()}
        call.reply(make_variant("a{oa{sa{sv}}}", objects))

    def _run(self, call: Call, action: str, command: Callable[[], None], *, is_root_only: bool = False) -> None:
        def allowed() -> None:
            command()
            call.reply()

        self._access.check(call, action, allowed, is_root_only=is_root_only)

    def _install(self, call: Call) -> None:
        try:
            options = parse_install_options(call.args.unpack()[0])
        except ValueError as error:
            call.fail(_INVALID_ARGS, str(error))
            return
        self._run(call, "install", lambda: self._commands.install(options), is_root_only=bool(options.payload))

    def _cancel(self, call: Call) -> None:
        self._access.check(call, "cancel", lambda: call.reply(make_variant("b", self._commands.cancel())))

    def _mark_slot(self, call: Call) -> None:
        try:
            slot, mark = parse_mark(*call.args.unpack())
        except ValueError as error:
            call.fail(_INVALID_ARGS, str(error))
            return
        self._run(call, "mark-slot", lambda: self._commands.mark_slot(slot, mark))


def _to_variant(value: Property) -> Any:
    signature, content = value
    return GLib.Variant(signature, _clean(content))


def _clean(content: Any) -> Any:
    if isinstance(content, str):
        return clean_text(content)
    if isinstance(content, (tuple, list)):
        return type(content)(_clean(each) for each in content)
    return content
