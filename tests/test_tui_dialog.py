"""Goal: nothing happens without a clear yes: Cancel has the focus, Escape is no, a word must be typed exactly."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui_canned import healthy_events, play, screen
from tui.app import TopApp
from tui.dialog import Ask, Confirm, Dialog

LINES = ["It gives its 4,096 partitions to the others.", "That moves 12 GiB."]


def answers(dialog: Dialog[Any], *keys: str, size: tuple[int, int] = (80, 24), unicode: bool = True) -> Any:
    """What the dialog gives after these keys, "open" while it gives nothing, and what was on the screen before them."""
    given: list[Any] = []
    seen: list[str] = []

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.push_screen(dialog, given.append)
        await pilot.pause()
        seen.append(screen(app))
        await pilot.press(*keys)
        await pilot.pause()

    play(healthy_events(), story, size=size, unicode=unicode)
    return given[0] if given else "open", seen[0]


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], False),
        (["escape"], False),
        (["tab", "enter"], True),
        (["right", "enter"], True),
        (["right", "left", "enter"], False),
        (["y"], "open"),
        (["q"], "open"),
    ],
)
def test_cancel_has_the_focus(keys: list[str], answer: object) -> None:
    """Goal: Enter and Escape are no; yes has to be gone to."""
    assert answers(Confirm("Drain peer-2?", LINES, yes="Drain it"), *keys)[0] == answer


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], False),
        (["left", *"peer-2", "enter"], True),
        (["shift+tab", *"peer-2", "tab", "tab", "enter"], True),
        (["left", *"peer-3", "enter"], "open"),
        (["left", *"peer-3", "tab", "tab", "enter"], "open"),
        (["left", *"peer-2", "tab", "enter"], False),
    ],
)
def test_word_must_be_typed(keys: list[str], answer: object) -> None:
    """Goal: with a word to type there is no yes without it."""
    given, seen = answers(Confirm("Remove peer-2?", LINES, "peer-2", yes="Remove it"), *keys)
    assert "Type peer-2 to confirm:" in seen
    assert given == answer


def positive(words: str) -> str:
    return "" if words.isdigit() else "a number, please"


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], "5"),
        (["0", "enter"], "50"),
        (["x", "enter"], "open"),
        (["x", "enter", "backspace", "enter"], "5"),
        (["escape"], None),
        (["tab", "enter"], None),
        (["tab", "tab", "enter"], "5"),
        ([*"0q", "backspace", "enter"], "50"),
    ],
)
def test_ask(keys: list[str], answer: object) -> None:
    """Goal: what was typed comes back when it passes the check; letters that are keys elsewhere are letters here."""
    given, seen = answers(Ask("Throttle hints", ["Items a second at most."], "5", check=positive), *keys)
    assert "Throttle hints" in seen
    assert given == answer


@pytest.mark.parametrize("size", [(80, 24), (45, 14), (200, 60)])
@pytest.mark.parametrize("unicode", [True, False])
def test_long_text_leaves_the_buttons(size: tuple[int, int], unicode: bool) -> None:
    """Goal: however much is to be said, and however small the terminal: the buttons are seen, in ASCII too."""
    dialog = Confirm("Remove peer-2?", [f"line {number}" for number in range(50)], "peer-2", yes="Remove it")
    given, seen = answers(dialog, "pagedown", size=size, unicode=unicode)
    for words in ("Remove peer-2?", "line 0", "Type peer-2", "Cancel", "Remove it"):
        assert words in seen, (words, seen)
    assert seen.isascii() or unicode
    assert given == "open"


def test_keys_scroll_what_is_long() -> None:
    """Goal: what does not fit is reached by the arrows and page keys."""

    async def story(app: TopApp, pilot: Pilot[None]) -> None:
        app.push_screen(Confirm("?", [f"line {number}" for number in range(50)]))
        await pilot.pause()
        assert "line 49" not in screen(app)
        await pilot.press(*["pagedown"] * 6)
        await pilot.pause()
        assert "line 49" in screen(app) and "Cancel" in screen(app)
        await pilot.press("up")
        await pilot.pause()
        assert "line 49" not in screen(app)

    play(healthy_events(), story)
