"""Chunk files and bulk transfers of simulated peers: what `DiskThreads`, `BulkClient` and `BulkService` do, on virtual time.

The bytes live on the machine (`SimDisk.extents`) and outlive processes. Harsher than real segments in one thing: what no
row names any more and nobody reads is gone at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from blake3 import blake3

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, Full, NotFound, Unavailable
from peer.replication.chunks.holder import Holder
from peer.replication.messages import FAILED, MISSING, OK
from peer.storage.records import Extent
from tools.sim.cluster import SimPeer

BULK = 90
APPEND_S, READ_S, NAME_S = 0.002, 0.001, 0.0005


class SimExtents:
    """The chunk files of one process (replication's Disk) on its machine's disk."""

    def __init__(self, peer: SimPeer, named: Iterable[Extent]) -> None:
        assert peer.env is not None
        self._peer = peer
        self._env = peer.env
        self._disk = peer.disk
        self._disk.newest_segment += 1
        self._segment = self._disk.newest_segment
        self._next = 0
        self._named = set(named)
        self._pins: Counter[Extent] = Counter()
        self._leaving: set[Extent] = set()

    def name_of(self, buffer: Buffer, length: int, done: Callable[[bytes], None]) -> None:
        self._later(NAME_S, lambda: done(blake3(buffer.payload(length)).digest()))

    def append(
        self, buffer: Buffer, length: int, name: bytes, done: Callable[[Extent | AtollError], None]
    ) -> None:
        def act() -> None:
            if self._disk.full:
                return done(Full("the simulated disk is full"))
            data = bytes(buffer.payload(length))
            assert blake3(data).digest() == name, "the buffer was reused before its bytes were written"
            self._next += 1
            extent = Extent(self._segment, self._next << 16, length)
            self._disk.extents[extent] = data
            return done(extent)

        self._later(APPEND_S, act)

    def read(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None:
        if extent not in self._disk.extents or extent in self._leaving:
            return self._later(0.0, lambda: done(NotFound(f"{extent} is gone")))
        self._pins[extent] += 1

        def act() -> None:
            data = self._disk.extents[extent]
            self._pins[extent] -= 1
            self._punch(extent)
            if blake3(data).digest() != name:
                return done(Corrupt(f"{extent} does not hold the chunk"))
            buffer.payload(len(data))[:] = data
            return done(len(data))

        self._later(READ_S, act)

    def named(self, extent: Extent) -> None:
        assert extent in self._disk.extents, "C1: named, but not there"
        self._named.add(extent)

    def abandon(self, extent: Extent) -> None:
        assert extent not in self._named, "abandoned, but named"
        self._leave(extent)

    def unnamed(self, extent: Extent) -> None:
        assert extent in self._named, "C5: let go twice"
        self._named.discard(extent)
        self._leave(extent)

    verify = read

    def waste(self, done: Callable[[dict[int, int] | AtollError], None]) -> None:
        """As if every segment with something that no row names held much of it."""
        found = {extent.segment: 1 << 20 for extent in self._strays()}
        self._later(READ_S, lambda: done(found))

    def reclaim(
        self, segment: int, buffer: Buffer, named: Callable[[bytes, Extent], bool],
        done: Callable[[int | AtollError], None],
    ) -> None:  # fmt: skip
        def act() -> None:
            found = [e for e in self._strays() if e.segment == segment]
            strays = [e for e in found if not named(blake3(self._disk.extents[e]).digest(), e)]
            for extent in strays:
                self._leave(extent)
            done(len(strays))

        self._later(READ_S, act)

    def segments(self) -> list[int]:
        return sorted({extent.segment for extent in self._disk.extents if extent.segment < self._segment})

    def scan(self, segment: int, buffer: Buffer) -> Iterator[tuple[bytes, Extent]]:
        """Records whose bytes have the hash in their header; here, all but those that rotted under a row."""
        for extent in [extent for extent in self._strays() if extent.segment == segment]:
            yield blake3(self._disk.extents[extent]).digest(), extent

    def some(
        self, records: Iterator[tuple[bytes, Extent]], most: int,
        done: Callable[[list[tuple[bytes, Extent]] | AtollError], None],
    ) -> None:  # fmt: skip
        self._later(READ_S, lambda: done(list(islice(records, most))))

    def adopt(self, extent: Extent) -> None:
        self._named.add(extent)

    def adopted(self, segment: int) -> None:
        """Nothing was held back."""

    def _strays(self) -> list[Extent]:
        """Bytes of earlier processes that no row named when this one started: what a crash between two steps leaves."""
        found = self._disk.extents.keys() - self._named - self._leaving
        return sorted(extent for extent in found if extent.segment < self._segment)

    def _leave(self, extent: Extent) -> None:
        self._leaving.add(extent)
        self._punch(extent)

    def _punch(self, extent: Extent) -> None:
        if extent in self._leaving and not self._pins[extent]:
            self._leaving.discard(extent)
            self._disk.extents.pop(extent, None)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._env.call_later(delay_s * (0.5 + self._peer.rng.random()), act)


class Transfer:
    """One bulk call under way; `cancel` ends it early."""

    def __init__(self, done: Callable[[Any], None]) -> None:
        self._done: Callable[[Any], None] | None = done

    @property
    def ended(self) -> bool:
        return self._done is None

    def end(self, result: Any) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(result)

    def cancel(self) -> None:
        self.end(Unavailable("the transfer was cut off"))


class SimBulk:
    """Gets of chunk bytes between peers; puts are small here and travel in calls."""

    def __init__(self, peer: SimPeer, files: SimExtents, pool: BufferPool) -> None:
        assert peer.env is not None
        self._env = peer.env
        self._files = files
        self._pool = pool
        self._link = peer.cluster.network.link(peer.id, peer.env)
        self.holder: Holder | None = None
        self.on_progress: Callable[[str], None] = lambda member: None

    def call(
        self, member_id: str, header: tuple[Any, ...], payload: memoryview | None, into: Buffer | None,
        silence_s: float, done: Callable[[Any], None],
    ) -> Transfer:  # fmt: skip
        transfer = Transfer(done)

        def arrived(reply: Any) -> None:
            if transfer.ended or isinstance(reply, AtollError):
                return transfer.end(reply)
            if reply[0] != OK or into is None:
                return transfer.end((reply, 0))
            into.payload(len(reply[1]))[:] = reply[1]
            return transfer.end(((OK,), len(reply[1])))

        self._env.call_later(
            0.0002, lambda: self._link.call(member_id, (BULK, header[1], header[2]), silence_s, arrived)
        )
        return transfer

    def serve(self, message: Any, reply: Callable[[tuple[Any, ...]], None]) -> None:
        """(BULK, tag, chunk name) -> OK, bytes."""
        name = message[2]
        holder = self.holder
        assert holder is not None
        extent = holder.find(name)
        buffer = self._pool.try_take() if extent is not None else None
        if extent is None:
            return reply((MISSING,))
        if buffer is None:
            return reply((FAILED, "ServiceUnavailable", "no buffer is free"))

        def read(result: int | AtollError) -> None:
            data = bytes(buffer.payload(result)) if isinstance(result, int) else b""
            self._pool.give(buffer)
            if isinstance(result, int):
                return reply((OK, data))
            if isinstance(result, Corrupt):
                holder.quarantine(name, extent)
            return reply((FAILED, "Corrupt", "damaged here"))

        return self._files.read(extent, name, buffer, read)
