"""A table of any length: only the lines that are seen are drawn, so 300 peers cost no more than 20.

Columns give way in a narrow terminal, the least needed first. The cursor stays on its row when the rows change, and is told
by `Rows.Moved` and `Rows.Chosen` (Enter, or a click on it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.clean import clean

T = TypeVar("T")
Cell = tuple[str, str]
"""Words and their style ("" is the terminal's own)."""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """`width` in cells; `keep` orders who stays when there is no room: 0 always stays. `grows`: takes room that is left."""

    title: str
    width: int
    keep: int
    cell: Callable[[T], Cell]
    right: bool = False
    grows: bool = False


def fitting(columns: Sequence[Column[T]], width: int) -> list[tuple[Column[T], int]]:
    """The columns that fit `width` cells, one blank between them, and how wide each is."""
    chosen = list(columns)
    while sum(column.width + 1 for column in chosen) - 1 > width:
        worst = max(chosen, key=lambda column: column.keep)
        if worst.keep == 0:
            break
        chosen.remove(worst)
    spare = max(0, width - sum(column.width + 1 for column in chosen) + 1)
    growing = [column for column in chosen if column.grows]
    extra = {id(column): spare // len(growing) for column in growing}
    if growing:
        extra[id(growing[-1])] += spare % len(growing)
    return [(column, column.width + extra.get(id(column), 0)) for column in chosen]


class Rows(ScrollView, Generic[T], can_focus=True):
    """Rows of any type; `columns` say how they look, `key` which is which."""

    DEFAULT_CSS = "Rows { height: 1fr; scrollbar-size: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "end(-1)", show=False),
        Binding("end,G", "end(1)", show=False),
        Binding("enter", "choose", show=False),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another row."""

        rows: Rows  # type: ignore[type-arg]

        @property
        def control(self) -> Rows:  # type: ignore[type-arg]
            return self.rows

    @dataclass
    class Chosen(Message):
        """Enter, or a click on the row under the cursor."""

        rows: Rows  # type: ignore[type-arg]

        @property
        def control(self) -> Rows:  # type: ignore[type-arg]
            return self.rows

    def __init__(
        self,
        columns: Sequence[Column[T]],
        key: Callable[[T], str],
        *,
        empty: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._key = key
        self._empty = empty
        self._rows: Sequence[T] = ()
        self._cursor = 0
        self._dim = False
        self._header = True

    # --- what is in it

    def show(self, rows: Sequence[T], *, dim: bool = False) -> None:
        """Replace the rows; the cursor stays on the row with the same key, else where it was."""
        before = self.current
        self._rows, self._dim = rows, dim
        if before is not None:
            wanted = self._key(before)
            self._cursor = next(
                (number for number, row in enumerate(rows) if self._key(row) == wanted), self._cursor
            )
        self._cursor = max(0, min(self._cursor, len(rows) - 1))
        self._resize()
        self.refresh()

    def replace_columns(self, columns: Sequence[Column[T]]) -> None:
        """Other columns from now on."""
        self._columns = tuple(columns)
        self.refresh()

    @property
    def current(self) -> T | None:
        """The row under the cursor."""
        return self._rows[self._cursor] if 0 <= self._cursor < len(self._rows) else None

    @property
    def rows(self) -> Sequence[T]:
        return self._rows

    def choose(self, key: str) -> bool:
        """Move the cursor to this row; whether it is there."""
        for number, row in enumerate(self._rows):
            if self._key(row) == key:
                self._go(number)
                return True
        return False

    def plain(self) -> str:
        """All rows as text, tabs between the columns, all columns; what `c` copies."""
        lines = ["\t".join(column.title for column in self._columns)]
        lines += ["\t".join(column.cell(row)[0] for column in self._columns) for row in self._rows]
        return "\n".join(lines)

    # --- drawing

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            return self._line([(column.title, "bold") for column, _ in self._fit()], Style(), width)
        number = y - 1 + self.scroll_offset.y
        if not self._rows and y == 1 and self._empty:
            return Strip([Segment(set_cell_size(self._empty, width), Style(dim=True))])
        if not 0 <= number < len(self._rows):
            return Strip.blank(width, self.rich_style)
        row = self._rows[number]
        base = Style(dim=self._dim, reverse=number == self._cursor and self.has_focus)
        return self._line([column.cell(row) for column, _ in self._fit()], base, width)

    def _fit(self) -> list[tuple[Column[T], int]]:
        return fitting(self._columns, self.scrollable_content_region.width)

    def _line(self, cells: Sequence[Cell], base: Style, width: int) -> Strip:
        segments: list[Segment] = []
        surface = self.rich_style + base
        for (column, room), (words, style) in zip(self._fit(), cells, strict=True):
            if segments:
                segments.append(Segment(" ", surface))
            words = clean(words, unicode=self._unicode)
            text = words.rjust(room) if column.right and len(words) <= room else self._cut(words, room)
            segments.append(Segment(text, surface + Style.parse(style) if style else surface))
        return Strip(segments).adjust_cell_length(width, surface)

    @property
    def _unicode(self) -> bool:
        return bool(getattr(self.app, "unicode", True))

    def _cut(self, words: str, room: int) -> str:
        """Filled up to so many cells; what is too long says that it was cut."""
        if cell_len(words) <= room:
            return set_cell_size(words, room)
        return set_cell_size(words, room - 1) + ("…" if self._unicode else "~")

    def on_resize(self) -> None:
        self._resize()

    def _resize(self) -> None:
        size = Size(self.scrollable_content_region.width, len(self._rows) + 1)
        if size != self.virtual_size:
            self.virtual_size = size

    # --- keys and mouse

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self._cursor + by * max(1, self.size.height - 2))

    def action_end(self, which: int) -> None:
        self._go(0 if which < 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        number = event.y - 1 + self.scroll_offset.y
        if event.y >= 1 and number < len(self._rows):
            chosen = number == self._cursor
            self._go(number)
            if chosen:
                self.action_choose()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def _go(self, number: int) -> None:
        number = max(0, min(number, len(self._rows) - 1))
        moved, self._cursor = number != self._cursor, number
        top, seen = self.scroll_offset.y, max(1, self.size.height - 1)
        if number < top:
            self.scroll_to(y=number, animate=False, immediate=True)
        elif number >= top + seen:
            self.scroll_to(y=number - seen + 1, animate=False, immediate=True)
        self.refresh()
        if moved:
            self.post_message(self.Moved(self))
