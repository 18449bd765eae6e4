"""Goal: whole screens, from recordings of a live cluster, look as they did when somebody last looked at them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from textual.pilot import Pilot

from tests.test_tui_actions import Obeying
from tests.tui_canned import play, screen, tell, until
from tests.tui_snapshots import check_picture, told, words
from tui.app import TopApp


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The journal tells local times."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "size", "theme"),
    [
        ("overview-wide", (120, 36), "textual-dark"),
        ("overview-narrow", (80, 24), "textual-light"),
    ],
)
def test_overview_of_a_killed_peer(name: str, size: tuple[int, int], theme: str) -> None:
    """Goal: a peer was killed a moment ago: verdict, reasons, remedy, ring, rates, peers, events; dark and light."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.theme = theme
        await tell(app, pilot)
        check_picture(app, name)

    play(told("killed", 10), story, size=size)


def test_drain_under_way_and_asked_for() -> None:
    """Goal: the table while a peer drains, and the dialog of an action above it."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("2", "down", "X")
        await until(pilot, lambda: "8,192 copies" in screen(app))
        await tell(app, pilot)
        check_picture(app, "peers-remove")

    play(told("drain", 9), story, size=(100, 28), client=Obeying())


@pytest.mark.parametrize("size", [(45, 14), (80, 24), (200, 60)])
@pytest.mark.parametrize("name", ["healthy", "killed", "drain"])
def test_recordings_are_shown_event_by_event(name: str, size: tuple[int, int]) -> None:
    """Goal: at every moment of a real story the overview and the table say the state of every peer, and nothing breaks."""
    events = told(name)
    states: set[str] = set()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        for number, event in enumerate(events):
            app.hear(event)
            if event.kind in ("cluster", "membership", "epoch") or number == len(events) - 1:
                await pilot.press("12"[number % 2])
                await tell(app, pilot)
                text = screen(app)
                assert app.state.cluster is None or app.state.cluster.look.word in text
                states.update(
                    state
                    for state in ("alive", "suspect", "dead", "draining", "drained")
                    if f" {state}" in text
                )
        assert "HEALTHY" in screen(app)

    play([], story, size=size)
    expected = {
        "healthy": {"alive"},
        "killed": {"alive", "suspect", "dead"},
        "drain": {"alive", "draining", "drained"},
    }
    assert expected[name] <= states


def test_words_of_a_picture() -> None:
    """Goal: the comparison sees a changed word, and no changed colour."""
    svg = '<text class="r1" x="0" y="20">peer-2&#160;dead</text><text y="40"> </text>'
    assert list(words(svg)) == [("20", "peer-2 dead")]
    assert list(words(svg.replace("r1", "r2"))) == list(words(svg))
