"""The disk that the daemon looks after, found anew until it is there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from update_agent.api.disk import Status
from update_agent.api.machine import Machine, open_machine
from update_agent.domain.slots import Slot, SlotName, booted_slot
from update_agent.errors import UpdateAgentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Which disk, and which of its slots runs.

    Attributes:
        path: a device node, or an image file.
        booted: the slot that runs; None derives it from the flags, for images.
        partition_number: of the slot that runs, where the system was booted from this disk; counts more.
        state_folder: None for the usual place.
    """

    path: Path
    booted: SlotName | None = None
    partition_number: int | None = None
    state_folder: Path | None = None


FindDisk = Callable[[], Disk]
"""Raises `UpdateAgentError` where there is none."""


class Node:
    """Opens the disk for a moment each time; nothing is held in between, so a person can work on it too."""

    def __init__(self, find: FindDisk) -> None:
        self._find = find
        self._disk: Disk | None = None
        self._status: Status | None = None
        self._problem: UpdateAgentError | None = None

    @property
    def disk(self) -> Disk | None:
        """The disk, or None as long as it was not found."""
        return self._disk

    @property
    def status(self) -> Status | None:
        """As of the last look; None when that failed."""
        return self._status

    @property
    def problem(self) -> UpdateAgentError | None:
        """Why the last look failed."""
        return self._problem

    @property
    def booted(self) -> SlotName | None:
        """The slot that runs, as of the last look."""
        return self._status.booted if self._status else None

    def record_of(self, name: SlotName | None) -> str:
        """The release recorded for a slot, or empty."""
        slot = self._status.by_name(name) if self._status else None
        return (slot.version or "") if slot else ""

    @property
    def waiting(self) -> Slot | None:
        """The slot that boots next when that is not the one that runs."""
        status = self._status
        if status is None or status.next_boot is None or status.booted is None or status.next_boot is status.booted:
            return None
        slot = status.by_name(status.next_boot)
        return slot.slot if slot else None

    @property
    def is_proven(self) -> bool:
        """Whether the slot that runs is marked successful."""
        slot = self._status.by_name(self.booted) if self._status else None
        return slot is not None and slot.slot.flags.successful

    @property
    def is_on_trial(self) -> bool:
        """Whether the slot that runs has not been marked successful so far."""
        return self._status is not None and self.booted is not None and not self.is_proven

    @property
    def is_unbootable(self) -> bool:
        """Whether the slot that runs would not be chosen again: its tries are used up, and it is not proven."""
        slot = self._status.by_name(self.booted) if self._status else None
        return slot is not None and not slot.slot.flags.is_bootable

    def look(self) -> None:
        """Read the disk anew; a failure is kept as `problem`."""
        try:
            with self.open(writable=False) as machine:
                self._status, self._problem = machine.status(), None
        except UpdateAgentError as error:
            self._status, self._problem = None, error

    @contextmanager
    def open(self, *, writable: bool) -> Iterator[Machine]:
        """The disk for the length of a block.

        Raises:
            InstallError: boot-disk-unknown.
            UpdateAgentError: as `open_machine`.
        """
        disk = self._disk or self._find()
        with ExitStack() as stack:
            if disk.booted is None and disk.partition_number is not None:
                with open_machine(disk.path, writable=False, state_folder=disk.state_folder) as machine:
                    disk = replace(disk, booted=booted_slot(machine.disk, disk.partition_number))
            machine = stack.enter_context(
                open_machine(disk.path, writable=writable, state_folder=disk.state_folder, booted=disk.booted)
            )
            self._disk = disk
            yield machine
