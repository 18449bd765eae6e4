"""Owners come to hold the same by themselves: chunks and registers missed are pulled, whoever was away is first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from peer.buffers import Buffer
from peer.replication.chunks.rows import chunk_key
from peer.replication.copying.sync import Pulled
from peer.replication.healing.antientropy import PASS_EVERY_S, AntiEntropy
from peer.replication.healing.chunksync import AT_ONCE, CHUNKS, ChunkSide
from peer.replication.messages import ADD_REF, REPAIR, STORE_CHUNK
from peer.replication.registers.register import Put
from peer.replication.throttle import Throttle
from peer.replication.workers import Status, Worker, Workers
from ring.placement import place
from tests.replication_chunks import (
    BULK,
    BYTES,
    LARGE,
    SMALL,
    Store,
    holding,
    name_of,
    owners_first,
    simulate_stores,
)
from tests.replication_world import KEY, POWER, Peer, World, simulate, until


def side_of(store: Store) -> ChunkSide:
    """Copy the chunks of this store, too."""
    peer = store.peer
    throttle = Throttle(peer.env)
    side = ChunkSide(peer.env, store.rows, store.chunks.holder, store.files, store.chunks, throttle)
    peer.replica.copies.add(CHUNKS, side)
    return side


def partition_of(name: bytes) -> int:
    return int.from_bytes(chunk_key(name, POWER)[:2], "big")


def watch(peer: Peer, alive: set[str]) -> tuple[Workers, AntiEntropy]:
    workers = Workers(peer.env, peer.rows)
    worker = AntiEntropy(
        peer.env, peer.id, peer.replica.copies, lambda: peer.replica.epochs.current, alive.__contains__
    )
    workers.add(worker)
    return workers, worker


# --- chunks


def test_a_pull_brings_missed_chunks_with_all_their_references() -> None:
    """Goal: bytes and references an owner missed are there after one pull; what it holds is not sent again."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        for store in (a, b, c):
            side_of(store)
        shared = await a.put(SMALL, b"attempt0")
        await until(lambda: c.holds(shared))
        world.isolate(c.peer)
        missed = await a.put(LARGE, b"attempt1")
        await a.put(LARGE, b"attempt2")
        await a.put(SMALL, b"attempt3")
        world.join_up()
        places = sorted({partition_of(missed), partition_of(shared)})
        pulled = await c.peer.replica.copies.pull(CHUNKS, a.peer.id, places)
        assert c.holds(missed) and sorted(c.references(missed)) == [b"attempt1", b"attempt2"]
        assert sorted(c.references(shared)) == [b"attempt0", b"attempt3"]
        assert len(LARGE) < pulled.bytes < len(LARGE) + 2000, "the bytes came once"
        for store in (a, b, c):
            await store.peer.replica.copies.build(store.peer.replica.copies.side(CHUNKS), places)
        roots = {tuple(s.peer.replica.copies.side(CHUNKS).digests.root(p) for p in places) for s in (a, b, c)}
        assert len(roots) == 1

    simulate_stores(scenario)


def test_two_who_want_one_chunk_fetch_it_once() -> None:
    """Goal: hints and anti-entropy may come upon the same chunk at the same time; its bytes travel once."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        side = [side_of(store) for store in (a, b, c)][2]
        world.isolate(c.peer)
        name = await a.put(LARGE, b"attempt1")
        world.join_up()
        key = chunk_key(name, POWER) + b"attempt1"
        pulled = Pulled()
        await asyncio.gather(*(side.bring(key, b"back", pulled) for _ in range(3)))
        assert c.holds(name) and pulled.rows == 3 and pulled.bytes == len(LARGE)

    simulate_stores(scenario)


def test_a_quarantined_chunk_is_fetched_again() -> None:
    """Goal (P5, P7): a damaged copy is put aside when read, and made good by the next pull."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        for store in (a, b, c):
            side_of(store)
        name = await a.put(LARGE)
        await until(lambda: a.holds(name) and b.holds(name) and c.holds(name))
        place = [partition_of(name)]
        assert (await a.peer.replica.copies.pull(CHUNKS, b.peer.id, place)).rows == 0
        a.files.rot(name)
        assert await a.get(name) == LARGE
        await until(lambda: a.chunks.holder.find(name) is None)
        pulled = await a.peer.replica.copies.pull(CHUNKS, b.peer.id, place)
        assert pulled.rows == 1 and a.holds(name)
        assert await a.get(name) == LARGE

    simulate_stores(scenario)


