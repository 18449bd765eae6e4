"""Deciding the next ring while no rows exist: Paxos, fences, and their end (E1 and E2 of epochs.py)."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peer.config import PeerConfig
from peer.entry import admit, enter
from peer.errors import AtollError, StartupError, Unavailable, UnknownOutcome
from peer.replication.agreement.epochs import tag_of
from peer.replication.agreement.proposals import RingRefused, again
from peer.replication.ballot import NONE
from peer.replication.keys import OBJECT, Space
from peer.replication.messages import (
    ACCEPT,
    CONFLICT,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_PREPARE,
    EPOCH_RELEASE,
    FENCED,
    IS_FULL,
    NO_GATE,
    OK,
)
from ring.changes import aborted, joined, removed, with_replicas
from ring.epoch import Epoch
from tests.replication_world import (
    KEY,
    POWER,
    ROW_REQUESTS,
    Peer,
    World,
    change_ring,
    error_of,
    grown,
    member,
    ring_of,
    simulate,
    tags_of,
    until,
)


def fenced(world: World) -> list[bool]:
    return [peer.replica.epochs.fenced for peer in world.peers]


def names(epoch: Epoch) -> list[str]:
    return [one.name for one in epoch.members]


async def fence(world: World, *peers: Peer) -> bytes:
    """A proposer prepares at these peers, and is never heard of again; its ballot."""
    ballot = world.ballot()
    for peer in peers:
        assert (await peer.ask(EPOCH_PREPARE, ballot, True))[0] == OK
    return ballot


# --- deciding


def test_peers_join_one_after_the_other() -> None:
    """Goal: a ring grows from one to five through any member, and everybody ends with the same epoch."""

    async def scenario(world: World, *peers: Peer) -> None:
        await world.found(peers[0])
        for number, peer in enumerate(peers[1:]):
            await peer.join(peers[number])
        await until(lambda: tags_of(*peers) == [5] * 5)
        assert len({peer.replica.epoch.encode() for peer in peers}) == 1
        assert [entry["number"] for entry in peers[0].replica.epochs.history()] == [1, 2, 3, 4, 5]
        await peers[4].put(b"v")
        assert await peers[1].get() == b"v"

    simulate(scenario, peers=5, founded=False)


def test_two_proposers_one_winner_and_the_loser_on_top() -> None:
    """Goal: two peers join through two seeds at once: two epochs one after the other, both in, none lost."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer, e: Peer) -> None:
        await world.found(a, b, c)
        await asyncio.gather(d.join(a), e.join(b))
        await until(lambda: tags_of(a, b, c, d, e) == [3] * 5)
        assert names(a.replica.epoch) == ["p1", "p2", "p3", "p4", "p5"]
        assert len({peer.replica.epoch.encode() for peer in world.peers}) == 1

    simulate(scenario, peers=5, founded=False)


def test_a_loser_that_missed_the_announcement_catches_up_and_proposes_on_top() -> None:
    """Goal: a proposer that is refused as stale learns the winner's epoch instead of blaming missing peers."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        with world.lost(EPOCH_DECIDED, to=c):
            await change_ring(a)
        assert tags_of(a, b, c) == [2, 2, 1]
        epoch = await c.replica.proposals.propose(lambda base: base if base.number == 3 else again(base))
        assert tag_of(epoch) == 3
        assert tags_of(a, b, c) == [3, 3, 3]

    simulate(scenario)


def test_an_accepted_value_is_finished_by_the_next_proposer() -> None:
    """Goal (Paxos): what one voter accepted may be decided, so the next proposer decides that, then its own."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ballot = await fence(world, a, b, c)
        theirs = again(a.replica.epoch)
        assert await b.ask(EPOCH_ACCEPT, ballot, theirs.encode()) == (OK,)
        mine = grown(a.replica.epoch, member(9))
        decided: list[int] = []

        def transform(base: Epoch) -> Epoch:
            decided.append(base.number)
            return mine if base.number == 1 else base

        epoch = await a.replica.proposals.propose(transform)
        assert decided == [1, 2]
        assert epoch == theirs

    simulate(scenario)


