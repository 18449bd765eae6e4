"""Objects: put, get, head, delete, and their conditional forms (promises P2, P3, P5).

Up to `INLINE_MAX` bytes lie beside the head, in the same commit. Larger bodies are cut into chunks, at most three in
flight per put, whose names go into the head, or beyond 64 into manifest chunks. Either way the head is the commit
point: all it names is durable before it is accepted, and a put that fails before leaves only garbage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, Invalid, NotFound, Unavailable
from peer.etag import etag_of
from peer.replication.chunks.chunks import Chunks
from peer.replication.node import Replica
from peer.replication.registers.register import Current, GateRefused, Judge, Put

from .buckets import Buckets
from .chunknames import Names
from .conditions import Conditions, contended, judge_of
from .heads import CHUNKS_IN_HEAD, INLINE, MANIFEST, NAME_BYTES, Bucket, Head
from .names import check_key
from .upload import BUFFER_WAIT_S, EMPTY_ETAG, Body, Stored, Upload, read_all, too_large

INLINE_MAX = 24 * 1024
GATE_TRIES = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there: its head, and its bytes if they are inline."""

    head: Head
    inline: bytes | None
    bucket: str = ""
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class _Named:
    """What a put wants to have accepted, and how."""

    key: bytes
    head: Head
    inline: bytes | None
    conditions: Conditions | None
    operation: bytes

    @property
    def encoded(self) -> bytes:
        return self.head.encode()


