"""Numbers over time, and parts of a whole, as one row of characters. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

BLOCKS = "▁▂▃▄▅▆▇"
PLAIN = "_.:|#"
"""Zero comes first in both: what is more than nothing never looks like it. No full block: lines stand above each other."""


def sparkline(values: Sequence[float | None], width: int, *, unicode: bool) -> str:
    """The last `width` values, the newest at the right, the largest of them at full height; unknown ones are gaps."""
    steps = BLOCKS if unicode else PLAIN
    shown = values[-width:] if width > 0 else ()
    top = peak(shown)
    line = "".join(_step(value, top, steps) for value in shown)
    return line.rjust(max(width, 0))


def peak(values: Sequence[float | None]) -> float:
    """The largest known value; 0 if none is."""
    return max((value for value in values if value is not None), default=0.0)


def _step(value: float | None, top: float, steps: str) -> str:
    if value is None:
        return " "
    if value <= 0 or top <= 0:
        return steps[0]
    return steps[max(1, min(ceil(value / top * (len(steps) - 1)), len(steps) - 1))]


def bar(part: float, width: int, *, unicode: bool) -> str:
    """A part of a whole (0 to 1) as a bar; something is never shown as nothing."""
    full, empty = ("█", "░") if unicode else ("#", ".")
    cells = round(max(0.0, min(part, 1.0)) * width)
    if part > 0:
        cells = max(1, cells)
    return full * cells + empty * (width - cells)
