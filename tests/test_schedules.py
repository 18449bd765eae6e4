"""Named schedules of the fifteen in docs/testing.md that no other file holds, on virtual time.

Each test says which one it is. What takes real processes is in `test_cluster_schedules`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from peer.errors import AtollError, Conflict, Refused, Unavailable
from peer.replication.agreement.epochs import tag_of
from peer.replication.chunks.rows import chunk_key
from peer.replication.copying.registersync import REGISTERS
from peer.replication.keys import partition_in
from peer.replication.messages import (
    COPY_DIGESTS,
    COPY_FETCH,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_GET,
    FAILED,
    NO_GATE,
    STALE,
)
from peer.replication.registers.register import Current
from ring.changes import drained
from ring.epoch import Epoch
from ring.placement import place
from tests.replication_chunks import SMALL, Store, name_of, simulate_stores
from tests.replication_world import (
    KEY,
    ROW_REQUESTS,
    SPACE,
    Peer,
    World,
    appended,
    create,
    error_of,
    ring_of,
    simulate,
    tags_of,
    until,
)
from tests.test_replication_garbage import Collected
from tests.test_replication_purge import purging, rows_of

HOUR_S = 3600.0


# --- (1) two peers in different epochs push a partition to each other and delete


def one_copy(base: Epoch) -> Epoch:
    """The same members, one replica."""
    return replace(base, replicas=1, table=place(None, base.members, 1, base.partition_power))


@pytest.mark.parametrize("deaf", [False, True])
def test_two_peers_that_take_each_other_for_the_owner_do_not_both_let_go(deaf: bool) -> None:
    """Schedule 1: of two peers that hold a chunk each is in an epoch in which the other one alone owns it, and at the same
    moment each asks the other whether it has the bytes, to delete its own. At least one keeps them while they disagree
    (`deaf`: the one behind cannot learn the newer epoch), and afterwards the owner has them, alone."""

    async def scenario(world: World, a: Store, b: Store) -> None:
        old = one_copy(ring_of(a.peer.member, b.peer.member))
        await asyncio.gather(a.peer.start(old), b.peer.start(old))
        behind, ahead = (a, b) if b.chunks.owners_of(name_of(SMALL)) == (b.peer.id,) else (b, a)
        one, two = Collected(behind, walks=False), Collected(ahead, walks=False)
        with behind.peer.replica.attempts.one() as attempt:
            for store in (behind, ahead):  # as a transition copies: each has bytes and reference
                await keep(store, attempt)
            await ahead.peer.replica.epochs.installed(drained_to(old, ahead.peer))
            assert behind.chunks.owners_of(name_of(SMALL)) == (ahead.peer.id,)
            assert ahead.chunks.owners_of(name_of(SMALL)) == (behind.peer.id,)
            with world.lost(EPOCH_GET, EPOCH_DECIDED) if deaf else nullcontext():
                for collected in (one, two):
                    collected.garbage.loose.add(chunk_key(name_of(SMALL), 8), 0.0)
                await asyncio.gather(one.garbage.loose.step(), two.garbage.loose.step())
                await asyncio.sleep(100)
                assert behind.holds(name_of(SMALL)), "it is the owner, whatever it knew"
                assert ahead.holds(name_of(SMALL)) == deaf, "it lets go once the owner has confirmed"
            await until(lambda: behind.holds(name_of(SMALL)) and not ahead.holds(name_of(SMALL)), 120)

    simulate_stores(scenario, 2, founded=False)


async def keep(store: Store, attempt: bytes) -> None:
    """Give a store the chunk with a reference, by itself."""
    buffer = await store.pool.take(1)
    buffer.payload(len(SMALL))[:] = SMALL
    stored = store.peer.env.future()
    store.files.append(buffer, len(SMALL), name_of(SMALL), stored.set_result)
    extent = await stored
    store.pool.give(buffer)
    named = store.peer.env.future()
    store.chunks.holder.name(name_of(SMALL), extent, attempt, KEY, named.set_result)
    assert await named is None


def drained_to(old: Epoch, leaver: Peer) -> Epoch:
    """The final epoch after one in which everything goes from this peer to the other."""
    return replace(drained(old, leaver.id), number=old.number + 2)


# --- (5) a value accepted by a minority


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("holder", range(3))
def test_a_value_accepted_by_a_minority_is_never_seen_and_then_unseen(holder: int, deleted: bool) -> None:
    """Schedule 5: a coordinator died when one of three owners had accepted its value (or its deletion). Whoever reads then,
    in whatever order, with whichever owner out of reach at each read, by a get, a refused creation or a listing: once the
    value was seen it is seen by everybody, also after all have restarted."""
    views = [(reader, cut) for reader in range(3) for cut in (None, 0, 1, 2) if cut != reader]
    for number, course in enumerate(itertools.product(views, repeat=2)):
        simulate(lambda world, *peers, c=course, n=number: _seen(world, peers, holder, deleted, c, n))  # type: ignore[misc]


async def _seen(
    world: World, peers: Sequence[Peer], holder: int, deleted: bool, course: Sequence[Any], number: int
) -> None:
    before, left = (b"before", None) if deleted else (None, b"left behind")
    if before is not None:
        await peers[0].put(before)
        await until(lambda: world.holding(before) == 3)
    await peers[holder].plant(left, world.ballot(1_000))
    answers = []
    for at, (reader, cut) in enumerate(course):
        if cut is not None:
            world.isolate(peers[cut])
        answers.append(await _look(peers[reader], (number + at) % 3))
        world.join_up()
    for peer in peers:
        peer.crash()
        peer.open()
    await asyncio.gather(*(peer.start() for peer in peers))
    answers += [await peer.get() for peer in peers]
    told = [answer for answer in answers if answer != "unknown"]
    assert set(told) <= {before, left} and told == sorted(told, key=lambda answer: answer == left), answers


async def _look(peer: Peer, how: int) -> bytes | str | None:
    """What this peer's client learns of the key, in one of three ways."""
    if how == 0:
        return await peer.get()
    if how == 1:
        page = await peer.replica.scans.page(SPACE, b"", b"", 10, NO_GATE)
        return dict(page.entries).get(b"key")
    refused: list[bytes | None] = []

    def judge(current: Current) -> AtollError:
        refused.append(current.payload)
        return Conflict("whatever it is")

    await error_of(peer.change(judge))
    return refused[-1]


