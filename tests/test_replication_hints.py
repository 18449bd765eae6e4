"""Hinted handoff: what an owner missed is kept for it, durably and within bounds, and pulled by it when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from peer.errors import Unavailable
from peer.replication import hints as hints_module
from peer.replication.healing.chunksync import CHUNKS, ChunkSide
from peer.replication.healing.handoff import Handoff
from peer.replication.hints import REGISTER
from peer.replication.messages import HINT_KEEP, HINTED, HINTS
from peer.replication.throttle import Throttle
from peer.replication.workers import Workers
from tests.replication_chunks import (
    BYTES,
    LARGE,
    SMALL,
    Store,
    holding,
    name_of,
    owners_first,
    simulate_stores,
)
from tests.replication_world import KEY, SPACE, World, error_of, ring_of, until


def handing_off(store: Store, alive: Callable[[str], bool]) -> Handoff:
    """Run this store's hints as a peer does; nothing else heals."""
    peer = store.peer
    side = ChunkSide(peer.env, store.rows, store.chunks.holder, store.files, store.chunks, Throttle(peer.env))
    peer.replica.copies.add(CHUNKS, side)
    hints = store.chunks.hints
    worker = Handoff(peer.env, peer.replica, store.chunks, side, hints, alive)
    peer.replica.registers.on_missed = hints.missed
    for op, handler in ((HINTS, hints.on_hints), (HINTED, hints.on_hinted), (HINT_KEEP, hints.on_keep)):
        peer.replica.serve(op, handler)
    Workers(peer.env, peer.rows).add(worker)
    return worker


class Healers:
    """The hint workers of all stores, and who is believed alive."""

    def __init__(self, world: World, *stores: Store) -> None:
        self.world = world
        self.stores = stores
        self.dead: set[str] = set()
        self.workers = {store: handing_off(store, self.is_alive) for store in stores}

    def is_alive(self, member: str) -> bool:
        return member not in self.dead

    def lose(self, *stores: Store) -> None:
        """These cannot be reached, and gossip has noticed."""
        ids = {store.peer.id for store in stores}
        self.dead |= ids
        self.world.network.doubted |= {(other.peer.id, gone) for other in self.stores for gone in ids}
        for store in stores:
            self.world.isolate(store.peer)

    def find(self) -> None:
        """Everybody is back, and hears of everybody."""
        back, self.dead = self.dead, set()
        self.world.network.doubted.clear()
        self.world.join_up()
        for worker in self.workers.values():
            for store in self.stores:
                worker.returned(store.peer.id)
        assert back

    @property
    def kept(self) -> int:
        return sum(store.chunks.hints.total for store in self.stores)


def keys(count: int) -> list[bytes]:
    return [SPACE.row_key(b"key %d" % number) for number in range(count)]


# --- registers


def test_an_owner_pulls_the_registers_it_missed() -> None:
    """Goal: nobody reads, nothing compares: a returning owner has every change it missed, and no hint is left."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        for key in keys(700):
            await a.peer.put(b"missed", key)
        await b.peer.put(None, keys(1)[0])
        await until(lambda: healers.kept == 701)
        healers.find()
        await until(lambda: healers.kept == 0)
        assert [c.peer.holds(key) for key in keys(700)] == [None] + [b"missed"] * 699
        assert a.chunks.hints.counts == {"kept": 700, "dropped": 0, "delivered": 700}
        assert healers.workers[c].done == 701 and healers.workers[a].queue() == 0

    simulate_stores(scenario)


def test_without_a_fault_no_hint_is_written() -> None:
    """Goal: the common path keeps nothing and tells nobody."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        for key in keys(20):
            await a.peer.put(b"all", key)
        await a.put(LARGE)
        await asyncio.sleep(5)
        assert healers.kept == 0 and a.chunks.hints.counts["kept"] == 0
        assert all(not store.peer.disk.tables["hints"] for store in (a, b, c))

    simulate_stores(scenario)


