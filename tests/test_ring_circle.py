"""The token circle: the clockwise walk, its order, and how little a changed member disturbs it."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ring.circle import TOKENS_PER_MEMBER, Circle
from ring.members import Member
from tests.ring_samples import POWER, clusters, member, members


@settings(deadline=None, max_examples=40)
@given(clusters(), st.integers(0, 255))
def test_walk_meets_every_member_once(cluster: list[Member], partition: int) -> None:
    """A walk yields each member exactly once, in the order of the distances to their next tokens."""
    circle = Circle(cluster)
    walk = list(circle.walk(partition, POWER))
    assert sorted(walk) == sorted(one.id for one in cluster)
    distances = [circle.distance(member_id, partition, POWER) for member_id in walk]
    assert distances == sorted(distances)
    assert all(0 <= distance < 1 << 64 for distance in distances)


@settings(deadline=None, max_examples=40)
@given(clusters(), st.integers(0, 255), st.randoms(use_true_random=False))
def test_order_is_the_walk_of_some(cluster: list[Member], partition: int, rng: random.Random) -> None:
    """Ordering a few members by bisection gives exactly what walking past all of them would."""
    circle = Circle(cluster)
    some = {one.id for one in cluster if rng.random() < 0.5}
    assert circle.order(some, partition, POWER) == [
        one for one in circle.walk(partition, POWER) if one in some
    ]


def test_walk_does_not_depend_on_the_order_of_members() -> None:
    """The circle is a function of the set of members."""
    cluster = members(7)
    one, other = Circle(cluster), Circle(cluster[::-1])
    for partition in range(256):
        assert list(one.walk(partition, POWER)) == list(other.walk(partition, POWER))


def test_first_places_follow_weight() -> None:
    """A member of three times the weight comes first about three times as often."""
    cluster = [*members(9, weight=10**12), member(10, weight=3 * 10**12)]
    circle = Circle(cluster)
    firsts = Counter(next(circle.walk(partition, 12)) for partition in range(4096))
    heavy = firsts.pop(cluster[-1].id)
    assert 2.2 < heavy / (sum(firsts.values()) / len(firsts)) < 3.8


def test_a_tiny_member_still_has_a_token() -> None:
    """Even a member a million times lighter than the rest is found by every walk."""
    cluster = [*members(3, weight=10**15), member(9, weight=1)]
    assert all(cluster[-1].id in Circle(cluster).walk(partition, POWER) for partition in (0, 100, 255))


def test_a_join_leaves_the_order_of_the_others() -> None:
    """With equal weights a new member only inserts itself: everyone else keeps their relative order."""
    cluster = members(8)
    before, after = Circle(cluster), Circle([*cluster, member(9)])
    newcomer = member(9).id
    for partition in range(256):
        walk = [one for one in after.walk(partition, POWER) if one != newcomer]
        assert walk == list(before.walk(partition, POWER))


def test_the_size_of_the_circle_is_bounded() -> None:
    """However uneven the weights, the tokens are bounded by the number of members, not by capacity."""
    cluster = [dataclasses.replace(one, weight=8**at) for at, one in enumerate(members(20))]
    circle = Circle(cluster)
    assert sum(map(len, circle._tokens.values())) <= 20 * (TOKENS_PER_MEMBER + 1)
