"""One well-known name on a connection of its own, kept for as long as the program runs.

Each name has its own connection because the bus applies the policy for a name to every message that goes to its owner:
with two names on one connection, what one of them denies would be denied to the other, or not, depending on the order
in which the bus happens to read the files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gi.repository import GLib

from update_agent.errors import Kind, RefusedError, ServiceError, UpdateAgentError
from update_agent.host.dbus import call_bus, deadline, open_connection
from update_agent.host.dbus_guard import FloodGuard
from update_agent.host.dbus_service import Reaper, ServedObject, publish

RETRY_SECS: Final = (1, 2, 5, 10, 30, 60)
"""Between attempts to reach the bus again; the last one for ever."""

_RETRY_TIMEOUT_SECS: Final = 2.0
_STOP_TIMEOUT_SECS: Final = 5.0

_DO_NOT_QUEUE: Final = 4
_PRIMARY_OWNER: Final = 1
_OWNED_BY_ANOTHER: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvents:
    """What the owner of a link is told.

    Attributes:
        up: the name is ours and everything is published; not called for the first time.
        lost: the bus, or an attempt to reach it again, failed so.
    """

    up: Callable[[], None]
    lost: Callable[[UpdateAgentError], None]


class BusLink:
    """Owns a name and publishes objects under it; comes back by itself after the bus went away."""

    def __init__(self, name: str, address: str | None, events: LinkEvents, *, takes_arguments: bool = True) -> None:
        """Do nothing yet; with `takes_arguments` off, calls with arguments are unknown methods."""
        self.name = name
        self._takes_arguments = takes_arguments
        self._address = address
        self._events = events
        self._reaper = Reaper()
        self._objects: dict[str, ServedObject] = {}
        self._registered: dict[str, Any] = {}
        self._connection: Any = None
        self._guard: FloodGuard | None = None
        self._closed_handler = 0
        self._retries = 0
        self._timer: int | None = None

    @property
    def connection(self) -> Any:
        """The `Gio.DBusConnection`, or None while there is no bus."""
        return self._connection

    @property
    def is_up(self) -> bool:
        """Whether the name is ours."""
        return self._connection is not None

    @property
    def unfreed_calls(self) -> int:
        """Answered calls whose memory was not given back yet."""
        return self._reaper.waiting

    def start(self) -> None:
        """Own the name, or begin to try again and again if there is no bus.

        Raises:
            ServiceError: bus, when the name is taken, or the policy of the bus denies it.
        """
        try:
            self._open(None)
        except ServiceError as error:
            if error.kind is not Kind.SERVICE_UNREACHABLE:
                raise
            self._lose(error)

    def stop(self) -> None:
        """Give the name back; answers and signals that are queued have been sent on return."""
        if self._timer is not None:
            GLib.source_remove(self._timer)
            self._timer = None
        connection = self._connection
        if connection is None:
            return
        self._forget()
        with deadline(_STOP_TIMEOUT_SECS) as cancellable:
            try:
                connection.flush_sync(cancellable)
                connection.close_sync(cancellable)
            except GLib.Error:
                return  # the bus was faster

    def publish(self, served: ServedObject) -> None:
        """Have this object, now and whenever the bus comes back."""
        self._objects[served.path] = served
        if self._guard is not None:
            self._register(self._guard, served)

    def withdraw(self, path: str) -> None:
        """No longer have it."""
        self._objects.pop(path, None)
        registered = self._registered.pop(path, None)
        if registered is not None:
            registered.unregister()

    def emit(self, path: str, interface: str, signal: str, values: Any) -> None:
        """Send a signal with a tuple as `GLib.Variant`; lost while there is no bus."""
        if self._connection is None:
            return
        try:
            self._connection.emit_signal(None, path, interface, signal, values)
        except GLib.Error:
            return  # closed; its handler is about to be called

    def _open(self, timeout_secs: float | None) -> None:
        connection = (
            open_connection(self._address)
            if timeout_secs is None
            else open_connection(self._address, timeout_secs=timeout_secs)
        )
        self._connection = connection
        self._closed_handler = connection.connect("closed", self._closed)
        try:
            self._guard = FloodGuard(connection, takes_arguments=self._takes_arguments)
            for served in self._objects.values():
                self._register(self._guard, served)
            self._own_name(connection)
        except UpdateAgentError:
            self._forget()
            connection.close(None, None)
            raise
        self._retries = 0

    def _register(self, guard: FloodGuard, served: ServedObject) -> None:
        self._registered[served.path] = publish(self._connection, served, self._reaper, guard.handled)

    def _own_name(self, connection: Any) -> None:
        # Without ALLOW_REPLACEMENT nobody can take it, without the queue nobody can inherit it by surprise.
        try:
            answer = call_bus(connection, "RequestName", "su", self.name, _DO_NOT_QUEUE)[0]
        except RefusedError as error:
            raise ServiceError(
                Kind.BUS,
                f"D-Bus: the bus denies the name {self.name}: {error.message}",
                hint="run it as root, with its policy files in dbus-1/system.d",
            ) from error
        if answer == _OWNED_BY_ANOTHER:
            raise ServiceError(
                Kind.BUS, f"D-Bus: the name {self.name} is taken", hint=f"see who has it: busctl status {self.name}"
            )
        if answer != _PRIMARY_OWNER:
            raise ServiceError(Kind.BUS, f"D-Bus: expected to own {self.name}, got answer {answer}")

    def _closed(self, _connection: Any, _by_remote: bool, error: Any) -> None:  # noqa: FBT001  (GDBus calls it)
        self._forget()
        text = error.message if error is not None else "closed"
        self._lose(ServiceError(Kind.BUS, f"D-Bus: the connection was lost: {text}"))

    def _lose(self, error: UpdateAgentError) -> None:
        secs = RETRY_SECS[min(self._retries, len(RETRY_SECS) - 1)]
        self._retries += 1
        self._timer = GLib.timeout_add_seconds(secs, self._retry)
        self._events.lost(error)

    def _retry(self) -> bool:
        self._timer = None
        try:
            self._open(_RETRY_TIMEOUT_SECS)
        except UpdateAgentError as error:
            self._lose(error)
        else:
            self._events.up()
        return bool(GLib.SOURCE_REMOVE)

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        connection.disconnect(self._closed_handler)
        for registered in self._registered.values():
            registered.unregister()
        self._registered = {}
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        # It refers to the connection, which refers to it.
        del connection.pydbus.con


def make_variant(signature: str, *values: Any) -> Any:
    """A tuple of values as `GLib.Variant`; the signature is that of all of them."""
    return GLib.Variant(f"({signature})", values)
