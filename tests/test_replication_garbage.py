"""Garbage goes and nothing else: each race of `garbage`, as a schedule written by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from peer.replication.chunks.rows import chunk_key
from peer.replication.garbage.attempts import OPEN, OVER, UNKNOWN, Attempts
from peer.replication.garbage.garbage import Garbage
from peer.replication.garbage.verdicts import Verdicts
from peer.replication.healing.chunksync import CHUNKS, ChunkSide
from peer.replication.keys import OBJECT, Space
from peer.replication.messages import DROP, HELD, NAMED, REFERENCES
from peer.replication.registers.register import Put
from peer.replication.throttle import Throttle
from peer.replication.workers import Workers
from tests.replication_chunks import LARGE, SMALL, Store, name_of, owners_first, simulate_stores
from tests.replication_world import KEY, POWER, SPACE, World, error_of, ring_of, rot, until

GRACE_S, PASS_S = 1.0, 5.0
OTHER = SPACE.row_key(b"other")


class Collected:
    """A store whose garbage is collected. A head's payload is the attempt it names."""

    def __init__(self, store: Store, *, walks: bool = True) -> None:
        peer, holder = store.peer, store.chunks.holder
        replica = peer.replica
        self.store = store
        self.peer = peer
        self.verdicts = Verdicts(
            peer.env, replica, replica.registers, replica.send, replica.attempts, replica.acceptor.stored, bytes
        )  # fmt: skip
        alive = peer.world.network.link(peer.id, peer.env).is_alive
        self.garbage = Garbage(
            peer.env, store.rows, peer.id, replica, replica.send, holder, store.chunks, self.verdicts, alive,
            grace_s=GRACE_S, pass_every_s=PASS_S if walks else 1e9,
        )  # fmt: skip
        if not walks:
            self.garbage._page_at_s = 1e18
        loose = self.garbage.loose
        for op, handler in (
            (NAMED, self.verdicts.on_named), (DROP, self.garbage.on_drop), (HELD, loose.on_held),
            (REFERENCES, loose.on_references),
        ):  # fmt: skip
            replica.serve(op, handler)
        self.side = ChunkSide(peer.env, store.rows, holder, store.files, store.chunks, Throttle(peer.env))
        self.side.wanted, self.side.on_doubt = self.verdicts.wanted, self.garbage.doubt
        replica.copies.add(CHUNKS, self.side)
        self.workers = Workers(peer.env, peer.rows)
        self.workers.add(self.garbage)

    async def put(self, data: bytes, attempt: bytes, back: bytes = KEY) -> bytes:
        """Store a chunk under an attempt; no head names it yet."""
        buffer = await self.store.pool.take(30)
        buffer.payload(len(data))[:] = data
        return await self.store.chunks.put(
            buffer, len(data), attempt, back, partial(self.store.pool.give, buffer)
        )

    async def name(self, attempt: bytes | None, key: bytes = KEY) -> bytes | None:
        """Have a head name this attempt; the one it replaced."""
        return (await self.peer.replica.registers.change(key, lambda _: Put(attempt))).replaced

    def holds(self, data: bytes) -> bool:
        return self.store.holds(name_of(data))


def collected(*stores: Store, walks: bool = True) -> list[Collected]:
    return [Collected(store, walks=walks) for store in stores]


def test_states_of_attempts() -> None:
    """Goal (T1): open while it may be committed, over afterwards and after a restart; of others nothing is known."""
    mine = Attempts("00" * 8, 3)
    with mine.one() as attempt:
        assert mine.state(attempt) == OPEN and mine.open == 1
    assert mine.state(attempt) == OVER
    with mine.one() as second:
        assert second != attempt
    assert Attempts("00" * 8, 4).state(attempt) == OVER
    assert Attempts("00" * 8, 2).state(attempt) == UNKNOWN, "of a later start"
    assert Attempts("01" * 8, 9).state(attempt) == UNKNOWN, "of another member"
    assert Attempts("00" * 8, 3).state(second) == UNKNOWN, "not issued yet"
    assert mine.state(b"attempt1") == UNKNOWN


