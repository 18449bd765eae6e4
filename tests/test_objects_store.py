"""Object operations over registers and chunks, on virtual time: what holds when the network decides the schedule."""

from __future__ import annotations

import pytest

from peer.errors import NotFound, Unavailable, UnknownOutcome
from peer.objects.store import Objects
from peer.replication.messages import ACCEPT
from tests.replication_chunks import LARGE, Store, simulate_stores
from tests.replication_world import World


class Body:
    """A request body that has arrived whole."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, *, few: bool = False) -> bytes:
        content, self._content = self._content, b""
        return content

    def holds(self, buffer: bool) -> None:
        """It has arrived: nobody waits for it."""


def objects_of(store: Store) -> Objects:
    return Objects(store.peer.replica, store.chunks, store.pool)


async def put(objects: Objects, key: bytes, content: bytes) -> None:
    await objects.put("bucket", key, Body(content), size=len(content), content_type="text/plain")


@pytest.mark.parametrize("before", ["never written", "deleted"])
def test_what_was_deleted_stays_deleted(before: str) -> None:
    """Goal: a put that ended as "unknown" waits on one owner; a delete that found nothing there is acknowledged;
    then the put never comes to light, whoever reads and repairs."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        objects = {store: objects_of(store) for store in (a, b, c)}
        await objects[a].buckets.create("bucket")
        if before == "deleted":
            await put(objects[b], b"key", b"older")
            assert await objects[b].delete("bucket", b"key")
        with (
            world.lost(ACCEPT, sender=a.peer, to=b.peer),
            world.lost(ACCEPT, sender=a.peer, to=c.peer),
            pytest.raises(UnknownOutcome),
        ):
            await put(objects[a], b"key", b"in doubt")
        world.isolate(a.peer)
        assert not await objects[b].delete("bucket", b"key")
        world.join_up()
        for store in (a, c, b):
            with pytest.raises(NotFound):
                await objects[store].find("bucket", b"key")

    simulate_stores(scenario)


def test_a_small_put_by_a_peer_that_remembers_the_old_bucket_reaches_the_new_one() -> None:
    """Goal: the name was deleted and made anew elsewhere; inline bytes belong to no bucket, so nobody is told to try
    again. Chunks refer to the old one: such a put is refused, and works the next time."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        here, there = objects_of(a), objects_of(b)
        for content in (b"small", LARGE):
            await here.buckets.create("bucket")
            await put(here, b"old", b"known here")
            await there.delete("bucket", b"old")
            await there.buckets.delete("bucket")
            await there.buckets.create("bucket")
            if content is LARGE:
                with pytest.raises(Unavailable, match="made anew"):
                    await put(here, b"key", content)
            await put(here, b"key", content)
            assert (await there.find("bucket", b"key")).head.size == len(content)
            await there.delete("bucket", b"key")
            await there.buckets.delete("bucket")
            here.buckets.forget("bucket")

    simulate_stores(scenario)
