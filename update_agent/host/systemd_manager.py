"""What the service manager knows about its units."""

from dataclasses import dataclass
from typing import Final

from update_agent.errors import Kind, ServiceError
from update_agent.host.system_bus import call

_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_LOAD_STATE: Final = 2  # places in what ListUnits… answer, org.freedesktop.systemd1(5)
_ACTIVE_STATE: Final = 3
_TIMEOUT_SECS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """A unit at one moment, in systemd's words.

    Attributes:
        load: such as `loaded`, `not-found`, `masked`.
        active: such as `active`, `inactive`, `activating`, `failed`.
    """

    load: str
    active: str

    @property
    def is_active(self) -> bool:
        """Whether it has been reached and not left."""
        return self.active == "active"


def unit_state(name: str, *, address: str | None = None) -> UnitState:
    """The state of a unit, also of one that was never loaded.

    Args:
        name: with its suffix.
        address: of the bus; None for the system bus.

    Raises:
        ServiceError: bus, when there is no bus or no systemd on it; command-failed.
    """
    for unit in _list("ListUnitsByNames", name, address):
        return UnitState(load=unit[_LOAD_STATE], active=unit[_ACTIVE_STATE])
    raise ServiceError(Kind.BUS, f"{_NAME}: ListUnitsByNames: expected the unit {name}, got nothing")


def failed_units(*, address: str | None = None) -> tuple[str, ...]:
    """Names of the units that have failed, sorted.

    Args:
        address: of the bus; None for the system bus.

    Raises:
        ServiceError: as `unit_state`.
    """
    return tuple(sorted(unit[0] for unit in _list("ListUnitsFiltered", "failed", address)))


def _list(member: str, wanted: str, address: str | None) -> list[tuple[str, ...]]:
    units: list[tuple[str, ...]]
    (units,) = call(
        _NAME,
        _PATH,
        f"{_MANAGER}.{member}",
        "(as)",
        ([wanted],),
        answer_signature="(a(ssssssouso))",
        address=address,
        timeout_secs=_TIMEOUT_SECS,
    )
    return units
