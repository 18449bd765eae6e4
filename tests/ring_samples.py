"""Members, clusters and judgements that the ring's tests share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import strategies as st

from ring.members import Member
from ring.placement import tolerated
from ring.shares import fair_shares, zone_bounds
from ring.table import Table

POWER = 8
"""256 partitions: the least a cluster can have, and enough for every property."""


def member(number: int, *, zone: str | None = None, weight: int = 10**12, name: str | None = None) -> Member:
    """Member `number`: its id is scattered like a random one, its zone its own unless given."""
    return Member(
        id=(number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big").hex(),
        name=name or f"peer-{number}",
        host="127.0.0.1",
        peer_port=7402,
        s3_port=7400,
        api_port=7401,
        zone=f"host-{number}" if zone is None else zone,
        weight=weight,
    )


def members(count: int, *, zones: int | None = None, weight: int = 10**12) -> list[Member]:
    """`count` equal members, dealt to `zones` zones in turn (None: a zone each)."""
    return [
        member(at, zone=None if zones is None else f"zone-{at % zones}", weight=weight)
        for at in range(1, count + 1)
    ]


WEIGHTS = {
    "equal": st.just(10**12),
    "uneven": st.integers(1, 8).map(lambda times: times * 10**12),
    "wild": st.integers(0, 48).map(lambda twelfths: int(10 ** (twelfths / 12) * 1000)),
}


@st.composite
def clusters(
    draw: st.DrawFn, *, least: int = 1, most: int = 12, kinds: Sequence[str] = ("equal", "uneven", "wild")
) -> list[Member]:
    """A cluster of some members with weights of one kind, dealt to zones at random or a zone each."""
    weights = WEIGHTS[draw(st.sampled_from(kinds))]
    zones = draw(st.sampled_from((1, 2, 3, 4, 5, 1000)))
    numbers = draw(st.lists(st.integers(1, 10**6), min_size=least, max_size=most, unique=True))
    return [
        member(number, zone=f"zone-{draw(st.integers(1, zones))}", weight=draw(weights)) for number in numbers
    ]


def loads_off(table: Table, cluster: Sequence[Member]) -> list[str]:
    """Who holds neither within 2 % nor within one partition of the fair share; empty if balanced (R3)."""
    shares = fair_shares(cluster, table.replicas)
    off = []
    for one in cluster:
        fair, held = shares[one.id] * table.partitions, table.partitions_of(one.id)
        least, most = tolerated(fair)
        if not least <= held <= most:
            off.append(f"{one.name}: {held} of {float(fair):.2f}")
    return off


def zones_off(table: Table, cluster: Sequence[Member]) -> list[int]:
    """The partitions whose replicas are not spread over zones as S2 asks; empty if all are (R2)."""
    zone_of = {one.id: one.zone for one in cluster}
    bounds = zone_bounds(Counter(zone_of.values()), table.replicas)
    off = []
    for partition in range(table.partitions):
        counts = Counter(zone_of[owner] for owner in table.owners(partition))
        if not all(low <= counts[zone] <= high for zone, (low, high) in bounds.items()):
            off.append(partition)
    return off