class _MadeAnew(Unavailable):
    """Under the name there is another bucket now than the one that chunks refer to."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(f"bucket {bucket.name!r} was made anew meanwhile; try again")
        self.bucket = bucket


class GarbageCan(Protocol):
    """Who is told what became superfluous; `replication.garbage`."""

    def replaced(self, attempt: bytes, names: bytes, manifest: bool) -> None:
        """The head of this attempt lost its place, for certain; `names` are of chunks, or of manifests."""

    def failed(self, attempt: bytes, back: bytes, names: bytes, manifest: bool) -> None:
        """A put referred to these chunks, or to manifests and what they list, and perhaps no head names them."""


class Objects:
    """All object operations of one peer."""

    def __init__(
        self, replica: Replica, chunks: Chunks, pool: BufferPool, inline_max: int = INLINE_MAX,
        garbage: GarbageCan | None = None,
    ) -> None:  # fmt: skip
        self.buckets = Buckets(replica)
        self.inline_max = inline_max
        self._replica = replica
        self._registers = replica.registers
        self.env = replica.env
        self.chunks = chunks
        self.pool = pool
        self._garbage = garbage
        self._fills = asyncio.Semaphore(max(1, pool.bound // 2))
        self._queued: dict[object, float] = {}  # uploads that wait for a turn, and since when, in their order

    # --- reading

    async def find(self, bucket: str, key: bytes, *, inline: bool = True) -> Found:
        """The object's head, with its inline bytes unless not wanted. Raises NotFound (NoSuchBucket, NoSuchKey)."""
        check_key(key)

        async def read(known: Bucket) -> Current:
            row = known.objects(self._power).row_key(key)
            return await self._registers.read(row, gate=known.generation, want_side=inline)

        current = await self.in_bucket(bucket, read)
        if current.payload is None:
            shown = key[:80].decode("utf-8", "replace")
            raise NotFound(f"bucket {bucket!r} has no object {shown!r}", code="NoSuchKey")
        head = Head.decode(current.payload)
        side = current.side
        if head.kind == INLINE and inline:
            side = side or b""
            if len(side) != head.size or (head.size and etag_of(side) != head.etag):
                raise Corrupt(
                    "the object's inline bytes on this peer do not match its ETag; get it through another peer"
                )
        return Found(head, side, bucket, key)

    async def read(
        self, found: Found, start: int, stop: int
    ) -> AsyncIterator[tuple[memoryview, Callable[[], None]]]:
        """Verified bytes [start, stop) in order: (bytes, release), release to be called when they are sent.

        Touches only the chunks the range needs, and fetches the next one while one is being sent.
        """
        head = found.head
        if start >= stop:
            return
        if head.kind == INLINE:
            yield memoryview(found.inline or b"")[start:stop], _nothing
            return
        size = self._replica.epoch.chunk_bytes
        first, last = start // size, (stop - 1) // size
        names = Names(self.chunks, self.pool, head, size)
        ahead: asyncio.Task[tuple[Buffer, int]] | None = self.env.spawn(self._fetch(names, first), "chunk")
        try:
            for index in range(first, last + 1):
                assert ahead is not None
                try:
                    buffer, length = await ahead
                except Corrupt as error:
                    raise await self._why_gone(found, error) from error
                ahead = None
                if length != min(size, head.size - index * size):
                    self.pool.give(buffer)
                    raise Corrupt("a chunk of this object has another length than its head says")
                if index < last:
                    ahead = self.env.spawn(self._fetch(names, index + 1), "chunk")
                low = max(start - index * size, 0)
                high = min(stop - index * size, length)
                yield buffer.payload(length)[low:high], lambda buffer=buffer: self.pool.give(buffer)  # type: ignore[misc]
        finally:
            if ahead is not None:
                ahead.add_done_callback(self._give_back)
                ahead.cancel()

    async def _fetch(self, names: Names, index: int) -> tuple[Buffer, int]:
        return await self.chunks.get(await names.of(index))

    async def _why_gone(self, found: Found, error: Corrupt) -> AtollError:
        """What to say of a chunk that no owner holds: the object may have been replaced for longer than bytes are kept."""
        try:
            now = await self.find(found.bucket, found.key, inline=False)
            replaced = now.head.attempt != found.head.attempt
        except NotFound:
            replaced = True
        if not replaced:
            return error
        return Unavailable(
            "the object was replaced or deleted while it was being read; read it again", code="ObjectReplaced"
        )

    def _give_back(self, task: asyncio.Task[tuple[Buffer, int]]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.pool.give(task.result()[0])

    # --- writing

    async def put(
        self,
        bucket: str,
        key: bytes,
        body: Body,
        *,
        size: int | None,
        content_type: str,
        metadata: dict[str, str] | None = None,
        conditions: Conditions | None = None,
        operation: bytes = b"",
    ) -> Head:
        """Store an object; durable on a majority when it returns. `size` None: until the body ends.

        Raises Invalid (body shorter than said), Conflict, NotFound, Unavailable, UnknownOutcome, Full. Before the head
        is accepted nothing is visible. `operation`, 8 bytes: what was done under it already is not done twice.
        """
        check_key(key)
        known = await self.buckets.find(bucket)
        if size is not None and size > self.largest:
            raise too_large(self.largest)
        with self._replica.attempts.one() as attempt:
            upload = None
            if size is None or size > self.inline_max:
                upload = Upload(self, body, attempt, known.objects(self._power).row_key(key))
            try:
                stored = await self._store(body, size, upload)
                head = Head(
                    stored.size, stored.etag, self.env.wall_us(), content_type, metadata or None, attempt, stored.kind,
                    stored.names,
                )  # fmt: skip
                # Chunks say for whom they are there; inline bytes do not, so these may go into a bucket made anew.
                first = None if stored.kind == INLINE else known
                named = _Named(key, head, stored.inline, conditions, operation)
                try:
                    stands = await self._commit(bucket, named, first)
                except _MadeAnew as anew:
                    head, stands = await self._move(anew.bucket, named)
                if upload is not None and stands.payload != named.encoded:
                    self._abandon_upload(attempt, upload)
            except BaseException:
                if upload is not None:
                    self._abandon_upload(attempt, upload)
                raise
        self._tell_replaced(stands)
        return head

    async def _commit(self, bucket: str, named: _Named, first: Bucket | None) -> Current:
        """Have the head accepted, in `first` and no other bucket of that name if it is given. Raises _MadeAnew then."""
        judge = judge_of(Put(named.encoded, named.inline), named.conditions)
        return await self.in_bucket(
            bucket, self._writer(named.key, judge, first, named.conditions, named.operation)
        )

    async def _move(self, bucket: Bucket, named: _Named) -> tuple[Head, Current]:
        """The bucket whose name this peer remembered is gone, and this one has its name: have what was stored referred to
        from there, by an attempt of its own, and the head accepted there. Of bytes owners get only what they lack."""
        back = bucket.objects(self._power).row_key(named.key)
        with self._replica.attempts.one() as attempt:
            head = named.head._replace(attempt=attempt)
            moved = replace(named, head=head)
            stands = None
            try:
                names = Names(self.chunks, self.pool, head, self.chunk_bytes)
                for index in range(-(-head.size // self.chunk_bytes)):
                    await self.chunks.refer(await names.of(index), attempt, back)
                if head.kind == MANIFEST:
                    for at in range(0, len(head.names), NAME_BYTES):
                        await self.chunks.refer(head.names[at : at + NAME_BYTES], attempt, back)
                stands = await self._commit(bucket.name, moved, bucket)
            finally:
                if stands is None or stands.payload != moved.encoded:
                    self._abandon(attempt, back, head.names, head.kind == MANIFEST)
        return head, stands

    async def _store(self, body: Body, size: int | None, upload: Upload | None) -> Stored:
        """The bytes, made durable, or without an upload to be so with the head. Raises Invalid if they are not as many as
        said."""
        if upload is None:
            data = await read_all(body, size or 0)
            stored = Stored(INLINE, b"", len(data), etag_of(data) if data else EMPTY_ETAG, data)
        else:
            stored = await upload.run()
        if size is not None and stored.size != size:
            raise Invalid(
                f"the body ended after {stored.size} of {size} bytes; nothing was stored",
                code="IncompleteBody",
            )
        return stored

    def _abandon_upload(self, attempt: bytes, upload: Upload) -> None:
        self._abandon(attempt, upload.back, upload.manifests, True)
        self._abandon(attempt, upload.back, upload.listed_nowhere, False)

    def _abandon(self, attempt: bytes, back: bytes, names: bytes, manifest: bool) -> None:
        """No head may name what was stored for this attempt: have that looked into."""
        if self._garbage is not None and names:
            self._garbage.failed(attempt, back, names, manifest)

    def _tell_replaced(self, current: Current) -> None:
        """Let what a change took the place of become garbage."""
        if current.replaced is not None and self._garbage is not None:
            with contextlib.suppress(Corrupt):  # of another version: the walk of `garbage` asks again
                head = Head.decode(current.replaced)
                if head.kind != INLINE:
                    self._garbage.replaced(head.attempt, head.names, head.kind == MANIFEST)

    async def delete(
        self, bucket: str, key: bytes, conditions: Conditions | None = None, operation: bytes = b""
    ) -> bool:
        """Write a tombstone; True if there was an object. Raises as `put`.

        Also where there is nothing: a put whose outcome is unknown may wait on a minority of the owners. Only a
        tombstone above it makes sure that what was deleted stays so.
        """
        check_key(key)
        existed = False
        conditional = judge_of(Put(None), conditions)

        def judge(current: Current) -> Any:
            nonlocal existed
            existed = current.payload is not None
            return conditional(current)

        writer = self._writer(key, judge, None, conditions, operation)
        self._tell_replaced(await self.in_bucket(bucket, writer))
        return existed

    def _writer(
        self, key: bytes, judge: Judge, first: Bucket | None, conditions: Conditions | None, operation: bytes
    ) -> Callable[[Bucket], Awaitable[Current]]:
        async def write(known: Bucket) -> Current:
            if first is not None and known.id != first.id:
                raise _MadeAnew(known)
            row = known.objects(self._power).row_key(key)
            try:
                return await self._registers.change(row, judge, gate=known.generation, operation=operation)
            except Unavailable as error:
                if conditions is None or error.code != "SlowDown":
                    raise
                raise contended() from error

        return write

    async def in_bucket(self, name: str, act: Callable[[Bucket], Awaitable[T]]) -> T:
        """Act under the bucket's configuration as known here; if owners know better, learn and try again."""
        tries = 0
        while True:
            bucket = await self.buckets.find(name, fresh=tries > 0)
            try:
                return await act(bucket)
            except GateRefused as refused:
                tries += 1
                if tries >= GATE_TRIES:
                    raise
                self.buckets.forget(name)
                if tries > 1 and refused.generation < bucket.generation:
                    await self.buckets.heal_gates(bucket)

    @property
    def _power(self) -> int:
        return self._replica.epoch.partition_power

    @contextlib.asynccontextmanager
    async def filling(self) -> AsyncIterator[None]:
        """A turn to fill a buffer from a client. Half of the buffers at most: slow uploads leave reads the others.

        Raises Unavailable (SlowDown) if there was none in `BUFFER_WAIT_S`.
        """
        turn = object()
        self._queued[turn] = self.env.now()
        try:
            async with asyncio.timeout(BUFFER_WAIT_S) if self._fills.locked() else contextlib.nullcontext():
                await self._fills.acquire()
        except TimeoutError:
            raise Unavailable("too many uploads at once; retry later", code="SlowDown") from None
        finally:
            del self._queued[turn]
        try:
            yield
        finally:
            self._fills.release()

    @property
    def chunk_bytes(self) -> int:
        return self._replica.epoch.chunk_bytes

    @property
    def starved_s(self) -> float | None:
        """For how long somebody has waited for a turn to fill a buffer (0: for a buffer); None when nobody does."""
        since_s = next(iter(self._queued.values()), None)
        if since_s is not None:
            return self.env.now() - since_s
        return 0.0 if self.pool.stats.waiting else None

    @property
    def largest(self) -> int:
        """Bytes of the largest object: what the manifests that fit into a head can list."""
        chunk_bytes = self._replica.epoch.chunk_bytes
        return CHUNKS_IN_HEAD * (chunk_bytes // NAME_BYTES) * chunk_bytes


def _nothing() -> None:
    """Inline bytes need no release."""
