"""Automatic removal, as a policy: whom one peer would have removed, given what it saw (V1 to V6 of ring/eviction.py)."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ring.changes import (
    ChangeRefused,
    aborted,
    drained,
    joined,
    joint_of,
    redone_without,
    removed,
    with_replicas,
)
from ring.epoch import Epoch
from ring.eviction import (
    PAUSE_S,
    TURN_S,
    Sightings,
    prospects,
    to_remove,
    turn_s,
    waits_for,
    words_of,
)
from ring.members import ACTIVE, Member
from ring.placement import place
from tests.ring_samples import POWER, clusters, member, members

AFTER_S = 900.0


def epoch_of(cluster: list[Member], replicas: int = 3) -> Epoch:
    return Epoch(
        generation=0, number=7, kind="final", cluster_id="a7" * 16, members=tuple(cluster), replicas=replicas,
        partition_power=POWER, format_level=1, chunk_bytes=1 << 22, table=place(None, cluster, replicas, POWER),
        previous=None, root_access_key="", root_secret_key="",
    )  # fmt: skip


def dead_for(seconds: float, *who: Member) -> dict[str, float]:
    return {one.id: seconds for one in who}


def why_not(epoch: Epoch, dead_s: dict[str, float], after_s: float = AFTER_S) -> str:
    """Why nobody is removed; all of them have the same reason here."""
    (why,) = {one.why_not for one in prospects(epoch, dead_s, after_s)}
    return why


# --- what is removed


def test_a_dead_member_is_removed_when_its_time_has_come() -> None:
    """Goal: not before, and whoever asks is told how long it still takes."""
    four = members(4)
    epoch = epoch_of(four)
    (soon,) = prospects(epoch, dead_for(AFTER_S - 60, four[1]), AFTER_S)
    assert (soon.member, soon.left_s, soon.why_not, soon.due) == (four[1].id, 60.0, "", False)
    assert to_remove(epoch, dead_for(AFTER_S - 0.1, four[1]), AFTER_S) is None
    now = to_remove(epoch, dead_for(AFTER_S, four[1]), AFTER_S)
    assert now is not None and now.member == four[1].id
    assert removed(epoch, now.member).member(four[1].id) is None
    assert to_remove(epoch, {}, AFTER_S) is None


def test_automatic_removal_can_be_off() -> None:
    """Goal: `evict_after` 0 removes nobody, ever, and says so."""
    four = members(4)
    assert why_not(epoch_of(four), dead_for(1e9, four[0]), 0) == "automatic removal is off"


def test_never_below_as_many_members_as_replicas() -> None:
    """Goal: the third of three stays (V2), and so does the fourth of five when a living one is drained."""
    three, five = members(3), members(5)
    assert why_not(epoch_of(three), dead_for(1e6, three[0])) == "2 peers would be left for 3 replicas"
    epoch = drained(drained(epoch_of(five), five[0].id), five[1].id)
    assert "2 peers would be left" in why_not(epoch, dead_for(1e6, five[2]))


def test_a_drained_member_that_dies_is_removed() -> None:
    """Goal: what owns nothing is not missed: it may go though only as many others are left as there are replicas."""
    four = members(4)
    epoch = drained(epoch_of(four), four[0].id)
    assert epoch.table.partitions_of(four[0].id) == 0
    now = to_remove(epoch, dead_for(AFTER_S, four[0]), AFTER_S)
    assert now is not None and now.member == four[0].id


def test_never_while_an_owner_set_has_lost_its_majority() -> None:
    """Goal: with two owners of something dead nobody is removed (V3), though both are in one zone."""
    six = members(6, zones=2)
    east = [one for one in six if one.zone == "zone-0"][:2]
    epoch = epoch_of(six)
    assert any({one.id for one in east} <= set(owners) for owners in epoch.table.all_owners)
    assert "lost" in why_not(epoch, dead_for(1e6, *east))
    two = members(3)
    assert "lost" in why_not(epoch_of(two, 2), dead_for(1e6, two[0]))  # of two owners both are needed


def test_never_while_more_than_one_zone_is_dead() -> None:
    """Goal: two whole zones look like a cut; two members of zones that live do not."""
    zones = [member(at, zone=f"zone-{at // 4}") for at in range(40)]
    epoch = epoch_of(zones)
    scattered = dead_for(AFTER_S, zones[0], zones[5])
    apart = not any(zones[0].id in owners and zones[5].id in owners for owners in epoch.table.all_owners)
    assert (to_remove(epoch, scattered, AFTER_S) is not None) == apart
    hosts = members(40)
    epoch = epoch_of(hosts)
    first = hosts[0].id
    with_first = {owner for owners in epoch.table.all_owners if first in owners for owner in owners}
    other = next(one for one in hosts if one.id not in with_first)
    assert why_not(epoch, dead_for(1e6, hosts[0], other)).startswith("2 zones are dead (host-")
    assert to_remove(epoch, dead_for(1e6, hosts[0]), AFTER_S) is not None


def test_one_at_a_time_the_longest_dead_first() -> None:
    """Goal: of several that may be removed it is always the same one (V5)."""
    rack = [*members(9), *(member(at, zone="rack") for at in (100, 101))]
    epoch = epoch_of(rack, 1)  # nobody shares a partition
    one, other = rack[-2:]
    epoch = drained(drained(epoch, one.id), other.id)
    now = to_remove(epoch, {one.id: AFTER_S, other.id: AFTER_S + 1}, AFTER_S)
    assert now is not None and now.member == other.id
    told = [one.member for one in prospects(epoch, {one.id: AFTER_S, other.id: AFTER_S + 1}, AFTER_S)]
    assert told == [other.id, one.id]


# --- while the ring changes (V4)


def test_a_change_that_can_end_comes_first() -> None:
    """Goal: a dead member that a change does not wait for stays until it has ended."""
    five = members(5)
    base = epoch_of(five)
    joint = joint_of(base, removed(base, five[0].id))
    assert not waits_for(joint, five[0].id)
    assert why_not(joint, dead_for(1e6, five[0])) == "the ring is being changed, which comes first"


def test_a_joiner_that_died_is_given_up() -> None:
    """Goal: its change would wait for it for ever; given up, the ring is as before, whatever else is wrong."""
    three, new = members(3), member(9)
    base = epoch_of(three)
    joint = joint_of(base, joined(base, new))
    assert waits_for(joint, new.id)
    now = to_remove(joint, dead_for(AFTER_S, new), AFTER_S)
    assert now is not None and now.member == new.id
    back = aborted(joint)
    assert back.members == base.members and redone_without(back, joint, new.id) is back


def test_a_member_that_died_over_a_join_is_left_out_of_it() -> None:
    """Goal: the change is made anew without it; the joiner takes its place, so that three are left of three."""
    three, new = members(3), member(9)
    base = epoch_of(three)
    joint = joint_of(base, joined(base, new))
    dead = three[1]
    now = to_remove(joint, dead_for(AFTER_S, dead), AFTER_S)
    assert now is not None and now.member == dead.id
    anew = redone_without(aborted(joint), joint, dead.id)
    assert {one.id for one in anew.members} == {three[0].id, three[2].id, new.id}
    assert to_remove(aborted(joint), dead_for(AFTER_S, dead), AFTER_S) is None  # alone it would not be


def test_a_change_of_replicas_is_made_anew_without_a_dead_member() -> None:
    """Goal: whether enough are left is judged by the replicas that are wanted, in the policy and in the change."""
    four = members(4)
    base = epoch_of(four, 4)
    joint = joint_of(base, with_replicas(base, 3))
    dead = four[2]
    assert waits_for(joint, dead.id)
    now = to_remove(joint, dead_for(AFTER_S, dead), AFTER_S)
    assert now is not None
    anew = redone_without(aborted(joint), joint, dead.id)
    assert anew.replicas == 3 and anew.member(dead.id) is None


def test_more_replicas_than_are_left_are_given_up() -> None:
    """Goal: four replicas were wanted and one of the four died over it: it is removed, and three replicas stay three."""
    four = members(4)
    base = epoch_of(four)
    joint = joint_of(base, with_replicas(base, 4))
    now = to_remove(joint, dead_for(AFTER_S, four[2]), AFTER_S)
    assert now is not None
    anew = redone_without(aborted(joint), joint, four[2].id)
    assert anew.replicas == 3 and {one.id for one in anew.members} == {four[at].id for at in (0, 1, 3)}


def test_a_drain_that_another_one_died_over_is_given_up() -> None:
    """Goal: of four one is drained and another one dies: two would be left for three replicas, so the drained one stays."""
    four = members(4)
    base = epoch_of(four)
    joint = joint_of(base, drained(base, four[0].id, leave=True))
    now = to_remove(joint, dead_for(AFTER_S, four[1]), AFTER_S)
    assert now is not None
    anew = redone_without(aborted(joint), joint, four[1].id)
    assert {(one.id, one.state) for one in anew.members} == {(four[at].id, ACTIVE) for at in (0, 2, 3)}


# --- what one peer saw (V1)


class Watch:
    """A peer that looks once a second, at a cluster of which some are dead."""

    def __init__(self, epoch: Epoch, me: Member) -> None:
        self.epoch = epoch
        self.seen = Sightings(me.id)
        self.now_s = 5000.0

    def look(self, dead: Collection[Member], for_s: float = 0.0) -> None:
        until_s = self.now_s + for_s
        gone = {one.id for one in dead}
        while True:
            self.seen.look(self.epoch, lambda who: who not in gone, self.now_s)
            if self.now_s >= until_s:
                return
            self.now_s += 1.0

    @property
    def due(self) -> str | None:
        now = to_remove(self.epoch, self.seen.dead_s(), AFTER_S)
        return now.member if now is not None else None


def test_counting_begins_with_the_first_look() -> None:
    """Goal: who was dead before this peer started has its whole time still."""
    five = members(5)
    watch = Watch(epoch_of(five), five[0])
    watch.look([five[1]], AFTER_S - 1)
    assert watch.due is None
    watch.look([five[1]], 1)
    assert watch.due == five[1].id


def test_whoever_came_back_has_its_whole_time_again() -> None:
    """Goal: dead means without a break."""
    five = members(5)
    watch = Watch(epoch_of(five), five[0])
    watch.look([five[1]], AFTER_S - 1)
    watch.look([])
    watch.look([five[1]], 30)
    assert watch.due is None and watch.seen.dead_s() == {five[1].id: 29.0 + 1.0}


def test_a_peer_that_was_paused_counts_from_anew() -> None:
    """Goal: what changed while it slept it cannot know."""
    five = members(5)
    watch = Watch(epoch_of(five), five[0])
    watch.look([five[1]], AFTER_S - 1)
    watch.now_s += PAUSE_S + 2
    watch.look([five[1]])
    assert watch.due is None and watch.seen.dead_s() == {five[1].id: 0.0} and watch.seen.restarts == 1


def test_a_peer_that_was_cut_off_counts_from_anew() -> None:
    """Goal: healed, it believes for a moment that those it could not see are dead; it removes none of them."""
    five = members(5)
    watch = Watch(epoch_of(five), five[0])
    watch.look(five[2:], 10 * AFTER_S)
    assert watch.seen.apart and watch.due is None
    watch.look(five[4:], AFTER_S - 1)
    assert not watch.seen.apart and watch.due is None


def test_whoever_answers_is_not_dead() -> None:
    """Goal: gossip's belief is not enough: a member that answers a call has its whole time again."""
    five = members(5)
    watch = Watch(epoch_of(five), five[0])
    watch.look([five[1]], AFTER_S)
    assert watch.due == five[1].id
    watch.seen.answered(five[1].id)
    assert watch.due is None


