"""What is broken, whether copies are missing, and what to do about it: the API's own sentences with their codes."""

from __future__ import annotations

from textwrap import wrap

from rich.text import Text
from textual.widgets import Static

from tui.model import Cluster, Reason
from tui.remedies import remedies
from tui.repairing import paused
from tui.state import State

SHOWN = 4
ROWS_EACH = 2
HINTS = 2
ROOM = 12
INDENT = 2
Line = tuple[str, str]
"""Words that fit one row, and their style."""
Wrong = tuple[Reason, str]


class Reasons(Static):
    """Takes as many rows as it needs, within `reason_lines`' bounds."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[Line] = []

    def show(self, state: State, *, unicode: bool, room: int) -> None:
        lines = reason_lines(state, max(20, self.app.size.width - 2), unicode=unicode, room=room)
        if lines != self._lines:
            as_many = len(lines) == len(self._lines)
            self._lines = lines
            self.display = bool(lines)
            self.update(
                Text("\n").join(Text(words, style=style) for words, style in lines), layout=not as_many
            )


def reason_lines(state: State, width: int, *, unicode: bool, room: int = ROOM) -> list[Line]:
    """Redundancy, reasons, warnings, remedies; who was asked and why it failed when nobody answers.

    Where they would take more than `room` rows, each has one and there is one remedy: what else is on the page says what is
    going on, too.
    """
    if state.refused:
        return _bounded([(Reason("", state.refused), "red")], width, rows=ROWS_EACH)
    if state.outage is not None:
        asked = [(Reason("", f"{url}: {why}"), "red") for url, why in state.outage.failures]
        return _bounded(asked, width, rows=1)
    cluster = state.cluster
    if cluster is None:
        return []
    wrong = [(reason, cluster.look.colour) for reason in cluster.reasons]
    wrong += [(warning, "yellow") for warning in cluster.warnings]
    arrow = "\N{RIGHTWARDS ARROW}" if unicode else "->"
    hints = [
        (_cut(f"{arrow} {hint}", width), "bold") for hint in remedies(cluster, paused=paused(state.repair))
    ]
    lines = [*_redundancy(cluster, width), *_bounded(wrong, width, rows=ROWS_EACH), *hints[:HINTS]]
    if len(lines) > room:
        lines = [*_redundancy(cluster, width), *_bounded(wrong, width, rows=1), *hints[:1]]
    return lines


def _redundancy(cluster: Cluster, width: int) -> list[Line]:
    told = cluster.redundancy
    if not told.message:
        return []
    pieces = wrap(told.message, width)
    if len(pieces) > ROWS_EACH:
        pieces = [pieces[0], _cut(" ".join(pieces[1:]), width)]
    return [(piece, "green" if told.whole else "yellow") for piece in pieces]


def _bounded(wrong: list[Wrong], width: int, *, rows: int) -> list[Line]:
    """The first `SHOWN`, each on at most so many rows, and how many more there are. A code is never cut off."""
    lines = []
    for reason, style in wrong[:SHOWN]:
        room = max(10, width - INDENT)
        pieces = wrap(reason.words, room) or [""]
        if len(pieces) > rows:
            code = f" ({reason.code})" if reason.code else ""
            rest = _cut(" ".join(wrap(reason.message, room)[rows - 1 :]), max(10, room - len(code)))
            pieces = [*pieces[: rows - 1], rest + code]
        lines += [(" " * INDENT + piece, style) for piece in pieces]
    if len(wrong) > SHOWN:
        lines.append((f"  and {len(wrong) - SHOWN} more: atoll status", "bright_black"))
    return lines


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 3].rstrip() + "..."
