"""Chunk stores for peers on virtual time: files in memory, bulk transfers over the simulated network.

`simulate_stores` runs a scenario against one `Store` per peer and afterwards checks what must hold whatever was
done: every buffer is back in its pool, every extent is named or let go, and no row ever named unsynced bytes (C1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from blake3 import blake3

from peer.buffers import Buffer, BufferPool
from peer.bulkservice import NAME_CHUNK
from peer.errors import AtollError, Corrupt, Full, NotFound
from peer.replication.chunks.chunks import Chunks
from peer.replication.chunks.holder import answer_to
from peer.replication.chunks.rows import LIVE, chunk_key, decode_chunk_row, named_extents
from peer.replication.env import Write
from peer.replication.hints import Hints
from peer.replication.messages import ADD_REF, FAILED, IS_FULL, MISSING, OK, STORE_CHUNK
from peer.rpc.bulkjobs import LONGEST_S
from peer.storage.records import Extent
from tests.replication_world import POWER, Peer, Scenario, World, simulate, until
from tools.sim.disk import SimRows
from tools.sim.extents import Transfer

BULK = 90
CHUNK_BYTES = 512 * 1024
POOL = 6
CAPACITY = 100 << 20
SMALL = b"small " * 100
LARGE = b"large " * 60_000
"""Beyond what travels in a call, so it goes by bulk transfer."""

BYTES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])


def name_of(data: bytes) -> bytes:
    return bytes(blake3(data).digest())


@dataclass
class Record:
    """An extent's life: written, synced, then named or abandoned."""

    name: bytes
    data: bytearray
    state: str = "synced"


