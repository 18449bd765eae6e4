"""Page 1: is it healthy, what is broken, what is it doing about it, what may I do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container
from textual.widgets import Static

from tui.acting import ActsOnPeers
from tui.facts import Facts, fact_lines
from tui.model import Peer, headline
from tui.newest import Newest
from tui.peers import PEER_COLUMNS, PeerRow, ordered
from tui.reasons import Reasons, reason_lines
from tui.ringview import RingView
from tui.rows import Rows
from tui.state import State

Lines = Sequence[tuple[str, str]]

LOW, LOW_WITH_PANEL = 20, 30
RING_LEAST = 7
"""Rows without which a ring cannot be recognised."""
REASONS_PART = 4
"""Of all rows one in so many may say what is wrong before it is said in short."""
FACTS_MOST = 10
FEW = 7
"""Rows of the table that the drawing gives way to."""
COPIED = 100
"""Columns of what is copied."""
MEANING = (
    "The band of the ring is what each peer owns, by its number in the table: solid answers, chequered is suspected, hollow"
    " is dead. The thin circle is the ring of partitions: solid with every copy there, dotted with one missing or on its"
    " way, open where no majority answers.\n\n"
    "Sparklines: a character a second, the newest at the right, full height for the peak of those shown. Backlog: what waits"
    " in all queues of repair. An arrow says what you may do about a code."
)


class Overview(ActsOnPeers):
    """The ring, what belongs beside it, the peers, what `atoll dev` adds, and the latest events."""

    TITLE: ClassVar[str] = "Overview"
    PROMPT: ClassVar[str] = ""
    MEANING: ClassVar[str] = MEANING

    _layout = ""

    def compose(self) -> ComposeResult:
        yield Reasons(id="reasons")
        with Container(id="body"):
            yield RingView(id="ring")
            yield Facts(id="facts")
            yield Rows(PEER_COLUMNS, key=lambda peer: peer.id, id="overview-peers")
        yield Static(id="panel")
        yield Newest(id="latest")

    def on_mount(self) -> None:
        self.query_one(RingView).unicode = self.unicode
        self.panel(self.top.panel)

    @property
    def has_news(self) -> bool:
        return not self.low

    @property
    def low(self) -> bool:
        """Whether rows are scarce: then what is wrong is told in short, and the latest events in the line at the foot."""
        return self.app.size.height < (LOW_WITH_PANEL if self.top.panel else LOW)

    def show(self, state: State) -> None:
        self.set_class(self.low, "-short")
        room = 0 if self.low else self.app.size.height // REASONS_PART
        self.query_one(Reasons).show(state, unicode=self.unicode, room=room)
        self._peers(state)
        self.query_one(RingView).show(state)
        self.query_one(Facts).show(state, unicode=self.unicode)
        if self.has_news:
            self.query_one(Newest).show(state.journal)

    def _peers(self, state: State) -> None:
        """All of them, or the troubled ones first where the table has not enough rows."""
        peers = state.cluster.peers if state.cluster is not None else ()
        body, rows = self.query_one("#body"), self.query_one("#overview-peers", Rows)
        height, wide = body.size.height, self.screen.has_class("-wide")
        wanted = min(
            len(peers) + 1, max(FEW, height // 2)
        )  # hundreds of peers must not crowd out what is above
        above = height - wanted
        layout = f"{max(1, min(above, FACTS_MOST))} 1fr" if wide else f"1fr {wanted}"
        if layout != self._layout:
            self._layout = body.styles.grid_rows = layout
        self.set_class(above < RING_LEAST and not wide, "-cramped")
        if len(peers) >= rows.size.height:
            peers = tuple(ordered(peers, "state"))
        rows.show(self.top.rows_of(peers), dim=state.stale)

    @property
    def target(self) -> Peer | None:
        row = self.query_one("#overview-peers", Rows).current
        return row.peer if isinstance(row, PeerRow) else None

    async def on_rows_chosen(self, message: Rows.Chosen) -> None:
        message.stop()
        if isinstance(row := message.rows.current, PeerRow):
            await self.top.open_peer(row.peer.id, back_to=1)

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
        state = self.top.state
        parts = [headline(state.cluster)] if state.cluster is not None else []
        parts += [words for words, _ in reason_lines(state, COPIED, unicode=self.unicode)]
        parts += [words.plain for words in fact_lines(state, COPIED, unicode=self.unicode).values()]
        parts += [self.query_one("#overview-peers", Rows).plain()]
        return "\n".join(parts + [entry.text for entry in state.journal.newest(50)])
