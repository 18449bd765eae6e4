"""Chunks: immutable bytes named by their BLAKE3 hash, on the N owners of that name.

A put is acknowledged when a majority of the owners hold the bytes durably, each with a **reference row**
(chunk, attempt) committed in the same transaction. `ADD_REF` succeeds only where the bytes are durable already, so
equal chunks are stored, and sent, once. A get verifies what it got against the name before anybody sees it (P5).

What one owner does with them is in `holder` (C1 to C3, C5).

C4  "Not found" is said only when every owner said so; silence is Unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, Full, NotFound, Refused, Unavailable
from peer.storage.records import Extent
from ring.hashing import partition_of

from .env import Cancellable, Done, Env, RowStore
from .holder import SMALL_BYTES, ChunkRing, Disk, Holder
from .messages import ADD_REF, BUSY, FAILED, IS_FULL, MISSING, OK, STORE_CHUNK
from .patience import PATIENCE_S, Heard, Watch

SEND_S = 10.0
READ_S = 10.0
HEDGE_READ_S = 0.25
STRAGGLE_S = 1.0
TAKE_S = 20.0


class Bulk(Protocol):
    """Transfers of chunk bytes. `done` gets (reply, bytes received into `into`) or an AtollError, and from then on
    nobody touches payload or buffer. The cancellable ends a call early; `done` still runs."""

    def call(
        self, member_id: str, header: tuple[Any, ...], payload: memoryview | None, into: Buffer | None,
        deadline_s: float, done: Done,
    ) -> Cancellable: ...  # fmt: skip


class Chunks:
    """Puts and gets chunks through their owners; one per peer."""

    def __init__(
        self, env: Env, ring: ChunkRing, rows: RowStore, disk: Disk, bulk: Bulk, pool: BufferPool,
        replica_pool: BufferPool, me: str,
    ) -> None:  # fmt: skip
        self._env = env
        self._ring = ring
        self._disk = disk
        self._bulk = bulk
        self._pool = pool
        self._me = me
        self.heard = Heard(env)
        self.holder = Holder(env, rows, disk, ring, replica_pool)
        self.owed: dict[str, tuple[int, float]] = {}
        """Copies of acknowledged objects that an owner missed: how many, and when the last one (`owe`)."""
        self.counts = {"puts": 0, "gets": 0, "hedges": 0, "corrupt": 0, "owed": 0, "remote_gets": 0}

    def owners_of(self, name: bytes) -> tuple[str, ...]:
        epoch = self._ring.epoch
        return epoch.table.owners(partition_of(name, epoch.partition_power))

    async def put(
        self, buffer: Buffer, length: int, attempt: bytes, back: bytes, release: Callable[[], None],
        missed: Callable[[str], None] = lambda owner: None,
    ) -> bytes:  # fmt: skip
        """Store `buffer.payload(length)`; return its name once a majority of the owners hold it durably.

        `release` is called exactly once, when nobody uses the buffer any more: at the latest about a second after
        the majority was reached. `missed` is called for each owner that did not take its copy, perhaps after this
        returned. Raises Unavailable or Full; copies that were made are garbage then.
        """
        self.counts["puts"] += 1
        named = self._env.future()
        hashing = True

        def hashed(name: bytes) -> None:
            nonlocal hashing
            hashing = False
            if named.cancelled():
                release()
            else:
                named.set_result(name)

        self._disk.name_of(buffer, length, hashed)
        try:
            name: bytes = await named
        except BaseException:
            if not hashing:
                release()
            raise
        put = _Put(self, name, buffer, length, attempt, back, release, missed)
        await put.run()
        return name

    async def get(self, name: bytes) -> tuple[Buffer, int]:
        """A buffer that holds the verified chunk and its length; the caller gives the buffer back to the pool.

        Tries owners one after the other, this peer first; one that is late is overtaken (hedged).
        Raises Corrupt (every owner said that it does not hold it), Unavailable.
        """
        self.counts["gets"] += 1
        return await _Get(self, name).run()

    def owe(self, owner: str, copies: int = 1) -> None:
        """An owner lacks copies of something that was acknowledged."""
        self.counts["owed"] += copies
        self.owed[owner] = self.owed.get(owner, (0, 0.0))[0] + copies, self._env.now()

    def give(self, buffer: Buffer) -> None:
        """Return the buffer of a `get`."""
        self._pool.give(buffer)

    # --- used by _Put and _Get

    def read_local(self, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]) -> None:
        extent = self.holder.find(name)
        if extent is None:
            return done(NotFound("this peer does not hold the chunk"))

        def read(result: int | AtollError) -> None:
            if isinstance(result, NotFound) and self.holder.find(name) not in (None, extent):
                return self.read_local(name, buffer, done)  # it moved meanwhile
            if isinstance(result, Corrupt):
                self.counts["corrupt"] += 1
                self.holder.quarantine(name, extent)
            return done(result)

        return self._disk.read(extent, name, buffer, read)


class _Put:
    """One chunk on its way to its owners."""

    def __init__(
        self, chunks: Chunks, name: bytes, buffer: Buffer, length: int, attempt: bytes, back: bytes,
        release: Callable[[], None], missed: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.c = chunks
        self.name = name
        self.buffer = buffer
        self.length = length
        self.attempt = attempt
        self.back = back
        self.release = release
        self.missed = missed
        self.owners = chunks.owners_of(name)
        self.need = len(self.owners) // 2 + 1
        self.ok = 0
        self.left = len(self.owners)
        self.using = 0  # transfers that read the buffer
        self.failures: list[tuple[str, AtollError]] = []
        self.future = chunks._env.future()
        self.running: list[Cancellable] = []
        self.pending = set(self.owners)
        self.asking: set[str] = set()  # owners that have not said yet whether they need the bytes
        self.copy = b""

    async def run(self) -> None:
        known = self.c.holder.find(self.name) is not None
        mine = self.c._me in self.owners
        self.using += 1  # held while owners are started
        for owner in self.owners:
            if owner == self.c._me:
                self._add_ref(owner) if known else self._store()
            elif known or not mine:
                self._add_ref(owner)
            else:
                self._transfer(owner)
        self._done_with_buffer()
        watch = Watch(self.c.heard, lambda: self.pending, lambda: self.need - self.ok, self._give_up)
        try:
            if await self.future:
                return
        finally:
            watch.end()
            if self.left:
                self.c._env.call_later(STRAGGLE_S, self._cut_stragglers)
        if any(isinstance(error, Full) for _, error in self.failures):
            raise Full("too many owners of this chunk have a full disk; free space or add a peer")
        story = "; ".join(f"{member}: {error}" for member, error in self.failures[:5])
        raise Unavailable(f"no majority of the owners stored the bytes ({story}); try again")

    def _give_up(self) -> None:
        if not self.future.done():
            self.failures += _silent(self.pending)
            self.future.set_result(False)

    def _add_ref(self, owner: str) -> None:
        self.using += 1  # the bytes may have to follow
        self.asking.add(owner)

        def replied(reply: Any) -> None:
            if owner not in self.asking:  # cut off meanwhile: the buffer is not ours any more
                return self._finished(owner, _error_of(reply))
            self.asking.discard(owner)
            if not isinstance(reply, AtollError) and reply[0] == MISSING:
                self._store() if owner == self.c._me else self._transfer(owner)
                self._done_with_buffer()
                return
            self._done_with_buffer()
            self._finished(owner, _error_of(reply))

        message = (ADD_REF, self.c._ring.tag, self.name, self.attempt, self.back)
        self.c._ring.send(owner, message, SEND_S / 2, replied)

    def _store(self) -> None:
        """This peer's own copy."""
        self.using += 1
        c = self.c

        def appended(result: Extent | AtollError) -> None:
            self._done_with_buffer()
            if isinstance(result, AtollError):
                return self._finished(c._me, result)
            c.holder.name(
                self.name, result, self.attempt, self.back, lambda error: self._finished(c._me, error)
            )

        c._disk.append(self.buffer, self.length, self.name, appended)

    def _transfer(self, owner: str) -> None:
        if self.length <= SMALL_BYTES:
            return self._call(owner)
        self.using += 1
        header = ("put", self.c._ring.tag, self.name, self.attempt, self.back)

        def sent(result: Any) -> None:
            self._done_with_buffer()
            self._finished(owner, _error_of(result if isinstance(result, AtollError) else result[0]))

        payload = self.buffer.payload(self.length)
        self.running.append(self.c._bulk.call(owner, header, payload, None, SEND_S, sent))

    def _call(self, owner: str) -> None:
        """A small chunk: its bytes, copied, in one message."""
        if not self.copy:
            self.copy = bytes(self.buffer.payload(self.length))
        message = (STORE_CHUNK, self.c._ring.tag, self.name, self.attempt, self.back, self.copy)
        self.c._ring.send(owner, message, SEND_S / 2, lambda reply: self._finished(owner, _error_of(reply)))

    def _finished(self, owner: str, error: AtollError | None) -> None:
        self.left -= 1
        self.pending.discard(owner)
        if error is None:
            self.c.heard.note(owner)
            self.ok += 1
            if self.ok == self.need and not self.future.done():
                self.future.set_result(True)
            return
        self.failures.append((owner, error))
        self.missed(owner)
        if self.ok + self.left < self.need and not self.future.done():
            self.future.set_result(False)

    def _done_with_buffer(self) -> None:
        self.using -= 1
        if self.using == 0:
            self.release()

    def _cut_stragglers(self) -> None:
        if self.left:
            for one in self.running:
                one.cancel()
            asking, self.asking = self.asking, set()
            for _ in asking:
                self._done_with_buffer()


