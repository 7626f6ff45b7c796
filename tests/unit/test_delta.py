"""Where a delta looks for each block."""

from collections.abc import Sequence

from tests.support.builds import memory
from update_agent.domain.delta import (
    COPY_BLOCKS_MAX,
    GAP_BLOCKS_MAX,
    MARGIN_BLOCKS,
    PATCH_BLOCKS_MAX,
    WINDOW_BLOCKS_MAX,
    BlockDigests,
    plan_delta,
)
from update_agent.domain.encode import BLOCK_BYTES, CHUNK_BLOCKS, Piece, PieceKind
from update_agent.formats.manifest import Extent

ZERO = BlockDigests.of(memory(bytes(BLOCK_BYTES))).digests[0]


def digest(number: int) -> bytes:
    """What a block of its own would have."""
    return number.to_bytes(16, "big", signed=True)


def digests(*numbers: int) -> list[bytes]:
    return [digest(number) for number in numbers]


def kinds(pieces: Sequence[Piece]) -> list[tuple[PieceKind, int, int]]:
    return [(piece.kind, piece.start_block, piece.num_blocks) for piece in pieces]


def test_plan_of_the_same_image_is_one_copy() -> None:
    (piece,) = plan_delta(digests(1, 2, 3), digests(1, 2, 3))
    assert piece == Piece(
        start_block=0,
        num_blocks=3,
        length_bytes=3 * BLOCK_BYTES,
        kind=PieceKind.COPY,
        source=(Extent(0, 3),),
    )


def test_plan_finds_blocks_that_moved() -> None:
    (piece,) = plan_delta(digests(1, 2, 3, 4), digests(3, 4, 1, 2))
    assert piece.source == (Extent(2, 2), Extent(0, 2))


def test_plan_goes_on_with_the_run_where_a_block_is_there_twice() -> None:
    (piece,) = plan_delta(digests(9, 1, 2, 9, 3), digests(1, 2, 9, 3))
    assert piece.source == (Extent(1, 4),)


def test_plan_prefers_the_same_place_to_the_first() -> None:
    (piece,) = plan_delta(digests(9, 9, 7), digests(7, 9))
    assert piece.source == (Extent(2, 1), Extent(1, 1))


def test_plan_goes_on_with_the_run_behind_an_unknown_block() -> None:
    new = digests(1, -1, 9, *range(20, 20 + GAP_BLOCKS_MAX))
    old = digests(9, 1, 8, 9, *range(20, 20 + GAP_BLOCKS_MAX))
    assert plan_delta(old, new)[-1].source == (Extent(3, GAP_BLOCKS_MAX + 1),)


def test_plan_leaves_zeros_to_the_encoder_in_chunks() -> None:
    pieces = plan_delta([ZERO], [ZERO] * (CHUNK_BLOCKS + 1))
    assert kinds(pieces) == [(PieceKind.WHOLE, 0, CHUNK_BLOCKS), (PieceKind.WHOLE, CHUNK_BLOCKS, 1)]


def test_plan_bounds_copies() -> None:
    image = digests(*range(COPY_BLOCKS_MAX + 1))
    assert kinds(plan_delta(image, image)) == [
        (PieceKind.COPY, 0, COPY_BLOCKS_MAX),
        (PieceKind.COPY, COPY_BLOCKS_MAX, 1),
    ]


def test_plan_joins_unknown_blocks_over_a_small_gap_only() -> None:
    gap = range(100, 100 + GAP_BLOCKS_MAX)
    assert kinds(plan_delta(digests(*gap), digests(-1, *gap, -2))) == [(PieceKind.PATCH, 0, GAP_BLOCKS_MAX + 2)]
    gap = range(100, 100 + GAP_BLOCKS_MAX + 1)
    assert kinds(plan_delta(digests(*gap), digests(-1, *gap, -2))) == [
        (PieceKind.PATCH, 0, 1),
        (PieceKind.COPY, 1, GAP_BLOCKS_MAX + 1),
        (PieceKind.PATCH, GAP_BLOCKS_MAX + 2, 1),
    ]


def test_plan_cuts_a_large_unknown_region_evenly() -> None:
    count = PATCH_BLOCKS_MAX + 2
    pieces = plan_delta(digests(*range(1, 3000)), digests(*(-n - 1 for n in range(count))))
    assert kinds(pieces) == [(PieceKind.PATCH, 0, count // 2), (PieceKind.PATCH, count // 2, count // 2)]


def test_window_follows_the_neighbour_before() -> None:
    old = digests(*range(10000))
    new = digests(5000, 5001, -1)
    piece = plan_delta(old, new)[-1]
    assert piece.source == (Extent(5002 - MARGIN_BLOCKS, 1 + 2 * MARGIN_BLOCKS),)


def test_window_leads_to_the_neighbour_behind() -> None:
    old = digests(*range(10000))
    piece = plan_delta(old, digests(-1, -2, 5000))[0]
    assert piece.source == (Extent(4998 - MARGIN_BLOCKS, 2 + 2 * MARGIN_BLOCKS),)


def test_window_of_neighbours_far_apart_has_two_parts() -> None:
    piece = plan_delta(digests(*range(10000)), digests(2000, -1, 7000))[1]
    assert piece.source == (
        Extent(2001 - MARGIN_BLOCKS, 1 + 2 * MARGIN_BLOCKS),
        Extent(6999 - MARGIN_BLOCKS, 1 + 2 * MARGIN_BLOCKS),
    )


def test_window_looks_around_known_blocks_inside() -> None:
    piece = plan_delta(digests(*range(10000)), digests(-1, 4000, -2))[0]
    assert piece.source == (Extent(4000 - MARGIN_BLOCKS // 4, MARGIN_BLOCKS // 4 * 2),)


def test_window_without_any_neighbour_is_at_the_same_place() -> None:
    piece = plan_delta(digests(*range(10000)), digests(*(-n - 1 for n in range(10))))[0]
    assert piece.source == (Extent(0, 10 + MARGIN_BLOCKS),)


def test_window_is_clipped_and_bounded() -> None:
    old = digests(*range(40000))
    known = [n * 500 for n in range(1, 60)]
    new = digests(*(number for pair in zip((-n for n in range(1, 60)), known, strict=True) for number in pair), -99)
    (piece,) = plan_delta(old, new)
    assert sum(extent.num_blocks for extent in piece.source) == WINDOW_BLOCKS_MAX
    assert all(0 <= extent.start_block <= 40000 - extent.num_blocks for extent in piece.source)


def test_window_leaves_out_zeros_and_repetitions() -> None:
    old = [digest(1), ZERO, digest(2), digest(2), digest(2), digest(3)]
    (piece,) = plan_delta(old, digests(-1))
    assert piece.source == (Extent(0, 1), Extent(2, 1), Extent(5, 1))


def test_plan_without_anything_useful_in_the_old_image_makes_whole_pieces() -> None:
    assert kinds(plan_delta([ZERO], digests(-1))) == [(PieceKind.WHOLE, 0, 1)]


def test_digests_describe_blocks_and_the_whole() -> None:
    image = memory(b"a" * BLOCK_BYTES + b"b" * BLOCK_BYTES + b"a" * BLOCK_BYTES)
    found = BlockDigests.of(image)
    assert found.digests[0] == found.digests[2] != found.digests[1]
    assert found.content.size_bytes == 3 * BLOCK_BYTES
