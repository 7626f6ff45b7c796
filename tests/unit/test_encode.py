"""Which operation a piece becomes."""

import hashlib
import random

import pytest

from tests.support.builds import memory
from update_agent.domain.encode import BLOCK_BYTES, Compression, Encoder, Piece, PieceKind, load_bsdiff, whole_pieces
from update_agent.errors import DeviceError, Kind
from update_agent.formats.manifest import Extent, OperationType

NOISE = random.Random(3).randbytes(8 * BLOCK_BYTES)


def piece(kind: PieceKind, *source: Extent, blocks: int = 8) -> Piece:
    return Piece(start_block=5, num_blocks=blocks, length_bytes=blocks * BLOCK_BYTES, kind=kind, source=source)


def delta_encoder(old: bytes) -> Encoder:
    return Encoder(compression=Compression.ZSTD, level=3, has_zero=True, old=memory(old), make_patch=load_bsdiff())


def test_whole_pieces_cover_the_image() -> None:
    assert [(p.start_block, p.num_blocks, p.length_bytes) for p in whole_pieces(2**20 + 1, fill_last=False)] == [
        (0, 256, 2**20),
        (256, 1, 1),
    ]
    assert [p.num_blocks for p in whole_pieces(2**20 + 1, fill_last=True)] == [256, 256]


def test_encode_copy_states_the_hash_of_its_source() -> None:
    encoded = delta_encoder(NOISE).encode(
        piece(PieceKind.COPY, Extent(4, 4), Extent(0, 4)), NOISE[16384:] + NOISE[:16384]
    )
    assert encoded.blob == b""
    assert encoded.operation.type is OperationType.SOURCE_COPY
    assert encoded.operation.src_extents == (Extent(4, 4), Extent(0, 4))
    assert encoded.operation.src_sha256 == hashlib.sha256(NOISE[16384:] + NOISE[:16384]).digest()


def test_encode_copy_of_image_that_changed_is_refused() -> None:
    with pytest.raises(DeviceError, match="changed while it was read") as caught:
        delta_encoder(NOISE).encode(piece(PieceKind.COPY, Extent(0, 8)), NOISE[:-1] + b"?")
    assert caught.value.kind is Kind.DEVICE_IO
    assert caught.value.hint is not None


def test_encode_patch_where_it_saves_bytes() -> None:
    new = NOISE[:9000] + b"!" + NOISE[9001:]
    encoded = delta_encoder(NOISE).encode(piece(PieceKind.PATCH, Extent(0, 8)), new)
    operation = encoded.operation
    assert operation.type is OperationType.SOURCE_BSDIFF
    assert encoded.blob.startswith(b"BSDIFF40")
    assert (operation.src_length, operation.dst_length) == (len(NOISE), len(new))
    assert operation.src_sha256 == hashlib.sha256(NOISE).digest()
    assert operation.data_sha256 == hashlib.sha256(encoded.blob).digest()


def test_encode_patch_where_a_replacement_is_smaller_replaces() -> None:
    new = random.Random(4).randbytes(4 * BLOCK_BYTES) * 2
    encoded = delta_encoder(NOISE).encode(piece(PieceKind.PATCH, Extent(0, 8)), new)
    assert encoded.operation.type is OperationType.REPLACE_ZSTD


def test_encode_patch_of_nearly_nothing_is_not_even_tried() -> None:
    def fail(_old: bytes, _new: bytes) -> bytes:
        raise AssertionError

    encoder = Encoder(compression=Compression.ZSTD, level=3, has_zero=True, old=memory(NOISE), make_patch=fail)
    encoded = encoder.encode(piece(PieceKind.PATCH, Extent(0, 8)), b"x" * len(NOISE))
    assert encoded.operation.type is OperationType.REPLACE_ZSTD


def test_encode_patch_that_would_cost_more_in_the_manifest_than_it_saves_replaces() -> None:
    packed = Encoder(compression=Compression.ZSTD, level=3, has_zero=True).encode(piece(PieceKind.WHOLE), NOISE)
    encoder = Encoder(
        compression=Compression.ZSTD,
        level=3,
        has_zero=True,
        old=memory(NOISE),
        make_patch=lambda _old, _new: bytes(len(packed.blob) - 10),
    )
    assert encoder.encode(piece(PieceKind.PATCH, Extent(0, 8)), NOISE).operation.type is OperationType.REPLACE


def test_encode_noise_is_stored_as_it_is() -> None:
    encoded = Encoder(compression=Compression.BZIP2, level=None, has_zero=False).encode(piece(PieceKind.WHOLE), NOISE)
    assert (encoded.operation.type, encoded.blob) == (OperationType.REPLACE, NOISE)


def test_encode_zeros_is_zero_only_where_it_is_known() -> None:
    zeros = bytes(8 * BLOCK_BYTES)
    types = [
        Encoder(compression=Compression.NONE, level=None, has_zero=has)
        .encode(piece(PieceKind.WHOLE), zeros)
        .operation.type
        for has in (True, False)
    ]
    assert types == [OperationType.ZERO, OperationType.REPLACE]