def test_an_acceptor_keeps_its_word_over_a_restart() -> None:
    """Goal (Paxos): promise, accepted value and fence of the next epoch are durable before they are told."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ballot = await fence(world, a)
        value = again(a.replica.epoch).encode()
        assert await a.ask(EPOCH_ACCEPT, ballot, value) == (OK,)
        await a.restart()
        assert a.replica.epochs.fenced
        assert await a.ask(EPOCH_PREPARE, ballot, True) == (CONFLICT, ballot)
        assert await a.ask(EPOCH_ACCEPT, world.ballot(-10_000_000), value) == (CONFLICT, ballot)
        higher = world.ballot(10_000_000)
        assert await a.ask(EPOCH_PREPARE, higher, True) == (OK, ballot, value, False)

    simulate(scenario)


def test_a_full_disk_promises_no_epoch() -> None:
    """Goal: an epoch prepare that cannot be made durable is refused; the change fails cleanly, later it works."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        b.disk.full = True
        assert await b.ask(EPOCH_PREPARE, world.ballot(), True) == (IS_FULL,)
        assert isinstance(await error_of(a.replica.proposals.propose(again, 1.0)), Unavailable)
        b.disk.full = False
        await c.put(b"v")
        assert await a.get() == b"v"

    simulate(scenario)


@pytest.mark.parametrize("found", [True, False])
def test_a_full_disk_keeps_no_epoch(found: bool, tmp_path: Path) -> None:
    """Goal: the epoch of a founder or joiner does not fit: a StartupError that says what to do, and nothing is in use;
    with room the same start works. (It went on to an AssertionError.)"""
    address = {} if found else {"join": (("127.0.0.1", 7402),)}
    config = PeerConfig(data=tmp_path, found=found, s3_port=7500, api_port=7501, peer_port=7502, **address)  # type: ignore[arg-type]

    async def scenario(world: World, a: Peer, b: Peer) -> None:
        await a.start(ring_of(a.member))
        await b.replica.begin()

        class Seed:
            """Its calls reach `a`, as those of a joiner on a real connection would."""

            async def call_address(self, host: str, port: int, message: Any, deadline_s: float) -> Any:
                future = world.loop.create_future()
                await admit(a.replica, seed, None, message, future.set_result)
                return await future

        b.disk.full = True
        replica = b.replica
        seed: Any = Seed()
        error = await error_of(enter(config, b.member, replica, seed))
        assert isinstance(error, StartupError)
        assert "disk is full" in str(error) and "free space there, then start it" in str(error)
        assert ("no cluster was founded" if found else "a member already") in str(error)
        assert (replica.epochs.current, replica.tag, replica.epochs.fenced) == (None, -1, False)
        assert not b.disk.kept(b"epoch")
        b.disk.full = False
        await enter(config, b.member, replica, seed)
        assert [member.id for member in replica.epoch.members] == ([b.id] if found else [a.id, b.id])

    simulate(scenario, peers=2, founded=False)


def test_a_full_disk_of_a_proposer_is_said_and_the_others_are_told() -> None:
    """Goal: the change is decided, its proposer cannot keep it: the outcome is not called a success, nor is it lost."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        def fill(*_: Any) -> None:
            a.disk.full = True

        with world.when(fill, EPOCH_DECIDED), world.when(fill, EPOCH_ACCEPT, to=b):
            error = await error_of(change_ring(a))
        assert isinstance(error, UnknownOutcome) and "free space" in str(error)
        assert tags_of(a, b, c) == [1, 2, 2]
        assert isinstance(await error_of(a.put(b"v")), AtollError)
        a.disk.full = False
        await a.put(b"v")
        assert tags_of(a, b, c) == [2, 2, 2]

    simulate(scenario)


# --- E1: no change over rows


def test_e1_a_member_without_rows_is_fenced_by_its_promise() -> None:
    """Goal (E1): from the prepare on it takes no row of this epoch, of any kind, also after a restart."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await fence(world, a)
        for request in ROW_REQUESTS:
            assert await a.ask(*request) == (FENCED,)
        await a.restart()
        assert await a.ask(*ROW_REQUESTS[1]) == (FENCED,)
        assert (await b.ask(*ROW_REQUESTS[0]))[0] == OK

    simulate(scenario)


