"""The keys of the page that is up, and what it draws means; any key closes it."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

Keys = Mapping[str, str]
"""By what they do: how they are written on the keyboard."""

FOOT = "A dash is a number that nobody knows now. Any key closes this."
SCROLLS = frozenset({"up", "down", "pageup", "pagedown", "home", "end"})
COLUMN = 32


class HelpScreen(ModalScreen[None]):
    def __init__(self, title: str, page: Keys, everywhere: Keys, meaning: str, *, columns: int) -> None:
        super().__init__()
        self._text = help_text(title, page, everywhere, meaning, columns)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(self._text)

    def on_key(self, event: events.Key) -> None:
        if event.key not in SCROLLS:
            event.stop()
            self.dismiss()


def help_text(title: str, page: Keys, everywhere: Keys, meaning: str, columns: int) -> Text:
    """The page's own keys first, then those of every page, then what the drawing means."""
    text = Text()
    for heading, keys in ((f"Keys of {title}", page), ("Keys everywhere", everywhere)):
        if not keys:
            continue
        text.append(f"{heading}\n", style="bold")
        cells = [f"{key:>9}  {does}" for does, key in keys.items()]
        for start in range(0, len(cells), columns):
            text.append(
                "".join(cell.ljust(COLUMN) for cell in cells[start : start + columns]).rstrip() + "\n"
            )
    if meaning:
        text.append(f"\n{title}\n", style="bold")
        text.append(f"{meaning}\n")
    text.append(f"\n{FOOT}")
    return text
