"""The chunks one peer holds: rows over extents, and the reference rows beside them.

C1  A chunk's row commits only after its bytes are synced; the row decides existence.
C2  Two puts of one chunk on one peer never both name an extent: the second waits, references, and lets its go. Of those
    that wait none may raise, or the others would wait for ever.
C3  A damaged chunk is quarantined only if, read again, its row still names the damaged extent.
C5  An extent is let go once: when the row that takes its place, or the removal of its row, is durable.
C6  What is stored in an unreachable owner's place has its hint in the same commit, and is let go only when the owner has
    said that it holds bytes and reference.
C7  A chunk's row is removed in a turn in which no reference to it exists or waits for its commit, and until the removal
    is durable nobody takes the bytes for a copy, as in C2. So whoever was told of a durable reference keeps the bytes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from blake3 import blake3

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, Full, NotFound
from peer.replication.env import Done, Env, Reply, Ring, RowStore, Write
from peer.replication.hints import Hints
from peer.replication.messages import BUSY, FAILED, IS_FULL, MISSING, OK, STALE, status_of
from peer.storage.records import Extent

from .held import Held
from .rows import (
    LIVE,
    LOST,
    NAME_END,
    QUARANTINED,
    encode_chunk_row,
    encode_reference,
)

log = logging.getLogger(__name__)

TAKE_S = 5.0
SMALL_BYTES = 256 * 1024
"""Chunks up to this size travel in a call: a thread at each end would cost more than the bytes."""
NO_ROOM = "its disk is full but for what is kept back for deletions"


class Disk(Protocol):
    """One peer's chunk files, driven from the loop; every `done` runs on it."""

    def name_of(self, buffer: Buffer, length: int, done: Callable[[bytes], None]) -> None: ...
    def append(
        self, buffer: Buffer, length: int, name: bytes, done: Callable[[Extent | AtollError], None]
    ) -> None: ...
    def read(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None: ...
    def named(self, extent: Extent) -> None: ...
    def abandon(self, extent: Extent) -> None: ...
    def unnamed(self, extent: Extent) -> None: ...


class ChunkRing(Ring, Protocol):
    def prefer(self, owners: Iterable[str]) -> list[str]: ...
    def places_of(self, name: bytes) -> list[str]: ...
    def fallbacks(self, partition: int) -> tuple[str, ...]: ...
    def is_alive(self, member: str) -> bool: ...
    @property
    def hampered(self) -> frozenset[str]: ...
    def send(self, member: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None: ...
    def was_late(self, member: str) -> None: ...


def answer_to(error: AtollError | None) -> tuple[Any, ...]:
    """The reply that tells how a commit ended, or that it was not begun as the rows cannot be read."""
    if isinstance(error, Corrupt):
        return (FAILED, error.code, str(error))
    return (OK if error is None else status_of(error),)


class Holder(Held):
    """The chunks this peer holds: rows over extents."""

    def __init__(
        self, env: Env, rows: RowStore, disk: Disk, ring: ChunkRing, pool: BufferPool, hints: Hints,
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        super().__init__(rows, lambda: ring.epoch.partition_power, unsafe)
        self._env = env
        self._hints = hints
        self._disk = disk
        self._ring = ring
        self._pool = pool
        self.on_reference: Callable[[bytes], None] = lambda key: None
        """Told of each new reference row (chunk key, attempt), once it is durable."""
        self.damaged = 0
        """Chunks whose bytes are lost or quarantined here, and have not come anew."""

    def on_add_ref(self, message: Any, reply: Reply) -> None:
        """(ADD_REF, tag, name, attempt, back[, for]): OK once the reference is durable, MISSING without the bytes."""
        _, _, name, attempt, back, *place = message
        if self._rows.congested:
            return reply((BUSY,))

        def done(error: AtollError | None) -> None:
            reply((MISSING,) if isinstance(error, NotFound) else answer_to(error))

        return self.refer(name, attempt, back, done, *place)

    def refer(
        self, name: bytes, attempt: bytes, back: bytes, done: Callable[[AtollError | None], None], place: str = ""
    ) -> None:  # fmt: skip
        """Commit a reference to a chunk that lies here; `done` when durable, or with NotFound, Full, Unavailable, or Corrupt
        if the rows cannot be read. Never raises. `place`: the owner for which it is kept here (C6)."""
        if name in self._naming:
            self._naming[name].append(lambda: self.refer(name, attempt, back, done, place))
            return
        key = self.key_of(name) + attempt
        try:
            extent, new = self.find(name), self._is_new(key)
        except Corrupt as error:
            return done(error)
        if extent is None:
            return done(NotFound("it does not hold the chunk"))
        if no_room := self._no_room(place, extent.length):
            return done(no_room)
        self.counts["referenced"] += 1
        return self._refer(key, back, [], new, done, place, extent.length)

    def _is_new(self, reference: bytes) -> bool:
        return reference not in self._referring and self._rows.get("refs", reference) is None

    def _refer(
        self, key: bytes, back: bytes, writes: list[Write], new: bool, done: Callable[[AtollError | None], None],
        place: str, size: int,
    ) -> None:  # fmt: skip
        """Commit a reference row with other writes; tell of it if it is `new`."""
        if place:
            hint, hinted = self._hints.write_of(place, key, size, back)
            writes = [*writes, hint]
        if new:
            self._referring.add(key)
        chunk = key[:NAME_END]
        self._pending[chunk] += 1

        def committed(error: AtollError | None) -> None:
            self._pending[chunk] -= 1
            if not self._pending[chunk]:
                del self._pending[chunk]
            if place:
                hinted(error)
            if new:
                self._referring.discard(key)
                if error is None:
                    self.on_reference(key)
            done(error)

        self._rows.commit([("refs", key, encode_reference(key, back)), *writes], committed)

    def _no_room(self, place: str, size: int) -> Full | None:
        """Why no row, and no hint for `place`, can be added now."""
        if not self._rows.roomy:
            return Full(NO_ROOM)
        if place and not self._hints.room_for(place, size):
            return Full(f"as much as allowed is kept here for {place}")
        return None

    def remove(
        self, chunk: bytes, done: Callable[[int | None], None], references: Sequence[bytes] | None = None
    ) -> None:
        """Forget a chunk, given its key, and let its extent go (C7); `done` with the bytes let go, None if it stays.

        `references` (attempts): of a chunk whose present owners hold it with these, which goes with them; it stays if
        it has others by now.
        """
        if self._rows.get("chunks", chunk) is None:
            return done(None)
        state, extent = self._row(chunk[2:])  # of a damaged row it is not known: scrub finds the bytes
        writes: list[Any] = [("chunks", chunk, None)]
        if references is None:
            if self.referenced(chunk):
                return done(None)
        else:
            held = [attempt for attempt, _ in self.references_of(chunk, len(references) + 1)]
            if chunk in self._pending or chunk[2:] in self._naming or not set(held) <= set(references):
                return done(None)
            writes += [("refs", chunk + attempt, None) for attempt in held]
        return self._remove(chunk, state, extent, writes, done)

    def _remove(
        self, chunk: bytes, state: int, extent: Extent | None, writes: list[Any], done: Callable[[int | None], None]
    ) -> None:  # fmt: skip
        name = chunk[2:]
        if not self._unchecked:
            self._naming[name] = []

        def committed(error: AtollError | None) -> None:
            gone = extent.record_bytes if extent is not None and state != LOST else 0
            if error is None:
                self.damaged -= state in (QUARANTINED, LOST)
                self.counts["removed"] += 1
                self.counts["removed_bytes"] += gone
                if extent is not None and gone:
                    self._disk.unnamed(extent)  # C5
                self.on_change(chunk)
            for resume in self._naming.pop(name, []):
                resume()
            done(gone if error is None else None)

        self._rows.commit(writes, committed)

    def on_store(self, message: Any, reply: Reply) -> None:
        """(STORE_CHUNK, tag, name, attempt, back, bytes[, for]): OK once bytes and reference are durable."""
        data = message[5]
        if self._rows.congested:
            return reply((BUSY,))
        if len(data) > SMALL_BYTES or blake3(data).digest() != message[2]:
            return reply((FAILED, "Corrupt", "the bytes that arrived are not the chunk that was announced"))
        buffer = self._pool.try_take()
        if buffer is not None:
            return self._store(buffer, message, reply)
        self._env.spawn(self._store_later(message, reply), "store a chunk")
        return None

    async def _store_later(self, message: Any, reply: Reply) -> None:
        try:
            buffer = await self._pool.take(TAKE_S)
        except AtollError as error:
            return reply((FAILED, error.code, str(error)))
        return self._store(buffer, message, reply)

    def _store(self, buffer: Buffer, message: Any, reply: Reply) -> None:
        _, _, name, attempt, back, data, *place = message
        buffer.payload(len(data))[:] = data

        def appended(result: Extent | AtollError) -> None:
            self._pool.give(buffer)
            if isinstance(result, Full):
                return reply((IS_FULL,))
            if isinstance(result, AtollError):
                return reply((FAILED, result.code, str(result)))
            if message[1] != self._ring.tag:  # checked once more, in commit order with the row
                self._disk.abandon(result)
                return reply((STALE, self._ring.tag))
            return self.name(name, result, attempt, back, lambda error: reply(answer_to(error)), *place)

        self._disk.append(buffer, len(data), name, appended)

    def name(
        self,
        name: bytes,
        extent: Extent,
        attempt: bytes,
        back: bytes,
        done: Callable[[AtollError | None], None],
        place: str = "",
    ) -> None:
        """Commit row and reference for bytes that are synced (C1); `done` when durable, or with Full, Unavailable, or
        Corrupt if the rows cannot be read: then nothing changed, and the extent was let go. Never raises. `place`: the
        owner they are kept for here (C6)."""
        if name in self._naming:
            self._naming[name].append(lambda: self.name(name, extent, attempt, back, done, place))
            return
        key = self.key_of(name)
        refused: AtollError | None = self._no_room(place, extent.length)
        try:
            (state, old), new = self._row(name), self._is_new(key + attempt)
        except Corrupt as error:
            refused = error
        if refused is not None:
            self._disk.abandon(extent)
            return done(refused)
        writes: list[Any] = []
        duplicate = state == LIVE
        if not duplicate:
            writes.append(("chunks", key, encode_chunk_row(key, LIVE, extent)))

        def committed(error: AtollError | None) -> None:
            if not duplicate:
                if error is None:
                    self._disk.named(extent)
                    if state:
                        self.damaged -= 1
                        self.on_change(key)
                    if state == QUARANTINED and old is not None:
                        self._disk.unnamed(old)  # C5
                else:
                    self._disk.abandon(extent)
                for resume in self._naming.pop(name):
                    resume()
            done(error)

        self._refer(key + attempt, back, writes, new, committed, place, extent.length)
        if duplicate:  # C2
            self.counts["duplicates"] += 1
            self._disk.abandon(extent)
        else:
            self.counts["stored"] += 1
            self._naming[name] = []

    def let_go(self, reference: bytes) -> None:
        """Drop a reference that was kept in an owner's place, and the chunk if that was the last one here (C6, C7). Should
        the commit fail, or the rows be unreadable, both stay, as garbage. Never raises."""
        name, chunk = reference[2:NAME_END], reference[:NAME_END]
        if name in self._naming:
            self._naming[name].append(lambda: self.let_go(reference))
            return
        with contextlib.suppress(Corrupt):
            others = [attempt for attempt, _ in self.references_of(chunk, 2) if chunk + attempt != reference]
            if others or chunk in self._pending:
                return self.drop([reference], lambda error: None)
            state, extent = self._row(name)
            writes: list[Any] = [("refs", reference, None), ("chunks", chunk, None)]
            return self._remove(chunk, state, extent, writes, lambda size: None)

    def settled(self, name: bytes, then: Callable[[], None]) -> None:
        """Call `then` when no commit about this chunk is under way, at once if there is none."""
        if name in self._naming:
            self._naming[name].append(then)
        else:
            then()

    def adopt(self, name: bytes, extent: Extent, done: Callable[[bool | AtollError], None]) -> None:
        """Give a record that was found in a segment, and hashed, a row; `done(True)` when that is durable, False if the
        chunk has one, unless that says that its bytes are lost."""
        state = self._row(name)[0]
        if name in self._naming or state not in (0, LOST):
            return done(False)
        key = self.key_of(name)
        self._naming[name] = []

        def committed(error: AtollError | None) -> None:
            if error is None and state == LOST:
                self.damaged -= 1
                self.on_change(key)
            done(True if error is None else error)
            for resume in self._naming.pop(name):
                resume()

        return self._rows.commit([("chunks", key, encode_chunk_row(key, LIVE, extent))], committed)

    def quarantine(self, name: bytes, extent: Extent, done: Callable[[], None] = lambda: None) -> None:
        """A read found the bytes damaged: forget them here, unless the row moved on meanwhile (C3). `done` when that has
        ended, either way."""
        if name in self._naming or self.find(name) != extent:
            return done()
        self.counts["quarantined"] += 1
        log.warning("chunk %s is damaged on this disk; another owner's copy is fetched", name.hex())
        self._naming[name] = []  # until it is durable nobody may take the damaged bytes for a copy (C2)
        key = self.key_of(name)

        def committed(error: AtollError | None) -> None:
            self.damaged += error is None
            self.on_change(key)
            for resume in self._naming.pop(name):
                resume()
            done()

        return self._rows.commit([("chunks", key, encode_chunk_row(key, QUARANTINED, extent))], committed)

    def found_damaged(self) -> None:
        """A start found a row of a chunk that is lost or quarantined."""
        self.damaged += 1

    def found_again(
        self, extents: Iterable[tuple[bytes, Extent]], done: Callable[[AtollError | None], None]
    ) -> None:
        """At the start, bytes that were lost are there again: a disk appeared late. They were verified when they were
        written, and are by whoever reads them."""
        keys = [(self.key_of(name), extent) for name, extent in extents]

        def committed(error: AtollError | None) -> None:
            if error is None:
                self.damaged -= len(keys)
            done(error)

        self._rows.commit([("chunks", key, encode_chunk_row(key, LIVE, at)) for key, at in keys], committed)

    def lost(
        self, extents: Iterable[tuple[bytes, Extent]], done: Callable[[AtollError | None], None]
    ) -> None:
        """At the start, these rows name bytes that are not there: nobody may reference them from now.

        `done` when that is durable. Their extents belong to nothing, so nothing is let go.
        """
        writes: list[Write] = []
        live = 0
        for name, extent in extents:
            key = self.key_of(name)
            live += self._row(name)[0] == LIVE
            writes.append(("chunks", key, encode_chunk_row(key, LOST, extent)))

        def committed(error: AtollError | None) -> None:
            if error is None:
                self.damaged += live
                self.counts["lost"] += len(writes)
            done(error)

        self._rows.commit(writes, committed)