class MemoryFiles:
    """One peer's chunk files. Bytes are taken from the buffer at the end of an operation, as late as possible."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.records: dict[Extent, Record] = {}
        self.full = False
        self.append_s = 0.002
        self.read_s = 0.001
        self._next = 0

    def name_of(self, buffer: Buffer, length: int, done: Callable[[bytes], None]) -> None:
        self._later(0.001, lambda: done(name_of(bytes(buffer.payload(length)))))

    def append(self, buffer: Buffer, length: int, name: bytes, done: Callable[[Any], None]) -> None:
        def act() -> None:
            if self.full:
                return done(Full("the simulated files are full"))
            data = bytes(buffer.payload(length))
            assert name_of(data) == name, "the buffer was reused before its bytes were written"
            self._next += 1
            extent = Extent(1, self._next << 20, length)
            self.records[extent] = Record(name, bytearray(data))
            return done(extent)

        self._later(self.append_s, act)

    def read(self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[Any], None]) -> None:
        def act() -> None:
            record = self.records.get(extent)
            if record is None or record.state in ("abandoned", "unnamed"):
                return done(NotFound("the extent is gone"))
            buffer.payload(len(record.data))[:] = record.data
            if name_of(bytes(record.data)) != name:
                return done(Corrupt("the bytes do not match their name"))
            return done(len(record.data))

        self._later(self.read_s, act)

    verify = read

    def waste(self, done: Callable[[Any], None]) -> None:
        self._later(0.001, lambda: done({}))

    def reclaim(self, segment: int, buffer: Buffer, named: Any, done: Callable[[Any], None]) -> None:
        raise AssertionError("nothing is wasted here")

    def named(self, extent: Extent) -> None:
        assert self.records[extent].state == "synced"
        self.records[extent].state = "named"

    def abandon(self, extent: Extent) -> None:
        assert self.records[extent].state == "synced", "abandoned although a row names it"
        self.records[extent].state = "abandoned"

    def unnamed(self, extent: Extent) -> None:
        assert self.records[extent].state == "named", "let go twice"
        self.records[extent].state = "unnamed"

    def states(self, name: bytes) -> list[str]:
        """What became of every copy of a chunk that was written here."""
        return [record.state for record in self.records.values() if record.name == name]

    def rot(self, name: bytes) -> None:
        """Flip a bit in every named copy."""
        for record in self.records.values():
            if record.name == name and record.state == "named":
                record.data[len(record.data) // 2] ^= 1

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._peer.env.call_later(delay_s, act)


class WatchedRows:
    """Rows that refuse to name bytes which are not synced (C1)."""

    def __init__(self, rows: SimRows, files: MemoryFiles) -> None:
        self._rows = rows
        self._files = files
        self.get, self.scan, self.heads, self.last = rows.get, rows.scan, rows.heads, rows.last

    @property
    def sequence(self) -> int:
        return self._rows.sequence

    @property
    def roomy(self) -> bool:
        return self._rows.roomy

    @property
    def read_only(self) -> bool:
        return self._rows.read_only

    @property
    def congested(self) -> bool:
        return self._rows.congested

    @property
    def saturated(self) -> bool:
        return self._rows.saturated

    def commit(self, writes: Sequence[Write], done: Callable[[AtollError | None], None]) -> None:
        for table, key, row in writes:
            if table == "chunks" and row is not None:
                state, extent = decode_chunk_row(key, row)
                assert state != LIVE or self._files.records[extent].state == "synced", (
                    "C1: named before it was synced"
                )
        self._rows.commit(writes, done)


class SimBulk:
    """Bulk transfers of one peer: what `BulkClient` and `BulkService` do, on virtual time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.on_progress: Callable[[str], None] = lambda member: None
        self.link_s = 0.0
        """So long each transfer takes on the way, moving all the time until it is stuck, if it is."""
        self.stuck_at_s = float("inf")

    def call(
        self, member_id: str, header: tuple[Any, ...], payload: memoryview | None, into: Buffer | None,
        silence_s: float, done: Callable[[Any], None],
    ) -> Transfer:  # fmt: skip
        peer = self._store.peer
        transfer = Transfer(done)
        self._move(transfer, member_id, silence_s)

        def send() -> None:
            if not transfer.ended:
                data = None if payload is None else bytes(payload)
                link = peer.world.network.link(peer.id, peer.env)
                link.call(member_id, (BULK, header, data), silence_s, arrived)

        def arrived(reply: Any) -> None:
            if transfer.ended or isinstance(reply, AtollError):
                return transfer.end(reply)
            answer, data = reply
            if into is not None and data is not None:
                into.payload(len(data))[:] = data
            return transfer.end((answer, len(data or b"")))

        if self.link_s < self.stuck_at_s:
            peer.env.call_later(self.link_s or 0.0005, send)
        return transfer

    def _move(self, transfer: Transfer, member_id: str, silence_s: float) -> None:
        """Tell of progress every quarter of a second, until the bytes have moved or are stuck; mind the deadlines (B4)."""
        env = self._store.peer.env
        moves_s = min(self.link_s, self.stuck_at_s)
        env.call_later(min(moves_s + silence_s, LONGEST_S), transfer.cancel)
        for quarter in range(1, int(4 * moves_s) + 1):
            env.call_later(quarter / 4, lambda: transfer.ended or self.on_progress(member_id))

    def serve(self, message: Any, reply: Callable[[Any], None]) -> None:
        _, header, data = message
        self._put(header, data, reply) if header[0] == "put" else self._get(header[2], reply)

    def _put(self, header: list[Any], data: bytes, reply: Callable[[Any], None]) -> None:
        _, tag, name, attempt, back, *place = header
        store = self._store
        buffer = store.replica_pool.try_take()
        assert buffer is not None
        buffer.payload(len(data))[:] = data

        def answer(result: Any) -> None:
            reply((result, None))

        def appended(result: Extent | AtollError) -> None:
            store.replica_pool.give(buffer)
            if isinstance(result, AtollError):
                return answer((IS_FULL,))
            message = (NAME_CHUNK, tag, name, result, attempt, back, *place)
            return store.peer.replica.handle(store.peer.id, message, answer)

        store.files.append(buffer, len(data), name, appended)

    def _get(self, name: bytes, reply: Callable[[Any], None]) -> None:
        store = self._store
        extent = store.chunks.holder.find(name)
        if extent is None:
            return reply(((MISSING,), None))
        buffer = store.replica_pool.try_take()
        assert buffer is not None

        def read(result: int | AtollError) -> None:
            data = bytes(buffer.payload(result)) if isinstance(result, int) else None
            store.replica_pool.give(buffer)
            if data is not None:
                return reply(((OK,), store.garble(data)))
            if isinstance(result, Corrupt):
                store.chunks.holder.quarantine(name, extent)
            return reply(((FAILED, "Corrupt", "damaged here"), None))

        return store.files.read(extent, name, buffer, read)


