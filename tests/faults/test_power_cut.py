"""The power goes at every moment of an install: what boots is always a whole release, and installing again works.

Every scenario is installed once on a machine that records each write, flush and state file. From the record every disk
that a power cut could leave is rebuilt and given to a boot loader that shares no code with the package, and then the
same install is run again on it.
"""

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support import firmware
from tests.support.boot_folder import CAPACITY_BYTES, BootFolder
from tests.support.crash import CrashState, crash_states
from tests.support.damage import DamagingDevice
from tests.support.deltas import DeltaScript
from tests.support.devices import Event, FileReplace, Journal, MemoryDevice, Write
from tests.support.images import HAS_SGDISK, Part, ab_parts, boot_attributes, make_image, run_sgdisk
from tests.support.nodes import Node
from tests.support.payloads import RSA_A, RSA_B, PayloadMaker
from update_agent.domain.slots import SlotName
from update_agent.errors import VerificationError
from update_agent.formats.operations import OperationType
from update_agent.host.disk import GptDisk

SEED = int(os.environ.get("POWER_CUT_SEED", "1"))
USR_BYTES = 32 * 1024
KERNEL_BYTES = 5000
BLOCK = 1024
INTERVAL_BYTES = 8 * 1024
BLANK_KERNELS = {"vmlinuz-a.new": bytes(CAPACITY_BYTES), "vmlinuz-b.new": bytes(CAPACITY_BYTES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a slot holds; a kernel of None says that the files of kernels do not matter."""

    usr: bytes
    kernel: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An install and the machine that it is carried out on.

    Attributes:
        known: whole releases by label of the slot, before the install.
        new: what the payload brings.
        target: label of the slot that it goes to.
        disk: the machine's disk before.
        files: state files and kernels before.
        saves: whether the machine can save a running hash; without, there are no checkpoints.
        least_states: fewer states than that mean that the test has lost its power.
    """

    payload: bytes
    known: Mapping[str, Release]
    new: Release
    target: str = "USR-B"
    disk: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)
    staged: Mapping[str, bytes] = field(default_factory=lambda: BLANK_KERNELS)
    workers: int = 1
    saves: bool = True
    least_states: int = 300


def content(seed: int, size_bytes: int = USR_BYTES) -> bytes:
    """Bytes that compress to about half."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(32) + bytes(32) for _ in range(-(-size_bytes // 64)))[:size_bytes]


OLD = Release(usr=content(1), kernel=content(11, KERNEL_BYTES))
NEW = Release(usr=content(2), kernel=content(12, KERNEL_BYTES))
NEWER = Release(usr=content(3), kernel=content(13, KERNEL_BYTES))


def disk_of(a: Release, b: Release | None = None, *, parts: tuple[Part, ...] | None = None) -> bytes:
    """A disk that holds these releases; as it comes from the factory unless `parts` say something else."""
    image = make_image(parts or ab_parts(sectors=USR_BYTES // 512))
    for entry in firmware.read_entries(bytes(image)) or []:
        release = a if entry.label == "USR-A" else b
        if release is not None:
            image[entry.start : entry.end] = release.usr
    return bytes(image)


def kernels_of(a: Release, b: Release | None = None) -> dict[str, bytes]:
    files = {"vmlinuz-a": a.kernel or b""}
    return files if b is None else {**files, "vmlinuz-b": b.kernel or b""}


def full(new: Release, *, major: int = 2, kernel: bool = False) -> bytes:
    """A full payload of small operations; major version 2 uses every compression."""
    maker = PayloadMaker(
        usr=new.usr, kernel=new.kernel if kernel else None, major=major, op_bytes=2048, block_size=BLOCK
    )
    if major == 2:
        maker.types = (OperationType.REPLACE_ZSTD, OperationType.REPLACE_XZ, OperationType.REPLACE_ZSTD)
    return maker.make()


def source_delta() -> tuple[bytes, Release]:
    """Major version 2: reads the slot that runs."""
    script = DeltaScript(OLD.usr, block_size=BLOCK)
    script.copy([(0, 4), (8, 4)], [(6, 2), (0, 6)])
    script.patch([(10, 8)], [(8, 8)], content(21, 8 * BLOCK))
    script.clear(OperationType.ZERO, [(16, 2)])
    script.replace(OperationType.REPLACE_ZSTD, [(18, 2), (24, 2)], content(22, 4 * BLOCK))
    script.clear(OperationType.DISCARD, [(20, 4)])
    script.replace(OperationType.REPLACE_BZ, [(26, 4)], content(23, 4 * BLOCK))
    script.copy([(30, 2)], [(30, 2)])
    usr = bytes(script.content)
    maker = PayloadMaker(usr=usr, old_usr=OLD.usr, operations=script.steps, block_size=BLOCK, minor_version=3)
    return maker.make(), Release(usr=usr)


def in_place_script(old: bytes) -> DeltaScript:
    """Major version 1: reads what it overwrites, in every way that makes the order matter."""
    script = DeltaScript(old, block_size=BLOCK, in_place=True)
    script.copy([(0, 8)], [(4, 8)])  # overlaps itself
    script.patch([(16, 6)], [(16, 6)], content(31, 6 * BLOCK))  # in its own place
    script.copy([(24, 4)], [(0, 4)])
    script.replace(OperationType.REPLACE_BZ, [(24, 4)], content(32, 4 * BLOCK))  # over what was just read
    script.patch([(12, 4)], [(28, 4)], content(33, 3 * BLOCK + 100), src_length=3 * BLOCK + 7)
    script.copy([(22, 2), (28, 2)], [(12, 4)])  # over what was just read, from what was just written
    script.replace(OperationType.REPLACE, [(22, 2)], content(34, 2 * BLOCK))
    script.copy([(10, 2)], [(20, 2)])
    script.copy([(20, 2)], [(10, 2)])  # and back: must not be lost
    script.replace(OperationType.REPLACE_BZ, [(20, 2)], content(35, 2 * BLOCK))
    return script


def in_place_delta() -> tuple[bytes, Release]:
    script = in_place_script(OLD.usr)
    usr = bytes(script.content)
    maker = PayloadMaker(usr=usr, old_usr=OLD.usr, operations=script.steps, major=1, block_size=BLOCK)
    return maker.make(), Release(usr=usr)


def full_with_kernel_delta() -> tuple[bytes, Release]:
    """A part whose order does not matter, then one whose order does."""
    old = (OLD.kernel or b"").ljust(5 * BLOCK, b"\0")
    script = DeltaScript(old, block_size=BLOCK, in_place=True)
    script.patch([(0, 2)], [(0, 2)], content(41, 2 * BLOCK))
    script.copy([(1, 3)], [(2, 3)])
    kernel = bytes(script.content[:KERNEL_BYTES])
    maker = PayloadMaker(usr=NEW.usr, kernel=kernel, major=1, op_bytes=2048, block_size=BLOCK)
    maker.kernel_operations, maker.old_kernel = script.steps, OLD.kernel
    maker.mutate_manifest = lambda manifest: manifest.ClearField("noop_operations")
    return maker.make(), Release(usr=NEW.usr, kernel=kernel)


def fresh(payload: bytes, new: Release, *, workers: int = 1, disk: bytes | None = None) -> Scenario:
    """From the release of the factory in A to a new one in B."""
    return Scenario(
        payload=payload,
        known={"USR-A": OLD},
        new=new,
        disk=disk or disk_of(OLD),
        files=kernels_of(OLD),
        workers=workers,
    )


def spread_table() -> Scenario:
    """The slots' entries are in different sectors of the table."""
    parts = [part for part in ab_parts(sectors=USR_BYTES // 512) if part.label != "ROOT"]
    spread = [replace(part, number=30) if part.label == "USR-B" else part for part in parts]
    return fresh(full(NEW), Release(usr=NEW.usr), disk=disk_of(OLD, parts=tuple(spread)))


def pending_superseded() -> Scenario:
    """B was installed and waits for its boot; something newer comes."""
    flags = {"a": boot_attributes(1, 0, 1), "b": boot_attributes(2, 1, 0)}
    return Scenario(
        payload=full(NEWER, major=1, kernel=True),
        known={"USR-A": OLD, "USR-B": NEW},
        new=NEWER,
        disk=disk_of(OLD, NEW, parts=ab_parts(sectors=USR_BYTES // 512, **flags)),
        files=kernels_of(OLD, NEW),
        workers=2,
    )


def b_to_a() -> Scenario:
    """B runs and is good, and A still holds the release before."""
    flags = {"a": boot_attributes(1, 0, 1), "b": boot_attributes(2, 0, 1)}
    return Scenario(
        payload=full(NEWER, kernel=True),
        known={"USR-A": OLD, "USR-B": NEW},
        new=NEWER,
        target="USR-A",
        disk=disk_of(OLD, NEW, parts=ab_parts(sectors=USR_BYTES // 512, **flags)),
        files=kernels_of(OLD, NEW),
    )


def damaged_table(lba: int) -> Scenario:
    """One copy of the partition table was damaged before; its repair must not open a gap."""
    scenario = pending_superseded()  # so that both flags change, and not only the damage goes
    disk = bytearray(scenario.disk)
    disk[lba * 512 + 20 if lba >= 0 else len(disk) + lba * 512 + 20] ^= 0xFF
    return replace(scenario, disk=bytes(disk), workers=1)


def half_way(whole: Scenario, folder: Path, *, done: float) -> Scenario:
    """The same, after an earlier attempt was cut off."""
    events = record(whole, folder)
    events = events[: int(len(events) * done)]
    *_, last = states_after(whole, initial_devices(whole), whole.files, events, subsets=0)
    return Scenario(
        payload=whole.payload,
        known=whole.known,
        new=whole.new,
        target=whole.target,
        disk=last.devices["disk"],
        files=last.files,
        staged={name: data for name, data in last.devices.items() if name.endswith(".new")},
        workers=whole.workers,
        least_states=100,
    )


SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "v2-full": lambda _: fresh(full(NEW), Release(usr=NEW.usr)),
    "v2-full-two-workers": lambda _: fresh(full(NEW, kernel=True), NEW, workers=2),
    "v2-delta": lambda _: fresh(*source_delta()),
    "v2-delta-two-workers": lambda _: fresh(*source_delta(), workers=2),
    "v1-full-kernel": lambda _: fresh(full(NEW, major=1, kernel=True), NEW),
    "v1-full-kernel-two-workers": lambda _: fresh(full(NEW, major=1, kernel=True), NEW, workers=2),
    "v1-in-place": lambda _: fresh(*in_place_delta()),
    "v1-in-place-half-way": lambda folder: half_way(fresh(*in_place_delta()), folder, done=0.6),
    "v1-full-kernel-in-place": lambda _: fresh(*full_with_kernel_delta(), workers=2),
    "spread-table": lambda _: spread_table(),
    "pending-superseded": lambda _: pending_superseded(),
    "b-to-a": lambda _: b_to_a(),
    "half-way": lambda folder: half_way(b_to_a(), folder, done=0.5),
    "nearly-done": lambda folder: half_way(pending_superseded(), folder, done=0.9),
    "damaged-primary": lambda _: damaged_table(1),
    "damaged-primary-entries": lambda _: damaged_table(3),
    "no-checkpoints": lambda _: replace(fresh(full(NEW, kernel=True), NEW), saves=False),
    "no-checkpoints-in-place": lambda _: replace(fresh(*in_place_delta()), saves=False),
    "damaged-backup": lambda _: damaged_table(-1),
}


def initial_devices(scenario: Scenario) -> dict[str, bytes]:
    return {**BLANK_KERNELS, **scenario.staged, **split_disk(scenario.disk)}


def split_disk(disk: bytes) -> dict[str, bytes]:
    """The disk and its slots: each has a cache of its own in the kernel, and is flushed on its own."""
    entries = firmware.read_entries(disk) or []
    return {"disk": disk, **{entry.label: disk[entry.start : entry.end] for entry in entries}}


def join_disk(state: CrashState, before: bytes) -> CrashState:
    """What the medium holds: the slots within the disk."""
    disk = bytearray(state.devices["disk"])
    for entry in firmware.read_entries(before) or []:
        disk[entry.start : entry.end] = state.devices[entry.label]
    return replace(state, devices={**state.devices, **split_disk(bytes(disk)), "disk": bytes(disk)})


def states_after(
    scenario: Scenario, start: Mapping[str, bytes], files: Mapping[str, bytes], events: Sequence[Event], subsets: int
) -> Iterator[CrashState]:
    """Every state of the journal, with the slots put into the disk."""
    states = crash_states(
        start, events, files=files, torn=lambda event: isinstance(event, Write), subsets=subsets, seed=SEED
    )
    return (join_disk(state, scenario.disk) for state in states)


def build_node(devices: Mapping[str, bytes], files: Mapping[str, bytes], folder: Path, journal: Journal | None) -> Node:
    """A machine that was switched on again."""
    now = dict(files)
    staged = {name: MemoryDevice.of(data, name=name) for name, data in devices.items() if name.endswith(".new")}
    return Node(
        device=MemoryDevice.of(devices["disk"], name="disk"),
        files=now,
        folder=folder,
        journal=journal,
        kernels=BootFolder(files=now, staged=staged, journal=journal),
        checkpoint_interval_bytes=INTERVAL_BYTES,
    )


def record(scenario: Scenario, folder: Path) -> tuple[Event, ...]:
    """Install once; everything that reached the disk and the state files, in order."""
    journal = Journal()
    node = build_node(initial_devices(scenario), scenario.files, folder, journal)
    node.install(scenario.payload, workers=scenario.workers)
    return journal.events


def possible_states(scenario: Scenario, events: tuple[Event, ...]) -> Iterator[CrashState]:
    """Everything that the power may leave."""
    yield from states_after(scenario, initial_devices(scenario), scenario.files, events, subsets=6)
    for state in torn_state_files(scenario, events):
        yield join_disk(state, scenario.disk)


def torn_state_files(scenario: Scenario, events: tuple[Event, ...]) -> Iterator[CrashState]:
    """A state file is replaced whole or not at all; if a file system breaks that, nothing worse may come of it."""
    disks = {name: bytearray(data) for name, data in initial_devices(scenario).items()}
    files = dict(scenario.files)
    for number, event in enumerate(events):
        if isinstance(event, Write):
            disks[event.device][event.offset : event.offset + len(event.data)] = event.data
        elif isinstance(event, FileReplace) and event.name.endswith(".json"):
            for torn in torn_versions(files.get(event.name, b""), event.data or b""):
                yield CrashState(
                    description=f"event {number}: {event.name} torn",
                    devices={name: bytes(data) for name, data in disks.items()},
                    files={**files, event.name: torn},
                )
        if isinstance(event, FileReplace):
            files = {name: data for name, data in files.items() if name != event.name}
            files |= {event.name: event.data} if event.data is not None else {}


def torn_versions(old: bytes, new: bytes) -> Iterator[bytes]:
    for cut in sorted({0, 1, len(new) // 2, *range(512, len(new), 512), max(len(new) - 1, 0)}):
        yield new[:cut]
        yield new[:cut] + old[cut:]


def check_boot(scenario: Scenario, state: CrashState) -> None:
    """Invariant 1: whatever boots is whole, with its own kernel."""
    disk = state.devices["disk"]
    chosen = firmware.choose(disk)
    assert chosen is not None, f"{state.description}: nothing boots"
    usr = disk[chosen.start : chosen.end]
    releases = [scenario.known.get(chosen.label), scenario.new if chosen.label == scenario.target else None]
    kernel = state.files.get(f"vmlinuz-{chosen.label[-1].lower()}")
    whole = [release for release in releases if release is not None and release.usr == usr]
    assert whole, f"{state.description}: {chosen.label} would boot without a whole release"
    assert any(release.kernel in (None, kernel) for release in whole), f"{state.description}: {chosen.label}: kernel"


def check_again(scenario: Scenario, state: CrashState, folder: Path) -> Node:
    """The same install once more ends well, whatever the first one left."""
    node = build_node(state.devices, state.files, folder, None)
    report = node.install(scenario.payload, workers=scenario.workers)
    assert report.slot is SlotName(scenario.target[-1]), state.description
    disk = node.device.read_at(0, node.device.size_bytes)
    chosen = firmware.choose(disk)
    assert chosen is not None, state.description
    assert (chosen.label, chosen.tries) == (scenario.target, 1), state.description
    assert disk[chosen.start : chosen.end] == scenario.new.usr, state.description
    if scenario.new.kernel is not None:
        assert node.files[f"vmlinuz-{chosen.label[-1].lower()}"] == scenario.new.kernel, state.description
    assert GptDisk(node.device).problems == (), state.description
    assert not [name for name in node.files if name.endswith(".new") or name == "checkpoint.json"], state.description
    return node


def digest(state: CrashState) -> bytes:
    found = hashlib.sha1(usedforsecurity=False)
    for name, data in sorted(itertools.chain(state.devices.items(), state.files.items())):
        found.update(name.encode() + b"\0" + len(data).to_bytes(8, "big"))
        found.update(data)
    return found.digest()


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_anywhere_boots_whole_release_and_installs_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS[name](tmp_path)
    if not scenario.saves:
        monkeypatch.setattr("update_agent.host.sha256._load_library", lambda: None)
    events = record(scenario, tmp_path)
    rng = random.Random(SEED)
    tried = 0
    different: set[bytes] = set()
    for state in possible_states(scenario, events):
        tried += 1
        if (key := digest(state)) in different:
            continue
        different.add(key)
        check_boot(scenario, state)
        node = check_again(scenario, state, tmp_path)
        if HAS_SGDISK and rng.random() < 0.02:
            image = tmp_path / "image"
            image.write_bytes(node.device.read_at(0, node.device.size_bytes))
            assert "No problems found" in run_sgdisk(image, "--verify")
    print(f"{name}: {tried} states, {len(different)} of them different, {len(events)} events, seed {SEED}")
    assert tried >= scenario.least_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A payload that must not be activated, and a device that may be to blame."""

    payload: bytes
    damages: bool = False


REFUSED = {
    "payload-signed-by-another-key": Refused(
        payload=PayloadMaker(
            usr=NEW.usr, kernel=NEW.kernel, keys=(RSA_B,), metadata_keys=(RSA_A,), op_bytes=4096, block_size=BLOCK
        ).make()
    ),
    "v1-signed-by-another-key": Refused(
        payload=PayloadMaker(
            usr=NEW.usr, kernel=NEW.kernel, keys=(RSA_B,), major=1, op_bytes=4096, block_size=BLOCK
        ).make()
    ),
    "medium-that-damages": Refused(payload=full(NEW, kernel=True), damages=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_power_cut_during_refused_install_boots_release_that_ran(name: str, tmp_path: Path) -> None:
    """Not even for one moment is the other slot bootable."""
    journal = Journal()
    scenario = fresh(REFUSED[name].payload, NEW)
    start = initial_devices(scenario)
    node = build_node(start, scenario.files, tmp_path, journal)
    if REFUSED[name].damages:
        node.wrap_target = DamagingDevice
    with pytest.raises(VerificationError):
        node.install(REFUSED[name].payload, workers=1)
    states = list(states_after(scenario, start, scenario.files, journal.events, subsets=4))
    for state in states:
        chosen = firmware.choose(state.devices["disk"])
        assert chosen is not None, state.description
        assert chosen.label == "USR-A", state.description
        assert state.devices["disk"][chosen.start : chosen.end] == OLD.usr, state.description
        assert state.files["vmlinuz-a"] == OLD.kernel, state.description
        assert "vmlinuz-b" not in state.files, state.description
    print(f"{name}: {len(states)} states, seed {SEED}")
    assert len(states) >= 150


@pytest.mark.parametrize("name", ["v2-full", "v1-in-place", "v1-full-kernel-in-place", "b-to-a"])
def test_second_power_cut_during_next_attempt_boots_whole_release_and_installs_again(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name](tmp_path)
    first = list(possible_states(scenario, record(scenario, tmp_path)))
    rng = random.Random(SEED)
    tried = 0
    for start in rng.sample(first, 4):
        journal = Journal()
        build_node(start.devices, start.files, tmp_path, journal).install(scenario.payload)
        second = list(states_after(scenario, start.devices, start.files, journal.events, subsets=1))
        for state in second:
            check_boot(scenario, state)
        for state in rng.sample(second, min(20, len(second))):
            tried += 1
            check_again(scenario, state, tmp_path)
    print(f"{name}: {tried} states after a second cut, seed {SEED}")
    assert tried >= 40
