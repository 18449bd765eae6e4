"""`python -m tools.ring_table`: how even the ring is, and how little it moves, measured on real tables.

For every size, number of zones and kind of weights one cluster is founded, then one member joins and,
from the same start, one leaves. Printed are the lowest and the highest load against the fair share
(`ring.shares`), what moved against the minimum, and how long `place` took.

The minimum is what every table at the new fair shares must move: the sum of what members lack of them.
Where zones differ in size even the best table may have to move more than that (`ring.placement`, R4).
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import click
from rich import box
from rich.console import Console
from rich.table import Table as Sheet

from ring.hashing import DEFAULT_PARTITION_POWER, MAX_PARTITION_POWER, MIN_PARTITION_POWER
from ring.members import Member
from ring.placement import place, tolerated
from ring.shares import fair_shares
from ring.table import MAX_REPLICAS, Table, moved

SIZES = (3, 10, 30, 100, 300)
ZONES = (1, 3, 5)
WEIGHTS = ("equal", "uneven")
TERABYTE = 10**12
WIDTH = 120


@dataclass(frozen=True, slots=True)
class Change:
    """One join or leave: replicas moved, the minimum, and the seconds `place` took."""

    moved: int
    minimum: int
    duration_s: float
    balanced: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One measured cluster. Loads are fractions of the fair share; `balanced` covers all three tables."""

    members: int
    zones: int
    weights: str
    lowest: float
    highest: float
    balanced: bool
    founding_s: float
    join: Change
    leave: Change


def measure(size: int, zones: int, weights: str, *, replicas: int, partition_power: int, seed: int) -> Row:
    """Found a cluster of `size` members in `zones` zones, then let one join, and one leave instead."""
    rng = random.Random(f"{seed} {size} {zones} {weights}")
    members = [_member(rng, at, zones, weights) for at in range(size + 1)]
    present, joined, left = members[:size], members, members[: size - 1]
    started = time.perf_counter()
    table = place(None, present, replicas, partition_power)
    founding_s = time.perf_counter() - started
    loads = list(_loads(table, present))
    join, leave = _change(table, joined), _change(table, left)
    return Row(
        members=size,
        zones=zones,
        weights=weights,
        lowest=min(float(held / fair) for held, fair in loads),
        highest=max(float(held / fair) for held, fair in loads),
        balanced=_balanced(table, present) and join.balanced and leave.balanced,
        founding_s=founding_s,
        join=join,
        leave=leave,
    )


def _member(rng: random.Random, at: int, zones: int, weights: str) -> Member:
    weight = TERABYTE * (1 if weights == "equal" else rng.choice((1, 2, 4, 8)))
    return Member(
        rng.randbytes(8).hex(), f"peer-{at}", "localhost", 7402, 7400, 7401, f"z{at % zones}", weight
    )


def _loads(table: Table, members: Sequence[Member]) -> Iterator[tuple[int, Fraction]]:
    """(partitions held, fair share of partitions) for every member."""
    shares = fair_shares(members, table.replicas)
    for member in members:
        yield table.partitions_of(member.id), shares[member.id] * table.partitions


def _balanced(table: Table, members: Sequence[Member]) -> bool:
    bands = ((held, *tolerated(fair)) for held, fair in _loads(table, members))
    return all(least <= held <= most for held, least, most in bands)


def _change(old: Table, members: Sequence[Member]) -> Change:
    started = time.perf_counter()
    new = place(old, members, old.replicas, old.partition_power)
    duration_s = time.perf_counter() - started
    return Change(moved(old, new), _minimum(old, new, members), duration_s, _balanced(new, members))


def _minimum(old: Table, new: Table, members: Sequence[Member]) -> int:
    """The least that had to move: what members lack of their whole fair shares, or what the gone held.

    Places that a partition did not have before are filled, not moved.
    """
    lacking = sum(max(0, math.floor(fair) - held) for held, fair in _loads(old, members))
    kept = sum(held for held, _ in _loads(old, members))
    before, after = (table.width * table.partitions for table in (old, new))
    return max(0, max(lacking, after - kept) - max(0, after - before))


def _sheet(replicas: int, partition_power: int) -> Sheet:
    sheet = Sheet(
        title=f"{1 << partition_power:,} partitions, {replicas} replicas",
        caption="lowest, highest: load against the fair share; join, leave: replicas moved / minimum, ratio;\n"
        "ok: every member within 2 % or one partition of its fair share after each of the three",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("members", "zones", "weights", "lowest", "highest"):
        sheet.add_column(heading, justify="left" if heading == "weights" else "right", no_wrap=True)
    for heading in ("join", "", "leave", "", "found/join/leave", "ok"):
        sheet.add_column(heading, justify="right", no_wrap=True)
    return sheet


def _cells(row: Row) -> list[str]:
    cells = [str(row.members), str(row.zones), row.weights, f"{row.lowest:.2%}", f"{row.highest:.2%}"]
    for change in (row.join, row.leave):
        ratio = f"{change.moved / change.minimum:.2f}" if change.minimum else "-"
        cells += [f"{change.moved} / {change.minimum}", ratio]
    times = (row.founding_s, row.join.duration_s, row.leave.duration_s)
    return [
        *cells,
        "/".join(f"{seconds * 1000:.0f}" for seconds in times) + " ms",
        "yes" if row.balanced else "NO",
    ]


@click.command("ring-table", help="Measure the ring: balance, movement on one join and one leave, time.")
@click.option(
    "--size", "sizes", type=click.IntRange(2, 5000), multiple=True, help="Members; may be repeated."
)
@click.option("--zones", type=click.IntRange(1, 5000), multiple=True, help="Zones; may be repeated.")
@click.option(
    "--weights", type=click.Choice(WEIGHTS), multiple=True, help="Kinds of weights; may be repeated."
)
@click.option("--replicas", type=click.IntRange(1, MAX_REPLICAS), default=3, show_default=True)
@click.option(
    "--partition-power",
    type=click.IntRange(MIN_PARTITION_POWER, MAX_PARTITION_POWER),
    default=DEFAULT_PARTITION_POWER,
    show_default=True,
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Ids and uneven weights are drawn from it."
)
def ring_table(
    sizes: tuple[int, ...],
    zones: tuple[int, ...],
    weights: tuple[str, ...],
    replicas: int,
    partition_power: int,
    seed: int,
) -> None:
    """The command; without options it measures every size, zone count and kind of weights of the design."""
    sheet = _sheet(replicas, partition_power)
    balanced = True
    for size in sizes or SIZES:
        for count in zones or ZONES:
            for kind in weights or WEIGHTS:
                row = measure(
                    size, count, kind, replicas=replicas, partition_power=partition_power, seed=seed
                )
                balanced = balanced and row.balanced
                sheet.add_row(*_cells(row))
        sheet.add_section()
    # A pipe has no width and a narrow terminal too little: better long lines than cut numbers.
    Console(width=max(WIDTH, Console().width)).print(sheet)
    if not balanced:
        raise click.ClickException("a member is outside 2 % and one partition of its fair share")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command on `argv` (default: the process's own arguments) and return its exit code."""
    try:
        code = ring_table.main(args=None if argv is None else list(argv), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
