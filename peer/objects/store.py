"""Objects: put, get, head, delete, and their conditional forms (promises P2, P3, P5).

Up to `INLINE_MAX` bytes lie beside the head, in the same commit. Larger bodies are cut into chunks, at most three in
flight per put, whose names go into the head, or beyond 64 into manifest chunks. Either way the head is the commit
point: all it names is durable before it is accepted, and a put that fails before leaves only garbage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from peer.buffers import Buffer, BufferPool
from peer.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable
from peer.etag import etag_of, etag_of_digests
from peer.replication.chunks import Chunks
from peer.replication.node import Replica
from peer.replication.register import Current, GateRefused, Judge, Keep, Put

from .buckets import Buckets
from .heads import CHUNKS, CHUNKS_IN_HEAD, INLINE, MANIFEST, NAME_BYTES, Bucket, Head
from .names import check_key

INLINE_MAX = 16 * 1024
GATHER_BYTES = 256 * 1024
IN_FLIGHT = 3
BUFFER_WAIT_S = 30.0
GATE_TRIES = 4

T = TypeVar("T")


class Body(Protocol):
    """A request body. `read` gives the next bytes, b"" at the end; raises Invalid if it ends too early."""

    async def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Conditions:
    """If-Match and If-None-Match of a write: etags without quotes, or "*"."""

    if_match: frozenset[str] = frozenset()
    if_none_match: frozenset[str] = frozenset()

    def refusal(self, current: Head | None) -> Conflict | NotFound | None:
        """What to answer instead of writing, or None."""
        if self.if_match:
            if current is None:
                return NotFound("there is no such object to match", code="NoSuchKey")
            if "*" not in self.if_match and current.etag not in self.if_match:
                return Conflict(f"the object's ETag is {current.etag}, which If-Match does not name")
        if self.if_none_match and current is not None:
            if "*" in self.if_none_match:
                return Conflict("the object exists already")
            if current.etag in self.if_none_match:
                return Conflict(f"the object's ETag is {current.etag}, which If-None-Match names")
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there: its head, and its bytes if they are inline."""

    head: Head
    inline: bytes | None


