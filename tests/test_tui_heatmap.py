"""Goal: the map of partitions never shows health that is not there, and every partition is in exactly one cell of it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.test_tui_model import JSON
from tests.tui_canned import cluster, node, ring
from tui.heatmap import (
    CHUNK,
    KEY,
    Fit,
    cells_of,
    fit,
    next_trouble,
    runs,
    shade,
    shares_of,
    spots_of,
    worst_in,
)
from tui.model import cluster_of
from tui.partitions import (
    CLASSES,
    DEGRADED,
    FULL,
    MOVED,
    MOVING,
    UNAVAILABLE,
    UNKNOWN,
    Standing,
    agreed,
    class_of,
    counts_of,
    hash_range,
    live_of,
    pending_in,
    ranks_of,
    standing_of,
    table_of,
    with_pending,
)

PLACES = st.integers(1, 260)


@given(st.integers(1, 20_000) | st.sampled_from([256, 4096, 65_536]), PLACES, PLACES)
def test_every_partition_is_in_exactly_one_cell(partitions: int, width: int, height: int) -> None:
    """Goal: cells cut the partitions in order without a gap, and all of them lie within the room."""
    fitted = fit(partitions, width, height)
    seen = [partition for cell in range(fitted.cells) for partition in fitted.within(cell)]
    assert seen == list(range(partitions))
    assert all(fitted.cell_of(p) == c for c in (0, fitted.cells - 1) for p in fitted.within(c))
    assert fitted.columns * fitted.zoom_x <= width and fitted.rows * fitted.zoom_y <= height
    assert fitted.columns * fitted.rows >= fitted.cells
    drawn = {
        fitted.cell_at(x, y) for y in range(0, height, fitted.zoom_y) for x in range(0, width, fitted.zoom_x)
    }
    assert drawn - {None} == set(range(fitted.cells))


def test_usual_fits() -> None:
    """Goal: one partition a cell where there is room, round rows, and small rings drawn large."""
    assert fit(4096, 72, 24) == Fit(4096, 3, 64, 22, 1, 1)
    assert fit(4096, 134, 100) == Fit(4096, 1, 128, 32, 1, 2)
    assert fit(256, 72, 20) == Fit(256, 1, 32, 8, 2, 2)
    assert fit(65_536, 104, 100) == Fit(65_536, 7, 104, 91, 1, 1)
    assert fit(0, 10, 10) == fit(10, 0, 10) == Fit()


@given(st.binary(min_size=1, max_size=600), PLACES, PLACES)
def test_the_worst_of_a_cell_wins(ranks: bytes, width: int, height: int) -> None:
    """Goal: a cell is as bad as its worst partition, which is also the one that is told of."""
    fitted = fit(len(ranks), width, height)
    cells = cells_of(ranks, fitted)
    assert len(cells) == fitted.cells
    for cell, rank in enumerate(cells):
        within = fitted.within(cell)
        assert rank == max(ranks[p] for p in within) == ranks[worst_in(ranks, within)]


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"{number:016x}" for number in numbers)


OWNERS = st.lists(st.permutations(range(5)).map(lambda order: order[:3]), min_size=8, max_size=8)


def five(owners: list[Any], **changes: Any) -> dict[str, Any]:
    return ring(5) | {"owners": owners} | changes


@given(OWNERS, OWNERS, st.sets(st.integers(1, 5)), st.sets(st.integers(1, 5)), st.sets(st.integers(0, 7)))
def test_ranks_are_what_the_owners_are(
    owners: list[Any], before: list[Any], voting: set[int], whole: set[int], pending: set[int]
) -> None:
    """Goal: live replicas, majority and change of each partition, counted the slow way, in both sets of owners."""
    table = table_of(five(owners, before=before))
    standing = Standing(ids(*voting), ids(*voting & whole))
    ranks = with_pending(ranks_of(table, standing), pending)
    for partition, rank in enumerate(ranks):
        sets = [{o + 1 for o in row} for row in (owners[partition], before[partition])]
        assert live_of(rank) in [len(one & voting & whole) for one in sets]
        if min(len(one & voting) for one in sets) < 2:
            assert class_of(rank) == UNAVAILABLE
        elif min(len(one & voting & whole) for one in sets) < 3:
            assert class_of(rank) == DEGRADED
        else:
            settled = MOVED if sets[0] != sets[1] else FULL
            assert class_of(rank) == (MOVING if partition in pending else settled)
    assert sum(counts_of(ranks).values()) == 8


def test_states_and_wholeness() -> None:
    """Goal: suspects still count; the dead, the unknown, and whoever is not whole are no live replica."""
    nodes = [
        node(1),
        node(2, "suspect"),
        node(3, "dead"),
        node(4, whole=False),
        node(5, "unknown", whole=True),
    ]
    standing = standing_of(cluster_of(cluster(nodes=nodes)))
    assert standing == Standing(ids(1, 2, 4), ids(1, 2))
    assert standing_of(None) == Standing()
    table = table_of(five([[0, 1, 3], [0, 1, 2], [2, 4, 0], [3, 4, 2]]))
    ranks = ranks_of(table, standing)
    assert [(CLASSES[class_of(rank)], live_of(rank)) for rank in ranks] == [
        ("degraded", 2),
        ("degraded", 2),
        ("unavailable", 1),
        ("unavailable", 0),
    ]
    assert [next_trouble(ranks, after) for after in (-1, 0, 3)] == [0, 1, 0]
    assert next_trouble(bytes(3), 1) is None


def test_many_replicas() -> None:
    """Goal: as many replicas as a cluster can be founded with."""
    table = table_of(ring(16) | {"owners": [list(range(16))] * 16})
    for live, found in ((16, FULL), (15, DEGRADED), (9, DEGRADED), (8, UNAVAILABLE)):
        up = ids(*range(1, live + 1))
        ranks = ranks_of(table, Standing(up, up))
        assert {(class_of(rank), live_of(rank)) for rank in ranks} == {(found, live)}


def test_rows_that_make_no_sense_are_unknown() -> None:
    """Goal: an owner out of range, twice, or of a wrong kind, is no health."""
    table = table_of(five([[0, 1, 2], [0, 1, 9], [0, 0, 0], [0, 1], None, "abc", [0, 1, -1], [[], 0, 1]]))
    ranks = ranks_of(table, Standing(ids(1, 2, 3), ids(1, 2, 3)))
    assert [class_of(rank) for rank in ranks] == [FULL] + [UNKNOWN] * 7
    assert [len(table.owners(partition)) for partition in range(9)] == [3, 2, 3, 2, 0, 0, 2, 2, 0]


@given(JSON)
def test_any_json_is_a_table(told: Any) -> None:
    """Goal: what a newer or broken peer tells does not crash the screen."""
    for document in (told, {"owners": told}, ring() | {"owners": [told]}, ring() | {"before": told}):
        if isinstance(document, dict):
            table = table_of(document)
            pending = pending_in(document | {"pending": told}, table.partitions)
            ranks = with_pending(ranks_of(table, Standing()), pending)
            assert counts_of(ranks)["full"] == 0


def test_a_table_is_read_once() -> None:
    """Goal: the same ring told again costs nothing; another one is another."""
    known = table_of(ring())
    assert table_of(ring(), known) is known
    assert table_of(ring() | {"owners": [[0, 1, 2]] * 16}, known) is not known
    assert table_of(ring() | {"before": ring()["owners"]}, known) is not known


@given(st.sets(st.integers(0, 63)))
def test_pending(pending: set[int]) -> None:
    """Goal: the bitmap comes out as it went in; what is no bitmap is nothing."""
    bits = bytearray(8)
    for partition in pending:
        bits[partition >> 3] |= 1 << (partition & 7)
    told = {"pending": b64encode(bits).decode()}
    assert pending_in(told, 64) == sorted(pending)
    assert pending_in(told, 10) == sorted(p for p in pending if p < 10)
    assert pending_in({"pending": "?"}, 64) == pending_in({}, 64) == []


def test_the_worse_of_map_and_peer_is_counted() -> None:
    """Goal: where the peer knows of trouble that it tells of no partition, the legend does not show more health than it."""
    counts = dict(zip(CLASSES, (10, 1, 1, 3, 1, 0), strict=True))

    def told(total: int, full: int | None, unavailable: int) -> tuple[dict[str, int], int]:
        partitions = {"total": total, "full": full, "degraded": 0, "unavailable": unavailable}
        return agreed(counts, cluster_of(cluster(partitions=partitions)))

    assert told(16, 10, 1) == told(16, 15, 0) == told(16, None, 0) == (counts, 0)
    assert told(99, 0, 99) == agreed(counts, None) == (counts, 0)
    assert told(16, 8, 4) == (dict(zip(CLASSES, (8, 1, 1, 2, 4, 0), strict=True)), 2)
    assert told(16, 0, 16) == (dict(zip(CLASSES, (0, 0, 0, 0, 16, 0), strict=True)), 10)


def test_what_is_marked() -> None:
    """Goal: the share of a peer and the spots of a key, by cell; none and all are told apart from some."""
    fitted = Fit(16, 4, 4, 1)
    assert shares_of([0, 1, 2, 3, 5, 99], fitted) == [4, 1, 0, 0]
    assert [shade(share, 4, unicode=True) for share in range(5)] == ["·", "░", "▒", "▓", "█"]
    assert [shade(share, 1000, unicode=False) for share in (0, 1, 999, 1000)] == [".", "-", "+", "#"]
    assert spots_of({0: KEY, 1: CHUNK, 9: CHUNK, 99: KEY}, fitted) == {0: KEY, 2: CHUNK}
    assert runs("aabccc") == [(0, 2), (2, 3), (3, 6)] and runs("") == []


def test_hash_ranges() -> None:
    """Goal: the ranges join, and the last one ends at the end."""
    assert hash_range(0, 12) == ("00000000", "000fffff")
    assert hash_range(1, 12) == ("00100000", "001fffff")
    assert hash_range(65_535, 16) == ("ffff0000", "ffffffff")
