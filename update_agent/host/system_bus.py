"""One call to a service on the system bus, with an end: connect, ask, read the answer, disconnect.

A connection of its own, so that neither a bus that goes away nor a service that hangs touches another part of the
process.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from update_agent.errors import Kind, ServiceError

TIMEOUT_SECS: Final = 25.0

_ABSENT: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("NameHasNoOwner", "NoReply", "ServiceUnknown", "Disconnected")
)


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
    from gi.repository import GLib

    from update_agent.host.dbus import deadline, open_connection

    # What GDBus leaves to be done later goes into a context that ends here; nobody may run the default one.
    context = GLib.MainContext.new()
    context.push_thread_default()
    try:
        try:
            connection = open_connection(address, timeout_secs=timeout_secs)
        except ServiceError as error:
            raise ServiceError(Kind.BUS, error.message, hint=error.hint) from error
        try:
            yield connection
        finally:
            with deadline(timeout_secs) as cancellable, suppress(GLib.Error):
                connection.close_sync(cancellable)
            while context.iteration(may_block=False):
                pass
    finally:
        context.pop_thread_default()


def _call_error(bus_name: str, member: str, error: Any) -> ServiceError:
    from update_agent.host.dbus import remote_error

    name, text = remote_error(error)
    if not name or name in _ABSENT or name.startswith("org.freedesktop.DBus.Error.Spawn."):
        return ServiceError(Kind.BUS, f"{bus_name}: {member}: no answer: {text}")
    return ServiceError(Kind.COMMAND_FAILED, f"{bus_name}: {member}: {text} ({name})")