class _Get:
    """One chunk being fetched, from as many owners as it takes."""

    def __init__(self, chunks: Chunks, name: bytes) -> None:
        self.c = chunks
        self.name = name
        self.order = chunks._ring.prefer(chunks.owners_of(name))
        self.future = chunks._env.future()
        self.failures: list[tuple[str, AtollError]] = []
        self.left = 0
        self.timer: Cancellable | None = None
        self.pending: set[str] = set()

    async def run(self) -> tuple[Buffer, int]:
        watch = Watch(self.c.heard, lambda: self.pending, self._waits_for_owners, self._give_up)
        try:
            await self._next()
            result: tuple[Buffer, int] | None = await self.future
        except BaseException:
            if self.future.done() and not self.future.cancelled() and self.future.result():
                self.c._pool.give(self.future.result()[0])
            self.future.cancel()
            raise
        finally:
            watch.end()
            if self.timer is not None:
                self.timer.cancel()
        if result is not None:
            return result
        if all(isinstance(error, NotFound) for _, error in self.failures):
            raise Corrupt(
                f"chunk {self.name.hex()} is on none of its owners: data is lost unless a peer returns"
            )
        story = "; ".join(f"{member}: {error}" for member, error in self.failures[:5])
        raise Unavailable(f"no owner could serve a chunk of this object ({story}); try again")

    def _waits_for_owners(self) -> int:
        """1 if only owners that were asked can help now; 0 while the next one waits for a buffer of ours."""
        return int(not self.order and self.left == len(self.pending))

    async def _next(self) -> None:
        """Start the next owner, and a timer to overtake it."""
        if not self.order or self.future.done():
            return
        self.left += 1
        owner = self.order.pop(0)
        try:
            buffer = await self.c._pool.take(TAKE_S)
        except AtollError as error:
            self._failed(owner, error)
            return
        if self.future.done():
            self.left -= 1
            self.c._pool.give(buffer)
            return
        if self.timer is not None:
            self.timer.cancel()
        if self.order:
            self.timer = self.c._env.call_later(HEDGE_READ_S, lambda: self._overtake(owner))
        self.pending.add(owner)
        if owner == self.c._me:
            self.c.read_local(self.name, buffer, lambda result: self._got(owner, buffer, result))
        else:
            self._fetch(owner, buffer)

    def _fetch(self, owner: str, buffer: Buffer) -> None:
        c = self.c
        c.counts["remote_gets"] += 1

        def received(result: Any) -> None:
            if isinstance(result, AtollError):
                return self._got(owner, buffer, result)
            reply, length = result
            if reply[0] != OK:
                return self._got(owner, buffer, _error_of(reply) or Refused("refused"))

            def named(name: bytes) -> None:
                good = name == self.name
                if not good:
                    c.counts["corrupt"] += 1
                self._got(
                    owner, buffer, length if good else Corrupt(f"{owner} sent bytes that are not the chunk")
                )

            return c._disk.name_of(buffer, length, named)

        c._bulk.call(owner, ("get", c._ring.tag, self.name), None, buffer, READ_S, received)

    def _give_up(self) -> None:
        if not self.future.done():
            self.failures += _silent(self.pending)
            self.future.set_result(None)

    def _got(self, owner: str, buffer: Buffer, result: int | AtollError) -> None:
        self.pending.discard(owner)
        if isinstance(result, int):
            self.c.heard.note(owner)
        if isinstance(result, int) and not self.future.done():
            self.left -= 1
            self.future.set_result((buffer, result))
            return
        self.c._pool.give(buffer)
        if isinstance(result, AtollError):
            self._failed(owner, result)
        else:
            self.left -= 1

    def _failed(self, owner: str, error: AtollError) -> None:
        self.left -= 1
        self.failures.append((owner, error))
        if self.future.done():
            return
        if self.order:
            self.c._env.spawn(self._next(), "next owner of a chunk")
        elif self.left == 0:
            self.future.set_result(None)

    def _overtake(self, owner: str) -> None:
        self.timer = None
        if not self.future.done() and self.order:
            self.c.counts["hedges"] += 1
            self.c._ring.was_late(owner)
            self.c._env.spawn(self._next(), "hedged read of a chunk")


def _silent(owners: Iterable[str]) -> list[tuple[str, AtollError]]:
    return [(owner, Unavailable(f"silent for {PATIENCE_S:g} s")) for owner in sorted(owners)]


def _error_of(reply: Any) -> AtollError | None:
    """The error in a reply, or None for OK."""
    if isinstance(reply, AtollError):
        return reply
    if reply[0] == OK:
        return None
    if reply[0] == IS_FULL:
        return Full("its disk is full")
    if reply[0] == BUSY:
        return Unavailable("too many writes wait for its disk")
    if reply[0] == MISSING:
        return NotFound("it does not hold the chunk")
    if reply[0] == FAILED:
        return Refused(str(reply[2]), code=str(reply[1]))
    return Refused(f"it refused with status {reply[0]}")
