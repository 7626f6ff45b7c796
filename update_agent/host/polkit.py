"""Asks polkit whether a caller may do something, without waiting for the answer."""

import itertools
from collections.abc import Callable
from typing import Any, Final

from gi.repository import Gio, GLib

from update_agent.host.dbus import remote_error

TIMEOUT_SECS: Final = 25.0
"""Shorter than the time a caller waits, so that it learns why."""
INTERACTIVE_FACTOR: Final = 4
"""Where a person is asked it takes longer, and the caller knows."""

_AUTHORITY: Final = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority")
_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
_ALLOW_INTERACTION: Final = 1

_numbers: Final = itertools.count(1)


def check_authorization(
    connection: Any,
    sender: str,
    action: str,
    *,
    is_interactive: bool,
    done: Callable[[str], None],
    timeout_secs: float = TIMEOUT_SECS,
) -> None:
    """Ask whether the connection `sender` may do `action`; `done` gets why not, or an empty text if it may.

    `done` is called exactly once, from the main loop: also when polkit is missing, fails, or does not answer in time.
    """
    limit_secs = timeout_secs * (INTERACTIVE_FACTOR if is_interactive else 1)
    question = f"update-agent-{next(_numbers)}"
    values = GLib.Variant(
        "((sa{sv})sa{ss}us)",
        (
            ("system-bus-name", {"name": GLib.Variant("s", sender)}),
            action,
            {},
            _ALLOW_INTERACTION if is_interactive else 0,
            question,
        ),
    )

    def answered(_connection: Any, result: Any) -> None:
        try:
            answer = connection.call_finish(result)
        except GLib.Error as error:
            name, text = remote_error(error)
            if not name:
                # A dialog may still be open in front of somebody.
                _call(connection, "CancelCheckAuthorization", GLib.Variant("(s)", (question,)), None, timeout_secs)
            done(f"polkit gives no answer: {text}")
            return
        is_authorized, is_challenge, _details = answer.unpack()[0]
        if is_authorized:
            done("")
        else:
            done("polkit wants to see a person's password first" if is_challenge else "polkit says no")

    _call(connection, "CheckAuthorization", values, answered, limit_secs)


def _call(connection: Any, method: str, values: Any, answered: Callable[..., None] | None, timeout_secs: float) -> None:
    connection.call(
        *_AUTHORITY,
        _INTERFACE,
        method,
        values,
        GLib.VariantType("((bba{ss}))") if answered is not None else None,
        Gio.DBusCallFlags.NONE,
        int(timeout_secs * 1000),
        None,
        answered,
    )
