import hashlib
from collections.abc import Callable

import pytest

from tests.support.payloads import PayloadMaker
from update_agent.errors import FormatError, Kind, VerificationError
from update_agent.formats import update_metadata_pb2 as pb2
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
from update_agent.formats.payload import Header

MIB = 1024 * 1024
USR = bytes(range(256)) * 256  # 16 blocks of 4096 bytes, 4 operations
HASH = bytes(32)

Mutate = Callable[[pb2.Manifest], None]


def manifest_bytes(payload: bytes) -> bytes:
    header = Header.from_bytes(payload)
    return payload[header.size_bytes : header.metadata_size]


def parse(major: int, mutate: Mutate | None = None, **said: object) -> Manifest:
    maker = PayloadMaker(usr=USR, kernel=b"k" * 500, major=major, mutate_manifest=mutate)
    for name, value in said.items():
        setattr(maker, name, value)
    return Manifest.from_bytes(manifest_bytes(maker.make()), major)


def usr_part(*operations: Operation, new_bytes: int = 65536, old_bytes: int | None = None) -> Part:
    old = None if old_bytes is None else ContentInfo(size_bytes=old_bytes, sha256=HASH)
    return Part(name=PartName.USR, operations=operations, old=old, new=ContentInfo(size_bytes=new_bytes, sha256=HASH))


def copy(source: int, target: int, blocks: int = 1) -> Operation:
    return Operation(
        type=OperationType.SOURCE_COPY, src_extents=(Extent(source, blocks),), dst_extents=(Extent(target, blocks),)
    )


def move(source: int, target: int, blocks: int = 1) -> Operation:
    return Operation(
        type=OperationType.MOVE, src_extents=(Extent(source, blocks),), dst_extents=(Extent(target, blocks),)
    )


def replace(*extents: Extent, type_: OperationType = OperationType.REPLACE) -> Operation:
    return Operation(type=type_, data_length=10, data_sha256=HASH, dst_extents=extents)


# ---------------------------------------------------------------------------------------------- what is accepted


def test_manifest_of_major_2_says_what_was_put_in() -> None:
    manifest = parse(2)
    usr = manifest.part(PartName.USR)
    kernel = manifest.part(PartName.KERNEL)
    assert usr is not None
    assert kernel is not None
    assert usr.new == ContentInfo(size_bytes=len(USR), sha256=hashlib.sha256(USR).digest())
    assert [operation.type for operation in usr.operations] == [OperationType.REPLACE_ZSTD] * 4
    assert usr.operations[3].dst_extents == (Extent(12, 4),)
    assert kernel.new == ContentInfo(size_bytes=500, sha256=hashlib.sha256(b"k" * 500).digest())
    assert kernel.version is None
    assert manifest.version == "2.0.0"
    assert manifest.part(PartName.PCR_POLICY) is None
    assert manifest.signatures_offset == manifest.blob_bytes
    assert manifest.noop_operations == ()


def test_manifest_of_major_1_has_usr_first_and_then_the_procedures_in_their_order() -> None:
    manifest = parse(1, pcr_policy=b"zip", ignored=b"later")
    assert [part.name for part in manifest.parts] == ["usr", "kernel", "pcr-policy", "ignored"]
    assert manifest.parts[3].new is None
    assert manifest.version is None
    assert len(manifest.noop_operations) == 4
    assert manifest.noop_operations[-1].data_sha256 is None
    assert manifest.noop_operations[0].dst_extents == (Extent(SPARSE_HOLE, 1),)


def test_procedure_without_type_is_ignored() -> None:
    def mutate(message: pb2.Manifest) -> None:
        message.procedures[0].ClearField("type")

    assert [part.name for part in parse(1, mutate).parts] == [PartName.USR, PartName.IGNORED]


def test_ignored_procedure_with_extents_outside_of_everything_is_accepted() -> None:
    def mutate(message: pb2.Manifest) -> None:
        message.procedures[1].operations[0].dst_extents[0].start_block = 2**63

    assert parse(1, mutate, ignored=b"later").parts[2].name is PartName.IGNORED


@pytest.mark.parametrize("major", [1, 2])
def test_manifest_written_again_is_the_same_bytes(major: int) -> None:
    data = manifest_bytes(PayloadMaker(usr=USR, kernel=b"k" * 500, major=major).make())
    assert Manifest.from_bytes(data, major).to_bytes() == data


