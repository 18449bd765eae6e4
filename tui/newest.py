"""The newest lines of the journal, at the foot of a page."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from tui.journal import Entry, Journal


class Newest(Static):
    """Shows as many of the newest entries as it has rows."""

    def show(self, journal: Journal) -> None:
        self.update(entry_lines(journal.newest(max(self.size.height, 1))), layout=False)


def entry_lines(entries: list[Entry]) -> Text:
    """A line each: time, peer, sentence."""
    text = Text(no_wrap=True, overflow="crop")
    for number, entry in enumerate(entries):
        text.append("\n" if number else "")
        text.append(f"{entry.clock} ", style="bright_black")
        if entry.node and entry.node not in entry.message:
            text.append(f"{entry.node}: ", style="bold")
        text.append(entry.message, style=entry.colour)
    return text
