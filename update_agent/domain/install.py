"""An install, from the first byte of the payload to the flags that make it boot next.

    1. Header, metadata signature and manifest are read and checked (`reader`).
    2. The policy is asked: is the release newer, is the target not the running slot? If the target holds just this
       content already and boots next, there is nothing to do.
    3. Every place is opened and has room; a delta's old content is the right one. Nothing was changed so far.
    4. An earlier attempt at the same payload is taken up; any other is forgotten.
    5. The target is made unbootable - priority, tries, successful 0, flushed - and recorded as incomplete.
    6. In-place deltas only: the old content is copied to the target.
    7. Operations are carried out as their data arrives (`pipeline`); checkpoints name what was flushed.
    8. The payload signature is verified, and that the file ends there.
    9. The targets are flushed, read back past the page cache, and compared with the manifest (`verification`). What was
       flushed for a checkpoint and is not written again has been read back meanwhile.
    10. Kernel and policy files are moved into place; what the release itself wants to do first is done (`postinstall`).
    11. The target is recorded as complete, and activated: top priority, one try.
    12. The checkpoint is removed.

At every point in between, a power cut leaves the running slot as the one that boots, or, after step 11, the new one.
Running the install again goes on from the last checkpoint, or begins anew where that is not possible.
"""

from dataclasses import dataclass, field

from update_agent.domain import activation
from update_agent.domain.attempt import Attempt, Workplace
from update_agent.domain.policy import VersionPolicy, choose_version
from update_agent.domain.reader import Expectation, reading
from update_agent.domain.records import SlotRecords
from update_agent.domain.slots import Slot, SlotName, SlotTable
from update_agent.domain.targets import open_targets
from update_agent.domain.trust import KeyRing
from update_agent.formats.manifest import Manifest, PartName
from update_agent.net.source import PayloadSource


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What to install, and what is allowed.

    Attributes:
        source: where the payload comes from.
        keyring: whose signature counts.
        expectation: what the update server announced.
        running_version: release of the booted slot; None takes what is recorded for it.
        versions: which release may follow.
        booted: the slot that runs; None derives it from the flags.
        target: the slot to write; None takes the one that does not run.
        workers: threads that decompress and write.
    """

    source: PayloadSource
    keyring: KeyRing
    expectation: Expectation = field(default_factory=Expectation)
    running_version: str | None = None
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    booted: SlotName | None = None
    target: SlotName | None = None
    workers: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallReport:
    """What was installed.

    Attributes:
        slot: the slot that boots next.
        version: its release, or None if neither the payload nor the server said.
        previous_version: release of the slot that ran, or None if unknown.
        key: name of the key that had signed; None if the slot held this release already and boots next.
        payload_bytes: size of the payload; 0 likewise.
        resumed_at_bytes: blob bytes that an earlier attempt had done; 0 for a fresh start.
    """

    slot: SlotName
    version: str | None
    previous_version: str | None
    key: str | None = None
    payload_bytes: int = 0
    resumed_at_bytes: int = 0


def install(request: InstallRequest, workplace: Workplace) -> InstallReport:
    """Carry out steps 1 to 12; the new slot boots next on return. The caller holds the disk's lock.

    Raises:
        UpdateAgentError: any of the tree; the slot that ran is untouched and boots.
    """
    with reading(request.source, request.keyring, request.expectation) as reader:
        checkpoint = workplace.checkpoints.load()
        manifest = reader.begin(checkpoint.metadata_bytes if checkpoint else None)  # step 1
        slots = SlotTable.from_disk(workplace.disk)  # step 2
        booted = slots.booted(request.booted)
        target = slots.target(booted, request.target)
        version = choose_version(manifest.version, request.expectation.version)
        running = request.running_version or recorded_version(workplace.records, booted)
        if _is_waiting(target, slots, manifest, workplace.records):
            # The power may have failed during the last steps: finish them.
            activation.activate(workplace.disk, target)
            workplace.checkpoints.clear()
            return InstallReport(slot=target.name, version=version, previous_version=running)
        request.versions.check(version, running)
        with open_targets(manifest, target, booted, workplace.places) as targets:  # step 3
            attempt = Attempt(
                workplace=workplace,
                reader=reader,
                manifest=manifest,
                slot=target,
                targets=targets,
                version=version or "",
                checkpoint=checkpoint,
                workers=request.workers,
            )
            proof, resumed_at_bytes = attempt.run()  # steps 3 to 12
    return InstallReport(
        slot=target.name,
        version=version,
        previous_version=running,
        key=proof.key,
        payload_bytes=proof.size_bytes,
        resumed_at_bytes=resumed_at_bytes,
    )


def _is_waiting(target: Slot, slots: SlotTable, manifest: Manifest, records: SlotRecords) -> bool:
    """Whether an earlier install has brought just this content, and it boots next."""
    record, usr = records.get(target.unique_guid), manifest.part(PartName.USR)
    return (
        record is not None
        and record.is_complete
        and usr is not None
        and usr.new is not None
        and record.sha256 == usr.new.sha256.hex()
        and slots.next_boot() == target
    )


def recorded_version(records: SlotRecords, slot: Slot | None) -> str | None:
    """The release that the agent put into `slot`, or None if it did not or did not finish."""
    record = records.get(slot.unique_guid) if slot else None
    return record.version or None if record and record.is_complete else None