def test_chunks_are_pulled_several_at_once_into_the_buffers_of_replicas() -> None:
    """Goal: a pull of many chunks, over many partitions, has AT_ONCE of them on their way and no more; clients' buffers are
    left to clients."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        for store in (a, b, c):
            side_of(store)
        world.isolate(c.peer)
        names = [await a.put(b"%d " % number * 60_000) for number in range(20)]
        world.join_up()
        most = clients = 0
        pull = c.chunks.pull

        async def counted(name: bytes, also: Sequence[str] = ()) -> tuple[Buffer, int]:
            nonlocal most, clients
            got = await pull(name, also)
            most = max(most, c.replica_pool.stats.lent)
            clients = max(clients, c.pool.stats.lent)
            return got

        c.chunks.pull = counted  # type: ignore[method-assign]
        places = sorted({partition_of(name) for name in names})
        pulled = await c.peer.replica.copies.pull(CHUNKS, a.peer.id, places)
        assert all(c.holds(name) for name in names) and pulled.rows == len(names)
        assert most == AT_ONCE and clients == 0

    simulate_stores(scenario)


def test_a_digest_that_is_built_anew_all_the_time_is_told() -> None:
    """Goal: under load references go all the time, and with them digests: who compares waits for them and is told. It was
    refused, and with it the 127 other partitions of the batch: a lost peer's chunks were not made good before the load was
    over."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        side, *_ = [side_of(store) for store in (a, b, c)]
        world.isolate(c.peer)
        names = [await a.put(b"%d " % number * 60_000) for number in range(10)]
        world.join_up()
        places = sorted({partition_of(name) for name in names})

        async def drop() -> None:
            while True:
                for partition in places:
                    side.digests.drop(partition)
                await a.peer.env.sleep(0.0007)

        dropping = a.peer.env.spawn(drop(), "drop")
        await c.peer.replica.copies.pull(CHUNKS, a.peer.id, places)
        dropping.cancel()
        assert all(c.holds(name) for name in names)

    simulate_stores(scenario)


def test_what_is_missing_counts_until_it_comes_or_nobody_wants_it() -> None:
    """Goal: a chunk that could not be had is told of until it is here, or all have been compared since without it."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        side = [side_of(store) for store in (a, b, c)][2]
        world.isolate(c.peer)
        names = [await a.put(SMALL), await a.put(LARGE)]
        world.join_up()
        places = sorted({partition_of(name) for name in names})
        for store in (a, b):
            store.garble = lambda data: data[::-1]
        await c.peer.replica.copies.pull(CHUNKS, a.peer.id, places)
        assert side.missing(None) == 2
        await c.peer.env.sleep(10.0)
        assert side.missing(20.0) == 2
        for store in (a, b):
            store.garble = bytes
        await side.bring(chunk_key(names[0], POWER) + b"attempt1", b"back", Pulled())
        assert side.missing(20.0) == 1
        assert side.missing(5.0) == 0 and side.missing(None) == 0

    simulate_stores(scenario)


def test_a_chunk_that_nobody_has_stops_nothing() -> None:
    """Goal: references to bytes that no owner can give are counted, and the rest is brought."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        sides = {store: side_of(store) for store in (a, b, c)}
        world.isolate(c.peer)
        lost, kept = await a.put(SMALL), await a.put(LARGE)
        world.join_up()
        for store in (a, b):
            store.files.rot(lost)
        places = sorted({partition_of(lost), partition_of(kept)})
        await c.peer.replica.copies.pull(CHUNKS, a.peer.id, places)
        assert sides[c].missing(None) == 1 and c.holds(kept) and not c.holds(lost)

    simulate_stores(scenario)


# --- read repair, behind the answer


