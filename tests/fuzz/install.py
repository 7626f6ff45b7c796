"""A whole install: of damaged payloads, of payloads that lie under a good signature, from checkpoints that lie.

However it ends, the slot that runs is untouched and boots, unless the install says that it is done; then the other slot
holds what the manifest says. And the payload as it should be installs afterwards.
"""

import contextlib
import hashlib
import json
import random
import struct
import tempfile
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from google.protobuf.message import DecodeError

from tests.fuzz.mutation import mutate_bytes, mutate_message
from tests.fuzz.samples import LITTER, OLD, OLD_KERNEL, SAMPLES, Sample
from tests.fuzz.target import Target, join_parts, split_parts
from tests.support.nodes import CHECKPOINT, BytesSource, Node
from tests.support.payloads import signature_list
from update_agent.domain.checkpoint import seal, unseal
from update_agent.domain.reader import Expectation
from update_agent.domain.slots import SlotName
from update_agent.errors import UpdateAgentError
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.payload import Header

_FOLDER = Path(tempfile.gettempdir())
"""Only for files without a name, which are gone when they are closed."""

_HEAD_BYTES = 3
"""Which sample, how it is changed, how it is read; then what `_Mode` says."""

_SIZE_KNOWN, _WITH_SHA256, _TWO_WORKERS, _SMALL_CHUNKS = 1, 2, 4, 8


class _Mode(IntEnum):
    """What an input holds."""

    RAW = 0
    """The whole payload."""
    SIGNED = 1
    """Manifest and blobs, which are signed as they are."""
    HASHED = 2
    """Manifest and blobs; where each blob is and its hash are put right before they are signed."""
    CHECKPOINT = 3
    """The fields of a checkpoint in JSON, sealed; the payload is valid."""


def _run(data: bytes) -> None:
    if len(data) < _HEAD_BYTES:
        return
    sample, mode, flags = SAMPLES[data[0] % len(SAMPLES)], _Mode(data[1] % len(_Mode)), data[2]
    node = sample.node(_FOLDER)
    payload = sample.payload
    if mode is _Mode.CHECKPOINT:
        with contextlib.suppress(ValueError, RecursionError):
            node.files[CHECKPOINT] = seal(json.loads(data[_HEAD_BYTES:]))
    else:
        payload = _payload(sample, mode, data[_HEAD_BYTES:])
    _install(node, sample, payload, flags)
    if node.next_boot() is SlotName.A:
        node.install(sample.payload, keys=sample.sign[1])
        _check_slot_b(node, sample.payload)
        assert node.content(SlotName.B)[: len(sample.usr)] == sample.usr
        assert sample.kernel is None or node.files["vmlinuz-b"] == sample.kernel


def _install(node: Node, sample: Sample, payload: bytes, flags: int) -> None:
    source = BytesSource(
        payload, chunk_bytes=7 if flags & _SMALL_CHUNKS else 5000, size_is_known=bool(flags & _SIZE_KNOWN)
    )
    expectation = Expectation(sha256=hashlib.sha256(payload).digest() if flags & _WITH_SHA256 else None)
    around = _outside_of_b(node)
    has_returned = False
    with contextlib.suppress(UpdateAgentError):
        node.install(source, keys=sample.sign[1], expectation=expectation, workers=1 + bool(flags & _TWO_WORKERS))
        has_returned = True
    assert node.content(SlotName.A) == OLD
    assert node.files["vmlinuz-a"] == OLD_KERNEL
    assert _outside_of_b(node) == around
    assert not node.disk.problems
    assert node.next_boot() is (SlotName.B if has_returned else SlotName.A)
    if has_returned:
        _check_slot_b(node, payload)
    else:
        assert not node.slots.b.flags.is_bootable or node.content(SlotName.B) == LITTER


def _outside_of_b(node: Node) -> tuple[bytes, bytes]:
    """All partitions but B; the tables around them may change."""
    usable = node.disk.table.header
    b = node.slots.b
    first, end = usable.offset(usable.first_usable_lba), usable.offset(usable.last_usable_lba) + 512
    after = b.start_bytes + b.size_bytes
    return node.device.read_at(first, b.start_bytes - first), node.device.read_at(after, end - after)


def _check_slot_b(node: Node, payload: bytes) -> None:
    header = Header.from_bytes(payload)
    message = pb2.Manifest.FromString(payload[header.size_bytes : header.metadata_size])
    if header.major == 1:
        usr = message.new_partition_info
        kernels = [each.new_info for each in message.procedures if each.HasField("type") and each.type == 0]
    else:
        infos = {partition.partition_name: partition.new_partition_info for partition in message.partitions}
        usr = infos[b"usr"]
        kernels = [info for name, info in infos.items() if name == b"kernel"]
    _check_content(node.content(SlotName.B), usr)
    for kernel in kernels:
        assert len(node.files["vmlinuz-b"]) == kernel.size
        _check_content(node.files["vmlinuz-b"], kernel)


def _check_content(content: bytes, info: pb2.ContentInfo) -> None:
    assert hashlib.sha256(content[: info.size]).digest() == info.hash


# Inputs


