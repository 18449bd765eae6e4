"""Goal: the overview says whether it is healthy, what is broken, what is done about it and what one may do."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot

from peer.client import Event
from tests.tui_canned import PEERS, cluster, degraded, healthy_events, node, play, screen, tell
from tui.app import TopApp
from tui.circle import Arc, draw
from tui.facts import fact_lines
from tui.model import cluster_of, refreshed
from tui.reasons import reason_lines
from tui.remedies import BY_ITSELF, PAUSED, REMEDIES, remedies
from tui.repairing import in_short
from tui.spark import bar, sparkline
from tui.state import State

WHOLE = {"whole": True, "lacking": 0, "message": "Every object has its 3 copies."}


def repair(*states: str, worker: str = "hints", **changes: Any) -> dict[str, Any]:
    """`GET /v1/cluster/workers`, one worker a state."""
    one = {"worker": worker, "node": {"id": "1", "name": "peer-1"}, "queue": 0, "left_s": None}
    return {"workers": [one | {"state": state} | changes for state in states], "failed": []}


def rates(**values: Any) -> Event:
    return Event(
        "requests", {"all": 0, "errors": 0, "bytes_in": 0, "bytes_out": 0, "backlog": 0, "nodes": []} | values
    )


def state_of(*events: Event) -> State:
    state = State()
    for event in events:
        state.apply(event, 0.0)
    return state


def told(state: State, width: int = 78, **options: Any) -> list[str]:
    return [words for words, _ in reason_lines(state, width, unicode=True, **options)]


# --- what is wrong, and what to do


def test_whole_and_healthy() -> None:
    """Goal: the sentence of full redundancy, and nothing that asks for anything."""
    assert told(state_of(Event("cluster", cluster(redundancy=WHOLE)))) == ["Every object has its 3 copies."]


def test_a_code_with_a_remedy_names_it() -> None:
    """Goal: what one may do stands below the reasons, by its code."""
    reasons = [
        {"code": "catching_up", "message": "peer-3 fetches"},
        {"code": "disk_full", "message": "peer-2 is short of space"},
    ]
    lines = told(state_of(Event("cluster", degraded() | {"reasons": reasons})))
    assert lines == [
        "  peer-3 fetches (catching_up)",
        "  peer-2 is short of space (disk_full)",
        "→ disk_full: free space there, or add a peer",
    ]


def test_every_code_has_a_remedy_or_heals_by_itself() -> None:
    """Goal: of what the manual lists only that has no remedy which heals without anybody."""
    manual = (Path(__file__).parent.parent / "docs" / "operate.md").read_text()
    listed = manual.partition("### What each code means")[2].partition("\n#")[0]
    codes = set(re.findall(r"^\| `(\w+)` \|", listed, re.MULTILINE))
    assert codes - REMEDIES.keys() == {
        "catching_up", "changes_missed", "hints_dropped", "ring_changing", "chunks_moving", "chunks_damaged", "rows_damaged",
    }  # fmt: skip
    assert not REMEDIES.keys() - codes


def test_what_heals_by_itself_says_so() -> None:
    """Goal: nobody is left to wonder whether something must be done."""
    document = degraded() | {"reasons": [{"code": "catching_up", "message": "peer-3 fetches"}]}
    assert remedies(cluster_of(document), paused=False) == [BY_ITSELF]
    assert remedies(cluster_of(document), paused=True) == [PAUSED]
    assert remedies(cluster_of(cluster()), paused=False) == []


def test_many_and_long_reasons_are_bounded() -> None:
    """Goal: no list of reasons takes the screen; how many are not shown is said, and the remedy stays."""
    reasons = [{"code": "peer_down", "message": f"peer-{n} is dead " + "and so on " * 30} for n in range(9)]
    lines = told(state_of(Event("cluster", degraded() | {"reasons": reasons})))
    assert len(lines) <= 10 and all(len(line) <= 78 for line in lines)
    assert "  and 5 more: atoll status" in lines and lines[-1].startswith("→ peer_down")
    assert len(told(state_of(Event("cluster", degraded() | {"reasons": reasons})), room=0)) <= 6


def test_a_code_is_never_cut_off() -> None:
    """Goal: a sentence that is too long for its place loses words, and not the code that the manual explains."""
    reasons = [{"code": "recovering", "message": "peer-2 answers for nothing " * 9}]
    for room in (0, 12):
        lines = told(state_of(Event("cluster", degraded() | {"reasons": reasons})), width=60, room=room)
        assert lines[-2].endswith("... (recovering)") and len(lines[-2]) <= 60


# --- numbers


@pytest.mark.parametrize(
    ("values", "unicode", "expected"),
    [
        ([0, 1, 7], True, "   ▁▂▇"),
        ([0, 1, None, 4], True, "  ▁▃ ▇"),
        ([0, 0], True, "    ▁▁"),
        ([0, 1, 2, 3, 4], False, " _.:|#"),
        ([9.0] * 9, False, "######"),
    ],
)
def test_sparkline(values: list[float | None], unicode: bool, expected: str) -> None:
    """Goal: the peak is at full height, zero unlike anything more, the unknown a gap; the newest is at the right."""
    assert sparkline(values, 6, unicode=unicode) == expected


@given(st.lists(st.none() | st.floats(0, 1e15)), st.integers(-3, 40), st.booleans())
def test_sparkline_fits(values: list[float | None], width: int, unicode: bool) -> None:
    """Goal: always as wide as asked for, and ASCII where that is asked for."""
    line = sparkline(values, width, unicode=unicode)
    assert len(line) == max(width, 0) and (unicode or line.isascii())


def test_bar_shows_something_where_there_is_something() -> None:
    """Goal: a bar never calls little nothing, nor more than everything."""
    assert bar(0, 4, unicode=False) == "...."
    assert bar(0.001, 4, unicode=False) == "#..."
    assert bar(7, 4, unicode=False) == "####"


def test_capacity_says_who_is_fullest_and_whose_is_unknown() -> None:
    """Goal: used and total of the cluster, the fullest peer by its part, and how many did not say."""
    nodes = [
        node(1, used_bytes=10 << 30, capacity_bytes=100 << 30),
        node(2, used_bytes=9 << 30, capacity_bytes=10 << 30),
        node(3, used_bytes=None),
    ]
    lines = fact_lines(state_of(Event("cluster", cluster(nodes=nodes))), 60, unicode=False)
    assert lines["stored"].plain.endswith(" 19 GiB/110 GiB, 17 %, 1 unknown")
    assert lines["fullest"].plain == "fullest    peer-2 90 %, 1.0 GiB free"


def test_what_is_told_every_second_is_taken_over() -> None:
    """Goal: `requests` renews who was heard of and what is used; what it does not tell stays as it was."""
    news = {"nodes": [{"id": f"{2:016x}", "last_heard_s": 7.5, "used_bytes": 5}, {"id": f"{3:016x}"}, "x"]}
    seen = state_of(Event("cluster", cluster()), Event("requests", news)).cluster
    assert seen is not None
    assert [peer.last_heard_s for peer in seen.peers] == [0.0, 7.5, 0.4]
    assert [peer.used_bytes for peer in seen.peers] == [10**9, 5, 3 * 10**9]
    assert refreshed(seen, {"nodes": None}) is seen


def test_rates_have_newest_and_peak() -> None:
    """Goal: bytes in and out are summed; a value nobody told is a dash and not nothing."""
    state = state_of(rates(all=5, bytes_in=1024, bytes_out=1024), rates(all=2, bytes_in=0, bytes_out=0))
    lines = fact_lines(state, 50, unicode=True)
    assert re.search(r"▇▄ +2  peak 5$", lines["requests/s"].plain)
    assert re.search(r"▇▁ +0 B  peak 2.0 KiB$", lines["bytes/s"].plain)
    state.apply(Event("requests", {}), 0.0)
    assert re.search(r" -  peak 5$", fact_lines(state, 50, unicode=True)["requests/s"].plain)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "-"),
        (repair("idle", "idle"), "idle"),
        (repair("idle", "busy", "busy", left_s=90), "90 s left; hints busy"),
        (repair("idle", left_s=25), "25 s left for hints"),
        (repair("paused", "failing"), "hints failing; hints paused"),
        ({"workers": [None, {}]}, "idle"),
    ],
)
def test_healing_in_short(document: Any, words: str) -> None:
    """Goal: what is being done, in a few words; a dash where nobody told."""
    assert in_short(document)[0] == words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.sampled_from(["cluster", "repair", "requests"]),
    st.dictionaries(
        st.sampled_from(
            ["redundancy", "reasons", "warnings", "workers", "nodes", "all", "bytes_in", "backlog"]
        ),
        JSON,
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_json_is_survived(kind: str, document: dict[str, Any]) -> None:
    """Goal: whatever a peer tells, the page says something or a dash."""
    state = state_of(Event("cluster", cluster()), Event(kind, document))
    assert fact_lines(state, 50, unicode=True)
    told(state)


def test_ring_of_hundreds_is_closed() -> None:
    """Goal: arcs too narrow for gaps and labels still make a band."""
    arcs = [Arc("+", "", 1 / 300) for _ in range(300)]
    cells = draw(38, 19, arcs, ["full"] * 240, [], braille=True)
    text = "".join(cell.char for row in cells for cell in row)
    assert "+" not in text and text.count("⣿") > 60


# --- the page


SIZES = [(45, 14), (80, 24), (100, 30), (120, 24), (120, 40), (200, 60)]


def busy_events() -> list[Event]:
    """Two seconds that matter: a dead peer, a full disk, clients at work, a backlog."""
    document = degraded() | {
        "redundancy": {
            "whole": False,
            "message": "About 1,200 of 3,000 objects lack a copy until peer-2 is back.",
        },
        "reasons": [
            {"code": "peer_down", "message": "peer-2 is dead"},
            {"code": "disk_full", "message": "peer-3 is short of space: 1 GiB is left"},
        ],
    }
    waves = [
        rates(all=round(100 + 99 * math.sin(n / 9)), bytes_in=5 << 20, backlog=200 - n) for n in range(200)
    ]
    logs = [
        Event(
            "log", {"id": str(n), "time": f"2026-11-21T11:5{n}:00Z", "level": "info", "message": f"event {n}"}
        )
        for n in range(9)
    ]
    return [*healthy_events(document), Event("repair", repair("busy", left_s=40)), *waves, *logs]


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_five_seconds(size: tuple[int, int], unicode: bool) -> None:
    """Goal: at any size verdict, redundancy, reasons, remedy, peers and the newest event; drawings where there is room."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        for words in (
            "DEGRADED",
            "About 1,200",
            "peer-2 is dead",
            "peer-3 is short",
            "peer_down: start",
            "event 8",
        ):
            assert words in text, words
        assert all(re.search(rf"^ {n} peer-{n}", text, re.M) or f" {n} peer-{n} " in text for n in (1, 2, 3))
        if size[0] >= 80:
            for words in ("requests/s", "40 s left; hints busy", "peak", "4,096 degraded", "2 of 3"):
                assert words in text, words
        if not unicode:
            assert text.isascii()

    play(busy_events(), story, size=size, unicode=unicode)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_hundreds_of_peers(size: tuple[int, int]) -> None:
    """Goal: with 300 peers the table is bounded, the troubled ones are first in it, and the numbers stay on the screen."""
    nodes = [node(number, "dead" if number == 217 else "alive", share=1 / 300) for number in range(1, 301)]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        assert "✗ dead" in text and "requests/s" in text and "peer-299" not in text and "q quit" in text
        await tell(app, pilot, Event("cluster", cluster(nodes=nodes[:3])))
        await tell(app, pilot)
        assert "2 of 3" not in screen(app) and "3 of 3" in screen(app)

    play(healthy_events(degraded() | {"nodes": nodes}), story, size=size)


def test_copy_is_the_whole_page() -> None:
    """Goal: c takes verdict, reasons, numbers, peers and events along as text."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        for words in ("DEGRADED", "peer-2 is dead (peer_down)", "peer-3\t● alive", "event 8", "fullest"):
            assert words in app.clipboard, words

    play(busy_events(), story)


def test_stale_data_looks_stale() -> None:
    """Goal: with no peer answering, who was asked and why it failed is said instead of reasons that may be over."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await tell(
            app, pilot, Event("unreachable", {"failures": [[url, "connection refused"] for url in PEERS]})
        )
        text = screen(app)
        assert "connection refused" in text and "peer_down" not in text and "peer-2" in text

    play(busy_events(), story)
