"""update_engine's object: `com.coreos.update1.Manager`, as the programs know it that were written for update_engine."""

import logging
import re
from collections.abc import Callable
from typing import Any, Final

from update_agent.api.node import COMPAT_INTERFACE, COMPAT_OBJECT_PATH
from update_agent.daemon.interfaces import read_interface_file
from update_agent.daemon.ports import Commands, CompatStatus
from update_agent.errors import UpdateAgentError
from update_agent.host.dbus_link import BusLink, make_variant
from update_agent.host.dbus_service import Call, ServedObject, clean_text, parse_interfaces

_LOGGER: Final = logging.getLogger(__name__)

_FILE: Final = "com.coreos.update1"
_SIGNATURE: Final = "xdssx"

_ERROR: Final = "org.freedesktop.DBus.GLib.ErrorError"

_STANDARD_INTERFACES: Final = """\
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="data" direction="out" type="s"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface" direction="in" type="s"/>
      <arg name="propname" direction="in" type="s"/>
      <arg name="value" direction="out" type="v"/>
    </method>
    <method name="Set">
      <arg name="interface" direction="in" type="s"/>
      <arg name="propname" direction="in" type="s"/>
      <arg name="value" direction="in" type="v"/>
    </method>
    <method name="GetAll">
      <arg name="interface" direction="in" type="s"/>
      <arg name="props" direction="out" type="a{sv}"/>
    </method>
  </interface>
"""
"""As dbus-glib listed them for each of its objects."""

_PROPERTIES_WITHOUT_METHODS: Final = '<node><interface name="org.freedesktop.DBus.Properties"/></node>'
"""Listed, and yet every call is an unknown method: there are no properties, and GDBus is not to invent some."""


class CompatObject:
    """Answers update_engine's methods and sends its signal."""

    def __init__(self, link: BusLink, commands: Commands) -> None:
        self._link = link
        self._commands = commands
        text = re.sub(r"[ \t]*<!--.*?-->\n", "", read_interface_file(_FILE), flags=re.DOTALL)
        self._introspection = text.replace("<node>\n", "<node>\n" + _STANDARD_INTERFACES)
        introspectable = parse_interfaces(f"<node>{_STANDARD_INTERFACES}</node>")[:1]
        self._answer = self._to_variant(commands.compat_status())
        link.publish(
            ServedObject(
                path=COMPAT_OBJECT_PATH,
                interfaces=(*introspectable, *parse_interfaces(_PROPERTIES_WITHOUT_METHODS), *parse_interfaces(text)),
                handle=self._handle,
            )
        )
        self._methods: Final = {
            "GetStatus": self._get_status,
            "ResetStatus": self._reset_status,
            "AttemptUpdate": self._attempt_update,
            "Introspect": self._introspect,
        }

    def status_changed(self) -> None:
        """`GetStatus` has something new to say."""
        self._answer = self._to_variant(self._commands.compat_status())

    def emit(self, status: CompatStatus) -> None:
        """Send StatusUpdate."""
        self._answer = self._to_variant(status)
        self._link.emit(COMPAT_OBJECT_PATH, COMPAT_INTERFACE, "StatusUpdate", self._answer)

    def _handle(self, call: Call) -> None:
        self._methods[call.method](call)

    def _get_status(self, call: Call) -> None:
        call.reply(self._answer)

    def _reset_status(self, call: Call) -> None:
        self._run(call, self._commands.reset)

    def _attempt_update(self, call: Call) -> None:
        self._run(call, self._commands.attempt_update)

    def _run(self, call: Call, command: Callable[[], None]) -> None:
        try:
            command()
        except UpdateAgentError as error:
            # The interface has no place for the reason.
            _LOGGER.warning("D-Bus: %s refused: %s", call.method, error.message)
            call.fail(_ERROR, f"Method invoked for {call.method} returned FALSE but did not set error")
        else:
            self.status_changed()
            call.reply()

    def _introspect(self, call: Call) -> None:
        call.reply(make_variant("s", self._introspection))

    @staticmethod
    def _to_variant(status: CompatStatus) -> Any:
        checked_at, progress, operation, version, size = status.to_args()
        return make_variant(_SIGNATURE, checked_at, progress, operation, clean_text(version), size)