def repairing(*stores: Store) -> list[AntiEntropy]:
    """Have these stores fetch what a read finds bad, and nothing else: all passes are over, the next is far."""
    everybody = {store.peer.id for store in stores}
    workers = []
    for store in stores:
        side_of(store)
        worker = watch(store.peer, everybody)[1]
        store.peer.replica.serve(REPAIR, store.chunks.on_repair)
        store.chunks.on_bad_copy = lambda name, source, w=worker: w.soon(source, CHUNKS, partition_of(name))  # type: ignore[misc]
        workers.append(worker)
    return workers


@BYTES
def test_a_read_that_meets_a_damaged_copy_has_it_replaced(data: bytes) -> None:
    """Goal (§8): the answer comes from a good copy; behind it the damaged one is made good, here as at another owner."""

    async def scenario(world: World, *stores: Store) -> None:
        workers = repairing(*stores)
        ordered = owners_first(stores, name_of(data))
        name = await ordered[0].put(data)
        await until(lambda: holding(stores, data) == 3)
        await until(lambda: all(worker.compared_s is not None for worker in workers), 60)
        began_s = world.now
        for reader, damaged in (
            (ordered[1], ordered[1]),
            (ordered[4], first_asked(ordered[4], name, stores)),
        ):
            damaged.files.rot(name)
            assert await reader.get(name) == data
            await until(lambda: holding(stores, data) == 3, 5)
        assert world.now - began_s < 10

    simulate_stores(scenario, peers=5)


def test_a_read_that_meets_a_missing_copy_has_it_made(data: bytes = LARGE) -> None:
    """Goal (§8): an owner that lacks a chunk, references and all, has them soon after somebody else's read."""

    async def scenario(world: World, *stores: Store) -> None:
        workers = repairing(*stores)
        reader = owners_first(stores, name_of(data))[4]
        await until(lambda: all(worker.compared_s is not None for worker in workers), 60)
        lacking = first_asked(reader, name_of(data), stores)
        with world.lost(BULK, STORE_CHUNK, ADD_REF, to=lacking.peer):
            name = await reader.put(data, b"attempt1")
            await asyncio.sleep(12)
        assert not lacking.holds(name)
        assert await reader.get(name) == data
        await until(lambda: lacking.holds(name) and lacking.references(name) == [b"attempt1"], 5)

    simulate_stores(scenario, peers=5)


def first_asked(reader: Store, name: bytes, stores: Sequence[Store]) -> Store:
    """The owner that this reader asks first."""
    first = reader.peer.replica.prefer(reader.chunks.owners_of(name))[0]
    return next(store for store in stores if store.peer.id == first)


# --- the worker


def test_who_was_away_pulls_first_and_is_behind_until_then() -> None:
    """Goal (P7): a peer knows that it may lack something from the moment it can reach the others again until it has
    compared with most of them; then it holds what it missed, with nobody reading anything."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        alive = {a.id, b.id, c.id}
        watched = {peer: watch(peer, alive)[1] for peer in (a, b, c)}
        await until(lambda: not any(worker.behind for worker in watched.values()), 60)
        world.isolate(c)
        await a.replica.registers.change(KEY, lambda _: Put(b"missed"))
        await asyncio.sleep(1)
        assert c.holds() is None
        world.join_up()
        for other in (a, b):
            watched[c].returned(other.id)
            watched[other].returned(c.id)
        assert watched[c].behind and not watched[a].behind and not watched[b].behind
        await until(lambda: not watched[c].behind, 30)
        assert c.holds() == b"missed"
        assert watched[c].detail["differed"] == 1

    simulate(scenario)


@pytest.mark.parametrize("stood_s", [3.0, 15.0])
def test_a_process_that_stood_still_was_away(stood_s: float) -> None:
    """Goal (P7): a frozen peer that nobody gave up for dead, and that saw nobody go, compares with the others when it goes
    on, and is behind until then; a moment's pause is nothing."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        alive = {a.id, b.id, c.id}
        watched = {peer: watch(peer, alive)[1] for peer in (a, b, c)}
        assert all(worker.behind for worker in watched.values()), "nothing was compared yet"
        await until(lambda: not any(worker.behind for worker in watched.values()), 60)
        began_s = world.now
        with world.lost(to=c):
            await a.put(b"missed")
            c.env.pause()
            await asyncio.sleep(stood_s)
        c.env.resume()
        await until(lambda: watched[c].behind or stood_s < 4, 2)
        if stood_s > 4:
            await until(lambda: not watched[c].behind, 10)
            assert c.holds() == b"missed" and world.now - began_s < 30
        assert not watched[a].behind and not watched[b].behind

    simulate(scenario)