def test_in_a_joint_epoch_a_majority_of_both_rings_must_be_alive() -> None:
    """Goal: old members that are about to leave count, too."""
    seven = members(7)
    base = epoch_of(seven[:3])
    grown = replace(base, members=tuple(seven), table=place(base.table, seven, 3, POWER))
    watch = Watch(joint_of(base, grown), seven[6])
    watch.look(seven[:2])
    assert watch.seen.apart


def test_voters_take_turns() -> None:
    """Goal: living voters in the order of their ids, and nobody else (V6)."""
    nine = members(9)
    epoch = epoch_of(nine)
    voters = epoch.voters()
    turns = [turn_s(epoch, voter, {voters[1]}) for voter in voters]
    assert turns == [0.0, None, TURN_S, 2 * TURN_S, 3 * TURN_S]
    assert turn_s(epoch, next(one.id for one in nine if one.id not in voters), ()) is None


def test_a_joiner_gives_no_change_up() -> None:
    """Goal: it would be out of the ring with it, and could not make it anew (V6)."""
    three, new = members(3), member(9)
    base = epoch_of(three)
    joint = joint_of(base, joined(base, new))
    assert new.id in joint.voters() and turn_s(joint, new.id, ()) is None
    assert sorted(turn_s(joint, one.id, ()) or 0.0 for one in three) == [0.0, TURN_S, 2 * TURN_S]


