"""One check or update: what the child process says becomes transitions of the machine and changes of the kept state."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from update_agent.daemon.job import Job, JobKind
from update_agent.daemon.ledger import Ledger
from update_agent.daemon.workers import Worker, WorkerExit, Workers
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.domain.machine import INSTALLING, Machine, Release, State
from update_agent.domain.messages import (
    Advanced,
    BackoffChanged,
    Checked,
    Failed,
    Installed,
    Message,
    NothingNew,
    Offered,
    Reported,
    TargetTaken,
)
from update_agent.domain.progress import Phase, Progress
from update_agent.domain.state import LastError, PendingUpdate
from update_agent.errors import Kind, RefusedError, ServiceError, UpdateAgentError

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """What matters for the next check.

    Attributes:
        poll_interval_secs: what the server wants, 0 if it did not say.
        http_status: of a failed check, 0 if it did not fail by its status.
    """

    poll_interval_secs: int = 0
    http_status: int = 0


class Run:
    """Owns the child process from its start to its end."""

    def __init__(
        self,
        *,
        job: Job,
        machine: Machine,
        ledger: Ledger,
        boot_id: str,
        now: Callable[[], int],
        disk_changed: Callable[[], None],
        found: Callable[[Release], None],
    ) -> None:
        self._job, self._machine, self._ledger = job, machine, ledger
        self._boot_id, self._now = boot_id, now
        self._disk_changed, self._found = disk_changed, found
        self._worker: Worker | None = None
        self._end = RunEnd()
        self._closing: Callable[[], None] | None = None
        self._ended: list[Callable[[], None]] = []
        self._is_stopping = False

    def start(self, workers: Workers, on_end: Callable[[RunEnd], None]) -> None:
        """Start the child; `on_end` is called when it has ended and the machine rests."""

        def ended(exit_: WorkerExit) -> None:
            self._close(exit_)
            on_end(self._end)
            for callback in self._ended:
                callback()

        try:
            self._worker = workers.start(self._job, on_message=self._take, on_exit=ended)
        except UpdateAgentError as error:
            self._fail(error)
            ended(WorkerExit(status=0, was_signal=False))

    def cancel(self, *, by_person: bool) -> None:
        """Ask the child to end."""
        self._is_stopping = self._is_stopping or not by_person
        if self._worker is not None:
            self._worker.cancel(by_person=by_person)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call once the child has ended."""
        self._ended.append(callback)

    def _expect(self, *states: State) -> None:
        state = self._machine.snapshot.state
        if state not in states:
            raise RefusedError(Kind.WRONG_STATE, f"expected it in {' or '.join(sorted(states))}, got it in {state}")

    def _take(self, message: Message) -> None:
        try:
            if self._closing is not None:
                raise RefusedError(Kind.WRONG_STATE, "expected its end, as it has said how it ended")
            self._handle(message)
        except RefusedError as error:
            # The child says what cannot be; its exit decides what becomes of it.
            _LOG.error("child process: %s: %s", type(message).__name__, error.message)

    def _handle(self, message: Message) -> None:
        match message:
            case Checked():
                self._checked(message)
            case NothingNew():
                self._nothing_new(message)
            case Offered():
                self._offered(message)
            case TargetTaken():
                self._ledger.change(pending=None)
                self._disk_changed()
                self._machine.take_target()
            case Advanced():
                self._machine.advance(
                    Progress(phase=Phase(message.phase), done_bytes=message.done_bytes, total_bytes=message.total_bytes)
                )
            case BackoffChanged():
                self._ledger.change(backoff=message.backoff)
            case Failed():
                self._failed(message)
            case Installed():
                self._installed(message)
            case Reported():
                self._expect(State.REPORTING_ERROR_EVENT)
                self._closing = self._machine.finish_report

    def _checked(self, message: Checked) -> None:
        state = self._ledger.state
        self._end = replace(self._end, poll_interval_secs=message.poll_interval_secs)
        self._ledger.change(
            last_success_at=self._now(),
            aleph_version=state.aleph_version or self._job.app.version,
            # The server has heard how the last boot went.
            previous_version="",
            has_fallen_back=False,
        )

    def _nothing_new(self, message: NothingNew) -> None:
        self._expect(State.CHECKING_FOR_UPDATE)
        error = None
        if message.kind and message.kind != Kind.SAME_VERSION:
            log_event(
                _LOG, logging.WARNING, JournalEvent.UPDATE_NOT_TAKEN, "%s", message.message, VERSION=message.version
            )
            error = LastError(
                kind=message.kind,
                message=message.message,
                hint=message.hint,
                at=self._now(),
                omaha_code=message.omaha_code,
            )
        self._ledger.change(last_error=error, unfinished=None, unfinished_size_bytes=0)
        self._closing = self._machine.find_nothing

    def _offered(self, message: Offered) -> None:
        self._expect(State.CHECKING_FOR_UPDATE)
        release = Release(version=message.version, size_bytes=message.size_bytes)
        if self._job.kind is JobKind.CHECK:
            self._ledger.change(last_error=None)
            self._found(release)
            self._closing = self._machine.find_nothing
            return
        log_event(
            _LOG,
            logging.INFO,
            JournalEvent.UPDATE_OFFERED,
            "installing %s, %d bytes",
            release.version or "a payload",
            release.size_bytes,
            VERSION=release.version,
        )
        # A payload that somebody brought is not asked for again: nobody knows whether it is still there.
        unfinished = None if self._job.options.payload else release.version
        self._ledger.change(unfinished=unfinished, unfinished_size_bytes=release.size_bytes if unfinished else 0)
        self._machine.find_update(release)

    def _installed(self, message: Installed) -> None:
        self._expect(*INSTALLING)
        pending = PendingUpdate(
            version=message.version,
            size_bytes=message.size_bytes,
            slot=message.slot,
            previous_version=message.previous_version or self._job.app.version,
            boot_id=self._boot_id,
            at=self._now(),
        )
        self._ledger.change(pending=pending, unfinished=None, unfinished_size_bytes=0, last_error=None)
        log_event(
            _LOG,
            logging.INFO,
            JournalEvent.UPDATE_INSTALLED,
            "%s is in slot %s and boots next",
            message.version or "the release",
            message.slot,
            VERSION=message.version,
            SLOT=message.slot,
        )
        self._disk_changed()
        release = Release(version=message.version, size_bytes=message.size_bytes)
        self._closing = lambda: self._machine.finish(release)

    def _failed(self, message: Failed) -> None:
        self._expect(State.CHECKING_FOR_UPDATE, *INSTALLING)
        self._end = replace(self._end, http_status=message.http_status)
        if self._is_stopping:
            return
        error = LastError(
            kind=message.kind, message=message.message, hint=message.hint, at=self._now(), omaha_code=message.omaha_code
        )
        self._note_failure(error)
        self._machine.fail()

    def _fail(self, error: UpdateAgentError) -> None:
        self._note_failure(LastError.of(error, at=self._now(), omaha_code=0))
        self._machine.fail()

    def _note_failure(self, error: LastError) -> None:
        event, level = JournalEvent.UPDATE_FAILED, logging.ERROR
        if self._machine.snapshot.state is State.CHECKING_FOR_UPDATE:
            event, level = JournalEvent.CHECK_FAILED, logging.WARNING
        if error.kind == Kind.INTERRUPTED:
            event, level = JournalEvent.UPDATE_CANCELLED, logging.INFO
        if error.kind == Kind.WORKER_DIED:
            event = JournalEvent.WORKER_DIED
        hint = f" ({error.hint})" if error.hint else ""
        log_event(_LOG, level, event, "%s%s", error.message, hint, KIND=error.kind)
        self._ledger.change(last_error=error)
        if self._machine.snapshot.state is not State.CHECKING_FOR_UPDATE or error.kind == Kind.INTERRUPTED:
            # A check that fails, of a node whose network is not up yet, say, is not the end of what was begun before.
            self._ledger.change(unfinished=None, unfinished_size_bytes=0)

    def _close(self, exit_: WorkerExit) -> None:
        """Bring the machine to rest, whatever the child said or did not say; not before it has ended.

        Else somebody who acts on what he sees would be refused because the child is still there.
        """
        if self._closing is not None:
            self._closing()
            return
        state = self._machine.snapshot.state
        if not self._is_stopping and not state.is_resting and state is not State.REPORTING_ERROR_EVENT:
            how = f"signal {exit_.status}" if exit_.was_signal else f"exit status {exit_.status}"
            said = f"; it said {exit_.problem}" if exit_.problem else ""
            self._fail(
                ServiceError(
                    Kind.WORKER_DIED,
                    f"child process: expected it to finish, got {how}{said}",
                    hint="nothing is lost, the next attempt goes on; out of memory? see journalctl -k",
                )
            )
        if self._machine.snapshot.state is State.REPORTING_ERROR_EVENT:
            self._machine.finish_report()
        elif not self._machine.snapshot.state.is_resting:
            self._machine.abandon()
