"""What belongs beside the ring: storage, partitions, healing, and what clients ask for over the last minute. Pure, but
for the widget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.widgets import Static

from tui.model import DASH, Cluster, partition_words, size_words
from tui.repairing import in_short
from tui.spark import bar, peak, sparkline
from tui.state import State

LABEL = 11
BAR_MOST = 24
NUMBERS = 24
"""Cells for the newest value and the peak."""
FULLNESS = ((0.9, "red"), (0.75, "yellow"), (0.0, "green"))
KEEP = ("requests/s", "stored", "repair", "backlog", "partitions", "bytes/s", "errors/s", "fullest")
"""Who stays when there is no room for all, the most needed first."""


class Facts(Static):
    """As many lines as there is room for."""

    def show(self, state: State, *, unicode: bool) -> None:
        lines = fact_lines(state, self.size.width, unicode=unicode)
        height = self.size.height
        kept = sorted(lines, key=lambda label: KEEP.index(label))[: max(height, 0)]
        chosen = [words for label, words in lines.items() if label in kept]
        if height > len(chosen):
            chosen.insert(0, Text())
        self.update(Text("\n").join(chosen), layout=False)


def fact_lines(state: State, width: int, *, unicode: bool) -> dict[str, Text]:
    """A line for each of `KEEP`, in the order they are shown. Sums only over peers whose numbers are known."""
    found: dict[str, Text] = {}
    if state.cluster is not None:
        found["stored"] = _stored(state.cluster, width, unicode=unicode)
        found["fullest"] = _fullest(state.cluster)
        found["partitions"] = _partitions(state.cluster)
        found["repair"] = Text(*in_short(state.repair))
    found["requests/s"] = _rate(state, ("all",), width, _count, unicode=unicode)
    found["bytes/s"] = _rate(state, ("bytes_in", "bytes_out"), width, _size, unicode=unicode)
    found["errors/s"] = _rate(state, ("errors",), width, _count, unicode=unicode, bad=True)
    found["backlog"] = _rate(state, ("backlog",), width, _count, unicode=unicode)
    dim = "dim" if state.stale else ""
    lines = {}
    for label, words in found.items():
        line = Text(style=dim)
        line.append(label.ljust(LABEL), style="bold")
        line.append_text(words)
        line.truncate(max(width, LABEL), overflow="crop")
        lines[label] = line
    return lines


def _stored(cluster: Cluster, width: int, *, unicode: bool) -> Text:
    known = [peer for peer in cluster.peers if peer.used_bytes is not None and peer.capacity_bytes]
    used = sum(peer.used_bytes or 0 for peer in known)
    capacity = sum(peer.capacity_bytes or 0 for peer in known)
    if not capacity:
        return Text(DASH)
    part = used / capacity
    words = f" {size_words(used)}/{size_words(capacity)}, {_percent(part)}"
    unknown = len(cluster.peers) - len(known)
    missing = f", {unknown} unknown" if unknown else ""
    room = min(BAR_MOST, width - LABEL - len(words) - len(missing))
    text = Text()
    if room >= 4:
        text.append(bar(part, room, unicode=unicode), style=_colour(part))
    else:
        words = words[1:]
    text.append(words)
    return text.append(missing, style="yellow")


def _fullest(cluster: Cluster) -> Text:
    parts = [(part, peer) for peer in cluster.peers if (part := peer.used_part) is not None]
    if not parts:
        return Text(DASH)
    part, peer = max(parts, key=lambda one: one[0])
    text = Text(peer.name)
    text.append(f" {_percent(part)}", style=_colour(part))
    free = (peer.capacity_bytes or 0) - (peer.used_bytes or 0)
    return text.append(f", {size_words(max(free, 0))} free")


def _partitions(cluster: Cluster) -> Text:
    total, replicas = cluster.partitions["total"], cluster.replicas
    text = Text(f"{total:,}" if total is not None else DASH)
    text.append(f" x {replicas if replicas is not None else DASH}:")
    for number, (words, colour) in enumerate(partition_words(cluster)):
        text.append(f"{',' if number else ''} ")
        text.append(words, style=colour)
    return text


def _rate(
    state: State,
    rates: Sequence[str],
    width: int,
    words: Callable[[float | None], str],
    *,
    unicode: bool,
    bad: bool = False,
) -> Text:
    """The rates summed up, second by second, with the newest value and the peak of those shown."""
    room = max(0, width - LABEL - NUMBERS)
    values = [_sum(each) for each in zip(*(state.recent(rate, max(room, 1)) for rate in rates), strict=False)]
    newest = values[-1] if values else None
    text = Text()
    if room >= 6:
        text.append(sparkline(values, room, unicode=unicode), style="red" if bad and peak(values) else "cyan")
    text.append(f" {words(newest):>9}", style="bold red" if bad and newest else "bold")
    return text.append(f"  peak {words(peak(values) if values else None)}", style="bright_black")


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _count(value: float | None) -> str:
    return (
        DASH if value is None else f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    )


def _size(value: float | None) -> str:
    return size_words(None if value is None else int(value))


def _percent(part: float) -> str:
    return f"{part * 100:.0f} %" if part >= 0.0995 else f"{part * 100:.1f} %"


def _colour(part: float) -> str:
    return next(colour for least, colour in FULLNESS if part >= least)
