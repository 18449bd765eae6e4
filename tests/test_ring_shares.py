"""Fair shares: water-filling under the zone rules, in exact fractions."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.members import Member
from ring.shares import fair_shares, whole_targets, zone_bounds
from tests.ring_samples import clusters, member, members


def shares_by_name(cluster: list[Member], replicas: int) -> dict[str, Fraction]:
    by_id = fair_shares(cluster, replicas)
    return {one.name: by_id[one.id] for one in cluster}


@pytest.mark.parametrize(
    ("sizes", "replicas", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, 3, {"a": (0, 1), "b": (0, 1), "c": (0, 1)}),
        ({"a": 9, "b": 1, "c": 1, "d": 1}, 3, {"a": (0, 1), "b": (0, 1), "c": (0, 1), "d": (0, 1)}),
        ({"a": 5}, 3, {"a": (2, 3)}),
        ({"a": 2}, 3, {"a": (1, 2)}),
        ({"a": 4, "b": 4}, 3, {"a": (1, 2), "b": (1, 2)}),
        ({"a": 1, "b": 9}, 5, {"a": (1, 1), "b": (3, 4)}),
        ({"a": 9, "b": 9, "c": 9}, 5, {"a": (1, 2), "b": (1, 2), "c": (1, 2)}),
    ],
)
def test_zone_bounds(sizes: dict[str, int], replicas: int, expected: dict[str, tuple[int, int]]) -> None:
    """S2: distinct zones if there are N, otherwise as even as the zones' sizes permit."""
    assert zone_bounds(sizes, replicas) == expected


def test_equal_members_have_equal_shares() -> None:
    """Five equal members at N = 3 each hold three fifths."""
    assert set(shares_by_name(members(5), 3).values()) == {Fraction(3, 5)}


def test_shares_follow_weight() -> None:
    """Without a cap in the way, twice the capacity is twice the share."""
    cluster = [member(at, weight=10**12 * (2 if at > 6 else 1)) for at in range(1, 9)]
    shares = shares_by_name(cluster, 3)
    assert shares["peer-7"] == 2 * shares["peer-1"] == Fraction(3, 5)


def test_a_member_holds_at_most_one_replica_of_a_partition() -> None:
    """S1: a giant is capped at everything once, and the rest is shared as if it were not there."""
    cluster = [member(1, weight=10**15), *(member(at) for at in range(2, 6))]
    assert shares_by_name(cluster, 3) == {"peer-1": 1, **{f"peer-{at}": Fraction(1, 2) for at in range(2, 6)}}


def test_three_zones_hold_one_copy_each_whatever_they_weigh() -> None:
    """Distinctness wins over balance: zones of 1, 1 and 100 members at N = 3 hold one copy each."""
    cluster = [member(1, zone="a"), member(2, zone="b"), *(member(at, zone="c") for at in range(3, 103))]
    shares = shares_by_name(cluster, 3)
    assert shares["peer-1"] == shares["peer-2"] == 1
    assert {shares[f"peer-{at}"] for at in range(3, 103)} == {Fraction(1, 100)}


def test_two_zones_both_hold_a_copy() -> None:
    """With fewer zones than N the small one still holds one copy, so that losing either loses no data."""
    cluster = [member(1, zone="a"), *(member(at, zone="b", weight=10**13) for at in range(2, 6))]
    shares = shares_by_name(cluster, 3)
    assert shares == {"peer-1": 1, **{f"peer-{at}": Fraction(1, 2) for at in range(2, 6)}}


@settings(deadline=None, max_examples=150)
@given(clusters(most=30), st.integers(1, 6))
def test_the_laws_of_shares(cluster: list[Member], replicas: int) -> None:
    """Shares add up, respect S1 and S2, and follow weight wherever neither is in the way (S3)."""
    shares = fair_shares(cluster, replicas)
    assert sum(shares.values()) == min(replicas, len(cluster))
    bounds = zone_bounds(Counter(one.zone for one in cluster), replicas)
    totals: dict[str, Fraction] = defaultdict(Fraction)
    for one in cluster:
        assert 0 < shares[one.id] <= 1
        totals[one.zone] += shares[one.id]
    unbounded = set()
    for zone, (low, high) in bounds.items():
        assert low <= totals[zone] <= high
        if low < totals[zone] < high:
            unbounded.add(zone)
        levels = {shares[one.id] / one.weight for one in cluster if one.zone == zone and shares[one.id] < 1}
        assert len(levels) <= 1
    across = {shares[one.id] / one.weight for one in cluster if one.zone in unbounded and shares[one.id] < 1}
    assert len(across) <= 1


@settings(deadline=None, max_examples=60)
@given(clusters(least=2, most=20), st.integers(1, 5))
def test_a_join_takes_from_everyone_and_gives_to_nobody(cluster: list[Member], replicas: int) -> None:
    """Nobody's share grows when a member joins (the cluster being full): the reason one step suffices."""
    *present, _joiner = cluster
    if len(present) < replicas:
        return
    before, after = fair_shares(present, replicas), fair_shares(cluster, replicas)
    assert all(after[one.id] <= before[one.id] for one in present)


@settings(deadline=None, max_examples=100)
@given(clusters(), st.integers(1, 5), st.data())
def test_whole_targets(cluster: list[Member], replicas: int, data: st.DataObject) -> None:
    """Rounding is up or down by less than one, exact in sum, for members and for zones."""
    shares = list(fair_shares(cluster, replicas).values())
    ordered = sorted(cluster, key=lambda one: one.id)
    by_member = fair_shares(cluster, replicas)
    shares = [by_member[one.id] for one in ordered]
    zones = sorted({one.zone for one in cluster})
    zone_of = [zones.index(one.zone) for one in ordered]
    held = data.draw(st.lists(st.integers(0, 256), min_size=len(cluster), max_size=len(cluster)))
    targets = whole_targets(shares, zone_of, held, 256)
    assert sum(targets) == min(replicas, len(cluster)) * 256
    for share, target in zip(shares, targets, strict=True):
        assert abs(share * 256 - target) < 1
    for zone in range(len(zones)):
        inside = [at for at, wanted in enumerate(zone_of) if wanted == zone]
        assert abs(sum(shares[at] for at in inside) * 256 - sum(targets[at] for at in inside)) < 1


def test_rounding_moves_nothing() -> None:
    """Of five members with a share of 153.6, the three that hold 154 keep them, whatever their ids."""
    held = [154, 153, 154, 153, 154]
    assert whole_targets([Fraction(3, 5)] * 5, [0] * 5, held, 256) == held
    assert whole_targets([Fraction(3, 5)] * 5, [0, 1, 2, 3, 4], held, 256) == held


def test_no_members_have_no_shares() -> None:
    """An empty ring is an error that says so."""
    with pytest.raises(ValueError, match="at least one member"):
        fair_shares([], 3)
