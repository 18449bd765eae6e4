"""Object operations over registers and chunks, on virtual time: what holds when the network decides the schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from peer.errors import NotFound, UnknownOutcome
from peer.objects.conditions import Conditions
from peer.objects.heads import INLINE
from peer.objects.listing import list_objects
from peer.objects.store import Found, Objects
from peer.replication.chunks.rows import decode_reference
from peer.replication.messages import ACCEPT
from peer.replication.registers.gates import GateRefused
from tests.replication_chunks import LARGE, Store, simulate_stores
from tests.replication_world import POWER, World, until
from tests.test_replication_healing import watch


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


MANIFESTED = b"".join(b"%07d " % number for number in range(65 * 64 * 1024 // 8 + 1))
"""More chunks of 64 KiB than a head can name."""


@pytest.mark.parametrize("content", [b"small", LARGE, MANIFESTED], ids=["inline", "chunks", "manifests"])
def test_a_put_by_a_peer_that_remembers_the_old_bucket_reaches_the_new_one(content: bytes) -> None:
    """Goal: the name was deleted and made anew elsewhere; the put goes into the new bucket at once, and its chunks are
    referred to from there, by the attempt that the head names. Where the bucket is just gone it is 404."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        here, there = objects_of(a), objects_of(b)
        told = Told()
        here._garbage = told
        await here.buckets.create("bucket")
        await put(here, b"old", b"known here")
        await there.delete("bucket", b"old")
        await there.buckets.delete("bucket")
        bucket, _ = await there.buckets.create("bucket")
        await put(here, b"key", content)
        found = await there.find("bucket", b"key")
        read = b"".join([part async for part in whole(there, found)])
        assert read == content
        references = [
            row for row in c.peer.disk.tables["refs"].items() if row[0].endswith(found.head.attempt)
        ]
        back = bucket.objects(POWER).row_key(b"key")
        assert bool(references) == (found.head.kind != INLINE)
        assert {decode_reference(key, row) for key, row in references} <= {back}
        assert [attempt == found.head.attempt for attempt in told.failed_attempts] == (
            [False] if references else []
        )
        await there.delete("bucket", b"key")
        await there.buckets.delete("bucket")
        with pytest.raises(NotFound):
            await put(here, b"key", content)

    simulate_stores(scenario)


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["inline", "chunks"])
@pytest.mark.parametrize("anew", ["after the stray head is everywhere", "before"])
def test_a_head_that_outlives_its_bucket_is_in_no_other(content: bytes, anew: str) -> None:
    """Schedule: a put that ended as "unknown" left its head on one owner, which is out of reach while the bucket is deleted;
    later anti-entropy copies the head to all owners, behind gates that are closed. A bucket of the same name has another id,
    so other keys and gates: nobody finds the object there, or lists it, through any gateway, whatever that remembers; and
    a put of the same key is the first one."""

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        objects = {store: objects_of(store) for store in (a, b, c)}
        old, _ = await objects[a].buckets.create("bucket", 1)
        await put(objects[c], b"known", b"so that it remembers the bucket")
        await objects[c].delete("bucket", b"known")
        with (
            world.lost(ACCEPT, sender=a.peer, to=b.peer),
            world.lost(ACCEPT, sender=a.peer, to=c.peer),
            pytest.raises(UnknownOutcome),
        ):
            await put(objects[a], b"key", content)
        stray = old.objects(POWER).row_key(b"key")
        world.isolate(a.peer)
        await objects[b].buckets.delete("bucket")
        new = (await objects[b].buckets.create("bucket", 1))[0] if anew == "before" else None
        world.join_up()
        running = [watch(store.peer, {one.peer.id for one in (a, b, c)}) for store in (a, b, c)]
        await until(lambda: all(one.peer.holds(stray) for one in (a, b, c)), 600)
        new = new or (await objects[b].buckets.create("bucket", 1))[0]
        assert new.id != old.id and len(running) == 3
        for store in (a, c, b):
            with pytest.raises(NotFound):
                await objects[store].find("bucket", b"key")
            listing = await list_objects(
                objects[store], store.peer.replica, "bucket", prefix=b"", delimiter=b"", after=b"", limit=10
            )
            assert not listing.objects
            with pytest.raises(GateRefused, match="closed"):
                await store.peer.replica.registers.read(stray, gate=old.generation)
        first = Conditions(if_none_match=frozenset("*"))
        await objects[c].put(
            "bucket", b"key", Body(b"new"), size=3, content_type="text/plain", conditions=first
        )
        assert (await objects[a].find("bucket", b"key")).inline == b"new"

    simulate_stores(scenario)


class Told:
    """A garbage can that remembers which attempts failed."""

    def __init__(self) -> None:
        self.failed_attempts: list[bytes] = []

    def replaced(self, attempt: bytes, names: bytes, manifest: bool) -> None: ...

    def failed(self, attempt: bytes, back: bytes, names: bytes, manifest: bool) -> None:
        self.failed_attempts.append(attempt)


async def whole(objects: Objects, found: Found) -> AsyncIterator[bytes]:
    async for part, release in objects.read(found, 0, found.head.size):
        yield bytes(part)
        release()