def test_an_abandoned_put_goes_when_its_attempt_is_over() -> None:
    """Goal (G1, T1): as long as a put may still be committed its chunks stay, however long that takes; then they go from
    every disk, without anybody having told."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c)
        with a.peer.replica.attempts.one() as attempt:
            await peers[0].put(LARGE, attempt)
            await asyncio.sleep(10 * PASS_S)
            assert all(one.holds(LARGE) for one in peers)
        await until(lambda: not any(one.holds(LARGE) for one in peers), 60)
        assert all(one.store.files.states(name_of(LARGE)) == ["unnamed"] for one in peers)
        assert not any(one.store.references(name_of(LARGE)) for one in peers)

    simulate_stores(scenario)


def test_what_a_silent_coordinator_left_stays_until_it_tells() -> None:
    """Goal (T1): nobody else may say that an attempt is over; its coordinator's next start does."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c)
        with a.peer.replica.attempts.one() as attempt:
            await peers[0].put(LARGE, attempt)
            await until(lambda: a.lent == 0)
            a.peer.crash()
        await asyncio.sleep(60)
        assert peers[1].holds(LARGE) and peers[2].holds(LARGE)
        for one in peers[1:]:
            assert one.garbage.queue() == 1, "it shows in the queue, and for whom it waits"
            assert f"uploads through {a.peer.member.name} left" in one.garbage.last_error
        a.peer.open()
        await a.peer.start()
        again = Store(a.peer)
        again.files.records = a.files.records
        Collected(again)
        await until(lambda: not peers[1].holds(LARGE) and not peers[2].holds(LARGE), 120)
        await until(lambda: not any(one.garbage.last_error for one in peers[1:]), 60)

    simulate_stores(scenario)


def test_what_a_silent_coordinator_left_goes_when_it_is_out_of_the_ring() -> None:
    """Goal (T2): it never comes back, and is removed, by others or by hand: nothing waits for its word any more."""

    async def scenario(world: World, *stores: Store) -> None:
        gone, *rest = owners_first(stores, name_of(LARGE))
        peers = {store: Collected(store) for store in stores}
        with gone.peer.replica.attempts.one() as attempt:
            await peers[gone].put(LARGE, attempt)
            await until(lambda: gone.lent == 0)
            gone.peer.crash()
        await asyncio.sleep(60)
        assert sum(peers[store].holds(LARGE) for store in rest) == 2
        epoch = replace(ring_of(*(store.peer.member for store in rest)), number=2)
        for store in rest:
            await store.peer.replica.epochs.installed(epoch)
        await until(lambda: not any(peers[store].holds(LARGE) for store in rest), 120)
        assert not any(peers[store].garbage.queue() for store in rest)

    simulate_stores(scenario, peers=5)


def test_replaced_heads_are_dropped_at_once_and_shared_chunks_stay() -> None:
    """Goal (V1): the coordinator of the new head tells the owners; what another head names keeps its bytes."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        with a.peer.replica.attempts.one() as first, a.peer.replica.attempts.one() as second:
            shared, own = await peers[0].put(SMALL, first), await peers[0].put(LARGE, first)
            await peers[0].put(SMALL, second, OTHER)
        await peers[0].name(first)
        await peers[0].name(second, OTHER)
        with b.peer.replica.attempts.one() as third:
            assert await peers[1].name(third) == first
        peers[1].garbage.replaced(first, shared + own, False)
        await until(lambda: not any(one.holds(LARGE) for one in peers), 10)
        await asyncio.sleep(5)
        assert all(one.holds(SMALL) and one.store.references(shared) == [second] for one in peers)

    simulate_stores(scenario)


def test_what_nobody_can_read_does_not_wait_for_readers() -> None:
    """Goal: the bytes of a chunk that nothing names turn out to be bad while they are kept for readers: it goes at once, and
    does not count as damage that waits to be made good. `status` said "degraded" for as long as bytes are kept."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        for one in peers:
            one.garbage.grace_s = 1e6
        with a.peer.replica.attempts.one() as attempt:
            name = await peers[0].put(LARGE, attempt)
        peers[0].garbage.replaced(attempt, name, False)
        await until(lambda: not any(one.store.references(name) for one in peers), 10)
        holder = b.chunks.holder
        extent = holder.find(name)
        assert extent is not None
        holder.quarantine(name, extent)
        await until(lambda: holder.damaged == 1)
        peers[1].garbage.look_at(chunk_key(name, POWER))
        await until(lambda: holder.damaged == 0, 30)
        assert peers[0].holds(LARGE) and not peers[1].holds(LARGE)

    simulate_stores(scenario)