def test_e1_a_row_whose_commit_is_pending_counts_as_held() -> None:
    """Goal (E1): a member that has queued a row says that it holds rows, and is not fenced."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        accept = a.ask(ACCEPT, KEY, world.ballot(), b"\0v", None, NO_GATE)
        prepare = a.ask(EPOCH_PREPARE, world.ballot(), True)
        assert not accept.done()
        assert await prepare == (OK, NONE, b"", True)
        assert not a.replica.epochs.fenced
        assert await accept == (OK,)

    simulate(scenario)


def test_e1_every_member_must_be_fenced_not_just_a_majority() -> None:
    """Goal (E1): with one member silent nobody joins a ring without rows, whoever it is, and nobody stays fenced; that one
    can be removed, in two steps."""

    async def scenario(world: World, *peers: Peer) -> None:
        voters = peers[0].replica.epoch.voters()
        assert len(voters) == 5
        for silent in peers[1:]:
            world.isolate(silent)
            error = await error_of(peers[0].replica.change_ring(partial(joined, member=member(9))))
            assert isinstance(error, Unavailable)
            world.join_up()
        assert tags_of(*peers) == [1] * 6
        await until(lambda: not any(fenced(world)))
        world.isolate(peers[5])
        epoch = await peers[0].replica.change_ring(partial(removed, member_id=peers[5].id))
        assert (epoch.kind, epoch.number) == ("joint", 2)

    simulate(scenario, peers=6)


def test_e1_rows_on_one_member_that_is_no_voter_are_enough_for_two_steps() -> None:
    """Goal (E1): a value that only a non-voter holds is not left behind by a change of the ring."""

    async def scenario(world: World, *peers: Peer) -> None:
        voters = peers[0].replica.epoch.voters()
        outside = next(peer for peer in peers if peer.id not in voters)
        key = next(key for key in map(_numbered, range(1000)) if outside in world.owners(key))
        await outside.plant(b"v", world.ballot(), key)
        epoch = await peers[0].replica.change_ring(partial(joined, member=member(9)))
        assert epoch.kind == "joint"

    simulate(scenario, peers=6)


def _numbered(number: int) -> bytes:
    return Space(OBJECT - 2, b"%08d" % number, 1, POWER).row_key(b"key")


@pytest.mark.parametrize("holding", [1, 2, 3])
def test_e1_a_join_into_a_ring_with_rows_is_joint_and_fences_nobody(holding: int) -> None:
    """Goal: also when only one or two members hold rows: the others were fenced by the first prepare."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        for peer in world.peers[:holding]:
            await peer.plant(b"v", world.ballot())
        epoch = await c.replica.change_ring(partial(joined, member=member(9)))
        assert (
            epoch.kind == "joint"
            and epoch.previous_members == ring_of(*(p.member for p in world.peers)).members
        )
        assert fenced(world) == [False] * 3
        start_s = world.now
        await c.put(b"w")
        assert await a.get() == b"w"
        assert world.now - start_s < 1.0

    simulate(scenario)


def test_a_change_under_way_refuses_another_and_an_abort_restores_what_was() -> None:
    """Goal: the loser is told; aborted, the ring has its old members and table again, whatever was changed."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        before = a.replica.epoch
        await a.replica.change_ring(partial(joined, member=member(9)))
        with pytest.raises(RingRefused) as refused:
            await b.replica.change_ring(partial(joined, member=member(8)))
        assert (refused.value.code, refused.value.status) == ("ChangeUnderWay", 409)
        await c.replica.change_ring(lambda base: aborted(base) if base.kind == "joint" else base)
        after = a.replica.epoch
        assert (after.kind, after.number) == ("final", before.number + 2)
        assert (after.members, after.table, after.replicas) == (before.members, before.table, before.replicas)
        assert await b.get() == b"v"

    simulate(scenario)


def test_two_peers_change_a_ring_with_rows_at_once() -> None:
    """Schedule 2: peers change a ring with rows at once: one epoch, and the losers are told; then everybody has the same."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"v")
        outcomes = await asyncio.gather(
            a.replica.change_ring(partial(joined, member=member(8))),
            b.replica.change_ring(partial(with_replicas, replicas=2)),
            c.replica.change_ring(partial(joined, member=member(9))),
            return_exceptions=True,
        )
        decided = [outcome for outcome in outcomes if isinstance(outcome, Epoch)]
        told = [outcome for outcome in outcomes if isinstance(outcome, RingRefused)]
        assert (len(decided), len(told)) == (1, 2)
        assert {outcome.code for outcome in told} == {"ChangeUnderWay"}
        await until(lambda: tags_of(a, b, c) == [2, 2, 2])
        assert {peer.replica.epoch.encode() for peer in world.peers} == {decided[0].encode()}
        assert await c.get() == b"v"

    simulate(scenario)


