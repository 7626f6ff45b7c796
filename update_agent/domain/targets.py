"""Where each part of a payload goes on this machine, and where its old content is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from update_agent.domain.apply import PartApplier, has_in_place, is_delta
from update_agent.domain.progress import (
    CancelToken,
    CombinedProgress,
    Phase,
    Progress,
    ProgressSink,
    ignore_progress,
)
from update_agent.domain.readback import hash_device, verify_source
from update_agent.domain.slots import Slot
from update_agent.errors import ConfigurationError, DeviceError, InstallError, Kind
from update_agent.formats.manifest import ContentInfo, Manifest, Part, PartName
from update_agent.host.blockdev import BlockDevice
from update_agent.host.staged import StagedFile

_COPY_BYTES = 1024 * 1024


class Staged(Protocol):
    """What `update_agent.host.staged.StagedFile` does."""

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run left something to go on with."""

    def require_space(self, size_bytes: int) -> None:
        """Refuse now what could not be finished later."""

    def open(self, size_bytes: int) -> AbstractContextManager[BlockDevice]:
        """The new file, for the length of a block."""

    def open_current(self) -> AbstractContextManager[BlockDevice]:
        """The file in place, for the length of a block."""

    def trim(self, size_bytes: int) -> None:
        """Give the new file its length; durable on return."""

    def commit(self) -> None:
        """Move the new file into place; durable on return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the machine offers.

    Attributes:
        open_target: a slot's partition for writing, for the length of a block; refuses one that is in use.
        open_source: a slot's partition for reading, for the length of a block.
        boot_folder: where `vmlinuz-a` and `vmlinuz-b` are, or None if the kernels are out of reach.
        skip_kernel: install a payload with a kernel although its kernel goes nowhere.
        state_folder: for policy files and large operations.
        stage: how a file is written beside its place.
    """

    open_target: Callable[[Slot], AbstractContextManager[BlockDevice]]
    open_source: Callable[[Slot], AbstractContextManager[BlockDevice]]
    boot_folder: Path | None
    skip_kernel: bool
    state_folder: Path
    stage: Callable[[Path], Staged] = StagedFile

    def is_kept(self, part: PartName) -> bool:
        """Whether a part goes to a place of its own; else it is read, verified and dropped."""
        return part is not PartName.KERNEL or not self.skip_kernel

    def file_for(self, part: PartName, slot: Slot) -> Path:
        """The file that the kernel or the policy of `slot` is kept in.

        Raises:
            ConfigurationError: kernel-target-missing.
        """
        if part is PartName.PCR_POLICY:
            return self.state_folder / f"pcrs-{slot.name.lower()}.zip"
        if self.boot_folder is None:
            raise ConfigurationError(
                Kind.KERNEL_TARGET_MISSING,
                "install: the payload holds a kernel, and nobody said where kernels are kept",
                hint="give --boot-dir DIR, or --skip-kernel if the boot loader takes it from elsewhere",
            )
        return self.boot_folder / f"vmlinuz-{slot.name.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTarget:
    """One part on its way to its place.

    Attributes:
        part: what the manifest says.
        new: size and hash of the result.
        device: where it is written; None when an earlier run has put it in place already.
        staged: the file behind `device`, or None for a partition.
        old: the device with the old content, for deltas.
    """

    part: Part
    new: ContentInfo
    device: BlockDevice | None
    staged: Staged | None
    old: BlockDevice | None

    def applier(self, manifest: Manifest, spool_folder: Path) -> PartApplier | None:
        """Who carries out the part's operations; None when there is nothing left to write."""
        if self.device is None:
            return None
        return PartApplier(
            target=self.device, source=self.old, block_size=manifest.block_size, spool_folder=spool_folder
        )


@contextmanager
def open_targets(
    manifest: Manifest, target: Slot, booted: Slot | None, places: Places
) -> Iterator[tuple[PartTarget, ...]]:
    """Open every place that the payload's parts go to; nothing is written, but staged files are made.

    Raises:
        DeviceError: device-too-small, no-space, device-open.
        InstallError: source-missing, when a delta has no old content to start from.
        ConfigurationError: kernel-target-missing.
        RefusedError: target-busy.
    """
    with ExitStack() as stack:
        yield tuple(
            opened
            for part in manifest.parts
            if (opened := _open_target(part, manifest, target, booted, places, stack)) is not None
        )


