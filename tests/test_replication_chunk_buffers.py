"""The buffers of puts and gets: given back whatever happens, once, and in time (§10, P8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from peer.replication.chunks.put import SEND_S, SILENT_STRAGGLE_S, STRAGGLE_S
from peer.replication.messages import ADD_REF
from tests.replication_chunks import (
    BULK,
    BYTES,
    LARGE,
    POOL,
    SMALL,
    Store,
    holding,
    name_of,
    owners_first,
    simulate_stores,
)
from tests.replication_world import World, until


@BYTES
@pytest.mark.parametrize("after_ms", [0, 0.5, 1.2, 2.2, 3.5, 5, 8])
def test_a_cancelled_put_gives_its_buffer_back(data: bytes, after_ms: float) -> None:
    """Goal (P8): whenever the client goes away, the buffer is released, once, and not before its last use."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        put = asyncio.ensure_future(a.put(data))
        await asyncio.sleep(after_ms / 1000)
        put.cancel()
        await asyncio.wait([put])
        await until(lambda: a.released == 1 or a.pool.stats.created == 0)
        assert a.lent == 0

    simulate_stores(scenario)


def test_a_cancellation_in_the_turn_of_a_result_loses_no_buffer() -> None:
    """Goal (P8): the name, or the chunk, is there, and in that very turn its waiter is cancelled."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(SMALL)
        await until(lambda: holding((a, b, c), SMALL) == 3 and a.released == 1)

        def cancelling(operation: Callable[..., None]) -> Callable[..., None]:
            def run(*args: Any) -> None:
                *rest, done = args
                operation(*rest, lambda result: (done(result), task.cancel()))

            return run

        a.files.name_of = cancelling(a.files.name_of)  # type: ignore[method-assign]
        a.files.read = cancelling(a.files.read)  # type: ignore[method-assign]
        task: asyncio.Task[Any] = asyncio.ensure_future(a.put(LARGE))
        await asyncio.wait([task])
        assert task.cancelled()
        assert (a.released, a.lent) == (2, 0)
        task = asyncio.ensure_future(a.get(name))
        await asyncio.wait([task])
        assert task.cancelled()
        assert a.lent == 0

    simulate_stores(scenario)


@pytest.mark.parametrize("after_ms", [0, 0.3, 0.9, 1.5, 2.5, 4, 300])
def test_a_cancelled_get_gives_its_buffers_back(after_ms: float) -> None:
    """Goal (P8): a read that nobody waits for any more leaves no buffer behind, hedged or not."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(LARGE)
        await until(lambda: holding((a, b, c), LARGE) == 3)
        await until(lambda: a.lent == 0)
        a.files.rot(name)
        if after_ms > 200:
            for store in (a, b, c):
                store.files.read_s = 2.0
        get = asyncio.ensure_future(a.chunks.get(name))
        await asyncio.sleep(after_ms / 1000)
        get.cancel()
        await asyncio.wait([get])
        if not get.cancelled():
            a.pool.give(get.result()[0])

    simulate_stores(scenario)


@BYTES
@pytest.mark.parametrize("coordinator", ["owner", "outsider"])
def test_a_straggler_keeps_a_buffer_for_a_second(data: bytes, coordinator: str) -> None:
    """Goal (§10): a silent owner, asked for a reference or sent the bytes, gets a second past the majority."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(data))
        store = ordered[0] if coordinator == "owner" else ordered[-1]
        ordered[2].peer.env.pause()
        await store.put(data)
        done_s = world.now
        await until(lambda: store.released == 1)
        assert world.now - done_s <= STRAGGLE_S + 0.05
        ordered[2].peer.env.resume()

    simulate_stores(scenario, peers=5)


def test_a_silent_owner_keeps_no_buffer_once_that_is_known() -> None:
    """Goal (§10): gossip believes that an owner lives, which takes nothing: after the first put that waited for it, puts
    give their buffers back with the majority; once in a while one tries it, and when it answers all do. A gateway's puts
    stood still for seconds, as all its buffers waited for that owner."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        async def put(number: int) -> float:
            """How long the buffer was kept after the majority."""
            released = a.released
            await a.put(b"%05d " % number * 60_000)
            done_s = world.now
            await until(lambda: a.released == released + 1)
            return world.now - done_s

        c.peer.env.pause()
        assert await put(0) == pytest.approx(STRAGGLE_S, abs=0.05)
        kept = [await put(number) for number in range(1, 20)]
        assert sum(kept_s < 2 * SILENT_STRAGGLE_S for kept_s in kept) >= 16
        c.peer.env.resume()
        number = 100
        while len(holding_of(c, range(100, number))) < 10:
            await put(number)
            number += 1
            assert number < 1000, "it is never tried again"

    def holding_of(store: Store, numbers: range) -> list[int]:
        return [number for number in numbers if store.holds(name_of(b"%05d " % number * 60_000))]

    simulate_stores(scenario)


def test_a_straggler_that_wants_the_bytes_too_late_does_not_get_them() -> None:
    """Goal (§10): its MISSING comes after the cut: no transfer starts, the copy becomes a hint."""

    async def scenario(world: World, *stores: Store) -> None:
        ordered = owners_first(stores, name_of(LARGE))
        outsider = ordered[-1]
        with (
            world.late(3.0, ADD_REF, to=ordered[2].peer),
            world.when(lambda: None, BULK, to=ordered[2].peer) as late,
        ):
            await outsider.put(LARGE)
            await asyncio.sleep(SEND_S)
        assert late.hits == 0
        assert outsider.released == 1
        assert outsider.chunks.counts["missed"] == 1

    simulate_stores(scenario, peers=5)


def test_more_reads_than_buffers_take_turns() -> None:
    """Goal (P8): with every buffer lent, reads wait for one and all end well."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        name = await a.put(LARGE)
        await until(lambda: holding((a, b, c), LARGE) == 3)
        await until(lambda: a.lent == 0)
        results = await asyncio.gather(*(a.get(name) for _ in range(POOL * 3)))
        assert results == [LARGE] * POOL * 3
        assert a.pool.stats.waits > 0

    simulate_stores(scenario)
