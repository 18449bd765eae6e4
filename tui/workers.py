"""Background workers as lines of a table: each over all peers, unfolded peer by peer. Pure: from GET /v1/cluster/workers.

A sum over peers of which one did not tell its part is not known (S1); nor is the time left where one of them stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from tui.clean import clean
from tui.model import DASH, Json, Look, age_words, size_words
from tui.page import matches
from tui.rows import Cell, Column

STATES: Mapping[str, Look] = {
    "failing": Look("failing", "✗", "x", "red"),
    "paused": Look("paused", "◒", "=", "yellow"),
    "unknown": Look("unknown", "◌", "?", "yellow"),
    "busy": Look("busy", "●", "*", "green"),
    "idle": Look("idle", "○", "-", ""),
}
"""The worst first: a worker on many peers is as bad as on the worst of them."""
SILENT = Look("no answer", "◌", "?", "yellow")


@dataclass(frozen=True, slots=True)
class One:
    """One worker of one peer, as told; None is unknown. Rates in items a second."""

    worker: str
    peer_id: str
    peer: str
    state: str
    queue: int | None
    oldest_s: float | None
    done: int | None
    rate: float | None
    bytes: int | None
    left_s: float | None
    per_second: float | None
    last_error: str
    detail: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repair:
    """What was told: every worker of every peer that answered, and who did not, with why."""

    ones: tuple[One, ...] = ()
    silent: tuple[tuple[str, str], ...] = ()

    @property
    def peers(self) -> int:
        return len({one.peer_id for one in self.ones})

    def of(self, worker: str) -> tuple[One, ...]:
        return tuple(one for one in self.ones if one.worker == worker)


@dataclass(frozen=True, slots=True)
class Line:
    """A row: a worker on all peers (`peer` None), on one, or, with no worker, a peer that did not answer."""

    worker: str
    ones: tuple[One, ...]
    peer: str | None = None
    peer_id: str | None = None
    unfolded: bool | None = None
    """None: there is nothing to unfold."""
    unicode: bool = True
    why: str = ""

    @property
    def key(self) -> str:
        return f"{self.worker}/{self.peer_id or self.peer or ''}"

    @property
    def look(self) -> Look:
        return STATES[worst(self.ones)] if self.worker else SILENT


def repair_of(told: Json | None) -> Repair:
    """The answer, whatever it is; what makes no sense is left out or unknown."""
    told = told if isinstance(told, Mapping) else {}
    ones = [_one(entry) for entry in _maps(told.get("workers"))]
    silent = [
        (_words(entry.get("node")), _words(entry.get("message"))) for entry in _maps(told.get("failed"))
    ]
    return Repair(tuple(one for one in ones if one.worker), tuple(silent))


def _one(told: Json) -> One:
    node = told.get("node")
    node = node if isinstance(node, Mapping) else {}
    detail = told.get("detail")
    state = _words(told.get("state"))
    return One(
        worker=_words(told.get("worker")),
        peer_id=_words(node.get("id")),
        peer=_words(node.get("name")) or _words(node.get("id")) or DASH,
        state=state if state in STATES else "unknown",
        queue=_whole(told.get("queue")),
        oldest_s=_number(told.get("oldest_s")),
        done=_whole(told.get("done")),
        rate=_number(told.get("rate")),
        bytes=_whole(told.get("bytes")),
        left_s=_number(told.get("left_s")),
        per_second=_number(told.get("per_second")),
        last_error=_words(told.get("last_error")),
        detail={str(name): count for name, count in detail.items() if isinstance(count, int)}
        if isinstance(detail, Mapping)
        else {},
    )


def lines_of(repair: Repair, unfolded: Collection[str], words: str, *, unicode: bool) -> list[Line]:
    """The table: a line a worker and, unfolded, one for each of its peers; last who did not answer. A filter unfolds what
    it finds."""
    groups: dict[str, list[One]] = {}
    for one in repair.ones:
        if matches(words, one.worker, one.peer, one.state, one.last_error):
            groups.setdefault(one.worker, []).append(one)
    lines: list[Line] = []
    for worker, ones in groups.items():
        is_open = bool(words) or worker in unfolded
        lines.append(Line(worker, tuple(ones), unfolded=is_open, unicode=unicode))
        if is_open:
            lines += [Line(worker, (one,), one.peer, one.peer_id, unicode=unicode) for one in ones]
    silent = [(peer, why) for peer, why in repair.silent if matches(words, peer, why, SILENT.word)]
    return lines + [Line("", (), peer, unicode=unicode, why=why) for peer, why in silent]


# --- over several peers


def worst(ones: Iterable[One]) -> str:
    states = {one.state for one in ones}
    return next((state for state in STATES if state in states), "unknown")


def total(values: Iterable[float | None]) -> float | None:
    """Their sum; None if there is none, or one is not known."""
    known = list(values)
    return sum(value or 0 for value in known) if known and None not in known else None


def oldest(ones: Iterable[One]) -> float | None:
    return max((one.oldest_s for one in ones if one.oldest_s is not None), default=None)


def left(ones: Iterable[One]) -> float | None:
    """Seconds until the last of those that have something to do is done; None if one of them does not move."""
    waiting = [one.left_s for one in ones if one.queue]
    return max((value or 0.0 for value in waiting), default=None) if None not in waiting else None


def summary(repair: Repair) -> list[tuple[str, str]]:
    """Everything in a sentence, in (words, style)."""
    if not repair.ones and not repair.silent:
        return [("what heals in the background was not told yet", "bright_black")]
    workers = len({one.worker for one in repair.ones})
    parts = [(f"{_count(workers, 'worker')} on {_count(repair.peers, 'peer')}:", "bold")]
    for state, look in STATES.items():
        count = sum(one.state == state for one in repair.ones)
        if count:
            parts.append((f" {count:,} {look.word}", look.colour))
    queue, rate = total(one.queue for one in repair.ones), total(one.rate for one in repair.ones)
    ending = f", {_left_words(left(repair.ones))}" if queue != 0 else ""
    parts.append((f"; {_many(queue)} waiting, {rate_words(rate)}{ending}", ""))
    return parts


def silent_words(repair: Repair, most: int = 8) -> str:
    """Who did not answer, "" if all did."""
    if not repair.silent:
        return ""
    names = ", ".join(peer for peer, _ in repair.silent[:most])
    more = len(repair.silent) - most
    also = f" and {more:,} more (below)" if more > 0 else ""
    return f"Not known of {_count(len(repair.silent), 'peer')} that did not answer: {names}{also}"


def detail_lines(line: Line | None) -> list[tuple[str, str]]:
    """What the row has no room for, in (words, style): what it counts, and its errors in full."""
    if line is None:
        return []
    if not line.worker:
        return [(f"{line.peer}: {line.why}", "yellow")]
    done = total(one.done for one in line.ones)
    where = line.peer or _count(len(line.ones), "peer")
    lines = [(f"{line.worker} on {where}: {_many(done)} done since the start{_counters(line.ones)}", "")]
    for one in line.ones:
        if one.last_error:
            whose = "" if line.peer else f"{one.peer}: "
            style = "red" if one.state == "failing" else "bright_black"
            lines.append((f"{whose}last error: {one.last_error}", style))
    return lines


def _counters(ones: Sequence[One]) -> str:
    sums: dict[str, int] = {}
    for one in ones:
        for name, count in one.detail.items():
            sums[name] = sums.get(name, 0) + count
    return "".join(f", {name.replace('_', ' ')} {count:,}" for name, count in sums.items())


# --- cells


def rate_words(rate: float | None) -> str:
    if rate is None:
        return DASH
    return f"{rate:,.0f}/s" if rate >= 99.5 else f"{rate:.3g}/s"


def limits(ones: Iterable[One]) -> str:
    """The set rate, "" for none; two that differ are told as a span."""
    found = {one.per_second or 0.0 for one in ones}
    if found <= {0.0}:
        return ""
    low, high = (f"{value:g}" if value else "none" for value in (min(found), max(found)))
    return high if low == high else f"{low}-{high}"


def _name(line: Line) -> Cell:
    if line.peer is not None:
        return f"{'  ' if line.worker else ''}{line.peer}", ""
    marks = ("▾", "▸") if line.unicode else ("-", "+")
    return f"{marks[0] if line.unfolded else marks[1]} {line.worker}", "bold"


def _state(line: Line) -> Cell:
    look = line.look
    glyph = look.glyph if line.unicode else look.plain
    same = sum(one.state == look.word for one in line.ones)
    count = f"{same} " if 1 <= same < len(line.ones) else ""
    return f"{glyph} {count}{look.word}", look.colour


def _error(line: Line) -> Cell:
    failing = next((one for one in line.ones if one.last_error and one.state == "failing"), None)
    told = failing or next((one for one in line.ones if one.last_error), None)
    if told is None:
        return clean(line.why), ""
    whose = "" if line.peer else f"{told.peer}: "
    return whose + told.last_error, "red" if failing else "bright_black"


def _of_ones(words: Callable[[Sequence[One]], str]) -> Callable[[Line], Cell]:
    return lambda line: (words(line.ones) if line.ones else DASH, "")


def _left_words(left_s: float | None) -> str:
    return f"{age_words(left_s)} left" if left_s is not None else "time left not known"


WORKER_COLUMNS: Sequence[Column[Line]] = (
    Column("worker", 16, 0, _name),
    Column("state", 12, 0, _state),
    Column("queue", 7, 0, _of_ones(lambda ones: _many(total(one.queue for one in ones))), right=True),
    Column("oldest", 6, 4, _of_ones(lambda ones: age_words(oldest(ones))), right=True),
    Column("rate", 7, 2, _of_ones(lambda ones: rate_words(total(one.rate for one in ones))), right=True),
    Column("most/s", 7, 3, _of_ones(limits), right=True),
    Column("moved", 8, 5, _of_ones(lambda ones: size_words(_int(total(one.bytes for one in ones)))), right=True),
    Column("left", 6, 1, _of_ones(lambda ones: age_words(left(ones))), right=True),
    Column("last error", 20, 6, _error, grows=True),
)  # fmt: skip


# --- reading and writing numbers


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _many(number: float | None) -> str:
    return DASH if number is None else f"{number:,.0f}"


def _int(number: float | None) -> int | None:
    return None if number is None else int(number)


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _words(value: object) -> str:
    return clean(" ".join(value.split())) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    return _int(_number(value))
