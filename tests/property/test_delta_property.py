"""A delta of any two images gives the new one back."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builds import memory
from update_agent.domain.delta import BlockDigests, plan_delta
from update_agent.domain.encode import BLOCK_BYTES, Compression, Encoder, load_bsdiff
from update_agent.formats.bsdiff import apply_patch
from update_agent.formats.compression import decompress
from update_agent.formats.manifest import OperationType

# Few different blocks, so that images have much in common; 0 is a block of zeros.
BLOCKS = st.integers(min_value=0, max_value=12)
IMAGES = st.lists(BLOCKS, min_size=1, max_size=60).map(
    lambda numbers: b"".join((number * 7919).to_bytes(4, "big") * (BLOCK_BYTES // 4) for number in numbers)
)
NEW_BLOCKS = st.lists(st.binary(min_size=1, max_size=40).map(lambda data: data.ljust(BLOCK_BYTES, b".")), max_size=5)


@given(old=IMAGES, start=IMAGES, middle=NEW_BLOCKS, end=IMAGES)
def test_delta_applied_to_old_gives_new(old: bytes, start: bytes, middle: list[bytes], end: bytes) -> None:
    new = b"".join((start, *middle, end))
    old_device = memory(old)
    encoder = Encoder(compression=Compression.ZSTD, level=1, has_zero=True, old=old_device, make_patch=load_bsdiff())
    result = b""
    for piece in plan_delta(BlockDigests.of(old_device).digests, BlockDigests.of(memory(new)).digests):
        at = piece.start_block * BLOCK_BYTES
        assert at == len(result)
        encoded = encoder.encode(piece, new[at : at + piece.length_bytes])
        source = b"".join(
            old[e.start_block * BLOCK_BYTES : (e.start_block + e.num_blocks) * BLOCK_BYTES]
            for e in encoded.operation.src_extents
        )
        match encoded.operation.type:
            case OperationType.ZERO:
                result += bytes(piece.length_bytes)
            case OperationType.SOURCE_COPY:
                result += source
            case OperationType.SOURCE_BSDIFF:
                result += _patch(source, encoded.blob)
            case other:
                result += decompress(other, encoded.blob, piece.length_bytes)
    assert result == new


def _patch(source: bytes, patch: bytes) -> bytes:
    return b"".join(
        apply_patch(
            read_patch=lambda offset, length: patch[offset : offset + length],
            patch_bytes=len(patch),
            read_old=lambda offset, length: source[offset : offset + length],
            old_bytes=len(source),
            new_bytes_max=2**31,
        )
    )
