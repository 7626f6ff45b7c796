"""One disk, opened, and the real objects around it; shared by the command line and the daemon."""

import datetime as dt
import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from update_agent.api.disk import Status
from update_agent.domain.checkpoint import CheckpointStore
from update_agent.domain.records import SlotRecords
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.errors import DeviceError, Kind, RefusedError
from update_agent.host.blockdev import BlockDevice, FileDevice
from update_agent.host.disk import GptDisk
from update_agent.host.files import StateFile, exclusive_lock

_NODE_STATE_FOLDER: Final = Path("/var/lib/update-agent")
_CHECKPOINT_FILE: Final = "checkpoint.json"
_RECORDS_FILE: Final = "slots.json"
_LOCK_FILE: Final = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One disk, opened, and what is kept about it."""

    device: FileDevice
    disk: GptDisk
    state_folder: Path
    checkpoints: CheckpointStore
    records: SlotRecords
    booted: SlotName | None

    @property
    def slots(self) -> SlotTable:
        """Both slots as they are now."""
        return SlotTable.from_disk(self.disk)

    def status(self) -> Status:
        """Everything that can be said about the disk."""
        return Status.of(self.disk, self.records, self.checkpoints.load(), self.booted)

    def open_target(self, slot: Slot) -> AbstractContextManager[BlockDevice]:
        """A slot for writing: its own device node where the kernel has one, else its range of the disk.

        Raises:
            RefusedError: target-busy, when it is mounted or otherwise in use.
            DeviceError: device-open.
        """
        node = self._find_node(slot)
        if node is None:
            return nullcontext(self.disk.region(slot.partition))
        try:
            return FileDevice(node, writable=True, exclusive=True)
        except DeviceError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY):
                raise
            raise RefusedError(Kind.TARGET_BUSY, f"slot {slot.name}: {error.message}", hint=error.hint) from error

    def _find_node(self, slot: Slot) -> Path | None:
        if not self.device.is_block:
            return None
        # Only a block device pays for the import.
        from update_agent.host.udev import find_partition_node

        return find_partition_node(self.device.path, slot.number)

    def open_source(self, slot: Slot) -> AbstractContextManager[BlockDevice]:
        """A slot for reading."""
        return nullcontext(self.disk.region(slot.partition))


def _state_folder(device: FileDevice, disk: GptDisk) -> Path:
    """Where the state of a disk is kept: beside an image file, on the node by the disk's GUID."""
    if device.is_block:
        return _NODE_STATE_FOLDER / "disks" / str(disk.disk_guid)
    real = device.path.resolve()  # or an image would have another state through each symbolic link
    return real.with_name(real.name + ".state")


@contextmanager
def open_machine(
    image: Path, *, writable: bool, state_folder: Path | None = None, booted: SlotName | None = None
) -> Iterator[Machine]:
    """Open a disk; for writing, nobody else may be at work on it.

    Raises:
        RefusedError: busy.
        DeviceError: device-open.
        FormatError: gpt-invalid.
    """
    with ExitStack() as stack:
        device = stack.enter_context(FileDevice(image, writable=writable))
        disk = GptDisk(device, sector_size_bytes=device.logical_sector_bytes)
        folder = state_folder or _state_folder(device, disk)
        if writable:
            stack.enter_context(exclusive_lock(folder / _LOCK_FILE))
            if not device.is_block:
                # The same image may be opened by another name or with another state folder.
                stack.enter_context(exclusive_lock(image))
            disk.reload()  # who held the lock before may have changed it
        yield Machine(
            device=device,
            disk=disk,
            state_folder=folder,
            checkpoints=CheckpointStore(StateFile(folder / _CHECKPOINT_FILE)),
            records=SlotRecords(StateFile(folder / _RECORDS_FILE)),
            booted=booted,
        )


def now() -> str:
    """RFC 3339 time in UTC."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
