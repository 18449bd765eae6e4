"""What the page of the ring says beside its map: the legend, how far a change is, the partition under the cursor. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rich.text import Text

from tui.clean import clean
from tui.heatmap import COLOURS, SIGNS, colour_of
from tui.model import LOOKS, Peer, epoch_words
from tui.partitions import (
    CLASSES,
    DEGRADED,
    FULL,
    MOVED,
    MOVING,
    UNAVAILABLE,
    UNKNOWN,
    Counts,
    Table,
    class_of,
    hash_range,
    live_of,
)

BAR = 24
SHOWN_ALWAYS = (FULL, DEGRADED, UNAVAILABLE)


def legend(counts: Counts, fewer: int, *, blocks: bool) -> Text:
    """Each class with its swatch or sign and its count."""
    text = Text()
    for number, name in enumerate(CLASSES):
        if not counts[name] and number not in SHOWN_ALWAYS:
            continue
        sign = "█" if blocks else SIGNS.get(number, "")
        text.append("  " if text else "")
        text.append(f"{sign} " if sign else "", style=COLOURS[number])
        text.append(f"{name} ")
        text.append(f"{counts[name]:,}", style=f"bold {COLOURS[number]}")
    if not blocks:
        text.append("  digits: live replicas", style="bright_black")
    if fewer:
        text.append(
            f"\n{fewer:,} fewer are full than drawn; the peer that answers does not tell which",
            style="yellow",
        )
    return text


@dataclass(frozen=True, slots=True)
class Progress:
    """A change of the ring, or chunks that move after one. `pending` None: the peer does not tell."""

    total: int
    pending: int | None
    joint: bool


def progress(found: Progress, *, unicode: bool) -> Text:
    """How far it is, in a bar and in numbers."""
    if found.pending is None:
        return Text(
            f"owners of {found.total:,} partitions change; the peer that answers does not tell how far it is",
            style="yellow",
        )
    done = max(0, found.total - found.pending)
    full = BAR * done // found.total if found.total else BAR
    bar = ("█" * full + "░" * (BAR - full)) if unicode else f"[{'#' * full}{'.' * (BAR - full)}]"
    text = Text("moving ", style="bold")
    text.append(bar, style=COLOURS[MOVING])
    text.append(f" {done:,} of {found.total:,} partitions have moved", style="not bold")
    if found.joint and not found.pending:
        text.append("; the change is about to end", style="not bold")
    return text


@dataclass(frozen=True, slots=True)
class Under:
    """The partition under the cursor: its rank, and the partitions of its cell, of which it may be the worst."""

    partition: int
    rank: int
    cell: range
    worst: bool


def about(
    table: Table, under: Under, pending: Collection[int], peers: Mapping[str, Peer], *, unicode: bool
) -> Text:
    """Number and state, owners with their states, in a change the former ones, too; which cell and hashes it is of."""
    partition, rank = under.partition, under.rank
    text = Text(f"partition {partition:,}  ", style="bold")
    text.append(_state(rank, table), style=colour_of(rank))
    if partition in pending:
        text.append("; a new owner has still to fetch it", style="not bold")
    elif class_of(rank) == MOVED:
        text.append("; its new owners have it, the change goes on", style="not bold")
    if partition in table.changed:
        text.append("\nbefore ")
        _append_owners(text, table.owners(partition, before=True), peers, unicode=unicode)
        text.append("\nnow    ")
    else:
        text.append("\nowners ")
    _append_owners(text, table.owners(partition), peers, unicode=unicode)
    first, last = hash_range(partition, table.power)
    where = f"\nhash {first} to {last}"
    if len(under.cell) > 1:
        where += f", the worst of its cell, {under.cell.start:,} to {under.cell.stop - 1:,}"
    text.append(
        where if under.worst else where.replace("the worst of", "one of"), style="not bold bright_black"
    )
    return text


def _state(rank: int, table: Table) -> str:
    if class_of(rank) == UNKNOWN:
        return "its owners are not known"
    width = max(table.now.width, live_of(rank))
    return f"{live_of(rank)} of {width} replicas live: {CLASSES[class_of(rank)]}"


def _append_owners(
    text: Text, owners: Collection[tuple[str, str]], peers: Mapping[str, Peer], *, unicode: bool
) -> None:
    for member, name in owners:
        peer = peers.get(member)
        look = peer.look if peer is not None else LOOKS["unknown"]
        text.append(
            f"{look.glyph if unicode else look.plain} {clean(name, unicode=unicode)} ", style=look.colour
        )
        text.append(f"{look.word}", style="not bold")
        if peer is not None and peer.whole is False and peer.state in ("alive", "suspect", "draining"):
            text.append(" but no full copy", style="yellow")
        text.append("  ")
    if not owners:
        text.append("not known")


def epoch_note(table: Table, told: tuple[int, int] | None) -> str:
    """A sentence, if the ring that is drawn is not that of the cluster any more; else ""."""
    if told is None or table.epoch is None or table.epoch == told:
        return ""
    return f"drawn is the ring of epoch {epoch_words(table.epoch)}; that of {epoch_words(told)} has not been told yet"
