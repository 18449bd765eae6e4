"""The ring as dots: a band of arcs, one a peer, around a thin circle of partitions. Pure.

A braille cell is 2 dots wide and 4 high and a terminal's cell about twice as high as wide, so dots are
square. The band shows who owns how much: solid for a peer that answers, chequered for a suspect, hollow for
a dead one. The thin circle inside shows the partitions by position: solid where all owners are there, dotted
where some are missing or on their way, open where a majority is. So nothing depends on colour. Where braille cannot be
written the band is made of the peers' labels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin
from operator import itemgetter

BRAILLE = 0x2800
# Bit of the dot at (column, row) of a cell, by Unicode's numbering of braille dots.
DOT_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BAND_INNER = 0.76  # of the radius
CIRCLE_AT = 0.62  # of the radius
HEALTH_COLOURS = {
    "full": "green",
    "moving": "cyan",
    "degraded": "yellow",
    "unavailable": "red",
    "unknown": "bright_black",
}
TURN = 2 * pi
BROAD = 5.0
"""Dots along the band that an arc needs for a gap beside it and a label on it: with hundreds of peers it has neither."""


@dataclass(frozen=True, slots=True)
class Arc:
    """One peer's part of the band. `share`s sum to 1; `texture` is solid, chequered or hollow."""

    label: str
    colour: str
    share: float
    texture: str = "solid"


@dataclass(frozen=True, slots=True)
class Cell:
    """One character of the drawing and its colour ("" is the terminal's own)."""

    char: str = " "
    colour: str = ""


Drawing = list[list[Cell]]


def texture_of(state: str) -> str:
    """How an arc of a peer in this state is filled."""
    if state in ("alive", "draining", "drained", "leaving"):
        return "solid"
    return "hollow" if state in ("dead", "left") else "chequered"


def draw(
    width: int,
    height: int,
    arcs: Sequence[Arc],
    health: Sequence[str],
    middle: Sequence[str],
    *,
    braille: bool,
) -> Drawing:
    """The ring in `width` × `height` cells; `middle` are short lines written in its centre."""
    cells = [[Cell() for _ in range(width)] for _ in range(height)]
    if width < 3 or height < 3:
        return cells
    if braille:
        _draw_dots(cells, arcs, health)
    else:
        _draw_labels(cells, arcs)
    _write_middle(cells, middle)
    return cells


def _draw_dots(cells: Drawing, arcs: Sequence[Arc], health: Sequence[str]) -> None:
    height, width = len(cells), len(cells[0])
    radius, middle_x, middle_y = _geometry(width * 2, height * 4)
    bounds = _bounds(arcs)
    for row in range(height):
        for column in range(width):
            bits, colour = 0, ""
            for dx in range(2):
                for dy in range(4):
                    x, y = column * 2 + dx, row * 4 + dy
                    found = _dot(x, y, x - middle_x, y - middle_y, radius, arcs, bounds, health)
                    if found is not None:
                        bits |= DOT_BITS[dx][dy]
                        colour = found
            if bits:
                cells[row][column] = Cell(chr(BRAILLE + bits), colour)
    at = (1 + BAND_INNER) / 2 * radius
    for arc, (start, end) in zip(arcs, bounds, strict=True):
        if (end - start) * TURN * at < BROAD:
            continue
        angle = (start + end) / 2 * TURN
        column, row = int((middle_x + at * sin(angle)) / 2), int((middle_y - at * cos(angle)) / 4)
        if 0 <= row < height and 0 <= column < width:
            cells[row][column] = Cell(arc.label, arc.colour)


def _dot(
    x: int,
    y: int,
    dx: float,
    dy: float,
    radius: float,
    arcs: Sequence[Arc],
    bounds: Sequence[tuple[float, float]],
    health: Sequence[str],
) -> str | None:
    """The colour of a dot, None where nothing is drawn."""
    distance = hypot(dx, dy)
    turn = (atan2(dx, -dy) % TURN) / TURN
    if BAND_INNER * radius <= distance <= radius and arcs:
        index = _arc_at(turn, bounds)
        start, end = bounds[index]
        broad = (end - start) * TURN * distance >= BROAD
        if len(arcs) > 1 and broad and min(turn - start, end - turn) * TURN * distance < 0.9:
            return None  # the gap between two arcs
        arc = arcs[index]
        edge = distance > radius - 1 or distance < BAND_INNER * radius + 1
        if arc.texture == "hollow" and not edge:
            return None
        if arc.texture == "chequered" and (x + y) % 2:
            return None
        return arc.colour
    if abs(distance - CIRCLE_AT * radius) <= 0.55 and health:
        mark = health[min(int(turn * len(health)), len(health) - 1)]
        if mark == "unavailable" or (mark != "full" and (x + y) % 2):
            return None
        return HEALTH_COLOURS.get(mark, "")
    return None


def _draw_labels(cells: Drawing, arcs: Sequence[Arc]) -> None:
    """Without braille: the band in the peers' labels, '?' for suspects' and 'x' for dead ones' arcs."""
    height, width = len(cells), len(cells[0])
    radius, middle_x, middle_y = _geometry(width, height * 2)
    bounds = _bounds(arcs)
    for row in range(height):
        for column in range(width):
            dx, dy = column - middle_x, row * 2 + 0.5 - middle_y
            if not arcs or not 0.7 * radius <= hypot(dx, dy) <= radius + 0.25:
                continue
            turn = (atan2(dx, -dy) % TURN) / TURN
            arc = arcs[_arc_at(turn, bounds)]
            plain = {"solid": arc.label, "chequered": "?", "hollow": "x"}[arc.texture]
            cells[row][column] = Cell(plain, arc.colour)


def _write_middle(cells: Drawing, lines: Sequence[str]) -> None:
    height, width = len(cells), len(cells[0])
    room = int(min(width, height * 2) * (CIRCLE_AT - 0.12))
    first = (height - len(lines)) // 2
    for offset, line in enumerate(lines):
        text = line[:room]
        start = (width - len(text)) // 2
        for index, char in enumerate(text):
            if 0 <= first + offset < height and 0 <= start + index < width:
                cells[first + offset][start + index] = Cell(char)


def _geometry(width: int, height: int) -> tuple[float, float, float]:
    """Radius and middle, in dots."""
    return min(width, height) / 2 - 0.5, (width - 1) / 2, (height - 1) / 2


def _arc_at(turn: float, bounds: Sequence[tuple[float, float]]) -> int:
    """The number of the arc at this part of a turn; the last one where rounding leaves a gap."""
    return min(bisect_right(bounds, turn, key=itemgetter(1)), len(bounds) - 1)


def _bounds(arcs: Sequence[Arc]) -> list[tuple[float, float]]:
    bounds, start = [], 0.0
    for arc in arcs:
        bounds.append((start, start + arc.share))
        start += arc.share
    return bounds
