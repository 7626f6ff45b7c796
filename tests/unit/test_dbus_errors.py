import pytest

from update_agent.errors import Kind, RefusedError, ServiceError
from update_agent.formats.dbus_errors import dbus_error_name, error_from_dbus, error_to_dbus


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("hint", [None, "try\nagain"])
def test_error_over_dbus_comes_back_as_it_was(kind: Kind, hint: str | None) -> None:
    error = error_from_dbus(*error_to_dbus(ServiceError(kind, "slot A: it broke", hint=hint)))
    assert error is not None
    assert (error.kind, error.message, error.hint) == (kind, "slot A: it broke", hint)


def test_error_to_dbus_puts_the_hint_on_a_line_of_its_own() -> None:
    error = RefusedError(Kind.WRONG_STATE, "busy", hint="wait")
    assert error_to_dbus(error) == ("org.updateagent1.Error.WrongState", "busy\nhint: wait")


@pytest.mark.parametrize("name", ["", "org.freedesktop.DBus.Error.Failed", "org.updateagent1.Error.Unheard"])
def test_error_from_dbus_of_an_unknown_name_is_none(name: str) -> None:
    assert error_from_dbus(name, "text") is None


def test_error_from_dbus_of_what_is_not_allowed_is_a_refusal() -> None:
    assert isinstance(error_from_dbus(dbus_error_name(Kind.NOT_AUTHORIZED), "no"), RefusedError)
