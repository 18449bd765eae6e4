"""Goal: what is on the screen, narrow and wide, healthy and not, with its keys; canned events, a frozen clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar
from unittest import mock

import pytest
from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.pilot import Pilot

from peer.client import Event
from peer.errors import Denied
from tests.tui_canned import (
    PEERS,
    Clock,
    Quiet,
    cluster,
    degraded,
    healthy_events,
    node,
    play,
    screen,
    tell,
    until,
)
from tui.app import TopApp
from tui.help import HelpScreen
from tui.overview import Overview
from tui.page import Page
from tui.pages import PAGES, Door
from tui.rows import Rows
from tui.state import State


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_everything_is_on_the_screen(size: tuple[int, int]) -> None:
    """Goal: verdict, reason, ring, peers, epoch and keys are there at every usual size."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        for words in (
            "DEGRADED  tolerates no further failure now",
            "peer-2 is dead: 4,096 partitions lack a copy (PeerDead)",
            "2 of 3",
            "● alive",
            "✗ dead",
            "rack-3",
            "954 MiB/466 GiB",
            "33.3 %",
            "75 s",
            "0.1.0",
            "epoch 1.3",
            "age 0.0 s",
            "q quit",
            "0 full, 4,096 degraded",
            "1 Overview",
            "2 Peers",
        ):
            assert words in text, words
        assert any("⠀" < char <= "⣿" for char in text)
        assert max(len(line) for line in text.splitlines()) <= size[0]

    play(healthy_events(degraded()), story, size=size)


def test_small_terminal_keeps_verdict_and_table() -> None:
    """Goal: where there is no room for a drawing, the table and the verdict stay."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        assert "HEALTHY" in text and "peer-3" in text and "● alive" in text
        assert not any("⠀" < char <= "⣿" for char in text)

    play(healthy_events(), story, size=(45, 14))


def test_ascii_only() -> None:
    """Goal: without Unicode nothing on the screen needs it, and states still differ."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert screen(app).isascii()
        assert "x dead" in screen(app) and "* alive" in screen(app)
        await pilot.press("question_mark")
        await pilot.pause()
        assert screen(app).isascii() and "Keys" in screen(app)
        await pilot.press("x", "colon", *"quit")
        await until(pilot, lambda: "leave (q)" in screen(app))
        assert screen(app).isascii()

    play(healthy_events(degraded()), story, unicode=False, panel=[("API", PEERS[0])])


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: NO_COLOR is honoured, and states are still told apart by words and glyphs."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert app.no_color  # Textual then takes every colour out
        text = screen(app)
        assert "◐ DEGRADED" in text and "✗ dead" in text and "● alive" in text

    play(healthy_events(degraded()), story)