def test_manifest_with_everything_survives_writing_and_reading() -> None:
    bsdiff = Operation(
        type=OperationType.SOURCE_BSDIFF,
        data_length=10,
        data_sha256=HASH,
        src_extents=(Extent(0, 2), Extent(9, 1)),
        src_length=12000,
        src_sha256=HASH,
        dst_extents=(Extent(4, 1),),
        dst_length=4000,
    )
    zero = Operation(type=OperationType.ZERO, data_offset=10, dst_extents=(Extent(5, 1),))
    manifest = Manifest(major=2, parts=(usr_part(bsdiff, zero, old_bytes=65536),), minor_version=4)
    assert Manifest.from_bytes(manifest.to_bytes(), 2) == manifest


def test_operations_in_place_with_old_content_survive_writing_and_reading() -> None:
    kernel = Part(
        name=PartName.KERNEL,
        old=ContentInfo(size_bytes=1, sha256=HASH),
        new=ContentInfo(size_bytes=2, sha256=HASH),
    )
    manifest = Manifest(major=1, parts=(usr_part(move(0, 5), move(1, 5), old_bytes=8192), kernel))
    assert Manifest.from_bytes(manifest.to_bytes(), 1) == manifest


def test_part_with_any_operation_in_place_may_write_a_block_twice() -> None:
    part = usr_part(move(0, 5), move(1, 0), move(5, 1), replace(Extent(5, 1)))
    assert Manifest(major=1, parts=(part,)).blob_bytes == 10


def test_replace_of_a_whole_chunk_for_a_kernel_of_500_bytes_is_accepted() -> None:
    part = usr_part(replace(Extent(0, 256)), new_bytes=500)
    assert Manifest(major=2, parts=(part,)).blob_bytes == 10


@pytest.mark.parametrize(("blocks", "is_valid"), [(512, True), (513, False)])
def test_replace_reaches_less_than_2_mib_beyond_the_end(blocks: int, *, is_valid: bool) -> None:
    part = usr_part(replace(Extent(0, blocks)), new_bytes=1)
    if is_valid:
        Manifest(major=2, parts=(part,))
    else:
        with pytest.raises(FormatError, match="expected extents within 512 blocks"):
            Manifest(major=2, parts=(part,))


def test_sparse_hole_in_major_1_is_no_place() -> None:
    part = usr_part(replace(Extent(SPARSE_HOLE, 2), Extent(0, 1)), replace_at(10, Extent(SPARSE_HOLE, 2)))
    assert Manifest(major=1, parts=(part,)).blob_bytes == 20


def replace_at(offset: int, *extents: Extent) -> Operation:
    return Operation(
        type=OperationType.REPLACE, data_offset=offset, data_length=10, data_sha256=HASH, dst_extents=extents
    )


# ----------------------------------------------------------------------------------------------- what is refused


def field_of_usr(name: str, value: object) -> Mutate:
    def mutate(message: pb2.Manifest) -> None:
        operations = message.partitions[0].operations if message.partitions else message.partition_operations
        if value is None:
            operations[1].ClearField(name)
        else:
            setattr(operations[1], name, value)

    return mutate


def no_new_info(message: pb2.Manifest) -> None:
    message.ClearField("new_partition_info")


def half_info(message: pb2.Manifest) -> None:
    message.partitions[0].new_partition_info.ClearField("hash")


def short_info_hash(message: pb2.Manifest) -> None:
    message.partitions[0].new_partition_info.hash = bytes(31)


def huge_part(message: pb2.Manifest) -> None:
    message.partitions[0].new_partition_info.size = 2**50 + 1


def no_partitions(message: pb2.Manifest) -> None:
    message.ClearField("partitions")


def two_kernels(message: pb2.Manifest) -> None:
    message.partitions[0].partition_name = b"kernel"
    message.partitions.add().CopyFrom(message.partitions[1])
    message.partitions[2].partition_name = b"usr"


def two_kernel_procedures(message: pb2.Manifest) -> None:
    message.procedures.add(type=0, new_info=message.procedures[0].new_info)


def other_partition(message: pb2.Manifest) -> None:
    message.partitions[1].partition_name = b"vendor\xff"


def nameless_partition(message: pb2.Manifest) -> None:
    message.partitions[1].ClearField("partition_name")


