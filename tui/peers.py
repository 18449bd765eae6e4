"""Page 2: every peer with its state in a glyph, a word and a colour; Enter opens a peer's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult

from tui.model import DASH, Peer, age_words, epoch_words, share_words, size_words
from tui.page import Page, matches
from tui.rows import Cell, Column, Rows
from tui.state import State


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
    Column("epoch", 6, 6, _plain(lambda peer: epoch_words(peer.epoch), _behind), right=True),
    Column("flags", 10, 7, _plain(lambda peer: ",".join(peer.flags) or DASH), grows=True),
)  # fmt: skip


MEANING = (
    '"<" marks the peer whose view this is; "heard" is how long ago it last heard of the other; "inc" is the incarnation,'
    " raised to refute a suspicion."
)


class Peers(Page):
    """All peers, filtered by any word of their row."""

    TITLE: ClassVar[str] = "Peers"
    MEANING: ClassVar[str] = MEANING

    def compose(self) -> ComposeResult:
        yield Rows(PEER_COLUMNS, key=lambda row: row.id, empty="no peer is known yet", id="peers")

    def show(self, state: State) -> None:
        peers = state.cluster.peers if state.cluster is not None else ()
        found = [
            peer for peer in peers if matches(self.filter, peer.name, peer.state, peer.zone, *peer.flags)
        ]
        self.query_one(Rows).show(self.top.rows_of(found), dim=state.stale)

    def copied(self) -> str:
        return self.query_one(Rows).plain()
