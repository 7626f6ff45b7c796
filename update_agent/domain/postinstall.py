"""What a new release wants to do before its first boot: its own `postinst`, as update_engine calls it.

    postinst DEVICE KERNEL=FILE [PCR_POLICY=FILE]

It runs as root from the new slot, mounted read-only; the parts that the payload did not have are not named. 0 is good;
3 says that the firmware must be dealt with first; everything else, or no answer in time, means that the release must
not boot.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from update_agent.domain.journal_events import JournalEvent, log_event
from update_agent.domain.slots import Slot
from update_agent.errors import InstallError, Kind, ServiceError
from update_agent.formats.manifest import PartName
from update_agent.host.disk import Partition
from update_agent.host.slot_program import Ending, How

_LOG: Final = logging.getLogger(__name__)

FIRMWARE_B_STATUS: Final = 3

_ARGUMENTS: Final = ((PartName.KERNEL, "KERNEL"), (PartName.PCR_POLICY, "PCR_POLICY"))
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "PATH")
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES: Final = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
_NO_PROXY: Final = "NO_PROXY"
_DIRECT: Final = "none"

_LOG_HINT: Final = "its output is in the journal; the running release stays"


class SlotPrograms(Protocol):
    """What `update_agent.host.slot_program.SlotProgram` does."""

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
        """Run the program of a slot; raises `ServiceError` when that went wrong for another reason than the program."""


def make_environment(environ: Mapping[str, str], proxy: str) -> dict[str, str]:
    """What the program may see of `environ`: update_engine's list, and the proxy variables in both spellings.

    Args:
        environ: the agent's own.
        proxy: as the setting `transfer.proxy`: a URL for everything, `none`, or empty for the environment's.
    """
    environment = {name: environ[name] for name in _PASSED_ON if name in environ}
    environment.setdefault("PATH", _DEFAULT_PATH)
    if not proxy:
        names = [spelling for name in (*_PROXIES, _NO_PROXY) for spelling in (name, name.lower())]
        environment |= {name: environ[name] for name in names if name in environ}
    elif proxy != _DIRECT:
        environment |= {spelling: proxy for name in _PROXIES for spelling in (name, name.lower())}
    return environment


@dataclass(frozen=True, slots=True, kw_only=True)
class PostInstaller:
    """Runs the `postinst` of a slot; a `update_agent.domain.attempt.PostInstall`.

    Attributes:
        programs: where the `postinst` is.
        is_required: a slot without one must not boot.
        timeout_secs: until it is ended.
        environment: all that it sees; see `make_environment`.
        check: called several times a second; raises to stop it.
    """

    programs: SlotPrograms
    is_required: bool
    timeout_secs: float
    environment: Mapping[str, str]
    check: Callable[[], None] = lambda: None

    def __call__(self, slot: Slot, files: Mapping[PartName, Path]) -> None:
        """Run it to its end; `files` is where the parts of the payload are.

        Raises:
            InstallError: postinstall-failed, postinstall-firmware-b, postinstall-timeout, postinstall-missing.
            DeviceError: device-open.
            InterruptedByUserError: interrupted, by `check`.
        """
        output = _Output(slot)
        try:
            ending = self.programs.run(
                slot.partition,
                arguments=[f"{name}={files[part]}" for part, name in _ARGUMENTS if part in files],
                environment=self.environment,
                timeout_secs=self.timeout_secs,
                on_line=output,
                check=self.check,
            )
        except ServiceError as error:
            raise InstallError(
                Kind.POSTINSTALL_FAILED, f"post-install of slot {slot.name}: {error.message}", hint=error.hint
            ) from error
        self._judge(slot, ending, output.last_line)

    def _judge(self, slot: Slot, ending: Ending, last_line: str) -> None:
        who = f"post-install of slot {slot.name}"
        match ending.how:
            case How.EXITED:
                _judge_status(who, ending.status, last_line)
            case How.TIMED_OUT:
                raise InstallError(
                    Kind.POSTINSTALL_TIMEOUT,
                    f"{who}: expected an end within {self.timeout_secs:g} seconds, got none{_quote(last_line)}",
                    hint=_LOG_HINT,
                )
            case How.MISSING | How.UNREACHABLE if self.is_required:
                raise InstallError(
                    Kind.POSTINSTALL_MISSING,
                    f"{who}: {ending.text}, and the setting install.postinstall requires one",
                    hint="install a release that has one, or set install.postinstall = 'if-present'",
                )
            case How.MISSING:
                _LOG.info("%s: nothing to do: %s", who, ending.text)
            case How.UNREACHABLE:
                _LOG.warning("%s: skipped: %s", who, ending.text)
            case _:
                raise InstallError(Kind.POSTINSTALL_FAILED, f"{who}: {ending.text}", hint=_LOG_HINT)


class _Output:
    """Hands lines to the journal and keeps the last one."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.last_line = ""

    def __call__(self, line: str) -> None:
        if line.strip():
            self.last_line = line.strip()
            log_event(
                _LOG, logging.INFO, JournalEvent.POSTINSTALL_OUTPUT, "postinst: %s", line, SLOT=str(self._slot.name)
            )


def _judge_status(who: str, status: int, last_line: str) -> None:
    if status == 0:
        return
    if status == FIRMWARE_B_STATUS:
        raise InstallError(
            Kind.POSTINSTALL_FIRMWARE_B,
            f"{who}: the firmware runs from its second copy and cannot be updated from there{_quote(last_line)}",
            hint="reboot, so that the firmware runs from its first copy, then install again",
        )
    what = f"was ended by signal {-status}" if status < 0 else f"expected exit status 0, got {status}"
    raise InstallError(Kind.POSTINSTALL_FAILED, f"{who}: {what}{_quote(last_line)}", hint=_LOG_HINT)


def _quote(last_line: str) -> str:
    return f"; its last line: {last_line}" if last_line else ""
