"""Goal: who believes whom to be alive is shown peer by peer, and said in words that never claim more than was told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Static

from peer.client import Event
from tests.test_tui_model import JSON
from tests.tui_canned import PEERS, healthy_events, play, screen, tell
from tui.app import TopApp
from tui.beliefs import beliefs_of, differing, names, summary
from tui.matrix import Matrix, labels_of, only_differences


def member(number: int) -> str:
    return f"{number:016x}"


def views(count: int, believes: dict[int, dict[int, str] | None], **heard: Any) -> dict[str, Any]:
    """`believes`: of each peer that does not hold all for alive, whom it holds for what; None: it does not answer."""
    told = []
    for number in range(1, count + 1):
        held = believes.get(number, {})
        told.append(
            {
                "id": member(number),
                "name": f"peer-{number}",
                "answers": held is not None,
                "believes": None if held is None else {member(other): s for other, s in held.items()},
                "heard_s": heard.get(f"peer_{number}", {}),
            }
        )
    return {"members": [{"id": one["id"], "name": one["name"]} for one in told], "views": told}


def said(told: dict[str, Any]) -> tuple[bool | None, str]:
    beliefs = beliefs_of(told)
    found = summary(beliefs, differing(beliefs))
    return found.agree, ". ".join(found.sentences)


DEAD_4 = {1: {4: "dead"}, 2: {4: "dead"}, 3: {4: "dead"}, 4: None, 5: {4: "dead"}}


@pytest.mark.parametrize(
    ("believes", "agree", "words"),
    [
        ({}, True, "all 5 peers agree: 5 alive"),
        (DEAD_4, True, "all 4 peers that tell agree: 4 alive, 1 dead (peer-4)"),
        ({2: None}, True, "peer-2 does not answer, though not held for gone yet"),
        ({3: {1: "dead"}}, False, "peer-3 holds peer-1 for dead, the other 3 for alive; peer-1 holds peer-3 for alive: a"),
        ({3: {1: "dead"}, 1: {3: "dead"}}, False, "peer-3 and peer-1 hold each other for gone, the others do not: the link"),
        ({3: {1: "dead", 2: "dead", 4: "dead"}}, False, "peer-3 holds 3 of 4 others for gone that most hold for alive"),
        ({3: {1: "suspect"}}, False, "peer-3 holds peer-1 for suspect, the other 3 for alive: a suspicion"),
        (DEAD_4 | {2: {}}, False, "peer-2 holds peer-4 for alive, the other 3 for dead: only it still hears of peer-4"),
        (DEAD_4 | {2: {4: "suspect"}}, False, "peer-2 holds peer-4 for suspect, the other 3 for dead: the news"),
        (dict.fromkeys(range(1, 6)), None, "no peer has told yet"),
        (dict.fromkeys(range(2, 6)), True, "only peer-1 tells: 5 alive"),
        ({1: {3: "dead", 4: "dead", 5: "dead"}, 2: {3: "dead", 4: "dead", 5: "dead"}, 3: None, 4: None, 5: None},
         True, "only 2 of 5 tell: it may be they that are cut off"),
        ({n: {4: "dead"} for n in (1, 2, 3, 5)}, True, "peer-4 answered just now, though held for gone"),
    ],
)  # fmt: skip
def test_what_is_said(believes: dict[int, Any], agree: bool | None, words: str) -> None:
    """Goal: each kind of difference, and of silence, has its sentence."""
    found = said(views(5, believes))
    assert found[0] is agree and words in found[1], found
    assert ("agree" in found[1]) == (agree is True and len([b for b in believes.values() if b is None]) < 4)


def test_many_differences_are_bounded() -> None:
    """Goal: with 300 peers of which everybody doubts somebody else, the sentences stay few."""
    found = said(views(300, {n: {n % 300 + 1: "dead"} for n in range(1, 301)}))
    assert found[0] is False and "and 297 more differences" in found[1] and found[1].count(". ") == 3


STATES = st.sampled_from(["alive", "suspect", "dead", "left", "unknown"])
BELIEVES = st.dictionaries(
    st.integers(1, 6), st.none() | st.dictionaries(st.integers(1, 6), STATES, max_size=6), max_size=6
)


@given(BELIEVES)
def test_agreement_is_never_claimed_while_two_answers_differ(believes: dict[int, Any]) -> None:
    """Goal: "agree" only if for each peer all who told hold it for the same; a difference is marked at whoever is odd."""
    told = views(6, believes)
    agree, words = said(told)
    opinions: dict[int, set[str]] = {}
    for one in range(1, 7):
        held = believes.get(one, {})
        for other in range(1, 7):
            if held is not None and other != one:
                opinions.setdefault(other, set()).add(held.get(other, "alive"))
    differ = any(len(some) > 1 for some in opinions.values())
    assert agree is (None if not opinions else not differ)
    assert not (differ and "agree" in words) and words
    beliefs = beliefs_of(told)
    found = differing(beliefs)
    assert found.disputed == {member(other) for other, some in opinions.items() if len(some) > 1}
    assert {observed for _, observed in found.odd} == found.disputed
    rows, columns = only_differences(beliefs, found)
    assert len(columns) == len(found.disputed) and bool(found.odd) <= bool(rows)


@given(JSON, JSON)
def test_any_json_is_a_matrix(told: Any, inner: Any) -> None:
    """Goal: what a newer or broken peer tells does not crash the screen."""
    one = {"id": "a", "answers": True, "believes": inner, "heard_s": told}
    for document in (
        told,
        {"members": told, "views": inner},
        {"members": [{"id": "a"}], "views": [one, told]},
    ):
        if isinstance(document, dict):
            assert said(document)[1]


def test_words_and_labels() -> None:
    """Goal: long lists of names are cut, and labels are of one width."""
    assert [names(some) for some in ("", "a", "ab", "abcd", "abcdef")] == [
        "nobody", "a", "a and b", "a, b, c and d", "a, b, c and 3 more",
    ]  # fmt: skip
    assert labels_of(3) == ["1", "2", "3"] and labels_of(36)[8:10] == [" 9", "10"]


def events(told: dict[str, Any]) -> list[Event]:
    return [*healthy_events(), Event("views", told)]


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (120, 40), (200, 60)])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_matrix_is_on_the_screen(size: tuple[int, int], unicode: bool) -> None:
    """Goal: summary, legend, matrix and the pair under the cursor have room; without Unicode nothing needs it."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await tell(app, pilot)
        text = screen(app)
        alive, dead = ("●", "✗") if unicode else ("*", "x")
        assert f"! 3 peer-3 {dead} {alive} \\ {alive} {alive}" in text, text
        assert f"  1 peer-1 \\ {alive} {alive} {alive} {alive}" in text
        assert "  2 peer-2 does not answer" in text and (f"{dead} dead" in text or size[1] < 20)
        assert "peer-3 holds peer-1 for dead" in text and "peer-1 itself" in text
        assert text.isascii() or unicode
        await pilot.press("down", "down")
        await tell(app, pilot)
        assert "peer-3 holds peer-1 for dead, heard of it 70 s" in " ".join(screen(app).split())

    told = views(5, {3: {1: "dead"}, 2: None}, peer_3={member(1): 70.0})
    play(events(told), story, size=size, unicode=unicode)


