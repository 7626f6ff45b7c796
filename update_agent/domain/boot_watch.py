"""Watches one boot until it is good, or given up.

A boot is good when the system is up (`boot-complete.target`) and every check holds, for a settle time without a failing
round; then the running slot is marked successful. When the deadline passes before that, a slot that never proved itself
is given up and the machine reboots into the other one, if that can boot. A slot that has booted well before is never
left this way: whatever is wrong now, its release is not the reason, and two slots could otherwise reboot for ever.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from update_agent.domain.health import (
    Check,
    Clock,
    HealthMode,
    HealthRecord,
    HealthRules,
    System,
    Trial,
    TrialSlots,
    Verdict,
    reason_to_stay,
)
from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.errors import UpdateAgentError

_LOG: Final = logging.getLogger(__name__)
_PROBLEMS_SHOWN_MAX: Final = 5
_CHECK_SECS_MIN: Final = 0.1  # even at the deadline a check gets the time to be started


class BootWatch:
    """Looks at one boot until it is good, or given up."""

    def __init__(
        self,
        rules: HealthRules,
        *,
        boot_id: str,
        clock: Clock,
        system: System,
        slots: TrialSlots,
        reboot: Callable[[], None],
        publish: Callable[[HealthRecord], None],
        previous: HealthRecord | None = None,
    ) -> None:
        """Watch the boot `boot_id`.

        Args:
            rules: when it is good.
            boot_id: of the kernel.
            clock: the time.
            system: what is looked at.
            slots: the disk.
            reboot: returns when the machine is about to go down; raises `ServiceError`.
            publish: is told each change; raises `DeviceError` when it could not be kept.
            previous: what was published last, perhaps of another boot.
        """
        self._rules = rules
        self._boot_id = boot_id
        self._clock = clock
        self._system = system
        self._slots = slots
        self._reboot = reboot
        self._publish = publish
        self._previous = previous if previous is not None and previous.boot_id == boot_id else None
        now = clock.uptime()
        self._started = self._previous.started_uptime_secs if self._previous else now
        self._deadline = rules.deadline(self._started)
        self._holds_since = now if rules.mode is HealthMode.TIMER else None
        self._settle_secs = rules.timer_secs if rules.mode is HealthMode.TIMER else rules.settle_secs
        self._told: tuple[Verdict, str] | None = None

    def run(self) -> Verdict:
        """Come back when the boot is good, when nobody asks, or when it is bad and nothing is left to try."""
        if self._previous is not None and self._previous.verdict is Verdict.GOOD:
            return Verdict.GOOD
        if self._rules.mode is HealthMode.OFF:
            self._tell(Verdict.OFF, "health checks are off; something else marks the slot good")
            return Verdict.OFF
        while (verdict := self._round()) is None:
            self._clock.sleep(self._pause())
        return verdict

    def _round(self) -> Verdict | None:
        if self._rules.mode is HealthMode.TIMER:
            return self._hold("the system has run")
        waiting_for = self._system.why_not_up()
        if waiting_for is not None:
            return self._miss(waiting_for, logging.INFO)
        checks = self._system.checks()
        problems = self._run_checks(checks)
        if problems:
            return self._miss(_sentence(problems), logging.WARNING)
        return self._hold(f"the system is up, all checks hold ({len(checks)})" if checks else "the system is up")

    def _run_checks(self, checks: Sequence[Check]) -> list[str]:
        problems: list[str] = []
        for check in checks:
            left_secs = self._deadline - self._clock.uptime()
            if problems and left_secs <= 0:
                break  # it is bad already, and the others may take their time
            timeout_secs = self._rules.check_timeout_secs
            if left_secs > 0 and self._holds_since is None:  # what has held may finish to settle
                timeout_secs = max(min(timeout_secs, left_secs), _CHECK_SECS_MIN)
            problem = check.run(timeout_secs)
            if problem is not None:
                problems.append(f"check {check.name} {problem}")
        return problems

    def _hold(self, what: str) -> Verdict | None:
        now = self._clock.uptime()
        if self._holds_since is None:
            self._holds_since = now
        if now - self._holds_since < self._settle_secs:
            self._tell(Verdict.WAITING, f"{what}; good if that is still so after {self._settle_secs:g} s")
            return None
        return self._confirm(what)

    def _confirm(self, what: str) -> Verdict | None:
        try:
            trial = self._slots.trial()
            if trial.is_given_up:
                text = (
                    f"{what}, but slot {trial.booted} was marked bad and stays so; "
                    f"to keep it: update-agent mark-good {trial.booted}"
                )
                self._tell(Verdict.BAD, text, event=JournalEvent.BOOT_BAD, level=logging.WARNING)
                return Verdict.BAD
            if not trial.is_marked_good:
                self._slots.confirm()
        except UpdateAgentError as error:
            text = f"{what}, but the slot cannot be marked good yet: {error.message}"
            self._tell(Verdict.WAITING, text, event=JournalEvent.BOOT_NOT_GOOD_YET, level=logging.WARNING)
            return None
        text = f"{what}; slot {trial.booted} is marked good"
        self._tell(Verdict.GOOD, text, event=JournalEvent.BOOT_GOOD, SLOT=trial.booted)
        return Verdict.GOOD

    def _miss(self, text: str, level: int) -> Verdict | None:
        self._holds_since = None
        if self._clock.uptime() >= self._deadline:
            return self._judge(text)
        self._tell(Verdict.WAITING, text, event=JournalEvent.BOOT_NOT_GOOD_YET, level=level)
        return None

    def _judge(self, text: str) -> Verdict | None:
        """The deadline has passed; stays unless everything speaks for the other slot."""
        try:
            trial = self._slots.trial()
            stay = reason_to_stay(trial, may_fall_back=self._rules.fall_back)
            if stay is None:
                self._slots.give_up()
        except UpdateAgentError as error:
            stay = error.message
        if stay is not None:
            self._tell(
                Verdict.BAD,
                f"{text}; no reboot into the other slot: {stay}",
                event=JournalEvent.BOOT_BAD,
                level=logging.WARNING,
            )
            return None
        self._fall_back(text, trial)
        return Verdict.BAD

    def _fall_back(self, text: str, trial: Trial) -> None:
        text = f"{text}; slot {trial.booted} is given up"
        self._tell(
            Verdict.BAD,
            f"{text}, rebooting into slot {trial.booted.other}",
            event=JournalEvent.BOOT_FALLING_BACK,
            level=logging.ERROR,
            SLOT=trial.booted,
        )
        try:
            self._reboot()
        except UpdateAgentError as error:
            self._tell(
                Verdict.BAD,
                f"{text}, but the machine does not reboot: {error.message}; reboot it by hand",
                event=JournalEvent.BOOT_BAD,
                level=logging.ERROR,
            )

    def _pause(self) -> float:
        """Until the next round; not beyond a moment at which something is decided."""
        now = self._clock.uptime()
        pauses = [self._rules.interval_secs]
        if self._holds_since is not None and now < self._holds_since + self._settle_secs:
            pauses.append(self._holds_since + self._settle_secs - now)
        if now < self._deadline:
            pauses.append(self._deadline - now)
        return min(pauses)

    def _tell(
        self,
        verdict: Verdict,
        text: str,
        *,
        event: JournalEvent | None = None,
        level: int = logging.INFO,
        **fields: str,
    ) -> None:
        """Log and publish, once until something changes."""
        if (verdict, text) == self._told:
            return
        self._told = verdict, text
        if event is None:
            _LOG.log(level, "%s", text)
        else:
            log_event(_LOG, level, event, "boot %s: %s", verdict, text, **fields)
        try:
            self._publish(
                HealthRecord(
                    boot_id=self._boot_id,
                    verdict=verdict,
                    text=text,
                    at=int(self._clock.unix_now()),
                    started_uptime_secs=self._started,
                )
            )
        except UpdateAgentError as error:
            _LOG.warning("%s", error.message)


def _sentence(problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_PROBLEMS_SHOWN_MAX])
    left = len(problems) - _PROBLEMS_SHOWN_MAX
    return f"{shown}; and {left} more" if left > 0 else shown
