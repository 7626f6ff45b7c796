"""The marker /run/reboot-required: it exists exactly while a reboot is pending.

kured and the message of the day of Debian look for it. The post-install of a release may have made it as well; whoever
made it, it goes when nothing is pending any more.
"""

import logging
from pathlib import Path

from update_agent.api.node import NodeStatus
from update_agent.daemon.ports import CompatStatus

_log = logging.getLogger(__name__)


class RebootRequired:
    """Keeps the marker; looks at it with the first status and whenever the state changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[str, str, str] | None = None

    def status_changed(self, status: NodeStatus) -> None:
        """As a `Listener`."""
        now = (status.state, status.pending_slot, status.pending_version)
        if now == self._seen:
            return
        self._seen = now
        try:
            if status.is_reboot_pending:
                self._make(status.pending_version or f"slot {status.pending_slot}")
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s: cannot keep it in step: %s", self._path, error.strerror)

    def compat_signal(self, status: CompatStatus) -> None:
        """As a `Listener`; says nothing that `status_changed` has not."""

    def _make(self, what: str) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.write_text(f"*** System restart required: {what} is installed ***\n")
        beside.chmod(0o644)
        beside.replace(self._path)