def test_who_shares_nothing_is_not_behind() -> None:
    """Goal: a drained peer that meets the others again has nothing to compare, so it does not wait for the next pass."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        epoch = a.replica.epochs.current
        assert epoch is not None
        without = replace(epoch, table=place(epoch.table, epoch.members[:3], 3, POWER))
        drained = AntiEntropy(d.env, d.id, d.replica.copies, lambda: without, lambda _: True)
        for other in (a, b, c):
            drained.returned(other.id)
        assert not drained.behind and drained.compared_s == 0.0

    simulate(scenario, 4)


def test_what_was_gained_is_fetched_first_and_counts_until_it_is_here() -> None:
    """Goal: a lost peer's partitions get a new owner, which may hold nothing of them: until it has compared them with all
    who own them, too, `status` is told so, and a peer that comes back meanwhile waits. `status` said that all was well."""

    async def scenario(world: World, *stores: Store) -> None:
        for store in stores:
            side_of(store)
        a, d = stores[0].peer, stores[3].peer
        whole = a.replica.epochs.current
        assert whole is not None
        without = replace(whole, table=place(whole.table, whole.members[:3], 3, POWER))
        told = [without]
        worker = AntiEntropy(d.env, d.id, d.replica.copies, lambda: told[0], lambda _: True)
        await worker.step()
        assert worker.fetching == 0
        told[0] = whole
        assert worker.fetching > 0, "before it has looked at the ring"
        mine = sum(d.id in whole.table.owners(partition) for partition in range(1 << POWER))
        await worker.step()
        left = worker.fetching
        assert left > 0
        told[0] = replace(whole, number=whole.number + 1)
        assert worker.fetching == left, "the next ring was not looked at yet; that is not less to do"
        while worker.fetching:
            worker.returned(a.id)
            await worker.step()
        assert worker.detail["compared"] == 2 * mine, "with each of two other owners, and nothing else before"

    simulate_stores(scenario, 4)


def test_what_is_still_to_be_fetched_falls_all_the_time_and_counts_to_the_last_byte() -> None:
    """Goal: each comparison lowers the number, and the one under way counts: a former owner was let go before its last batch
    had come."""

    async def scenario(world: World, *stores: Store) -> None:
        for store in stores:
            side_of(store)
        d = stores[3].peer
        whole = d.replica.epochs.current
        assert whole is not None
        told = [replace(whole, table=place(whole.table, whole.members[:3], 3, POWER))]
        former = [stores[0].peer.id]
        worker = AntiEntropy(
            d.env, d.id, d.replica.copies, lambda: told[0], lambda _: True, lambda _: former
        )  # fmt: skip
        await worker.step()
        told[0] = whole
        seen: list[int] = []
        pull = d.replica.copies.pull

        async def watched(side: int, member: str, partitions: Sequence[int]) -> Pulled:
            seen.append(worker.fetching)
            assert worker.to_fetch([]), "what is gained comes first, so a former owner is needed to the end"
            return await pull(side, member, partitions)

        d.replica.copies.pull = watched  # type: ignore[method-assign]
        while worker.fetching:
            await worker.step()
        assert worker.to_fetch([]) == 0 and len(seen) > 2
        again = AntiEntropy(d.env, d.id, d.replica.copies, lambda: whole, lambda _: True)
        again._changed(whole)
        assert again.to_fetch([]) == 0 and again.to_fetch(former), "a restart forgets what was gained"
        assert all(earlier > later > 0 for earlier, later in pairwise(seen))

    simulate_stores(scenario, 4)


def test_everything_is_compared_again_and_again() -> None:
    """Goal: a difference that nobody told of is found within two passes."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        alive = {a.id, b.id, c.id}
        workers = [watch(peer, alive)[1] for peer in (a, b, c)]
        await until(lambda: all(worker.compared_s is not None for worker in workers), 60)
        with world.lost(sender=a, to=c):
            await a.replica.registers.change(KEY, lambda _: Put(b"missed"))
        assert c.holds() is None
        await until(lambda: c.holds() == b"missed", 2 * PASS_EVERY_S)

    simulate(scenario)


