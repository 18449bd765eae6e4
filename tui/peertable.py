"""The table of peers. Columns give way in a narrow terminal, least needed first; the state never does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from tui.model import DASH, Cluster, Peer, age_words, epoch_words, share_words, size_words


@dataclass(frozen=True, slots=True)
class Column:
    """`keep` orders who stays when there is no room: 0 always stays."""

    title: str
    width: int
    keep: int
    cell: Callable[[Peer, bool], Text]
    right: bool = False


def _label(peer: Peer, unicode: bool) -> Text:
    return Text(peer.label, style=f"bold {peer.colour}")


def _state(peer: Peer, unicode: bool) -> Text:
    look = peer.look
    return Text(f"{look.glyph if unicode else look.plain} {look.word}", style=look.colour)


def _name(peer: Peer, unicode: bool) -> Text:
    return Text(peer.name + (" <" if peer.is_self else ""), style="bold" if peer.is_self else "")


def _used(peer: Peer, unicode: bool) -> Text:
    return Text(f"{size_words(peer.used_bytes)}/{size_words(peer.capacity_bytes)}")


def _heard(peer: Peer, unicode: bool) -> Text:
    return Text("itself" if peer.is_self else age_words(peer.last_heard_s))


def _epoch(peer: Peer, unicode: bool) -> Text:
    return Text(epoch_words(peer.epoch), style="yellow" if peer.behind else "")


def _plain(words: Callable[[Peer], str]) -> Callable[[Peer, bool], Text]:
    return lambda peer, unicode: Text(words(peer))


def _number(value: int | None) -> str:
    return DASH if value is None else str(value)


COLUMNS: Sequence[Column] = (
    Column("#", 1, 0, _label),
    Column("peer", 9, 0, _name),
    Column("state", 10, 0, _state),
    Column("zone", 8, 4, _plain(lambda peer: peer.zone)),
    Column("used/total", 16, 1, _used, right=True),
    Column("share", 6, 2, _plain(lambda peer: share_words(peer.share)), right=True),
    Column("heard", 6, 1, _heard, right=True),
    Column("inc", 3, 5, _plain(lambda peer: _number(peer.incarnation)), right=True),
    Column("version", 7, 3, _plain(lambda peer: peer.version)),
    Column("epoch", 6, 6, _epoch, right=True),
    Column("flags", 10, 7, _plain(lambda peer: ",".join(peer.flags) or DASH)),
)
ROOMY = ("peer", "zone", "flags")  # grow when there is room


def columns_for(width: int) -> list[Column]:
    """The columns that fit `width` cells, one blank between them."""
    chosen = list(COLUMNS)
    while sum(column.width + 1 for column in chosen) - 1 > width:
        worst = max(chosen, key=lambda column: column.keep)
        if worst.keep == 0:
            break
        chosen.remove(worst)
    return chosen


def table_of(cluster: Cluster, width: int, *, unicode: bool, dim: bool = False) -> Table:
    """One row a peer; what room is left goes to columns whose words are cut short."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, style="dim" if dim else "")
    chosen = columns_for(width)
    spare = width - sum(column.width + 1 for column in chosen) + 1
    for column in chosen:
        extra = 0
        if column.title in ROOMY and spare > 0:
            longest = max((column.cell(peer, unicode).cell_len for peer in cluster.peers), default=0)
            extra = max(min(spare, longest - column.width), 0)
            spare -= extra
        table.add_column(
            column.title,
            width=column.width + extra,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis" if unicode else "crop",
            header_style="bold",
        )
    for peer in cluster.peers:
        table.add_row(*(column.cell(peer, unicode) for column in chosen))
    return table


class PeerTable(VerticalScroll):
    """Scrolls when there are more peers than rows."""

    unicode = True
    can_focus = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._cluster: Cluster | None = None
        self._stale = False

    def compose(self) -> ComposeResult:
        yield Static(id="peer-rows")

    def show(self, cluster: Cluster | None, *, stale: bool) -> None:
        self._cluster, self._stale = cluster, stale
        self._draw()

    def on_resize(self) -> None:
        # Only now: a change of size asked for while a layout is being applied would be lost.
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if self._cluster is not None and width > 0:
            table = table_of(self._cluster, width, unicode=self.unicode, dim=self._stale)
            self.query_one("#peer-rows", Static).update(table)