@pytest.mark.parametrize(
    "seconds, words", [(4.2, "4 s"), (99, "99 s"), (240, "4 min"), (900, "15 min"), (9000, "2.5 h")]
)
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    """Goal: for the lines of `status`."""
    assert words_of(seconds) == words


# --- properties


@settings(deadline=None, max_examples=150)
@given(clusters(least=2, most=10), st.integers(1, 4), st.data())
def test_whoever_is_removed_may_be(cluster: list[Member], replicas: int, data: st.DataObject) -> None:
    """Goal: in any ring, with anybody dead for any time: what the policy removes, the ring's own rules allow, and nothing
    that only the dead held is given up. Of whom it does not remove, it says why, or when."""
    epoch = epoch_of(cluster, replicas)
    if data.draw(st.booleans()) and len(cluster) > replicas:
        epoch = drained(epoch, data.draw(st.sampled_from(cluster)).id)
    gone = data.draw(st.lists(st.sampled_from(cluster), unique=True, max_size=4))
    dead_s = {one.id: data.draw(st.sampled_from((0.0, 10.0, AFTER_S, 1e6))) for one in gone}
    now = to_remove(epoch, dead_s, AFTER_S)
    for one in prospects(epoch, dead_s, AFTER_S):
        assert (one.left_s is None) == bool(one.why_not)
    if now is None:
        return
    assert dead_s[now.member] >= AFTER_S
    after = removed(epoch, now.member)
    assert sum(one.state == ACTIVE for one in after.members) >= min(replicas, len(cluster) - 1)
    for owners in epoch.table.all_owners:
        assert 2 * sum(owner not in dead_s for owner in owners) > len(owners)
    whole = {one.zone for one in epoch.members if one.id not in dead_s}
    assert len({one.zone for one in epoch.members} - whole) <= 1
    rest = {who: for_s for who, for_s in dead_s.items() if who != now.member}
    assert not any(2 * sum(o not in rest for o in owners) <= len(owners) for owners in epoch.table.all_owners)


