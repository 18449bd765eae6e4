"""Goal: no word of others speaks to the terminal, and no two names look the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import Static

from peer.client import Event
from tests.tui_canned import cluster, healthy_events, node, play, screen, tell
from tui.app import TopApp
from tui.clean import clean, clean_name

EVIL = "a\x1b[2Jb\x07\u202egnp\u200b\x9b31m\x85\u2028z"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.txt", "plain name.txt"),
        ("grün/日本", "grün/日本"),
        ("a\x1b[2J", r"a\x1b[2J"),
        (r"a\x1b[2J", r"a\\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\udc80", r"\udc80"),
        ("a\xa0b", r"a\xa0b"),
    ],
)
def test_names(name: str, shown: str) -> None:
    """Goal: what can be printed is as it is; the rest is an escape."""
    assert clean_name(name) == shown
    assert clean_name(name, unicode=False).isascii()


@given(st.text(), st.text(), st.booleans())
def test_names_differ(one: str, other: str, unicode: bool) -> None:
    """Goal: C1 and C2 for every text."""
    shown = clean_name(one, unicode=unicode)
    assert shown.isprintable() and clean(one).isprintable()
    assert (one == other) == (shown == clean_name(other, unicode=unicode))


def test_nothing_unprintable_reaches_the_terminal() -> None:
    """Goal: whoever tells it and whatever shows it: journal, table, a page that forgot to clean (C3)."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.say(EVIL)
        log = {"id": "1", "time": "2026-11-21T11:00:00Z", "level": "info", "kind": "disk", "message": EVIL}
        nodes = [node(1), node(2, name=EVIL, zone=EVIL)]
        await app.screen.mount(Static(Text(f"forgot {EVIL}")))
        await tell(app, pilot, Event("log", log), Event("cluster", cluster(nodes=nodes)))
        await pilot.press("2")
        await tell(app, pilot)
        seen = screen(app)
        assert all(line.isprintable() for line in seen.split("\n"))
        assert r"a\x1b[2Jb\x07" in seen and "forgot a" in seen and "\u202e" not in seen

    play(healthy_events(), story, size=(120, 30))
