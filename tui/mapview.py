"""The map of all partitions, drawn to the room it has, with a cursor.

With colour and Unicode two rows of cells stand in one line of half blocks; else, and while something is marked, a cell
is the number of its live replicas, or a sign. Only a change of what is shown, or of the size, draws it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tui.heatmap import (
    SPOTS,
    Fit,
    cells_of,
    colour_of,
    fit,
    next_trouble,
    runs,
    shade,
    shares_of,
    sign_of,
    spots_of,
    worst_in,
)
from tui.partitions import RANK_UNKNOWN, UNAVAILABLE, class_of

AXIS = 6
"""Columns for the number of the first partition of a row."""
AXIS_FROM = 36
NOTHING = -1


@dataclass(frozen=True, slots=True)
class Marks:
    """What is picked out on the map: a peer's partitions, or those of a key and its chunks."""

    held: Collection[int] | None = None
    spots: Mapping[int, str] | None = None

    def __bool__(self) -> bool:
        return self.held is not None or self.spots is not None


@lru_cache(maxsize=512)
def _style(colour: str, behind: str, dim: bool, reverse: bool) -> Style:
    return Style(color=colour or None, bgcolor=behind or None, dim=dim or None, reverse=reverse or None)


class MapView(Widget, can_focus=True):
    """`unicode` and `colour` say what the terminal can; `digits` asks for numbers all the same."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1, 0)", show=False),
        Binding("right,l", "move(1, 0)", show=False),
        Binding("up,k", "move(0, -1)", show=False),
        Binding("down,j", "move(0, 1)", show=False),
        Binding("pageup", "move(0, -8)", show=False),
        Binding("pagedown", "move(0, 8)", show=False),
        Binding("home,g", "end(-1)", show=False),
        Binding("end,G", "end(1)", show=False),
        Binding("comma", "step(-1)", show=False),
        Binding("full_stop", "step(1)", show=False),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another partition."""

        map: MapView

        @property
        def control(self) -> MapView:
            return self.map

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.unicode = self.colour = True
        self.digits = False
        self.fit = Fit()
        self._ranks = b""
        self._cells = b""
        self._marks = Marks()
        self._shares: list[int] = []
        self._spots: dict[int, str] = {}
        self._dim = False
        self._cursor, self.exact = 0, False

    # --- what is shown

    def show(self, ranks: bytes, marks: Marks, *, dim: bool) -> None:
        """Draw these, if they are others than before."""
        if ranks == self._ranks and marks == self._marks and dim == self._dim:
            return
        self._ranks, self._marks, self._dim = ranks, marks, dim
        self._cursor = max(0, min(self._cursor, len(ranks) - 1))
        self.relay()

    def relay(self) -> None:
        """Fit everything into the room there is now."""
        across = self.size.width - self._axis
        self.fit = fit(len(self._ranks), across, self.size.height * (2 if self.blocks else 1))
        self._cells = cells_of(self._ranks, self.fit)
        held, spots = self._marks.held, self._marks.spots
        self._shares = shares_of(held, self.fit) if held is not None else []
        self._spots = spots_of(spots, self.fit) if spots is not None else {}
        self.refresh()

    @property
    def blocks(self) -> bool:
        """Whether two rows of cells share a line."""
        return self.unicode and self.colour and not self.digits and not self._marks

    @property
    def _axis(self) -> int:
        return AXIS if self.size.width >= AXIS_FROM else 0

    @property
    def cursor(self) -> int | None:
        """The partition that is told of: the worst of the cell, or the very one that was asked for."""
        if not self._ranks:
            return None
        return self._cursor if self.exact else worst_in(self._ranks, self.under)

    @property
    def under(self) -> range:
        """All partitions of the cell under the cursor."""
        return self.fit.within(self.fit.cell_of(self._cursor)) or range(self._cursor, self._cursor + 1)

    def go(self, partition: int, *, exact: bool) -> None:
        """Put the cursor on a partition, or on the worst of its cell."""
        if not self._ranks:
            return
        self._cursor, self.exact = max(0, min(partition, len(self._ranks) - 1)), exact
        self.refresh()
        self.post_message(self.Moved(self))

    def go_to_trouble(self) -> bool:
        """Put the cursor on the next partition that is not full; whether there is one."""
        found = next_trouble(self._ranks, self.cursor or 0)
        if found is not None:
            self.go(found, exact=True)
        return found is not None

    # --- drawing

    def on_resize(self) -> None:
        self.relay()
        self.post_message(self.Moved(self))

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def render_line(self, y: int) -> Strip:
        columns = self._blocks(y) if self.blocks else self._glyphs(y)
        surface = self.rich_style
        segments = [Segment(self._label(y), surface + Style(dim=True))] if self._axis else []
        for first, behind in runs([style for _, style in columns]):
            words = "".join(words for words, _ in columns[first:behind])
            segments.append(Segment(words, surface + columns[first][1]))
        return Strip(segments).adjust_cell_length(self.size.width, surface)

    def _label(self, y: int) -> str:
        """The first partition of the row that begins in this line."""
        lines = 2 if self.blocks else 1
        row = y * lines // self.fit.zoom_y
        began = y > 0 and (y - 1) * lines // self.fit.zoom_y == row
        first = row * self.fit.columns * self.fit.per_cell
        if began or row >= self.fit.rows:
            return " " * AXIS
        return f"{first:>{AXIS - 1}} "

    def _row(self, row: int) -> range:
        """The cells of a row of the map."""
        first = row * self.fit.columns
        return (
            range(first, min(first + self.fit.columns, self.fit.cells)) if row < self.fit.rows else range(0)
        )

    def _blocks(self, y: int) -> list[tuple[str, Style]]:
        upper, lower = self._row(2 * y // self.fit.zoom_y), self._row((2 * y + 1) // self.fit.zoom_y)
        at = self.fit.cell_of(self._cursor) if self.has_focus else NOTHING
        drawn = []
        for column in range(max(len(upper), len(lower))):
            top = upper[column] if column < len(upper) else NOTHING
            bottom = lower[column] if column < len(lower) else NOTHING
            if at in (top, bottom):
                glyph = "◆" if top == bottom else "▲" if at == top else "▼"
                drawn.append((glyph * self.fit.zoom_x, _style("", "", False, True)))
                continue
            behind = colour_of(self._cells[bottom]) if bottom != NOTHING else ""
            drawn.append(
                ("▀" * self.fit.zoom_x, _style(colour_of(self._cells[top]), behind, self._dim, False))
            )
        return drawn

    def _glyphs(self, y: int) -> list[tuple[str, Style]]:
        at = self.fit.cell_of(self._cursor) if self.has_focus else NOTHING
        first_line = y % self.fit.zoom_y == 0
        drawn = []
        for cell in self._row(y // self.fit.zoom_y):
            glyph, bright = self._glyph(cell)
            colour = colour_of(self._cells[cell])
            words = (glyph if first_line else " ").ljust(self.fit.zoom_x)
            drawn.append((words, _style(colour, "", self._dim or not bright, cell == at)))
        return drawn

    def _glyph(self, cell: int) -> tuple[str, bool]:
        """What stands in a cell, and whether it stands out. Trouble is never hidden behind a mark of ownership."""
        rank = self._cells[cell]
        if cell in self._spots:
            fancy, plain = SPOTS[self._spots[cell]]
            return fancy if self.unicode else plain, True
        if self._marks.held is not None and class_of(rank) < UNAVAILABLE:
            share = self._shares[cell] if cell < len(self._shares) else 0
            return shade(share, len(self.fit.within(cell)), unicode=self.unicode), share > 0
        return sign_of(rank), not self._marks

    # --- keys and mouse

    def action_move(self, across: int, down: int) -> None:
        cell = self.fit.cell_of(self._cursor) + across + down * self.fit.columns
        if 0 <= cell < self.fit.cells:
            self.go(self.fit.within(cell).start, exact=False)

    def action_end(self, which: int) -> None:
        self.go(0 if which < 0 else len(self._ranks) - 1, exact=False)

    def action_step(self, by: int) -> None:
        self.go((self.cursor or 0) + by, exact=True)

    def on_click(self, event: events.Click) -> None:
        cell = self.fit.cell_at(event.x - self._axis, event.y * (2 if self.blocks else 1))
        if event.x >= self._axis and cell is not None:
            self.go(self.fit.within(cell).start, exact=False)


def rank_at(ranks: bytes, partition: int) -> int:
    """UNKNOWN for what is not there."""
    return ranks[partition] if 0 <= partition < len(ranks) else RANK_UNKNOWN