# --- (6) N gateways race create-if-absent


@pytest.mark.parametrize("gateways", [2, 3, 5, 8])
@pytest.mark.parametrize("late_s", [0.0, 0.002, 0.15])
def test_gateways_race_to_create(gateways: int, late_s: float) -> None:
    """Schedule 6, in the simulator (over HTTP: test_cluster_schedules): N gateways create one key at once, messages to one
    owner late: one wins, all others are told that it exists, and everybody reads the winner's. Cut off from a majority,
    each is told that nothing changed, and nothing has."""

    async def scenario(world: World, *peers: Peer) -> None:
        for number in range(4):
            key = SPACE.row_key(b"key %d" % number)
            owners = world.owners(key)
            with world.late(late_s, to=owners[number % len(owners)]):
                outcomes = await asyncio.gather(
                    *(peer.change(create(peer.id.encode()), key) for peer in peers), return_exceptions=True
                )
            won = [outcome for outcome in outcomes if isinstance(outcome, Current)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert (len(won), len(lost)) == (1, gateways - 1), outcomes
            assert {await peer.get(key) for peer in peers} == {won[0].payload}
        nobody = SPACE.row_key(b"nobody")
        for owner in world.owners(nobody)[1:]:
            world.isolate(owner)
        errors = await asyncio.gather(*(error_of(peer.change(create(b"x"), nobody)) for peer in peers))
        assert {type(error) for error in errors} == {Unavailable}
        assert {error.state_changed for error in errors} == {False}
        world.join_up()
        assert await peers[0].get(nobody) is None

    simulate(scenario, gateways)


# --- (11) a peer with another partition power or replica count than the epoch's


def other_rings(base: Epoch) -> list[Epoch]:
    """What no change of this ring leads to."""
    power, chunk_bytes = base.partition_power + 1, base.chunk_bytes * 2
    table = place(None, base.members, base.replicas, power)
    return [
        replace(base, number=base.number + 1, partition_power=power, table=table),
        replace(base, number=base.number + 5, chunk_bytes=chunk_bytes),
        replace(base, generation=1, cluster_id="b8" * 16),
    ]


def test_a_ring_of_another_partition_power_is_refused_and_nothing_moves() -> None:
    """Schedule 11: a peer whose epoch has another partition power (or chunk size, or is another cluster's) announces it,
    proposes it, and asks for rows and copies under it: every member refuses, keeps its own epoch, and gives and takes no
    row; the others serve on."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"kept")
        await until(lambda: world.holding(b"kept") == 3)
        base = a.replica.epoch
        for alien in other_rings(base):
            alone = replace(c.replica.epoch, number=1)
            c.replica.epochs.current, c.replica.epochs.tag = alien, tag_of(alien)  # as its disk might hold it
            c.replica.epochs.mark = b""
            before = [dict(peer.disk.tables["rows"]) for peer in world.peers]
            for peer in (a, b):
                reply = await peer.ask(EPOCH_DECIDED, alien.encode(), tag=0)
                assert reply[:2] == (FAILED, "WrongRing")
                reply = await peer.ask(EPOCH_ACCEPT, world.ballot(10_000_000), alien.encode())
                assert reply[:2] == (FAILED, "WrongRing")
                for request in (
                    *ROW_REQUESTS,
                    (COPY_DIGESTS, REGISTERS, [1]),
                    (COPY_FETCH, REGISTERS, [KEY]),
                ):
                    reply = await peer.ask(*request, tag=tag_of(alien))
                    assert reply == (STALE, tag_of(base)), "it asked for that ring, and did not take it"
                assert isinstance(await error_of(peer.replica.epochs.installed(alien)), Refused)
                assert peer.replica.epoch == base and not peer.replica.epochs.fenced
            with pytest.raises(AtollError):
                await c.replica.copies.pull(REGISTERS, a.id, [partition_in(KEY)])
            await b.put(b"kept")
            assert await a.get() == b"kept"
            assert len(before[2]) == len(c.disk.tables["rows"])
            c.replica.epochs.current, c.replica.epochs.tag = alone, tag_of(alone)
        await c.restart()
        assert await c.get() == b"kept"

    simulate(scenario)


def test_a_peer_with_another_replica_count_is_refused_until_it_knows_the_ring() -> None:
    """Schedule 11: a peer that missed the change to another number of replicas asks under the old one: it is refused with
    the newer epoch, moves nothing, and goes on once it has that epoch. (Two rings of one number that differ: test_rpc_hello
    and test_cluster_refusals.)"""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"kept")
        await until(lambda: world.holding(b"kept") == 3)
        base = a.replica.epoch
        fewer = replace(
            base, number=2, replicas=2, table=place(base.table, base.members, 2, base.partition_power)
        )
        for peer in (a, b):
            await peer.replica.epochs.installed(fewer)
        for request in (*ROW_REQUESTS, (COPY_DIGESTS, REGISTERS, [1]), (COPY_FETCH, REGISTERS, [KEY])):
            assert await a.ask(*request, tag=1) == (STALE, 2)
        with world.lost(EPOCH_GET, EPOCH_DECIDED), pytest.raises(AtollError):
            await c.replica.copies.pull(REGISTERS, a.id, [partition_in(KEY)])
        assert tags_of(a, b, c) == [2, 2, 1] and world.holding(b"kept") == 3
        assert await c.get() == b"kept"
        assert tags_of(a, b, c) == [2, 2, 2] and c.replica.epoch == fewer

    simulate(scenario)


# --- (15) a clock an hour ahead


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("corrected_s", [0.0, -HOUR_S])
def test_a_clock_an_hour_ahead_does_not_decide_who_was_last(corrected_s: float, restarted: bool) -> None:
    """Schedule 15: a peer an hour ahead writes, is corrected (to the right time, or an hour behind), another overwrites: the
    last acknowledged write wins, at once, after restarts of any or all, and so does a deletion after it, also when
    tombstones have been purged."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        a.env.skew_s = HOUR_S
        ahead = (await a.put(b"from the future,")).ballot
        a.env.skew_s = corrected_s
        if restarted:
            await a.restart()
            a.env.skew_s = corrected_s
        assert (await b.put(b"overwritten,")).ballot > ahead
        assert [await peer.get() for peer in (a, b, c)] == [b"overwritten,"] * 3
        assert (await a.change(appended(b"and changed"))).payload == b"overwritten,and changed"
        for peer in (a, b, c):
            await peer.restart()
        assert [await peer.get() for peer in (a, b, c)] == [b"overwritten,and changed"] * 3
        await c.put(None)
        purging(world, a, b, c)
        world.loop.limit_s += 2 * HOUR_S
        await until(lambda: rows_of(a, b, c) == 0, 2 * HOUR_S)
        assert [await peer.get() for peer in (a, b, c)] == [None] * 3
        await b.put(b"anew")
        assert [await peer.get() for peer in (a, b, c)] == [b"anew"] * 3

    simulate(scenario)
