"""Our errors as D-Bus carries them: a name and one text."""

from typing import Final

from update_agent.errors import Kind, RefusedError, ServiceError, UpdateAgentError

_PREFIX: Final = "org.updateagent1.Error."
_HINT: Final = "\nhint: "


def dbus_error_name(kind: Kind) -> str:
    """The kind as the name of a D-Bus error: `payload-hash` is `org.updateagent1.Error.PayloadHash`."""
    return _PREFIX + "".join(word.capitalize() for word in kind.split("-"))


_KINDS: Final = {dbus_error_name(kind): kind for kind in Kind}


def error_to_dbus(error: UpdateAgentError) -> tuple[str, str]:
    """Name and text; the hint is on a line of its own."""
    return dbus_error_name(error.kind), error.message + (_HINT + error.hint if error.hint else "")


def error_from_dbus(name: str, text: str) -> UpdateAgentError | None:
    """The reverse, or None for the name of somebody else's error, or of a kind that is not known here."""
    kind = _KINDS.get(name)
    if kind is None:
        return None
    message, _, hint = text.partition(_HINT)
    form = RefusedError if kind is Kind.NOT_AUTHORIZED else ServiceError
    return form(kind, message, hint=hint or None)
