"""The agent: what is done when, and what callers may ask for.

Everything happens in one thread and nothing in here waits: downloads are a child process's (`run`), timers are the
loop's, and a disk is opened for the moment that a few sectors take.
"""

import logging
from collections.abc import Callable
from typing import Final

from update_agent.api.node import NodeStatus
from update_agent.config.load import Configuration
from update_agent.daemon.assignment import Facts, make_job
from update_agent.daemon.boots import Boots
from update_agent.daemon.compat import Cadence, compat_status
from update_agent.daemon.job import JobKind
from update_agent.daemon.ledger import Ledger
from update_agent.daemon.listeners import Listeners
from update_agent.daemon.node import Node
from update_agent.daemon.ports import CompatStatus, InstallOptions, Listener, Loop
from update_agent.daemon.run import Run, RunEnd
from update_agent.daemon.timetable import Timetable
from update_agent.daemon.view import Health, Parts, node_status
from update_agent.daemon.workers import Workers
from update_agent.domain import marking
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.domain.machine import Machine, Release, Snapshot, State
from update_agent.domain.marking import Mark
from update_agent.domain.rate import RateMeter
from update_agent.domain.slots import SlotName
from update_agent.domain.state import LastError
from update_agent.errors import ConfigurationError, Kind, RefusedError, UpdateAgentError
from update_agent.formats.omaha_request import InstallSource

_LOG: Final = logging.getLogger(__name__)

DISABLED: Final = "disabled"
_UNPROVEN_RETRY_SECS: Final = 60


