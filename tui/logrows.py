"""Journal entries as lines of a table, and what a filter finds among them. Pure.

A filter is words, all of which must hold: `level:`, `kind:`, `peer:` and `code:` with values (commas for "or") name a field,
every other word occurs somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from tui.journal import Entry
from tui.page import matches
from tui.rows import Cell, Column

FIELDS: dict[str, Callable[[Entry], str]] = {
    "level": lambda entry: entry.level,
    "kind": lambda entry: entry.kind,
    "peer": lambda entry: entry.node,
    "code": lambda entry: entry.code,
}
EVERYTHING: Collection[str] = ()
FLOORS: Sequence[tuple[str, Collection[str]]] = (
    ("all levels", EVERYTHING),
    ("warnings and errors", ("warning", "error")),
    ("errors only", ("error",)),
)
"""What the level key cycles through: words, and the levels that are shown (none: every one)."""
MARKS = {"info": ("·", "."), "good": ("●", "+"), "warning": ("▲", "!"), "error": ("✗", "x")}


@dataclass(frozen=True, slots=True)
class LogRow:
    """An entry and how it is written; `dated` where it is not of today."""

    entry: Entry
    unicode: bool
    dated: bool


def found(entries: Iterable[Entry], words: str, levels: Collection[str]) -> list[Entry]:
    """Those at these levels for which every word of the filter holds, in their order."""
    if not words.strip() and not levels:
        return list(entries)
    named: list[tuple[Callable[[Entry], str], list[str]]] = []
    plain: list[str] = []
    for word in words.lower().split():
        name, colon, values = word.partition(":")
        if colon and name in FIELDS:
            named.append((FIELDS[name], values.split(",")))
        else:
            plain.append(word)
    anywhere = " ".join(plain)
    return [
        entry
        for entry in entries
        if (not levels or entry.level in levels)
        and all(any(field(entry).lower().startswith(value) for value in values) for field, values in named)
        and (
            not anywhere or matches(anywhere, entry.message, entry.node, entry.kind, entry.level, entry.code)
        )
    ]


def log_rows(entries: Iterable[Entry], now: datetime, *, unicode: bool) -> list[LogRow]:
    today = now.astimezone().date()
    begins, ends = (datetime.combine(day, time()).astimezone() for day in (today, today + timedelta(days=1)))
    return [LogRow(entry, unicode, not begins <= entry.at < ends) for entry in entries]


def moment_words(at: datetime, *, dated: bool) -> str:
    """A time where the reader sits, with the date when it is not today's."""
    return at.astimezone().strftime("%b %d %H:%M:%S" if dated else "%H:%M:%S")


def log_columns(*, dated: bool) -> Sequence[Column[LogRow]]:
    """`dated`: some row is not of today, so times need more room."""
    return (
        Column("time", 15 if dated else 8, 0, lambda row: (moment_words(row.entry.at, dated=row.dated), "")),
        Column("", 1, 0, _mark),
        Column("level", 7, 3, lambda row: (row.entry.level, row.entry.colour)),
        Column("peer", 9, 1, lambda row: (row.entry.node, "bold")),
        Column("kind", 10, 2, lambda row: (row.entry.kind, "")),
        Column("what happened", 20, 0, lambda row: (row.entry.message, row.entry.colour), grows=True),
    )


def detail_words(entry: Entry | None) -> list[tuple[str, str]]:
    """Everything about one entry, in (words, style)."""
    if entry is None:
        return []
    when = entry.at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f %Z")
    code = f" ({entry.code})" if entry.code else ""
    return [
        (f"{when}  {entry.node}  {entry.kind}  {entry.level}{code}\n", "bold"),
        (entry.message, entry.colour),
    ]


def _mark(row: LogRow) -> Cell:
    marks = MARKS.get(row.entry.level, ("?", "?"))
    return marks[0] if row.unicode else marks[1], row.entry.colour