def test_a_lost_race_is_no_hint() -> None:
    """Goal: an owner that promised a higher ballot is not told of: who proposes there brings the value along."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        await asyncio.gather(*(store.peer.put(b"race") for store in (a, b, c) for _ in range(5)))
        await asyncio.sleep(3)
        assert healers.kept == 0

    simulate_stores(scenario)


def test_a_coordinator_whose_own_disk_refused_gets_its_own_hint() -> None:
    """Goal: what this very peer missed as an owner it brings itself, too."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        a.peer.disk.full = True
        put = asyncio.ensure_future(a.peer.put(b"v"))
        await until(lambda: put.done())
        await until(lambda: a.chunks.hints.dropped_at_s is not None)  # a full disk keeps no hint
        a.peer.disk.full = False
        a.chunks.hints.missed(a.peer.id, KEY, put.result().ballot)
        await until(lambda: a.peer.holds() == b"v")
        await until(lambda: healers.kept == 0)

    simulate_stores(scenario)


def test_a_full_owner_gets_a_hint() -> None:
    """Goal: a refusal for want of room is something missed, too."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        c.peer.disk.full = True
        await a.peer.put(b"v")
        await until(lambda: healers.kept == 1)
        c.peer.disk.full = False
        healers.workers[c].returned(a.peer.id)
        await until(lambda: healers.kept == 0, 90)
        assert c.peer.holds() == b"v"

    simulate_stores(scenario)


def test_a_disk_that_has_room_again_is_healed_at_once() -> None:
    """Goal: a disk was full for long; whoever waits out a pause for that is told when it is over, and does not wait on. It
    took half a minute."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        c.peer.disk.full = True
        await a.peer.put(b"v")
        await until(lambda: healers.kept == 1)
        for _ in range(6):
            healers.workers[c].returned(a.peer.id)
            await c.peer.env.sleep(12.0)
        c.peer.disk.full = False
        began_s = world.now
        healers.workers[c].try_again()
        await until(lambda: healers.kept == 0, 90)
        assert world.now - began_s < 4.0

    simulate_stores(scenario)


def test_a_keeper_that_restarts_without_traffic_delivers() -> None:
    """Schedule 9 (a hint holder restarts without traffic): hints survive, are counted anew, and are delivered."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        for key in keys(30):
            await a.peer.put(b"missed", key)
        await until(lambda: len(a.peer.disk.tables["hints"]) == 30)
        await a.peer.restart()
        again = Store(a.peer)
        handing_off(again, healers.is_alive)
        await until(lambda: again.chunks.hints.total == 30)
        healers.find()
        await until(lambda: again.chunks.hints.total == 0, 60)
        assert all(c.peer.holds(key) == b"missed" for key in keys(30))

    simulate_stores(scenario)


def test_a_keeper_that_leaves_hands_its_hints_over() -> None:
    """Schedule 9 (a hint holder drains): others keep what it kept for a dead owner before it is gone; all arrives."""

    async def scenario(world: World, *stores: Store) -> None:
        away, leaver = owners_first(stores, name_of(LARGE))[1:3]
        members = [store.peer.member for store in stores if store is not leaver]
        healers = Healers(world, *stores)
        healers.lose(away)
        name = await leaver.put(LARGE)
        for key in keys(40):
            await leaver.peer.put(b"missed", key)
        await until(lambda: leaver.chunks.hints.total > 0)
        rest_ring = ring_of(*members)
        new = replace(rest_ring, number=2, members=tuple(s.peer.member for s in stores))
        for store in stores:
            if store is not away:
                await store.peer.replica.epochs.installed(new)
        await until(lambda: leaver.chunks.hints.total == 0, 60)
        world.isolate(leaver.peer)
        healers.dead = {leaver.peer.id, away.peer.id}
        world.network.cut = {pair for pair in world.network.cut if leaver.peer.id in pair}
        healers.dead = {leaver.peer.id}
        await until(lambda: healers.kept == leaver.chunks.hints.total == 0, 90)
        owned = [key for key in keys(40) if away.peer.id in new.table.owners((key[1] << 8) | key[2])]
        assert owned and all(away.peer.holds(key) == b"missed" for key in owned)
        assert away.peer.id in away.chunks.owners_of(name) and away.holds(name)

    simulate_stores(scenario, peers=5)


def test_a_hint_for_a_member_that_left_goes_to_the_present_owners() -> None:
    """Goal: an owner that took a dead one's place gets what that one would have."""

    async def scenario(world: World, *stores: Store) -> None:
        a, b, gone, new = stores
        await world.found(a.peer, b.peer, gone.peer)
        healers = Healers(world, *stores)
        healers.lose(gone)
        await a.peer.put(b"missed")
        name = await a.put(SMALL)
        await until(lambda: healers.kept == 2)
        epoch = replace(ring_of(a.peer.member, b.peer.member, new.peer.member), number=2)
        await new.peer.start(epoch)
        for store in (a, b):
            await store.peer.replica.epochs.installed(epoch)
        await until(lambda: new.peer.holds() == b"missed" and new.holds(name), 90)
        await until(lambda: healers.kept == 0, 60)

    simulate_stores(scenario, peers=4, founded=False)


