"""Tombstones are purged when nothing older can come back, and not before (F1 to F4 of `floors`, P1 of `purge`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from peer.errors import UnknownOutcome
from peer.replication.agreement.proposals import RingRefused
from peer.replication.copying.registersync import REGISTERS
from peer.replication.garbage.purge import Purge
from peer.replication.healing.antientropy import AntiEntropy
from peer.replication.healing.transition import Transition
from peer.replication.keys import partition_in
from peer.replication.messages import ACCEPT, CONFLICT, NO_GATE, OK, PREPARE, PURGE, PURGE_PROMISE
from peer.replication.registers.register import Keep, _Change
from peer.replication.workers import Workers
from ring.changes import drained
from ring.epoch import Epoch
from tests.replication_world import KEY, SPACE, Peer, World, error_of, simulate, until

AGE_S = 2.0
DAY_S = 86_400.0


def purging(world: World, *peers: Peer, unsafe: frozenset[str] = frozenset()) -> dict[str, Purge]:
    """Have these peers purge, and compare with each other, from now on."""
    workers = {}
    for peer in peers:
        replica = peer.replica
        drop = replica.copies.side(REGISTERS).digests.drop
        purge = Purge(
            peer.env, peer.rows, peer.id, replica, replica.send, replica.acceptor, REGISTERS, drop, age_s=AGE_S,
            unsafe=unsafe,
        )  # fmt: skip
        replica.serve(PURGE_PROMISE, purge.on_promise)
        replica.serve(PURGE, purge.on_purge)
        running = Workers(peer.env, peer.rows)
        running.add(purge)
        alive = world.network.link(peer.id, peer.env).is_alive
        running.add(AntiEntropy(peer.env, peer.id, replica.copies, lambda r=replica: r.epochs.current, alive))  # type: ignore[misc]
        workers[peer.id] = purge
    return workers


def rows_of(*peers: Peer) -> int:
    return sum(len(peer.disk.tables["rows"]) for peer in peers)


def forget_promises(peer: Peer) -> None:
    """As of a peer that owns the row since a moment ago: what promises would refuse is left to the floor."""
    promises = peer.replica.acceptor.promises
    promises._entries.clear()
    promises.floor = b""


async def deleted_and_purged(world: World, *peers: Peer) -> tuple[bytes, bytes]:
    """A value is written, deleted and purged; (ballot, value) as accepted before the deletion."""
    await peers[0].put(b"first")
    await until(lambda: world.holding(b"first") == 3)
    old = peers[2].stored()
    await peers[1].put(None)
    await until(lambda: rows_of(*peers) == 0, 300)
    return old.ballot, old.value


def test_tombstones_go_and_nothing_is_missed() -> None:
    """Goal: what was deleted leaves the disks of all owners; what lives stays, and the digests agree."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        purging(world, a, b, c)
        other = SPACE.row_key(b"other")
        await a.put(b"lives", other)
        await deleted_and_purged_beside(world, a, b, c)
        assert await a.get() is None and await b.get(other) == b"lives"
        place = [partition_in(KEY)]
        for peer in (a, b, c):
            await peer.replica.copies.build(peer.replica.copies.side(REGISTERS), place)
        assert len({p.replica.copies.side(REGISTERS).digests.root(place[0]) for p in (a, b, c)}) == 1

    async def deleted_and_purged_beside(world: World, *peers: Peer) -> None:
        await peers[0].put(b"first")
        await peers[1].put(None)
        await until(lambda: rows_of(*peers) == 3, 300)

    simulate(scenario)