class Agent:
    """See `update_agent.daemon.ports.Commands` for what callers see.

    Attributes:
        on_reload: called with the new configuration whenever it was read again.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        node: Node,
        ledger: Ledger,
        workers: Workers,
        configure: Callable[[], Configuration],
        read_health: Callable[[], Health],
        facts: Facts,
        random: Callable[[], float],
    ) -> None:
        """Wire; nothing happens before `start`.

        Args:
            loop: when things happen.
            node: the disk.
            ledger: what is kept.
            workers: starts child processes.
            configure: reads the configuration; never raises for what is in the files.
            read_health: what was found about this boot.
            facts: about the machine.
            random: 0 to 1.
        """
        self._loop, self._node, self._ledger, self._workers = loop, node, ledger, workers
        self._configure, self._read_health, self._facts = configure, read_health, facts
        self._configuration = configure()
        self._health = Health()
        self._boots = Boots(node=node, ledger=ledger, boot_id=facts.boot_id)
        self._timetable = Timetable(loop, random, self._on_timer)
        self._rate = RateMeter()
        self._run: Run | None = None
        self._found: Release | None = None
        self._listeners = Listeners()
        self._machine = Machine(Snapshot(), self._on_change)
        self._cadence = Cadence(self._machine.snapshot)
        self._status = NodeStatus(state=State.IDLE)
        self._is_stopping = False
        self._wants_reset = False
        self.on_reload: Callable[[Configuration], None] = lambda _: None

    # --- life

    def start(self) -> None:
        """Look at the machine, take up what an earlier process left, and plan the first check."""
        self._tell_problems()
        self._health = self._read_health()
        self._node.look()
        self._boots.note(self.running_version, self._now())
        state, waiting = self._ledger.state, self._boots.waiting_release()
        snapshot = Snapshot(state=State.UPDATED_NEED_REBOOT if waiting else State.IDLE, pending=waiting)
        self._machine = Machine(snapshot, self._on_change)
        if state.unfinished is not None:
            self._found = Release(version=state.unfinished, size_bytes=state.unfinished_size_bytes)
        self._cadence = Cadence(snapshot)
        self._plan_first()
        self._publish()
        self._tell_compat()

    def stop(self, when_done: Callable[[], None]) -> None:
        """End the child process, if there is one, then call back; what was begun goes on after the next start."""
        self._is_stopping = True
        self._timetable.cancel()
        if self._run is None:
            when_done()
            return
        self._run.when_ended(when_done)
        self._run.cancel(by_person=False)

    def refresh(self) -> None:
        """Something on the machine may have changed: the health of this boot, the flags of a slot."""
        self._health = self._read_health()
        self._boots.note(self.running_version, self._now())
        if self._machine.snapshot.state.is_resting:
            self._sync_pending()
        self._publish()

    # --- commands

    def status(self) -> NodeStatus:
        """As last told to the listeners."""
        return self._status

    def compat_status(self) -> CompatStatus:
        """What GetStatus of update_engine's interface answers."""
        return compat_status(self._machine.snapshot, self._ledger.state.last_success_at)

    def listen(self, listener: Listener) -> None:
        """Tell the listener from now on."""
        self._listeners.add(listener)

    def check(self) -> None:
        """Ask the server and install nothing."""
        self._begin(JobKind.CHECK, InstallSource.ON_DEMAND, InstallOptions())

    def install(self, options: InstallOptions) -> None:
        """Begin an update that a person asked for."""
        self._begin(JobKind.UPDATE, InstallSource.ON_DEMAND, options)

    def attempt_update(self) -> None:
        """As update_engine: an interactive update, silently nothing unless idle; it may fail, the call does not."""
        if self._machine.snapshot.state is not State.IDLE:
            return
        try:
            self._begin(JobKind.UPDATE, InstallSource.ON_DEMAND, InstallOptions())
        except ConfigurationError as error:
            self._machine.start_check()
            self._note_check_failure(error)
            self._machine.fail()
            self._machine.finish_report()

    def cancel(self) -> bool:
        """Stop what is under way."""
        if self._run is None:
            return False
        self._run.cancel(by_person=True)
        return True

    def reset(self) -> None:
        """Give a pending update up, boot flags and all; a check that goes on meanwhile is given up, too."""
        if self._run is not None and self._machine.snapshot.pending is not None:
            # Whoever looks sees an update that waits for its reboot, so this is no wrong moment.
            self._wants_reset = True
            self._run.cancel(by_person=False)
            return
        self._require_rest("reset")
        self._reset()

    def _reset(self) -> None:
        pending = self._ledger.state.pending
        if self._boots.waiting_release() is not None:
            self._boots.take_back()
        self._ledger.change(pending=None, last_error=None, unfinished=None, unfinished_size_bytes=0)
        self._machine.reset()
        self._after_change()
        if pending is not None:
            log_event(_LOG, logging.INFO, JournalEvent.UPDATE_RESET, "update to %s given up", pending.version)

    def rollback(self) -> None:
        """Let the other slot boot next; the release that runs is not installed again by itself."""
        self._require_rest("rollback")
        slot = self._boots.roll_back(self.running_version, self._now())
        log_event(_LOG, logging.INFO, JournalEvent.SLOT_MARKED, "rolled back: slot %s boots next", slot)
        self._after_change()

    def mark_slot(self, slot: SlotName | None, mark: str) -> None:
        """Change a slot's flags by hand."""
        self._require_rest("mark-slot")
        try:
            wanted = Mark(mark)
        except ValueError:
            words = ", ".join(Mark)
            raise ConfigurationError(Kind.USAGE, f"mark: expected one of {words}, got {mark!r}") from None
        with self._node.open(writable=True) as machine:
            chosen = marking.mark(machine.disk, machine.records, machine.booted, wanted, slot)
        log_event(_LOG, logging.INFO, JournalEvent.SLOT_MARKED, "slot %s marked %s", chosen.name, wanted)
        self._after_change()

    def reload(self) -> None:
        """Read the configuration again; what is under way keeps the old one."""
        plan = self._is_automatic, self._configuration.settings.check
        self._configuration = self._configure()
        log_event(_LOG, logging.INFO, JournalEvent.CONFIGURATION_RELOADED, "configuration read again")
        self._tell_problems()
        if plan != (self._is_automatic, self._configuration.settings.check):
            # Only then: whoever reloads often would put the next check off for ever.
            self._timetable.cancel()
            if self._run is None:
                self._plan_next(RunEnd())
        self.on_reload(self._configuration)
        self._publish()

    # --- one run after the other

    def _on_timer(self) -> None:
        settings = self._configuration.settings
        if self._node.is_on_trial and self._health.verdict == "waiting":
            # An install would have to take the only slot that is known to boot.
            self._timetable.plan_in(_UNPROVEN_RETRY_SECS)
            self._publish()
            return
        is_unfinished = self._ledger.state.unfinished is not None
        kind = JobKind.UPDATE if settings.install.automatic or is_unfinished else JobKind.CHECK
        # An update that was interrupted after its download was counted need not wait for a back-off to finish.
        options = InstallOptions(ignore_backoff=is_unfinished)
        try:
            self._begin(kind, InstallSource.SCHEDULER, options)
        except UpdateAgentError as error:
            self._note_check_failure(error)
            self._plan_next(RunEnd())
            self._publish()

    def _begin(self, kind: JobKind, source: InstallSource, options: InstallOptions) -> None:
        self._require_rest(kind)
        if self._configuration.settings.server.url == DISABLED and not options.payload:
            raise ConfigurationError(
                Kind.CONFIGURATION,
                "update server: updates are disabled by configuration",
                hint="see `update-agent config cat` for server.url; a payload at hand can be installed all the same",
            )
        self._look_anew()
        job = make_job(
            kind,
            source,
            options,
            node=self._node,
            state=self._ledger.state,
            pending=self._machine.snapshot.pending,
            configuration=self._configuration,
            facts=self._facts,
            running_version=self.running_version,
        )
        if kind is JobKind.CHECK and source is InstallSource.ON_DEMAND:
            # It installs nothing, so it is not in place of the one that does.
            self._timetable.suspend()
        else:
            self._timetable.cancel()
        self._ledger.change(last_check_at=self._now())
        self._found = None
        self._machine.start_check()
        self._run = Run(
            job=job,
            machine=self._machine,
            ledger=self._ledger,
            boot_id=self._facts.boot_id,
            now=self._now,
            disk_changed=self._node.look,
            found=self._on_found,
        )
        self._run.start(self._workers, self._on_end)

    def _note_check_failure(self, error: UpdateAgentError) -> None:
        log_event(_LOG, logging.ERROR, JournalEvent.CHECK_FAILED, "%s", error.message, KIND=error.kind)
        self._ledger.change(last_error=LastError.of(error, at=self._now(), omaha_code=0))

    def _on_found(self, release: Release) -> None:
        self._found = release

    def _on_end(self, end: RunEnd) -> None:
        self._run = None
        self._rate.reset()
        # The child may have died right after it made the slot boot next: what is not noted cannot be seen to fall back.
        self._look_anew()
        if not self._is_stopping:
            self._plan_next(end)
        if self._wants_reset:
            self._wants_reset = False
            self._reset_late()
        self._publish()

    def _reset_late(self) -> None:
        try:
            self._reset()
        except UpdateAgentError as error:  # whoever asked has gone
            _LOG.error("reset: %s", error.message)
            self._ledger.change(last_error=LastError.of(error, at=self._now(), omaha_code=0))

    # --- what is known

    @property
    def running_version(self) -> str:
        """Release of the slot that runs, or empty."""
        return self._configuration.settings.server.running_version or self._node.record_of(self._node.booted)

    def _sync_pending(self) -> None:
        """The flags say what boots next; the machine follows, also when a person changed them behind our back."""
        waiting, snapshot = self._boots.waiting_release(), self._machine.snapshot
        if waiting is None and snapshot.pending is not None:
            self._machine.reset()
        elif waiting is not None and snapshot.pending != waiting:
            self._machine.await_reboot(waiting)

    def _require_rest(self, what: str) -> None:
        state = self._machine.snapshot.state
        if not state.is_resting or self._run is not None:
            raise RefusedError(
                Kind.WRONG_STATE,
                f"{what}: expected nothing to be under way, got {state}",
                hint="wait until it has ended (update-agent watch), or stop it (update-agent cancel)",
            )

    def _now(self) -> int:
        return int(self._loop.unix_now())

    @property
    def _is_automatic(self) -> bool:
        settings = self._configuration.settings
        if settings.server.url == DISABLED:
            return False
        # What somebody began goes on by itself, also where nothing begins by itself.
        is_wanted = settings.check.automatic and not self._facts.is_test_image
        return is_wanted or self._ledger.state.unfinished is not None

    def _plan_first(self) -> None:
        if self._is_automatic:
            is_unfinished = self._ledger.state.unfinished is not None
            self._timetable.plan_first(self._configuration.settings.check, is_unfinished=is_unfinished)

    def _plan_next(self, end: RunEnd) -> None:
        if not self._is_automatic:
            self._timetable.cancel()
            return
        if not end.http_status and self._timetable.resume():
            return
        interval = self._timetable.plan_next(
            self._configuration.settings.check,
            last_interval_secs=self._ledger.state.check_interval_secs,
            poll_interval_secs=end.poll_interval_secs,
            http_status=end.http_status,
        )
        self._ledger.change(check_interval_secs=interval)

    # --- telling

    def _tell_problems(self) -> None:
        for warning in self._configuration.warnings:
            log_event(_LOG, logging.WARNING, JournalEvent.CONFIGURATION_PROBLEM, "%s", warning)

    def _after_change(self) -> None:
        self._look_anew()
        self._publish()

    def _look_anew(self) -> None:
        self._boots.note(self.running_version, self._now())
        self._sync_pending()

    def _on_change(self, snapshot: Snapshot) -> None:
        if snapshot.progress is not None:
            self._rate.add(self._loop.monotonic(), snapshot.progress.done_bytes)
        else:
            self._rate.reset()
        self._publish()
        if self._cadence.wants(snapshot, self._loop.monotonic()):
            self._tell_compat()

    def _tell_compat(self) -> None:
        if self._is_stopping:
            return
        self._listeners.compat_signal(self.compat_status())

    def _publish(self) -> None:
        if self._is_stopping:
            # An update that goes on after the next start has not ended: whoever follows it hears of the rest then.
            return
        problem = (self._node.problem.message,) if self._node.problem else ()
        self._status = node_status(
            Parts(
                node=self._node,
                snapshot=self._machine.snapshot,
                state=self._ledger.state,
                settings=self._configuration.settings,
                health=self._health,
                running_version=self.running_version,
                found=self._found,
                next_check_at=self._timetable.next_at,
                rate_bytes_per_sec=self._rate.bytes_per_sec,
                warnings=(*problem, *self._ledger.warnings, *self._configuration.warnings),
            )
        )
        self._listeners.status_changed(self._status)
