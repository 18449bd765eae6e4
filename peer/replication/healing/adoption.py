"""Adoption: a peer whose rows are gone takes the chunks in its segments over, after hashing them (architecture §5, §9).

Records carry their names, so a segment tells without rows what it holds. Each record whose bytes have the hash in its header
gets a row, without references: those come from the other owners, by anti-entropy and by what `garbage` asks before it lets
anything go, and no bytes travel. What nobody references is garbage then like any other.

A1  Until a segment is adopted, nothing in it is reclaimed (S10), and until all are, nothing is fetched that may lie here.
A2  That it goes on is durable from before the first row: a start in the middle of it adopts the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError
from peer.replication import meta
from peer.replication.chunks.holder import Holder
from peer.replication.env import Env, RowStore
from peer.replication.workers import Worker
from peer.storage.records import Extent

RECORDS_A_STEP = 64
TAKE_S = 10.0
_KEY = b"adopting"

Records = Iterator[tuple[bytes, Extent]]


class Disk(Protocol):
    """What adoption needs of a peer's chunk files; `done` runs on the loop."""

    def segments(self) -> list[int]: ...
    def scan(self, segment: int, buffer: Buffer) -> Records: ...
    def some(
        self, records: Records, most: int, done: Callable[[list[tuple[bytes, Extent]] | AtollError], None]
    ) -> None: ...
    def adopt(self, extent: Extent) -> None: ...
    def adopted(self, segment: int) -> None: ...


def is_adopting(rows: RowStore) -> bool:
    """Whether the rows of chunks are gone, or not all were made again since."""
    return not rows.scan("chunks", b"", b"\xff" * 35, 1) or meta.load(rows, _KEY) is not None


class Adoption(Worker):
    """One peer's adoption; `ended()` is called once, when everything that lies here has a row."""

    name = "adoption"
    every_s = 1.0

    def __init__(
        self,
        env: Env,
        rows: RowStore,
        holder: Holder,
        disk: Disk,
        pool: BufferPool,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(env)
        self._rows = rows
        self._holder = holder
        self._disk = disk
        self._pool = pool
        self._ended = ended
        self._segments: list[int] | None = None
        self._records: Records | None = None
        self._buffer: Buffer | None = None
        self.detail = {"adopted": 0, "known": 0}

    def queue(self) -> int:
        return len(self._segments or ())

    async def step(self) -> bool:
        if self._segments is None:
            await self._keep(meta.write(_KEY, b"1"))
            self._segments = self._disk.segments()
        if not self._segments:
            if self._ended is not _nothing:
                await self._keep(meta.remove(_KEY))
                ended, self._ended = self._ended, _nothing
                ended()
            return False
        await self._some(self._segments[0])
        return True

    async def _some(self, segment: int) -> None:
        """Adopt the next records of a segment."""
        if self._records is None:
            self._buffer = await self._pool.take(TAKE_S)
            self._records = self._disk.scan(segment, self._buffer)
        read = self.env.future()
        self._disk.some(self._records, RECORDS_A_STEP, read.set_result)
        found = await read
        if isinstance(found, AtollError):
            self._let_go()  # from the beginning of the segment again
            raise found
        for name, extent in found:
            await self._adopt(name, extent)
        self.did(len(found), sum(extent.record_bytes for _, extent in found))
        if len(found) < RECORDS_A_STEP:
            self._let_go()
            self._disk.adopted(segment)
            assert self._segments is not None
            self._segments.pop(0)

    async def _adopt(self, name: bytes, extent: Extent) -> None:
        named = self.env.future()

        def committed(result: bool | AtollError) -> None:
            if result is True:
                self._disk.adopt(extent)
            named.set_result(result)

        self._holder.adopt(name, extent, committed)
        result = await named
        if isinstance(result, AtollError):
            raise result
        self.detail["adopted" if result else "known"] += 1

    def _let_go(self) -> None:
        if self._buffer is not None:
            self._pool.give(self._buffer)
        self._buffer = self._records = None

    async def _keep(self, write: Any) -> None:
        kept = self.env.future()
        self._rows.commit([write], kept.set_result)
        if error := await kept:
            raise error


def _nothing() -> None:
    """It has been told."""
