"""The kept state, saved with every change; a disk that is full costs a warning and not the daemon."""

import logging
from dataclasses import replace
from typing import Any, Final

from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.domain.state import AgentState, StateStore
from update_agent.errors import DeviceError

_LOG: Final = logging.getLogger(__name__)


class Ledger:
    """The state in memory and in its file."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._unsaved: str = ""
        self._state, damage = store.load()
        self._damage = ""
        if damage is not None:
            self._damage = damage.message
            log_event(_LOG, logging.ERROR, JournalEvent.STATE_DAMAGED, "%s", damage.message)

    @property
    def state(self) -> AgentState:
        """As last changed."""
        return self._state

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about the file."""
        return tuple(text for text in (self._damage, self._unsaved) if text)

    def change(self, **fields: Any) -> None:
        """Replace some fields and save."""
        self.put(replace(self._state, **fields))

    def put(self, state: AgentState) -> None:
        """Replace the state and save, if it differs or could not be saved before."""
        if state == self._state and not self._unsaved:
            return
        self._state = state
        try:
            self._store.save(state)
        except DeviceError as error:
            if not self._unsaved:
                log_event(_LOG, logging.ERROR, JournalEvent.STATE_NOT_SAVED, "%s", error.message)
            self._unsaved = error.message
        else:
            self._unsaved = ""
