"""The newest lines of the journal, at the foot of a page. What several peers saw at about the same time is one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from rich.text import Text
from textual.widgets import Static

from tui.journal import Entry, Journal

SAME_S = 30.0
"""So long after the first of them another peer's same words are no news."""
LOOKED_MOST = 300


@dataclass(slots=True)
class Told:
    """One line: the first who said it, and all who did."""

    entry: Entry
    nodes: set[str] = field(default_factory=set)


class Newest(Static):
    """Shows as many of the newest lines as it has rows."""

    def show(self, journal: Journal) -> None:
        self.update(entry_lines(folded(journal.newest(LOOKED_MOST), max(self.size.height, 1))), layout=False)


def folded(entries: Sequence[Entry], count: int) -> list[Told]:
    """The last `count` lines, oldest first. The same words of different peers within SAME_S are one, at the first's time."""
    lines: list[Told] = []
    same: dict[tuple[str, str, str], Told] = {}
    for entry in entries:
        words = (entry.kind, entry.code, entry.message)
        told = same.get(words)
        close = told is not None and (entry.at - told.entry.at).total_seconds() <= SAME_S
        if told is not None and close and entry.node not in told.nodes:
            told.nodes.add(entry.node)
            continue
        same[words] = told = Told(entry, {entry.node})
        lines.append(told)
    return list(islice(lines, max(0, len(lines) - count), None))


def entry_lines(lines: Sequence[Told]) -> Text:
    """A line each: time, peer, sentence, and how many say it when it is not one."""
    text = Text(no_wrap=True, overflow="crop")
    for number, told in enumerate(lines):
        entry = told.entry
        text.append("\n" if number else "")
        text.append(f"{entry.clock} ", style="bright_black")
        if len(told.nodes) == 1 and entry.node and entry.node not in entry.message:
            text.append(f"{entry.node}: ", style="bold")
        text.append(entry.message, style=entry.colour)
        if len(told.nodes) > 1:
            text.append(f" ({len(told.nodes)} peers say so)", style="bright_black")
    return text
