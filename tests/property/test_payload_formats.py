"""Writing and reading is identity, and any bytes raise only the documented errors."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.payloads import DATA, RSA_A_PUBLIC, PayloadMaker
from update_agent.domain.trust import KeyRing
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.compression import compress, decompress, decompress_chunks
from update_agent.formats.manifest import (
    MAX_MANIFEST_BYTES,
    SPARSE_HOLE,
    ContentInfo,
    Extent,
    Manifest,
    Operation,
    OperationType,
    Part,
    PartName,
)
from update_agent.formats.payload import Header, Signature, signatures_from_bytes, signatures_to_bytes

REPLACE = [OperationType.REPLACE, OperationType.REPLACE_BZ, OperationType.REPLACE_XZ, OperationType.REPLACE_ZSTD]
WITH_DATA = [*REPLACE, OperationType.BSDIFF, OperationType.SOURCE_BSDIFF]
TYPES = {
    1: [OperationType.REPLACE, OperationType.REPLACE_BZ, OperationType.MOVE, OperationType.BSDIFF],
    2: sorted(set(OperationType) - {OperationType.MOVE, OperationType.BSDIFF}),
}
MANIFEST_KINDS = {Kind.MANIFEST_MALFORMED, Kind.OPERATION_UNKNOWN, Kind.OPERATION_HASH_MISSING}

hashes = st.binary(min_size=32, max_size=32)
majors = st.sampled_from([1, 2])


# ------------------------------------------------------------------------------------------------ write ∘ read


@st.composite
def operations(draw: st.DrawFn, major: int, first_block: int, old_blocks: int) -> Operation:
    type_ = draw(st.sampled_from(TYPES[major]))
    gap, blocks = draw(st.integers(0, 3)), draw(st.integers(1, 8))
    dst = [Extent(first_block + gap, blocks)]
    if major == 1 and draw(st.booleans()):
        dst.append(Extent(SPARSE_HOLE, draw(st.integers(1, 8))))
    total = sum(extent.num_blocks for extent in dst)
    src: tuple[Extent, ...] = ()
    if type_ in (OperationType.MOVE, OperationType.SOURCE_COPY):
        src = (Extent(draw(st.integers(0, old_blocks - total)), total),)
    elif type_ in (OperationType.BSDIFF, OperationType.SOURCE_BSDIFF):
        src = (Extent(draw(st.integers(0, old_blocks - 1)), 1),)
    return Operation(
        type=type_,
        data_length=draw(st.integers(1, 2**20)) if type_ in WITH_DATA else 0,
        data_sha256=draw(hashes) if type_ in WITH_DATA else None,
        src_extents=src,
        src_length=draw(st.none() | st.integers(0, 512 * len(src))),
        src_sha256=draw(st.none() | hashes) if src else None,
        dst_extents=tuple(dst),
        dst_length=draw(st.none() | st.integers(0, 512 * total)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    major = draw(majors)
    block_size = draw(st.sampled_from([512, 4096, 65536]))
    names = [PartName.USR]
    if major == 2:
        names += draw(st.sampled_from([[], [PartName.KERNEL]]))
        names = draw(st.permutations(names))
    else:
        others = [PartName.KERNEL, PartName.PCR_POLICY, PartName.IGNORED]
        names += draw(st.lists(st.sampled_from(others), max_size=3, unique=True))
    position = 0
    parts = []
    for name in names:
        first_block, steps = 0, []
        for _ in range(draw(st.integers(0, 4))):
            step = draw(operations(major, first_block, old_blocks=64))
            if step.data_length:
                step = at_offset(step, position)
                position += step.data_length
            first_block = step.dst_extents[0].start_block + step.dst_extents[0].num_blocks
            steps.append(step)
        info = ContentInfo(size_bytes=max(first_block, 16) * block_size, sha256=draw(hashes))
        old = ContentInfo(size_bytes=64 * block_size, sha256=draw(hashes))
        is_known = name is not PartName.IGNORED
        parts.append(
            Part(
                name=name,
                operations=tuple(steps),
                old=old if is_known else None,
                new=info if is_known else None,
                version=draw(st.none() | st.from_regex(r"[ -~]{1,20}", fullmatch=True)) if major == 2 else None,
            )
        )
    is_signed = draw(st.booleans())
    return Manifest(
        major=major,
        block_size=block_size,
        parts=tuple(parts),
        noop_operations=tuple(step for part in parts for step in part.operations) if major == 1 else (),
        signatures_offset=position if is_signed else None,
        signatures_size=draw(st.integers(1, 65536)) if is_signed else None,
        minor_version=draw(st.integers(0, 2**32 - 1)),
    )


def at_offset(step: Operation, offset: int) -> Operation:
    return Operation(
        type=step.type,
        data_offset=offset,
        data_length=step.data_length,
        data_sha256=step.data_sha256,
        src_extents=step.src_extents,
        src_length=step.src_length,
        src_sha256=step.src_sha256,
        dst_extents=step.dst_extents,
        dst_length=step.dst_length,
    )


@given(manifests())
@settings(max_examples=150, deadline=None)
def test_manifest_written_and_read_is_the_same(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data, manifest.major) == manifest
    assert Manifest.from_bytes(data, manifest.major).to_bytes() == data


@st.composite
def headers(draw: st.DrawFn) -> Header:
    major = draw(majors)
    return Header(
        major=major,
        manifest_size=draw(st.integers(1, MAX_MANIFEST_BYTES[major])),
        metadata_signature_size=draw(st.integers(0, 65536)) if major == 2 else 0,
    )


@given(headers(), st.binary(min_size=4, max_size=8))
def test_header_written_and_read_is_the_same(header: Header, rest: bytes) -> None:
    assert Header.from_bytes(header.to_bytes() + rest) == header


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 2**32 - 1), st.binary(max_size=600), st.integers(0, 9)), max_size=16)
)
def test_signatures_written_and_read_are_the_same(said: list[tuple[int | None, bytes, int]]) -> None:
    signatures = tuple(Signature(version=version, data=data) for version, data, _ in said)
    data = signatures_to_bytes(signatures, padded_sizes=[len(data) + padding for _, data, padding in said])
    assert signatures_from_bytes(data) == signatures


@given(st.sampled_from(REPLACE), st.binary(max_size=5000), st.integers(1, 300), st.integers(1, 6000))
@settings(max_examples=150, deadline=None)
def test_content_compressed_and_decompressed_is_the_same(
    type_: OperationType, content: bytes, chunk_bytes: int, piece_bytes: int
) -> None:
    blob = compress(type_, content, 1)
    assert decompress(type_, blob, len(content)) == content
    chunks = (blob[start : start + chunk_bytes] for start in range(0, len(blob), chunk_bytes))
    pieces = list(decompress_chunks(type_, chunks, len(content), piece_bytes))
    assert b"".join(pieces) == content
    assert all(1 <= len(piece) <= piece_bytes for piece in pieces)


# ----------------------------------------------------------------------------------------------------- any bytes


@functools.cache
def real_manifests() -> list[tuple[bytes, int]]:
    payloads = [(DATA / name).read_bytes() for name in ("usr-only.payload", "usr-and-kernel.payload")]
    payloads += [PayloadMaker(usr=bytes(50000), kernel=b"k" * 500, major=major).make() for major in (1, 2)]
    found = []
    for payload in payloads:
        header = Header.from_bytes(payload)
        found.append((payload[header.size_bytes : header.metadata_size], header.major))
    return found


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with some bytes changed, removed or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        removed = draw(st.integers(0, 8))
        changed[start : start + removed] = draw(st.binary(max_size=8))
    return bytes(changed)


def check_manifest(data: bytes, major: int) -> None:
    kind: Kind | None = None
    try:
        manifest = Manifest.from_bytes(data, major)
        assert Manifest.from_bytes(manifest.to_bytes(), major) == manifest
    except (FormatError, VerificationError) as error:
        kind = error.kind
    assert kind is None or kind in MANIFEST_KINDS


@given(st.binary(max_size=300), majors)
@settings(max_examples=300)
def test_any_bytes_as_manifest_raise_only_our_errors(data: bytes, major: int) -> None:
    check_manifest(data, major)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_real_manifest_changed_anywhere_raises_only_our_errors(data: st.DataObject) -> None:
    manifest, major = data.draw(st.sampled_from(real_manifests()))
    check_manifest(data.draw(mutated(manifest)), data.draw(st.sampled_from([major, major, major, 3 - major])))


numbers = st.sampled_from([0, 1, 2, 4095, 2**31, 2**32 - 1, 2**32, 2**50, 2**63, 2**64 - 1])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A real manifest in which some fields of operations have other values or are gone."""
    data, _ = draw(st.sampled_from(real_manifests()))
    message = pb2.Manifest.FromString(data)
    steps = [*message.partition_operations, *(step for part in message.partitions for step in part.operations)]
    for _ in range(draw(st.integers(1, 3))):
        step = draw(st.sampled_from(steps))
        changes: list[Callable[[], object]] = [
            functools.partial(setattr, step, "type", draw(numbers)),
            functools.partial(setattr, step, "data_offset", draw(numbers)),
            functools.partial(setattr, step, "data_length", draw(numbers)),
            functools.partial(setattr, step, "dst_length", draw(numbers)),
            functools.partial(setattr, step, "src_length", draw(numbers)),
            functools.partial(setattr, step, "data_sha256_hash", draw(st.binary(max_size=33))),
            functools.partial(step.dst_extents.add, start_block=draw(numbers), num_blocks=draw(numbers)),
            functools.partial(step.src_extents.add, start_block=draw(numbers), num_blocks=draw(numbers)),
            functools.partial(step.ClearField, draw(st.sampled_from(["type", "dst_extents", "data_length"]))),
        ]
        draw(st.sampled_from(changes))()
    return message.SerializeToString()