def test_a_manifest_goes_with_all_it_lists() -> None:
    """Goal: of a head with manifests the listed chunks and the manifests are dropped."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        with a.peer.replica.attempts.one() as attempt:
            listed = [await peers[0].put(b"%d" % number * 50, attempt) for number in range(700)]
            manifest = await peers[0].put(b"".join(listed), attempt)
        peers[0].garbage.replaced(attempt, manifest, True)
        await until(lambda: not any(one.peer.disk.tables["chunks"] for one in peers), 60)

    simulate_stores(scenario)


def test_equal_bytes_put_during_a_removal_take_a_new_place() -> None:
    """Goal (C7): a reference that is asked for while the chunk goes is refused as missing once it is gone, and the bytes
    follow; whoever was answered finds them."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        with a.peer.replica.attempts.one() as first, a.peer.replica.attempts.one() as second:
            name = await peers[0].put(LARGE, first)
            key = chunk_key(name, POWER)
            for one in peers:
                one.store.chunks.holder.drop([key + first], lambda _: None)
            await until(lambda: not any(one.store.references(name) for one in peers))
            removed: list[int | None] = []
            for one in peers:
                one.store.chunks.holder.remove(key, removed.append)
            await peers[0].put(LARGE, second)
            assert len([size for size in removed if size]) == 3
            await until(lambda: all(one.holds(LARGE) for one in peers))
            assert all(one.store.files.states(name) == ["unnamed", "named"] for one in peers)

    simulate_stores(scenario)


def test_a_reference_under_way_keeps_the_chunk() -> None:
    """Goal (C7): one whose commit is queued counts, also where it is the same that is being dropped."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: all(store.holds(name) for store in (a, b, c)))
        holder, key = a.chunks.holder, chunk_key(name, POWER)
        holder.drop([key + b"attempt1"], lambda _: None)
        holder.refer(name, b"attempt1", b"back", lambda _: None)
        removed: list[int | None] = []
        holder.remove(key, removed.append)
        await asyncio.sleep(1)
        assert removed == [None] and a.holds(name) and a.references(name) == [b"attempt1"]

    simulate_stores(scenario)


def test_who_was_away_does_not_bring_garbage_back() -> None:
    """Goal: references that were dropped while an owner was away are not pulled from it, and it drops them."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        with a.peer.replica.attempts.one() as first:
            name = await peers[0].put(LARGE, first)
            await peers[0].name(first)
        await until(lambda: peers[2].holds(LARGE))
        world.isolate(c.peer)
        await peers[0].name(None)
        peers[0].garbage.replaced(first, name, False)
        await until(lambda: not peers[0].holds(LARGE) and not peers[1].holds(LARGE))
        assert peers[2].holds(LARGE)
        world.join_up()
        place = [int.from_bytes(chunk_key(name, POWER)[:2], "big")]
        pulled = await a.peer.replica.copies.pull(CHUNKS, c.peer.id, place)
        assert pulled.rows == 0 and not peers[0].holds(LARGE)
        await until(lambda: not peers[2].holds(LARGE))

    simulate_stores(scenario)


