"""Running a program that lies in a slot, while that slot is mounted for nobody else.

A process of its own does it (`update_agent.host.slot_child`): it is told what to do, and says how it went, through a
file that exists in memory only.
"""

import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Final

from update_agent.errors import Kind, ServiceError
from update_agent.host.commands import run_command
from update_agent.host.disk import Partition

FALLBACK: Final = Path("/usr/postinst")
"""Of the running slot: what update_engine runs where btrfs refuses the new one because both have the same identity."""

_TOLD_BYTES_MAX: Final = 64 * 1024


@unique
class How(StrEnum):
    """What came of it.

    MISSING: the slot has no such program, or no file system that is known. UNREACHABLE: this machine cannot mount an
    image file. FAILED: the slot cannot be mounted, or the program is none that may be run.
    """

    EXITED = "exited"
    TIMED_OUT = "timed-out"
    MISSING = "missing"
    UNREACHABLE = "unreachable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it went; `status` is negative for a signal, `text` says why where there is no status."""

    how: How
    status: int = 0
    text: str = ""

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Ending":
        """The reverse; raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        document = json.loads(data)
        return cls(how=How(document["how"]), status=int(document["status"]), text=str(document["text"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCall:
    """What the child is told.

    Attributes:
        parent: process that it must not outlive.
        backing: partition, or disk image that the slot is a range of.
        start_bytes, size_bytes: the range; a size of 0 takes all.
        device: what the program is told to be its slot; empty for the device that is made for the range.
        mount_point: made if missing.
        program: path in the slot.
        fallback: see `FALLBACK`.
        arguments: after the device.
        environment: all of it.
    """

    parent: int
    backing: str
    start_bytes: int
    size_bytes: int
    device: str
    mount_point: str
    program: str
    fallback: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """JSON."""
        return json.dumps({**asdict(self), "environment": dict(self.environment)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "SlotCall":
        """The reverse; comes from the parent, so a wrong one is a bug and raises what it likes."""
        document = json.loads(data)
        return cls(**{**document, "arguments": tuple(document["arguments"])})


class SlotProgram:
    """One program of the slots of a disk."""

    def __init__(self, disk: Path, *, mount_point: Path, program: str = "postinst", fallback: Path = FALLBACK) -> None:
        """Run `program` of the slots of `disk`, a block device or an image file."""
        self._disk = disk
        self._mount_point = mount_point
        self._program = program
        self._fallback = fallback

    def run(
        self,
        partition: Partition,
        *,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        timeout_secs: float,
        on_line: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> Ending:
        """Mount the partition read-only and run its program with the partition's device as the first argument.

        Everything it has started is ended with it; the slot is not mounted any more on return, nor after a crash.

        Args:
            partition: the slot.
            arguments: after the device.
            environment: all of it.
            timeout_secs: until it is ended.
            on_line: gets its output.
            check: called several times a second; when it raises, everything is ended and the exception passes on.

        Raises:
            ServiceError: command-failed.
            DeviceError: device-open.
        """
        try:
            call = self._make_call(partition, arguments, environment)
            told = os.memfd_create("slot-program", os.MFD_CLOEXEC)
        except OSError as error:
            raise ServiceError(
                Kind.COMMAND_FAILED, f"{self._disk}: {self._program} cannot be started: {error.strerror}"
            ) from error
        try:
            os.write(told, call.to_bytes())
            status = run_command(
                [sys.executable, "-P", "-m", "update_agent.host.slot_child", str(told)],
                env=os.environ,
                timeout_secs=timeout_secs,
                on_line=on_line,
                check=check,
                pass_fds=(told,),
            )
            if status is None:
                return Ending(how=How.TIMED_OUT)
            return _ending(os.pread(told, _TOLD_BYTES_MAX, 0), status)
        finally:
            os.close(told)

    def _make_call(self, partition: Partition, arguments: Sequence[str], environment: Mapping[str, str]) -> SlotCall:
        node = self._find_node(partition)
        return SlotCall(
            parent=os.getpid(),
            backing=str(node or self._disk),
            start_bytes=0 if node else partition.start_bytes,
            size_bytes=0 if node else partition.size_bytes,
            device=str(node or ""),
            mount_point=str(self._mount_point),
            program=self._program,
            fallback=str(self._fallback),
            arguments=tuple(arguments),
            environment=environment,
        )

    def _find_node(self, partition: Partition) -> Path | None:
        if not stat.S_ISBLK(self._disk.stat().st_mode):
            return None
        # Only a block device pays for the import.
        from update_agent.host.udev import find_partition_node

        return find_partition_node(self._disk, partition.number)


def _ending(answer: bytes, status: int) -> Ending:
    try:
        return Ending.from_bytes(answer)
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceError(
            Kind.COMMAND_FAILED,
            f"the process that mounts the slot ended with status {status} and did not say why",
            hint="see the lines before this one in the journal",
        ) from error