def test_a_hint_replayed_after_the_purge_changes_nothing() -> None:
    """Schedule 7 (F3): delete, purge, then a long-gone hint is replayed: it stays deleted."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        purging(world, a, b, c)
        ballot, value = await deleted_and_purged(world, a, b, c)
        for peer in (a, b, c):
            forget_promises(peer)
            answer: asyncio.Future[tuple[int, bytes]] = world.loop.create_future()
            peer.replica.acceptor.merge(KEY, ballot, value, None, answer.set_result)
            assert (await answer)[0] == CONFLICT
            assert not peer.replica.copies.side(REGISTERS).lacks(KEY, ballot)
            await peer.replica.settle(KEY)
        assert await a.get() is None and world.holding(b"first") == 0

    simulate(scenario)


@pytest.mark.parametrize("forgetful", [False, True])
def test_new_owners_take_the_floors_over(forgetful: bool) -> None:
    """Schedule 7 with other owners (F5): delete, purge, then both of two owners that go are replaced, and what they had
    promised to shut out comes to the new ones: an old copy, and a change of a coordinator whose clock is behind. It stays
    deleted, after a restart as well. (Negative control: without it the deleted value is there again.)"""
    unsafe = frozenset({"forget_floors"} if forgetful else ())

    async def scenario(world: World, *peers: Peer) -> None:
        await world.found(*peers[:3])
        purging(world, *peers[:3])
        ballot, value = await deleted_and_purged(world, *peers[:3])
        for peer in peers[:3]:
            changing(world, peer, unsafe)
        for joiner in peers[3:]:
            await joiner.join(peers[0])
            changing(world, joiner, unsafe)
            await until(lambda: ring_at_rest(peers[0]), 120)
        for leaver in peers[:2]:
            await change(peers[2], lambda base, leaver=leaver: drained(base, leaver.id))  # type: ignore[misc]
        owners = {peer.id for peer in peers[2:]}
        await until(lambda: set(peers[2].replica.owners_of_row(KEY).everyone) == owners, 120)
        new = peers[3]
        if not forgetful:
            await new.restart()
        forget_promises(new)
        answer: asyncio.Future[tuple[int, bytes]] = world.loop.create_future()
        new.replica.acceptor.merge(KEY, ballot, value, None, answer.set_result)
        assert (await answer)[0] == (OK if forgetful else CONFLICT)
        await new.replica.settle(KEY)
        assert await peers[4].get() == (b"first" if forgetful else None)
        if not forgetful:
            assert (await new.ask(PREPARE, KEY, ballot, NO_GATE, False))[0] == CONFLICT

    simulate(scenario, 5, founded=False)


def changing(world: World, peer: Peer, unsafe: frozenset[str]) -> None:
    """Have a peer carry changes of the ring to their ends."""
    workers = Workers(peer.env, peer.rows)
    alive = world.network.link(peer.id, peer.env).is_alive
    transition = Transition(peer.env, peer.rows, peer.replica, alive, workers.throttle, unsafe)
    peer.replica.on_epoch = lambda epoch: transition.wake()
    workers.add(transition)


async def change(peer: Peer, wanted: Callable[[Epoch], Epoch]) -> None:
    """Have the ring changed, once it is not being changed."""
    while True:
        try:
            await peer.replica.change_ring(wanted)
            return
        except RingRefused:
            await asyncio.sleep(0.5)


def ring_at_rest(peer: Peer) -> bool:
    return peer.replica.epoch.kind == "final"


def test_an_old_tombstone_does_not_undo_a_new_value() -> None:
    """Schedule 8: delete, recreate, an old holder hands over its tombstone: the new value survives."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"first")
        await a.put(None)
        await until(lambda: all(peer.holds() is None and peer.stored().ballot for peer in (a, b, c)))
        world.isolate(c)
        await a.put(b"again")
        world.join_up()
        purging(world, a, b, c)
        stone = c.stored()
        for peer in (a, b):
            answer: asyncio.Future[tuple[int, bytes]] = world.loop.create_future()
            peer.replica.acceptor.merge(KEY, stone.ballot, stone.value, None, answer.set_result)
            assert (await answer)[0] == CONFLICT
        await until(lambda: world.holding(b"again") == 3, 300)
        assert await c.get() == b"again"

    simulate(scenario)


