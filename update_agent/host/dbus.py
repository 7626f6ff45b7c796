"""D-Bus as a client, and what clients and services share: connections that end, calls that end, errors that are ours.

pydbus (0.6) is what stands between the program and GDBus, with its traps disarmed here and in `dbus_service`:

- nothing waits for ever: its `connect()` and its proxies have no time limit, so connecting is cancelled by a timer and
  calls go through the connection itself, with a timeout;
- the process outlives the bus: `exit-on-close` is off;
- a signal counts only if it comes from the connection that owns the name at that moment; a match on the name alone lets
  anybody through who sends the signal to this connection directly;
- errors are told by the D-Bus name they have, not by a class that has to be called like them;
- each call that comes in leaks a reference (`dbus_service.Reaper`), a failed one prints a traceback, a name given to
  `publish()` can be taken over by anybody, and a caller may queue without limit (`dbus_service`).

Everything happens in the thread of GLib's default main context.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from gi.repository import Gio, GLib

from update_agent.errors import Kind, RefusedError, ServiceError, UpdateAgentError
from update_agent.formats.dbus_errors import error_from_dbus

CONNECT_TIMEOUT_SECS: Final = 5.0
CALL_TIMEOUT_SECS: Final = 10.0

_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_ABSENT: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in (
        "ServiceUnknown",
        "NameHasNoOwner",
        "NoReply",
        "Disconnected",
        "Timeout",
        "TimedOut",
        "Spawn.ChildExited",
    )
)
_DENIED: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed")
)
_HINT_ABSENT: Final = "is update-agentd.service running? try: systemctl status update-agentd"


@contextmanager
def deadline(secs: float) -> Iterator[Any]:
    """A `Gio.Cancellable` that is cancelled after so many seconds."""
    cancellable = Gio.Cancellable()
    timer = threading.Timer(secs, cancellable.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield cancellable
    finally:
        timer.cancel()


def open_connection(address: str | None, *, timeout_secs: float = CONNECT_TIMEOUT_SECS) -> Any:
    """A `Gio.DBusConnection` to the bus at the address, to the system bus for None.

    Raises:
        ServiceError: service-unreachable.
    """
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
    try:
        with deadline(timeout_secs) as cancellable:
            where = address or Gio.dbus_address_get_for_bus_sync(Gio.BusType.SYSTEM, cancellable)
            connection = Gio.DBusConnection.new_for_address_sync(where, flags, None, cancellable)
    except GLib.Error as error:
        raise ServiceError(
            Kind.SERVICE_UNREACHABLE,
            f"D-Bus: cannot connect to {address or 'the system bus'}: {error.message}",
            hint="is dbus.service running?",
        ) from error
    connection.set_exit_on_close(False)
    return connection


def remote_error(error: Any) -> tuple[str, str]:
    """Name and text of a `GLib.Error`; the name is empty if the failure is a local one."""
    name = Gio.dbus_error_get_remote_error(error) or ""
    return name, error.message.removeprefix(f"GDBus.Error:{name}: ")


def wrap_error(error: Any, what: str) -> UpdateAgentError:
    """A `GLib.Error` of a call as one of ours; `what` was called."""
    name, text = remote_error(error)
    restored = error_from_dbus(name, text)
    if restored is not None:
        return restored
    if name in _DENIED:
        return RefusedError(Kind.NOT_AUTHORIZED, f"{what}: {text}", hint="run it as root")
    if name in _ABSENT or not name:
        return ServiceError(Kind.SERVICE_UNREACHABLE, f"{what}: {text}", hint=_HINT_ABSENT)
    return ServiceError(Kind.BUS, f"{what}: {text} ({name})")


def call_bus(connection: Any, method: str, signature: str, *args: Any) -> Any:
    """Ask the bus itself; what it answers, unpacked.

    Raises:
        ServiceError, RefusedError: as `wrap_error`.
    """
    values = GLib.Variant(f"({signature})", args)
    try:
        answer = connection.call_sync(
            *_BUS, method, values, None, Gio.DBusCallFlags.NONE, int(CALL_TIMEOUT_SECS * 1000), None
        )
    except GLib.Error as error:
        raise wrap_error(error, f"D-Bus {method}") from error
    return answer.unpack()


@contextmanager
def _ended_by_signals(leave_loop: Callable[[], None]) -> Iterator[None]:
    """Leave the loop at SIGINT and SIGTERM, then call their handler: what it raises inside of the loop is lost.

    PyGObject does so for SIGINT, but a signal that comes right before the loop begins would be lost there; a source of
    the loop waits for it.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[signal.Signals] = []

    def note(number: signal.Signals) -> bool:
        came.append(number)
        leave_loop()
        return bool(GLib.SOURCE_CONTINUE)

    sources = [
        (number, GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, note, number))
        for number, handler in handlers.items()
        if callable(handler)
    ]
    try:
        yield
    finally:
        for number, source in sources:
            GLib.source_remove(source)
            # GLib leaves the default action behind.
            signal.signal(number, handlers[number])
    for number in came:
        handler = handlers[number]
        if callable(handler):
            handler(number, None)


