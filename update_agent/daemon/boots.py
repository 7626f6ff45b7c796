"""What the disk and the kept state say together about the last update, and changes of that by hand."""

import logging
from dataclasses import replace
from typing import Final

from update_agent.daemon.ledger import Ledger
from update_agent.daemon.node import Node
from update_agent.domain import activation, marking
from update_agent.domain.boot import Boot, has_just_fallen_back, note_boot
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.domain.machine import Release
from update_agent.domain.slots import SlotName
from update_agent.domain.state import AgentState, BadRelease, PendingUpdate
from update_agent.errors import UpdateAgentError

_LOG: Final = logging.getLogger(__name__)


class Boots:
    """Looks at the disk and keeps the state in step with it."""

    def __init__(self, *, node: Node, ledger: Ledger, boot_id: str) -> None:
        self._node, self._ledger, self._boot_id = node, ledger, boot_id

    def note(self, running_version: str, now: int) -> None:
        """Look anew, and note what the boot says about the last update."""
        self._node.look()
        booted = self._node.booted
        if booted is None:
            return
        before, waiting = self._ledger.state, self._node.waiting
        boot = Boot(
            boot_id=self._boot_id,
            booted=booted,
            is_proven=self._node.is_proven,
            next_boot=waiting.name if waiting else booted,
            at=now,
        )
        after = note_boot(before, boot)
        if has_just_fallen_back(before, after) and after.last_error is not None:
            log_event(_LOG, logging.ERROR, JournalEvent.UPDATE_FELL_BACK, "%s", after.last_error.message)
            self._give_up_waiting_slot()
        if after.trial is not None and before.trial is None:
            log_event(_LOG, logging.INFO, JournalEvent.UPDATE_BOOTED, "first boot of %s", after.trial.version)
        self._ledger.put(self._adopt(after, running_version, now))

    def _give_up_waiting_slot(self) -> None:
        """A boot loader that passed a waiting slot over must not take it at some later boot, when nobody expects it."""
        waiting = self._node.waiting
        if waiting is None or waiting.flags.successful:
            return
        try:
            with self._node.open(writable=True) as machine:
                activation.mark_bad(machine.disk, waiting)
        except UpdateAgentError as error:
            _LOG.warning("slot %s stays the one that boots next: %s", waiting.name, error.message)
        self._node.look()

    def _adopt(self, state: AgentState, running_version: str, now: int) -> AgentState:
        """A slot that waits without our knowing: installed by hand, or right before the daemon was killed."""
        waiting = self._node.waiting
        is_known = state.pending is not None and waiting is not None and state.pending.slot == waiting.name
        if waiting is None or is_known or self._node.is_unbootable:
            return state
        pending = PendingUpdate(
            version=self._node.record_of(waiting.name),
            size_bytes=state.unfinished_size_bytes if state.unfinished == self._node.record_of(waiting.name) else 0,
            slot=waiting.name,
            previous_version=running_version,
            boot_id=self._boot_id,
            at=now,
        )
        return replace(state, pending=pending, unfinished=None, unfinished_size_bytes=0)

    def waiting_release(self) -> Release | None:
        """The release that boots next when that is not the one that runs; as kept, where the disk cannot be read."""
        waiting, pending = self._node.waiting, self._ledger.state.pending
        if self._node.problem is not None:
            return Release(version=pending.version, size_bytes=pending.size_bytes) if pending else None
        if waiting is None:
            return None
        if pending is not None and pending.slot == waiting.name:
            return Release(version=pending.version, size_bytes=pending.size_bytes)
        if self._node.is_unbootable:
            # On trial: the other slot boots next because this one has no try left, and nobody waits for that.
            return None
        return Release(version=self._node.record_of(waiting.name))

    def take_back(self) -> None:
        """Let the slot that runs boot next.

        Raises:
            UpdateAgentError: as `Node.open` and `activation`.
        """
        with self._node.open(writable=True) as machine:
            slots = machine.slots
            running, following = marking.require_booted(slots, machine.booted), slots.next_boot()
            if following is None or following.name is running.name:
                return
            activation.activate(machine.disk, running)
            if not following.flags.successful:
                # Nobody wants a release that was given up to be tried when the running one is out of tries.
                activation.mark_bad(machine.disk, following)

    def roll_back(self, running_version: str, now: int) -> SlotName:
        """Let the other slot boot next, and remember that a person did not want what runs.

        Raises:
            UpdateAgentError: as `Node.open` and `marking.roll_back`.
        """
        with self._node.open(writable=True) as machine:
            slot = marking.roll_back(machine.disk, machine.records, machine.booted)
        pending = PendingUpdate(
            version=self._node.record_of(slot.name),
            size_bytes=0,
            slot=slot.name,
            previous_version=running_version,
            boot_id=self._boot_id,
            at=now,
        )
        state = replace(self._ledger.state, pending=pending, trial=None)
        if running_version:
            state = state.with_bad(BadRelease(version=running_version, reason="a person rolled back from it", at=now))
        self._ledger.put(state)
        return slot.name
