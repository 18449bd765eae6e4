"""How records are printed: table, json, jsonl or name, always to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tools.cli.settings import current

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its title and how to get its text from a record."""

    title: str
    text: Callable[[Any], str]
    right: bool = False


def emit(rows: Iterable[Row], columns: Sequence[Column], name: Callable[[Row], str]) -> None:
    """Print records in the form `-o` asks for. json and jsonl stream; a table is gathered first."""
    form = current().output
    if form == "table":
        print_table(columns, [[column.text(row) for column in columns] for row in rows])
    elif form == "json":
        emit_json_array(rows)
    else:
        for row in rows:
            write(json.dumps(row, ensure_ascii=False) if form == "jsonl" else shown(name(row)))


def emit_json_array(rows: Iterable[Row]) -> None:
    """A JSON array, written as the records come."""
    before = "["
    for row in rows:
        write(before + "\n  " + json.dumps(row, ensure_ascii=False), end="")
        before = ","
    write("[]" if before == "[" else "\n]")


def emit_one(row: Row, name: str, lines: Sequence[tuple[str, str]]) -> None:
    """Print one record; as a table it is a list of named values."""
    form = current().output
    if form == "table":
        width = max(len(title) for title, _ in lines)
        for title, text in lines:
            write(f"{title:<{width}}  {clean(text)}")
    elif form == "name":
        write(shown(name))
    else:
        write(json.dumps(row, ensure_ascii=False, indent=2 if form == "json" else None))


def print_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    """A table without lines, as wide as the terminal, or as it needs to be when nobody looks."""
    from rich.console import Console  # only now: 30 ms that most commands can do without
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 10_000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not sys.stdout.isatty(),
            overflow="fold",
        )
    for row in cells:
        table.add_row(*(Text(clean(text), style=_STYLES.get(text, "")) for text in row))
    with console.capture() as capture:
        console.print(table)
    for line in str(capture.get()).splitlines():
        write(line.rstrip())


_STYLES = {
    "alive": "green",
    "healthy": "green",
    "suspect": "yellow",
    "degraded": "yellow",
    "dead": "red",
    "unavailable": "red",
    "left": "dim",
}


def write(text: str, end: str = "\n") -> None:
    """A piece of data to stdout; names that are not UTF-8 come out as the bytes they are."""
    sys.stdout.buffer.write((text + end).encode("utf-8", "surrogateescape"))


def clean(text: str) -> str:
    """Text with control characters made visible, so that a key cannot speak to the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def shown(text: str) -> str:
    """A name for `-o name`: as it is for programs, cleaned for a terminal."""
    return clean(text) if sys.stdout.isatty() else text


def size_text(size: float | None) -> str:
    """Bytes for people: 1.5 MiB."""
    if size is None:
        return "?"
    if size < 1024:
        return f"{int(size)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def time_text(moment: datetime) -> str:
    """A time for people, in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def rate_text(rate: float) -> str:
    """So many a second, for people: 0.07, 12.5, 4,260."""
    return f"{rate:,.0f}" if rate >= 99.5 else f"{rate:.3g}"


def seconds_text(seconds: float | None) -> str:
    """A duration for people: 0.3 s, 4 min, 3 h, 2 d."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, step, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
