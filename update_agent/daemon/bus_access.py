"""Who may call what: root everything, others what polkit lets them; nobody waits for either answer."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from gi.repository import Gio, GLib

from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.errors import Kind, RefusedError
from update_agent.host.dbus import CALL_TIMEOUT_SECS
from update_agent.host.dbus_service import Call
from update_agent.host.polkit import TIMEOUT_SECS, check_authorization

_LOGGER: Final = logging.getLogger(__name__)

_ACTION_PREFIX: Final = "org.updateagent1."
_LIMITS_EXCEEDED: Final = "org.freedesktop.DBus.Error.LimitsExceeded"

_PENDING_MAX: Final = 64
_PENDING_PER_SENDER_MAX: Final = 4
_KNOWN_SENDERS_MAX: Final = 256
_LOG_AGAIN_SECS: Final = 60.0
"""A caller that is refused over and over is not to fill the journal."""


class Access:
    """Lets calls through, or answers them with an error.

    Attributes:
        connection: asked for the `Gio.DBusConnection` of the moment; None while there is no bus.
    """

    def __init__(self, connection: Callable[[], Any], *, polkit_timeout_secs: float = TIMEOUT_SECS) -> None:
        self._connection = connection
        self._polkit_timeout_secs = polkit_timeout_secs
        self._uids: dict[str, int] = {}
        self._pending: dict[str, int] = {}
        self._logged: dict[tuple[int, str], float] = {}

    def forget(self) -> None:
        """Another bus gives the same names to other callers."""
        self._uids = {}

    def check(self, call: Call, action: str, allowed: Callable[[], None], *, is_root_only: bool = False) -> None:
        """Call `allowed` once the caller may do the action; until then the main loop goes on.

        Every other outcome is answered here, as are the errors of `allowed`.
        """
        uid, connection = self._uids.get(call.sender), self._connection()
        if uid == 0:
            allowed()
            return
        if self._pending.get(call.sender, 0) >= _PENDING_PER_SENDER_MAX or sum(self._pending.values()) >= _PENDING_MAX:
            call.fail(_LIMITS_EXCEEDED, "too many calls that wait for an authorization")
            return
        self._pending[call.sender] = self._pending.get(call.sender, 0) + 1

        def identified(uid: int | None) -> None:
            if uid == 0:
                self._end(call, uid, action, "", allowed)
            elif uid is None:
                self._end(call, -1, action, "the bus does not say who is asking", allowed)
            elif is_root_only:
                self._end(call, uid, action, "only root may ask for that", allowed)
            else:
                check_authorization(
                    connection,
                    call.sender,
                    _ACTION_PREFIX + action,
                    is_interactive=call.is_interactive,
                    done=lambda refusal: self._end(call, uid, action, refusal, allowed),
                    timeout_secs=self._polkit_timeout_secs,
                )

        if uid is None:
            self._identify(connection, call.sender, identified)
        else:
            identified(uid)

    def _identify(self, connection: Any, sender: str, done: Callable[[int | None], None]) -> None:
        def answered(_connection: Any, result: Any) -> None:
            try:
                uid = int(connection.call_finish(result).unpack()[0])
            except GLib.Error:
                done(None)
                return
            if len(self._uids) >= _KNOWN_SENDERS_MAX:
                self._uids = {}
            self._uids[sender] = uid
            done(uid)

        connection.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetConnectionUnixUser",
            GLib.Variant("(s)", (sender,)),
            GLib.VariantType("(u)"),
            Gio.DBusCallFlags.NONE,
            int(CALL_TIMEOUT_SECS * 1000),
            None,
            answered,
        )

    def _end(self, call: Call, uid: int, action: str, refusal: str, allowed: Callable[[], None]) -> None:
        left = self._pending.pop(call.sender) - 1
        if left:
            self._pending[call.sender] = left
        if refusal:
            self._log(uid, action, refusal)
        call.run(lambda: _refuse(call, uid, refusal) if refusal else allowed())

    def _log(self, uid: int, action: str, refusal: str) -> None:
        now = time.monotonic()
        if now - self._logged.get((uid, action), -_LOG_AGAIN_SECS) < _LOG_AGAIN_SECS:
            return
        if len(self._logged) >= _KNOWN_SENDERS_MAX:
            self._logged = {}
        self._logged[(uid, action)] = now
        log_event(
            _LOGGER,
            logging.WARNING,
            JournalEvent.ACCESS_DENIED,
            "D-Bus: %s denied to %s: %s",
            action,
            _who(uid),
            refusal,
            OPERATION=action,
        )


def _who(uid: int) -> str:
    return f"the user with uid {uid}" if uid >= 0 else "an unknown caller"


def _refuse(call: Call, uid: int, refusal: str) -> None:
    raise RefusedError(
        Kind.NOT_AUTHORIZED,
        f"{call.method}: not allowed for {_who(uid)}: {refusal}",
        hint="run it as root, or have an administrator authorize it",
    )
