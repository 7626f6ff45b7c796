"""Whoever is told what changes: the bus, the metrics, the service manager."""

import logging
from collections.abc import Callable
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.daemon.ports import CompatStatus, Listener

_LOG: Final = logging.getLogger(__name__)


class Listeners:
    """Tells all of them. One that fails is a bug of its own: the others are told, and the update goes on."""

    def __init__(self) -> None:
        self._all: list[Listener] = []
        self._failed: set[int] = set()

    def add(self, listener: Listener) -> None:
        """Tell it from now on."""
        self._all.append(listener)

    def status_changed(self, status: NodeStatus) -> None:
        """As `Listener` says."""
        self._tell(lambda listener: listener.status_changed(status))

    def compat_signal(self, status: CompatStatus) -> None:
        """As `Listener` says."""
        self._tell(lambda listener: listener.compat_signal(status))

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        for listener in self._all:
            try:
                tell(listener)
            except Exception:  # noqa: BLE001  the top of everything that is not the update
                if id(listener) not in self._failed:  # it may fail ten times a second
                    self._failed.add(id(listener))
                    _LOG.exception("%s failed, which is a bug", type(listener).__name__)
