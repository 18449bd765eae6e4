"""Owners that fall silent: an honest answer within 5 s, and none too early for those that are only slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from peer.errors import Unavailable
from peer.replication.patience import PATIENCE_S, Heard, Watch
from peer.rpc.bulkjobs import LONGEST_S
from tests.replication_chunks import CHUNK_BYTES, Store, name_of, simulate_stores
from tests.replication_world import World, error_of, simulate, until

SIZES = pytest.mark.parametrize("size", [1000, CHUNK_BYTES])


@SIZES
def test_a_put_ends_in_time_when_two_owners_fall_silent(size: int) -> None:
    """Goal (§1): no majority answers: 503 within 5 s, which names who was silent; it took 10 s."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        world.silence(b.peer)
        world.silence(c.peer)
        began_s = a.peer.env.now()
        error = await error_of(a.put(bytes(size)))
        assert isinstance(error, Unavailable)
        assert b.peer.id in str(error) and "silent for 4.5 s" in str(error)
        assert a.peer.env.now() - began_s <= 5.0
        await until(lambda: a.pool.stats.lent == 0)

    simulate_stores(scenario)


@SIZES
def test_a_get_ends_in_time_when_no_holder_answers(size: int) -> None:
    """Goal (§1): the same for a chunk that only silent owners have."""

    async def scenario(world: World, *stores: Store) -> None:
        name = await stores[0].put(bytes(size))
        owners = stores[0].chunks.owners_of(name)
        outsider = next(store for store in stores if store.peer.id not in owners)
        for store in stores:
            if store is not outsider:
                world.silence(store.peer)
        began_s = outsider.peer.env.now()
        assert isinstance(await error_of(outsider.get(name)), Unavailable)
        assert outsider.peer.env.now() - began_s <= 5.0
        await until(lambda: outsider.pool.stats.lent == 0)

    simulate_stores(scenario, peers=4)


def test_a_slow_link_stores_and_serves_chunks() -> None:
    """Goal: chunks that take longer than an owner may be silent, and than a minute, are stored and read as long as their
    bytes move; once they do not, it is 503 a moment later. They used to be cut after a minute."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        data = bytes(CHUNK_BYTES)
        for store in (a, b, c):
            store.bulk.link_s = 100.0
        began_s = world.now
        with world.lost(to=c.peer):
            name = await a.put(data)
            assert world.now - began_s > 100.0
            await until(lambda: a.lent == 0)
        assert not c.holds(name)
        assert name_of(await c.get(name)) == name
        for store in (a, c):
            store.bulk.stuck_at_s = 9.0
        for act in (c.get(name), a.put(data[1:])):
            began_s = world.now
            story = await story_of(act)
            assert "silent for 4.5 s" in story
            assert 9.0 + PATIENCE_S - 0.5 < world.now - began_s < 9.0 + 5.5
            await until(lambda: not a.lent + c.lent, 10)

    simulate_stores(scenario)


async def story_of(act: Awaitable[bytes]) -> str:
    """The words of the 503 that this ends with."""
    try:
        return f"{len(await act)} bytes"
    except Unavailable as error:
        return str(error)


def test_no_link_is_too_slow_to_have_an_end() -> None:
    """Goal (P8): bytes that go on moving for ever keep a request for five minutes, and no longer."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        a.bulk.link_s = 1e3
        began_s = world.now
        assert "cut off" in await story_of(a.put(bytes(CHUNK_BYTES)))
        assert LONGEST_S - 1 < world.now - began_s < LONGEST_S + 10

    simulate_stores(scenario)


def test_who_ends_transfers_now_and_then_is_slow_and_not_silent() -> None:
    """Goal: the watch waits on while enough owners are heard of, and gives up PATIENCE_S after the last word."""

    async def scenario(world: World, *_: object) -> None:
        env = world.peers[0].env
        heard, given_up = Heard(env), []
        began_s = env.now()
        Watch(heard, lambda: ["slow", "silent"], lambda: 1, lambda: given_up.append(env.now() - began_s))
        both: list[float] = []
        Watch(heard, lambda: ["slow", "silent"], lambda: 2, lambda: both.append(env.now() - began_s))
        for _ in range(5):
            await asyncio.sleep(4)
            heard.note("slow")
        await until(lambda: bool(given_up))
        assert given_up == [pytest.approx(20 + PATIENCE_S, abs=0.1)]
        assert both == [pytest.approx(PATIENCE_S, abs=0.1)], "one of two that are needed is not enough"
        ours: list[float] = []
        watch = Watch(heard, lambda: ["silent"], lambda: 0, lambda: ours.append(env.now()))
        await asyncio.sleep(60)
        assert not ours, "what is waited for is not the owners'"
        watch.end()

    simulate(scenario)