@settings(deadline=None, max_examples=60)
@given(clusters(least=4, most=9, kinds=("equal",)), st.data())
def test_a_change_is_overtaken_only_for_whom_it_waits(cluster: list[Member], data: st.DataObject) -> None:
    """Goal: for any joint epoch and any dead: who is removed blocks it, and it can be given up and made anew without it."""
    base = epoch_of(cluster[:-1])
    change = data.draw(st.sampled_from(("join", "drain", "remove")))
    victim = data.draw(st.sampled_from(cluster[:-1]))
    try:
        wanted = {
            "join": lambda: joined(base, cluster[-1]),
            "drain": lambda: drained(base, victim.id),
            "remove": lambda: removed(base, victim.id),
        }[change]()
    except ChangeRefused:
        return
    if wanted is base:
        return
    joint = joint_of(base, wanted)
    gone = data.draw(st.lists(st.sampled_from(list(joint.everybody)), unique=True, max_size=3))
    now = to_remove(joint, {one.id: AFTER_S for one in gone}, AFTER_S)
    if now is not None:
        assert waits_for(joint, now.member)
        anew = redone_without(aborted(joint), joint, now.member)
        assert anew.member(now.member) is None


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 4), max_size=4), st.sampled_from((1.0, 2.0, 4.0, 6.0, 900.0))),
        max_size=60,
    )
)
@example([({1, 2, 3}, 1.0), ({3}, 2.0), ({3}, 4.0)])
def test_nobody_is_removed_early(story: list[tuple[set[int], float]]) -> None:
    """Goal: whatever a peer sees, with pauses and cuts: when it has somebody removed, it looked at least every PAUSE_S for
    all of the time, saw a majority each time, and that member dead each time."""
    five = members(5)
    epoch = epoch_of(five)
    seen = Sightings(five[0].id)
    now_s, after_s = 0.0, 6.0
    looks: list[tuple[float, set[str]]] = []
    for who, passed_s in story:
        now_s += passed_s
        gone = {five[at].id for at in who}
        seen.look(epoch, lambda one, gone=gone: one not in gone, now_s)  # type: ignore[misc]
        looks.append((now_s, gone))
        now = to_remove(epoch, seen.dead_s(), after_s)
        if now is None:
            continue
        since = max(at for at, (when_s, _) in enumerate(looks) if when_s <= now_s - after_s)
        span = looks[since:]
        assert all(now.member in dead and len(dead) <= 2 for _, dead in span)
        assert all(b[0] - a[0] <= PAUSE_S for a, b in itertools.pairwise(span))
