"""The map of all partitions: how many fit a cell, and how a cell looks. Pure.

Rows hold a power of two of cells where that costs no room, else a multiple of eight, so that they begin at round numbers.
A cell that stands for several partitions is as bad as the worst of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tui.partitions import DEGRADED, FULL, MOVED, MOVING, UNAVAILABLE, UNKNOWN, class_of, live_of


@dataclass(frozen=True, slots=True)
class Fit:
    """`partitions` in `columns` × `rows` cells of `per_cell`; each drawn `zoom_x` wide and `zoom_y` high."""

    partitions: int = 0
    per_cell: int = 1
    columns: int = 1
    rows: int = 0
    zoom_x: int = 1
    zoom_y: int = 1

    @property
    def cells(self) -> int:
        return -(-self.partitions // self.per_cell)

    def cell_of(self, partition: int) -> int:
        return partition // self.per_cell

    def within(self, cell: int) -> range:
        """The partitions of a cell."""
        return range(cell * self.per_cell, min((cell + 1) * self.per_cell, self.partitions))

    def cell_at(self, x: int, y: int) -> int | None:
        """The cell drawn at this place, None beside the map."""
        column, row = x // self.zoom_x, y // self.zoom_y
        cell = row * self.columns + column
        return cell if 0 <= column < self.columns and row >= 0 and cell < self.cells else None


def fit(partitions: int, width: int, height: int) -> Fit:
    """Every partition somewhere in `width` × `height` places: as few in a cell as can be, then the cells as large."""
    if partitions <= 0 or width <= 0 or height <= 0:
        return Fit()
    step = 8 if width >= 8 else 1
    widest = width - width % step
    per_cell = -(-partitions // (widest * height))
    cells = -(-partitions // per_cell)
    best, best_score = Fit(), (-1, False, -1)
    for columns in range(widest, 0, -step):
        rows = -(-cells // columns)
        if rows > height:
            break
        zoom_x, zoom_y = width // columns, height // rows
        zoom_x, zoom_y = min(zoom_x, 4 * zoom_y), min(zoom_y, 2 * zoom_x)  # a cell, no stripe
        even = columns & (columns - 1) == 0
        score = min(zoom_x, zoom_y), even, columns * zoom_x * rows * zoom_y
        if score > best_score:
            best, best_score = Fit(partitions, per_cell, columns, rows, zoom_x, zoom_y), score
    return best


def cells_of(ranks: bytes, fitted: Fit) -> bytes:
    """The rank of each cell: that of its worst partition."""
    if fitted.per_cell == 1:
        return ranks
    return bytes(
        max(ranks[first : first + fitted.per_cell]) for first in range(0, len(ranks), fitted.per_cell)
    )


def worst_in(ranks: bytes, within: range) -> int:
    """The partition for which a cell looks as it does: the first of its worst."""
    return max(within, key=lambda partition: (ranks[partition], -partition))


def next_trouble(ranks: bytes, after: int) -> int | None:
    """The next partition that is not full, around the ring; None if all are."""
    order = (*range(after + 1, len(ranks)), *range(min(after + 1, len(ranks))))
    return next((partition for partition in order if class_of(ranks[partition]) != FULL), None)


# --- how a cell looks

COLOURS: Mapping[int, str] = {
    FULL: "#2e9e4f",
    MOVED: "#5fc9c9",
    MOVING: "#3f7fe0",
    DEGRADED: "#d9a400",
    UNAVAILABLE: "#d03030",
    UNKNOWN: "#808080",
}
LAST_COPY = "#e0701a"
"""Degraded, and but one replica lives."""
SIGNS: Mapping[int, str] = {MOVED: "+", MOVING: "~", UNAVAILABLE: "!", UNKNOWN: "?"}
"""What stands in the place of the digit."""
SHADES, PLAIN_SHADES = "·░▒▓█", ".-=+#"
"""Nothing of a cell, up to all of it."""
KEY, CHUNK = "key", "chunk"
SPOTS: Mapping[str, tuple[str, str]] = {KEY: ("◉", "K"), CHUNK: ("◆", "C")}


def colour_of(rank: int) -> str:
    found = class_of(rank)
    return LAST_COPY if found == DEGRADED and live_of(rank) <= 1 else COLOURS.get(found, COLOURS[UNKNOWN])


def sign_of(rank: int) -> str:
    """The number of live replicas, or the sign of a class that it does not tell."""
    return SIGNS.get(class_of(rank)) or str(min(live_of(rank), 9))


def shares_of(held: Iterable[int], fitted: Fit) -> list[int]:
    """How many partitions of each cell are among `held`."""
    found = [0] * fitted.cells
    for partition in held:
        if 0 <= partition < fitted.partitions:
            found[partition // fitted.per_cell] += 1
    return found


def shade(share: int, of: int, *, unicode: bool) -> str:
    """A glyph for `share` of `of`; the first one for none alone, the last one for all alone."""
    glyphs = SHADES if unicode else PLAIN_SHADES
    if share <= 0 or of <= 0:
        return glyphs[0]
    return glyphs[-1] if share >= of else glyphs[1 + min(2, 3 * share // of)]


def spots_of(partitions: Mapping[int, str], fitted: Fit) -> dict[int, str]:
    """What is to be marked, by cell; the key goes before its chunks."""
    found: dict[int, str] = {}
    for partition, kind in partitions.items():
        if 0 <= partition < fitted.partitions and found.get(fitted.cell_of(partition)) != KEY:
            found[fitted.cell_of(partition)] = kind
    return found


def runs(items: Sequence[object]) -> list[tuple[int, int]]:
    """(first, behind the last) of each run of equal items."""
    bounds = [number for number in range(1, len(items)) if items[number] != items[number - 1]]
    return list(zip([0, *bounds], [*bounds, len(items)], strict=True)) if items else []