def hash_tree(message: pb2.Manifest) -> None:
    message.partitions[0].hash_tree_extent = b""


def fields_of_major_1(message: pb2.Manifest) -> None:
    message.new_partition_info.size = 5


def fields_of_major_2(message: pb2.Manifest) -> None:
    message.partitions.add(partition_name=b"usr")


def block_size_of_3000(message: pb2.Manifest) -> None:
    message.block_size = 3000


def tiny_blocks(message: pb2.Manifest) -> None:
    message.block_size = 256


def huge_blocks(message: pb2.Manifest) -> None:
    message.block_size = 131072


def half_signature(message: pb2.Manifest) -> None:
    message.ClearField("signatures_size")


def signature_elsewhere(message: pb2.Manifest) -> None:
    message.signatures_offset -= 1


def empty_signature(message: pb2.Manifest) -> None:
    message.signatures_size = 0


def huge_signature(message: pb2.Manifest) -> None:
    message.signatures_size = 65537


def empty_version(message: pb2.Manifest) -> None:
    message.partitions[0].version = b""


def version_with_newline(message: pb2.Manifest) -> None:
    message.partitions[0].version = b"1.0\n"


def version_not_text(message: pb2.Manifest) -> None:
    message.partitions[0].version = b"1.0\xff"


def long_version(message: pb2.Manifest) -> None:
    message.partitions[0].version = b"1" * 257


def empty_extent(message: pb2.Manifest) -> None:
    message.partitions[0].operations[0].dst_extents[0].num_blocks = 0


def wrapping_extent(message: pb2.Manifest) -> None:
    message.partitions[0].operations[0].dst_extents[0].start_block = 2**64 - 2


def hole_in_major_2(message: pb2.Manifest) -> None:
    message.partitions[0].operations[0].dst_extents[0].start_block = SPARSE_HOLE


def endless_hole(message: pb2.Manifest) -> None:
    message.partition_operations[0].dst_extents[0].start_block = SPARSE_HOLE
    message.partition_operations[0].dst_extents[0].num_blocks = 2**40


def no_destination(message: pb2.Manifest) -> None:
    message.partitions[0].operations[0].ClearField("dst_extents")


def twice_the_same_block(message: pb2.Manifest) -> None:
    message.partitions[0].operations[2].dst_extents[0].start_block = 7


def short_noop_hash(message: pb2.Manifest) -> None:
    message.noop_operations[0].data_sha256_hash = b"x"


def ignored_without_hash(message: pb2.Manifest) -> None:
    message.procedures[0].type = 9
    message.procedures[0].operations[0].ClearField("data_sha256_hash")


def type_beyond_32_bits(message: pb2.Manifest) -> None:
    message.partitions[0].operations[0].type = 2**32


MALFORMED = Kind.MANIFEST_MALFORMED
UNKNOWN = Kind.OPERATION_UNKNOWN


