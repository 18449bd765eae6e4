"""Page 1: is it healthy, what is broken, what is it doing about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container
from textual.widgets import Static

from tui.facts import Facts
from tui.newest import Newest
from tui.page import Page
from tui.peers import PEER_COLUMNS
from tui.reasons import Reasons
from tui.ringview import RingView
from tui.rows import Rows
from tui.state import State

Lines = Sequence[tuple[str, str]]

MEANING = (
    "The band of the ring is what each peer owns, by its number in the table: solid answers, chequered is suspected, hollow"
    " is dead. The thin circle is the ring of partitions: solid with every copy there, dotted with one missing, open where"
    " no majority answers."
)


class Overview(Page):
    """The ring, what belongs beside it, the peers, what `atoll dev` adds, and the latest events."""

    TITLE: ClassVar[str] = "Overview"
    PROMPT: ClassVar[str] = ""
    MEANING: ClassVar[str] = MEANING

    def compose(self) -> ComposeResult:
        yield Reasons(id="reasons")
        with Container(id="body"):
            with Container(id="picture"):
                yield RingView(id="ring")
                yield Facts(id="facts")
            yield Rows(PEER_COLUMNS, key=lambda peer: peer.id, id="overview-peers")
        yield Static(id="panel")
        yield Newest(id="latest")

    def on_mount(self) -> None:
        self.query_one(RingView).unicode = self.unicode
        self.panel(self.top.panel)

    def show(self, state: State) -> None:
        self.query_one(Reasons).show(state)
        self.query_one(RingView).show(state.cluster, state.ring, stale=state.stale)
        self.query_one(Facts).show(state.cluster, stale=state.stale)
        peers = state.cluster.peers if state.cluster is not None else ()
        rows = self.query_one("#overview-peers", Rows)
        rows.styles.height = len(peers) + 1
        rows.show(self.top.rows_of(peers), dim=state.stale)
        self.query_one(Newest).show(state.journal)

    def panel(self, lines: Lines) -> None:
        """What `atoll dev` has to say below the peers; nothing hides it."""
        panel = self.query_one("#panel", Static)
        panel.set_class(bool(lines), "shown")
        text = Text(overflow="fold")
        for number, (heading, words) in enumerate(lines):
            text.append("\n" if number else "")
            text.append(f"{heading:<12} ", style="bold")
            text.append(words)
        panel.update(text)

    def copied(self) -> str:
        return "\n".join(entry.text for entry in self.top.state.journal.newest(50))
