"""A payload checked, or unpacked into files, away from any disk with slots."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from update_agent.domain.apply import PartApplier, has_in_place, is_delta
from update_agent.domain.checkpoint import Checkpoint
from update_agent.domain.pipeline import CHECKPOINT_INTERVAL_BYTES, OperationPipeline
from update_agent.domain.progress import CancelToken, CombinedProgress, ProgressSink
from update_agent.domain.readback import verify_content, verify_source
from update_agent.domain.reader import Expectation, PayloadReader, Proof, reading
from update_agent.domain.trust import KeyRing
from update_agent.errors import ConfigurationError, InstallError, Kind
from update_agent.formats.manifest import ContentInfo, Manifest, Part, PartName
from update_agent.host.blockdev import BlockDevice, FileDevice
from update_agent.host.staged import StagedFile
from update_agent.net.source import PayloadSource


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackRequest:
    """What to read, whom to trust, and where parts go.

    Attributes:
        source: the payload.
        keyring: whose signature counts.
        outputs: file per part; a part without one is verified and dropped.
        old_contents: file per part that a delta starts from.
        spool_folder: for large operations.
        workers: threads.
    """

    source: PayloadSource
    keyring: KeyRing
    outputs: Mapping[PartName, Path]
    old_contents: Mapping[PartName, Path]
    spool_folder: Path
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    new: ContentInfo
    staged: StagedFile
    device: FileDevice
    applier: PartApplier


class _NoWayBack:
    """A checkpointer for what is done in one go."""

    def snapshot(self, next_operation: int) -> Checkpoint | None:
        return None

    def save(self, snapshot: Checkpoint) -> None:
        """Never called: there are no snapshots."""

    def forbid(self) -> None:
        """Nothing was saved."""


def unpack(request: UnpackRequest, *, progress: ProgressSink, cancel: CancelToken) -> tuple[Manifest, Proof]:
    """Verify a payload whole, and give its parts their files only if everything holds.

    Raises:
        UpdateAgentError: any of the tree; no output file was made or changed.
    """
    with ExitStack() as stack, reading(request.source, request.keyring, Expectation()) as reader:
        manifest = reader.begin()
        outputs = dict(_open_outputs(request, manifest, stack))
        for name, output in outputs.items():
            part = manifest.part(name)
            if output.applier.source is not None and part is not None and part.old is not None:
                verify_source(output.applier.source, part.old, progress=progress, cancel=cancel)
        _pipeline(request, reader, outputs, progress, cancel).run(manifest, 0)
        proof = reader.finish(manifest)
        combined = CombinedProgress(progress, sum(output.new.size_bytes for output in outputs.values()))
        for name, output in outputs.items():
            output.device.flush()
            verify_content(output.device, output.new, name, progress=combined, cancel=cancel)
        for output in outputs.values():
            output.staged.trim(output.new.size_bytes)
            output.staged.commit()
    return manifest, proof


def _pipeline(
    request: UnpackRequest,
    reader: PayloadReader,
    outputs: Mapping[PartName, _Output],
    progress: ProgressSink,
    cancel: CancelToken,
) -> OperationPipeline:
    return OperationPipeline(
        reader=reader,
        appliers={name: output.applier for name, output in outputs.items()},
        checkpointer=_NoWayBack(),
        workers=request.workers,
        spool_folder=request.spool_folder,
        checkpoint_interval_bytes=CHECKPOINT_INTERVAL_BYTES,
        progress=progress,
        cancel=cancel,
    )


def _open_outputs(request: UnpackRequest, manifest: Manifest, stack: ExitStack) -> Iterator[tuple[PartName, _Output]]:
    for name, path in request.outputs.items():
        part = manifest.part(name)
        if part is None or part.new is None:
            raise ConfigurationError(
                Kind.USAGE, f"{request.source.name}: the payload has no part {name}", hint="see `payload inspect`"
            )
        yield name, _open_output(request, manifest, part, part.new, path, stack)


def _open_output(
    request: UnpackRequest, manifest: Manifest, part: Part, new: ContentInfo, path: Path, stack: ExitStack
) -> _Output:
    if has_in_place(part):
        raise InstallError(
            Kind.OPERATION_FAILED,
            f"{part.name}: the payload changes a partition in place and cannot be unpacked",
            hint="install it on a disk image instead",
        )
    staged = StagedFile(path)
    staged.discard()
    stack.callback(staged.discard)  # after a commit there is nothing left to discard
    room = -(-new.size_bytes // manifest.block_size) * manifest.block_size
    device = stack.enter_context(staged.open(room))
    applier = PartApplier(
        target=device,
        source=_open_old(request, part, stack) if is_delta(part) else None,
        block_size=manifest.block_size,
        spool_folder=request.spool_folder,
    )
    return _Output(new=new, staged=staged, device=device, applier=applier)


def _open_old(request: UnpackRequest, part: Part, stack: ExitStack) -> BlockDevice:
    path = request.old_contents.get(part.name)
    if path is None:
        raise InstallError(
            Kind.SOURCE_MISSING,
            f"{part.name}: the payload is a delta, and nobody said what it starts from",
            hint=f"give --source-{part.name} FILE",
        )
    return stack.enter_context(FileDevice(path))
