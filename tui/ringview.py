"""The ring, drawn to the size it is given."""

from __future__ import annotations

from rich.text import Text
from textual.widget import Widget

from tui.circle import Arc, Drawing, draw, texture_of
from tui.model import LEAVING, health_around, shares
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
            self._health = health_around(ring, cluster.peers, HEALTH_SLOTS) if ring else []
            serving = sum(cluster.count(state) for state in ("alive", *LEAVING))
            self._middle = [f"{serving} of {len(cluster.peers)}", "alive"]
        self.refresh()

    def render(self) -> Text:
        width, height = self.size
        return drawing_text(
            draw(width, height, self._arcs, self._health, self._middle, braille=self.unicode), dim=self._stale
        )


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
