"""A chunk that is stored is referred to once more: bytes move only to those who need them, and what fails leaves nothing."""

from __future__ import annotations

import asyncio

import pytest

from peer.errors import AtollError, Unavailable
from peer.objects.heads import CHUNKS, MANIFEST
from peer.objects.store import Objects
from peer.replication.messages import STORE_CHUNK
from tests.replication_chunks import (
    BULK,
    BYTES,
    LARGE,
    Store,
    holding,
    name_of,
    owners_first,
    simulate_stores,
)
from tests.replication_world import KEY, World, error_of, until
from tests.test_objects_store import MANIFESTED, Body
from tests.test_replication_garbage import collected


@BYTES
@pytest.mark.parametrize("through", ["an owner", "a stranger"])
def test_owners_that_have_a_chunk_get_a_reference_and_no_bytes(data: bytes, through: str) -> None:
    """Goal: whoever refers to a stored chunk moves not a byte of it, be it an owner or not. It used to fetch the chunk
    first, from another owner if it had none."""

    async def scenario(world: World, *stores: Store) -> None:
        *owners, stranger = owners_first(stores, name_of(data))
        name = await owners[0].put(data)
        await until(lambda: holding(stores, data) == 3)
        by = owners[0] if through == "an owner" else stranger
        with world.lost(BULK, STORE_CHUNK) as transfers:
            await by.chunks.refer(name, b"attempt2", b"there")
            await until(lambda: all(b"attempt2" in one.references(name) for one in owners))
        assert transfers.hits == 0
        assert by.chunks.counts["gets"] == 0 and by.lent == 0

    simulate_stores(scenario, peers=4)


@BYTES
def test_one_owner_without_the_chunk_gets_a_hint(data: bytes) -> None:
    """Goal: a majority refers to bytes that it holds; the third owner, which lacks them or is away, is remembered."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        world.isolate(c.peer)
        name = await a.put(data)
        await until(lambda: a.chunks.hints.counts["kept"] == 1)
        world.join_up()
        with world.lost(BULK, STORE_CHUNK) as transfers:
            await a.chunks.refer(name, b"attempt2", b"there")
            await until(lambda: a.chunks.hints.counts["kept"] == 2)
            world.isolate(c.peer)
            await a.chunks.refer(name, b"attempt3", b"there")
            await until(lambda: a.chunks.hints.counts["kept"] == 3)
        assert transfers.hits == 0
        assert a.references(name) == b.references(name) == [b"attempt1", b"attempt2", b"attempt3"]

    simulate_stores(scenario)


@BYTES
def test_bytes_follow_where_too_few_owners_have_them(data: bytes) -> None:
    """Goal (P2): one of three owners holds the chunk; the reference is acknowledged when two hold chunk and reference. Where
    that cannot be it is Unavailable."""

    async def scenario(world: World, *stores: Store) -> None:
        first, second, third, stranger = owners_first(stores, name_of(data))
        name = await first.put(data)
        await until(lambda: holding(stores, data) == 3)
        for store in (second, third):
            extent = store.chunks.holder.find(name)
            assert extent is not None
            store.chunks.holder.quarantine(name, extent)
        await until(lambda: holding(stores, data) == 1)
        await stranger.chunks.refer(name, b"attempt2", b"there")
        assert sum(one.holds(name) and b"attempt2" in one.references(name) for one in stores) >= 2
        for store in (first, second, third):
            world.isolate(store.peer)
        assert isinstance(await error_of(stranger.chunks.refer(name, b"attempt3", b"there")), Unavailable)

    simulate_stores(scenario, peers=4)


@pytest.mark.parametrize("content", [LARGE, MANIFESTED], ids=["chunks", "manifests"])
def test_a_put_that_moves_to_a_new_bucket_moves_no_bytes(content: bytes) -> None:
    """Goal: the bucket was made anew meanwhile, and what was stored for the old one is referred to from there."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        here, there = (Objects(one.peer.replica, one.chunks, one.pool) for one in (a, b))
        await here.buckets.create("bucket")
        await there.buckets.delete("bucket")
        await there.buckets.create("bucket")
        with world.when(lambda: None, BULK, STORE_CHUNK) as transfers:
            await here.put("bucket", b"key", Body(content), size=len(content), content_type="text/plain")
            chunks = -(-len(content) // here.chunk_bytes)
            manifests = -(-chunks * 32 // here.chunk_bytes) if chunks > 64 else 0
            await until(lambda: a.lent == 0)
        assert transfers.hits <= 2 * (chunks + manifests), "each went to the two others, once"

    simulate_stores(scenario)


@pytest.mark.parametrize("failing", ["the first put", "its move to the new bucket"])
def test_a_failed_put_takes_all_its_references_along(failing: str) -> None:
    """Goal: a put of more chunks than a head lists fails in the end, or while it moves to a bucket made anew. The chunks
    that its manifests list go as well as these; they used to wait for the hourly walk."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        here = Objects(a.peer.replica, a.chunks, a.pool, garbage=peers[0].garbage)
        there = Objects(b.peer.replica, b.chunks, b.pool)
        await here.buckets.create("bucket")
        await there.buckets.delete("bucket")
        if failing != "the first put":
            await there.buckets.create("bucket")
            _fail_at_reference(a, 40)
        content = MANIFESTED
        error = await error_of(
            here.put("bucket", b"key", Body(content), size=len(content), content_type="text/plain")
        )
        assert isinstance(error, AtollError)
        assert len(a.peer.disk.tables["refs"]) > 64
        await until(lambda: not any(one.store.peer.disk.tables["refs"] for one in peers), 60)
        await until(lambda: not any(one.store.peer.disk.tables["chunks"] for one in peers), 60)

    simulate_stores(scenario)


def _fail_at_reference(store: Store, number: int) -> None:
    """From this reference on to a chunk that is stored none succeeds."""
    refer, counted = store.chunks.refer, iter(range(number))

    async def failing(name: bytes, attempt: bytes, back: bytes) -> None:
        if next(counted, None) is None:
            raise Unavailable("no majority")
        await refer(name, attempt, back)

    store.chunks.refer = failing  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [CHUNKS, MANIFEST], ids=["chunks", "manifests"])
def test_what_a_failed_put_referred_to_stays_while_a_head_may_name_it(kind: int) -> None:
    """Goal (G1): a put that did not learn how it ended was accepted after all: nothing of it goes."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        peers = collected(a, b, c, walks=False)
        with a.peer.replica.attempts.one() as attempt:
            listed = await peers[0].put(b"listed" * 100, attempt)
            manifest = await peers[0].put(listed, attempt)
        await until(lambda: a.lent == 0)
        names = manifest if kind == MANIFEST else listed
        world.isolate(a.peer)
        peers[0].garbage.failed(attempt, KEY, names, kind == MANIFEST)
        await asyncio.sleep(5)
        assert peers[0].garbage.queue() == 1, "nobody could be asked: it is asked again"
        assert await peers[1].name(attempt) is None
        world.join_up()
        await until(lambda: peers[0].garbage.queue() == 0, 60)
        await asyncio.sleep(5)
        assert all(one.store.holds(name) for one in peers for name in (listed, manifest))

    simulate_stores(scenario)
