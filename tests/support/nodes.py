"""A machine in memory: one disk with two slots, its state files, and payloads to install on it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.boot_folder import BootFolder
from tests.support.devices import Journal, MemoryDevice, RecordingDevice
from tests.support.images import ab_parts, make_image
from tests.support.payloads import RSA_A_PUBLIC
from update_agent.domain.attempt import Workplace
from update_agent.domain.checkpoint import CheckpointStore
from update_agent.domain.install import InstallReport, InstallRequest, install
from update_agent.domain.policy import VersionPolicy
from update_agent.domain.progress import CancelToken, Progress
from update_agent.domain.reader import Expectation
from update_agent.domain.records import SlotRecords
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.domain.targets import Places
from update_agent.domain.trust import KeyRing
from update_agent.host.blockdev import BlockDevice
from update_agent.host.disk import GptDisk
from update_agent.host.staged import StagedFile

CHECKPOINT = "checkpoint.json"
RECORDS = "slots.json"
SECTOR_BYTES = 512


class BytesSource:
    """A payload in memory; remembers from which offsets it was read and how much."""

    def __init__(self, payload: bytes, *, chunk_bytes: int = 5000, size_is_known: bool = True) -> None:
        self.payload = payload
        self.chunk_bytes = chunk_bytes
        self.opened_at: list[int] = []
        self.given_bytes = 0
        self._size_is_known = size_is_known

    name = "payload in memory"

    @property
    def size_bytes(self) -> int | None:
        return len(self.payload) if self._size_is_known else None

    def open(self, offset: int, end: int | None = None) -> Iterator[bytes]:
        self.opened_at.append(offset)
        stop = len(self.payload) if end is None else min(end, len(self.payload))
        for start in range(offset, stop, self.chunk_bytes):
            chunk = self.payload[start : min(start + self.chunk_bytes, stop)]
            self.given_bytes += len(chunk)
            yield chunk

    def close(self) -> None:
        """Nothing to give back."""


class MemoryFile:
    """A state file in a dictionary; replacing it is an event of the journal."""

    def __init__(self, files: dict[str, bytes], name: str, journal: Journal | None = None) -> None:
        self._files = files
        self._name = name
        self._journal = journal

    def read(self, limit_bytes: int) -> bytes | None:
        data = self._files.get(self._name)
        return None if data is None else data[:limit_bytes]

    def replace(self, data: bytes) -> None:
        self._files[self._name] = data
        if self._journal is not None:
            self._journal.replace_file(self._name, data)

    def remove(self) -> None:
        if self._files.pop(self._name, None) is not None and self._journal is not None:
            self._journal.replace_file(self._name, None)


@dataclass(kw_only=True)
class Node:
    """One machine.

    Attributes:
        device: the disk.
        files: state files by name.
        folder: for what is no state file: kernels, spooled operations.
        journal: what was written and flushed, if it is to be recorded.
        kernels: the boot folder in memory, in place of a real `boot_folder`.
        progress: every point that was told.
        progress_sink: told too; may raise or cancel.
        wrap_target: puts a device between the installer and a slot.
    """

    device: BlockDevice
    files: dict[str, bytes] = field(default_factory=dict)
    folder: Path
    journal: Journal | None = None
    boot_folder: Path | None = None
    kernels: BootFolder | None = None
    skip_kernel: bool = False
    progress: list[Progress] = field(default_factory=list)
    progress_sink: Callable[[Progress], None] | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    checkpoint_interval_bytes: int = 16 * 1024
    wrap_target: Callable[[BlockDevice], BlockDevice] = lambda device: device

    @property
    def disk(self) -> GptDisk:
        return GptDisk(self._recorded(self.device))

    @property
    def slots(self) -> SlotTable:
        return SlotTable.from_disk(GptDisk(self.device))

    @property
    def records(self) -> SlotRecords:
        return SlotRecords(MemoryFile(self.files, RECORDS, self.journal))

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(MemoryFile(self.files, CHECKPOINT, self.journal))

    def content(self, name: SlotName) -> bytes:
        slot = self.slots.by_name(name)
        return self.device.read_at(slot.start_bytes, slot.size_bytes)

    def next_boot(self) -> SlotName | None:
        slot = self.slots.next_boot()
        return slot.name if slot else None

    def workplace(self) -> Workplace:
        disk = self.disk

        def open_slot(slot: Slot) -> contextlib.AbstractContextManager[BlockDevice]:
            device: BlockDevice = GptDisk(self.device).region(slot.partition)
            if self.journal is not None:
                # As with the kernel, flushing the disk does not flush what was written through the partition's node.
                device = RecordingDevice(device, self.journal, name=slot.name.label)
            return contextlib.nullcontext(self.wrap_target(device))

        return Workplace(
            disk=disk,
            places=Places(
                open_target=open_slot,
                open_source=open_slot,
                boot_folder=self.boot_folder if self.kernels is None else Path("/boot"),
                skip_kernel=self.skip_kernel,
                state_folder=self.folder,
                stage=StagedFile if self.kernels is None else self.kernels.stage,
            ),
            checkpoints=self.checkpoints,
            records=self.records,
            now=lambda: "2026-01-02T03:04:05Z",
            progress=self._take_progress,
            cancel=self.cancel,
            checkpoint_interval_bytes=self.checkpoint_interval_bytes,
        )

    def install(
        self,
        payload: bytes | BytesSource,
        *,
        keys: Path = RSA_A_PUBLIC,
        expectation: Expectation | None = None,
        versions: VersionPolicy | None = None,
        booted: SlotName | None = None,
        target: SlotName | None = None,
        running_version: str | None = None,
        workers: int = 2,
    ) -> InstallReport:
        source = payload if isinstance(payload, BytesSource) else BytesSource(payload)
        request = InstallRequest(
            source=source,
            keyring=KeyRing.load(keys),
            expectation=expectation or Expectation(),
            versions=versions or VersionPolicy(),
            booted=booted,
            target=target,
            running_version=running_version,
            workers=workers,
        )
        return install(request, self.workplace())

    def _take_progress(self, progress: Progress) -> None:
        self.progress.append(progress)
        if self.progress_sink is not None:
            self.progress_sink(progress)

    def _recorded(self, device: BlockDevice) -> BlockDevice:
        return device if self.journal is None else RecordingDevice(device, self.journal, name="disk")


def make_node(folder: Path, *, usr_bytes: int = 64 * 1024, content_a: bytes = b"", record: bool = False) -> Node:
    """A machine that runs slot A, with nothing in B."""
    image = make_image(ab_parts(sectors=usr_bytes // SECTOR_BYTES))
    device = MemoryDevice.of(bytes(image), name="disk")
    node = Node(device=device, folder=folder, journal=Journal() if record else None)
    slot = node.slots.by_name(SlotName.A)
    device.write_at(slot.start_bytes, content_a.ljust(slot.size_bytes, b"\0"))
    return node
