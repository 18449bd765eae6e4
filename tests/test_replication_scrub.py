"""Scrub finds what nobody reads: flipped bits in chunks, rows and references, and has them made good from the others."""

from __future__ import annotations

import asyncio

from peer.replication.chunks.rows import chunk_key
from peer.replication.healing.scrub import Scrub
from peer.replication.messages import ABSTAIN, NO_GATE, READ, REFERENCES
from peer.replication.workers import Workers
from tests.replication_chunks import LARGE, SMALL, Store, simulate_stores
from tests.replication_world import KEY, POWER, SPACE, World, rot, until
from tests.test_replication_garbage import Collected

EVERY_S = 30.0


def scrubbing(one: Collected, every_s: float = EVERY_S) -> Scrub:
    """Have this peer scrub from now on."""
    peer, store = one.peer, one.store
    scrub = Scrub(
        peer.env, store.rows, peer.id, peer.replica, peer.replica.send, store.chunks.holder, one.side, store.files,
        store.pool, peer.replica.settle, one.workers.throttle.spend, every_s=every_s,
    )  # fmt: skip
    Workers(peer.env, peer.rows).add(scrub)
    return scrub


async def named(one: Collected, data: bytes, attempt: bytes) -> bytes:
    """A chunk that a head names."""
    name = await one.put(data, attempt)
    await one.name(attempt)
    return name


def test_a_flipped_bit_is_found_and_made_good() -> None:
    """Goal (P5, P7): a copy that nobody reads is quarantined, stops counting, and comes anew from another owner."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = [Collected(store, walks=False) for store in (a, b, c)]
        with a.peer.replica.attempts.one() as attempt:
            name = await named(peers[0], LARGE, attempt)
        await until(lambda: all(one.holds(LARGE) for one in peers))
        a.files.rot(name)
        assert not a.holds(name)
        world.isolate(a.peer)
        scrub = scrubbing(peers[0])
        await until(lambda: scrub.detail["bad_chunks"] == 1, 100)
        assert a.chunks.holder.damaged == 1 and a.chunks.holder.find(name) is None
        world.join_up()
        await until(lambda: a.holds(name), 100)
        assert a.chunks.holder.damaged == 0 and scrub.detail["rebuilt"] == 1
        assert a.files.states(name) == ["unnamed", "named"]

    simulate_stores(scenario)


def test_a_damaged_copy_that_nobody_needs_is_let_go() -> None:
    """Goal (P7): where the others have dropped a chunk that an owner missed being told of, its damaged copy does not stay a
    missing one until all garbage is looked through."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = [Collected(store, walks=False) for store in (a, b, c)]
        with b.peer.replica.attempts.one() as attempt:
            name = await named(peers[1], LARGE, attempt)
        await until(lambda: all(one.holds(LARGE) for one in peers))
        world.isolate(a.peer)
        with b.peer.replica.attempts.one() as later:
            await peers[1].name(later)
        peers[1].garbage.replaced(attempt, name, False)
        await until(lambda: not any(one.holds(LARGE) for one in peers[1:]), 10_000)
        a.files.rot(name)
        scrub = scrubbing(peers[0])
        scrub.on_unwanted = peers[0].garbage.look_at
        await until(lambda: a.chunks.holder.damaged == 1, 100)
        world.join_up()
        await until(lambda: a.chunks.holder.damaged == 0, 300)
        assert scrub.detail["rebuilt"] == 0 and a.references(name) == []

    simulate_stores(scenario)


def test_a_damaged_row_of_a_chunk_is_made_good() -> None:
    """Goal: where the bytes lie is not known any more, so they come anew."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = [Collected(store, walks=False) for store in (a, b, c)]
        with a.peer.replica.attempts.one() as attempt:
            name = await named(peers[0], SMALL, attempt)
        await until(lambda: all(one.holds(SMALL) for one in peers))
        rot(a.peer.disk, "chunks", chunk_key(name, POWER))
        scrubbing(peers[0])
        await until(lambda: a.holds(name), 100)

    simulate_stores(scenario)


def test_a_damaged_reference_comes_back_from_another_owner() -> None:
    """Goal: the back pointer is another owner's; one that nobody has is dropped, once all were asked."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = [Collected(store, walks=False) for store in (a, b, c)]
        with a.peer.replica.attempts.one() as attempt:
            name = await named(peers[0], SMALL, attempt)
        await until(lambda: all(one.store.references(name) == [attempt] for one in peers))
        key = chunk_key(name, POWER) + attempt
        stray = key[:-1] + bytes([key[-1] ^ 1])
        a.peer.disk.tables["refs"][stray] = b"rotten row"
        rot(a.peer.disk, "refs", key)
        scrub = scrubbing(peers[0])
        with world.lost(REFERENCES, to=b.peer):
            await until(lambda: a.chunks.holder.back_of(key) == KEY, 100)
            await asyncio.sleep(EVERY_S)
            assert stray in a.peer.disk.tables["refs"], "not all were asked"
        await until(lambda: stray not in a.peer.disk.tables["refs"], 100)
        assert scrub.detail["bad_references"] >= 2

    simulate_stores(scenario)


