"""What the disk may hold after the power went: states made from the initial contents and a journal.

The model: a flush makes the writes before it durable; of the writes since then any subset may have
reached the medium, and a write may be torn between two 512-byte sectors. A file event is atomic and
durable at once, unless the caller says that it may be torn too.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.devices import Event, FileReplace, Flush, MemoryDevice, Write

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashState:
    """Contents by name after a crash; `description` says where and how, for messages of tests."""

    description: str
    devices: Mapping[str, bytes]
    files: Mapping[str, bytes]

    def device(self, name: str) -> MemoryDevice:
        """A fresh device with this state's content."""
        return MemoryDevice.of(self.devices[name], name=name)


def never(_event: Write | FileReplace) -> bool:
    """No event is torn."""
    return False


def always(_event: Write | FileReplace) -> bool:
    """Every event is torn at every sector."""
    return True


@dataclass(slots=True)
class _Medium:
    """One device: what is durable for sure, what a reader sees, and the writes between the two."""

    durable: bytearray
    current: bytearray
    pending: list[Write] = field(default_factory=list)

    def write(self, write: Write) -> None:
        _apply(self.current, write)
        self.pending.append(write)

    def flush(self) -> None:
        for write in self.pending:
            _apply(self.durable, write)
        self.pending.clear()


def _apply(content: bytearray, write: Write) -> None:
    content[write.offset : write.offset + len(write.data)] = write.data


def torn_writes(write: Write) -> Iterator[Write]:
    """The write with only its head or only its tail landed, for every sector boundary inside of it."""
    first = SECTOR_BYTES - write.offset % SECTOR_BYTES
    for cut in range(first, len(write.data), SECTOR_BYTES):
        yield Write(write.device, write.offset, write.data[:cut])
        yield Write(write.device, write.offset + cut, write.data[cut:])


class _Replay:
    def __init__(self, devices: Mapping[str, bytes], files: Mapping[str, bytes]) -> None:
        self._media = {name: _Medium(bytearray(data), bytearray(data)) for name, data in devices.items()}
        self._files = dict(files)

    def step(self, event: Event) -> None:
        match event:
            case Write():
                self._media[event.device].write(event)
            case Flush():
                self._media[event.device].flush()
            case FileReplace(name, None):
                self._files.pop(name, None)
            case FileReplace(name, bytes(data)):
                self._files[name] = data

    def state(
        self, description: str, *, write: Write | None = None, file: tuple[str, bytes] | None = None
    ) -> CrashState:
        """Everything that happened so far is on the medium, and perhaps one torn write or file more."""
        contents = {name: bytearray(medium.current) for name, medium in self._media.items()}
        if write is not None:
            _apply(contents[write.device], write)
        return _state(description, contents, {**self._files, **({file[0]: file[1]} if file else {})})

    def random_state(self, description: str, rng: random.Random, torn: Callable[[Write], bool]) -> CrashState:
        """A random subset of the unflushed writes, some of them torn if they may be."""
        contents = {}
        for name, medium in self._media.items():
            contents[name] = content = bytearray(medium.durable)
            for write in medium.pending:
                if rng.random() < 0.5:
                    _apply(content, _perhaps_torn(write, rng) if torn(write) else write)
        return _state(description, contents, self._files)

    @property
    def unflushed(self) -> int:
        return sum(len(medium.pending) for medium in self._media.values())


def _perhaps_torn(write: Write, rng: random.Random) -> Write:
    return rng.choice([write, *torn_writes(write)]) if rng.random() < 0.5 else write


def _state(description: str, contents: Mapping[str, bytearray], files: Mapping[str, bytes]) -> CrashState:
    return CrashState(
        description=description, devices={name: bytes(data) for name, data in contents.items()}, files=dict(files)
    )


def crash_states(
    devices: Mapping[str, bytes],
    events: Sequence[Event],
    *,
    files: Mapping[str, bytes] | None = None,
    torn: Callable[[Write | FileReplace], bool] = never,
    subsets: int = 0,
    seed: int = 0,
) -> Iterator[CrashState]:
    """Yield what may be found after a crash, from "nothing happened" to "everything happened".

    Args:
        devices: content of every device before the first event, by name.
        events: `Journal.events`.
        files: content of every file before the first event.
        torn: which writes and file events may land in part: at every 512-byte sector boundary a write's
            head alone and its tail alone; a file empty and cut in its middle.
        subsets: random subsets of the unflushed writes to try after every event that leaves some.
        seed: of those subsets, so that a failure can be repeated.
    """
    rng = random.Random(seed)
    replay = _Replay(devices, files or {})
    yield replay.state("before the first event")
    for number, event in enumerate(events):
        where = f"event {number} ({_short(event)})"
        if not isinstance(event, Flush) and torn(event):
            yield from _torn_states(replay, event, where)
        replay.step(event)
        yield replay.state(f"after {where}")
        if replay.unflushed:
            for count in range(subsets):
                yield replay.random_state(f"after {where}, subset {count} of seed {seed}", rng, torn)


def _torn_states(replay: _Replay, event: Write | FileReplace, where: str) -> Iterator[CrashState]:
    if isinstance(event, Write):
        for part in torn_writes(event):
            yield replay.state(f"torn in {where}: only {len(part.data)} bytes at {part.offset}", write=part)
    elif event.data is not None:
        for cut in sorted({0, len(event.data) // 2}):
            yield replay.state(f"torn in {where}: only {cut} bytes", file=(event.name, event.data[:cut]))


def _short(event: Event) -> str:
    match event:
        case Write(device, offset, data):
            return f"write of {len(data)} bytes at {offset} of {device}"
        case Flush(device):
            return f"flush of {device}"
        case FileReplace(name, data):
            return f"replace {name}" if data is not None else f"remove {name}"
