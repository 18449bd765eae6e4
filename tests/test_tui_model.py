"""Goal: the terminal UI's view data says what the API said, and never more health than that."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tui_canned import cluster, degraded, node, ring
from tui.circle import Arc, draw, texture_of
from tui.model import (
    Cluster,
    age_words,
    cluster_of,
    epoch_words,
    headline,
    share_words,
    shares,
    size_words,
    tolerance,
)
from tui.partitions import pending_in, ranks_of, standing_of, table_of, with_pending
from tui.peers import PEER_COLUMNS
from tui.ringview import health_around
from tui.rows import fitting

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


def test_healthy_cluster() -> None:
    """Goal: verdict, tolerance, epoch and every peer come through unchanged."""
    seen = cluster_of(cluster())
    assert headline(seen) == "HEALTHY  tolerates 1 more failure now"
    assert (seen.answering, epoch_words(seen.epoch, seen.epoch_kind), seen.replicas) == ("peer-1", "1.3", 3)
    assert [(peer.label, peer.name, peer.state) for peer in seen.peers] == [
        ("1", "peer-1", "alive"),
        ("2", "peer-2", "alive"),
        ("3", "peer-3", "alive"),
    ]
    assert seen.peers[0].is_self and seen.peers[0].last_heard_s == 0.0


def test_degraded_cluster_gives_reasons() -> None:
    """Goal: a dead peer is dead in the table, and the reason is the API's own sentence, with its code."""
    seen = cluster_of(degraded())
    assert [reason.words for reason in seen.reasons] == [
        "peer-2 is dead: 4,096 partitions lack a copy (PeerDead)"
    ]
    assert [peer.look.word for peer in seen.peers] == ["alive", "dead", "alive"]
    assert seen.peers[1].used_bytes is None


def test_draining_shows() -> None:
    """Goal: an alive peer that drains is not shown as merely alive."""
    assert cluster_of(cluster(nodes=[node(1, ring="draining")])).peers[0].state == "draining"


def test_peers_in_counting_order() -> None:
    """Goal: peer-10 comes after peer-9, whatever order the API gives."""
    names = [peer.name for peer in cluster_of(cluster(nodes=[node(n) for n in (10, 2, 9, 1)])).peers]
    assert names == ["peer-1", "peer-2", "peer-9", "peer-10"]


def test_peer_behind_in_epoch() -> None:
    """Goal: a peer on an older epoch is marked."""
    peers = cluster_of(cluster(nodes=[node(1), node(2, epoch=[1, 2])])).peers
    assert [peer.behind for peer in peers] == [False, True]


def test_nothing_known_is_unknown() -> None:
    """Goal: an empty or foreign answer yields unknown everywhere, not health and not zero."""
    seen = cluster_of({})
    assert (seen.verdict, seen.tolerates, seen.replicas, seen.peers) == ("unknown", None, None, ())
    bare = cluster_of({"nodes": [{"name": "x"}], "verdict": "splendid"})
    assert bare.verdict == "unknown" and bare.peers[0].state == "unknown"
    assert bare.peers[0].used_bytes is None and bare.peers[0].share is None