def test_damaged_registers_are_accepted_anew() -> None:
    """Goal (A4): a row that nobody reads, and inline bytes beside another one, are replaced from the other owners."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = Collected(a, walks=False)
        other = SPACE.row_key(b"other")
        await a.peer.put(b"value")
        await a.peer.put(b"inline", other, side=b"bytes")
        await until(lambda: world.holding(b"value") == 3 and world.holding(b"inline", other) == 3)
        rot(a.peer.disk, "rows", KEY)
        rot(a.peer.disk, "side", a.peer.stored(other).side_id)  # type: ignore[arg-type]
        before = a.peer.stored(other).ballot
        scrub = scrubbing(one)
        await until(lambda: a.peer.holds() == b"value" and a.peer.stored(other).ballot > before, 100)
        assert a.peer.replica.acceptor.stored(other)[1] == b"bytes" and scrub.detail["bad_rows"] == 2

    simulate_stores(scenario)


def test_a_damaged_register_that_was_met_is_told_and_made_good_at_once() -> None:
    """Goal: a row rots while the peer runs, and somebody asks for it: it is known to be damaged, also while nobody can give
    it, and accepted anew long before the next pass."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = Collected(a, walks=False)
        await a.peer.put(b"value")
        await until(lambda: world.holding(b"value") == 3)
        scrub = scrubbing(one, 1e6)
        acceptor = a.peer.replica.acceptor
        scrub.bad_rows, scrub.found_bad = acceptor.bad, acceptor.found_bad
        acceptor.promises._entries.clear()
        rot(a.peer.disk, "rows", KEY)
        world.isolate(a.peer)
        assert (await a.peer.ask(READ, KEY, NO_GATE, False))[0] == ABSTAIN
        await asyncio.sleep(20)
        assert scrub.damaged_rows == 1 and a.peer.holds() is None
        world.join_up()
        await until(lambda: a.peer.holds() == b"value", 60)
        assert scrub.damaged_rows == 0 and scrub.detail["passes"] <= 1

    simulate_stores(scenario)


def test_damaged_rows_of_chunks_and_references_are_told() -> None:
    """Goal: while nobody can give them they are counted, and no more once they are good."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = Collected(a, walks=False)
        name = await named(one, LARGE, b"attempt1" + bytes(12))
        key = chunk_key(name, POWER)
        rot(a.peer.disk, "chunks", key)
        world.isolate(a.peer)
        scrub = scrubbing(one)
        await until(lambda: scrub.damaged_rows == 1, 100)
        world.join_up()
        await until(lambda: scrub.damaged_rows == 0 and a.chunks.holder.find(name) is not None, 200)

    simulate_stores(scenario)


def test_a_pass_goes_on_where_it_was_and_keeps_its_rate() -> None:
    """Goal: the position is durable; bytes are read no faster than told; a pass begins no sooner than told."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = Collected(a, walks=False)
        for number in range(40):
            await a.put(b"%d" % number * 3000)
        scrub = scrubbing(one)
        scrub.bytes_per_s = 16 * 8192 / 2
        began_s = world.now
        await until(lambda: scrub.detail["chunks"] >= 16)
        again = scrubbing(Collected(a, walks=False))
        assert (again._phase, again._cursor) == (scrub._phase, scrub._cursor) and scrub._cursor
        await until(lambda: scrub.detail["passes"] == 1, 100)
        assert world.now - began_s > 2.0
        await asyncio.sleep(EVERY_S / 2)
        assert scrub.detail["passes"] == 1
        await until(lambda: scrub.detail["passes"] == 2, 2 * EVERY_S)

    simulate_stores(scenario)