def test_a_change_in_one_step_that_may_be_decided_is_finished_behind_fences() -> None:
    """Goal (J3): a joint proposal meets an accepted change in one step and decides that first, as nobody holds rows."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ballot = await fence(world, a, b, c)
        theirs = grown(a.replica.epoch, member(9))
        assert await b.ask(EPOCH_ACCEPT, ballot, theirs.encode()) == (OK,)
        await c.replica.change_ring(lambda base: again(base) if base.number < 3 else base)
        assert [entry["number"] for entry in c.replica.epochs.history()] == [1, 2, 3]
        assert names(c.replica.epoch) == ["p1", "p2", "p3", "p9"]

    simulate(scenario)


def test_a_change_in_one_step_is_dead_once_a_member_holds_rows() -> None:
    """Goal (J3): its fences were released, so it cannot be decided any more, and must not be: rows were written since."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ballot = await fence(world, a, b, c)
        theirs = grown(a.replica.epoch, member(9))
        assert await b.ask(EPOCH_ACCEPT, ballot, theirs.encode()) == (OK,)
        higher = world.ballot(1_000_000)
        for peer in (a, b, c):
            assert (await peer.ask(EPOCH_PREPARE, higher, True))[0] == OK
            assert await peer.ask(EPOCH_RELEASE, higher) == (OK,)
        await a.put(b"v")
        epoch = await c.replica.change_ring(lambda base: again(base) if base.number == 1 else base)
        assert names(epoch) == ["p1", "p2", "p3"]
        assert await b.get() == b"v"

    simulate(scenario)


# --- E2: fences end


def test_e2_a_release_needs_the_ballot_that_stands() -> None:
    """Goal (E2): the release of a proposer that was overtaken does not open what a higher one fenced."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        lower = await fence(world, a)
        higher = world.ballot(1_000_000)
        assert (await a.ask(EPOCH_PREPARE, higher, True))[0] == OK
        assert await a.ask(EPOCH_RELEASE, lower) == (CONFLICT, higher)
        assert a.replica.epochs.fenced
        assert await a.ask(EPOCH_RELEASE, higher) == (OK,)
        assert not a.replica.epochs.fenced
        await a.restart()
        assert not a.replica.epochs.fenced

    simulate(scenario)


def test_e2_no_release_while_a_lower_ballot_may_be_decided() -> None:
    """Goal (E2): one of three accepted and one is silent: that may be a majority, so the fences stay.

    The epoch was in fact decided; a row taken now under the old one would be lost. When the silent one is
    back, the next request finishes the epoch and is served under it.
    """

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        ballot = await fence(world, a, b, c)
        value = grown(a.replica.epoch, member(9))
        for voter in (b, c):
            assert await voter.ask(EPOCH_ACCEPT, ballot, value.encode()) == (OK,)
        world.isolate(c)
        assert isinstance(await error_of(a.replica.proposals.propose(again, 3.0)), Unavailable)
        assert fenced(world) == [True] * 3
        assert isinstance(await error_of(a.put(b"lost")), Unavailable)
        world.join_up()
        await a.put(b"kept")
        assert a.replica.epoch == value
        assert await c.get() == b"kept"

    simulate(scenario)


def test_e2_fences_of_a_proposer_that_died_are_lifted_by_the_next_request() -> None:
    """Goal: nobody finishes the change that fenced the members, so a put decides the same ring anew."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await fence(world, a, b, c)
        await b.put(b"v")
        assert await c.get() == b"v"
        await until(lambda: tags_of(a, b, c) == [2, 2, 2])
        assert b.replica.epoch.members == ring_of(a.member, b.member, c.member).members

    simulate(scenario)


def test_e2_a_fence_on_one_member_does_not_stop_the_others() -> None:
    """Goal: two of three owners serve past a fenced one; when one of them falls silent, the fence is lifted."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await fence(world, c)
        await a.put(b"v")
        assert tags_of(a, b, c) == [1, 1, 1]
        assert fenced(world) == [False, False, True]
        world.isolate(b)
        await a.put(b"w")
        assert fenced(world) == [False] * 3
        assert (a.holds(), c.holds()) == (b"w", b"w")
        assert tags_of(a, b, c) == [2, 1, 2]

    simulate(scenario)