@pytest.mark.parametrize(
    ("major", "mutate", "kind", "message"),
    [
        (2, field_of_usr("type", 9), UNKNOWN, r"operation type 9 \(PUFFDIFF\) is not supported in major version 2"),
        (2, field_of_usr("type", 10), UNKNOWN, r"10 \(BROTLI_BSDIFF\)"),
        (2, field_of_usr("type", 99), UNKNOWN, r"99 \(unknown\)"),
        (2, field_of_usr("type", 2), UNKNOWN, r"2 \(MOVE\)"),
        (2, field_of_usr("type", 3), UNKNOWN, r"3 \(BSDIFF\)"),
        (1, field_of_usr("type", 8), UNKNOWN, r"8 \(REPLACE_XZ\) is not supported in major version 1"),
        (1, field_of_usr("type", 14), UNKNOWN, r"14 \(REPLACE_ZSTD\)"),
        (2, type_beyond_32_bits, UNKNOWN, "4294967296"),
        (2, field_of_usr("type", None), MALFORMED, "expected an operation with a type"),
        (2, field_of_usr("data_sha256_hash", b"short"), MALFORMED, "usr operation 1: hash: expected 32 bytes, got 5"),
        (2, field_of_usr("src_sha256_hash", bytes(33)), MALFORMED, "expected 32 bytes, got 33"),
        (2, field_of_usr("data_length", None), MALFORMED, "REPLACE_ZSTD: expected data, got none"),
        (2, field_of_usr("type", 6), MALFORMED, "ZERO: expected no data"),
        (2, field_of_usr("type", 7), MALFORMED, "DISCARD: expected no data"),
        (1, field_of_usr("type", 2), MALFORMED, "MOVE: expected no data"),
        (2, field_of_usr("type", 5), MALFORMED, "SOURCE_BSDIFF: expected size and hash of the old content"),
        (2, field_of_usr("data_offset", 0), MALFORMED, "usr operation 1: expected its blob at"),
        (2, field_of_usr("data_length", 1), MALFORMED, "usr operation 2: expected its blob at"),
        (2, field_of_usr("dst_length", 16385), MALFORMED, "result: expected at most 4 blocks, got 16385 bytes"),
        (2, field_of_usr("src_length", 1), MALFORMED, "source: expected at most 0 blocks"),
        (1, no_new_info, MALFORMED, "usr: expected size and hash of the new content, got none"),
        (2, half_info, MALFORMED, "expected both size and hash"),
        (2, short_info_hash, MALFORMED, "usr: new hash: expected 32 bytes, got 31"),
        (2, huge_part, MALFORMED, "usr: new size: expected at most"),
        (2, no_partitions, MALFORMED, "expected a part usr, got none"),
        (2, two_kernels, MALFORMED, "expected each part once, got kernel, kernel, usr"),
        (1, two_kernel_procedures, MALFORMED, "expected each part once, got usr, kernel, kernel"),
        (2, other_partition, MALFORMED, "expected the partitions usr and kernel, got"),
        (2, nameless_partition, MALFORMED, "expected the partitions usr and kernel, got b''"),
        (2, hash_tree, MALFORMED, "usr: hash_tree_extent is not supported"),
        (2, fields_of_major_1, MALFORMED, "new_partition_info has no place in major version 2"),
        (1, fields_of_major_2, MALFORMED, "partitions has no place in major version 1"),
        (2, block_size_of_3000, MALFORMED, "block size: expected a power of two from 512 to 65536, got 3000"),
        (2, tiny_blocks, MALFORMED, "got 256"),
        (2, huge_blocks, MALFORMED, "got 131072"),
        (2, half_signature, MALFORMED, "expected both offset and size"),
        (2, signature_elsewhere, MALFORMED, "signatures: expected offset"),
        (2, empty_signature, MALFORMED, "signatures: expected 1 to 65536 bytes, got 0"),
        (2, huge_signature, MALFORMED, "signatures: expected 1 to 65536 bytes, got 65537"),
        (2, empty_version, MALFORMED, "version: expected 1 to 256 printable"),
        (2, version_with_newline, MALFORMED, r"got '1.0\\n'"),
        (2, version_not_text, MALFORMED, "version: expected"),
        (2, long_version, MALFORMED, "version: expected"),
        (2, empty_extent, MALFORMED, "usr operation 0: expected an extent with blocks, got 0"),
        (2, wrapping_extent, MALFORMED, "expected extents within"),
        (2, hole_in_major_2, MALFORMED, "expected extents within"),
        (1, endless_hole, MALFORMED, "expected extents within"),
        (2, no_destination, MALFORMED, "usr operation 0: expected destination blocks, got none"),
        (2, twice_the_same_block, MALFORMED, "expected each block to be written once, got block 7 twice"),
        (1, short_noop_hash, MALFORMED, "noop operation 0: hash: expected 32 bytes, got 1"),
    ],
)
def test_manifest_that_breaks_a_rule_is_refused(major: int, mutate: Mutate, kind: Kind, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        parse(major, mutate)
    assert caught.value.kind is kind


@pytest.mark.parametrize(("major", "mutate"), [(2, field_of_usr("data_sha256_hash", None)), (1, ignored_without_hash)])
def test_blob_without_hash_is_refused(major: int, mutate: Mutate) -> None:
    with pytest.raises(VerificationError, match="expected the hash of its data, got none") as caught:
        parse(major, mutate)
    assert caught.value.kind is Kind.OPERATION_HASH_MISSING


@pytest.mark.parametrize(
    ("major", "part", "message"),
    [
        (2, usr_part(copy(0, 0, 17), old_bytes=MIB), "within 16 blocks, got one that ends at 17"),
        (2, usr_part(copy(15, 0, 2), old_bytes=65535), "within 16 blocks, got one that ends at 17"),
        (2, usr_part(copy(0, 0)), "SOURCE_COPY: expected size and hash of the old content"),
        (1, usr_part(move(2, 0), old_bytes=8192), "within 2 blocks, got one that ends at 3"),
        (1, usr_part(move(2**40, 0)), "expected extents within"),
        (2, usr_part(replace(Extent(-1, 1))), "expected an extent with blocks"),
        (2, usr_part(replace(Extent(0, 2), Extent(1, 1))), "got block 1 twice"),
        (2, Part(name=PartName.PCR_POLICY), "expected a part usr"),
        (
            1,
            usr_part(
                Operation(type=OperationType.MOVE, src_extents=(Extent(0, 2),), dst_extents=(Extent(0, 1),)),
            ),
            "MOVE: expected as many source as destination blocks, got 2 and 1",
        ),
    ],
)
def test_part_that_breaks_a_rule_is_refused(major: int, part: Part, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        Manifest(major=major, parts=(part,))
    assert caught.value.kind is MALFORMED


def test_part_of_the_other_major_version_is_refused() -> None:
    pcr_policy = Part(name=PartName.PCR_POLICY, new=ContentInfo(size_bytes=0, sha256=HASH))
    with pytest.raises(FormatError, match="pcr-policy has no place in major version 2"):
        Manifest(major=2, parts=(usr_part(), pcr_policy))


def test_version_in_major_1_is_refused() -> None:
    part = Part(name=PartName.USR, new=ContentInfo(size_bytes=0, sha256=HASH), version="1.0")
    with pytest.raises(FormatError, match="no place for a release version"):
        Manifest(major=1, parts=(part,))


def test_noop_operations_in_major_2_are_refused() -> None:
    with pytest.raises(FormatError, match="noop operations have no place in major version 2"):
        Manifest(major=2, parts=(usr_part(),), noop_operations=(replace(Extent(0, 1)),))


def test_operation_type_of_the_other_major_version_is_refused() -> None:
    zero = Operation(type=OperationType.ZERO)
    with pytest.raises(FormatError, match="noop operation 0: ZERO has no place in major version 1"):
        Manifest(major=1, parts=(usr_part(),), noop_operations=(zero,))
    with pytest.raises(FormatError, match="REPLACE_XZ has no place in major version 1") as caught:
        Manifest(major=1, parts=(usr_part(replace(Extent(0, 1), type_=OperationType.REPLACE_XZ)),))
    assert caught.value.kind is UNKNOWN


def test_blobs_beyond_4_gib_in_major_1_are_refused() -> None:
    huge = Operation(type=OperationType.REPLACE, data_length=2**32, data_sha256=HASH, dst_extents=(Extent(0, 1),))
    with pytest.raises(FormatError, match="blobs: expected at most 4294967295 bytes, got 4294967296"):
        Manifest(major=1, parts=(usr_part(huge),))
    assert Manifest(major=2, parts=(usr_part(huge),)).blob_bytes == 2**32


@pytest.mark.parametrize("major", [0, 3])
def test_manifest_of_an_unknown_major_version_is_refused(major: int) -> None:
    with pytest.raises(FormatError, match=f"expected major version 1 or 2, got {major}") as caught:
        Manifest.from_bytes(b"", major)
    assert caught.value.kind is Kind.PAYLOAD_VERSION
    with pytest.raises(FormatError, match=f"expected major version 1 or 2, got {major}"):
        Manifest(major=major, parts=(usr_part(),))


@pytest.mark.parametrize("major", [1, 2])
def test_manifest_of_more_than_the_limit_is_refused(major: int) -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_MANIFEST_BYTES[major]} bytes"):
        Manifest.from_bytes(bytes(MAX_MANIFEST_BYTES[major] + 1), major)


def test_manifest_too_large_to_be_read_again_is_not_written() -> None:
    manifest = Manifest(major=1, parts=(usr_part(), *[Part(name=PartName.IGNORED)] * 17))
    with pytest.raises(FormatError, match="expected at most 16 procedures, got more"):
        manifest.to_bytes()


def test_bytes_that_protobuf_refuses_are_refused() -> None:
    # A broken extent: the count of messages does not look so deep.
    with pytest.raises(FormatError, match="not a protobuf message") as caught:
        Manifest.from_bytes(b"\x0a\x03\x32\x01\x08", 1)
    assert caught.value.kind is MALFORMED
