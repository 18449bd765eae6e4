"""Goal: the page of the ring shows every partition as it is, what moves, whose it is and where a key lives."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from textual.pilot import Pilot
from textual.widgets import Static

from peer.client import Event
from peer.errors import Invalid, NotFound, Unavailable
from tests.recordings import DATA
from tests.test_tui_model import JSON
from tests.tui_canned import PEERS, Clock, cluster, healthy_events, node, play, screen, tell
from tui.app import TopApp
from tui.found import Found, found_of, rows_of, summary
from tui.mapview import MapView
from tui.partitions import CLASSES
from tui.rows import Rows


def wide_ring(partitions: int = 4096, members: int = 5, **changes: Any) -> dict[str, Any]:
    """Partition p is owned by the members p, p + 1 and p + 2, counted around."""
    told = {
        "epoch": {"generation": 1, "number": 3, "kind": "final"},
        "members": [{"id": f"{number:016x}", "name": f"peer-{number}"} for number in range(1, members + 1)],
        "owners": [[(part + i) % members for i in range(3)] for part in range(partitions)],
    }
    return told | changes


def draining(pending: range) -> dict[str, Any]:
    """Every eighth partition gets its owners changed; of these, `pending` are still to be fetched."""
    before = wide_ring()["owners"]
    after = [
        [(part + i + 1) % 5 for i in range(3)] if part % 8 == 0 else before[part] for part in range(4096)
    ]
    bits = bytearray(512)
    for partition in pending:
        bits[partition >> 3] |= 1 << (partition & 7)
    epoch = {"generation": 1, "number": 4, "kind": "joint"}
    return wide_ring(owners=after, before=before, epoch=epoch, pending=b64encode(bits).decode())


def nodes(members: int = 5, *dead: int, **changes: Any) -> dict[str, Any]:
    full = 0 if dead else 4096
    told = [node(n, "dead" if n in dead else "alive", whole=n not in dead) for n in range(1, members + 1)]
    partitions = {"total": 4096, "full": full, "degraded": 4096 - full, "unavailable": 0}
    return cluster(**({"nodes": told, "partitions": partitions} | changes))


def events(told: dict[str, Any] | None = None, ring: dict[str, Any] | None = None) -> list[Event]:
    return [
        Event("connected", {"url": PEERS[0], "before": None, "why": None}),
        Event("cluster", told or nodes()),
        Event("ring", ring or wide_ring()),
    ]


async def shown(app: TopApp, pilot: Pilot[None], *keys: str) -> str:
    """Press these, draw, and read the screen."""
    await pilot.press(*keys)
    await tell(app, pilot)
    return screen(app)


async def answered(app: TopApp, pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Draw until a worker has answered."""
    async with asyncio.timeout(20):
        while not holds():
            app.redraw()
            await pilot.pause(0.01)
    await tell(app, pilot)


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (120, 40), (200, 60)])
def test_the_map_is_on_the_screen(size: tuple[int, int]) -> None:
    """Goal: map, legend and the partition under the cursor have room at every usual size."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3")
        for words in (
            "full 4,096",
            "degraded 0",
            "unavailable 0",
            "partition 0",
            "3 of 3 replicas live: full",
        ):
            assert words in text, (words, text)
        for name in ("peer-1", "peer-2", "peer-3"):
            assert f"● {name}" in " ".join(text.split())
        assert "▀" in text and "fewer" not in text

    play(events(), story, size=size)


@pytest.mark.parametrize("no_color", [True, False])
def test_without_colour_or_unicode_digits_tell(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: live replicas are numbers where half blocks would say nothing; without Unicode nothing needs it."""
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3")
        assert "▀" not in text and "333332233333222" not in text
        assert no_color or text.isascii()
        await tell(app, pilot, Event("cluster", nodes(5, 2, 3)))
        assert "!!232!!232" in screen(app) and "! unavailable 1,639" in screen(app)

    play(events(), story, unicode=no_color, size=(200, 70))


def test_a_death_is_seen_at_once_and_a_peer_that_is_not_whole() -> None:
    """Goal: whoever is dead, or counts as no copy, is no live replica; nothing is left of the health that was."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot, "3")
        await tell(app, pilot, Event("cluster", nodes(5, 1)))
        text = screen(app)
        assert "2 of 3 replicas live: degraded" in text and "✗ peer-1 dead" in text and "full 0" in text
        part = nodes(5)
        part["nodes"][0]["whole"] = False
        await tell(app, pilot, Event("cluster", part))
        text = screen(app)
        assert "2 of 3 replicas live: degraded" in text and "● peer-1 alive but no full copy" in text
        assert "degraded 2,458" in text and "full 1,638" in text
        await tell(app, pilot, Event("cluster", nodes(5)))
        assert "full 4,096" in screen(app)

    play(events(), story)


def test_the_peer_knows_more_trouble() -> None:
    """Goal: the legend never counts more full partitions than the peer that answers does."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3")
        assert "full 4,000" in text and "degraded 96" in text
        assert "96 fewer are full than drawn" in text

    told = nodes(5, partitions={"total": 4096, "full": 4000, "degraded": 96, "unavailable": 0})
    play(events(told), story)


