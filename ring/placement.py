"""`place`: from one table to the next, moving as little as balance asks for (architecture.md §3).

A walk of the circle without history is 20 to 40 % off balance, so the previous table is an input and the
walk only chooses new owners. What `place` promises, each tested under Hypothesis:

R1  Every partition has min(replicas, members) distinct owners.
R2  Its replicas are spread over zones as rule S2 of `shares` says; in distinct ones if there are enough.
R3  Every member holds its fair share (`shares`) of partitions within 2 %, or within one partition.
R4  One join or one leave moves at most 1.2 times the minimum with equal weights, 1.4 times otherwise. The
    minimum is what the best table within R1 to R3 would move. With zones of one size that is the fair
    share of who joins, or the replicas of who left; uneven zones can force more. (Two zones of 14 and 8
    members, N = 3: when one of the 8 leaves, every partition must end with two in the larger zone.)
R5  In one step at most one replica of a partition moves, apart from those whose holder is gone.
R6  Equal input gives an equal table whatever the order of the members, and placing again changes nothing
    once a table is balanced. The owners of a partition are listed in the order of the walk.

R1, R5 and R6 hold after every step. R2 and R3 may need several where balance asks for two moves in one
partition (several joins at once, zones renamed, weights turned upside down): then a step goes as far as
R5 lets it, and `place(table, ...)` again goes on from there; no change tried took more than four steps.
One join or one leave from a balanced table restores R2 at once, and R3 too but for one case in some
thousand: a newcomer must take its zone-mate's place in just the partition that another should give up.
That one is a partition or two off until the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from ring.circle import Circle
from ring.draft import Draft, Goal
from ring.hashing import check_partition_power
from ring.members import Member, by_id
from ring.shares import fair_shares, whole_targets, zone_bounds
from ring.table import Table, check_replicas

TOLERANCE = Fraction(1, 50)
"""A member within 2 % of its fair share is balanced; so is one within a partition of it."""

FEW_MEMBERS = 16
"""With this few candidates, ordering them by bisection is cheaper than a walk that meets everybody."""


def place(previous: Table | None, members: Sequence[Member], replicas: int, partition_power: int) -> Table:
    """The table for these members that is balanced and closest to `previous` (None: there is none yet).

    Pure: integers, exact fractions and sorted ids only. Raises ValueError for no members, two of one
    id, `replicas` or `partition_power` out of range, or a previous table of another partition power.
    """
    check_partition_power(partition_power)
    check_replicas(replicas)
    ordered = by_id(members)
    if not ordered:
        raise ValueError("a ring needs at least one member")
    if previous is not None and previous.partition_power != partition_power:
        raise ValueError(
            f"the partition power was fixed at {previous.partition_power} when the cluster was founded: "
            f"it cannot be {partition_power}"
        )
    step = _Step(previous, ordered, replicas, partition_power)
    step.trim()
    step.fill()
    step.respread()
    step.balance()
    return step.table()


class _Step:
    """One run of `place`: the draft with what is needed to choose by walk and by zone."""

    def __init__(
        self, previous: Table | None, members: tuple[Member, ...], replicas: int, partition_power: int
    ) -> None:
        self.ids = tuple(member.id for member in members)
        self.index = {member_id: at for at, member_id in enumerate(self.ids)}
        self.replicas, self.power = replicas, partition_power
        self.width = min(replicas, len(members))
        self.circle = Circle(members)
        rows = _survivors(previous, self.index, 1 << partition_power)
        held = [0] * len(members)
        for row in rows:
            for member in row:
                held[member] += 1
        self.goal = _goal(members, held, replicas, 1 << partition_power)
        self.draft = Draft(rows, self.goal)

    def trim(self) -> None:
        """Drop what is too much, after replicas were lowered: from crowded zones and full members first."""
        draft, goal = self.draft, self.goal
        for partition, row in enumerate(draft.rows):
            while len(row) > self.width:
                crowded = {
                    m: draft.in_zone(partition, goal.zone_of[m]) - goal.high[goal.zone_of[m]] for m in row
                }
                spare = [
                    m for m in row if draft.in_zone(partition, goal.zone_of[m]) > goal.low[goal.zone_of[m]]
                ]
                draft.drop(partition, max(spare or row, key=lambda m: (crowded[m] > 0, draft.surplus[m], m)))

    def fill(self) -> None:
        """Give missing places to the first members of the walk with room whose zones may take one."""
        hungry = {member for member, surplus in enumerate(self.draft.surplus) if surplus < 0}
        for partition, row in enumerate(self.draft.rows):
            if len(row) < self.width:
                self._fill(partition, hungry)

    def _fill(self, partition: int, hungry: set[int]) -> None:
        draft, zone_of, low, high = self.draft, self.goal.zone_of, self.goal.low, self.goal.high
        row = draft.rows[partition]
        counts = [0] * len(low)
        for member in row:
            counts[zone_of[member]] += 1
        reserved = sum(max(0, need - count) for need, count in zip(low, counts, strict=True))

        def take(member: int) -> None:
            nonlocal reserved
            zone = zone_of[member]
            reserved -= counts[zone] < low[zone]
            counts[zone] += 1
            draft.add(partition, member)
            if draft.surplus[member] >= 0:
                hungry.discard(member)

        def welcome(member: int) -> bool:
            zone = zone_of[member]
            if member in row or counts[zone] >= high[zone]:
                return False
            return counts[zone] < low[zone] or self.width - len(row) > reserved

        for member in self._walk(partition, hungry):
            if member in hungry and welcome(member):
                take(member)
                if len(row) == self.width:
                    return
        while (
            len(row) < self.width
        ):  # nobody with room may own it: who bears one more best does, until `balance`
            take(min(filter(welcome, range(len(self.ids))), key=self._burden))

    def _burden(self, member: int) -> tuple[bool, int]:
        """How badly one more replica suits a member: beyond its tolerance it would have to be moved on, at a cost (R4)."""
        return len(self.draft.places[member]) >= self.goal.most[member], self.draft.surplus[member]

    def _walk(self, partition: int, wanted: set[int]) -> Iterator[int]:
        """The wanted members, perhaps with others between, in the order of the walk."""
        index = self.index
        if len(wanted) > FEW_MEMBERS:
            return (index[member_id] for member_id in self.circle.walk(partition, self.power))
        few = self.circle.order([self.ids[m] for m in wanted], partition, self.power)
        return iter([index[member_id] for member_id in few])

    def respread(self) -> None:
        """Bring partitions back into the zone bounds, where zones came or went."""
        for partition in range(len(self.draft.rows)):
            while self.draft.spread(partition):
                pass

    def balance(self) -> None:
        """Exchange until every member has its target, or is within tolerance if more would cost movement."""
        self._feed(free_only=True)
        while self._relay_free():
            pass
        self._feed(free_only=False)
        while self._relay_free() or self._relay_live():
            pass

    def _nearest(self, member: int) -> list[int]:
        """All partitions, those first whose walk meets the member soonest."""
        member_id = self.ids[member]
        return sorted(
            range(1 << self.power),
            key=lambda partition: self.circle.distance(member_id, partition, self.power),
        )

    def _feed(self, *, free_only: bool) -> None:
        """Bring the hungriest members to their targets: all of them for free, else those out of tolerance."""
        draft, goal = self.draft, self.goal
        for taker in sorted(range(len(self.ids)), key=lambda m: (draft.surplus[m], m)):
            hungry = draft.surplus[taker] < 0
            if hungry and (free_only or len(draft.places[taker]) < goal.least[taker]):
                draft.feed(taker, self._nearest(taker), free_only=free_only)

    def _relay_free(self) -> bool:
        """One step towards the exact targets that costs no movement."""
        over, under = self._off_target()
        return bool(over) and self.draft.relay(over, under, free_only=True)

    def _relay_live(self) -> bool:
        """One step towards the tolerance of a member outside it, at the cost of some movement."""
        draft, goal = self.draft, self.goal
        over, under = self._off_target()
        for member, places in enumerate(draft.places):
            if len(places) > goal.most[member] and draft.relay([member], under, free_only=False):
                return True
            if len(places) < goal.least[member] and draft.relay(over, [member], free_only=False):
                return True
        return False

    def _off_target(self) -> tuple[list[int], list[int]]:
        surplus = self.draft.surplus
        return [m for m, n in enumerate(surplus) if n > 0], [m for m, n in enumerate(surplus) if n < 0]

    def table(self) -> Table:
        ids, index = self.ids, self.index
        rows = []
        for partition, row in enumerate(self.draft.rows):
            by_walk = self.circle.order([ids[m] for m in row], partition, self.power)
            rows.append(tuple(index[member_id] for member_id in by_walk))
        return Table(ids, self.power, self.replicas, tuple(rows))


def _survivors(previous: Table | None, index: dict[str, int], partitions: int) -> list[list[int]]:
    """The rows of the previous table without the members that are gone, in the indexes of the new one."""
    if previous is None:
        return [[] for _ in range(partitions)]
    return [
        [index[owner] for owner in row if owner in index] for row in map(previous.owners, range(partitions))
    ]


def _goal(members: tuple[Member, ...], held: Sequence[int], replicas: int, partitions: int) -> Goal:
    """What to aim at: whole targets, the tolerated band around every fair share, the bounds of zones."""
    names = sorted({member.zone for member in members})
    number = {name: at for at, name in enumerate(names)}
    zone_of = tuple(number[member.zone] for member in members)
    by_member = fair_shares(members, replicas)
    shares = [by_member[member.id] for member in members]
    bounds = zone_bounds({name: zone_of.count(number[name]) for name in names}, replicas)
    bands = [tolerated(share * partitions) for share in shares]
    return Goal(
        zone_of=zone_of,
        target=tuple(whole_targets(shares, zone_of, held, partitions)),
        least=tuple(least for least, _ in bands),
        most=tuple(most for _, most in bands),
        low=tuple(bounds[name][0] for name in names),
        high=tuple(bounds[name][1] for name in names),
    )


def tolerated(fair: Fraction) -> tuple[int, int]:
    """The least and the most whole partitions that count as balanced for a fair share of partitions (R3)."""
    slack = max(fair * TOLERANCE, Fraction(1))
    return max(0, math.ceil(fair - slack)), math.floor(fair + slack)
