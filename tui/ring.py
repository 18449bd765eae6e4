"""Page 3: the map of all partitions by live replicas, what moves, whose they are, and where a key lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from tui.clean import clean, clean_name
from tui.found import FOUND_COLUMNS, rows_of, summary
from tui.lookup import Lookup
from tui.mapview import MapView, Marks, rank_at
from tui.model import Peer, age_words
from tui.page import Page
from tui.partitions import (
    Standing,
    Table,
    agreed,
    counts_of,
    pending_in,
    ranks_of,
    standing_of,
    table_of,
    with_pending,
)
from tui.ringwords import Progress, Under, about, epoch_note, legend, progress
from tui.rows import Rows
from tui.state import State

MEANING = """\
Every partition of the ring in the order of hashes, by how many of its
owners live and count as a copy; a cell is as bad as its worst partition.
In a change of the ring: ~ moving is what some new owner has still to fetch,
+ moved what waits for the end of the change; every copy is there.
! unavailable: no majority of its owners lives    ? its owners are not known
Arrows move the cursor, comma and full stop by one partition."""


class Ring(Page):
    """The map, its legend above, the partition under the cursor below; in a wide terminal beside it."""

    TITLE: ClassVar[str] = "Ring"
    PROMPT: ClassVar[str] = "bucket/key, or a bucket alone"
    MEANING: ClassVar[str] = MEANING
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "trouble", "next trouble"),
        Binding("o", "whose(1)", "whose", key_display="o"),
        Binding("O", "whose(-1)", show=False),
        Binding("d", "digits", "digits"),
        Binding("m", "further", "more chunks"),
        Binding("escape", "forget", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lookup = Lookup(self)
        self._table: Table | None = None
        self._seen: tuple[object, ...] = ()
        self._pending: frozenset[int] = frozenset()
        self._standing: Standing | None = None
        self._settled = self._ranks = b""
        self._peers: dict[str, Peer] = {}
        self._whose: str | None = None
        self._most_pending = 0

    def compose(self) -> ComposeResult:
        yield Static(id="ring-legend")
        yield Static(id="ring-progress")
        with Container(id="ring-body"):
            yield MapView(id="ring-map")
            with Container(id="ring-beside"):
                yield Static(id="ring-about")
                yield Static(id="ring-found")
                yield Rows(FOUND_COLUMNS, key=lambda row: row.key, id="ring-rows")

    def on_mount(self) -> None:
        view = self.query_one(MapView)
        view.unicode, view.colour = self.unicode, not self.app.no_color
        for hidden in ("#ring-progress", "#ring-found", "#ring-rows"):
            self.query_one(hidden).display = False

    # --- what is known

    def show(self, state: State) -> None:
        self._lookup.refresh_if_old()
        seen = (state.changed.get("ring"), state.changed.get("cluster"), state.stale)
        if seen != self._seen:
            self._seen = seen
            self._learn(state)
        self._draw(state)

    def _learn(self, state: State) -> None:
        """Work out the ranks anew if something they depend on changed."""
        if state.cluster is not None:
            self._peers = {peer.id: peer for peer in state.cluster.peers}
        if state.ring is None or state.cluster is None:
            return
        table = table_of(state.ring, self._table)
        pending = frozenset(pending_in(state.ring, table.partitions))
        standing = standing_of(state.cluster)
        if (table, standing) != (self._table, self._standing):
            if self._table is None or table.epoch != self._table.epoch:
                self._most_pending = 0
            self._table, self._standing, self._settled = table, standing, ranks_of(table, standing)
        elif pending == self._pending:
            return
        self._pending, self._ranks = pending, with_pending(self._settled, pending)
        self._most_pending = max(self._most_pending, len(pending)) if pending else 0

    # --- drawing

    def _draw(self, state: State) -> None:
        view = self.query_one(MapView)
        view.show(self._ranks, self._marks(), dim=state.stale)
        self._write("#ring-legend", self._legend(state, view))
        self._write("#ring-progress", self._progress(state))
        self._draw_about()
        self._draw_found(state)

    def _write(self, where: str, text: Text) -> None:
        """Lines that take as many rows as they need, none if there is nothing to say."""
        widget = self.query_one(where, Static)
        if widget.content != text:
            widget.display = bool(text)
            widget.update(text)

    def _marks(self) -> Marks:
        found = self._lookup.found
        if found is not None:
            return Marks(spots=found.spots)
        if self._whose is not None and self._table is not None:
            return Marks(held=self._table.now.held.get(self._whose, ()))
        return Marks()

    def _legend(self, state: State, view: MapView) -> Text:
        if self._table is None or not self._ranks:
            return Text("the ring has not been told yet")
        counts, fewer = agreed(counts_of(self._ranks), state.cluster)
        text = legend(counts, fewer, blocks=view.blocks)
        if self._whose is not None:
            name = next((name for member, name in self._table.members if member == self._whose), "?")
            held = len(self._table.now.held.get(self._whose, ()))
            name = clean(name, unicode=self.unicode)
            text.append(f"\n{name} owns {held:,} partitions: the darker, the more of a cell", style="bold")
        if note := epoch_note(self._table, state.cluster.epoch if state.cluster is not None else None):
            text.append(f"\n{note}", style="yellow")
        return text

    def _progress(self, state: State) -> Text:
        if self._table is None or state.ring is None:
            return Text()
        joint = self._table.before is not None or self._table.kind == "joint"
        if not joint and not self._pending:
            return Text()
        tells = "pending" in state.ring
        total = max(len(self._table.changed), self._most_pending)
        return progress(Progress(total, len(self._pending) if tells else None, joint), unicode=self.unicode)

    def _draw_about(self) -> None:
        view = self.query_one(MapView)
        if self._table is None or (partition := view.cursor) is None:
            return
        under = Under(partition, rank_at(self._ranks, partition), view.under, not view.exact)
        text = about(self._table, under, self._pending, self._peers, unicode=self.unicode)
        lines = self.query_one("#ring-about", Static)
        if lines.content != text:
            lines.update(text, layout=False)

    def _draw_found(self, state: State) -> None:
        found, rows = self._lookup.found, self.query_one(Rows)
        text = Text()
        if self._lookup.asked:
            if found is not None:
                words, colour = summary(found, unicode=self.unicode)
                text.append(words, style=colour)
                text.append(f"  told {age_words(self._lookup.age_s)} ago", style="bright_black")
            if self._lookup.problem:
                text.append("\n" if text else "")
                text.append(clean(self._lookup.problem, unicode=self.unicode), style="red")
            elif found is None:
                asked = clean_name(self._lookup.asked, unicode=self.unicode)
                text.append(f"asking where {asked} is ...")
        self._write("#ring-found", text)
        rows.display = found is not None
        self.set_class(found is not None, "finding")
        if found is not None:
            rows.show(rows_of(found, self._peers, unicode=self.unicode), dim=state.stale)

    # --- keys

    def on_map_view_moved(self) -> None:
        self._draw_about()

    def set_filter(self, words: str) -> None:
        """What is being typed asks for nothing yet; an empty line forgets what was found."""
        self.filter = words
        if not words:
            self._lookup.forget()
            self.refresh_bindings()
            self.top.redraw_page()

    def submit_filter(self, words: str) -> None:
        if words:
            self._whose = None
            self._lookup.ask(words)
            self.top.redraw_page()

    def found_anew(self, *, first: bool) -> None:
        """The lookup has an answer; to the first one the cursor goes."""
        found = self._lookup.found
        if first and found is not None and found.partition is not None:
            self.query_one(MapView).go(found.partition, exact=True)
        self.refresh_bindings()
        self.top.redraw_page()

    def action_forget(self) -> None:
        """Escape: first the peer that is picked out, then the key."""
        if self._whose is not None:
            self._whose = None
            self.top.redraw_page()
        else:
            self.top.action_escape()

    def action_whose(self, by: int) -> None:
        """Pick out the partitions of the next peer, after the last one of none."""
        if self._table is None:
            return
        order: list[str | None] = [None, *(member for member, _ in self._table.members)]
        at = order.index(self._whose) if self._whose in order else 0
        self._whose = order[(at + by) % len(order)]
        self.top.redraw_page()

    def action_trouble(self) -> None:
        if self._ranks and not self.query_one(MapView).go_to_trouble():
            self.top.say("every partition has all its live replicas")

    def action_digits(self) -> None:
        view = self.query_one(MapView)
        view.digits = not view.digits
        view.relay()
        self.top.redraw_page()

    def action_further(self) -> None:
        self._lookup.further()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._lookup.has_further if action == "further" else True

    def commands(self) -> Iterable[SystemCommand]:
        yield SystemCommand(
            "Where is a key", "owners of bucket/key and its chunks (/)", self.top.action_filter
        )
        yield SystemCommand("Next trouble", "the next partition that is not full (n)", self.action_trouble)

    def copied(self) -> str:
        """The legend, the partition under the cursor, and what was found."""
        parts: Iterable[str] = (
            str(self.query_one(where, Static).content)
            for where in ("#ring-legend", "#ring-progress", "#ring-about", "#ring-found")
        )
        found = [self.query_one(Rows).plain()] if self._lookup.found is not None else []
        return "\n".join(part for part in (*parts, *found) if part)