def test_a_change_of_the_ring() -> None:
    """Goal: what moves is marked and counted down, with owners before and now; at the end all of it is gone."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3", "d")
        assert "+ moved 256  ~ moving 256" in text and "full 3,584" in text
        assert "256 of 512 partitions have moved" in text
        assert "a new owner has still to fetch it" in text
        assert "before ● peer-1 alive  ● peer-2 alive  ● peer-3 alive" in text
        assert "now    ● peer-2 alive  ● peer-3 alive  ● peer-4 alive" in text
        await tell(app, pilot, Event("ring", draining(range(0))))
        text = screen(app)
        assert "512 of 512 partitions have moved; the change is about to end" in text
        assert "its new owners have it, the change goes on" in text and "+ moved 512" in text
        after = draining(range(0))["owners"]
        final = wide_ring(owners=after, epoch={"generation": 1, "number": 5, "kind": "final"})
        await tell(app, pilot, Event("ring", final))
        assert "drawn is the ring of epoch 1.5; that of 1.4 has not been told yet" in screen(app)
        await tell(app, pilot, Event("cluster", nodes(5, epoch=final["epoch"])))
        text = screen(app)
        assert (
            "moving" not in text
            and "moved" not in text
            and "not been told" not in text
            and "before" not in text
        )

    joint = {"generation": 1, "number": 4, "kind": "joint"}
    partitions = {"total": 4096, "full": 3584, "degraded": 512, "unavailable": 0}
    told = nodes(5, epoch=joint, partitions=partitions)
    play(events(told, draining(range(0, 2048, 8))), story, size=(100, 30))


def test_chunks_that_move_after_the_change() -> None:
    """Goal: in a final epoch, too, what is on its way is moving; of an older peer it is said that it does not tell."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot, "3")
        pending = draining(range(512))["pending"]
        await tell(app, pilot, Event("ring", wide_ring(pending=pending)))
        assert "0 of 512 partitions have moved" in screen(app)
        await tell(app, pilot, Event("ring", wide_ring(pending=draining(range(128))["pending"])))
        assert "384 of 512 partitions have moved" in screen(app) and "moving 128" in screen(app)
        silent = draining(range(0))
        del silent["pending"]
        await tell(app, pilot, Event("ring", silent))
        assert "does not tell how far it is" in screen(app)

    play(events(), story, size=(120, 30))


def test_cursor() -> None:
    """Goal: the cursor reaches every partition, goes to the worst of a cell, and from trouble to trouble."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3", "end")
        assert "partition 4,095" in text and "hash fff00000 to ffffffff" in text
        assert "partition 1 " in await shown(app, pilot, "home", "full_stop")
        view = app.query_one(MapView)
        await shown(app, pilot, "home", "down", "right")
        assert view.cursor == (view.fit.columns + 1) * view.fit.per_cell
        await shown(app, pilot, "n")
        assert "every partition has all its live replicas" in screen(app)
        bad = wide_ring()
        bad["owners"][3001] = [0, 1]
        await tell(app, pilot, Event("ring", bad))
        assert "partition 3,001  its owners are not known" in await shown(app, pilot, "n")
        await shown(app, pilot, "home")
        await pilot.click(MapView, offset=(6 + 5, 3))
        assert view.cursor == (6 * view.fit.columns + 5) * view.fit.per_cell

    play(events(), story)


def test_whose_partitions() -> None:
    """Goal: o picks out a peer's partitions, the next one's, at the end nobody's; Escape too."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3", "o")
        assert "peer-1 owns 2,458 partitions" in text and "█··███··███··███" in text
        assert "peer-2 owns" in await shown(app, pilot, "o")
        assert "peer-1 owns" in await shown(app, pilot, "O")
        assert "owns" not in await shown(app, pilot, "escape")
        assert "peer-5 owns" in await shown(app, pilot, "O")
        assert "owns" not in await shown(app, pilot, "o")

    play(events(), story, size=(200, 60))


