"""Goal: every peer in the table, in any order; one of them in full, with its age, also when it does not answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot

from peer.client import Event
from peer.client.model import NodeInfo
from peer.errors import NotFound, Unavailable
from tests.tui_canned import Clock, cluster, degraded, healthy_events, node, play, screen, tell, until
from tui.app import TopApp
from tui.model import cluster_of
from tui.peerfacts import flattened, page_of
from tui.peers import SORTS, ordered
from tui.rows import Rows

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


class Telling:
    """A client that knows one peer in full; `answers` are told one after the other, the last one for ever."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def node(self, name: str) -> NodeInfo:
        self.asked.append(name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return NodeInfo.from_json(answer)


def full(**changes: Any) -> dict[str, Any]:
    """`GET /v1/cluster/nodes/peer-2`, in short."""
    told = {
        "process": {"pid": 4711, "cpu_s": 3.5, "rss_bytes": 80 << 20, "uptime_s": 120.0, "open_files": 31},
        "storage": {"live_bytes": 5 << 30, "reads": 12345},
        "buffers": {"client": {"name": "client", "waiting": 3}},
        "condition": {"slow": None, "read_only": ""},
        "tls": {"expires_s": 86400 * 30},
        "whole": True,
        "clock_skew_s": -7.5,
    }
    return node(2) | told | changes


def log_of(name: str, message: str) -> Event:
    entry = {
        "id": message,
        "time": "2026-11-21T11:59:00Z",
        "node": {"name": name},
        "level": "info",
        "message": message,
    }
    return Event("log", entry)


REPAIR = Event(
    "repair",
    {
        "workers": [
            {
                "worker": "hints",
                "node": {"id": f"{2:016x}"},
                "state": "busy",
                "queue": 7,
                "rate": 3.5,
                "left_s": 2.0,
            },
            {"worker": "scrub", "node": {"id": f"{1:016x}"}, "state": "idle", "queue": 99},
        ]
    },
)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_enter_opens_a_peer_and_escape_leads_back(size: tuple[int, int]) -> None:
    """Goal: all that a peer tells, its workers and its part of the journal; the table is as it was afterwards."""
    client = Telling(full())

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "enter")
        await until(pilot, lambda: "told 0.0 s ago" in screen(app))
        text = screen(app)
        for words in (
            "peer-2  alive",
            "a whole copy    yes",
            "clock ahead by  -7.5 s",
        ):
            assert words in text, words
        assert client.asked == [f"{2:016x}"]
        await pilot.press("c")
        for words in (
            "pid                       4,711",
            "80 MiB",
            "reads                     12,345",
            "client waiting",
            "hints           busy             7",
            "it woke up",
        ):
            assert words in app.clipboard, words
        assert "99" not in app.clipboard and "another" not in app.clipboard
        await pilot.press("escape")
        await tell(app, pilot)
        assert "peer-3" in screen(app) and app.page.target.name == "peer-2"

    events = [*healthy_events(), REPAIR, log_of("peer-2", "it woke up"), log_of("peer-1", "another")]
    play(events, story, size=size, client=client)


