"""One line for `systemctl status`: what goes on."""

from update_agent.api.node import NodeStatus
from update_agent.daemon.ports import CompatStatus
from update_agent.domain.machine import State
from update_agent.host.notify import Notifier


def status_text(status: NodeStatus) -> str:
    """What the agent does, or waits for, and the last error."""
    match status.state:
        case State.UPDATED_NEED_REBOOT:
            text = f"{status.pending_version or 'another slot'} waits for its reboot in slot {status.pending_slot}"
        case State.IDLE:
            text = f"running {status.running_version or 'an unknown version'}, no update pending"
        case State.CHECKING_FOR_UPDATE:
            text = "asking the update server"
        case State.REPORTING_ERROR_EVENT:
            text = "telling the update server about a failure"
        case _:
            text = f"{status.state.replace('-', ' ')}: {status.offered_version or 'a payload'}{_percent(status)}"
    if status.last_error is not None and status.state in {State.IDLE, State.UPDATED_NEED_REBOOT}:
        text += f"; last error {status.last_error.kind}: {status.last_error.message}"
    return text


def _percent(status: NodeStatus) -> str:
    if not status.progress_total_bytes:
        return ""
    return f", {100 * status.progress_done_bytes // status.progress_total_bytes} %"


class StatusText:
    """Tells the service manager whenever the line changes."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._told = ""

    def status_changed(self, status: NodeStatus) -> None:
        """A listener of the agent."""
        text = status_text(status)
        if text != self._told:
            self._told = text
            self._notifier.status(text)

    def compat_signal(self, status: CompatStatus) -> None:
        """Nothing to add."""