class BusClient:
    """Calls services on one bus and hears their signals; see `connect`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._loop: Any = None
        self._is_closed = False
        connection.connect("closed", self._closed)

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        method: str,
        signature: str = "",
        args: tuple[Any, ...] = (),
        timeout_secs: float = CALL_TIMEOUT_SECS,
        *,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call and wait; `signature` is that of all arguments, `interactive` lets polkit ask a person.

        Raises:
            ServiceError: service-unreachable, without a bus, an owner of the name, or an answer in time; bus, for an
                error that is not ours; the kind of the remote error, if it is.
            RefusedError: not-authorized.
        """
        flags = Gio.DBusCallFlags.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else Gio.DBusCallFlags.NONE
        values = GLib.Variant(f"({signature})", args)
        try:
            answer = self._connection.call_sync(
                name, path, interface, method, values, None, flags, int(timeout_secs * 1000), None
            )
        except GLib.Error as error:
            raise wrap_error(error, f"{name}: {method}") from error
        return tuple(answer.unpack())

    def get_all(self, name: str, path: str, interface: str, timeout_secs: float = CALL_TIMEOUT_SECS) -> dict[str, Any]:
        """All properties of an interface. Raises as `call`."""
        return dict(
            self.call(name, path, "org.freedesktop.DBus.Properties", "GetAll", "s", (interface,), timeout_secs)[0]
        )

    def watch(
        self,
        name: str,
        path: str,
        interface: str,
        signal: str,
        callback: Callable[[tuple[Any, ...]], None],
        *,
        owner_changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Call back with the arguments of each such signal, if it comes from the owner of `name`; see `run`.

        `owner_changed` is told whenever the name gets an owner or loses it, and not at the beginning.
        """
        owner = ""

        def set_owner(_connection: Any, _sender: str, _path: str, _interface: str, _signal: str, values: Any) -> None:
            nonlocal owner
            owner = values.unpack()[2]
            owner_changed(bool(owner))
            self._wake()

        def heard(_connection: Any, sender: str, _path: str, _interface: str, _signal: str, values: Any) -> None:
            if owner and sender == owner:
                callback(tuple(values.unpack()))
                self._wake()

        self._subscribe(_BUS[0], _BUS[2], "NameOwnerChanged", _BUS[1], name, set_owner)
        self._subscribe(name, interface, signal, path, None, heard)
        try:
            owner = call_bus(self._connection, "GetNameOwner", "s", name)[0]
        except ServiceError as error:
            if error.kind is not Kind.SERVICE_UNREACHABLE:
                raise

    def run(self, until: Callable[[], bool], timeout_secs: float | None = None) -> bool:
        """Hear signals until the condition holds, which is asked after each; False when the time was over.

        Raises:
            ServiceError: service-unreachable, when the bus goes away.
            KeyboardInterrupt: a person had enough.
        """
        loop = self._loop = GLib.MainLoop()
        is_late = False

        def check() -> bool:
            # The first one is still to come when the time is over at once; by then another loop may run.
            if self._loop is loop and until():
                loop.quit()
            return bool(GLib.SOURCE_REMOVE)

        def late() -> bool:
            nonlocal is_late
            is_late = True
            loop.quit()
            return bool(GLib.SOURCE_REMOVE)

        self._check = check
        timer = None if timeout_secs is None else GLib.timeout_add(int(timeout_secs * 1000), late)
        GLib.idle_add(check)
        try:
            if not self._is_closed:
                with _ended_by_signals(loop.quit):
                    loop.run()
        finally:
            self._loop = None
            if timer is not None and not is_late:
                GLib.source_remove(timer)
        if self._is_closed:
            raise ServiceError(Kind.SERVICE_UNREACHABLE, "D-Bus: the bus went away", hint="is dbus.service running?")
        return not is_late

    def close(self) -> None:
        """Leave the bus."""
        with deadline(CONNECT_TIMEOUT_SECS) as cancellable:
            try:
                self._connection.close_sync(cancellable)
            except GLib.Error:
                return  # it has closed by itself

    def _subscribe(
        self, sender: str, interface: str, signal: str, path: str, arg0: str | None, heard: Callable[..., None]
    ) -> None:
        flags = Gio.DBusSignalFlags.NONE
        self._connection.signal_subscribe(sender, interface, signal, path, arg0, flags, heard)

    def _wake(self) -> None:
        if self._loop is not None:
            self._check()

    def _closed(self, _connection: Any, _by_remote: bool, _error: Any) -> None:  # noqa: FBT001  (GDBus calls it)
        self._is_closed = True
        if self._loop is not None:
            self._loop.quit()


def connect(address: str | None = None, *, timeout_secs: float = CONNECT_TIMEOUT_SECS) -> BusClient:
    """A client on the bus at the address, on the system bus for None.

    Raises:
        ServiceError: service-unreachable.
    """
    return BusClient(open_connection(address, timeout_secs=timeout_secs))