def test_a_dead_member_holds_nobody_up() -> None:
    """Goal: comparisons with those who live go on; the dead one's wait, and are made when it is back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        alive = {a.id, b.id}
        workers, worker = watch(a, alive)
        await until(lambda: worker.compared_s is not None, 60)
        assert worker.queue() > 0 and worker.oldest_s() is not None
        assert next(status for status in workers.statuses() if status.name == "anti-entropy").last_error == ""
        world.join_up()
        alive.add(c.id)
        worker.returned(c.id)
        await until(lambda: worker.queue() == 0, 60)

    simulate(scenario)


def test_the_living_are_compared_again_while_one_is_dead() -> None:
    """Goal: passes between living owners go on for as long as a third is dead, so what one of them missed is found."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        alive = {a.id, b.id}
        workers = [watch(peer, alive)[1] for peer in (a, b)]
        await until(lambda: all(worker.compared_s is not None for worker in workers), 60)
        waiting = workers[0].queue()
        await asyncio.sleep(3 * PASS_EVERY_S)
        for worker in workers:
            assert worker.compared_s is not None and worker.compared_s < 2 * PASS_EVERY_S
            assert worker.queue() == waiting, "what waits for the dead one waits once"

    simulate(scenario)


# --- workers in general


def test_a_paused_worker_rests_also_after_a_restart() -> None:
    """Goal (W3): paused is durable; resumed, it goes on at once."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        workers, worker = watch(a, {a.id, b.id, c.id})
        await until(lambda: worker.compared_s is not None, 60)
        await workers.pause(["anti-entropy"])
        again, other = watch(a, {a.id, b.id, c.id})
        await asyncio.sleep(PASS_EVERY_S * 2)
        assert other.done == 0 and again.statuses()[0].state == "paused"
        await again.resume(["anti-entropy"])
        await until(lambda: other.compared_s is not None, 60)

    simulate(scenario)


class Broken(Worker):
    """Fails in a way nobody foresaw, twice."""

    name = "broken"

    async def step(self) -> bool:
        self.did()
        if self.done < 3:
            raise KeyError("unforeseen")
        return False


def test_a_worker_survives_errors_nobody_foresaw() -> None:
    """Goal (W2): it says what went wrong, and is tried again."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        workers = Workers(a.env, a.rows)
        worker = Broken(a.env)
        workers.add(worker)
        await until(lambda: worker.done == 1)
        (status,) = workers.statuses()
        assert status.state == "failing" and "unforeseen" in status.last_error
        await until(lambda: worker.done >= 3, 30)

    simulate(scenario)


@pytest.mark.parametrize(
    ("state", "left_s"), [("busy", 4.0), ("idle", None), ("failing", None), ("paused", None)]
)
def test_what_does_not_move_has_no_end(state: str, left_s: float | None) -> None:
    """Goal: a worker that cannot go on is not said to be done soon, by what it did before. `status` told a minute for what
    waited for a dead peer."""
    assert Status("hints", state, 8, 1.0, 100, 2.0, 0, "").left_s == left_s


def test_a_worker_that_rested_has_no_rate() -> None:
    """Goal: the end of what comes after a long rest is not told by what was done before it. `status` promised hundreds of
    hours for the one hint of a quiet hour."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        worker = Broken(a.env)
        for _ in range(10):
            worker.did(3)
            await a.env.sleep(1)
        assert 2.5 < worker.rate() < 3.5
        for _ in range(60):
            await a.env.sleep(10)
            worker.did(0)  # it looked, and found nothing
        assert worker.rate() == 0
        worker.did(3)
        await a.env.sleep(1)
        assert 1 < worker.rate() < 3.5

    simulate(scenario)


def test_the_throttle_bounds_bytes_over_time() -> None:
    """Goal (W4): so many bytes take so long, however they are cut."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        throttle = Throttle(a.env, bytes_per_s=1_000_000)
        began_s = a.env.now()
        for _ in range(100):
            await throttle.spend(50_000)
        assert 4.5 < a.env.now() - began_s < 5.5

    simulate(scenario)
