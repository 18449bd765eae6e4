"""The ring, drawn to the size it is given."""

from __future__ import annotations

from itertools import pairwise

from rich.text import Text
from textual.widget import Widget

from tui.circle import Arc, Drawing, draw, texture_of
from tui.model import LEAVING, shares
from tui.partitions import CLASSES, Table, class_of, pending_in, ranks_of, standing_of, table_of, with_pending
from tui.state import State

HEALTH_SLOTS = 240  # more than the circle has dots at any usual size


class RingView(Widget):
    """Band of the peers' arcs around the circle of partitions; empty until something is known."""

    unicode = True

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._arcs: list[Arc] = []
        self._health: list[str] = []
        self._middle: list[str] = []
        self._stale = False
        self._drawn: tuple[object, ...] = ()
        self._table: Table | None = None

    def show(self, state: State) -> None:
        """Draw again if the cluster, the ring or the connection changed."""
        drawn = (state.changed.get("cluster"), state.changed.get("ring"), state.stale)
        if drawn == self._drawn:
            return
        self._drawn, self._stale = drawn, state.stale
        cluster, ring = state.cluster, state.ring
        if cluster is not None:
            self._arcs = [
                Arc(
                    peer.label,
                    peer.look.colour if peer.state == "dead" else peer.colour,
                    share,
                    texture_of(peer.state),
                )
                for peer, share in shares(cluster.peers)
            ]
            self._health = []
            if ring is not None:
                table = self._table = table_of(ring, self._table)
                ranks = ranks_of(table, standing_of(cluster))
                pending = pending_in(ring, table.partitions)
                self._health = health_around(with_pending(ranks, pending), HEALTH_SLOTS)
            serving = sum(cluster.count(state) for state in ("alive", *LEAVING))
            self._middle = [f"{serving} of {len(cluster.peers)}", "alive"]
        self.refresh()

    def render(self) -> Text:
        width, height = self.size
        return drawing_text(
            draw(width, height, self._arcs, self._health, self._middle, braille=self.unicode), dim=self._stale
        )


def health_around(ranks: bytes, slots: int) -> list[str]:
    """The classes of the partitions by position, in so many slots, clockwise; a slot is as bad as its worst partition."""
    if not ranks:
        return ["unknown"] * slots
    starts = [slot * len(ranks) // slots for slot in range(slots + 1)]
    return [CLASSES[class_of(max(ranks[first : max(last, first + 1)]))] for first, last in pairwise(starts)]


def drawing_text(drawing: Drawing, *, dim: bool) -> Text:
    """The drawing as Rich text, one style a run of equal cells."""
    text = Text(no_wrap=True, end="")
    for number, row in enumerate(drawing):
        if number:
            text.append("\n")
        start = 0
        for index in range(1, len(row) + 1):
            if index == len(row) or row[index].colour != row[start].colour:
                run = "".join(cell.char for cell in row[start:index])
                style = " ".join(filter(None, ("dim" if dim else "", row[start].colour)))
                text.append(run, style=style or None)
                start = index
    return text
