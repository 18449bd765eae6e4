"""The matrix of views: observers down, observed across. Only what is seen is drawn; it scrolls both ways.

A cell is the glyph of a state, reversed where it differs from what most believe; "!" above a column and beside a row
says that something in it differs, so that nothing depends on colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.beliefs import Beliefs, Differing, Observer
from tui.clean import clean
from tui.model import LABELS, LOOKS

NAME_MOST = 16
ITSELF = "\\"
NO_VIEW = {False: "does not answer", True: "does not tell (an older version?)"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What is in the matrix: rows and columns as numbers of members, in the order of the table."""

    beliefs: Beliefs
    found: Differing
    rows: Sequence[int]
    columns: Sequence[int]


def labels_of(count: int) -> list[str]:
    """One character a member, as in the other tables, while there are enough of them; else numbers of equal width."""
    if count <= len(LABELS):
        return list(LABELS[:count])
    return [str(number).rjust(len(str(count))) for number in range(1, count + 1)]


def only_differences(beliefs: Beliefs, found: Differing) -> tuple[list[int], list[int]]:
    """Rows of observers that differ or are not known, columns of those of whom opinions differ."""
    odd = {observer for observer, _ in found.odd}
    rows = [n for n, one in enumerate(beliefs.observers) if one.id in odd or one.believes is None]
    return rows, [n for n, (member, _) in enumerate(beliefs.members) if member in found.disputed]