def test_who_was_away_longer_than_anything_resurrects_nothing() -> None:
    """Goal: an owner misses a deletion and is away for a day; nothing is purged meanwhile, and when it is back it learns of
    the deletion, and then the tombstones go."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"first")
        await until(lambda: world.holding(b"first") == 3)
        world.isolate(c)
        await a.put(None)
        purging(world, a, b, c)
        world.loop.limit_s += 2 * DAY_S
        await asyncio.sleep(DAY_S / 24)
        assert rows_of(a, b) == 2 and c.holds() == b"first"
        world.join_up()
        await until(lambda: rows_of(a, b, c) == 0, 600)
        assert await c.get() is None and await a.get() is None

    simulate(scenario)


@pytest.mark.parametrize("safeguard", ["purge_by_most", "purge_floor_off"])
def test_without_the_safeguard_the_dead_come_back(safeguard: str) -> None:
    """Goal (negative controls): were a majority enough to purge, or copies taken below the floor, deleted values would be
    read again."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        unsafe = frozenset({safeguard})
        for peer in (a, b, c):
            peer.replica.acceptor.floors._forgetful = safeguard == "purge_floor_off"
        await a.put(b"first")
        await until(lambda: world.holding(b"first") == 3)
        if safeguard == "purge_floor_off":
            purging(world, a, b, c, unsafe=unsafe)
            ballot, value = await deleted_and_purged(world, a, b, c)
            forget_promises(c)
            answer: asyncio.Future[tuple[int, bytes]] = world.loop.create_future()
            c.replica.acceptor.merge(KEY, ballot, value, None, answer.set_result)
            assert (await answer)[0] == OK
        else:
            world.isolate(c)
            await a.put(None)
            purging(world, a, b, unsafe=unsafe)
            await until(lambda: rows_of(a, b) == 0, 600)
            world.join_up()
        assert await c.get() == b"first"

    simulate(scenario)


def test_promises_and_floors_outlive_a_restart() -> None:
    """Goal (F1, F3): both are durable before they count for anybody else."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        purging(world, a, b, c)
        ballot, value = await deleted_and_purged(world, a, b, c)
        floor = c.replica.acceptor.floors.floor(KEY)
        assert ballot < floor <= c.replica.acceptor.floors.promised(KEY)
        await c.restart()
        assert c.replica.acceptor.floors.floor(KEY) == floor
        answer: asyncio.Future[tuple[int, bytes]] = world.loop.create_future()
        c.replica.acceptor.merge(KEY, ballot, value, None, answer.set_result)
        assert (await answer)[0] == CONFLICT
        refused = await c.ask(PREPARE, KEY, ballot, NO_GATE, False)
        assert refused[0] == CONFLICT and refused[1] >= floor
        assert (await c.ask(ACCEPT, KEY, ballot, value, None, NO_GATE))[0] == CONFLICT

    simulate(scenario)


def test_a_floor_that_not_all_heard_of_is_told_again() -> None:
    """Goal (P1): an owner that missed the last message gets the floor with the next pass; until then nobody fetches its
    tombstone back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        first = world.owners(KEY)[0]
        late = next(peer for peer in (a, b, c) if peer is not first)
        purging(world, a, b, c)
        await a.put(b"first")
        await a.put(None)
        with world.lost(PURGE, to=late):
            await until(lambda: rows_of(a, b, c) == 1, 300)
            await asyncio.sleep(200)
            assert rows_of(a, b, c) == 1
        await until(lambda: rows_of(a, b, c) == 0, 60)

    simulate(scenario)


def test_a_full_disk_keeps_its_tombstones_for_later() -> None:
    """Goal: a purge whose commit finds no room changes nothing, and is made up for."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"first")
        await a.put(None)
        purging(world, a, b, c)
        c.disk.full = True
        await asyncio.sleep(60)
        assert len(c.disk.tables["rows"]) == 1 and await a.get() is None
        c.disk.full = False
        await until(lambda: rows_of(a, b, c) == 0, 300)
        await c.put(b"second")
        assert await a.get() == b"second"

    simulate(scenario)


def test_who_slept_through_a_purge_does_not_know_its_outcome() -> None:
    """Goal (F4): a change whose accept is older than the floor is not tried again: it may have happened and been deleted."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        purging(world, a, b, c)
        ballot, _ = await deleted_and_purged(world, a, b, c)
        until_s = a.env.now() + 4.0
        slept = _Change(a.replica.registers, KEY, lambda _: Keep, NO_GATE, False, until_s)
        slept.sent = slept.last_sent = ballot
        assert isinstance(await error_of(slept.run()), UnknownOutcome)

    simulate(scenario)