def test_moves_and_says_so() -> None:
    """Goal: when its peer dies the view goes on with another and says which and why."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        moved = Event("connected", {"url": PEERS[1], "before": PEERS[0], "why": "connection refused"})
        await tell(app, pilot, moved, Event("cluster", cluster(peer={"name": "peer-2"})))
        said = "moved to 127.0.0.1:7411: 127.0.0.1:7401 no longer answers (connection refused)"
        assert said in screen(app) and f"view of peer-2 ({PEERS[1]})" in screen(app)

    play(healthy_events(), story, size=(120, 40))


def test_no_peer_says_so_and_keeps_trying() -> None:
    """Goal: with every peer gone the old data stays, its age grows, and a return is noticed."""
    clock = Clock()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        failures = [[url, "connection refused"] for url in PEERS]
        await tell(app, pilot, Event("unreachable", {"failures": failures}))
        clock.now += 12
        await tell(app, pilot, Event("unreachable", {"failures": failures}))
        text = screen(app)
        assert "NO PEER ANSWERS for 12 s, still trying; what is below is old" in text
        assert "age 12 s" in text and "peer-3" in text and f"{PEERS[1]}: connection refused" in text
        back = Event("connected", {"url": PEERS[0], "before": PEERS[0], "why": "x"})
        await tell(app, pilot, back, Event("cluster", cluster()))
        assert "HEALTHY" in screen(app) and "127.0.0.1:7401 answers again" in screen(app)

    play(healthy_events(), story, clock=clock, size=(100, 30))


def test_waiting_for_a_first_answer_is_no_alarm() -> None:
    """Goal: while a cluster starts, the screen waits for it; after ten seconds it is an outage."""
    clock = Clock()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        assert "waiting for a peer to answer" in screen(app)
        clock.now += 11
        await tell(app, pilot)
        assert "NO PEER ANSWERS" in screen(app) and "starting" in screen(app)

    play([Event("unreachable", {"failures": [[PEERS[0], "starting"]]})], story, clock=clock)


def test_refused_credentials_are_said() -> None:
    """Goal: a source that ends in an error leaves the sentence on the screen instead of a picture that stands still."""

    class Refusing(Quiet):
        async def events(self):  # type: ignore[no-untyped-def]
            raise Denied("these credentials are not valid here")
            yield

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.source = Refusing()
        await app._listen()
        await tell(app, pilot)
        assert "NOTHING MORE TO SHOW" in screen(app)
        assert "these credentials are not valid here" in screen(app)

    play([], story)


def test_pause_help_and_quit() -> None:
    """Goal: p stops the drawing and says so while the age grows, ? explains, q ends."""
    clock = Clock()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        clock.now += 20
        await tell(app, pilot, Event("cluster", degraded()))  # newer than what stands there, and not shown
        assert "PAUSED" in screen(app) and "✗ dead" not in screen(app) and "age 20 s" in screen(app)
        await pilot.press("2")  # a page is drawn when it is opened
        await tell(app, pilot)
        assert "PAUSED" in screen(app) and "✗ dead" in screen(app) and "age 0.0 s" in screen(app)
        clock.now += 12
        await tell(app, pilot, Event("requests", {"nodes": []}))
        assert "age 12 s" in screen(app)
        await pilot.press("1")
        await pilot.press("p")
        await pilot.press("p")
        await pilot.press("p")
        await tell(app, pilot)
        assert "✗ dead" in screen(app)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await tell(app, pilot)  # what is below the help goes on
        await pilot.press("x")
        assert not isinstance(app.screen, HelpScreen)
        await pilot.press("q")
        await pilot.pause()

    app = play(healthy_events(), story, clock=clock)
    assert app._exit


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
def test_palette(key: str) -> None:
    """Goal: the palette opens with either key, finds by name, and does what was chosen; a page adds its own commands."""
    done: list[str] = []

    class Saying(Overview):
        def commands(self) -> Iterable[SystemCommand]:
            yield SystemCommand("Say hello", "a page's own", lambda: done.append("hello"))

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press(key, *"hello")
        await until(pilot, lambda: "a page's own" in screen(app))
        await pilot.press("enter")
        await until(pilot, lambda: done == ["hello"])
        await pilot.press(key, *"peers")
        await until(pilot, lambda: "show it (key 2)" in screen(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.page.TITLE == "Peers")

    with mock.patch.dict(PAGES, {1: Door("Saying", lambda: Saying)}):
        play(healthy_events(), story)


@pytest.mark.parametrize("size", [(80, 24), (45, 14)])
def test_help_is_of_the_page_that_is_up(size: tuple[int, int]) -> None:
    """Goal: ? tells the keys that work now, the page's own first, and what it draws; arrows scroll it, others close it."""

    class Knowing(Page):
        TITLE = "Knowing"
        can_focus = True
        BINDINGS: ClassVar[list[BindingType]] = [Binding("y", "yes", "agree")]

        def show(self, state: State) -> None:
            pass

        def take_focus(self) -> None:
            self.focus()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert "Keys of Overview" in screen(app) and "1 to" in screen(app) and "Scroll" not in screen(app)
        await pilot.press("x", "2", "question_mark")
        await pilot.pause()
        assert "Keys of Knowing" in screen(app) and "y  agree" in screen(app) and "q  quit" in screen(app)
        await pilot.press("end")
        await pilot.pause()
        assert "Any key closes this." in screen(app)
        await pilot.press("y")
        assert not isinstance(app.screen, HelpScreen)

    with mock.patch.dict(PAGES, {2: Door("Knowing", lambda: Knowing)}):
        play(healthy_events(), story, size=size)


