"""One update, from the question to the report.

    1. The server is asked, and hears how the last boot went; the body of its answer is kept for the post-install of
       releases. *Checked*. If it has no update: *NothingNew*.
    2. What is known about this very response is taken up, or forgotten if it is another one. *BackoffChanged*
    3. The offer is judged (`offer`). Not taken: the server is told why (codes 35 and 40) unless the node runs just
       that, *NothingNew*.
    4. *Offered*. A mere check ends here.
    5. The disk and the keys are opened. The server is told that the download begins (13/1).
    6. The release is installed (`install`). *TargetTaken*, *Advanced*. When its payload is downloaded and verified, the
       server is told (14/1) and the attempt counts: another download of the same payload would have to wait.
       *BackoffChanged*
    7. The server is told that the release boots next (3/1). *Installed*

An error while installing counts against the URL in use (*BackoffChanged*). An error in any step is told to the daemon
(*Failed*), then to the server (3/0), *Reported*. A payload that a person brings begins with step 4, and no server hears
of it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path

from update_agent.domain.attempt import Workplace
from update_agent.domain.backoff import BackoffRules
from update_agent.domain.counting import Download, DownloadCounter
from update_agent.domain.ending import Ending
from update_agent.domain.install import InstallReport, InstallRequest, install
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
from update_agent.domain.offer import OfferPolicy
from update_agent.domain.progress import Phase, Progress
from update_agent.domain.reader import Expectation
from update_agent.domain.session import SilentSession, UpdateSession
from update_agent.domain.slots import Slot
from update_agent.domain.state import Backoff
from update_agent.errors import InterruptedByUserError, Kind, RefusedError, UpdateAgentError
from update_agent.formats.manifest import PartName
from update_agent.formats.omaha import NoUpdate, Update
from update_agent.net.failures import HttpStatusError
from update_agent.net.source import PayloadSource


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateTools:
    """What the story uses of the world.

    Attributes:
        tell: takes messages for the daemon, one at a time, from any thread.
        open_workplace: the disk and what belongs to it, nobody else's while it is open.
        make_request: what to install, with the keys.
        open_download: the payload of a response, at its URLs in the order given.
        check_code: update_engine's number for an error of a check.
        update_code: likewise, of an update.
        now: unix seconds.
        random: from 0 to 1.
    """

    tell: Callable[[Message], None]
    open_workplace: Callable[[], AbstractContextManager[Workplace]]
    make_request: Callable[[PayloadSource, Expectation], InstallRequest]
    open_download: Callable[[Update, tuple[str, ...]], Download]
    check_code: Callable[[UpdateAgentError], int]
    update_code: Callable[[UpdateAgentError], int]
    now: Callable[[], float]
    random: Callable[[], float]


class UpdateStory:
    """A check, an update, or the install of a payload: one of them, once. Errors are told and not raised."""

    def __init__(
        self, tools: UpdateTools, *, policy: OfferPolicy, backoff: Backoff, is_test_image: bool = False
    ) -> None:
        self._tools = tools
        self._policy = policy
        self._backoff = backoff
        self._is_test_image = is_test_image
        self._ending = Ending(tools.tell)
        self._session: UpdateSession | SilentSession = SilentSession()
        self._was_resumed = False
        self._unreported_code: int | None = None

    def check(self, open_session: Callable[[], UpdateSession]) -> None:
        """Steps 1 to 4."""
        self._decide(open_session)

    def update(self, open_session: Callable[[], UpdateSession]) -> None:
        """All steps."""
        rules = self._decide(open_session)
        if rules is not None:
            self._bring(lambda: self._download(rules), size_bytes=rules.update.size_bytes)

    def install_payload(self, open_payload: Callable[[], PayloadSource]) -> None:
        """Steps 4 to 7."""
        self._bring(lambda: self._take(open_payload), size_bytes=0)

    def abandon(self) -> bool:
        """Tell the end now, from another thread because this one does not move; False if it must be waited for."""
        error = InterruptedByUserError(Kind.INTERRUPTED, "update: stopped on request")
        code = self._tools.update_code(error)
        failure = _failed(error, self._session.flagged(code, was_resumed=self._was_resumed))
        last = self._ending.abandon(failure)
        if last is failure:
            self._unreported_code = code
        return last is not None

    def report_abandoned(self, open_session: Callable[[], UpdateSession | SilentSession]) -> bool:
        """Tell the server, if it was `abandon` that told the end; the session is for this thread alone."""
        code, self._unreported_code = self._unreported_code, None
        if code is None:
            return False
        was_delivered = open_session().report_failed(code, was_resumed=self._was_resumed)
        self._ending.tell(Reported(was_delivered=was_delivered))
        return True

    def _decide(self, open_session: Callable[[], UpdateSession]) -> BackoffRules | None:
        try:
            self._session = session = open_session()
            answer = session.check()  # step 1
        except UpdateAgentError as error:
            self._fail(error, self._tools.check_code(error))
            return None
        self._ending.tell(Checked(poll_interval_secs=answer.poll_interval_secs or 0))
        if isinstance(answer, NoUpdate):
            self._ending.tell(NothingNew())
            return None
        rules = BackoffRules(update=answer, is_test_image=self._is_test_image)
        self._keep(rules.begin(self._backoff, now=self._now()))  # step 2
        try:
            return rules if self._judge(rules) else None
        except UpdateAgentError as error:
            self._fail(error, self._tools.update_code(error))
            return None

    def _judge(self, rules: BackoffRules) -> bool:
        version, size_bytes = rules.update.version, rules.update.size_bytes
        if self._policy.is_waiting(version):
            self._ending.tell(NothingNew(version=str(version)))
            return False
        try:
            self._policy.check(rules, self._backoff, now=self._now())  # step 3
        except RefusedError as error:
            self._ending.tell(
                NothingNew(
                    kind=error.kind,
                    message=error.message,
                    hint=error.hint or "",
                    version=str(version),
                    omaha_code=self._report_refused(error),
                )
            )
            return False
        self._ending.tell(Offered(version=str(version), size_bytes=size_bytes))  # step 4
        return True

    def _report_refused(self, error: RefusedError) -> int:
        """Tell the server; not that the node runs what it is offered, which many servers do with every answer."""
        if error.kind is Kind.SAME_VERSION:
            return 0
        code = self._tools.update_code(error)
        self._session.report_failed(code, was_resumed=False)
        return self._session.flagged(code, was_resumed=False)

    def _take(self, open_payload: Callable[[], PayloadSource]) -> InstallReport:
        with closing(open_payload()) as source:
            self._ending.tell(Offered(version="", size_bytes=source.size_bytes or 0))  # step 4
            return self._install(source, Expectation(), None)

    def _download(self, rules: BackoffRules) -> InstallReport:
        update = rules.update
        expectation = Expectation(sha256=update.sha256, size_bytes=update.size_bytes, version=str(update.version))
        with closing(self._tools.open_download(update, rules.urls(self._backoff))) as source:
            counting = DownloadCounter(
                rules, source, backoff=self._backoff, keep=self._keep, now=self._now, random=self._tools.random
            )
            return self._install(source, expectation, counting)

    def _install(
        self, source: PayloadSource, expectation: Expectation, counting: DownloadCounter | None
    ) -> InstallReport:
        with self._tools.open_workplace() as workplace:  # step 5
            request = self._tools.make_request(source, expectation)
            begun = workplace.checkpoints.load()
            self._was_resumed = begun is not None and begun.version == expectation.version
            self._session.report_started()
            try:
                return install(request, self._watched(workplace, counting))  # step 6
            except UpdateAgentError as error:
                # That a person stopped it is nobody's fault.
                if counting is not None and error.kind is not Kind.INTERRUPTED:
                    counting.failed(self._tools.update_code(error))
                raise

    def _watched(self, workplace: Workplace, counting: DownloadCounter | None) -> Workplace:
        is_verified = False

        def progress(point: Progress) -> None:
            nonlocal is_verified
            if point.phase is Phase.VERIFYING and not is_verified:
                is_verified = True
                self._session.report_finished()
                if counting is not None:
                    counting.finished()
            self._ending.tell(Advanced(phase=point.phase, done_bytes=point.done_bytes, total_bytes=point.total_bytes))

        def post_install(slot: Slot, files: Mapping[PartName, Path]) -> None:
            workplace.post_install(slot, files)
            workplace.cancel.raise_if_cancelled()
            self._ending.commit()

        return replace(
            workplace,
            progress=progress,
            target_taken=lambda: self._ending.tell(TargetTaken()),
            post_install=post_install,
        )

    def _bring(self, install_it: Callable[[], InstallReport], *, size_bytes: int) -> None:
        try:
            report = install_it()
        except UpdateAgentError as error:
            self._fail(error, self._tools.update_code(error))
            return
        result = Installed(
            slot=report.slot,
            version=report.version or "",
            previous_version=report.previous_version or "",
            size_bytes=report.payload_bytes or size_bytes,
            key=report.key or "",
            resumed_at_bytes=report.resumed_at_bytes,
        )
        self._ending.settle(result)
        self._session.report_installed()  # step 7
        self._ending.tell(result)

    def _fail(self, error: UpdateAgentError, code: int) -> None:
        was_resumed = self._was_resumed
        self._ending.tell(_failed(error, self._session.flagged(code, was_resumed=was_resumed)))
        self._ending.tell(Reported(was_delivered=self._session.report_failed(code, was_resumed=was_resumed)))

    def _keep(self, backoff: Backoff) -> None:
        if backoff != self._backoff:
            self._backoff = backoff
            self._ending.tell(BackoffChanged(backoff=backoff))

    def _now(self) -> int:
        return int(self._tools.now())


def _failed(error: UpdateAgentError, code: int) -> Failed:
    return Failed(
        kind=error.kind,
        message=error.message,
        hint=error.hint or "",
        omaha_code=code,
        http_status=error.status if isinstance(error, HttpStatusError) else 0,
    )