def test_a_renewed_hint_stays() -> None:
    """Goal (G2): an owner that dealt with an older miss does not delete the hint about a newer one."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        first = await a.peer.put(b"first")
        await until(lambda: healers.kept == 1)
        second = await a.peer.put(b"second")
        item = bytes((REGISTER,)) + KEY
        kept = a.peer.disk.tables["hints"]
        await until(lambda: kept.get(bytes.fromhex(c.peer.id) + item) == second.ballot)
        assert await a.peer.ask(HINTED, c.peer.id, [(item, first.ballot)]) == (0,)
        assert healers.kept == 1
        assert await a.peer.ask(HINTED, c.peer.id, [(item, second.ballot)]) == (0,)
        assert healers.kept == 0

    simulate_stores(scenario)


def test_what_is_beyond_the_cap_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (G3, P8): a target's hints are bounded; what does not fit is counted, and nothing fails."""
    monkeypatch.setattr(hints_module, "KEYS_MOST", 10)

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        for key in keys(25):
            await a.peer.put(b"missed", key)
        await until(lambda: a.chunks.hints.counts["dropped"] == 15)
        assert healers.kept == 10 and len(a.peer.disk.tables["hints"]) == 10
        healers.find()
        await until(lambda: healers.kept == 0)
        assert sum(c.peer.holds(key) == b"missed" for key in keys(25)) == 10

    simulate_stores(scenario)


def test_a_long_gone_hint_resurrects_nothing() -> None:
    """Schedule 7, before the purge (G1): a hint about a write that was deleted since brings the tombstone, not the value."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        old = await a.peer.put(b"old")
        await until(lambda: healers.kept == 1)
        healers.find()
        await until(lambda: healers.kept == 0)
        await b.peer.put(None)
        await until(lambda: world.holding(None) == 3)
        await a.chunks.hints.keep(c.peer.id, [(bytes((REGISTER,)) + KEY, old.ballot)])
        healers.workers[c].returned(a.peer.id)
        await until(lambda: healers.kept == 0)
        assert world.holding(None) == 3 and await a.peer.get() is None

    simulate_stores(scenario)


def test_delivery_is_paced() -> None:
    """Goal: a returning owner pulls at the set rate, not as fast as it can."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        for key in keys(600):
            await a.peer.put(b"missed", key)
        await until(lambda: healers.kept == 600)
        healers.workers[c].per_second = 50.0
        began_s = world.now
        healers.find()
        await until(lambda: healers.kept == 0, 60)
        assert 9 < world.now - began_s < 20, "two full pages at 50 a second, and the rest"

    simulate_stores(scenario)


# --- chunks


@BYTES
def test_an_owner_pulls_the_chunks_it_missed(data: bytes) -> None:
    """Goal: three peers have no fallback: a majority of durable copies is enough, and the hint names the chunk."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        name = await a.put(data, b"attempt1")
        await a.put(data, b"attempt2")
        await until(lambda: healers.kept == 2)
        healers.find()
        await until(lambda: healers.kept == 0)
        assert c.holds(name) and sorted(c.references(name)) == [b"attempt1", b"attempt2"]

    simulate_stores(scenario)


@BYTES
def test_a_fallback_keeps_the_bytes_of_an_owner_that_is_away(data: bytes) -> None:
    """Goal (§7): with an owner away there are three copies all the same; it gets its own, and the fallback lets go."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(data))
        healers = Healers(world, *stores)
        away = ordered[2]
        healers.lose(away)
        name = await ordered[0].put(data)
        await until(lambda: holding(stores, data) == 3)
        keeper = next(store for store in ordered[3:] if store.holds(name))
        assert keeper.chunks.hints.kept[away.peer.id].bytes == len(data)
        healers.find()
        await until(lambda: away.holds(name) and not keeper.holds(name))
        assert healers.kept == 0 and not keeper.references(name)
        await until(lambda: keeper.files.states(name) == ["unnamed"])
        assert holding(stores, data) == 3

    simulate_stores(scenario, peers=5)


