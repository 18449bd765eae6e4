"""Scrub: everything this peer holds is read at a set rate, and what is damaged is made good from the others (§8).

A pass goes over four kinds of things, in this order; where it is, is durable:

chunks      the bytes behind each chunk's row are read from the disk itself and hashed. Bad ones are quarantined: from then
            on the chunk does not count as a copy. What is quarantined, lost, or has a damaged row is fetched anew.
rows        each register's row, and the inline bytes beside it, against their checksums. A damaged one abstains as it is
            (A4); here its value is accepted anew, so that this owner has it again; at once when somebody asked for it.
references  each against its checksum. A damaged one is taken from another owner, or dropped if all have been asked and
            nobody has it.
segments    files that hold more than rows name: what a crash left between the removal of a row and the punching, or what
            the rows that were lost had named. Records that no row names are let go.

Nothing is let go because it is damaged: a bad copy goes when a good one has taken its place (C5).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Protocol

import msgpack

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, NotFound
from peer.replication import meta
from peer.replication.chunks.holder import Holder
from peer.replication.chunks.rows import LIVE, LOST, NAME_END, chunk_key, decode_chunk_row, decode_reference
from peer.replication.env import Env, Ring, RowStore
from peer.replication.garbage.attempts import ATTEMPT_BYTES
from peer.replication.garbage.loose import live_sets
from peer.replication.messages import REFERENCES
from peer.replication.quorum import Round, Send
from peer.replication.value import decode_row, decode_side
from peer.replication.workers import Worker
from peer.storage.records import Extent

from .chunksync import ChunkSide

log = logging.getLogger(__name__)

BYTES_PER_S = 20_000_000
EVERY_S = 86_400.0
CHUNKS_A_STEP = 16
ROWS_A_STEP = 256
SETTLED_A_STEP = 16
AGAIN_S = 5.0
BAD_MOST = 10_000
LOOKED_AT_ONCE = 100
SLACK_BYTES = 64 * 1024
ASK_S = 5.0
TAKE_S = 10.0
_KEY = b"scrub"
_PHASES = ("chunks", "rows", "refs", "segments")
_ENDS = {
    "chunks": b"\xff" * (NAME_END + 1),
    "rows": b"\xff" * 8,
    "refs": b"\xff" * (NAME_END + ATTEMPT_BYTES + 1),
}


class Disk(Protocol):
    """What scrub needs of a peer's chunk files; every `done` runs on the loop."""

    def verify(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None: ...
    def waste(self, done: Callable[[dict[int, int] | AtollError], None]) -> None: ...
    def reclaim(
        self, segment: int, buffer: Buffer, named: Callable[[bytes, Extent], bool],
        done: Callable[[int | AtollError], None],
    ) -> None: ...  # fmt: skip


class Scrub(Worker):
    """One peer's scrub. `settle(row key)` has a register accepted anew; `spend(bytes)` waits until so much may be moved."""

    name = "scrub"
    every_s = 5.0

    def __init__(
        self, env: Env, rows: RowStore, me: str, ring: Ring, send: Send, holder: Holder, side: ChunkSide, disk: Disk,
        pool: BufferPool, settle: Callable[[bytes], Awaitable[None]], spend: Callable[[int], Awaitable[None]], *,
        every_s: float = EVERY_S, bytes_per_s: float = BYTES_PER_S,
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._rows = rows
        self._me = me
        self._ring = ring
        self._send = send
        self._holder = holder
        self._side = side
        self._disk = disk
        self._pool = pool
        self._settle = settle
        self._spend = spend
        self._settle_not_before_s = 0.0
        self.bad_rows: dict[bytes, None] = {}
        """Registers known to be damaged (`Acceptor.bad`)."""
        self.found_bad: Callable[[bytes], None] = lambda key: self.bad_rows.update({key: None})
        self._bad_others: dict[
            tuple[str, bytes], None
        ] = {}  # rows of chunks and references that were found damaged
        self.pass_every_s = every_s
        self.bytes_per_s = bytes_per_s
        self.on_unwanted: Callable[[bytes], None] = lambda chunk: None
        """Told of a chunk (its key) whose bytes are not good and that nothing refers to."""
        stored = meta.load(rows, _KEY)
        try:
            fresh = rows.last("rows") is None and rows.last("chunks") is None  # nothing to look at yet
        except Corrupt:
            fresh = False
        nothing = (0, b"", env.wall_us() if fresh else 0)
        position: tuple[int, bytes, int] = msgpack.unpackb(stored) if stored else nothing
        self._phase, self._cursor, self._began_us = position
        self._not_before_s = env.now()
        self.detail = dict.fromkeys(
            ("chunks", "bad_chunks", "rebuilt", "rows", "bad_rows", "references", "bad_references", "strays", "passes"),
            0,
        )  # fmt: skip

    def start(self) -> None:
        """Begin the next pass now."""
        self._began_us = 0
        self.wake()

    async def step(self) -> bool:
        if self.bad_rows and self.env.now() >= self._settle_not_before_s:
            await self._settle_some()
        if self.env.now() < self._not_before_s:
            return False
        if self._phase == 0 and not self._cursor:
            since_s = (self.env.wall_us() - self._began_us) / 1e6
            if 0 <= since_s < self.pass_every_s:
                return False
            self._began_us = self.env.wall_us()
        phase = _PHASES[self._phase]
        if phase == "segments":
            await self._segments()
            page: list[tuple[Any, bytes]] = []
        else:
            page = self._rows.scan(phase, self._cursor, _ENDS[phase], self._page_rows(phase))
            began_s, size = self.env.now(), await self._look_at(phase, page)
            self._not_before_s = began_s + size / self.bytes_per_s
            self.did(len(page), size)
        if phase != "segments" and len(page) == self._page_rows(phase):
            self._cursor = page[-1][0] + b"\0"
        else:
            self._phase, self._cursor = (self._phase + 1) % len(_PHASES), b""
            self.detail["passes"] += self._phase == 0
        await self._keep()
        return self.env.now() >= self._not_before_s

    @staticmethod
    def _page_rows(phase: str) -> int:
        return CHUNKS_A_STEP if phase == "chunks" else ROWS_A_STEP

    async def _keep(self) -> None:
        kept = self.env.future()
        position = bytes(msgpack.packb([self._phase, self._cursor, self._began_us]))
        self._rows.commit([meta.write(_KEY, position)], kept.set_result)
        await kept  # on a full disk a restart begins further back

    async def _look_at(self, phase: str, page: Sequence[tuple[bytes, bytes]]) -> int:
        """Look at a page of rows; bytes read."""
        if phase == "chunks":
            return sum([await self._chunk(key, row) for key, row in page])
        if phase == "rows":
            return await self._registers(page)
        damaged = [key for key, row in page if not _sound(key, row)]
        self.detail["references"] += len(page)
        for key in damaged:
            self.detail["bad_references"] += 1
            self._found_other("refs", key)
            await self._reference(key)
        return sum(len(key) + len(row) for key, row in page)

    # --- chunks

    async def _chunk(self, key: bytes, row: bytes) -> int:
        self.detail["chunks"] += 1
        try:
            state, extent = decode_chunk_row(key, row)
        except Corrupt:
            self._holder.on_change(key)  # its references do not count any more
            self._found_other("chunks", key)
            await self._rebuild(key)
            return len(row)
        if state == LIVE:
            if await self._is_sound(key[2:], extent):
                return extent.record_bytes
            self.detail["bad_chunks"] += 1
            quarantined = self.env.future()
            self._holder.quarantine(key[2:], extent, lambda: quarantined.set_result(None))
            await quarantined
        if self._holder.find(key[2:]) is None:
            await self._rebuild(key)
        return extent.record_bytes

    async def _is_sound(self, name: bytes, extent: Extent) -> bool:
        """Whether the disk holds these bytes, or the chunk has moved or gone since the row was read."""
        await self._spend(extent.record_bytes)
        buffer = await self._pool.take(TAKE_S)
        read = self.env.future()

        def verified(result: int | AtollError) -> None:
            self._pool.give(buffer)
            if not read.done():
                read.set_result(result)

        self._disk.verify(extent, name, buffer, verified)
        result = await read
        if isinstance(result, Corrupt):
            return False
        if isinstance(result, AtollError) and not isinstance(result, NotFound):
            raise result
        return True

    async def _rebuild(self, key: bytes) -> None:
        """Fetch a chunk whose bytes are not good here, if a reference wants it; anti-entropy goes on where this fails."""
        references = [(a, back) for a, back in self._holder.references_of(key, 1_000) if back is not None]
        if not references:
            self.on_unwanted(key)
        for attempt, back in references:
            try:
                if await self._side.rebuild(key[2:NAME_END], attempt, back):
                    self.detail["rebuilt"] += 1
                    return
            except AtollError as error:
                self.last_error = f"a damaged chunk is not made good yet: {error}"
                return

    # --- registers

    async def _registers(self, page: Sequence[tuple[bytes, bytes]]) -> int:
        size = 0
        damaged: list[bytes] = []
        for key, row in page:
            size += len(key) + len(row)
            try:
                side_id = decode_row(key, row).side_id
                side = self._rows.get("side", side_id) if side_id else None
                if side is not None:
                    size += len(side)
                    decode_side(key, side)
                elif side_id and self._rows.get("rows", key) == row:
                    damaged.append(key)
            except Corrupt:
                damaged.append(key)
        self.detail["rows"] += len(page)
        for key in damaged:
            self.found_bad(key)
        await self._settle_some()
        return size

    async def _settle_some(self) -> None:
        """Have some damaged registers accepted anew; what fails is tried again a little later."""
        for key in list(islice(self.bad_rows, SETTLED_A_STEP)):
            del self.bad_rows[key]
            if self._is_good(key):
                continue
            self.detail["bad_rows"] += 1
            try:
                await self._settle(key)
                good = self._is_good(key)
            except AtollError as error:
                good = False
                self.last_error = f"a damaged row is not made good yet: {error}"
            if not good:
                self.found_bad(key)
                self._settle_not_before_s = self.env.now() + AGAIN_S

    def _is_good(self, key: bytes) -> bool:
        """Whether a register's row, and its inline bytes, are as they were written; or it is there no more."""
        row = self._rows.get("rows", key)
        try:
            side_id = decode_row(key, row).side_id
            side = self._rows.get("side", side_id) if side_id else None
            if side is not None:
                decode_side(key, side)
        except Corrupt:
            return False
        return not side_id or side is not None or self._rows.get("rows", key) != row

    # --- what is known to be damaged

    def _found_other(self, table: str, key: bytes) -> None:
        if (table, key) not in self._bad_others and len(self._bad_others) < BAD_MOST:
            self._bad_others[table, key] = None
            log.warning("row %s of %s is damaged on this disk; it is made anew", key.hex(), table)

    @property
    def damaged_rows(self) -> int:
        """Rows known to be damaged and not made good yet."""
        for table, key in list(islice(self._bad_others, LOOKED_AT_ONCE)):
            row = self._rows.get(table, key)
            if row is None or (_sound(key, row) if table == "refs" else _is_chunk_row(key, row)):
                del self._bad_others[table, key]
        return len(self.bad_rows) + len(self._bad_others)

    # --- references

    async def _reference(self, key: bytes) -> None:
        chunk, attempt = key[:NAME_END], key[NAME_END:]
        epoch = self._ring.epoch
        if key[:2] != chunk_key(chunk[2:], epoch.partition_power)[:2]:
            return self._dropped(key)  # the key itself has rotted: no chunk lies there
        owners = {owner for owners in live_sets(epoch, chunk) for owner in owners} - {self._me}
        asked_all = True
        for owner in sorted(owners):
            one = Round(self.env, self._send, (REFERENCES, self._ring.tag, [chunk]), 1, ASK_S)
            if not await one.start([owner]):
                asked_all = False
                continue
            backs = {theirs: back for theirs, back in one.oks[0][1][1][0] if back is not None}
            if attempt in backs:
                done = self.env.future()
                self._holder.refer(chunk[2:], attempt, backs[attempt], done.set_result)
                await done
                return None
        if asked_all and owners:
            self._dropped(key)
        return None

    def _dropped(self, key: bytes) -> None:
        self._holder.drop([key], lambda _: None)

    # --- segments

    async def _segments(self) -> None:
        """Read the segments that hold more than rows name, and let go what no row does."""
        wasting = self.env.future()
        self._disk.waste(wasting.set_result)
        waste = await wasting
        if isinstance(waste, AtollError):
            raise waste
        for segment in sorted(s for s, size in waste.items() if size > SLACK_BYTES):
            buffer = await self._pool.take(TAKE_S)
            reclaimed = self.env.future()

            def done(result: int | AtollError, buffer: Buffer = buffer, reclaimed: Any = reclaimed) -> None:
                self._pool.give(buffer)
                if not reclaimed.done():
                    reclaimed.set_result(result)

            self._disk.reclaim(segment, buffer, self._is_named, done)
            result = await reclaimed
            if isinstance(result, AtollError):
                self.last_error = str(result)
            else:
                self.detail["strays"] += result

    def _is_named(self, name: bytes, extent: Extent) -> bool:
        """Whether a row may name these bytes. A damaged row may; it is made good first. Runs in a thread."""
        key = chunk_key(name, self._ring.epoch.partition_power)
        row = self._rows.get("chunks", key)
        if row is None:
            return False
        try:
            state, named = decode_chunk_row(key, row)
        except Corrupt:
            return True
        return state != LOST and named == extent


def _is_chunk_row(key: bytes, row: bytes) -> bool:
    try:
        decode_chunk_row(key, row)
    except Corrupt:
        return False
    return True


def _sound(key: bytes, row: bytes) -> bool:
    try:
        decode_reference(key, row)
    except Corrupt:
        return False
    return True