class Asked:
    """A client whose lookups are answered by the test."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, str | None, int]] = []
        self.older: dict[str, Any] = {}

    async def lookup(
        self, bucket: str, key: str | None = None, *, chunks: bool = False, after: int = 0
    ) -> dict[str, Any]:
        if not chunks:
            return self.older
        self.calls.append((bucket, key, after))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def holder(number: int, holds: bool | None = True) -> dict[str, Any]:
    return {"id": f"{number:016x}", "name": f"peer-{number}", "state": "alive", "holds": holds}


def answer(first: int = 0, after: int | None = None, **changes: Any) -> dict[str, Any]:
    chunks = [
        {
            "index": index,
            "name": f"{index:064x}",
            "partition": index * 500 % 4096,
            "size": 4 << 20,
            "copies": [holder(3), holder(4, False), holder(5, None)],
        }
        for index in range(first, first + 3)
    ]
    told = {
        "bucket": "photos",
        "key": "a/b.jpg",
        "partition": 1234,
        "owners": [holder(1), holder(2, False), holder(3, None)],
        "object": {"size": 24 << 20, "etag": "e", "chunks": chunks, "next": after},
    }
    return told | changes


def asks(words: str) -> list[str]:
    return [
        "3",
        "slash",
        *("slash" if char == "/" else "full_stop" if char == "." else char for char in words),
    ]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (45, 14)])
def test_where_a_key_lives(size: tuple[int, int]) -> None:
    """Goal: /bucket/key lights up owners and chunks, and lists who holds what; a dead peer is dead in it at once."""
    client = Asked(answer())

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press(*asks("photos/a/b.jpg"), "enter")
        await answered(
            app, pilot, lambda: bool(client.calls) and bool(app.query_one("#ring-rows", Rows).rows)
        )
        text = screen(app)
        assert client.calls == [("photos", "a/b.jpg", 0)]
        assert (
            (("◉" in text and "◆" in text) or size[1] < 20) and "owner 1" in text and "● peer-1 has" in text
        )
        assert "photos/a/b.jpg: partition 1,234, 24 MiB" in " ".join(text.split())
        rows = app.query_one("#ring-rows", Rows)
        assert "chunk 2\t1,000\t4.0 MiB\t● peer-3 has  ● peer-4 lacks  ● peer-5 ?" in rows.plain()
        assert app.query_one(MapView).cursor == 1234
        await tell(app, pilot, Event("cluster", nodes(5, 3)))
        assert "✗ peer-3 dead has" in rows.plain()
        await pilot.press("c")
        assert "owner 2" in app.clipboard and "partition 1,234" in app.clipboard
        text = await shown(app, pilot, "escape")
        assert "◉" not in text and "owner 1" not in text

    play(events(), story, size=size, client=client)


def test_further_chunks_and_age() -> None:
    """Goal: m asks for the next chunks, after the last ones for the first; all is asked again, and its age told."""
    client, clock = Asked(answer(after=3), answer(3), answer(after=3)), Clock()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        rows = lambda: app.query_one("#ring-rows", Rows).rows  # noqa: E731
        await pilot.press(*asks("photos/a/b.jpg"), "enter")
        await answered(app, pilot, lambda: bool(rows()))
        assert "chunks 0 to 2, m shows further ones" in str(
            app.query_one("#ring-found", Static).content
        ) and "m more chunks" in screen(app)
        await pilot.press("m")
        await answered(app, pilot, lambda: rows()[-1].what == "chunk 5")
        assert "chunks 3 to 5" in screen(app)
        await pilot.press("m")
        await answered(app, pilot, lambda: rows()[-1].what == "chunk 2")
        client.answers = [Unavailable("no peer can be reached now")]
        clock.now += 5
        await answered(app, pilot, lambda: len(client.calls) == 4)
        text = screen(app)
        assert "told 5.0 s ago" in text and "no peer can be reached now" in text and "owner 1" in text
        client.answers = [NotFound("there is no key a/b.jpg in photos")]
        clock.now += 5
        await answered(app, pilot, lambda: len(client.calls) == 5)
        text = screen(app)
        assert "there is no key a/b.jpg in photos" in text and "owner 1" not in text and "◉" not in text
        assert [after for _, _, after in client.calls] == [0, 3, 0, 0, 0]

    play(events(), story, size=(140, 40), client=client, clock=clock)


def test_what_a_lookup_does_not_tell() -> None:
    """Goal: a bucket alone, an older peer, an object that is none, one without chunks: each is said, nothing made up."""
    older = answer()
    del older["object"]
    empty = answer(object={"size": 5, "etag": "e", "chunks": [], "next": None})

    def words(told: dict[str, Any]) -> str:
        return summary(found_of(told), unicode=True)[0]

    assert words(answer(key=None, object=None)) == "bucket photos: its first rows are in partition 1,234"
    assert "does not tell of chunks" in words(older)
    assert "there is no such object" in words(answer(object=None))
    assert "5 B beside its metadata, no chunks" in words(empty)
    assert "a\\x1bb" in words(answer(key="a\x1bb"))
    rows = rows_of(found_of(older), {}, unicode=False)
    assert [row.what for row in rows] == ["owner 1", "owner 2", "owner 3"]
    assert not any(row.exists for row in rows)


def test_an_older_peer_tells_owners_alone() -> None:
    """Goal: a peer that refuses the question for chunks is asked for the owners, and its answer lights up."""
    client = Asked(Invalid("unknown query parameter 'chunks'"))
    client.older = answer()
    del client.older["object"]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press(*asks("photos/a/b.jpg"), "enter")
        await answered(app, pilot, lambda: "owner 3" in screen(app))
        assert "does not tell of chunks" in str(app.query_one("#ring-found", Static).content)
        assert "◉" in screen(app)

    play(events(), story, size=(140, 40), client=client)


@given(JSON, JSON)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_answer_is_shown(told: Any, inner: Any) -> None:
    """Goal: an answer that makes no sense is a dash, no crash."""
    documents = [told, {"owners": told, "object": inner}, {"object": {"chunks": told, "size": inner}}]
    documents += [{"object": {"chunks": [{"copies": told, "index": inner}], "size": 1}}]
    for document in documents:
        if isinstance(document, dict):
            found = found_of(document)
            assert isinstance(found, Found) and summary(found, unicode=False)[0].isascii()
            assert all(row.what for row in rows_of(found, {}, unicode=True))


def test_a_recording_cannot_be_asked() -> None:
    """Goal: in a replay there is nobody to ask, and that is said."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press(*asks("photos"), "enter")
        await answered(app, pilot, lambda: "nobody to ask" in screen(app))
        assert "there is nobody to ask" in screen(app)

    play(events(), story)


