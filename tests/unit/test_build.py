"""What is in a payload that was built."""

import hashlib
import random
import struct
import threading
from pathlib import Path

import pytest

from tests.support.builds import BLOCK, MIB, build, decode, request, split
from tests.support.payloads import P256, P256_PUBLIC, RSA_A, RSA_A_PUBLIC, RSA_B, RSA_B_PUBLIC
from update_agent.domain import build as build_module
from update_agent.domain.build import build_payload
from update_agent.domain.encode import Compression
from update_agent.domain.trust import KeyRing, SigningKey
from update_agent.errors import ConfigurationError, DeviceError, FormatError, Kind
from update_agent.formats import manifest as manifest_module
from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest import SPARSE_HOLE, OperationType, PartName
from update_agent.formats.payload import signatures_from_bytes

NOISE = random.Random(5).randbytes(MIB)
TEXT = (b"some text that packs well " * 50000)[:MIB]


def write_images(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    """usr of 2 MiB and one block (noise, text, rest), kernel of 1 MiB and 5 bytes, PCR policy of 500 bytes."""
    usr, kernel, policy = NOISE + TEXT + b"r" * BLOCK, TEXT + b"-tail", b"policy".ljust(500, b"!")
    for name, data in (("usr.img", usr), ("kernel", kernel), ("policy", policy)):
        (tmp_path / name).write_bytes(data)
    return usr, kernel, policy


def extent_of(operation: pb2.Operation) -> tuple[int, int]:
    (extent,) = operation.dst_extents
    return extent.start_block, extent.num_blocks


def test_build_v1_lays_out_every_field_as_the_generator_does(tmp_path: Path) -> None:
    usr, kernel, policy = write_images(tmp_path)
    build(
        tmp_path,
        kernel=tmp_path / "kernel",
        pcr_policy=tmp_path / "policy",
        major=1,
        compression=Compression.BZIP2,
        keys=(SigningKey.load(RSA_A), SigningKey.load(RSA_B)),
    )
    payload = (tmp_path / "out.payload").read_bytes()

    # header
    magic, major, size = struct.unpack(">4sQQ", payload[:20])
    assert (magic, major) == (b"CrAU", 1)
    message = pb2.Manifest.FromString(payload[20 : 20 + size])
    blobs = payload[20 + size :]
    assert {field.name for field, _ in message.ListFields()} == {
        "partition_operations",
        "noop_operations",
        "block_size",
        "signatures_offset",
        "signatures_size",
        "new_partition_info",
        "procedures",
    }

    # operations: 1 MiB each, compressed only where it helps, a full chunk of blocks even for the short last one
    assert message.block_size == 4096
    assert [operation.type for operation in message.partition_operations] == [0, 1, 1]
    assert list(map(extent_of, message.partition_operations)) == [(0, 256), (256, 256), (512, 256)]
    assert blobs[:MIB] == NOISE

    # procedures, in order, each in a block space of its own
    assert [procedure.type for procedure in message.procedures] == [0, 1]
    assert [list(map(extent_of, p.operations)) for p in message.procedures] == [[(0, 256), (256, 256)], [(0, 256)]]
    infos = [message.new_partition_info, *(procedure.new_info for procedure in message.procedures)]
    for info, content in zip(infos, (usr, kernel, policy), strict=True):
        assert (info.size, info.hash) == (len(content), hashlib.sha256(content).digest())
    assert not any(procedure.HasField("old_info") for procedure in message.procedures)

    # blobs: back to back in the order of execution, each with its hash, and no length of the result
    procedure_operations = [operation for procedure in message.procedures for operation in procedure.operations]
    position = 0
    for operation in (*message.partition_operations, *procedure_operations):
        assert operation.data_offset == position
        blob = blobs[position : position + operation.data_length]
        assert operation.data_sha256_hash == hashlib.sha256(blob).digest()
        assert not operation.HasField("dst_length")
        assert not operation.HasField("src_length")
        position += operation.data_length

    # noop operations: one for every operation of every procedure, then one for the signatures
    *skipped, last = message.noop_operations
    assert len(skipped) == len(procedure_operations)
    for noop, operation in zip(skipped, procedure_operations, strict=True):
        assert noop.type == 0
        assert (noop.data_offset, noop.data_length) == (operation.data_offset, operation.data_length)
        assert noop.data_sha256_hash == operation.data_sha256_hash
        assert extent_of(noop) == (SPARSE_HOLE, -(-operation.data_length // 4096))
    assert (last.type, last.data_offset, last.data_length) == (0, position, 528)
    assert not last.HasField("data_sha256_hash")
    assert extent_of(last) == (SPARSE_HOLE, 1)

    # signatures: at the end, versions count up to 2, over every byte before them
    assert (message.signatures_offset, message.signatures_size) == (position, 528)
    assert len(blobs) == position + 528
    listed = signatures_from_bytes(blobs[position:])
    assert [signature.version for signature in listed] == [1, 2]
    digest = hashlib.sha256(payload[:-528]).digest()
    for signature, public in zip(listed, (RSA_A_PUBLIC, RSA_B_PUBLIC), strict=True):
        KeyRing.load(public).verify(digest, (signature,), major=1, what="payload")


@pytest.mark.parametrize(("count", "versions"), [(1, [2]), (2, [1, 2]), (3, [0, 1, 2])])
def test_build_v1_with_n_signatures_numbers_them_up_to_two(tmp_path: Path, count: int, versions: list[int]) -> None:
    (tmp_path / "usr.img").write_bytes(TEXT)
    build(tmp_path, major=1, compression=Compression.NONE, signature_sizes=(256,) * count)

    _, manifest, blobs = split((tmp_path / "out.payload").read_bytes())

    assert [signature.version for signature in signatures_from_bytes(blobs[manifest.blob_bytes :])] == versions


def test_build_v2_states_version_and_is_signed_twice(tmp_path: Path) -> None:
    _, kernel, _ = write_images(tmp_path)
    keys = (SigningKey.load(RSA_A), SigningKey.load(P256))
    build(tmp_path, kernel=tmp_path / "kernel", keys=keys, level=1)
    payload = (tmp_path / "out.payload").read_bytes()

    header, manifest, blobs = split(payload)
    assert [(part.name, part.version, part.old) for part in manifest.parts] == [
        (PartName.USR, "2.0.0", None),
        (PartName.KERNEL, "2.0.0", None),
    ]
    assert manifest.minor_version == 0
    assert manifest.noop_operations == ()
    assert manifest.parts[1].operations[-1].dst_extents[0].num_blocks == 1
    assert decode(payload, PartName.KERNEL, tmp_path) == kernel
    metadata = payload[: header.metadata_size]
    in_metadata = signatures_from_bytes(payload[header.metadata_size : header.data_start])
    in_payload = signatures_from_bytes(blobs[manifest.blob_bytes :])
    signed = hashlib.sha256(metadata + blobs[: manifest.blob_bytes]).digest()
    for public in (RSA_A_PUBLIC, P256_PUBLIC):
        ring = KeyRing.load(public)
        ring.verify(hashlib.sha256(metadata).digest(), in_metadata, major=2, what="metadata")
        ring.verify(signed, in_payload, major=2, what="payload")
    assert [signature.version for signature in in_metadata + in_payload] == [None] * 4


@pytest.mark.parametrize("compression", list(Compression))
def test_build_v2_with_any_compression_decodes_to_the_image(tmp_path: Path, compression: Compression) -> None:
    usr, _, _ = write_images(tmp_path)
    report = build(tmp_path, compression=compression, workers=2)
    assert decode((tmp_path / "out.payload").read_bytes(), PartName.USR, tmp_path) == usr
    assert report.operations[0][0] is OperationType.REPLACE


@pytest.mark.parametrize(
    ("compression", "level"), [(Compression.ZSTD, 22), (Compression.XZ, 8), (Compression.BZIP2, 1)]
)
def test_build_at_extreme_level_decodes_to_the_image(tmp_path: Path, compression: Compression, level: int) -> None:
    (tmp_path / "usr.img").write_bytes(TEXT)
    build(tmp_path, compression=compression, level=level)
    assert decode((tmp_path / "out.payload").read_bytes(), PartName.USR, tmp_path) == TEXT


def test_build_v2_joins_zero_chunks_to_one_operation(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(bytes(3 * MIB) + TEXT + bytes(MIB + BLOCK))
    report = build(tmp_path, level=1)
    _, manifest, _ = split((tmp_path / "out.payload").read_bytes())
    assert [
        (op.type, op.dst_extents[0].start_block, op.dst_extents[0].num_blocks) for op in manifest.parts[0].operations
    ] == [
        (OperationType.ZERO, 0, 768),
        (OperationType.REPLACE_ZSTD, 768, 256),
        (OperationType.ZERO, 1024, 257),
    ]
    assert report.operations == ((OperationType.ZERO, 2), (OperationType.REPLACE_ZSTD, 1))


def test_build_v1_has_no_zero_operation(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(bytes(2 * MIB))
    report = build(tmp_path, major=1, compression=Compression.BZIP2)
    assert report.operations == ((OperationType.REPLACE_BZ, 2),)


def test_build_report_describes_the_file(tmp_path: Path) -> None:
    write_images(tmp_path)
    report = build(tmp_path, kernel=tmp_path / "kernel", level=1)
    payload = (tmp_path / "out.payload").read_bytes()
    assert report.payload_size_bytes == len(payload)
    assert report.payload_sha256 == hashlib.sha256(payload).digest()
    assert report.metadata_size_bytes == split(payload)[0].metadata_size
    assert report.parts == ((PartName.USR, 2 * MIB + BLOCK), (PartName.KERNEL, MIB + 5))


def test_build_progress_rises_to_the_total(tmp_path: Path) -> None:
    write_images(tmp_path)
    seen: list[tuple[int, int]] = []
    build_payload(
        request(tmp_path, kernel=tmp_path / "kernel", level=1), lambda done, total: seen.append((done, total))
    )
    total = 3 * MIB + BLOCK + 5
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {total_bytes for _, total_bytes in seen} == {total}


@pytest.mark.parametrize("is_delta", [False, True])
def test_build_with_one_or_four_workers_gives_identical_files(tmp_path: Path, is_delta: bool) -> None:
    generator = random.Random(1)
    old = b"".join(generator.randbytes(BLOCK // 2) * 2 for _ in range(400))
    new = bytearray(old[MIB:] + bytes(MIB) + old[:MIB])
    for _ in range(50):
        new[generator.randrange(len(new))] ^= 1
    (tmp_path / "old.img").write_bytes(old)
    (tmp_path / "usr.img").write_bytes(new)
    source = tmp_path / "old.img" if is_delta else None
    for workers in (1, 4):
        build(tmp_path, workers=workers, level=1, source_usr=source, output=tmp_path / str(workers))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "4").read_bytes()


def test_build_delta_states_old_content_and_dialect(tmp_path: Path) -> None:
    old, new = NOISE + TEXT, NOISE[BLOCK:] + bytes(BLOCK) + TEXT[:-BLOCK] + NOISE[:BLOCK]
    (tmp_path / "old.img").write_bytes(old)
    (tmp_path / "usr.img").write_bytes(new)
    report = build(tmp_path, source_usr=tmp_path / "old.img")
    payload = (tmp_path / "out.payload").read_bytes()
    _, manifest, _ = split(payload)
    (part,) = manifest.parts
    assert part.old is not None
    assert (part.old.size_bytes, part.old.sha256) == (len(old), hashlib.sha256(old).digest())
    assert manifest.minor_version == 4  # copies and zeros
    assert {kind for kind, _ in report.operations} == {OperationType.SOURCE_COPY, OperationType.ZERO}
    assert decode(payload, PartName.USR, tmp_path, old=old) == new


def test_build_delta_without_anything_alike_needs_dialect_of_zstd(tmp_path: Path) -> None:
    (tmp_path / "old.img").write_bytes(NOISE)
    (tmp_path / "usr.img").write_bytes(TEXT)
    build(tmp_path, source_usr=tmp_path / "old.img")
    _, manifest, _ = split((tmp_path / "out.payload").read_bytes())
    assert manifest.minor_version == 8


def test_build_delta_takes_kernel_whole(tmp_path: Path) -> None:
    _, kernel, _ = write_images(tmp_path)
    build(tmp_path, kernel=tmp_path / "kernel", source_usr=tmp_path / "usr.img", level=1)
    payload = (tmp_path / "out.payload").read_bytes()
    _, manifest, _ = split(payload)
    assert manifest.parts[1].old is None
    assert decode(payload, PartName.KERNEL, tmp_path) == kernel


def test_build_delta_with_blobs_beyond_4_gib_needs_dialect_of_long_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.img").write_bytes(TEXT)
    (tmp_path / "usr.img").write_bytes(NOISE)
    monkeypatch.setattr(build_module, "OFFSETS_32_BIT_END", MIB)
    build(tmp_path, source_usr=tmp_path / "old.img")
    _, manifest, _ = split((tmp_path / "out.payload").read_bytes())
    assert manifest.minor_version == 6


def test_build_v1_beyond_32_bits_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr.img").write_bytes(NOISE * 3)
    monkeypatch.setattr(build_module, "OFFSETS_32_BIT_END", 2 * MIB)
    with pytest.raises(ConfigurationError) as caught:
        build(tmp_path, major=1, compression=Compression.NONE)
    assert caught.value.hint is not None
    assert list(tmp_path.iterdir()) == [tmp_path / "usr.img"]


def test_build_with_manifest_that_no_reader_accepts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr.img").write_bytes(TEXT)
    monkeypatch.setitem(manifest_module.MAX_MANIFEST_BYTES, 2, 50)
    with pytest.raises(ConfigurationError, match="manifest") as caught:
        build(tmp_path, level=1)
    assert isinstance(caught.value.__cause__, FormatError)
    assert list(tmp_path.iterdir()) == [tmp_path / "usr.img"]


def test_build_replaces_an_older_payload_only_when_done(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(TEXT)
    output = tmp_path / "out.payload"
    output.write_bytes(b"older")
    seen: list[bytes] = []
    build_payload(request(tmp_path, level=1), lambda _done, _total: seen.append(output.read_bytes()))
    assert set(seen) == {b"older"}
    assert output.read_bytes().startswith(b"CrAU")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.payload", "usr.img"]


def test_build_stopped_in_the_middle_leaves_nothing_and_no_thread(tmp_path: Path) -> None:
    (tmp_path / "usr.img").write_bytes(TEXT * 8)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_payload(request(tmp_path, level=1, workers=2), stop)
    assert list(tmp_path.iterdir()) == [tmp_path / "usr.img"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("build")]


def test_build_with_missing_image_names_it(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"usr\.img") as caught:
        build(tmp_path)
    assert caught.value.kind is Kind.DEVICE_OPEN
    assert list(tmp_path.iterdir()) == []