@given(messages(), majors)
@settings(max_examples=300, deadline=None)
def test_real_manifest_with_other_values_raises_only_our_errors(data: bytes, major: int) -> None:
    check_manifest(data, major)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"CrAU" + bytes(7) + data))
def test_any_bytes_as_header_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        header = Header.from_bytes(data)
        assert data.startswith(header.to_bytes())


@given(st.binary(max_size=200) | mutated(signatures_to_bytes([Signature(version=None, data=b"s" * 70)] * 2)))
def test_any_bytes_as_signatures_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert len(signatures_from_bytes(data)) <= 16


BLOBS = {type_: compress(type_, bytes(range(256)) * 8, 1) for type_ in REPLACE}


@given(st.sampled_from(REPLACE), st.data())
@settings(max_examples=400, deadline=None)
def test_any_blob_raises_only_our_errors_and_stays_within_the_limit(type_: OperationType, data: st.DataObject) -> None:
    blob = data.draw(st.binary(max_size=200) | mutated(BLOBS[type_]))
    limit = data.draw(st.sampled_from([0, 1, 100, 2048, 100_000]))
    whole: bytes | None = None
    with contextlib.suppress(FormatError):
        whole = decompress(type_, blob, limit)
        assert len(whole) <= limit
    streamed: bytes | None = None
    with contextlib.suppress(FormatError):
        streamed = b"".join(decompress_chunks(type_, [blob[:5], blob[5:]], limit, 64))
    assert whole == streamed


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "key.pem"


@given(data=st.binary(max_size=300) | mutated(RSA_A_PUBLIC.read_bytes()))
@settings(deadline=None)
def test_any_bytes_as_key_file_raise_only_our_errors(key_file: Path, data: bytes) -> None:
    key_file.write_bytes(data)
    with contextlib.suppress(FormatError):
        assert KeyRing.load(key_file).keys


@given(data=st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_as_signature_are_refused(data: bytes) -> None:
    ring = KeyRing.load(RSA_A_PUBLIC)
    with pytest.raises(VerificationError):
        ring.verify(bytes(32), [Signature(version=None, data=data)], major=2, what="payload")
