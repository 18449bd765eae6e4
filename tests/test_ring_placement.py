"""`place`: owners, zones, balance, one move a step, determinism; under any history of joins and leaves."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.circle import Circle
from ring.members import Member
from ring.placement import place
from ring.table import Table, moved, moves
from tests.ring_samples import POWER, WEIGHTS, clusters, loads_off, member, members, zones_off

STEPS_TO_BALANCE = 12
"""Any change, however wild, is balanced after a handful of steps of one move per partition (4 seen)."""


def live_losses(old: Table, new: Table, cluster: Sequence[Member]) -> int:
    """The most owners, present before and after, that one partition lost in a step (R5)."""
    present = {one.id for one in cluster}
    return max(
        len(present.intersection(old.owners(partition)).difference(new.owners(partition)))
        for partition in range(new.partitions)
    )


def check_step(old: Table | None, new: Table, cluster: Sequence[Member]) -> None:
    """R1, R5 and the order of R6, which hold after every single step."""
    wanted = min(new.replicas, len(cluster))
    known = {one.id for one in cluster}
    circle = Circle(cluster)
    for partition in range(new.partitions):
        owners = new.owners(partition)
        assert len(owners) == len(set(owners)) == wanted and known.issuperset(owners), "R1"
        assert list(owners) == circle.order(owners, partition, POWER), "R6: in the order of the walk"
    if old is not None and new.width >= old.width:
        assert live_losses(old, new, cluster) <= 1, "R5"


def check_balanced(table: Table, cluster: Sequence[Member]) -> None:
    """R2, R3, and that balance is a fixed point (R6)."""
    assert zones_off(table, cluster) == [], "R2"
    assert loads_off(table, cluster) == [], "R3"
    assert place(table, cluster, table.replicas, POWER) == table, "R6: nothing left to do"


@settings(deadline=None, max_examples=100)
@given(clusters(most=16), st.integers(1, 5))
def test_founding(cluster: list[Member], replicas: int) -> None:
    """A first table of any cluster has all properties at once."""
    table = place(None, cluster, replicas, POWER)
    check_step(None, table, cluster)
    check_balanced(table, cluster)


@settings(deadline=None, max_examples=80)
@given(clusters(), st.integers(1, 4), st.data())
def test_one_join_or_leave(cluster: list[Member], replicas: int, data: st.DataObject) -> None:
    """Along any history of single joins and leaves, under any weights, rings stay whole, spread and fair.

    Owners, zones and the one move per partition hold at once; balance may rarely need a second step.
    """
    zones = sorted({one.zone for one in cluster} | {"zone-new"})
    weights = data.draw(st.sampled_from(sorted(WEIGHTS)))
    table = place(None, cluster, replicas, POWER)
    for step in range(4):
        if len(cluster) == 1 or data.draw(st.booleans()):
            weight, zone = data.draw(WEIGHTS[weights]), data.draw(st.sampled_from(zones))
            cluster = [*cluster, member(2_000_000 + step, zone=zone, weight=weight)]
        else:
            leaver = data.draw(st.sampled_from(cluster))
            cluster = [one for one in cluster if one is not leaver]
        old, table = table, place(table, cluster, replicas, POWER)
        check_step(old, table, cluster)
        assert zones_off(table, cluster) == [], "R2"
        for _ in range(2):
            old, table = table, place(table, cluster, replicas, POWER)
            check_step(old, table, cluster)
        check_balanced(table, cluster)


@pytest.mark.parametrize("weights", [(1,), (1, 2, 4, 8)])
@pytest.mark.parametrize("zones", [1, 2, 3, 5, None])
def test_growing_and_shrinking_a_peer_at_a_time(zones: int | None, weights: tuple[int, ...]) -> None:
    """From one peer to twelve and back to one: every single step ends balanced at once."""
    cluster = [
        dataclasses.replace(one, weight=weights[at % len(weights)] * 10**12)
        for at, one in enumerate(members(12, zones=zones))
    ]
    history = [cluster[:size] for size in range(1, 13)] + [cluster[at:] for at in range(1, 12)]
    table = None
    for present in history:
        old, table = table, place(table, present, 3, POWER)
        check_step(old, table, present)
        check_balanced(table, present)


@settings(deadline=None, max_examples=80)
@given(clusters(), clusters(), st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_change_converges(
    before: list[Member], fresh: list[Member], was: int, replicas: int, rng: random.Random
) -> None:
    """Members, weights, zones and replicas all changed at once: single moves per step lead to balance."""
    stay = [one for one in before if rng.random() < 0.6]
    ids = {one.id for one in stay}
    joined = [one for one in fresh if one.id not in ids]
    changed = [
        dataclasses.replace(one, zone=rng.choice(fresh).zone, weight=rng.choice(fresh).weight) for one in stay
    ]
    after = [*changed, *joined] or fresh
    table = place(None, before, was, POWER)
    for _ in range(STEPS_TO_BALANCE):
        old, table = table, place(table, after, replicas, POWER)
        check_step(old, table, after)
        if old == table:
            break
    check_balanced(table, after)


@settings(deadline=None, max_examples=60)
@given(clusters(least=2), clusters(least=2), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(
    before: list[Member], after: list[Member], replicas: int, rng: random.Random
) -> None:
    """Equal inputs in different orders give the same bytes, with and without a previous table."""
    shuffled, reshuffled = before[:], after[:]
    rng.shuffle(shuffled)
    rng.shuffle(reshuffled)
    one, other = place(None, before, replicas, POWER), place(None, shuffled, replicas, POWER)
    assert one.encode() == other.encode()
    assert place(one, after, replicas, POWER).encode() == place(other, reshuffled, replicas, POWER).encode()


@settings(deadline=None, max_examples=80)
@given(clusters(least=3, most=12), st.integers(2, 5))
def test_distinct_zones_whenever_there_are_enough(cluster: list[Member], replicas: int) -> None:
    """At least N zones: no two replicas share one, whatever the weights, and however it came about."""
    table = place(place(None, cluster[:-1], replicas, POWER), cluster, replicas, POWER)
    zone_of = {one.id: one.zone for one in cluster}
    if len(set(zone_of.values())) >= replicas:
        for partition in range(table.partitions):
            assert len({zone_of[owner] for owner in table.owners(partition)}) == replicas


def test_the_ring_does_not_depend_on_labels() -> None:
    """Names and addresses are labels: only ids, zones and weights place anything."""
    cluster = members(6, zones=3)
    renamed = [dataclasses.replace(one, name="x", host="y", peer_port=1) for one in cluster]
    assert place(None, cluster, 3, POWER) == place(None, renamed, 3, POWER)


def test_only_ratios_of_weights_matter() -> None:
    """Bytes or terabytes: scaling all weights changes nothing."""
    cluster = [member(at, weight=at) for at in range(1, 9)]
    scaled = [member(at, weight=at * 10**15) for at in range(1, 9)]
    assert place(None, cluster, 3, POWER) == place(None, scaled, 3, POWER)


def test_one_two_three_members_add_replicas() -> None:
    """A cluster that grows from one peer fills missing replicas: nothing is taken from anybody."""
    table = place(None, members(1), 3, 12)
    assert table.width == 1 and table.partitions_of(member(1).id) == 4096
    for size in (2, 3):
        old, table = table, place(table, members(size), 3, 12)
        assert table.width == size
        assert moved(old, table) == 0
        assert sum(1 for _ in moves(old, table)) == 4096
        assert all(table.partitions_of(one.id) == 4096 for one in members(size))


def test_more_and_fewer_replicas() -> None:
    """Raising N only adds owners, lowering it only drops them; both end balanced over distinct zones."""
    cluster = members(9, zones=5)
    table = place(None, cluster, 2, POWER)
    for replicas in (3, 5, 4, 1, 3):
        old, table = table, place(table, cluster, replicas, POWER)
        for partition in range(table.partitions):
            before, after = set(old.owners(partition)), set(table.owners(partition))
            assert before <= after or after <= before or len(before & after) >= min(len(before), replicas) - 1
        assert moved(old, table) <= 12, "who has too much drops it: hardly anything is left to move"
        check_balanced(table, cluster)


def test_everyone_but_one_gone() -> None:
    """The last member of a ring owns everything, whoever left at once."""
    cluster = members(7, zones=3)
    table = place(place(None, cluster, 3, POWER), cluster[-1:], 3, POWER)
    assert table.member_ids == (cluster[-1].id,)
    assert all(table.owners(partition) == (cluster[-1].id,) for partition in range(256))


def test_none_of_the_old_members_left() -> None:
    """A table whose members are all gone is no obstacle: the new ones own everything, balanced."""
    table = place(place(None, members(4), 3, POWER), [member(at) for at in range(10, 16)], 3, POWER)
    check_balanced(table, [member(at) for at in range(10, 16)])


@pytest.mark.parametrize("zones", [1, 3, 5, None])
def test_three_hundred_members(zones: int | None) -> None:
    """The full size: 4,096 partitions over 300 members, then one more, stay within one partition."""
    cluster = members(301, zones=zones)
    table = place(None, cluster[:-1], 3, 12)
    grown = place(table, cluster, 3, 12)
    for one, present in ((table, cluster[:-1]), (grown, cluster)):
        assert zones_off(one, present) == [] and loads_off(one, present) == []
    assert moved(table, grown) <= 41 and live_losses(table, grown, cluster) <= 1


def test_replicas_are_mixed() -> None:
    """A member shares its partitions with nearly all others, so that many help when it is lost."""
    cluster = members(30)
    table = place(None, cluster, 3, 12)
    for one in cluster[:5]:
        partners = {
            owner
            for partition in range(4096)
            if one.id in table.owners(partition)
            for owner in table.owners(partition)
        }
        assert len(partners) >= 28


@pytest.mark.parametrize(
    ("cluster", "replicas", "power", "message"),
    [
        ([], 3, 12, "at least one member"),
        (members(2) + members(1), 3, 12, "share the id"),
        (members(2), 0, 12, "replicas"),
        (members(2), 17, 12, "replicas"),
        (members(2), True, 12, "replicas"),
        (members(2), 3, 7, "partition power"),
        (members(2), 3, 17, "partition power"),
        (members(2), 3, 9, "fixed at 8 when the cluster was founded"),
    ],
)
def test_bad_input(cluster: list[Member], replicas: int, power: int, message: str) -> None:
    """What cannot be placed is refused with a reason."""
    previous = place(None, members(3), 3, 8)
    with pytest.raises(ValueError, match=message):
        place(previous, cluster, replicas, power)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(WEIGHTS["uneven"], min_size=1, max_size=3), st.lists(WEIGHTS["uneven"], min_size=3, max_size=8)
)
def test_two_zones_each_keep_a_replica(small: list[int], large: list[int]) -> None:
    """Two zones at N = 3: whatever joins, leaves or weighs, no partition has all its replicas in one."""
    left = [member(at, zone="left", weight=weight) for at, weight in enumerate(small, 1)]
    right = [member(at, zone="right", weight=weight) for at, weight in enumerate(large, 10)]
    table = None
    for cluster in (left + right[:3], left + right, left[:1] + right, left + right[1:]):
        table = place(table, cluster, 3, POWER)
        zone_of = {one.id: one.zone for one in cluster}
        for partition in range(table.partitions):
            assert len({zone_of[owner] for owner in table.owners(partition)}) == 2
