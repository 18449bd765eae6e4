"""A table on its way from one step to the next: what may still move, and the search that balances it.

D1  A partition never has a member twice, and never more than `replicas` owners.
D2  In one step at most one live replica of a partition moves; `away` remembers whose. A replica placed
    in this very step is `fresh`: nothing has been copied yet, so it may be placed again, as often as the
    search likes, and whoever is away may come back, in the place it gave up or in another's.
D3  No exchange takes a zone of a partition out of its bounds (S2 in `shares`); only `spread` meets
    partitions outside them, after zones came or went, and brings them back.

Members are their indexes in ascending order of id, zones likewise, so every loop runs in one order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Goal:
    """What a draft is balanced towards, one entry per member, or per zone for the bounds.

    `target` is the wanted number of replicas; from `least` to `most` a member counts as balanced.
    """

    zone_of: tuple[int, ...]
    target: tuple[int, ...]
    least: tuple[int, ...]
    most: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]


class Draft:
    """Rows of owners with the bookkeeping to change them one exchange at a time."""

    def __init__(self, rows: list[list[int]], goal: Goal) -> None:
        self.rows = rows
        self.goal = goal
        self.fresh: list[set[int]] = [set() for _ in rows]
        self.away: list[int | None] = [None] * len(rows)
        self.places: list[dict[int, None]] = [{} for _ in goal.target]  # ordered, unlike a set
        for partition, row in enumerate(rows):
            for member in row:
                self.places[member][partition] = None
        self.surplus = [len(places) - wanted for places, wanted in zip(self.places, goal.target, strict=True)]

    # -- single changes ----------------------------------------------------------------------------

    def in_zone(self, partition: int, zone: int) -> int:
        """How many replicas of a partition a zone holds."""
        zone_of = self.goal.zone_of
        count = 0
        for member in self.rows[partition]:
            if zone_of[member] == zone:
                count += 1
        return count

    def free(self, partition: int, leaver: int, taker: int) -> bool:
        """Whether an exchange costs no movement: nothing live leaves, or what left comes back."""
        return leaver in self.fresh[partition] or self.away[partition] == taker

    def movable(self, partition: int, leaver: int, taker: int) -> bool:
        """Whether an owner may give its place to `taker` in this step (D2)."""
        return self.away[partition] is None or self.free(partition, leaver, taker)

    def fits(self, partition: int, leaver: int, taker: int) -> bool:
        """Whether `taker` may have the place of `leaver` in a partition (D1, D3)."""
        if taker in self.rows[partition]:
            return False
        goal = self.goal
        old, new = goal.zone_of[leaver], goal.zone_of[taker]
        return old == new or (
            self.in_zone(partition, new) < goal.high[new] and self.in_zone(partition, old) > goal.low[old]
        )

    def add(self, partition: int, member: int) -> None:
        """Fill a missing place."""
        self.rows[partition].append(member)
        if self.away[partition] == member:
            self.away[partition] = None
        else:
            self.fresh[partition].add(member)
        self.places[member][partition] = None
        self.surplus[member] += 1

    def drop(self, partition: int, member: int) -> None:
        """Take a replica away, for good."""
        self.rows[partition].remove(member)
        self.fresh[partition].discard(member)
        del self.places[member][partition]
        self.surplus[member] -= 1

    def exchange(self, partition: int, leaver: int, taker: int) -> None:
        """Give the place of `leaver` to `taker`."""
        assert self.movable(partition, leaver, taker) and taker not in self.rows[partition], "D1 and D2"
        live = leaver not in self.fresh[partition]
        self.drop(partition, leaver)
        self.add(partition, taker)
        if live:
            self.away[partition] = leaver

    # -- many changes ------------------------------------------------------------------------------

    def spread(self, partition: int) -> bool:
        """Move one replica so that the zones of a partition come closer to their bounds (S2).

        The most loaded member of the fullest zone gives to the least loaded of the emptiest. Returns
        whether there was anything to do and it could be done; call again until it is False.
        """
        goal, row = self.goal, self.rows[partition]
        counts = [0] * len(goal.low)
        for member in row:
            counts[goal.zone_of[member]] += 1
        over = [zone for zone, count in enumerate(counts) if count > goal.high[zone]]
        under = [zone for zone, count in enumerate(counts) if count < goal.low[zone]]
        if not over and not under:
            return False
        givers = over or [zone for zone, count in enumerate(counts) if count > goal.low[zone]]
        takers = set(under or [zone for zone, count in enumerate(counts) if count < goal.high[zone]])
        leavers = [m for m in row if goal.zone_of[m] in givers]
        heirs = [m for m, zone in enumerate(goal.zone_of) if zone in takers and m not in row]
        leavers.sort(key=self.surplus.__getitem__, reverse=True)
        heirs.sort(key=self.surplus.__getitem__)
        for leaver, heir in product(leavers, heirs):
            if self.movable(partition, leaver, heir):
                self.exchange(partition, leaver, heir)
                return True
        return False

    def feed(self, taker: int, partitions: Iterable[int], *, free_only: bool) -> None:
        """Give a member below its target places of members above theirs, partition by partition.

        In each partition the owner with the largest surplus gives. One pass in the order given; with
        `free_only` it costs no movement.
        """
        allowed = self.free if free_only else self.movable
        surplus, rows = self.surplus, self.rows
        for partition in partitions:
            if surplus[taker] >= 0:
                return
            best, leaver = 0, -1
            for owner in rows[partition]:
                if (
                    surplus[owner] > best
                    and allowed(partition, owner, taker)
                    and self.fits(partition, owner, taker)
                ):
                    best, leaver = surplus[owner], owner
            if leaver >= 0:
                self.exchange(partition, leaver, taker)

    def relay(self, sources: Sequence[int], sinks: Sequence[int], *, free_only: bool) -> bool:
        """Bring one replica from a source to a sink along the shortest chain of exchanges.

        In a chain every member hands one partition to the next, so only its ends change their load:
        this reaches what `feed` cannot, because the sink owns the source's partitions already or zones
        forbid it. Breadth first; with `free_only` a chain costs no movement. Returns whether one was
        found; if not, nothing has changed.
        """
        allowed = self.free if free_only else self.movable
        wanted, excluded = set(sinks), set(sources)
        reached_by: dict[int, tuple[int, int]] = {}  # member -> (who gives to it, in which partition)
        unreached = [m for m in range(len(self.places)) if m not in excluded]
        frontier = list(sources)
        while frontier and unreached:
            following: list[int] = []
            for giver in frontier:
                for partition in self.places[giver]:
                    takers = [
                        m
                        for m in self._candidates(partition, giver, unreached)
                        if allowed(partition, giver, m) and self.fits(partition, giver, m)
                    ]
                    if not takers or self._used(giver, partition, reached_by):
                        continue
                    for taker in takers:
                        reached_by[taker] = (giver, partition)
                        if taker in wanted:
                            self._hand_on(taker, reached_by)
                            return True
                    following.extend(takers)
                    unreached = [m for m in unreached if m not in reached_by]
            frontier = following
        return False

    def _candidates(self, partition: int, giver: int, unreached: list[int]) -> list[int]:
        """Those of `unreached` that D2 may let in: anyone, or only who is away."""
        away = self.away[partition]
        if giver in self.fresh[partition] or away is None:
            return unreached
        return [away] if away in unreached else []

    def _used(self, member: int, partition: int, reached_by: dict[int, tuple[int, int]]) -> bool:
        """Whether the chain that ends at `member` passes through a partition already."""
        while member in reached_by:
            member, through = reached_by[member]
            if through == partition:
                return True
        return False

    def _hand_on(self, taker: int, reached_by: dict[int, tuple[int, int]]) -> None:
        while taker in reached_by:
            giver, partition = reached_by[taker]
            self.exchange(partition, giver, taker)
            taker = giver
