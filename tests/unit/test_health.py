"""When a boot counts as good: every situation, in simulated time."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from update_agent.domain.boot_watch import BootWatch
from update_agent.domain.health import HealthMode, HealthRecord, HealthRules, Trial, Verdict, reason_to_stay
from update_agent.domain.journal_events import JournalEvent
from update_agent.domain.slots import SlotName
from update_agent.errors import DeviceError, Kind, RefusedError, ServiceError
from update_agent.formats.gptprio import UNBOOTABLE, BootFlags

BOOT_ID = "0b" * 16
RULES = HealthRules(
    mode=HealthMode.CHECKS,
    settle_secs=30,
    interval_secs=10,
    check_timeout_secs=60,
    deadline_secs=900,
    timer_secs=45,
    fall_back=True,
)
FIRST_BOOT = BootFlags(priority=2, tries=0, successful=False)
OLD_GOOD = BootFlags(priority=1, tries=0, successful=True)
GOOD = BootFlags(priority=2, tries=0, successful=True)
WAITING_UPDATE = BootFlags(priority=3, tries=1, successful=False)


class StillRunningError(Exception):
    """The watch did not come to an end within the simulated time."""


@dataclass
class FakeClock:
    """Time that passes when somebody waits."""

    now: float = 20.0
    end: float = 5000.0
    naps: list[float] = field(default_factory=list)

    def uptime(self) -> float:
        return self.now

    def unix_now(self) -> float:
        return 1_700_000_000 + self.now

    def sleep(self, secs: float) -> None:
        assert secs > 0
        self.naps.append(secs)
        self.now += secs
        if self.now > self.end:
            raise StillRunningError


@dataclass
class FakeCheck:
    """Holds as the function of the time says; takes as long as it is told, or is cut."""

    name: str
    clock: FakeClock
    holds: Callable[[float], bool] = lambda _: True
    takes_secs: float = 0.0
    timeouts: list[float] = field(default_factory=list)

    def run(self, timeout_secs: float) -> str | None:
        self.timeouts.append(timeout_secs)
        self.clock.now += min(self.takes_secs, timeout_secs)
        if self.takes_secs > timeout_secs:
            return "did not end"
        return None if self.holds(self.clock.now) else "failed"


@dataclass
class World:
    """Everything around the watch."""

    clock: FakeClock = field(default_factory=FakeClock)
    up_at: float = 0.0
    all_checks: list[FakeCheck] = field(default_factory=list)
    flags: BootFlags = FIRST_BOOT
    other_flags: BootFlags = OLD_GOOD
    busy_until: float = 0.0
    unreadable: bool = False
    reboot_fails: bool = False
    publish_fails: bool = False
    records: list[HealthRecord] = field(default_factory=list)
    acts: list[tuple[str, float]] = field(default_factory=list)

    def why_not_up(self) -> str | None:
        return None if self.clock.now >= self.up_at else "boot-complete.target is not reached"

    def checks(self) -> Sequence[FakeCheck]:
        return self.all_checks

    def trial(self) -> Trial:
        if self.unreadable:
            raise DeviceError(Kind.DEVICE_IO, "disk: cannot be read")
        return Trial(booted=SlotName.B, flags=self.flags, other_flags=self.other_flags)

    def confirm(self) -> None:
        self._write("confirm", GOOD)

    def give_up(self) -> None:
        self._write("give up", UNBOOTABLE)

    def _write(self, act: str, flags: BootFlags) -> None:
        if self.clock.now < self.busy_until:
            raise RefusedError(Kind.BUSY, "lock: somebody is at work")
        self.acts.append((act, self.clock.now))
        self.flags = flags

    def reboot(self) -> None:
        self.acts.append(("reboot", self.clock.now))
        if self.reboot_fails:
            raise ServiceError(Kind.COMMAND_FAILED, "logind: refused")

    def publish(self, record: HealthRecord) -> None:
        self.records.append(record)
        if self.publish_fails:
            raise DeviceError(Kind.NO_SPACE, "health.json: no space")

    def add_check(
        self, name: str, holds: Callable[[float], bool] = lambda _: True, takes_secs: float = 0.0
    ) -> FakeCheck:
        check = FakeCheck(name=name, clock=self.clock, holds=holds, takes_secs=takes_secs)
        self.all_checks.append(check)
        return check

    def watch(self, rules: HealthRules = RULES, previous: HealthRecord | None = None) -> Verdict:
        return BootWatch(
            rules,
            boot_id=BOOT_ID,
            clock=self.clock,
            system=self,
            slots=self,
            reboot=self.reboot,
            publish=self.publish,
            previous=previous,
        ).run()

    def watch_for_ever(self, rules: HealthRules = RULES) -> None:
        with pytest.raises(StillRunningError):
            self.watch(rules)

    @property
    def verdicts(self) -> list[str]:
        return [str(record.verdict) for record in self.records]

    @property
    def act_names(self) -> list[str]:
        return [name for name, _ in self.acts]


def events(caplog: pytest.LogCaptureFixture) -> list[JournalEvent]:
    return [JournalEvent(record.journal["MESSAGE_ID"]) for record in caplog.records if hasattr(record, "journal")]


def record(verdict: Verdict, *, boot_id: str = BOOT_ID, started: float = 20.0) -> HealthRecord:
    return HealthRecord(boot_id=boot_id, verdict=verdict, text="as before", at=1, started_uptime_secs=started)


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


# A boot that becomes good


def test_healthy_boot_is_marked_good_when_the_settle_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.add_check("10-api")
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 50.0)]
    assert world.verdicts == ["waiting", "good"]
    assert events(caplog) == [JournalEvent.BOOT_GOOD]


def test_boot_without_checks_is_good_when_the_system_is_up() -> None:
    world = World(up_at=100)
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 130.0)]
    assert world.records[-1].text == "the system is up; slot B is marked good"


def test_settle_time_of_zero_takes_one_round() -> None:
    world = World()
    check = world.add_check("10-api")
    assert world.watch(replace(RULES, settle_secs=0)) is Verdict.GOOD
    assert len(check.timeouts) == 1
    assert world.clock.naps == []


def test_settle_time_between_two_rounds_is_not_overslept() -> None:
    world = World()
    world.watch(replace(RULES, settle_secs=25))
    assert world.acts == [("confirm", 45.0)]
    assert world.clock.naps == [10, 10, 5]


def test_failing_round_starts_the_settle_time_anew(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.add_check("10-api", holds=lambda now: now != 40.0)
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 80.0)]
    assert world.verdicts == ["waiting", "waiting", "waiting", "good"]
    assert events(caplog) == [JournalEvent.BOOT_NOT_GOOD_YET, JournalEvent.BOOT_GOOD]


def test_target_that_is_left_again_starts_the_settle_time_anew() -> None:
    world = World()
    world.why_not_up = lambda: "left" if world.clock.now == 40 else None  # type: ignore[method-assign]
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 80.0)]


def test_checks_are_not_run_before_the_system_is_up() -> None:
    world = World(up_at=100)
    check = world.add_check("10-api")
    world.watch()
    assert len(check.timeouts) == 4


def test_slot_that_booted_well_before_is_not_written_again() -> None:
    world = World(flags=GOOD, busy_until=10_000)
    assert world.watch() is Verdict.GOOD
    assert world.acts == []


@pytest.mark.parametrize("flags", [replace(GOOD, tries=1), replace(GOOD, priority=0), FIRST_BOOT])
def test_slot_with_anything_left_to_write_is_written(flags: BootFlags) -> None:
    world = World(flags=flags, other_flags=UNBOOTABLE)
    assert world.watch() is Verdict.GOOD
    assert world.act_names == ["confirm"]


def test_busy_disk_is_tried_again_until_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    world = World(busy_until=200)
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 200.0)]
    assert world.verdicts == ["waiting", "waiting", "good"]
    assert "lock: somebody is at work" in world.records[1].text
    assert events(caplog) == [JournalEvent.BOOT_NOT_GOOD_YET, JournalEvent.BOOT_GOOD]


def test_healthy_boot_whose_disk_is_busy_beyond_the_deadline_does_not_fall_back() -> None:
    world = World(busy_until=2000)
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 2000.0)]


def test_healthy_boot_whose_disk_cannot_be_read_waits() -> None:
    world = World(unreadable=True)
    world.watch_for_ever()
    assert world.acts == []
    assert "disk: cannot be read" in world.records[-1].text


def test_healthy_boot_of_a_slot_that_somebody_marked_bad_stays_bad(caplog: pytest.LogCaptureFixture) -> None:
    world = World(flags=UNBOOTABLE)
    assert world.watch() is Verdict.BAD
    assert world.acts == []
    assert "update-agent mark-good B" in world.records[-1].text
    assert events(caplog) == [JournalEvent.BOOT_BAD]


def test_boot_that_was_found_good_before_is_left_alone() -> None:
    world = World()
    check = world.add_check("10-api")
    assert world.watch(previous=record(Verdict.GOOD)) is Verdict.GOOD
    assert (check.timeouts, world.records, world.acts) == ([], [], [])


@pytest.mark.parametrize(
    "previous", [record(Verdict.WAITING), record(Verdict.BAD), record(Verdict.GOOD, boot_id="another"), None]
)
def test_boot_that_was_not_found_good_before_is_watched(previous: HealthRecord | None) -> None:
    world = World()
    world.watch(previous=previous)
    assert world.act_names == ["confirm"]


# Other modes


def test_timer_mode_marks_good_after_its_time_whatever_the_system_does() -> None:
    world = World(up_at=10_000)
    world.add_check("10-api", holds=lambda _: False)
    assert world.watch(replace(RULES, mode=HealthMode.TIMER)) is Verdict.GOOD
    assert world.acts == [("confirm", 65.0)]


def test_timer_mode_never_falls_back() -> None:
    world = World(busy_until=4000)
    assert world.watch(replace(RULES, mode=HealthMode.TIMER)) is Verdict.GOOD
    assert world.act_names == ["confirm"]


def test_timer_mode_after_a_restart_of_the_service_starts_anew() -> None:
    world = World(clock=FakeClock(now=60))
    world.watch(replace(RULES, mode=HealthMode.TIMER), previous=record(Verdict.WAITING))
    assert world.acts == [("confirm", 105.0)]


def test_mode_off_touches_nothing() -> None:
    world = World(up_at=10_000)
    assert world.watch(replace(RULES, mode=HealthMode.OFF)) is Verdict.OFF
    assert (world.verdicts, world.acts) == (["off"], [])


# The deadline


@pytest.mark.parametrize(
    ("flags", "other", "fall_back", "acts", "words"),
    [
        (FIRST_BOOT, OLD_GOOD, True, ["give up", "reboot"], "slot B is given up, rebooting into slot A"),
        (replace(FIRST_BOOT, tries=2), OLD_GOOD, True, ["give up", "reboot"], "rebooting into slot A"),
        (FIRST_BOOT, WAITING_UPDATE, True, ["give up", "reboot"], "rebooting into slot A"),
        (UNBOOTABLE, OLD_GOOD, True, ["give up", "reboot"], "rebooting into slot A"),
        (GOOD, OLD_GOOD, True, [], "slot B has booted well before"),
        (GOOD, WAITING_UPDATE, True, [], "slot B has booted well before"),
        (FIRST_BOOT, UNBOOTABLE, True, [], "slot A could not boot"),
        (FIRST_BOOT, replace(OLD_GOOD, successful=False), True, [], "slot A could not boot"),
        (FIRST_BOOT, replace(OLD_GOOD, priority=0), True, [], "slot A could not boot"),
        (FIRST_BOOT, OLD_GOOD, False, [], "health.fall_back is off"),
        (GOOD, UNBOOTABLE, False, [], "slot B has booted well before"),
    ],
)
def test_bad_boot_at_the_deadline(
    flags: BootFlags, other: BootFlags, fall_back: bool, acts: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(flags=flags, other_flags=other)
    world.add_check("10-api", holds=lambda _: False)
    rules = replace(RULES, fall_back=fall_back)
    if acts:
        assert world.watch(rules) is Verdict.BAD
    else:
        world.watch_for_ever(rules)
    assert world.acts == [(act, 900.0) for act in acts]
    assert world.verdicts == ["waiting", "bad"]
    assert words in world.records[-1].text
    assert "check 10-api failed" in world.records[-1].text
    last = JournalEvent.BOOT_FALLING_BACK if acts else JournalEvent.BOOT_BAD
    assert events(caplog) == [JournalEvent.BOOT_NOT_GOOD_YET, last]


def test_system_that_never_comes_up_falls_back_at_the_deadline() -> None:
    world = World(up_at=10_000)
    assert world.watch() is Verdict.BAD
    assert world.acts == [("give up", 900.0), ("reboot", 900.0)]


def test_deadline_between_two_rounds_is_not_overslept() -> None:
    world = World(up_at=10_000)
    assert world.watch(replace(RULES, interval_secs=300)) is Verdict.BAD
    assert world.acts[0] == ("give up", 900.0)


def test_flapping_check_falls_back_at_the_deadline() -> None:
    world = World()
    world.add_check("10-api", holds=lambda now: int(now / 10) % 3 != 0)
    assert world.watch() is Verdict.BAD
    assert world.acts == [("give up", 900.0), ("reboot", 900.0)]


def test_boot_that_settles_across_the_deadline_becomes_good() -> None:
    world = World()
    world.add_check("10-api", holds=lambda now: now >= 890)
    assert world.watch() is Verdict.GOOD
    assert world.acts == [("confirm", 920.0)]


def test_boot_that_fails_while_it_settles_across_the_deadline_falls_back() -> None:
    world = World()
    world.add_check("10-api", holds=lambda now: 890 <= now < 910)
    assert world.watch() is Verdict.BAD
    assert world.acts == [("give up", 910.0), ("reboot", 910.0)]


def test_hanging_check_does_not_move_the_deadline() -> None:
    world = World()
    world.add_check("10-hangs", takes_secs=1e9)
    world.add_check("20-also-hangs", takes_secs=1e9)
    assert world.watch(replace(RULES, check_timeout_secs=500, deadline_secs=1200)) is Verdict.BAD
    assert world.acts == [("give up", 1200.0), ("reboot", 1200.0)]


def test_slow_check_of_a_boot_that_settles_is_not_cut_at_the_deadline() -> None:
    world = World(up_at=830)
    check = world.add_check("10-slow", takes_secs=50)
    assert world.watch() is Verdict.GOOD
    assert check.timeouts == [60, 60]
    assert world.acts == [("confirm", 940.0)]


def test_check_that_begins_just_before_the_deadline_gets_a_moment() -> None:
    world = World()
    world.add_check("10-slow", takes_secs=50)
    check = world.add_check("20-next", takes_secs=0.09, holds=lambda _: False)
    assert world.watch(replace(RULES, deadline_secs=20 + 50 + 0.09 + 10 + 50 + 0.05)) is Verdict.BAD
    assert check.timeouts == [60, pytest.approx(0.1)]


def test_bad_boot_that_stays_gives_slow_checks_their_whole_time_again() -> None:
    world = World(flags=GOOD)
    world.clock.now = 2000
    check = world.add_check("10-slow", takes_secs=50, holds=lambda now: now > 3000)
    assert world.watch() is Verdict.GOOD
    assert check.timeouts[-1] == 60


def test_bad_boot_that_stays_can_still_become_good(caplog: pytest.LogCaptureFixture) -> None:
    world = World(flags=GOOD)
    world.add_check("10-api", holds=lambda now: now > 1500)
    assert world.watch() is Verdict.GOOD
    assert world.verdicts == ["waiting", "bad", "waiting", "good"]
    assert events(caplog)[-2:] == [JournalEvent.BOOT_BAD, JournalEvent.BOOT_GOOD]


def test_bad_boot_that_stays_falls_back_once_the_other_slot_can_boot() -> None:
    world = World(other_flags=UNBOOTABLE)

    def check(now: float) -> bool:
        world.other_flags = WAITING_UPDATE if now > 2000 else UNBOOTABLE
        return False

    world.add_check("10-api", holds=check)
    assert world.watch() is Verdict.BAD
    assert world.acts == [("give up", 2010.0), ("reboot", 2010.0)]


def test_busy_disk_at_the_deadline_delays_the_way_back() -> None:
    world = World(busy_until=1000, up_at=10_000)
    assert world.watch() is Verdict.BAD
    assert world.acts == [("give up", 1000.0), ("reboot", 1000.0)]
    assert "lock: somebody is at work" in world.records[1].text


def test_disk_that_cannot_be_read_at_the_deadline_does_not_reboot() -> None:
    world = World(unreadable=True, up_at=10_000)
    world.watch_for_ever()
    assert world.acts == []
    assert world.verdicts == ["waiting", "bad"]


def test_reboot_that_is_refused_is_told_and_ends_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    world = World(reboot_fails=True, up_at=10_000)
    assert world.watch() is Verdict.BAD
    assert world.records[-1].text.endswith("the machine does not reboot: logind: refused; reboot it by hand")
    assert events(caplog)[-2:] == [JournalEvent.BOOT_FALLING_BACK, JournalEvent.BOOT_BAD]
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("start", "previous", "at"),
    [
        (20.0, None, 900.0),
        (790.0, None, 900.0),
        (850.0, None, 950.0),
        (100_000.0, None, 100_100.0),
        (100_000.0, record(Verdict.WAITING), 100_000.0),
        (100_050.0, record(Verdict.BAD, started=100_000.0), 100_100.0),
        (100_000.0, record(Verdict.WAITING, boot_id="another"), 100_100.0),
    ],
)
def test_deadline_counts_from_the_boot_and_leaves_one_fair_try(
    start: float, previous: HealthRecord | None, at: float
) -> None:
    world = World(clock=FakeClock(now=start, end=200_000), up_at=300_000)
    assert world.watch(previous=previous) is Verdict.BAD
    assert world.acts[0] == ("give up", at)


# What is told


def test_same_problem_is_told_once() -> None:
    world = World(flags=GOOD)
    world.add_check("10-api", holds=lambda _: False)
    world.watch_for_ever()
    assert world.verdicts == ["waiting", "bad"]


def test_many_problems_are_named_and_counted() -> None:
    world = World(flags=GOOD)
    for number in range(7):
        world.add_check(f"{number}-x", holds=lambda _: False)
    world.watch_for_ever()
    assert world.records[0].text == (
        "check 0-x failed; check 1-x failed; check 2-x failed; check 3-x failed; check 4-x failed; and 2 more"
    )


def test_verdict_that_cannot_be_published_does_not_stop_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    world = World(publish_fails=True)
    assert world.watch() is Verdict.GOOD
    assert "health.json: no space" in caplog.text


def test_waiting_is_information_and_a_failing_check_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    world = World(up_at=100)
    world.add_check("10-api", holds=lambda now: now > 200)
    world.watch()
    told = [(each.levelno, each.getMessage()) for each in caplog.records if hasattr(each, "journal")]
    assert told[:2] == [
        (logging.INFO, "boot waiting: boot-complete.target is not reached"),
        (logging.WARNING, "boot waiting: check 10-api failed"),
    ]


# Values


def test_record_written_and_read_is_the_same() -> None:
    written = record(Verdict.WAITING)
    assert HealthRecord.from_bytes(written.to_bytes()) == written
    document = json.loads(written.to_bytes())
    assert (document["schema"], document["verdict"], document["boot_id"]) == (1, "waiting", BOOT_ID)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"schema": 2}',
        b'{"schema": 1}',
        record(Verdict.GOOD).to_bytes().replace(b"good", b"fine"),
        record(Verdict.GOOD).to_bytes().replace(b'"at": 1', b'"at": "x"'),
        record(Verdict.GOOD).to_bytes().replace(b'"at": 1', b'"at": 1e999'),
        b"[" * 100_000,
    ],
)
def test_record_that_nobody_wrote_is_refused(data: bytes) -> None:
    with pytest.raises(DeviceError) as caught:
        HealthRecord.from_bytes(data)
    assert caught.value.kind is Kind.STATE_FILE


def test_reason_to_stay_of_a_proven_slot_comes_first() -> None:
    trial = Trial(booted=SlotName.A, flags=GOOD, other_flags=OLD_GOOD)
    assert reason_to_stay(trial, may_fall_back=True) == "slot A has booted well before"