class Objects:
    """All object operations of one peer."""

    def __init__(
        self, replica: Replica, chunks: Chunks, pool: BufferPool, inline_max: int = INLINE_MAX
    ) -> None:
        self.buckets = Buckets(replica)
        self.inline_max = inline_max
        self._replica = replica
        self._registers = replica.registers
        self._env = replica.env
        self._chunks = chunks
        self._pool = pool
        self._attempts = 0
        self._fills = asyncio.Semaphore(max(1, pool.bound // 2))
        self._me = bytes.fromhex(replica.me) + replica.identity.boot.to_bytes(4, "big")

    # --- reading

    async def find(self, bucket: str, key: bytes, *, inline: bool = True) -> Found:
        """The object's head, with its inline bytes unless not wanted. Raises NotFound (NoSuchBucket, NoSuchKey)."""
        check_key(key)

        async def read(known: Bucket) -> Current:
            row = known.objects(self._power).row_key(key)
            return await self._registers.read(row, gate=known.generation, want_side=inline)

        current = await self._in_bucket(bucket, read)
        if current.payload is None:
            shown = key[:80].decode("utf-8", "replace")
            raise NotFound(f"bucket {bucket!r} has no object {shown!r}", code="NoSuchKey")
        head = Head.decode(current.payload)
        side = current.side
        if head.kind == INLINE and inline:
            side = side or b""
            if len(side) != head.size or (head.size and etag_of(side) != head.etag):
                raise Corrupt(
                    "the object's inline bytes do not match its ETag; another owner will be asked next time"
                )
        return Found(head, side)

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
        names = _Names(self._chunks, self._pool, head, size)
        ahead: asyncio.Task[tuple[Buffer, int]] | None = self._env.spawn(self._fetch(names, first), "chunk")
        try:
            for index in range(first, last + 1):
                assert ahead is not None
                buffer, length = await ahead
                ahead = None
                if length != min(size, head.size - index * size):
                    self._pool.give(buffer)
                    raise Corrupt("a chunk of this object has another length than its head says")
                if index < last:
                    ahead = self._env.spawn(self._fetch(names, index + 1), "chunk")
                low = max(start - index * size, 0)
                high = min(stop - index * size, length)
                yield buffer.payload(length)[low:high], lambda buffer=buffer: self._pool.give(buffer)  # type: ignore[misc]
        finally:
            if ahead is not None:
                ahead.add_done_callback(self._give_back)
                ahead.cancel()

    async def _fetch(self, names: _Names, index: int) -> tuple[Buffer, int]:
        return await self._chunks.get(await names.of(index))

    def _give_back(self, task: asyncio.Task[tuple[Buffer, int]]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._pool.give(task.result()[0])

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
    ) -> Head:
        """Store an object; durable on a majority when it returns. `size` None: until the body ends.

        Raises Invalid (body shorter than said), Conflict, NotFound, Unavailable, UnknownOutcome, Full. Before the head
        is accepted nothing is visible.
        """
        check_key(key)
        known = await self.buckets.find(bucket)
        if size is not None and size > self.largest:
            raise _too_large(self.largest)
        attempt = self._attempt()
        if size is not None and size <= self.inline_max:
            data = await _read_all(body, size)
            stored = _Stored(INLINE, b"", len(data), etag_of(data) if data else _EMPTY_ETAG, data)
        else:
            back = known.objects(self._power).row_key(key)
            stored = await _Upload(self, body, attempt, back).run()
        if size is not None and stored.size != size:
            raise Invalid(
                f"the body ended after {stored.size} of {size} bytes; nothing was stored",
                code="IncompleteBody",
            )
        head = Head(
            stored.size,
            stored.etag,
            self._env.wall_us(),
            content_type,
            metadata or None,
            attempt,
            stored.kind,
            stored.names,
        )
        wanted = Put(head.encode(), stored.inline)
        await self._in_bucket(bucket, self._writer(key, _judge(wanted, conditions), known, conditions))
        return head

    async def delete(self, bucket: str, key: bytes, conditions: Conditions | None = None) -> bool:
        """Write a tombstone; True if there was an object. Raises as `put`."""
        check_key(key)
        existed = False

        def judge(current: Current) -> Any:
            nonlocal existed
            existed = current.payload is not None
            if conditions is not None:
                refusal = conditions.refusal(
                    None if current.payload is None else Head.decode(current.payload)
                )
                if refusal is not None:
                    return refusal
            return Put(None) if existed else Keep

        await self._in_bucket(bucket, self._writer(key, judge, None, conditions))
        return existed

    def _writer(
        self, key: bytes, judge: Judge, first: Bucket | None, conditions: Conditions | None
    ) -> Callable[[Bucket], Awaitable[Current]]:
        async def write(known: Bucket) -> Current:
            if first is not None and known.id != first.id:
                raise Unavailable(f"bucket {known.name!r} was made anew meanwhile; try again")
            row = known.objects(self._power).row_key(key)
            try:
                return await self._registers.change(row, judge, gate=known.generation)
            except Unavailable as error:
                if conditions is None or error.code != "SlowDown":
                    raise
                raise _contended() from error

        return write

    async def _in_bucket(self, name: str, act: Callable[[Bucket], Awaitable[T]]) -> T:
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
        try:
            async with asyncio.timeout(BUFFER_WAIT_S) if self._fills.locked() else contextlib.nullcontext():
                await self._fills.acquire()
        except TimeoutError:
            raise Unavailable("too many uploads at once; retry later", code="SlowDown") from None
        try:
            yield
        finally:
            self._fills.release()

    @property
    def chunk_bytes(self) -> int:
        return self._replica.epoch.chunk_bytes

    @property
    def pressed(self) -> bool:
        """Whether somebody waits for a buffer."""
        return self._pool.stats.waiting > 0

    @property
    def largest(self) -> int:
        """Bytes of the largest object: what the manifests that fit into a head can list."""
        chunk_bytes = self._replica.epoch.chunk_bytes
        return CHUNKS_IN_HEAD * (chunk_bytes // NAME_BYTES) * chunk_bytes

    def _attempt(self) -> bytes:
        self._attempts += 1
        return self._me + self._attempts.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class _Stored:
    """Bytes that are durable, or about to be in the head's own commit."""

    kind: int
    names: bytes
    size: int
    etag: str
    inline: bytes | None


class _Upload:
    """A body on its way into chunks: fills a buffer, hands it over, at most IN_FLIGHT at once."""

    def __init__(self, objects: Objects, body: Body, attempt: bytes, back: bytes) -> None:
        self._o = objects
        self._body = body
        self._attempt = attempt
        self._back = back
        self._chunk_bytes = objects._replica.epoch.chunk_bytes
        self._manifest_names = self._chunk_bytes // NAME_BYTES
        self._size = 0
        self._tasks: list[asyncio.Task[bytes]] = []
        self._names = bytearray()
        self._manifests = bytearray()
        self._etag = _EtagOfNames()

    async def run(self) -> _Stored:
        try:
            return await self._run()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> _Stored:
        gathered, rest = await self._gather()
        if len(gathered) <= self._o.inline_max and rest is None:
            data = bytes(gathered)
            return _Stored(INLINE, b"", len(data), etag_of(data) if data else _EMPTY_ETAG, data)
        pending = [memoryview(gathered)]
        more = rest is not None
        while pending or more:
            more = await self._fill_one(pending, more)
        while self._tasks:
            await self._collect()
        names, kind = bytes(self._names), CHUNKS
        if self._manifests or len(names) > CHUNKS_IN_HEAD * NAME_BYTES:
            if names:
                await self._store_manifest()
            names, kind = bytes(self._manifests), MANIFEST
        return _Stored(kind, names, self._size, self._etag.value(), None)

    async def _gather(self) -> tuple[bytearray, bool | None]:
        """The first bytes, in small blocks: a slow or short body takes no buffer. None: the body has ended."""
        gathered = bytearray()
        while len(gathered) < min(GATHER_BYTES, self._chunk_bytes):
            piece = await self._body.read()
            if not piece:
                return gathered, None
            gathered += piece
        return gathered, True

    async def _fill_one(self, pending: list[memoryview], more: bool) -> bool:
        """Fill one buffer from `pending` and the body and start its put; False when the body has ended."""
        o = self._o
        async with o.filling():
            return await self._fill(await o._pool.take(BUFFER_WAIT_S), pending, more)

    async def _fill(self, buffer: Buffer, pending: list[memoryview], more: bool) -> bool:
        o = self._o
        filled = 0
        handed_over = False
        try:
            target = buffer.payload(self._chunk_bytes)
            while filled < self._chunk_bytes:
                if not pending:
                    if not more:
                        break
                    piece = await self._body.read()
                    if not piece:
                        more = False
                        break
                    pending.append(memoryview(piece))
                view = pending[0]
                take = min(len(view), self._chunk_bytes - filled)
                target[filled : filled + take] = view[:take]
                filled += take
                if take == len(view):
                    pending.pop(0)
                else:
                    pending[0] = view[take:]
            if filled:
                self._size += filled
                while len(self._tasks) >= IN_FLIGHT:
                    await self._collect()
                handed_over = True
                self._start_put(buffer, filled)
        finally:
            if not handed_over:
                o._pool.give(buffer)
        return more

    def _start_put(self, buffer: Buffer, length: int) -> None:
        """Put a chunk in a task of its own. One that is cancelled before its first step owns nothing yet."""
        started = False

        async def put() -> bytes:
            nonlocal started
            started = True
            return await self._put(buffer, length)

        def ended(_: asyncio.Task[bytes]) -> None:
            if not started:
                self._o._pool.give(buffer)

        task = self._o._env.spawn(put(), "chunk put")
        task.add_done_callback(ended)
        self._tasks.append(task)

    async def _put(self, buffer: Buffer, length: int) -> bytes:
        return await self._o._chunks.put(
            buffer, length, self._attempt, self._back, lambda: self._o._pool.give(buffer)
        )

    async def _collect(self) -> None:
        """Wait for the oldest put; its name comes next."""
        name = await self._tasks[0]
        self._tasks.pop(0)
        self._names += name
        self._etag.add(name)
        if len(self._names) >= self._manifest_names * NAME_BYTES:
            await self._store_manifest()

    async def _store_manifest(self) -> None:
        if len(self._manifests) >= CHUNKS_IN_HEAD * NAME_BYTES:
            raise _too_large(self._o.largest)
        buffer = await self._o._pool.take(BUFFER_WAIT_S)
        length = len(self._names)
        buffer.payload(length)[:] = self._names
        self._names.clear()
        self._manifests += await self._put(buffer, length)


def _too_large(largest: int) -> Invalid:
    return Invalid(
        f"an object of this cluster has at most {largest} bytes; store the data in several",
        code="EntityTooLarge",
        status=413,
    )


class _EtagOfNames:
    """The ETag of chunk names as they come, in memory that does not grow."""

    def __init__(self) -> None:
        from blake3 import blake3

        self._hash = blake3()
        self._count = 0

    def add(self, name: bytes) -> None:
        self._hash.update(name)
        self._count += 1

    def value(self) -> str:
        return f"{self._hash.hexdigest()[:32]}-{self._count}"


class _Names:
    """Chunk names by index: from the head, or from its manifests, of which one at a time is kept."""

    def __init__(self, chunks: Chunks, pool: BufferPool, head: Head, chunk_bytes: int) -> None:
        self._chunks = chunks
        self._pool = pool
        self._head = head
        self._per_manifest = chunk_bytes // NAME_BYTES
        self._loaded = -1
        self._names = head.names if head.kind == CHUNKS else b""

    async def of(self, index: int) -> bytes:
        if self._head.kind == MANIFEST:
            which, index = divmod(index, self._per_manifest)
            if which != self._loaded:
                buffer, length = await self._chunks.get(_nth(self._head.names, which))
                self._names = bytes(buffer.payload(length))
                self._pool.give(buffer)
                self._loaded = which
        return _nth(self._names, index)


def _nth(names: bytes, index: int) -> bytes:
    name = names[index * NAME_BYTES : (index + 1) * NAME_BYTES]
    if len(name) != NAME_BYTES:
        raise Corrupt("an object's head names fewer chunks than its size needs")
    return name


def _contended() -> Conflict:
    """A condition that could not be decided because others kept changing the key; nothing changed."""
    conflict = Conflict(
        "other requests keep changing this object, so the condition could not be decided; try again",
        code="ConditionalRequestConflict",
        status=409,
    )
    conflict.retry = True
    return conflict


def _judge(wanted: Put, conditions: Conditions | None) -> Judge:
    if conditions is None:
        return lambda _: wanted

    def judge(current: Current) -> Any:
        refusal = conditions.refusal(None if current.payload is None else Head.decode(current.payload))
        return refusal if refusal is not None else wanted

    return judge


async def _read_all(body: Body, size: int) -> bytes:
    """A body small enough to hold; reads past `size` only to find the end."""
    pieces = []
    got = 0
    while got < size:
        piece = await body.read()
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _nothing() -> None:
    """Inline bytes need no release."""


_EMPTY_ETAG = etag_of_digests(())