def _payload(sample: Sample, mode: _Mode, body: bytes) -> bytes:
    if mode is _Mode.RAW:
        return body
    manifest, blobs = split_parts(body, 2)
    if mode is _Mode.HASHED:
        with contextlib.suppress(DecodeError):
            manifest = _hashed(manifest, blobs)
    return _signed(sample, manifest, blobs)


def _signed(sample: Sample, manifest: bytes, blobs: bytes) -> bytes:
    major, keys = Header.from_bytes(sample.payload).major, (sample.sign[0],)
    head = b"CrAU" + struct.pack(">QQ", major, len(manifest))
    metadata_signature = b""
    if major == 2:
        head += struct.pack(">I", len(signature_list(keys, bytes(32), major=2)))
        metadata_signature = signature_list(keys, hashlib.sha256(head + manifest).digest(), major=2)
    signature = signature_list(keys, hashlib.sha256(head + manifest + blobs).digest(), major=major)
    return head + manifest + metadata_signature + blobs + signature


def _hashed(manifest: bytes, blobs: bytes) -> bytes:
    message = pb2.Manifest.FromString(manifest)
    position = 0
    for operation in _operations(message):
        if operation.data_length:
            operation.data_offset = position
            blob = blobs[position : position + operation.data_length]
            operation.data_length = len(blob) or 1
            operation.data_sha256_hash = hashlib.sha256(blob).digest()
            position += operation.data_length
    message.signatures_offset = position
    return message.SerializeToString()


def _operations(message: pb2.Manifest) -> Iterator[pb2.Operation]:
    yield from message.partition_operations
    for procedure in message.procedures:
        yield from procedure.operations
    for partition in message.partitions:
        yield from partition.operations


def _seeds() -> Iterator[bytes]:
    for number, sample in enumerate(SAMPLES):
        header = Header.from_bytes(sample.payload)
        message = pb2.Manifest.FromString(sample.payload[header.size_bytes : header.metadata_size])
        blobs = sample.payload[header.data_start : header.data_start + message.signatures_offset]
        signed = join_parts((message.SerializeToString(), blobs))
        yield bytes([number, _Mode.RAW, number]) + sample.payload
        yield bytes([number, _Mode.RAW, _SIZE_KNOWN]) + sample.payload[:-1]
        yield bytes([number, _Mode.SIGNED, _SIZE_KNOWN | _WITH_SHA256]) + signed
        yield bytes([number, _Mode.HASHED, _TWO_WORKERS | _SMALL_CHUNKS]) + signed
        yield from (bytes([number, _Mode.CHECKPOINT, flags]) + fields for flags, fields in _checkpoints(sample))


def _checkpoints(sample: Sample) -> Iterator[tuple[int, bytes]]:
    """The last checkpoint before the end of an install, with and without the hash of the whole file."""
    for flags in (_SIZE_KNOWN, _SIZE_KNOWN | _WITH_SHA256):
        node = sample.node(_FOLDER)
        node.checkpoint_interval_bytes = 4096
        _install(node, sample, sample.payload[:-1] + b"\xff", flags & _WITH_SHA256)
        fields = unseal(node.files.get(CHECKPOINT, b""))
        if fields is not None:
            yield flags, json.dumps(fields).encode()


def _mutate(data: bytes, rng: random.Random) -> bytes:
    mode = _Mode(data[1] % len(_Mode)) if len(data) > _HEAD_BYTES else _Mode.RAW
    if rng.random() < 0.1 or mode is _Mode.RAW:
        return mutate_bytes(data, rng)
    head = data[:2] + (bytes([rng.randrange(16)]) if rng.random() < 0.2 else data[2:_HEAD_BYTES])
    body = data[_HEAD_BYTES:]
    return head + (_mutate_checkpoint(body, rng) if mode is _Mode.CHECKPOINT else _mutate_signed(body, rng))


def _mutate_signed(body: bytes, rng: random.Random) -> bytes:
    manifest, blobs = split_parts(body, 2)
    if rng.random() < 0.3:
        return join_parts((manifest, mutate_bytes(blobs, rng)))
    try:
        message = pb2.Manifest.FromString(manifest)
    except DecodeError:
        return join_parts((mutate_bytes(manifest, rng), blobs))
    mutate_message(message, rng)
    return join_parts((message.SerializeToString(), blobs))


_ODD_NUMBERS = (-1, 0, 1, 2, 3, 5, 1 << 31, 1 << 64, 1 << 70, 1.5, float("inf"), float("nan"))
_ODD_VALUES: tuple[object, ...] = (*_ODD_NUMBERS, None, "", "0", [], {}, True, "00" * 104)


def _mutate_checkpoint(body: bytes, rng: random.Random) -> bytes:
    try:
        fields = json.loads(body)
        name = rng.choice(sorted(fields))
    except (ValueError, TypeError, IndexError, RecursionError):
        return mutate_bytes(body, rng)
    value = fields[name]
    if isinstance(value, str) and rng.random() < 0.5:
        fields[name] = mutate_bytes(value.encode(), rng).decode("utf-8", "replace")
    elif isinstance(value, int) and rng.random() < 0.5:
        fields[name] = value + rng.choice((-100, -1, 1, 100))
    else:
        fields[name] = rng.choice(_ODD_VALUES)
    return json.dumps(fields).encode()


TARGETS = {"install": Target(run=_run, seeds=_seeds, mutate=_mutate)}
