"""State files: checkpoints and records, torn, edited, or sealed by a version that writes other fields."""

import hashlib
import json
import random
from collections.abc import Iterator
from uuid import UUID

from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.nodes import MemoryFile
from update_agent.domain.checkpoint import Checkpoint, seal, unseal
from update_agent.domain.records import SlotRecord, SlotRecords

_RAW, _SEALED = 0, 1
"""First byte of an input: the file as it is, or its text, whose checksum is put right first."""

_SLOT = UUID(int=1)
_CHECKPOINT = Checkpoint(
    target=_SLOT,
    metadata_sha256=bytes(range(32)),
    metadata_bytes=999,
    version="1.2.3",
    next_operation=7,
    data_offset=12345,
    signed_state=bytes(104),
    whole_state=None,
)
_RECORD = SlotRecord(version="1.2.3", sha256="ab" * 32, size_bytes=99, installed_at="then", is_complete=True)
_FILE_BYTES_MAX = 65536


def _run(data: bytes) -> None:
    file = data[1:]
    if data[:1] == bytes([_SEALED]):
        text = file.replace(b"\n", b" ")
        file = text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"
    unseal(file)
    checkpoint = Checkpoint.from_bytes(file)
    if checkpoint is not None:
        assert Checkpoint.from_bytes(checkpoint.to_bytes()) == checkpoint
    _check_records(file)


def _check_records(file: bytes) -> None:
    files = {"slots": file}
    records = SlotRecords(MemoryFile(files, "slots"))
    before = dict(records.load())
    records.put(_SLOT, _RECORD)
    if len(files["slots"]) <= _FILE_BYTES_MAX:
        assert records.load() == before | {_SLOT: _RECORD}


def _seeds() -> Iterator[bytes]:
    slots = MemoryFile({}, "slots")
    records = SlotRecords(slots)
    records.put(_SLOT, _RECORD)
    records.mark_incomplete(UUID(int=2), "9", "now")
    for file in (_CHECKPOINT.to_bytes(), slots.read(_FILE_BYTES_MAX) or b""):
        yield bytes([_RAW]) + file
        yield bytes([_SEALED]) + file.partition(b"\n")[0]
    yield bytes([_RAW]) + seal({})
    for text in (b"[" * 30, b"{}", b"[1]", b'{"a": 1e999}', b'"\\ud800"', b"\xff\xfe{\0}\0", b"1" * 5000):
        yield bytes([_SEALED]) + text


_ODD_VALUES: tuple[object, ...] = (
    None,
    -1,
    1 << 70,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "0",
    "\ud800",
    [],
    {},
    True,
    [[]],
    {"a": 1},
)


def _mutate(data: bytes, rng: random.Random) -> bytes:
    try:
        fields = json.loads(data[1:]) if data[:1] == bytes([_SEALED]) and rng.random() < 0.7 else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not fields:
        return mutate_bytes(data, rng)
    _mutate_fields(fields, rng)
    return data[:1] + json.dumps(fields).encode()


def _mutate_fields(fields: dict[str, object], rng: random.Random) -> None:
    name = rng.choice(sorted(fields))
    inner = fields[name]
    if isinstance(inner, dict) and inner and rng.random() < 0.8:
        _mutate_fields(inner, rng)
    elif rng.random() < 0.2:
        fields[mutate_bytes(name.encode(), rng).decode("utf-8", "replace")] = fields.pop(name)
    else:
        fields[name] = rng.choice(_ODD_VALUES)


TARGETS = {"state": Target(run=_run, seeds=_seeds, mutate=_mutate)}