@given(
    st.dictionaries(
        st.sampled_from(
            ["verdict", "reasons", "tolerates", "epoch", "peer", "partitions", "nodes", "replicas"]
        ),
        JSON,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_json_is_survived(document: dict[str, Any]) -> None:
    """Goal: whatever JSON a peer answers, the view is built or the values are unknown; it never crashes."""
    assert isinstance(cluster_of(document), Cluster)


@pytest.mark.parametrize(
    ("failures", "verdict", "words"),
    [
        (2, "healthy", "tolerates 2 more failures now"),
        (0, "degraded", "tolerates no further failure now"),
        (0, "unavailable", "part of the data has no quorum"),
        (None, "healthy", "how many failures it tolerates is not known"),
    ],
)
def test_tolerance_words(failures: int | None, verdict: str, words: str) -> None:
    """Goal: what may still fail is said in words that are true."""
    assert tolerance(failures, verdict) == words


def test_shares_sum_to_one() -> None:
    """Goal: arcs close the circle; peers that own nothing have none."""
    peers = cluster_of(cluster(nodes=[node(1, share=0.2), node(2, share=0.6), node(3, share=0)])).peers
    assert [(peer.name, round(share, 6)) for peer, share in shares(peers)] == [
        ("peer-1", 0.25),
        ("peer-2", 0.75),
    ]


def test_health_around_is_the_worst_in_each_slot() -> None:
    """Goal: one owner down or not whole is degraded, a majority down unavailable, and no data unknown."""

    def around(table: dict[str, Any], slots: int, **changes: Any) -> list[str]:
        read = table_of(table)
        ranks = with_pending(
            ranks_of(read, standing_of(cluster_of(cluster(**changes)))), pending_in(table, read.partitions)
        )
        return health_around(ranks, slots)

    assert around(ring(), 4) == ["full"] * 4
    assert around(ring(), 4, nodes=[node(1), node(2, "dead"), node(3)]) == ["degraded"] * 4
    assert around(ring(), 4, nodes=[node(1), node(2, whole=False), node(3)]) == ["degraded"] * 4
    assert around(ring(), 4, nodes=[node(1), node(2, "dead"), node(3, "dead")]) == ["unavailable"] * 4
    for state in ("draining", "drained", "leaving"):
        assert around(ring(), 4, nodes=[node(1), node(2, ring=state), node(3)]) == ["full"] * 4
    assert around({}, 3) == ["unknown"] * 3
    assert around(ring() | {"owners": [[0, 1, 9]]}, 2) == ["unknown"] * 2
    assert around(ring() | {"pending": "AQA="}, 4) == ["moving", "full", "full", "full"]
    assert len(around(ring(), 240)) == 240


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (size_words(None), "-"),
        (size_words(0), "0 B"),
        (size_words(1023), "1.0 KiB"),
        (size_words(1536), "1.5 KiB"),
        (size_words(10**9), "954 MiB"),
        (size_words(1 << 50), "1.0 PiB"),
        (age_words(None), "-"),
        (age_words(0.42), "0.4 s"),
        (age_words(75), "75 s"),
        (age_words(600), "10 min"),
        (age_words(3 * 86400), "3 d"),
        (share_words(1 / 3), "33.3 %"),
        (epoch_words((2, 7), "joint"), "2.7 joint"),
    ],
)
def test_words_for_numbers(words: str, expected: str) -> None:
    """Goal: numbers fit their columns and keep their meaning."""
    assert words == expected


@pytest.mark.parametrize("braille", [True, False])
def test_ring_drawing_shows_state_without_colour(braille: bool) -> None:
    """Goal: dead and alive arcs differ in their characters, every peer is labelled, the size is kept."""
    arcs = [Arc("1", "", 0.5, texture_of("alive")), Arc("2", "", 0.5, texture_of("dead"))]
    cells = draw(30, 15, arcs, ["full"] * 60, ["1 of 2"], braille=braille)
    assert [len(row) for row in cells] == [30] * 15
    text = "\n".join("".join(cell.char for cell in row) for row in cells)
    assert "1 of 2" in text and "1" in text
    right = sum(cell.char not in " ." for row in cells for cell in row[15:])
    if braille:
        assert "2" in text and "⣿" in text
        # Hollow: the dead half has far fewer dots than the solid one.
        dots = [
            sum((ord(c.char) - 0x2800).bit_count() for c in row if ord(c.char) >= 0x2800) for row in cells
        ]
        left_dots = sum(
            (ord(cell.char) - 0x2800).bit_count()
            for row in cells
            for cell in row[:15]
            if ord(cell.char) >= 0x2800
        )
        assert left_dots < (sum(dots) - left_dots) * 0.75
    else:
        assert text.isascii() and "x" in text and right


@given(
    st.integers(0, 60),
    st.integers(0, 30),
    st.lists(st.floats(0.01, 1), max_size=12),
    st.lists(st.sampled_from(["full", "degraded", "unavailable", "unknown"]), max_size=40),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_ring_drawing_of_any_size(
    width: int, height: int, sizes: list[float], health: list[str], braille: bool
) -> None:
    """Goal: no size, share or health breaks the drawing."""
    total = sum(sizes) or 1.0
    arcs = [Arc(str(i % 10), "red", size / total) for i, size in enumerate(sizes)]
    cells = draw(width, height, arcs, health, ["x" * 80], braille=braille)
    assert len(cells) == height and all(len(row) == width for row in cells)


@pytest.mark.parametrize("width", [20, 40, 60, 78, 100, 160])
def test_columns_fit_and_keep_the_state(width: int) -> None:
    """Goal: at every width the table fits, or is down to what always stays: number, name, state."""
    chosen = fitting(PEER_COLUMNS, width)
    always = [column for column in PEER_COLUMNS if column.keep == 0]
    assert all(column in [one for one, _ in chosen] for column in always)
    assert sum(room + 1 for _, room in chosen) - 1 <= width or [one for one, _ in chosen] == always


def test_table_at_80_columns_has_everything_asked_for() -> None:
    """Goal: the usual terminal shows zone, use, share, age, incarnation and version."""
    titles = {column.title for column, _ in fitting(PEER_COLUMNS, 78)}
    assert {"#", "peer", "state", "zone", "used/total", "share", "heard", "inc", "version"} <= titles
