"""Page 2: every peer with its state in a glyph, a word and a colour; Enter opens a peer's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, ClassVar

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType

from tui.acting import ActsOnPeers
from tui.model import DASH, Peer, age_words, epoch_words, share_words, size_words
from tui.page import matches
from tui.peerview import PeerView
from tui.rows import Cell, Column, Rows
from tui.state import State

SKEW_S = 5.0
"""From here on clocks are worth a warning (GET /v1/cluster, `clock_skew`)."""


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer and how it is written: `unicode` chooses glyphs, `since_s` has passed since it was told of."""

    peer: Peer
    unicode: bool
    since_s: float

    @property
    def id(self) -> str:
        return self.peer.id


def _state(row: PeerRow) -> Cell:
    look = row.peer.look
    return f"{look.glyph if row.unicode else look.plain} {look.word}", look.colour


def _name(row: PeerRow) -> Cell:
    mark = " <" if row.peer.is_self else ""
    return row.peer.name + mark, "bold" if row.peer.is_self else ""


def _heard(row: PeerRow) -> Cell:
    if row.peer.is_self:
        return "itself", ""
    heard_s = row.peer.last_heard_s
    return age_words(None if heard_s is None else heard_s + row.since_s), ""


def _plain(
    words: Callable[[Peer], str], style: Callable[[Peer], str] = lambda _: ""
) -> Callable[[PeerRow], Cell]:
    return lambda row: (words(row.peer), style(row.peer))


def _used(peer: Peer) -> str:
    return f"{size_words(peer.used_bytes)}/{size_words(peer.capacity_bytes)}"


def _behind(peer: Peer) -> str:
    return "yellow" if peer.behind else ""


def _number(value: int | None) -> str:
    return DASH if value is None else str(value)


def _whole(peer: Peer) -> str:
    return DASH if peer.whole is None else "yes" if peer.whole else "NO"


def _skew(peer: Peer) -> str:
    """By how much its clock is ahead."""
    skew_s = peer.clock_skew_s
    if skew_s is None:
        return DASH
    return f"{'-' if skew_s <= -0.05 else '+'}{age_words(abs(skew_s))}"


def _skewed(peer: Peer) -> str:
    return "yellow" if peer.clock_skew_s is not None and abs(peer.clock_skew_s) > SKEW_S else ""


PEER_COLUMNS: Sequence[Column[PeerRow]] = (
    Column("#", 1, 0, _plain(lambda peer: peer.label, lambda peer: f"bold {peer.colour}")),
    Column("peer", 9, 0, _name, grows=True),
    Column("state", 10, 0, _state),
    Column("zone", 8, 4, _plain(lambda peer: peer.zone), grows=True),
    Column("used/total", 16, 1, _plain(_used), right=True),
    Column("share", 6, 2, _plain(lambda peer: share_words(peer.share)), right=True),
    Column("heard", 6, 1, _heard, right=True),
    Column("inc", 3, 5, _plain(lambda peer: _number(peer.incarnation)), right=True),
    Column("version", 7, 3, _plain(lambda peer: peer.version)),
    Column("whole", 5, 6, _plain(_whole, lambda peer: "yellow" if peer.whole is False else "")),
    Column("epoch", 6, 7, _plain(lambda peer: epoch_words(peer.epoch), _behind), right=True),
    Column("skew", 7, 8, _plain(_skew, _skewed), right=True),
    Column("flags", 10, 9, _plain(lambda peer: ",".join(peer.flags) or DASH), grows=True),
)  # fmt: skip

TROUBLE = ("dead", "unknown", "suspect", "leaving", "draining", "drained", "left", "alive")
"""States, the worst first."""
SORTS: Mapping[str, Callable[[Peer], Any]] = {
    "peer": lambda peer: 0,  # they come by name
    "state": lambda peer: TROUBLE.index(peer.state),
    "zone": lambda peer: peer.zone,
    "used/total": lambda peer: -(peer.used_part or 0.0),
    "share": lambda peer: -(peer.share or 0.0),
    "heard": lambda peer: -(peer.last_heard_s if peer.last_heard_s is not None else inf),
    "version": lambda peer: peer.version,
}
"""By the title of the column; the troubled, the fullest, those not heard of for longest come first."""


def ordered(peers: Sequence[Peer], by: str, *, backwards: bool = False) -> list[Peer]:
    """Peers in one of the orders of `SORTS`; equal ones by name."""
    found = sorted(peers, key=SORTS[by])
    return found[::-1] if backwards else found


