"""One call to a service on the system bus, with an end: connect, ask, read the answer, disconnect.

Straight over Gio, because pydbus reads a property without a time limit. A connection of its own, so that neither a bus
that goes away nor a service that hangs touches another part of the process.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from update_agent.errors import Kind, ServiceError

TIMEOUT_SECS: Final = 25.0


def call(
    bus_name: str,
    path: str,
    method: str,
    signature: str = "()",
    arguments: tuple[object, ...] = (),
    *,
    answer_signature: str = "()",
    address: str | None = None,
    timeout_secs: float = TIMEOUT_SECS,
) -> tuple[Any, ...]:
    """Call `method`, an interface and a member with a dot between them; its answer.

    Args:
        bus_name: of the service.
        path: of the object.
        method: such as `org.freedesktop.login1.Manager.Reboot`.
        signature: of the arguments, a tuple.
        arguments: as `GLib.Variant` takes them.
        answer_signature: of the answer, a tuple; another one is an error.
        address: of the bus; None for the system bus.
        timeout_secs: for the connection and for the answer, each.

    Raises:
        ServiceError: bus, when the bus or the service cannot be reached or does not answer in time;
            command-failed, when the service answers with an error.
    """
    from gi.repository import Gio, GLib  # costs megabytes, and few processes ask

    interface, _, member = method.rpartition(".")
    with _connected(address, timeout_secs) as connection:
        try:
            answer = connection.call_sync(
                bus_name,
                path,
                interface,
                member,
                GLib.Variant(signature, arguments),
                GLib.VariantType(answer_signature),
                Gio.DBusCallFlags.NONE,
                int(timeout_secs * 1000),
                None,
            )
        except GLib.Error as error:
            raise _call_error(bus_name, member, error) from error
    unpacked: tuple[Any, ...] = answer.unpack()
    return unpacked


@contextmanager
def _connected(address: str | None, timeout_secs: float) -> Iterator[Any]:
    from gi.repository import Gio, GLib

    cancellable = Gio.Cancellable()
    # Connecting has no time limit of its own, and a bus may accept and then say nothing.
    timer = threading.Timer(timeout_secs, cancellable.cancel)
    timer.daemon = True
    timer.start()
    try:
        where = address or Gio.dbus_address_get_for_bus_sync(Gio.BusType.SYSTEM, cancellable)
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        connection = Gio.DBusConnection.new_for_address_sync(where, flags, None, cancellable)
    except GLib.Error as error:
        raise ServiceError(
            Kind.BUS, f"system bus: cannot connect: {error.message}", hint="is dbus running? systemctl status dbus"
        ) from error
    finally:
        timer.cancel()
    try:
        yield connection
    finally:
        connection.close(None, None)


def _call_error(bus_name: str, member: str, error: Any) -> ServiceError:
    from gi.repository import Gio

    name = Gio.dbus_error_get_remote_error(error) or ""
    Gio.dbus_error_strip_remote_error(error)
    is_absent = name.startswith("org.freedesktop.DBus.Error.") and name.rpartition(".")[2] in {
        "NameHasNoOwner",
        "NoReply",
        "ServiceUnknown",
        "Disconnected",
    }
    if not name or is_absent or name.startswith("org.freedesktop.DBus.Error.Spawn."):
        return ServiceError(Kind.BUS, f"{bus_name}: {member}: no answer: {error.message}")
    return ServiceError(Kind.COMMAND_FAILED, f"{bus_name}: {member}: {name}: {error.message}")
