"""What becomes of a release whose own program says no, hangs, fails or is missing."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.devices import MemoryDevice
from tests.support.images import ab_parts, make_image
from update_agent.domain.journal_events import JournalEvent
from update_agent.domain.postinstall import PostInstaller, make_environment
from update_agent.domain.slots import Slot, SlotTable
from update_agent.errors import InstallError, Kind, ServiceError
from update_agent.formats.manifest import PartName
from update_agent.host.disk import GptDisk, Partition
from update_agent.host.slot_program import Ending, How


@dataclass
class Programs:
    """A slot whose program prints these lines and ends so."""

    ending: Ending = field(default_factory=lambda: Ending(how=How.EXITED))
    lines: Sequence[str] = ()
    error: ServiceError | None = None
    calls: list[tuple[Partition, Sequence[str], Mapping[str, str], float]] = field(default_factory=list)

    def run(
        self,
        partition: Partition,
        *,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        timeout_secs: float,
        on_line: Callable[[str], None],
        check: Callable[[], None],
    ) -> Ending:
        check()
        self.calls.append((partition, arguments, environment, timeout_secs))
        for line in self.lines:
            on_line(line)
        if self.error is not None:
            raise self.error
        return self.ending


@pytest.fixture
def slot() -> Slot:
    return SlotTable.from_disk(GptDisk(MemoryDevice.of(make_image(ab_parts()), name="disk"))).b


def installer(programs: Programs, *, is_required: bool = False) -> PostInstaller:
    return PostInstaller(programs=programs, is_required=is_required, timeout_secs=60, environment={"PATH": "/bin"})


def refused(programs: Programs, slot: Slot, *, is_required: bool = False) -> InstallError:
    with pytest.raises(InstallError) as caught:
        installer(programs, is_required=is_required)(slot, {})
    assert caught.value.message.startswith("post-install of slot B: ")
    assert caught.value.hint
    return caught.value


KERNEL, POLICY = Path("/boot/flatcar/vmlinuz-b"), Path("/var/lib/update-agent/pcrs-b.zip")


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({}, []),
        ({PartName.KERNEL: KERNEL}, [f"KERNEL={KERNEL}"]),
        ({PartName.PCR_POLICY: POLICY}, [f"PCR_POLICY={POLICY}"]),
        ({PartName.PCR_POLICY: POLICY, PartName.KERNEL: KERNEL}, [f"KERNEL={KERNEL}", f"PCR_POLICY={POLICY}"]),
        ({PartName.USR: Path("/x")}, []),
    ],
)
def test_postinstall_is_told_the_parts_of_the_payload(
    slot: Slot, files: dict[PartName, Path], arguments: list[str]
) -> None:
    programs = Programs()
    installer(programs)(slot, files)
    assert programs.calls == [(slot.partition, arguments, {"PATH": "/bin"}, 60)]


def test_postinstall_output_goes_to_the_journal(slot: Slot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    installer(Programs(lines=["one", "  ", "two %s"]))(slot, {})
    assert caplog.messages == ["postinst: one", "postinst: two %s"]
    assert caplog.records[0].__dict__["journal"] == {"MESSAGE_ID": str(JournalEvent.POSTINSTALL_OUTPUT), "SLOT": "B"}


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (1, Kind.POSTINSTALL_FAILED, "expected exit status 0, got 1"),
        (127, Kind.POSTINSTALL_FAILED, "expected exit status 0, got 127"),
        (-9, Kind.POSTINSTALL_FAILED, "was ended by signal 9"),
        (3, Kind.POSTINSTALL_FIRMWARE_B, "firmware"),
    ],
)
def test_postinstall_that_fails_is_refused_with_its_last_line(slot: Slot, status: int, kind: Kind, text: str) -> None:
    error = refused(Programs(Ending(how=How.EXITED, status=status), ["first", "no sysext for oem", " "]), slot)
    assert error.kind is kind
    assert text in error.message
    assert error.message.endswith("; its last line: no sysext for oem")


def test_postinstall_that_fails_silently_is_refused(slot: Slot) -> None:
    assert refused(Programs(Ending(how=How.EXITED, status=1)), slot).message.endswith("got 1")


def test_postinstall_out_of_time_is_refused(slot: Slot) -> None:
    error = refused(Programs(Ending(how=How.TIMED_OUT), ["downloading"]), slot)
    assert error.kind is Kind.POSTINSTALL_TIMEOUT
    assert "within 60 seconds, got none; its last line: downloading" in error.message


@pytest.mark.parametrize("is_required", [False, True])
def test_postinstall_that_is_none_is_refused(slot: Slot, is_required: bool) -> None:
    error = refused(Programs(Ending(how=How.FAILED, text="a link")), slot, is_required=is_required)
    assert error.kind is Kind.POSTINSTALL_FAILED
    assert "a link" in error.message


def test_postinstall_that_the_machine_cannot_run_is_refused(slot: Slot) -> None:
    cause = ServiceError(Kind.COMMAND_FAILED, "the process died", hint="look")
    error = refused(Programs(error=cause), slot)
    assert (error.kind, error.hint, error.__cause__) == (Kind.POSTINSTALL_FAILED, "look", cause)
    assert "the process died" in error.message


@pytest.mark.parametrize(("how", "level"), [(How.MISSING, logging.INFO), (How.UNREACHABLE, logging.WARNING)])
def test_postinstall_missing_is_said_or_refused(
    slot: Slot, caplog: pytest.LogCaptureFixture, how: How, level: int
) -> None:
    caplog.set_level(logging.INFO)
    ending = Ending(how=how, text="there is none")
    installer(Programs(ending))(slot, {})
    assert [record.levelno for record in caplog.records] == [level]
    error = refused(Programs(ending), slot, is_required=True)
    assert error.kind is Kind.POSTINSTALL_MISSING
    assert "there is none" in error.message


def test_postinstall_that_is_stopped_passes_the_reason_on(slot: Slot) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    stopped = PostInstaller(programs=Programs(), is_required=True, timeout_secs=1, environment={}, check=check)
    with pytest.raises(KeyboardInterrupt):
        stopped(slot, {})


ENVIRON = {
    "PATH": "/bin",
    "LD_LIBRARY_PATH": "/lib",
    "HTTP_PROXY": "http://old:1",
    "https_proxy": "http://old:2",
    "NO_PROXY": "localhost",
    "CREDENTIALS_DIRECTORY": "/run/credentials",
    "HOME": "/root",
}
ALWAYS = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib"}


def test_environment_is_the_few_names_and_no_more() -> None:
    rest = {name: ENVIRON[name] for name in ("HTTP_PROXY", "https_proxy", "NO_PROXY")}
    assert make_environment(ENVIRON, "") == ALWAYS | rest


def test_environment_with_a_proxy_of_the_settings_uses_it_for_everything() -> None:
    names = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy")
    assert make_environment(ENVIRON, "http://new:3") == ALWAYS | dict.fromkeys(names, "http://new:3")


def test_environment_without_proxy_has_none() -> None:
    assert make_environment(ENVIRON, "none") == ALWAYS


def test_environment_without_path_gets_one() -> None:
    assert "/usr/bin" in make_environment({}, "")["PATH"].split(":")