def marked(by: str, *, backwards: bool, unicode: bool) -> list[Column[PeerRow]]:
    """The columns, that of the order with an arrow."""
    arrow = (
        ("\N{UPWARDS ARROW}" if backwards else "\N{DOWNWARDS ARROW}")
        if unicode
        else "^"
        if backwards
        else "v"
    )
    return [
        replace(column, title=f"{column.title}{arrow}"[-column.width :]) if column.title == by else column
        for column in PEER_COLUMNS
    ]


MEANING = (
    'Enter opens a peer. "<" marks the peer whose view this is; "heard" is how long ago it last heard of the other; "inc" is'
    ' the incarnation, raised to refute a suspicion; "whole" says whether it counts as a copy in the verdict; "skew" is by'
    " how much its clock is ahead of most."
)


class Peers(ActsOnPeers):
    """All peers, in any order, filtered by any word of their row; or one of them in full."""

    TITLE: ClassVar[str] = "Peers"
    MEANING: ClassVar[str] = MEANING
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "sort"),
        Binding("r", "backwards", "reverse", show=False, tooltip="the other way round"),
        Binding("escape", "back", "back", key_display="esc"),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._by = "peer"
        self._backwards = False
        self._opened = ""
        self._from = 0

    def compose(self) -> ComposeResult:
        yield Rows(PEER_COLUMNS, key=lambda row: row.id, empty="no peer is known yet", id="peers")
        yield PeerView(id="peer")

    def show(self, state: State) -> None:
        table, view = self.query_one(Rows), self.query_one(PeerView)
        table.display, view.display = not self._opened, bool(self._opened)
        if self._opened:
            view.show(state)
            return
        peers = state.cluster.peers if state.cluster is not None else ()
        found = [
            peer
            for peer in peers
            if matches(self.filter, peer.name, peer.state, peer.zone, peer.version, *peer.flags)
        ]
        rows = self.top.rows_of(ordered(found, self._by, backwards=self._backwards))
        table.show(rows, dim=state.stale)

    @property
    def target(self) -> Peer | None:
        """The peer that is opened, or under the cursor: for whom a key is meant."""
        state = self.top.state
        if self._opened:
            peers = state.cluster.peers if state.cluster is not None else ()
            return next((peer for peer in peers if peer.id == self._opened), None)
        current = self.query_one(Rows).current
        return current.peer if isinstance(current, PeerRow) else None

    # --- one peer

    def open(self, peer_id: str, *, back_to: int = 0) -> None:
        """Show the page of one; `back_to` is the page from which it was opened, if not this one."""
        self._opened, self._from = peer_id, back_to
        self.query_one(PeerView).open(peer_id)
        self.top.redraw_page()
        self.take_focus()
        self.refresh_bindings()

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        message.stop()
        if (peer := self.target) is not None:
            self.open(peer.id)

    async def action_back(self) -> None:
        opened, back_to = self._opened, self._from
        self._opened, self._from = "", 0
        self.query_one(PeerView).open("")
        if back_to:
            await self.top.action_page(back_to)
            return
        self.top.redraw_page()
        self.query_one(Rows).choose(opened)
        self.take_focus()
        self.refresh_bindings()

    def take_focus(self) -> None:
        self.query_one("#peer-body" if self._opened else "#peers").focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the table work in the table, that of the peer's page there."""
        if action in ("sort", "backwards"):
            return not self._opened
        if action == "back":
            return bool(self._opened)
        return super().check_action(action, parameters)

    # --- orders

    def action_sort(self) -> None:
        by = list(SORTS)
        self._sorted(by[(by.index(self._by) + 1) % len(by)], backwards=False)

    def action_backwards(self) -> None:
        self._sorted(self._by, backwards=not self._backwards)

    def _sorted(self, by: str, *, backwards: bool) -> None:
        self._by, self._backwards = by, backwards
        self.query_one(Rows).replace_columns(marked(by, backwards=backwards, unicode=self.unicode))
        self.top.redraw_page()

    def commands(self) -> Iterable[SystemCommand]:
        yield from super().commands()
        for by in SORTS:
            yield SystemCommand(f"Sort by {by}", "peers (s, r)", partial(self._sorted, by, backwards=False))

    def copied(self) -> str:
        return self.query_one(PeerView).copied() if self._opened else self.query_one(Rows).plain()