def test_nothing_told_yet_and_old_news() -> None:
    """Goal: without a ring there is no map; when nobody answers what was told stays."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = await shown(app, pilot, "3", "n", "o", "end")
        assert "the ring has not been told yet" in text and "▀" not in text
        await tell(app, pilot, *events(), Event("unreachable", {"failures": [[PEERS[0], "refused"]]}))
        text = screen(app)
        assert "NO PEER ANSWERS" in text and "▀" in text

    play(healthy_events()[:1], story)


def test_nothing_is_worked_out_twice() -> None:
    """Goal: with 65,536 partitions of 300 peers a second in which nothing changes costs no look at them."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot, "3")
        told, ring = nodes(300), wide_ring(65_536, 300)
        with (
            mock.patch("tui.ring.ranks_of", side_effect=AssertionError),
            mock.patch.object(MapView, "relay") as drawn,
        ):
            await tell(app, pilot, Event("cluster", told), Event("ring", ring), Event("requests", {}))
            assert not drawn.called
        assert "full 65,536" in screen(app)

    partitions = {"total": 65_536, "full": 65_536, "degraded": 0, "unavailable": 0}
    play(events(nodes(300, partitions=partitions), wide_ring(65_536, 300)), story, size=(200, 60))


@pytest.mark.parametrize("name", ["drain", "killed"])
def test_over_a_recording_it_never_shows_more_health_than_was_told(name: str) -> None:
    """Goal: while a live cluster drained or lost a peer, the legend at every moment counted no better than the cluster."""
    lines = (DATA / f"events-{name}.jsonl").read_text().splitlines()
    told = [Event(line["event"], line["data"]) for line in map(json.loads, lines)]
    seen = []

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        for event in told:
            app.hear(event)
            if (
                event.kind in ("cluster", "ring")
                and app.state.cluster is not None
                and app.state.ring is not None
            ):
                app.redraw()
                words = str(app.query_one("#ring-legend", Static).content).split()
                count = {name: int(words[words.index(name) + 1]) for name in CLASSES if name in words}
                whole = app.state.cluster.partitions
                assert count["full"] <= (whole["full"] or 0) and count["unavailable"] == whole["unavailable"]
                assert sum(count.values()) == 256
                seen.append(count)

    play([], story)
    assert seen[0]["full"] == seen[-1]["full"] == 256
    worst = seen[len(seen) // 3]
    if name == "killed":
        assert worst["degraded"] == 154
    else:
        assert worst["moving"] + worst["moved"] == 154
        assert len({count.get("moving") for count in seen}) > 8  # it moves as it happens