def test_pages_and_filter() -> None:
    """Goal: 2 shows the peers, / filters them as one types, Escape forgets the filter, 1 goes back."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        await tell(app, pilot)
        assert "partitions" not in screen(app) and "peer-3" in screen(app)
        await pilot.press("slash", *"dead")
        await tell(app, pilot)
        assert "peer-2" in screen(app) and "peer-3" not in screen(app)
        await pilot.press("enter")
        await tell(app, pilot)
        assert "peer-3" not in screen(app)
        await pilot.press("escape")
        await tell(app, pilot)
        assert "peer-3" in screen(app)
        await pilot.press("1")
        await tell(app, pilot)
        assert "partitions" in screen(app)

    play(healthy_events(degraded()), story)


def test_copy() -> None:
    """Goal: c puts the page on the clipboard as text, and says so."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "c")
        await tell(app, pilot)
        assert "peer-2\t✗ dead\track-2" in app.clipboard
        assert "copied 4 lines of Peers" in screen(app)

    play(healthy_events(degraded()), story)


def test_panel_of_dev() -> None:
    """Goal: what `dev` adds is shown below the peers, at 80 columns too."""
    lines = [("API", "  ".join(PEERS)), ("paste this", "/home/me/atoll/.venv/bin/atoll status")]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        text = screen(app)
        assert "paste this   /home/me/atoll/.venv/bin/atoll status" in text and PEERS[2] in text
        assert "peer-3" in text
        app.show_panel([])
        await pilot.pause()
        assert "paste this" not in screen(app)

    play(healthy_events(), story, panel=lines)


@pytest.mark.parametrize("size", [(80, 20), (80, 24), (100, 30), (120, 24), (120, 40), (60, 15)])
def test_every_peer_of_dev_is_seen_when_it_matters(size: tuple[int, int]) -> None:
    """Goal: with a dead peer, its reasons and the panel's remedy on the screen, no peer is below its edge."""
    lines = [
        ("peer-2", "killed by SIGKILL: atoll dev start peer-2"),
        ("API", "http://127.0.0.1:7401 :7411"),
        ("credentials", "root.json"),
        ("paste this", "one"),
        ("", "two"),
    ]
    reasons = [{"message": "peer peer-2 is dead"}, {"message": "8 copies missed an owner"}]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.say("peer-2 is dead, was alive")
        await tell(app, pilot)
        text = screen(app)
        for words in ("1 peer-1 <", "2 peer-2", "✗ dead", "3 peer-3", "dev start peer-2", "8 copies"):
            assert words in text, (words, text)

    play(healthy_events(degraded() | {"reasons": reasons}), story, size=size, panel=lines)


def test_many_peers_scroll() -> None:
    """Goal: more peers than rows scroll; the keys reach the last one, and the cursor stays on its peer."""
    nodes = [node(number, share=1 / 300) for number in range(1, 301)]

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        await tell(app, pilot)
        assert "peer-300" not in screen(app)
        await pilot.press("end")
        await tell(app, pilot)
        assert "peer-300" in screen(app)
        await tell(app, pilot, Event("cluster", cluster(nodes=nodes[100:])))
        current = app.query_one("#peers", Rows).current
        assert current.peer.name == "peer-300" and "peer-300" in screen(app)

    play(healthy_events(cluster(nodes=nodes)), story)


def test_q_is_a_letter_where_one_types() -> None:
    """Goal: a filter can hold a q; elsewhere q quits, and so does ctrl+c everywhere."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "slash", *"quiet")
        assert app.page.filter == "quiet" and not app._exit
        await pilot.press("ctrl+c")
        await pilot.pause()

    assert play(healthy_events(), story)._exit


def test_whose_view_it_is_while_it_moves() -> None:
    """Goal: between leaving one peer and hearing of the next the old peer's name does not stand beside the new address."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await tell(app, pilot, Event("connected", {"url": PEERS[1], "before": PEERS[0], "why": "it broke"}))
        assert f"view of {PEERS[1]}" in screen(app) and "view of peer-1" not in screen(app)
        await tell(app, pilot, Event("hello", {"peer": {"id": "2", "name": "peer-2"}}))
        assert f"view of peer-2 ({PEERS[1]})" in screen(app)

    play(healthy_events(), story, size=(120, 40))


def test_every_door_leads_to_its_page() -> None:
    """Goal: what the header calls a page is the page that its key opens."""
    for door in PAGES.values():
        assert door.title == door.load().TITLE
