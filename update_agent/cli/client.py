"""The daemon of this node as the command line sees it: what it says, what it can be told, and how it changes."""

import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from update_agent.api.node import BUS_NAME, MANAGER_INTERFACE, OBJECT_PATH, SLOT_INTERFACE, NodeStatus
from update_agent.errors import Kind, ServiceError, UpdateAgentError

_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_POLKIT_SECS: Final = 120.0
"""For a person to type a password."""
_WIND_UP_SECS: Final = 5.0
"""For the child process of what has just ended to go away."""
_RETRY_SECS: Final = 0.1
_SIGNAL_SECS: Final = 0.2
_UNREACHABLE_HINT: Final = "start it: systemctl start update-agentd; why it does not run: journalctl -u update-agentd"


class Bus(Protocol):
    """A connection to the bus, as `update_agent.host.dbus.BusClient`."""

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        method: str,
        signature: str = "",
        args: tuple[Any, ...] = (),
        timeout_secs: float = ...,
        *,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call and wait."""

    def get_all(self, name: str, path: str, interface: str) -> dict[str, Any]:
        """All properties of an interface."""

    def watch(
        self,
        name: str,
        path: str,
        interface: str,
        signal: str,
        callback: Callable[[tuple[Any, ...]], None],
        *,
        owner_changed: Callable[[bool], None] = ...,
    ) -> None:
        """Call back with the arguments of each such signal."""

    def run(self, until: Callable[[], bool], timeout_secs: float | None = None) -> bool:
        """Hear signals until the condition holds; False when the time was over."""


class AgentGoneError(Exception):
    """The daemon has left the bus, and may come back; never leaves the command line."""


class Agent:
    """One daemon.

    Every method raises `ServiceError` (service-unreachable) when there is none or it does not answer in time, and the
    error of the daemon when it refuses.
    """

    def __init__(self, bus: Bus, *, timeout_secs: float, is_interactive: bool = False) -> None:
        """Nothing is called yet; with `is_interactive` polkit may ask the person."""
        self._bus = bus
        self._timeout_secs = timeout_secs
        self._is_interactive = is_interactive
        self._events: deque[Mapping[str, Any]] = deque()
        self._is_watched = False
        self._has_owner = True
        self._departures = 0
        self._departures_seen = 0

    def status(self) -> NodeStatus:
        """What the daemon says now."""
        return self._to_status(self._properties(), self._slots())

    def check(self) -> None:
        """Ask the server and install nothing."""
        self._begin("Check")

    def install(self, options: Mapping[str, str | bool]) -> None:
        """Begin an update."""
        # A signature goes with each value; only what talks to the bus pays for the import.
        from gi.repository import GLib

        signatures = {str: "s", bool: "b"}
        variants = {name: GLib.Variant(signatures[type(value)], value) for name, value in options.items()}
        self._begin("Install", "a{sv}", variants)

    def cancel(self) -> bool:
        """Stop what is under way; False if nothing was."""
        return bool(self._call("Cancel")[0])

    def reset(self) -> None:
        """Give a pending update up."""
        self._call("Reset")

    def rollback(self) -> None:
        """Let the other slot boot next."""
        self._call("Rollback")

    def mark_slot(self, slot: str, mark: str) -> None:
        """`good`, `bad` or `active`; the empty slot is the one that is usually meant."""
        self._call("MarkSlot", "ss", slot, mark)

    def reload(self) -> None:
        """Read the configuration again."""
        self._call("Reload")

    def changes(self, heartbeat_secs: float) -> Iterator[NodeStatus]:
        """The status now, after every change, and after so long without one; a daemon that hangs is noticed then.

        Raises:
            AgentGoneError: the daemon has left the bus; see `wait_for_return`.
        """
        self._watch()
        values, slots = self._ask()
        yield self._to_status(values, slots)
        while True:
            self._bus.run(lambda: bool(self._events) or self._has_left, heartbeat_secs)
            if not self._events:
                values, slots = self._ask()
                yield self._to_status(values, slots)
            while self._events:
                changed = self._events.popleft()
                values = {**values, **changed}
                if "State" in changed:
                    _, slots = self._ask()
                yield self._to_status(values, slots)

    def wait_for_return(self, secs: float | None) -> NodeStatus:
        """Wait until the daemon is on the bus again, None for as long as it takes; gives what it says then."""
        if not self._bus.run(lambda: self._has_owner, secs):
            raise _unreachable(f"did not come back within {secs:.0f} s")
        self._departures_seen = self._departures
        self._events.clear()
        return self.status()

    @property
    def _has_left(self) -> bool:
        """Also when it has come back since."""
        return self._departures != self._departures_seen

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            heard, owner_changed = self._heard, self._owner_changed
            self._bus.watch(BUS_NAME, OBJECT_PATH, _PROPERTIES, "PropertiesChanged", heard, owner_changed=owner_changed)

    def _heard(self, args: tuple[Any, ...]) -> None:
        interface, changed, _invalidated = args
        if interface == MANAGER_INTERFACE:
            self._events.append(changed)

    def _owner_changed(self, has_owner: bool) -> None:  # noqa: FBT001  (the bus calls it)
        self._has_owner = has_owner
        self._departures += not has_owner

    def _ask(self) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        if self._has_left:
            raise AgentGoneError
        try:
            return self._properties(), self._slots()
        except ServiceError as error:
            # The bus tells that it has left before it says that nobody answers; that is on its way to us.
            self._bus.run(lambda: self._has_left, _SIGNAL_SECS)
            if error.kind is Kind.SERVICE_UNREACHABLE and self._has_left:
                raise AgentGoneError from error
            raise

    def _properties(self) -> Mapping[str, Any]:
        return dict(self._call_object(_PROPERTIES, "GetAll", "s", MANAGER_INTERFACE)[0])

    def _slots(self) -> list[Mapping[str, Any]]:
        objects = self._call_object(_OBJECT_MANAGER, "GetManagedObjects")[0]
        return [objects[path][SLOT_INTERFACE] for path in sorted(objects) if SLOT_INTERFACE in objects[path]]

    def _begin(self, method: str, signature: str = "", *args: Any) -> None:
        """Call what needs the daemon to rest: the child process of what has just ended may still be going away."""
        end = time.monotonic() + _WIND_UP_SECS
        while True:
            try:
                self._call(method, signature, *args)
            except UpdateAgentError as error:
                is_over = error.kind is not Kind.WRONG_STATE or time.monotonic() > end
                if is_over or not self.status().is_resting:
                    raise
                self._bus.run(lambda: False, _RETRY_SECS)
            else:
                return

    def _call(self, method: str, signature: str = "", *args: Any) -> tuple[Any, ...]:
        """Call what may need an authorization."""
        timeout = max(self._timeout_secs, _POLKIT_SECS) if self._is_interactive else self._timeout_secs
        return self._call_object(
            MANAGER_INTERFACE, method, signature, *args, timeout_secs=timeout, interactive=self._is_interactive
        )

    def _call_object(
        self,
        interface: str,
        method: str,
        signature: str = "",
        *args: Any,
        timeout_secs: float | None = None,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        timeout = self._timeout_secs if timeout_secs is None else timeout_secs
        try:
            return self._bus.call(
                BUS_NAME, OBJECT_PATH, interface, method, signature, args, timeout, interactive=interactive
            )
        except ServiceError as error:
            if error.kind is not Kind.SERVICE_UNREACHABLE:
                raise
            raise _unreachable(error.message) from error

    def _to_status(self, values: Mapping[str, Any], slots: list[Mapping[str, Any]]) -> NodeStatus:
        try:
            return NodeStatus.from_properties(values, slots)
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(
                Kind.BUS,
                f"update-agentd: expected the properties of this release, got others ({error})",
                hint="the daemon may be of another release: systemctl restart update-agentd",
            ) from error


def connect_agent(args: Namespace) -> Agent:
    """The daemon on the system bus, or on that of `--bus`.

    Raises:
        ServiceError: service-unreachable, when there is no bus.
    """
    # Only verbs that talk to the daemon pay for the import.
    from update_agent.host.dbus import connect

    try:
        bus = connect(args.bus, timeout_secs=args.timeout)
    except ServiceError as error:
        hint = "is dbus.service running? to work on a disk without the daemon: --image DISK"
        raise ServiceError(error.kind, error.message, hint=hint) from error
    return Agent(bus, timeout_secs=args.timeout, is_interactive=sys.stdin.isatty())


def remote_error(kind: str, message: str, hint: str) -> UpdateAgentError:
    """A failure that the daemon has told about; of a kind that this release does not know, a bus error."""
    try:
        return ServiceError(Kind(kind), message, hint=hint or None)
    except ValueError:
        return ServiceError(Kind.BUS, f"{message} [{kind}]", hint=hint or None)


def _unreachable(why: str) -> ServiceError:
    return ServiceError(Kind.SERVICE_UNREACHABLE, f"update-agentd: {why}", hint=_UNREACHABLE_HINT)