def test_asked_again_and_its_age_told() -> None:
    """Goal: a peer's page is asked for again every other second, and says how old it is while it is not answered."""
    clock = Clock()
    client = Telling(full(), Unavailable("no peer answered in time"))

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "enter")
        await until(pilot, lambda: "told 0.0 s ago" in screen(app))
        clock.now += 1
        await tell(app, pilot)
        assert len(client.asked) == 1 and "told 1.0 s ago" in screen(app)
        clock.now += 1
        await tell(app, pilot)
        await until(pilot, lambda: "no peer answered in time" in screen(app))
        assert "told 2.0 s ago" in screen(app) and "4,711" in screen(app)

    play(healthy_events(), story, clock=clock, client=client, size=(120, 40))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (full(process=None, storage=None), "It does not answer; this is what the others know of it."),
        (NotFound("there is no peer 'peer-2'"), "there is no peer 'peer-2'"),
    ],
)
def test_a_peer_that_does_not_answer(answer: Any, words: str) -> None:
    """Goal: what the cluster knows of a peer is there, and why there is no more."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "enter")
        await until(pilot, lambda: words in screen(app))
        assert "✗ peer-2  dead" in screen(app) and "rack-2" in screen(app)

    play(healthy_events(degraded()), story, client=Telling(answer))


def test_opened_from_the_overview_and_back() -> None:
    """Goal: Enter on the overview opens the peer, Escape leads back there; a recording says that nobody can be asked."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", "enter")
        await tell(app, pilot)
        assert "peer-3  alive" in screen(app) and "There is no cluster to ask" in screen(app)
        await pilot.press("escape")
        await tell(app, pilot)
        assert app.page.TITLE == "Overview" and "partitions" in screen(app)
        await pilot.press("2")
        await tell(app, pilot)
        assert "peer-1" in screen(app) and "peer-2" in screen(app)

    play(healthy_events(), story)


def test_a_peer_that_has_left_is_said_to_have() -> None:
    """Goal: the page of a peer that is no member any more says so instead of standing still."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "enter")
        await until(pilot, lambda: "told" in screen(app))
        await tell(app, pilot, Event("cluster", cluster(nodes=[node(1), node(3)])))
        assert "not a member any more" in screen(app)

    play(healthy_events(), story, client=Telling(full()))


def test_orders() -> None:
    """Goal: s goes through the orders, r turns one round; the column of the order is marked, also in ASCII."""
    nodes = [node(1, used_bytes=1), node(2, "dead"), node(3, used_bytes=400 * 10**9)]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        def order() -> list[str]:
            return [row.peer.name for row in app.query_one("#peers", Rows).rows]

        await pilot.press("2", "s")
        await tell(app, pilot)
        assert order() == ["peer-2", "peer-1", "peer-3"] and "statev" in screen(app) and screen(app).isascii()
        await pilot.press("s", "s")
        assert order() == ["peer-3", "peer-2", "peer-1"]
        await pilot.press("r")
        await tell(app, pilot)
        assert order() == ["peer-1", "peer-2", "peer-3"] and "used/total^" in screen(app)
        await pilot.press(*"sssss")
        assert order()[0] == "peer-2"

    play(healthy_events(cluster(nodes=nodes)), story, unicode=False)


@pytest.mark.parametrize("by", list(SORTS))
def test_unknown_values_have_an_order_too(by: str) -> None:
    """Goal: no order needs a value that a peer did not tell."""
    peers = cluster_of(cluster(nodes=[node(1), {"name": "bare"}, node(3)])).peers
    assert len(ordered(peers, by)) == 3
    assert ordered(peers, by, backwards=True) == ordered(peers, by)[::-1]


def test_whole_and_skew_are_columns() -> None:
    """Goal: who counts as no copy, and whose clock is off, are seen in a wide table; a dash where nobody told."""
    nodes = [node(1, whole=True, clock_skew_s=0.01), node(2, whole=False, clock_skew_s=-7.5), node(3)]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        await tell(app, pilot)
        row = next(line for line in screen(app).splitlines() if "peer-2" in line)
        assert " NO " in row and "-7.5 s" in row
        assert "+0.0 s" in screen(app)

    play(healthy_events(cluster(nodes=nodes)), story, size=(140, 24))


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6), st.integers(20, 200))
@settings(max_examples=60, deadline=None)
def test_any_answer_makes_a_page(told: dict[str, Any], width: int) -> None:
    """Goal: whatever a newer or broken peer tells of itself is shown, and nothing of it moves the cursor."""
    for line in page_of(told, [told], [], told, width):
        assert "\n" not in line.plain and "\x1b" not in line.plain
    assert all(isinstance(value, str) for _, value in flattened(told))
