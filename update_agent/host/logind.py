"""Reboot of this machine through logind, which tells sessions and asks inhibitors first."""

from typing import Final

from update_agent.errors import Kind, ServiceError
from update_agent.host.system_bus import TIMEOUT_SECS, call

_NAME: Final = "org.freedesktop.login1"
_PATH: Final = "/org/freedesktop/login1"
_MANAGER: Final = "org.freedesktop.login1.Manager"


def reboot(*, address: str | None = None, timeout_secs: float = TIMEOUT_SECS) -> None:
    """Ask for a reboot at once; on return logind has agreed, and the machine is about to go down.

    Args:
        address: of the bus; None for the system bus.
        timeout_secs: to wait for the answer.

    Raises:
        ServiceError: command-failed, when logind refuses, for example because of an inhibitor; bus, when there is no
            logind or no answer.
    """
    try:
        call(_NAME, _PATH, f"{_MANAGER}.Reboot", "(b)", (False,), address=address, timeout_secs=timeout_secs)
    except ServiceError as error:
        raise _explained(error) from error


def can_reboot(*, address: str | None = None, timeout_secs: float = TIMEOUT_SECS) -> str:
    """What logind would say to a reboot: `yes`, `no`, `challenge`, `na` or, since systemd 257, `inhibitor-blocked`.

    Args:
        address: of the bus; None for the system bus.
        timeout_secs: to wait for the answer.

    Raises:
        ServiceError: bus, when there is no logind or no answer; command-failed.
    """
    try:
        answer = call(
            _NAME,
            _PATH,
            f"{_MANAGER}.CanReboot",
            answer_signature="(s)",
            address=address,
            timeout_secs=timeout_secs,
        )
    except ServiceError as error:
        raise _explained(error) from error
    return str(answer[0])


def _explained(error: ServiceError) -> ServiceError:
    if error.kind is Kind.BUS:
        hint = "is logind running? systemctl status systemd-logind; or reboot by hand: systemctl reboot"
    else:
        hint = "see who holds the machine up: systemd-inhibit --list; or reboot by hand: systemctl reboot"
    return ServiceError(error.kind, f"reboot: {error.message}", hint=hint)
