"""Keeps callers that do not wait for their answers from filling the memory, or the time, of a service.

GDBus reads what comes in in a thread of its own and queues it for the main loop without limit. The guard looks at each
message there, before it is queued. It must be faster than the bus, or others wait behind the flood; PyGObject's own
`add_filter` makes an object of every message and is not, so this goes through ctypes.
"""

import ctypes
import threading
from typing import Any, Final

from gi.repository import GLib

CALLS_QUEUED_MAX: Final = 128
"""Of one sender; what is beyond is refused until the main loop has caught up. An ordinary program has one."""

CALL_BYTES_MAX: Final = 32 * 1024
"""Of the arguments; no call of ours has more. GDBus makes an object of each value: what the bus lets through becomes a
gigabyte, and many of these would wait in the queue."""

_CALM_MS: Final = 50
"""How long at least a caller is refused that went beyond: what is let through costs more than what is not."""

_METHOD_CALL: Final = 1
_NO_REPLY_EXPECTED: Final = 1
_LIMITS_EXCEEDED: Final = (b"org.freedesktop.DBus.Error.LimitsExceeded", b"too many calls at once")
_TOO_LARGE: Final = (b"org.freedesktop.DBus.Error.LimitsExceeded", b"the arguments are too large")
_UNKNOWN_METHOD: Final = (b"org.freedesktop.DBus.Error.UnknownMethod", b"no method of that name takes arguments")

_Pointer: Final = ctypes.c_void_p
_Filter: Final = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer, ctypes.c_int, _Pointer)


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


# PyDLL keeps the interpreter's lock, which is right for what takes no time and no other lock.
_QUICK: Final = ctypes.PyDLL("libgio-2.0.so.0")
_SLOW: Final = ctypes.CDLL("libgio-2.0.so.0")
_get_type: Final = _function(_QUICK, "g_dbus_message_get_message_type", ctypes.c_int, _Pointer)
_get_flags: Final = _function(_QUICK, "g_dbus_message_get_flags", ctypes.c_int, _Pointer)
_get_signature: Final = _function(_QUICK, "g_dbus_message_get_signature", ctypes.c_char_p, _Pointer)
_get_sender: Final = _function(_QUICK, "g_dbus_message_get_sender", ctypes.c_char_p, _Pointer)
_get_body: Final = _function(_QUICK, "g_dbus_message_get_body", _Pointer, _Pointer)
_get_size: Final = _function(ctypes.CDLL("libglib-2.0.so.0"), "g_variant_get_size", ctypes.c_size_t, _Pointer)
_trim: Final = _function(ctypes.CDLL(None), "malloc_trim", ctypes.c_int, ctypes.c_size_t)
_unref: Final = _function(ctypes.CDLL("libgobject-2.0.so.0"), "g_object_unref", None, _Pointer)
_new_error: Final = _function(
    _SLOW, "g_dbus_message_new_method_error_literal", _Pointer, _Pointer, ctypes.c_char_p, ctypes.c_char_p
)
_send: Final = _function(
    _SLOW, "g_dbus_connection_send_message", ctypes.c_int, _Pointer, _Pointer, ctypes.c_int, _Pointer, _Pointer
)
_add_filter: Final = _function(
    _SLOW, "g_dbus_connection_add_filter", ctypes.c_uint, _Pointer, _Filter, _Pointer, _Pointer
)
_remove_filter: Final = _function(_SLOW, "g_dbus_connection_remove_filter", None, _Pointer, ctypes.c_uint)


def _give_back_memory() -> bool:
    """Else what a large message took stays with the process."""
    _trim(0)
    return bool(GLib.SOURCE_REMOVE)


class FloodGuard:
    """Refuses calls of a sender that has too many in the queue, and calls that are too large for it.

    With `takes_arguments` off, it also refuses every call that has some, as unknown: GDBus would say that the arguments
    are wrong, and a service that stands in for another must say what that one said.
    """

    def __init__(self, connection: Any, limit: int = CALLS_QUEUED_MAX, *, takes_arguments: bool = True) -> None:
        self._connection = connection
        self._limit = limit
        self._takes_arguments = takes_arguments
        self._lock = threading.Lock()
        self._queued: dict[bytes, int] = {}
        self._refused: set[bytes] = set()
        self._is_scheduled = False
        self._function = _Filter(self._look)  # must live as long as GDBus may call it
        self._filter = _add_filter(hash(connection), self._function, None, None)

    def close(self) -> None:
        """Let everything through; the connection is done with."""
        _remove_filter(hash(self._connection), self._filter)

    def handled(self, sender: str) -> None:
        """A call of this sender has left the queue. What GDBus answers by itself is not told, and forgotten later."""
        key = sender.encode()
        with self._lock:
            left = self._queued.pop(key, 0) - 1
            if left > 0:
                self._queued[key] = left

    def _look(self, connection: int, message: int, is_incoming: int, _data: object) -> int | None:
        """Called in GDBus' thread: the message itself lets it through, None takes it away."""
        if not is_incoming or _get_type(message) != _METHOD_CALL:
            return message
        refusal = self._find_refusal(message)
        if refusal is None:
            return message
        if not _get_flags(message) & _NO_REPLY_EXPECTED:
            error = _new_error(message, *refusal)
            _send(connection, error, 0, None, None)
            _unref(error)
        _unref(message)
        if refusal is _TOO_LARGE:
            GLib.timeout_add(_CALM_MS, _give_back_memory)  # GDBus has the message until we return
        return None

    def _find_refusal(self, message: int) -> tuple[bytes, bytes] | None:
        if not self._admit(_get_sender(message) or b""):
            return _LIMITS_EXCEEDED
        if not _get_signature(message):
            return None
        if not self._takes_arguments:
            return _UNKNOWN_METHOD
        return _TOO_LARGE if _get_size(_get_body(message)) > CALL_BYTES_MAX else None

    def _admit(self, sender: bytes) -> bool:
        with self._lock:
            if sender in self._refused:
                return False
            if not self._is_scheduled:
                # Less urgent than any call, so it runs when none is left.
                self._is_scheduled = True
                GLib.idle_add(self._catch_up, priority=GLib.PRIORITY_LOW)
            count = self._queued.get(sender, 0) + 1
            if count <= self._limit:
                self._queued[sender] = count
                return True
            self._refused.add(sender)
            return False

    def _catch_up(self) -> bool:
        if self._refused:
            GLib.timeout_add(_CALM_MS, self._forget)
        else:
            self._forget()
        return bool(GLib.SOURCE_REMOVE)

    def _forget(self) -> bool:
        with self._lock:
            self._queued.clear()
            self._refused.clear()
            self._is_scheduled = False
        return bool(GLib.SOURCE_REMOVE)