class Store:
    """One peer's chunks with all they stand on."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.files = MemoryFiles(peer)
        self.rows = WatchedRows(peer.rows, self.files)
        self.pool = BufferPool(POOL, name="client", chunk_bytes=CHUNK_BYTES)
        self.replica_pool = BufferPool(POOL * 4, name="replica", chunk_bytes=CHUNK_BYTES)
        self.bulk = SimBulk(self)
        self.garble: Callable[[bytes], bytes] = bytes
        self.chunks = Chunks(
            peer.env, peer.replica, self.rows, self.files, self.bulk, self.pool, self.replica_pool, peer.id,
            Hints(peer.env, self.rows, CAPACITY),
        )  # fmt: skip
        holder = self.chunks.holder
        peer.replica.serve(ADD_REF, holder.on_add_ref)
        peer.replica.serve(STORE_CHUNK, holder.on_store)
        peer.replica.serve(NAME_CHUNK, self._on_name)
        peer.replica.serve(BULK, self.bulk.serve, votes=False)
        self.released = 0

    def _on_name(self, message: Any, reply: Callable[[Any], None]) -> None:
        _, _, name, extent, attempt, back, *place = message
        self.chunks.holder.name(name, extent, attempt, back, lambda error: reply(answer_to(error)), *place)

    async def put(self, data: bytes, attempt: bytes = b"attempt1") -> bytes:
        """Store the bytes as one chunk; its name. The buffer is scribbled over as soon as it is released."""
        buffer = await self.pool.take(30)
        buffer.payload(len(data))[:] = data
        return await self.chunks.put(buffer, len(data), attempt, b"back", partial(self._release, buffer))

    async def get(self, name: bytes) -> bytes:
        buffer, length = await self.chunks.get(name)
        data = bytes(buffer.payload(length))
        self.pool.give(buffer)
        return data

    def holds(self, name: bytes) -> bool:
        """A live row on the disk names intact bytes."""
        key = chunk_key(name, POWER)
        try:
            state, extent = decode_chunk_row(key, self.peer.disk.tables["chunks"].get(key, b""))
        except Corrupt:
            return False
        return state == LIVE and name_of(bytes(self.files.records[extent].data)) == name

    def references(self, name: bytes) -> list[bytes]:
        """The attempts that reference a chunk, durably."""
        key = chunk_key(name, POWER)
        return [row[len(key) :] for row in self.peer.disk.tables["refs"] if row.startswith(key)]

    @property
    def lent(self) -> int:
        return self.pool.stats.lent + self.replica_pool.stats.lent

    def _release(self, buffer: Buffer) -> None:
        self.released += 1
        buffer.payload(64)[:] = b"\xee" * 64
        self.pool.give(buffer)


def holding(stores: tuple[Store, ...], data: bytes) -> int:
    """How many of the stores hold these bytes, intact."""
    return sum(store.holds(name_of(data)) for store in stores)


def owners_first(stores: tuple[Store, ...], name: bytes) -> list[Store]:
    """The stores, owners of the chunk in front."""
    owners = stores[0].chunks.owners_of(name)
    return sorted(stores, key=lambda store: (store.peer.id not in owners, store.peer.id))


def simulate_stores(scenario: Scenario, peers: int = 3, *, founded: bool = True) -> None:
    """Run `scenario(world, *stores)`; then all buffers must come back and no extent be forgotten."""

    async def run(world: World, *members: Peer) -> None:
        stores = [Store(peer) for peer in members]
        await scenario(world, *stores)
        world.join_up()
        await until(lambda: not any(store.lent for store in stores), 60)
        await asyncio.sleep(1)
        for store in stores:
            states = {record.state for record in store.files.records.values()}
            assert states <= {"named", "abandoned", "unnamed"}, "an extent was forgotten"

    simulate(run, peers, founded=founded)


def damaged_at_a_start(store: Store) -> int:
    """What the next start would count as `Holder.damaged`."""
    found: list[None] = []
    list(named_extents(store.rows, lambda: found.append(None)))
    return len(found)