@BYTES
def test_puts_and_gets_without_a_majority_of_owners(data: bytes) -> None:
    """Goal (§7): two of three owners away, fallbacks take their copies and serve them; beyond those it is 503."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(data))
        healers = Healers(world, *stores)
        healers.lose(ordered[0], ordered[1])
        name = await ordered[3].put(data)
        await until(lambda: holding(stores, data) == 3)
        world.isolate(ordered[2].peer)
        assert await ordered[3].get(name) == data
        assert await ordered[4].get(name) == data
        healers.lose(ordered[3], ordered[4])
        assert isinstance(await error_of(ordered[2].put(data + b"1")), Unavailable)

    simulate_stores(scenario, peers=5)


@BYTES
def test_an_owner_that_falls_silent_gets_a_fallback(data: bytes) -> None:
    """Goal: before gossip has noticed, silent owners cost a put a hedge and not its deadline."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(data))
        Healers(world, *stores)
        world.silence(ordered[1].peer)
        world.silence(ordered[2].peer)
        began_s = world.now
        name = await ordered[0].put(data)
        assert world.now - began_s < 3
        assert await ordered[4].get(name) == data

    simulate_stores(scenario, peers=5)


def test_bytes_kept_for_a_target_are_bounded() -> None:
    """Goal (P8): beyond a tenth of its capacity a fallback refuses, and the next one is asked."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(LARGE))
        healers = Healers(world, *stores)
        away = ordered[2]
        healers.lose(away)
        first = next(s for s in ordered if s.peer.id == ordered[0].chunks.fallbacks_of(name_of(LARGE))[0])
        first.chunks.hints._bytes_most = len(LARGE) - 1
        name = await ordered[0].put(LARGE)
        await until(lambda: holding(stores, LARGE) == 3)
        assert not first.holds(name)

    simulate_stores(scenario, peers=5)


def test_a_hint_is_durable_before_the_put_counts_it() -> None:
    """Goal (C6): the fallback's answer comes after a commit that holds bytes' row, reference and hint."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(SMALL))
        healers = Healers(world, *stores)
        healers.lose(ordered[0], ordered[1])
        await ordered[2].put(SMALL)
        keepers = [store for store in ordered[3:] if store.holds(name_of(SMALL))]
        assert keepers and all(store.peer.disk.tables["hints"] for store in keepers)

    simulate_stores(scenario, peers=5)


def test_messages_about_hints_are_for_members_of_this_epoch() -> None:
    """Goal (N1): a request under an older epoch is refused, as any other."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        Healers(world, a, b, c)
        reply = await a.peer.ask(HINTS, c.peer.id, b"", 10, tag=0)
        assert reply[0] != 0
        assert await a.peer.ask(HINTS, c.peer.id, b"", 10) == (0, [], 0)

    simulate_stores(scenario)


def test_hints_wait_for_a_disk_that_takes_no_writes() -> None:
    """Goal: what others miss meanwhile is remembered and written later, not dropped; nothing has to be compared for it."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        hints = a.chunks.hints
        a.peer.disk.read_only = True
        for key in keys(50):
            hints.missed(c.peer.id, key, b"ballot")
        await asyncio.sleep(5)
        assert not a.peer.disk.tables["hints"] and hints.total == 50
        a.peer.disk.read_only = False
        await until(lambda: len(a.peer.disk.tables["hints"]) == 50)
        assert hints.counts["dropped"] == 0

    simulate_stores(scenario)


def test_a_hint_that_is_stored_twice_counts_once() -> None:
    """Goal: a message that the network repeats, or a second try, while the first commit is under way: one hint is kept, and
    none once it is forgotten. (What was counted too often looked like something to do for ever.)"""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        hints, holder = a.chunks.hints, a.chunks.holder
        name = await a.put(SMALL)
        told: list[object] = []
        assert not hints.count_some()
        for _ in range(2):
            holder.refer(name, b"attempt9", b"back", told.append, c.peer.id)
        await until(lambda: told == [None, None])
        holder.refer(name, b"attempt9", b"back", told.append, c.peer.id)
        await until(lambda: len(told) == 3)
        assert hints.total == hints.counts["kept"] == 1
        assert hints.kept[c.peer.id].bytes == len(SMALL)
        hints.forget(hints.page(b""), [], told.append)
        await until(lambda: len(told) == 4)
        assert not hints.kept and hints.total == 0

    simulate_stores(scenario)