def test_a_copy_at_a_stranger_goes_when_all_owners_have_it() -> None:
    """Goal: a peer that does not own a chunk keeps it, and each reference, until every owner has both."""

    async def scenario(world: World, *stores: Store) -> None:
        name = name_of(SMALL)
        ordered = owners_first(stores, name)
        peers = collected(*ordered)
        with ordered[0].peer.replica.attempts.one() as attempt, world.lost(to=ordered[2].peer):
            await peers[0].put(SMALL, attempt)
            await peers[0].name(attempt)
            await asyncio.sleep(2)
        stranger = peers[3]
        buffer = await stranger.store.pool.take(1)
        buffer.payload(len(SMALL))[:] = SMALL
        stored = stranger.peer.env.future()
        stranger.store.files.append(buffer, len(SMALL), name, stored.set_result)
        extent = await stored
        stranger.store.pool.give(buffer)
        stranger.store.chunks.holder.name(name, extent, attempt, KEY, lambda _: None)
        await asyncio.sleep(100)
        assert stranger.holds(SMALL) and not peers[2].holds(SMALL)
        place = [int.from_bytes(chunk_key(name, POWER)[:2], "big")]
        await peers[2].peer.replica.copies.pull(CHUNKS, peers[0].peer.id, place)
        await until(lambda: not stranger.holds(SMALL), 100)
        assert stranger.store.references(name) == []
        assert all(one.holds(SMALL) for one in peers[:3])

    simulate_stores(scenario, 4)


def test_a_damaged_reference_is_no_evidence() -> None:
    """Goal: a row whose back pointer cannot be trusted is not judged by it, and keeps its chunk."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        with a.peer.replica.attempts.one() as attempt:
            peers = collected(a, b, c)
            name = await peers[0].put(SMALL, attempt)
        key = chunk_key(name, POWER) + attempt
        await until(lambda: key in a.peer.disk.tables["refs"])
        rot(a.peer.disk, "refs", key)
        assert a.chunks.holder.back_of(key) is None and a.chunks.holder.referenced(key[:34])
        await asyncio.sleep(1)

    simulate_stores(scenario)


def test_the_walk_goes_on_where_it_was() -> None:
    """Goal: the position outlives the process, so that restarts do not keep it at the beginning."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = Collected(a)
        await until(lambda: one.garbage.detail["passes"] > 0)
        one.garbage._table, one.garbage._cursor, one.garbage._page_at_s = 0, b"\x40", 0.0
        await one.garbage.step()
        assert (one.garbage._table, one.garbage._cursor) == (1, b"")
        again = Collected(a)
        assert (again.garbage._table, again.garbage._cursor) == (1, b"")

    simulate_stores(scenario)


def test_who_is_out_of_the_ring_changes_nothing_and_its_attempts_are_over() -> None:
    """Goal (T2): a peer that knows a ring without itself coordinates no change, so what it left may go."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c)
        with a.peer.replica.attempts.one() as attempt:
            await peers[1].put(SMALL, b"\xee" * 8 + attempt[8:])
            await until(lambda: not any(one.holds(SMALL) for one in peers), 60)
        a.peer.replica._everybody -= {a.peer.id}
        error = await error_of(a.peer.put(b"value"))
        assert error.code == "ServiceUnavailable" and world.holding(b"value") == 0

    simulate_stores(scenario)


def test_a_head_whose_owners_were_lost_is_not_waited_for() -> None:
    """Goal: where there is no gate there is no head (an operator went on without a majority): what refers to it is not
    fetched, which would keep owners from ever being in order, and is not dropped either."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        one = collected(a, b, c, walks=False)[0]
        lost = Space(OBJECT, b"nobucket", 4, POWER).row_key(b"key")
        with a.peer.replica.attempts.one() as attempt:
            pass
        assert await one.verdicts.wanted([(lost, attempt)]) == [False]
        assert await one.verdicts.judge([(lost, attempt)]) == [None]

    simulate_stores(scenario)
