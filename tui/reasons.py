"""What is broken, whether copies are missing, and what to do about it: the API's own sentences with their codes."""

from __future__ import annotations

from textwrap import wrap

from rich.text import Text
from textual.widgets import Static

from tui.model import Cluster
from tui.remedies import remedies
from tui.repairing import paused
from tui.state import State

SHOWN = 4
ROWS_EACH = 2
HINTS = 2
INDENT = 2
Line = tuple[str, str]
"""Words that fit one row, and their style."""


class Reasons(Static):
    """Takes as many rows as it needs, within `reason_lines`' bounds."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Line] = []

    def show(self, state: State, *, unicode: bool, low: bool) -> None:
        lines = reason_lines(state, max(20, self.app.size.width - 2), unicode=unicode, low=low)
        if lines != self._lines:
            as_many = len(lines) == len(self._lines)
            self._lines = lines
            self.display = bool(lines)
            self.update(
                Text("\n").join(Text(words, style=style) for words, style in lines), layout=not as_many
            )


def reason_lines(state: State, width: int, *, unicode: bool, low: bool = False) -> list[Line]:
    """Redundancy, reasons, warnings, remedies; who was asked and why it failed when nobody answers. `low`: few rows."""
    if state.refused:
        return _bounded([(state.refused, "red")], width, rows=ROWS_EACH)
    if state.outage is not None:
        return _bounded([(f"{url}: {why}", "red") for url, why in state.outage.failures], width, rows=1)
    cluster = state.cluster
    if cluster is None:
        return []
    wrong = [(reason.words, cluster.look.colour) for reason in cluster.reasons]
    wrong += [(warning.words, "yellow") for warning in cluster.warnings]
    lines = _redundancy(cluster, width)
    lines += _bounded(wrong, width, rows=1 if low else ROWS_EACH)
    arrow = "\N{RIGHTWARDS ARROW}" if unicode else "->"
    for hint in remedies(cluster, paused=paused(state.repair))[: 1 if low else HINTS]:
        lines.append((_cut(f"{arrow} {hint}", width), "bold"))
    return lines


def _redundancy(cluster: Cluster, width: int) -> list[Line]:
    told = cluster.redundancy
    if not told.message:
        return []
    return [(_cut(told.message, width), "green" if told.whole else "yellow")]


def _bounded(wrong: list[Line], width: int, *, rows: int) -> list[Line]:
    """The first `SHOWN`, each on at most so many rows, and how many more there are."""
    lines = []
    for words, style in wrong[:SHOWN]:
        pieces = wrap(words, max(10, width - INDENT)) or [""]
        if len(pieces) > rows:
            pieces = [*pieces[: rows - 1], _cut(" ".join(pieces[rows - 1 :]), width - INDENT)]
        lines += [(" " * INDENT + piece, style) for piece in pieces]
    if len(wrong) > SHOWN:
        lines.append((f"  and {len(wrong) - SHOWN} more: atoll status", "bright_black"))
    return lines


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 3].rstrip() + "..."
