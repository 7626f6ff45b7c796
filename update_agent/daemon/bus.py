"""The agent on D-Bus: under its own name, and under update_engine's.

The agent works without a bus: whatever happens to it, this is told to the journal and tried again.
"""

import logging
from collections.abc import Callable
from typing import Final

from update_agent.api.node import BUS_NAME, COMPAT_BUS_NAME, NodeStatus
from update_agent.daemon.bus_access import Access
from update_agent.daemon.bus_agent import AgentObjects
from update_agent.daemon.bus_compat import CompatObject
from update_agent.daemon.ports import Commands, CompatStatus
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.errors import UpdateAgentError
from update_agent.host.dbus_link import BusLink, LinkEvents
from update_agent.host.polkit import TIMEOUT_SECS

_LOGGER: Final = logging.getLogger(__name__)


class BusService:
    """Both interfaces, kept up for as long as the program runs; listens to the agent once started.

    Attributes:
        on_back: called whenever a bus that was lost is there again.
    """

    def __init__(
        self, commands: Commands, *, address: str | None = None, polkit_timeout_secs: float = TIMEOUT_SECS
    ) -> None:
        self._commands = commands
        events = LinkEvents(up=self._up, lost=self._lost)
        self._compat_link = BusLink(COMPAT_BUS_NAME, address, events, takes_arguments=False)
        self._agent_link = BusLink(BUS_NAME, address, events)
        self._access = Access(lambda: self._agent_link.connection, polkit_timeout_secs=polkit_timeout_secs)
        self._compat = CompatObject(self._compat_link, commands)
        self._agent = AgentObjects(self._agent_link, commands, self._access)
        self._is_lost = False
        self.on_back: Callable[[], None] = lambda: None

    @property
    def unfreed_calls(self) -> int:
        """Answered calls whose memory was not given back yet; for a moment only."""
        return self._compat_link.unfreed_calls + self._agent_link.unfreed_calls

    def start(self) -> None:
        """Own both names, or begin to try again and again if there is no bus.

        Raises:
            ServiceError: bus, when a name is taken or the policy of the bus denies it.
        """
        try:
            self._compat_link.start()
            self._agent_link.start()
        except UpdateAgentError:
            self.stop()
            raise
        self._commands.listen(self)

    def stop(self) -> None:
        """Give the names back; answers and signals that are queued have been sent on return."""
        self._agent.stop()
        self._compat_link.stop()
        self._agent_link.stop()

    def status_changed(self, status: NodeStatus) -> None:
        """As `Listener` says."""
        self._compat.status_changed()
        self._agent.status_changed(status)

    def compat_signal(self, status: CompatStatus) -> None:
        """As `Listener` says."""
        self._compat.emit(status)

    def _lost(self, error: UpdateAgentError) -> None:
        self._access.forget()
        if not self._is_lost:
            self._is_lost = True
            log_event(
                _LOGGER,
                logging.WARNING,
                JournalEvent.BUS_LOST,
                "%s; going on without D-Bus until it is back",
                error.message,
            )

    def _up(self) -> None:
        if self._is_lost and self._compat_link.is_up and self._agent_link.is_up:
            self._is_lost = False
            log_event(_LOGGER, logging.INFO, JournalEvent.BUS_BACK, "D-Bus is there again")
            self.on_back()
