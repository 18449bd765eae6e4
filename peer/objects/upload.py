"""A body on its way into an object's bytes: small ones gathered, larger ones cut into chunks and manifests.

At most three chunks of a put are in flight. Nothing here is visible to anybody until the head that names it is
accepted (`store`); what a failed upload leaves is garbage.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from peer.buffers import Buffer, BufferPool
from peer.errors import Invalid
from peer.etag import etag_of, etag_of_digests
from peer.replication.chunks.chunks import Chunks
from peer.replication.env import Env

from .heads import CHUNKS, CHUNKS_IN_HEAD, INLINE, MANIFEST, NAME_BYTES

GATHER_BYTES = 256 * 1024
IN_FLIGHT = 3
BUFFER_WAIT_S = 30.0
EMPTY_ETAG = etag_of_digests(())


class Body(Protocol):
    """A request body. `read` gives the next bytes, b"" at the end, and with `few` not many of them; raises Invalid if it
    ends too early. `holds` is told when it begins and ends to fill a buffer, so that a client who sits on one while
    others wait can be cut."""

    async def read(self, *, few: bool = False) -> bytes: ...
    def holds(self, buffer: bool) -> None: ...


class Means(Protocol):
    """What an upload works with; `store.Objects` has it."""

    env: Env
    pool: BufferPool
    chunks: Chunks
    inline_max: int

    @property
    def chunk_bytes(self) -> int: ...
    @property
    def largest(self) -> int: ...
    def filling(self) -> AbstractAsyncContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that are durable, or about to be in the head's own commit."""

    kind: int
    names: bytes
    size: int
    etag: str
    inline: bytes | None


class Upload:
    """A body on its way into chunks: fills a buffer, hands it over, at most IN_FLIGHT at once."""

    def __init__(self, means: Means, body: Body, attempt: bytes, back: bytes) -> None:
        self._m = means
        self._body = body
        self._attempt = attempt
        self.back = back
        self._chunk_bytes = means.chunk_bytes
        self._manifest_names = self._chunk_bytes // NAME_BYTES
        self._size = 0
        self._tasks: list[asyncio.Task[bytes]] = []
        self._names = bytearray()
        self._manifests = bytearray()
        self._etag = _EtagOfNames()

    @property
    def manifests(self) -> bytes:
        """Names of the manifests that were stored so far."""
        return bytes(self._manifests)

    @property
    def listed_nowhere(self) -> bytes:
        """Names of chunks that were stored so far and that no manifest lists, as many as a head could hold."""
        return bytes(self._names[: CHUNKS_IN_HEAD * NAME_BYTES])

    async def run(self) -> Stored:
        try:
            return await self._run()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> Stored:
        gathered, rest = await self._gather()
        if len(gathered) <= self._m.inline_max and rest is None:
            data = bytes(gathered)
            return Stored(INLINE, b"", len(data), etag_of(data) if data else EMPTY_ETAG, data)
        pending = [memoryview(gathered)]
        del gathered  # so that nothing keeps what has been put: a hundred uploads at once would keep much
        more = rest is not None
        while pending or more:
            if more:  # a turn is taken when bytes are there: who sends no more waits without one
                more = await self._read(pending, few=True)
            if pending:
                more = await self._fill_one(pending, more)
        while self._tasks:
            await self._collect()
        names, kind = bytes(self._names), CHUNKS
        if self._manifests or len(names) > CHUNKS_IN_HEAD * NAME_BYTES:
            if names:
                await self._store_manifest()
            names, kind = bytes(self._manifests), MANIFEST
        return Stored(kind, names, self._size, self._etag.value(), None)

    async def _gather(self) -> tuple[bytearray, bool | None]:
        """The first bytes, in small blocks: a slow or short body takes no buffer. None: the body has ended."""
        gathered = bytearray()
        while len(gathered) < min(GATHER_BYTES, self._chunk_bytes):
            piece = await self._body.read()
            if not piece:
                return gathered, None
            gathered += piece
        return gathered, True

    async def _read(self, pending: list[memoryview], *, few: bool = False) -> bool:
        """Add what the body gives next to `pending`; False at its end."""
        piece = await self._body.read(few=few)
        if piece:
            pending.append(memoryview(piece))
        return bool(piece)

    async def _fill_one(self, pending: list[memoryview], more: bool) -> bool:
        """Fill one buffer from `pending` and the body and start its put; False when the body has ended."""
        m = self._m
        async with m.filling():
            buffer = await m.pool.take(BUFFER_WAIT_S)
            self._body.holds(True)
            try:
                return await self._fill(buffer, pending, more)
            finally:
                self._body.holds(False)

    async def _fill(self, buffer: Buffer, pending: list[memoryview], more: bool) -> bool:
        m = self._m
        filled = 0
        handed_over = False
        try:
            target = buffer.payload(self._chunk_bytes)
            while filled < self._chunk_bytes:
                if not pending:
                    more = more and await self._read(pending)
                    if not more:
                        break
                view = pending.pop(0)
                take = min(len(view), self._chunk_bytes - filled)
                target[filled : filled + take] = view[:take]
                filled += take
                if take < len(view):
                    pending.insert(0, view[take:])
                del view
            if filled:
                self._size += filled
                while len(self._tasks) >= IN_FLIGHT:
                    await self._collect()
                handed_over = True
                self._start_put(buffer, filled)
        finally:
            if not handed_over:
                m.pool.give(buffer)
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
                self._m.pool.give(buffer)

        task = self._m.env.spawn(put(), "chunk put")
        task.add_done_callback(ended)
        self._tasks.append(task)

    async def _put(self, buffer: Buffer, length: int) -> bytes:
        return await self._m.chunks.put(
            buffer, length, self._attempt, self.back, lambda: self._m.pool.give(buffer)
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
            raise too_large(self._m.largest)
        buffer = await self._m.pool.take(BUFFER_WAIT_S)
        length = len(self._names)
        buffer.payload(length)[:] = self._names
        self._manifests += await self._put(buffer, length)
        self._names.clear()  # not before: should this fail they are to be found


def too_large(largest: int) -> Invalid:
    return Invalid(
        f"an object of this cluster has at most {largest} bytes; store the data in several",
        code="EntityTooLarge",
        status=413,
    )


class _EtagOfNames:
    """The ETag of chunk names as they come, in memory that does not grow."""

    def __init__(self) -> None:
        self._hash = blake3()
        self._count = 0

    def add(self, name: bytes) -> None:
        self._hash.update(name)
        self._count += 1

    def value(self) -> str:
        return f"{self._hash.hexdigest()[:32]}-{self._count}"


async def read_all(body: Body, size: int) -> bytes:
    """A body small enough to hold: it is read up to `size` bytes, or to its end if that comes before."""
    pieces = []
    got = 0
    while got < size:
        piece = await body.read()
        if not piece:
            break
        pieces.append(piece)
        got += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