def _open_target(
    part: Part, manifest: Manifest, target: Slot, booted: Slot | None, places: Places, stack: ExitStack
) -> PartTarget | None:
    if part.new is None or not places.is_kept(part.name):
        return None
    if part.name is PartName.USR:
        device = stack.enter_context(places.open_target(target))
        _require_room(device, part.new)
        source = stack.enter_context(places.open_source(_require_booted(booted))) if is_delta(part) else None
        return PartTarget(part=part, new=part.new, device=device, staged=None, old=source)
    staged = places.stage(places.file_for(part.name, target))
    old = _open_old_file(part, _require_booted(booted), places, stack) if is_delta(part) else None
    return _open_file_target(part, part.new, staged, manifest, old, stack)


def _open_file_target(
    part: Part, new: ContentInfo, staged: Staged, manifest: Manifest, old: BlockDevice | None, stack: ExitStack
) -> PartTarget:
    if not staged.is_begun and _holds(staged, new):
        return PartTarget(part=part, new=new, device=None, staged=None, old=None)
    largest = max(new.size_bytes, part.old.size_bytes if part.old and has_in_place(part) else 0)
    room = -(-largest // manifest.block_size) * manifest.block_size
    staged.require_space(room)
    return PartTarget(part=part, new=new, device=stack.enter_context(staged.open(room)), staged=staged, old=old)


def _holds(staged: Staged, content: ContentInfo) -> bool:
    """Whether the file in place is the wanted one: an earlier run was cut off right before it finished."""
    try:
        with staged.open_current() as device:
            if device.size_bytes != content.size_bytes:
                return False
            found = hash_device(
                device, device.size_bytes, phase=Phase.CHECKING, progress=ignore_progress, cancel=CancelToken()
            )
            return found == content.sha256
    except DeviceError:
        return False


def _open_old_file(part: Part, booted: Slot, places: Places, stack: ExitStack) -> BlockDevice:
    try:
        return stack.enter_context(places.stage(places.file_for(part.name, booted)).open_current())
    except DeviceError as error:
        raise InstallError(
            Kind.SOURCE_MISSING,
            f"install: the payload changes the old {part.name}, and it cannot be read: {error.message}",
            hint="install a full payload",
        ) from error


def _require_booted(booted: Slot | None) -> Slot:
    if booted is None:
        raise InstallError(
            Kind.SOURCE_MISSING,
            "install: the payload is a delta, and no slot holds a release to start from",
            hint="install a full payload",
        )
    return booted


def _require_room(device: BlockDevice, new: ContentInfo) -> None:
    if new.size_bytes > device.size_bytes:
        raise DeviceError(
            Kind.DEVICE_TOO_SMALL,
            f"{device.name}: expected room for {new.size_bytes} bytes, found {device.size_bytes}",
            hint="the payload is for a larger partition",
        )


def verify_sources(targets: Sequence[PartTarget], *, progress: ProgressSink, cancel: CancelToken) -> None:
    """Refuse a delta whose old content is not there, before anything is changed.

    Raises:
        VerificationError: source-hash.
        DeviceError: from the devices.
        InterruptedByUserError: interrupted.
    """
    sources = [(target.old, target.part.old) for target in targets if target.old is not None]
    known = [(device, expected) for device, expected in sources if expected is not None]
    combined = CombinedProgress(progress, sum(expected.size_bytes for _, expected in known))
    for device, expected in known:
        verify_source(device, expected, progress=combined, cancel=cancel)


def copy_old_content(targets: Sequence[PartTarget], *, progress: ProgressSink, cancel: CancelToken) -> None:
    """Give in-place deltas the old content that they change; durable on return.

    Raises:
        DeviceError: from the devices.
        InterruptedByUserError: interrupted.
    """
    copies = [
        (target.old, target.device, min(target.old.size_bytes, target.device.size_bytes))
        for target in targets
        if target.device is not None and target.old is not None and has_in_place(target.part)
    ]
    combined = CombinedProgress(progress, sum(size for _, _, size in copies))
    for old, new, size in copies:
        for offset in range(0, size, _COPY_BYTES):
            cancel.raise_if_cancelled()
            piece = old.read_at(offset, min(_COPY_BYTES, size - offset))
            new.write_at(offset, piece)
            combined(Progress(phase=Phase.COPYING, done_bytes=offset + len(piece), total_bytes=size))
        new.flush()


def flush_targets(targets: Sequence[PartTarget]) -> None:
    """Durable on return.

    Raises:
        DeviceError: from the devices.
    """
    for target in targets:
        if target.device is not None:
            target.device.flush()