def test_differences_only_and_filter() -> None:
    """Goal: d leaves rows and columns in which something differs, / leaves observers with a name; the copy has all."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("4", "d")
        await tell(app, pilot)
        text = screen(app)
        assert "! 3 peer-3 ✗" in text and "2 peer-2 does not answer" in text
        assert "1 peer-1" not in text and "differences only" in text
        await pilot.press("d", "slash", *"er-5", "enter")
        await tell(app, pilot)
        assert "5 peer-5" in screen(app) and "1 peer-1" not in screen(app)
        await pilot.press("escape", "c")
        await tell(app, pilot)
        assert "1 peer-1" in screen(app)
        assert "peer-3\tpeer-1\tdead" in app.clipboard and "peer-2\tnot known" in app.clipboard

    play(events(views(5, {3: {1: "dead"}, 2: None})), story)


def test_news_and_silence() -> None:
    """Goal: before anything is told nothing is claimed; news is shown at once; when nobody answers it stays."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("4", "down", "d", "d")
        await tell(app, pilot)
        assert "no peer has told yet" in screen(app) and "agree" not in screen(app)
        await tell(app, pilot, Event("views", views(3, {})))
        assert "all 3 peers agree: 3 alive" in screen(app)
        await tell(app, pilot, Event("views", views(3, {1: {2: "dead"}, 2: None, 3: {2: "dead"}})))
        assert "all 2 peers that tell agree: 2 alive, 1 dead (peer-2)" in screen(app)
        await tell(app, pilot, Event("unreachable", {"failures": [[PEERS[0], "refused"]]}))
        assert "NO PEER ANSWERS" in screen(app) and "peer-3" in screen(app)

    play(healthy_events(), story)


def test_300_peers_scroll_both_ways() -> None:
    """Goal: the keys reach every pair, the labels go with the columns, and the cursor stays on its pair."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await tell(app, pilot)
        assert "peer-300" not in screen(app) and "peer-1 " in screen(app)
        await pilot.press("end")
        await tell(app, pilot)
        text = screen(app)
        assert "300 peer-300" in text and "peer-300 itself" in text
        await pilot.press("up", "left", "left")
        await tell(app, pilot)
        assert "peer-299 holds peer-298 for alive; peer-298 holds peer-299 for alive" in " ".join(
            screen(app).split()
        )
        await tell(app, pilot, Event("views", views(300, {7: {298: "dead"}})))
        pair = app.query_one(Matrix).pair
        assert pair is not None and (pair[0].name, pair[1]) == ("peer-299", member(298))
        await pilot.press("pageup", "ctrl+left", "home", "d")
        await tell(app, pilot)
        text = screen(app)
        assert "7 peer-7" in text and "peer-7 holds peer-298 for dead" in text
        matrix = app.query_one(Matrix)
        assert matrix.size.height > 4 and str(app.query_one("#views-summary", Static).content)

    play(events(views(300, {})), story)
