"""Objects on the bus: one well-known name with what is published under it, for as long as the program runs.

What comes in goes through a subclass of pydbus' wrapper, so that an answer may be given later, a failure is an error
for the caller and not a traceback in the journal, and nothing leaks. See `dbus` for what is wrong with pydbus itself.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gi.repository import Gio, GLib
from pydbus.registration import ObjectRegistration, ObjectWrapper

from update_agent.errors import UpdateAgentError
from update_agent.formats.dbus_errors import error_to_dbus

_LOGGER: Final = logging.getLogger(__name__)

_FAILED: Final = "org.freedesktop.DBus.Error.Failed"

_GOBJECT: Final = ctypes.CDLL("libgobject-2.0.so.0")
_GOBJECT.g_object_unref.argtypes = [ctypes.c_void_p]
_GOBJECT.g_object_unref.restype = None


class Reaper:
    """Frees the calls that were answered.

    GDBus gives a reference of each `Gio.DBusMethodInvocation` to the handler, and `return_value` consumes one;
    PyGObject takes an extra one for that, so that the first is never given back: 2 KiB a call. Once the handler has
    returned and GDBus has dropped what it held itself, an answered call has exactly one reference for its Python
    object, and a second one if it leaked. Where a later GLib or PyGObject does not leak there is no second one, and
    nothing is done.
    """

    def __init__(self) -> None:
        self._answered: list[Any] = []
        self._depth = 0
        self._is_scheduled = False

    @property
    def waiting(self) -> int:
        """Calls that were answered and not freed yet."""
        return len(self._answered)

    def enter(self) -> None:
        """A handler begins; what others have answered is freed, so that a flood finds no growing list."""
        self._reap()
        self._depth += 1

    def leave(self) -> None:
        """The handler has returned."""
        self._depth -= 1
        self._schedule()

    def add(self, invocation: Any) -> None:
        """This call was answered, in its handler or later."""
        self._answered.append(invocation)
        self._schedule()

    def _schedule(self) -> None:
        # GDBus still holds a reference while the handler runs.
        if self._answered and not self._depth and not self._is_scheduled:
            self._is_scheduled = True
            GLib.idle_add(self._run)

    def _run(self) -> bool:
        self._is_scheduled = False
        self._reap()
        return bool(GLib.SOURCE_REMOVE)

    def _reap(self) -> None:
        if self._depth:
            return  # a handler runs the main loop: its own call is not done
        answered, self._answered = self._answered, []
        for invocation in answered:
            if invocation.__grefcount__ == 2:
                _GOBJECT.g_object_unref(hash(invocation))  # PyGObject's hash is the address


class Call:
    """A call that came in, to be answered at once or later; the first answer counts."""

    __slots__ = ("_invocation", "_is_answered", "_reaper", "args", "interface", "method", "path", "sender")

    def __init__(
        self, sender: str, path: str, interface: str, method: str, parameters: Any, invocation: Any, reaper: Reaper
    ) -> None:
        self.sender = sender
        self.path = path
        self.interface = interface
        self.method = method
        self.args: Any = parameters
        self._invocation = invocation
        self._reaper = reaper
        self._is_answered = False

    @property
    def is_interactive(self) -> bool:
        """Whether the caller lets polkit ask a person."""
        flags = self._invocation.get_message().get_flags()
        return bool(flags & Gio.DBusMessageFlags.ALLOW_INTERACTIVE_AUTHORIZATION)

    def reply(self, values: Any = None) -> None:
        """Answer with a tuple as `GLib.Variant`, None for the empty one."""
        if not self._is_answered:
            self._is_answered = True
            self._invocation.return_value(values)
            self._reaper.add(self._invocation)

    def fail(self, name: str, text: str) -> None:
        """Answer with an error."""
        if not self._is_answered:
            self._is_answered = True
            self._invocation.return_dbus_error(name, clean_text(text))
            self._reaper.add(self._invocation)

    def run(self, function: Callable[[], None]) -> None:
        """Run what answers it; if that fails, the error is the answer."""
        try:
            function()
        except UpdateAgentError as error:
            self.fail(*error_to_dbus(error))
        except Exception:  # the top of everything that a caller starts; it must get an answer
            _LOGGER.exception("D-Bus: %s.%s failed, which is a bug", self.interface, self.method)
            self.fail(_FAILED, "internal error, see the journal")


Handler = Callable[[Call], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedObject:
    """One path.

    Attributes:
        path: of the object.
        interfaces: `Gio.DBusInterfaceInfo` of each interface; calls that do not fit are refused by GDBus.
        handle: gets every other call, and those of `org.freedesktop.DBus.Properties` unless that is in `interfaces`.
    """

    path: str
    interfaces: Sequence[Any]
    handle: Handler


class _Wrapper(ObjectWrapper):  # type: ignore[misc]
    """pydbus' link between GDBus and an object, with answers that may come later."""

    __slots__ = ("_handled", "_reaper")

    def __init__(self, served: ServedObject, reaper: Reaper, handled: Callable[[str], None]) -> None:
        super().__init__(served, ())  # without interfaces it looks for no methods or signals on the object
        self._reaper = reaper
        self._handled = handled

    def call_method(
        self, _connection: Any, sender: str, path: str, interface: str, method: str, parameters: Any, invocation: Any
    ) -> None:
        self._handled(sender)
        self._reaper.enter()
        call = Call(sender, path, interface, method, parameters, invocation, self._reaper)
        try:
            call.run(lambda: self.object.handle(call))
        finally:
            self._reaper.leave()


def publish(connection: Any, served: ServedObject, reaper: Reaper, handled: Callable[[str], None]) -> Any:
    """Register the object; its `unregister()` takes it away. `handled` gets the sender of each call."""
    wrapper = _Wrapper(served, reaper, handled)
    return ObjectRegistration(connection.pydbus, served.path, served.interfaces, wrapper, own_wrapper=True)


def parse_interfaces(xml: str) -> tuple[Any, ...]:
    """The interfaces of a `<node>`."""
    return tuple(Gio.DBusNodeInfo.new_for_xml(xml).interfaces)


def clean_text(text: str) -> str:
    """The text as D-Bus can carry it: what it cannot (NUL, half a surrogate pair) becomes a question mark."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
