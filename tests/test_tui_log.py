"""Goal: page 6 tells what happened, all of it and in order, and does not run away from who reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from peer.client import Event
from tests.tui_canned import Clock, healthy_events, play, screen, tell
from tui.app import TopApp
from tui.journal import KEPT, entry_of
from tui.log import LogRows
from tui.logrows import detail_words, found, log_rows, moment_words

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """One entry of the journal, `number` seconds after eleven."""
    told = {
        "id": f"a-1-{number}",
        "time": (NOON - timedelta(hours=1) + timedelta(seconds=number)).isoformat(),
        "node": {"id": f"{number % 3 + 1:016x}", "name": f"peer-{number % 3 + 1}"},
        "level": ("info", "warning", "error")[number % 3],
        "kind": ("membership", "repair")[number % 2],
        "code": "scrub_done",
        "message": f"sentence number {number}",
    }
    return told | changes


def story_of(count: int) -> list[Event]:
    return [*healthy_events(), *(Event("log", entry(number)) for number in range(count))]


@pytest.mark.parametrize(
    ("words", "levels", "numbers"),
    [
        ("", (), [0, 1, 2, 3, 4, 5]),
        ("level:error", (), [2, 5]),
        ("level:error,warning kind:repair", (), [1, 5]),
        ("peer:peer-1", (), [0, 3]),
        ("PEER:Peer-1 3", (), [3]),
        ("number 4", (), [4]),
        ("code:scrub", ("error",), [2, 5]),
        ("color:red", (), []),
        ("level:", (), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters(words: str, levels: tuple[str, ...], numbers: list[int]) -> None:
    """Goal: fields by name, other words anywhere, all of them."""
    entries = [entry_of(entry(number)) for number in range(6)]
    assert [each.id for each in found(entries, words, levels)] == [f"a-1-{number}" for number in numbers]


@given(st.text(max_size=20))
def test_any_filter_can_be_typed(words: str) -> None:
    """Goal: half a word, or nonsense, finds little but never fails."""
    assert len(found([entry_of(entry(1)), entry_of({})], words, ())) <= 2


def test_times_are_local_and_dated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the reader's own clock, with the date only where the day is another one."""
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        today = entry_of(entry(0, time="2026-11-21T11:30:00Z"))
        before = entry_of(entry(1, time="2026-11-21T10:30:00Z"))
        rows = log_rows([before, today], NOON, unicode=True)
        assert [moment_words(row.entry.at, dated=row.dated) for row in rows] == [
            "Nov 21 23:30:00",
            "00:30:00",
        ]
        assert detail_words(before)[0][0].startswith("2026-11-21 23:30:00.000000 NZDT  peer-2")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (200, 60)])
@pytest.mark.parametrize("unicode", [True, False])
def test_page(size: tuple[int, int], unicode: bool) -> None:
    """Goal: the newest lines and the last one in full, at every usual size."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await tell(app, pilot)
        text = screen(app)
        assert "following" in text and "100 of 100 lines" in text and "sentence number 99" in text
        assert "peer-1  repair  info (scrub_done)" in " ".join(text.split("\n")) or size[0] < 80
        assert "sentence number 0 " not in text
        assert unicode or text.isascii()

    play(story_of(100), story, size=size, unicode=unicode)


def test_follows_until_one_scrolls() -> None:
    """Goal: the end is followed; one who looks up stays where he is and is told what comes; f and End follow again."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await tell(app, pilot, Event("log", entry(100)))
        assert "sentence number 100" in screen(app)
        await pilot.press("up", "up")
        before = app.query_one(LogRows).current
        await tell(app, pilot, *(Event("log", entry(number)) for number in range(101, 141)))
        assert "40 new below" in screen(app) and "sentence number 140" not in screen(app)
        assert app.query_one(LogRows).current == before and "sentence number 98" in screen(app)
        await pilot.press("f")
        await tell(app, pilot)
        assert "following" in screen(app) and "sentence number 140" in screen(app)
        await pilot.press("pageup")
        await tell(app, pilot, Event("log", entry(141)))
        assert "1 new below" in screen(app)
        await pilot.press("end")
        await tell(app, pilot, Event("log", entry(142)))
        assert "following" in screen(app) and "sentence number 142" in screen(app)

    play(story_of(100), story)


def test_the_wheel_stops_following() -> None:
    """Goal: scrolling up with the mouse is looking up; End comes back though the cursor never left the end."""
    from textual import events

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await tell(app, pilot)
        rows = app.query_one(LogRows)
        for _ in range(5):
            x, y = rows.region.x + 5, rows.region.y + 5
            app.screen._forward_event(
                events.MouseScrollUp(rows, x, y, 0, 0, 0, False, False, False, screen_x=x, screen_y=y)
            )
            await pilot.pause()
        await tell(app, pilot, Event("log", entry(100)))
        assert "1 new below" in screen(app)
        await pilot.press("end")
        await tell(app, pilot, Event("log", entry(101)))
        assert "following" in screen(app) and "sentence number 101" in screen(app)

    play(story_of(100), story)


def test_levels_filter_and_copy() -> None:
    """Goal: l shows less and less and then all, / finds, Escape forgets, c copies what is shown, whole."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("6", "l")
        await tell(app, pilot)
        assert "warnings and errors" in screen(app) and "20 of 30 lines" in screen(app)
        await pilot.press("l", "slash", *"kind:repair", "enter")
        await tell(app, pilot)
        assert (
            "errors only" in screen(app)
            and "5 of 30 lines" in screen(app)
            and "filter: kind:repair" in screen(app)
        )
        await pilot.press("c")
        copied = app.clipboard.splitlines()
        assert len(copied) == 5 and copied[0].endswith("error peer-3 repair: sentence number 5")
        await pilot.press("l", "escape")
        await tell(app, pilot)
        assert "31 of 31 lines" in screen(app) and "all levels" in screen(app)

    play(story_of(30), story)


def test_thousands_of_lines() -> None:
    """Goal: the journal is bounded, what is forgotten is said to be, and every line of it can be reached."""
    clock = Clock()

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("6")
        await tell(app, pilot)
        assert f"{KEPT:,} of {KEPT:,} lines, older ones are forgotten" in screen(app)
        await pilot.press("home")
        await tell(app, pilot)
        assert "sentence number 50" in screen(app) and "nothing new below" in screen(app)
        clock.now += 86400
        await tell(app, pilot)
        assert "Nov 21" in screen(app)

    play(story_of(KEPT + 50), story, clock=clock, size=(120, 30))
