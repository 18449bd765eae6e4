"""The fair share of every member: what "balanced" means once zones and capacities have their say.

A share is counted in copies of the key space: 1 means a replica of every partition. The shares of a
cluster add up to its replicas, N (or to the number of members when there are fewer). They are
proportional to weight as far as three rules allow; the rules win, weights divide the rest:

S1  A member holds at most one replica of a partition: its share is at most 1.
S2  A partition's replicas are spread over zones as evenly as their sizes permit. Let c be the lowest
    ceiling under which N replicas find room, that is the least c with sum(min(c, members in zone)) >= N.
    Then every partition has from min(c - 1, members) to min(c, members) replicas in every zone. With
    at least N zones c is 1: all replicas in distinct zones. With fewer, every zone holds some, and the
    loss of one zone takes as few replicas as it can.
S3  Within those bounds a zone gets what its members would get by weight.

So enough zones means N of them, whatever they weigh: three zones of 1, 1 and 100 TB at N = 3 hold one
copy each, and the large one fills to what the small ones can take. Balance bends, distinctness does not,
since a copy in the same failure domain is no second copy. The arithmetic is water-filling: one level
rises for all, a member stops at S1, a zone starts and stops at the bounds of S2. Fractions are exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate

from ring.members import Member

ZERO, ONE = Fraction(0), Fraction(1)


def zone_bounds(sizes: Mapping[str, int], replicas: int) -> dict[str, tuple[int, int]]:
    """The least and the most replicas of one partition in each zone (S2), from its number of members."""
    wanted = min(replicas, sum(sizes.values()))
    ceiling = 1
    while sum(min(ceiling, size) for size in sizes.values()) < wanted:
        ceiling += 1
    return {zone: (min(ceiling - 1, size), min(ceiling, size)) for zone, size in sizes.items()}


def fair_shares(members: Sequence[Member], replicas: int) -> dict[str, Fraction]:
    """Every member's fair share in copies of the key space, from 0 to 1.

    They add up to the number of owners a partition has. Raises ValueError for no members.
    """
    if not members:
        raise ValueError("a ring needs at least one member")
    zones: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda one: one.id):
        zones.setdefault(member.zone, []).append(member)
    bounds = zone_bounds({zone: len(inside) for zone, inside in zones.items()}, replicas)
    basins = [_Basin([one.weight for one in inside], *bounds[zone]) for zone, inside in zones.items()]
    level = _common_level(basins, min(replicas, len(members)))
    shares = {}
    for inside, basin in zip(zones.values(), basins, strict=True):
        own_level = basin.level_for(basin.bounded(level))
        for member in inside:
            shares[member.id] = min(ONE, own_level * member.weight)
    return shares


class _Basin:
    """One zone as the water sees it: how much it holds at a level (copies per unit of weight)."""

    def __init__(self, weights: Sequence[int], low: int, high: int) -> None:
        self.weights = sorted(weights)
        self.sums = [0, *accumulate(self.weights)]
        self.low, self.high = Fraction(low), Fraction(high)

    def held(self, level: Fraction) -> Fraction:
        """The copies held at a level by weight alone: members below their cap, and the capped ones (S1)."""
        if level == 0:
            return ZERO
        cap = -(-level.denominator // level.numerator)  # the least weight whose share reaches 1
        below = bisect_left(self.weights, cap)
        return level * self.sums[below] + (len(self.weights) - below)

    def bounded(self, level: Fraction) -> Fraction:
        """The copies held at a level within the zone's bounds (S2)."""
        return min(max(self.held(level), self.low), self.high)

    def level_for(self, copies: Fraction) -> Fraction:
        """The lowest level at which `held` is `copies`: the inverse, for 0 <= copies <= members."""
        if copies == 0:
            return ZERO
        for below in range(len(self.weights), 0, -1):
            level = (copies - (len(self.weights) - below)) / self.sums[below]
            if level * self.weights[below - 1] <= 1:
                return level
        raise AssertionError("a zone cannot hold more copies than it has members")

    def bends(self) -> set[Fraction]:
        """The levels at which `bounded` changes its slope."""
        caps = {Fraction(1, weight) for weight in self.weights}
        return caps | {self.level_for(self.low), self.level_for(self.high)}


def _common_level(basins: Sequence[_Basin], copies: int) -> Fraction:
    """The level at which all zones together hold `copies`; between two bends the sum is a straight line."""
    bends = sorted(set().union({ZERO}, *(basin.bends() for basin in basins)))

    def total(level: Fraction) -> Fraction:
        return sum((basin.bounded(level) for basin in basins), ZERO)

    at = bisect_left(bends, Fraction(copies), key=total)
    if at == 0:
        return bends[0]
    left, right = bends[at - 1], bends[at]
    below, above = total(left), total(right)
    return left + (right - left) * (copies - below) / (above - below)


def whole_targets(
    shares: Sequence[Fraction], zone_of: Sequence[int], held: Sequence[int], partitions: int
) -> list[int]:
    """Whole numbers of partitions to aim at: every share rounded up or down so that the sum is exact.

    Zones are rounded first, then the members of each. The spare units go to who holds one already, so
    that rounding moves nothing, then to the largest remainders, then to the lowest id.
    """
    exact = [share * partitions for share in shares]
    zones = range(max(zone_of) + 1)
    inside = [[m for m, zone in enumerate(zone_of) if zone == wanted] for wanted in zones]
    zone_exact = [sum((exact[m] for m in members), ZERO) for members in inside]
    zone_held = [sum(held[m] for m in members) for members in inside]
    targets = [0] * len(shares)
    for members, total in zip(inside, _rounded(zone_exact, zone_held, int(sum(exact))), strict=True):
        parts = _rounded([exact[m] for m in members], [held[m] for m in members], total)
        for member, part in zip(members, parts, strict=True):
            targets[member] = part
    return targets


def _rounded(exact: Sequence[Fraction], held: Sequence[int], total: int) -> list[int]:
    """Each number rounded up or down, adding up to `total`, which must lie between the extremes."""
    floors = [int(value) for value in exact]
    candidates = [at for at, value in enumerate(exact) if value != floors[at]]
    candidates.sort(key=lambda at: (held[at] <= floors[at], floors[at] - exact[at], at))
    spare = total - sum(floors)
    assert 0 <= spare <= len(candidates), "the total lies between all rounded down and all rounded up"
    for at in candidates[:spare]:
        floors[at] += 1
    return floors