class Matrix(ScrollView, can_focus=True):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1, 0)", show=False),
        Binding("right,l", "move(1, 0)", show=False),
        Binding("up,k", "move(0, -1)", show=False),
        Binding("down,j", "move(0, 1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("ctrl+left", "sideways(-1)", show=False),
        Binding("ctrl+right", "sideways(1)", show=False),
        Binding("home,g", "end(-1)", show=False),
        Binding("end,G", "end(1)", show=False),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another cell."""

        matrix: Matrix

        @property
        def control(self) -> Matrix:
            return self.matrix

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.unicode = True
        self._shown: Shown | None = None
        self._labels: list[str] = []
        self._at = (0, 0)  # row and column of what is shown
        self._dim = False

    # --- what is in it

    def show(self, shown: Shown, *, dim: bool) -> None:
        """Replace everything; the cursor stays on its pair of peers, if both are still shown."""
        pair = self.pair
        self._shown, self._dim = shown, dim
        self._labels = labels_of(len(shown.beliefs.members))
        row, column = self._at
        if pair is not None:
            ids = [member for member, _ in shown.beliefs.members]
            row = next((n for n, one in enumerate(shown.rows) if ids[one] == pair[0].id), row)
            column = next((n for n, one in enumerate(shown.columns) if ids[one] == pair[1]), column)
        self._at = max(0, min(row, len(shown.rows) - 1)), max(0, min(column, len(shown.columns) - 1))
        self._resize()
        self.refresh()

    @property
    def pair(self) -> tuple[Observer, str] | None:
        """The observer and the id of the observed under the cursor."""
        shown, (row, column) = self._shown, self._at
        if shown is None or row >= len(shown.rows) or column >= len(shown.columns):
            return None
        return shown.beliefs.observers[shown.rows[row]], shown.beliefs.members[shown.columns[column]][0]

    # --- geometry

    @property
    def _room(self) -> Size:
        """Without the scrollbars."""
        return self.scrollable_content_region.size

    @property
    def _head(self) -> int:
        """Lines above the first row: the labels downwards, and the marks."""
        return (len(self._labels[0]) if self._labels else 1) + 1

    @property
    def _side(self) -> int:
        """Columns left of the first cell: mark, label, name."""
        longest = max((len(name) for _, name in self._shown.beliefs.members), default=0) if self._shown else 0
        return 2 + (len(self._labels[0]) if self._labels else 1) + 1 + min(longest, NAME_MOST) + 1

    @property
    def _step(self) -> int:
        """A blank between the columns, where all of them have room."""
        columns = len(self._shown.columns) if self._shown else 0
        return 2 if self._side + 2 * columns <= self._room.width else 1

    def _resize(self) -> None:
        if self._shown is not None:
            width = self._side + self._step * len(self._shown.columns)
            size = Size(width, self._head + len(self._shown.rows))
            if size != self.virtual_size:
                self.virtual_size = size

    def on_resize(self) -> None:
        self._resize()

    # --- drawing

    def render_line(self, y: int) -> Strip:
        width, shown = self.size.width, self._shown
        if shown is None:
            return Strip.blank(width, self.rich_style)
        number = y - self._head + self.scroll_offset.y
        if y < self._head:
            cells = self._heading(shown, y)
        elif 0 <= number < len(shown.rows):
            cells = self._row(shown, number)
        else:
            return Strip.blank(width, self.rich_style)
        surface = self.rich_style + Style(dim=self._dim or None)
        segments = [Segment(words, surface + Style.parse(style)) for words, style in cells]
        return Strip(segments).adjust_cell_length(width, surface)

    def _seen(self, shown: Shown) -> range:
        """The columns in view."""
        first = max(0, self.scroll_offset.x // self._step)
        most = max(0, (self._room.width - self._side) // self._step)
        return range(first, min(first + most, len(shown.columns)))

    def _heading(self, shown: Shown, y: int) -> list[tuple[str, str]]:
        marks, step = y == self._head - 1, self._step
        cells = [("seen by".ljust(self._side) if marks else " " * self._side, "bright_black")]
        for column in self._seen(shown):
            member = shown.columns[column]
            disputed = shown.beliefs.members[member][0] in shown.found.disputed
            words = ("!" if disputed else " ") if marks else self._labels[member][y]
            here = column == self._at[1] and self.has_focus
            style = " ".join(
                filter(None, ("bold", "yellow" if disputed else "", "underline" if here else ""))
            )
            cells.append((words.ljust(step), style))
        return cells

    def _row(self, shown: Shown, number: int) -> list[tuple[str, str]]:
        member = shown.rows[number]
        one = shown.beliefs.observers[member]
        odd = any((one.id, other) in shown.found.odd for other in shown.found.disputed)
        name = set_cell_size(
            clean(one.name, unicode=self.unicode), self._side - 4 - len(self._labels[member])
        )
        here = number == self._at[0] and self.has_focus
        style = " ".join(
            filter(None, ("bold" if here else "", "yellow" if odd or one.believes is None else ""))
        )
        cells = [(f"{'!' if odd else ' '} {self._labels[member]} {name} ", style)]
        if one.believes is None:
            at = " " if not here else "_"
            return [*cells, (f"{NO_VIEW[one.answers]}{at}", "yellow reverse" if here else "yellow")]
        step = self._step
        for column in self._seen(shown):
            glyph, colour = self._cell(one, shown.beliefs.members[shown.columns[column]][0])
            under = here and column == self._at[1]
            differs = (one.id, shown.beliefs.members[shown.columns[column]][0]) in shown.found.odd
            cells.append(
                (glyph, f"{colour} {'bold ' if differs else ''}{'reverse' if under or differs else ''}")
            )
            if step > 1:
                cells.append((" ", ""))
        return cells

    def _cell(self, one: Observer, member: str) -> tuple[str, str]:
        if one.id == member:
            return ITSELF, "bright_black"
        look = LOOKS[one.holds(member) or "unknown"]
        return look.glyph if self.unicode else look.plain, look.colour

    # --- keys and mouse

    def action_move(self, across: int, down: int) -> None:
        self._go(self._at[0] + down, self._at[1] + across)

    def action_page(self, by: int) -> None:
        self._go(self._at[0] + by * max(1, self._room.height - self._head - 1), self._at[1])

    def action_sideways(self, by: int) -> None:
        self._go(self._at[0], self._at[1] + by * max(1, (self._room.width - self._side) // self._step - 1))

    def action_end(self, which: int) -> None:
        far = 1 << 30
        self._go(0 if which < 0 else far, 0 if which < 0 else far)

    def on_click(self, event: events.Click) -> None:
        row = event.y - self._head + self.scroll_offset.y
        if event.y >= self._head and self._shown is not None and row < len(self._shown.rows):
            across = (event.x - self._side) // self._step + self.scroll_offset.x // self._step
            self._go(row, across if event.x >= self._side else self._at[1])

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def _go(self, row: int, column: int) -> None:
        if self._shown is None or not self._shown.rows or not self._shown.columns:
            return
        row = max(0, min(row, len(self._shown.rows) - 1))
        column = max(0, min(column, len(self._shown.columns) - 1))
        moved, self._at = (row, column) != self._at, (row, column)
        self._into_view(row, column)
        self.refresh()
        if moved:
            self.post_message(self.Moved(self))

    def _into_view(self, row: int, column: int) -> None:
        top, left, step = self.scroll_offset.y, self.scroll_offset.x // self._step, self._step
        high, wide = max(1, self._room.height - self._head), max(1, (self._room.width - self._side) // step)
        y = row if row < top else row - high + 1 if row >= top + high else top
        x = column if column < left else column - wide + 1 if column >= left + wide else left
        if (x * step, y) != tuple(self.scroll_offset):
            self.scroll_to(x=x * step, y=y, animate=False, immediate=True)
