"""Chunks as a side of copying: what travels are reference rows; the bytes follow where they are missing (§7, §8).

A reference counts here only with the bytes behind it: one whose chunk is quarantined or lost is as good as absent, so
that a pull brings the bytes again. And one is brought only if a head names its attempt: what an owner still has because it
was away while the others dropped it does not come back (see `garbage`), nor does what is being stored just now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from peer.buffers import Buffer
from peer.errors import AtollError, Corrupt, Full, ReadOnly, Unavailable
from peer.replication.chunks.holder import Disk, Holder
from peer.replication.chunks.rows import NAME_END
from peer.replication.copying.digests import Digests
from peer.replication.copying.sync import Pulled
from peer.replication.env import Env, RowStore
from peer.replication.garbage.verdicts import Pair
from peer.replication.throttle import Throttle
from peer.storage.records import Extent

CHUNKS = 1
AT_ONCE = 4
"""Chunks being fetched by one peer: a third of the buffers that receive replicas, as many as a peer has to send from."""
MISSING_MOST = 10_000
_PRESENT = b""


class Chunks(Protocol):
    """Where bytes come from, verified."""

    async def pull(self, name: bytes, also: Sequence[str] = ()) -> tuple[Buffer, int]: ...
    def give_pulled(self, buffer: Buffer) -> None: ...


async def _all(pairs: Sequence[Pair]) -> list[bool | None]:
    return [True] * len(pairs)


def _partition(key: bytes) -> int:
    return (key[0] << 8) | key[1]


class ChunkSide:
    """The chunks one peer holds, to be copied."""

    def __init__(
        self, env: Env, rows: RowStore, holder: Holder, disk: Disk, chunks: Chunks,
        throttle: Throttle,
    ) -> None:  # fmt: skip
        self._env = env
        self._rows = rows
        self._holder = holder
        self._disk = disk
        self._chunks = chunks
        self.throttle = throttle
        self.digests = Digests(self._scan, self.ranges, _partition)
        self._coming: dict[bytes, asyncio.Future[None]] = {}  # chunks that are being fetched
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._missing: dict[bytes, float] = {}  # chunks that nobody could give, and when they were asked for
        self.wanted: Callable[[Sequence[Pair]], Awaitable[list[bool | None]]] = _all
        """For each (back pointer, attempt), whether a head names it; None: it cannot be told now."""
        self.is_dead: Callable[[bytes], bool] = lambda attempt: False
        """Whether an attempt is known to be dead."""
        self.on_doubt: Callable[[bytes, bytes], None] = lambda key, back: None
        """Told of a reference (key, back pointer) that another owner holds and no head names."""
        holder.on_reference = lambda key: self.digests.fold(key, None, _PRESENT)
        holder.on_change = lambda key: self.digests.drop(_partition(key))

    def _scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        found = self._holder.references(start, end, limit)
        return [(key, _PRESENT if counts else None) for key, counts in found]

    def ranges(self, partition: int) -> list[tuple[bytes, bytes]]:
        after = (partition + 1).to_bytes(3, "big")
        return [(partition.to_bytes(2, "big"), after[1:] if after[0] == 0 else b"\xff" * 80)]

    def listed(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        """All reference rows in the range; those without bytes here under a version that nobody lacks."""
        found = self._holder.references(start, end, limit)
        return [(key, _PRESENT if counts else _ABSENT) for key, counts in found]

    def lacks(self, key: bytes, version: bytes) -> bool:
        if version == _ABSENT:
            return False
        return self._holder.back_of(key) is None or self._holder.find(key[2:NAME_END]) is None

    def fetch(self, keys: Sequence[bytes]) -> list[Any]:
        """[key, back pointer | None if the row is gone]"""
        return [(key, self._holder.back_of(key)) for key in keys]

    async def apply(self, found: Sequence[Any], pulled: Pulled) -> list[bytes]:
        """Store the bytes that are missing here and the references; a chunk that nobody has now is counted and left.
        Raises Unavailable if it cannot be told whether a head names one of them."""
        there = [(key, back) for key, back in found if back is not None]
        wanted = await self.wanted([(back, key[NAME_END:]) for key, back in there])
        named = []
        for one, answer in zip(there, wanted, strict=True):
            if answer:
                named.append(one)
            elif answer is not None:
                self.on_doubt(*one)
        await self.throttle.each(named, lambda one: self._bring_one(*one, pulled), AT_ONCE)
        if None in wanted:
            raise Unavailable("the heads of some chunks cannot be read now; it is tried again")
        return []

    async def _bring_one(self, key: bytes, back: bytes, pulled: Pulled) -> None:
        """One of many: what nobody can give now is counted. Raises Full, ReadOnly."""
        pulled.bytes += len(key) + len(back)
        try:
            await self.bring(key, back, pulled)
        except (Full, ReadOnly):
            raise
        except AtollError:
            if len(self._missing) < MISSING_MOST:
                self._missing[key[2:NAME_END]] = self._env.now()
            pulled.missing += 1

    def missing(self, within_s: float | None) -> int:
        """How many chunks nobody could give when last asked, MISSING_MOST at most. Of what was compared with everybody
        since, `within_s` ago, only what was found missing then counts: the rest has come, or nobody wants it any more."""
        if within_s is not None:
            since_s = self._env.now() - within_s
            self._missing = {name: at_s for name, at_s in self._missing.items() if at_s >= since_s}
        return len(self._missing)

    async def is_wanted(self, key: bytes, back: bytes) -> bool | None:
        """Whether a head names this reference's attempt; False if none ever will, None if that is not known (yet)."""
        named = (await self.wanted([(back, key[NAME_END:])]))[0]
        if named:
            return True
        if self.is_dead(key[NAME_END:]):
            return False
        self.on_doubt(key, back)
        return None

    async def rebuild(self, name: bytes, attempt: bytes, back: bytes) -> bool:
        """Fetch the bytes of a chunk that is quarantined or lost here, for one of its references; whether they came.

        Where all who may hold it do not, the reference is doubted: the others may have dropped it while this peer was away.
        """
        key = self._holder.key_of(name) + attempt
        try:
            await self.bring(key, back, Pulled())
        except Corrupt:
            self.on_doubt(key, back)
            return False
        return True

    async def bring(self, key: bytes, back: bytes, pulled: Pulled, also: Sequence[str] = ()) -> None:
        """Hold this reference, and the bytes, durably. `also`: who else may have them, besides the owners.

        Raises Corrupt if everybody asked does not, Unavailable, Full."""
        name, attempt = key[2:NAME_END], key[NAME_END:]
        while name in self._coming:  # another worker fetches it: once is enough
            await asyncio.wait([self._coming[name]])
        self._missing.pop(name, None)  # it is asked for anew
        if self._holder.find(name) is None:
            coming = self._coming[name] = self._env.future()
            try:
                async with self._turns:
                    await self._fetch_bytes(name, attempt, back, pulled, also)
            finally:
                del self._coming[name]
                coming.set_result(None)
        else:
            await self._refer(name, attempt, back)
        pulled.rows += 1

    async def _fetch_bytes(
        self, name: bytes, attempt: bytes, back: bytes, pulled: Pulled, also: Sequence[str]
    ) -> None:  # fmt: skip
        """Read the chunk from another peer and store it here with this reference."""
        buffer, length = await self._chunks.pull(name, also)
        try:
            await self.throttle.spend(length)
        except BaseException:
            self._chunks.give_pulled(buffer)
            raise
        pulled.bytes += length
        stored = self._env.future()

        def appended(result: Extent | AtollError) -> None:
            self._chunks.give_pulled(buffer)  # only now is the disk done with it, whoever still waits
            if not stored.done():
                stored.set_result(result)
            elif isinstance(result, Extent):
                self._disk.abandon(result)

        self._disk.append(buffer, length, name, appended)
        extent: Extent | AtollError = await stored
        if isinstance(extent, AtollError):
            raise extent
        named = self._env.future()
        self._holder.name(name, extent, attempt, back, named.set_result)
        if error := await named:
            raise error

    async def _refer(self, name: bytes, attempt: bytes, back: bytes) -> None:
        done = self._env.future()
        self._holder.refer(name, attempt, back, done.set_result)
        if error := await done:
            raise error

    async def settle(self, key: bytes, pulled: Pulled) -> None:
        raise Unavailable("a reference to a chunk cannot be read; scrub finds it")


_ABSENT = b"absent"
