"""Chunks: immutable bytes named by their BLAKE3 hash, on the N owners of that name.

A put is acknowledged when a majority of the owners hold the bytes durably, each with a **reference row**
(chunk, attempt) committed in the same transaction. `ADD_REF` succeeds only where the bytes are durable already, so
equal chunks are stored, and sent, once. A get verifies what it got against the name before anybody sees it (P5).

What one owner does with them is in `holder` (C1 to C3, C5, C6), what a put does in `put`.

C4  "Not found" is said only when every owner, present or former, and every fallback said so; silence is Unavailable. Nor
    is it before every other member has, too: a copy may wait with who was a fallback some epochs ago.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from peer.buffers import Buffer, BufferPool
from peer.errors import AtollError, Corrupt, NotFound, Refused, Unavailable
from peer.replication.env import Cancellable, Done, Env, Reply, RowStore
from peer.replication.hints import Hints
from peer.replication.lateness import Lateness
from peer.replication.messages import OK, REPAIR
from peer.replication.patience import Heard, Watch
from ring.hashing import partition_of

from .holder import ChunkRing, Disk, Holder
from .put import Put, error_of, silent_ones
from .rows import chunk_key

READ_S = 60.0
"""So long nothing of a chunk may move from an owner, whose disk may be slow. Where nobody else has it it is given up sooner
(`patience`)."""
REPAIR_S = 10.0
OVERTAKEN_S = 5.0
"""A transfer that was overtaken may end within; its connection is as good as new then."""
HEDGE_READ_S = 0.25
TAKE_S = 20.0
REPAIRS_MOST = 256


class Bulk(Protocol):
    """Transfers of chunk bytes. `done` gets (reply, bytes received into `into`) or an AtollError, and from then on
    nobody touches payload or buffer; at the latest after some minutes, and when nothing has moved for `silence_s`. The
    cancellable ends a call early; `done` still runs. While a member's bytes move, `on_progress(member)` is called some
    times a second."""

    on_progress: Callable[[str], None]

    def call(
        self, member_id: str, header: tuple[Any, ...], payload: memoryview | None, into: Buffer | None,
        silence_s: float, done: Done,
    ) -> Cancellable: ...  # fmt: skip


class Chunks:
    """Puts and gets chunks through their owners; one per peer."""

    def __init__(
        self, env: Env, ring: ChunkRing, rows: RowStore, disk: Disk, bulk: Bulk, pool: BufferPool,
        replica_pool: BufferPool, me: str, hints: Hints, unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._env = env
        self._ring = ring
        self._disk = disk
        self._bulk = bulk
        self._pool = pool
        self._replica_pool = replica_pool
        self._me = me
        self.heard = Heard(env)
        bulk.on_progress = self.heard.note
        self.stragglers = Lateness(env)
        """Owners that took nothing for so long that a put was over without them."""
        self.holder = Holder(env, rows, disk, ring, replica_pool, hints, unsafe)
        self.hints = hints
        hints.let_go = self._let_go
        self.on_bad_copy: Callable[[bytes, str], None] = lambda name, source: None
        """Told (chunk name, member that has it) when this peer's own copy turns out to be missing or damaged."""
        self._repairing: set[tuple[str, bytes]] = set()
        self.counts = {
            "puts": 0, "gets": 0, "hedges": 0, "corrupt": 0, "missed": 0, "remote_gets": 0, "fallbacks": 0,
            "read_repairs": 0,
        }  # fmt: skip

    def owners_of(self, name: bytes) -> tuple[str, ...]:
        epoch = self._ring.epoch
        return epoch.table.owners(partition_of(name, epoch.partition_power))

    async def put(
        self, buffer: Buffer, length: int, attempt: bytes, back: bytes, release: Callable[[], None],
    ) -> bytes:  # fmt: skip
        """Store `buffer.payload(length)`; return its name once a majority of the owners hold it durably.

        `release` is called exactly once, when nobody uses the buffer any more: at the latest about a second after the
        majority was reached. What an owner did not take becomes a hint. Raises Unavailable or Full; copies that were
        made are garbage then.
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
        put = Put(self, name, buffer, length, attempt, back, release)
        await put.run()
        return name

    async def refer(self, name: bytes, attempt: bytes, back: bytes) -> None:
        """Refer to a stored chunk once more; durable at a majority of its owners when it returns. Bytes move only if too few
        of them have the chunk; what the others lack becomes a hint. Raises as `get` and `put`."""
        try:
            await Put(self, name, None, 0, attempt, back, _nothing).run()
        except AtollError:
            buffer, length = await self.get(name)
            await Put(self, name, buffer, length, attempt, back, lambda: self.give(buffer)).run()

    def fallbacks_of(self, name: bytes) -> tuple[str, ...]:
        return self._ring.fallbacks(partition_of(name, self._ring.epoch.partition_power))

    async def get(self, name: bytes, also: Sequence[str] = ()) -> tuple[Buffer, int]:
        """A buffer that holds the verified chunk and its length; the caller gives the buffer back to the pool.

        Tries owners one after the other, this peer first, then their fallbacks and the members in `also`; one that is
        late is overtaken (hedged). Raises Corrupt (everybody said that it does not hold it), Unavailable.
        """
        self.counts["gets"] += 1
        places = self._places(name, also)
        return await _Get(self, name, places, self._pool, HEDGE_READ_S).run()

    async def pull(self, name: bytes, also: Sequence[str] = ()) -> tuple[Buffer, int]:
        """The same for a copy that this peer lacks: from others, into a buffer of those that receive replicas; give it back
        with `give_pulled`. Nobody waits for it, so who is late is left the time: overtaking would double a load that is
        perhaps what made it late. Raises as `get`."""
        places = [member for member in self._places(name, also) if member != self._me]
        return await _Get(self, name, places, self._replica_pool, None).run()

    def _places(self, name: bytes, also: Sequence[str]) -> list[str]:
        """Where a chunk may be, in the order to ask."""
        order = self._ring.places_of(name)
        return order + [m for m in dict.fromkeys((*self.fallbacks_of(name), *also)) if m not in order]

    def give(self, buffer: Buffer) -> None:
        """Return the buffer of a `get`."""
        self._pool.give(buffer)

    def give_pulled(self, buffer: Buffer) -> None:
        """Return the buffer of a `pull`."""
        self._replica_pool.give(buffer)

    # --- used by Put and _Get

    def hint(self, owner: str, name: bytes, attempt: bytes, back: bytes) -> None:
        """Keep for this owner which chunk it lacks, with which reference."""
        key = chunk_key(name, self._ring.epoch.partition_power)
        self.hints.missed_chunk(owner, key + attempt, back)

    def repair(self, owner: str, name: bytes, source: str) -> None:
        """A read found this owner's copy missing or damaged, and the source's good: have the owner fetch it. Behind the
        answer, and at most REPAIRS_MOST at a time: what is not told here, anti-entropy finds."""
        if owner == self._me:
            return self.holder.settled(name, lambda: self.on_bad_copy(name, source))
        one = (owner, name)
        if one in self._repairing or len(self._repairing) >= REPAIRS_MOST:
            return None
        self._repairing.add(one)
        self.counts["read_repairs"] += 1
        message = (REPAIR, self._ring.tag, name, source)
        return self._ring.send(owner, message, REPAIR_S, lambda _: self._repairing.discard(one))

    def on_repair(self, message: Any, reply: Reply) -> None:
        """(REPAIR, tag, chunk name, source): OK; this peer's copy is looked at, and fetched from the source, in a while."""
        _, _, name, source = message
        self.holder.settled(name, lambda: self.on_bad_copy(name, source))
        reply((OK,))

    def _let_go(self, reference: bytes) -> None:
        if self._me not in self.owners_of(reference[2:34]):
            self.holder.let_go(reference)

    def read_local(self, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]) -> None:
        try:
            extent = self.holder.find(name)
        except Corrupt as error:  # its rows cannot be read
            return done(error)
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


def _nothing() -> None:
    """A reference keeps no buffer."""


class _Get:
    """One chunk being fetched, from as many owners as it takes."""

    def __init__(
        self, chunks: Chunks, name: bytes, places: list[str], pool: BufferPool, hedge_s: float | None
    ) -> None:
        self.c = chunks
        self.name = name
        self.order = places
        self.pool = pool
        self.hedge_s = hedge_s
        self.future = chunks._env.future()
        self.failures: list[tuple[str, AtollError]] = []
        self.left = 0
        self.timer: Cancellable | None = None
        self.giver = ""
        self.pending: set[str] = set()
        self.asked_all = False
        self.running: list[Cancellable] = []

    async def run(self) -> tuple[Buffer, int]:
        watch = Watch(self.c.heard, lambda: self.pending, self._waits_for_owners, self._give_up)
        try:
            await self._next()
            result: tuple[Buffer, int] | None = await self.future
        except BaseException:
            if self.future.done() and not self.future.cancelled() and self.future.result():
                self.pool.give(self.future.result()[0])
            self.future.cancel()
            raise
        finally:
            watch.end()
            if self.timer is not None:
                self.timer.cancel()
            if self.pending:  # each has a buffer
                self.c._env.call_later(OVERTAKEN_S, self._cut)
        if result is not None:
            self._tell_of_bad_copies()
            return result
        if all(isinstance(error, NotFound) for _, error in self.failures):
            name = self.name.hex()
            raise Corrupt(f"chunk {name} is on none of its owners: data is lost unless a peer returns")
        story = "; ".join(f"{member}: {error}" for member, error in self.failures[:5])
        raise Unavailable(f"no owner could serve a chunk of this object ({story}); try again")

    def _tell_of_bad_copies(self) -> None:
        owners = self.c.owners_of(self.name) if self.failures else ()
        for owner, error in self.failures:
            if owner in owners and _has_none(error):
                self.c.repair(owner, self.name, self.giver)

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
            buffer = await self.pool.take(TAKE_S)
        except AtollError as error:
            self._failed(owner, error)
            return
        if self.future.done():
            self.left -= 1
            self.pool.give(buffer)
            return
        if self.timer is not None:
            self.timer.cancel()
        if self.order and self.hedge_s is not None:
            self.timer = self.c._env.call_later(self.hedge_s, lambda: self._overtake(owner))
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
                return self._got(owner, buffer, error_of(reply) or Refused("refused"))

            def named(name: bytes) -> None:
                good = name == self.name
                if not good:
                    c.counts["corrupt"] += 1
                self._got(
                    owner, buffer, length if good else Corrupt(f"{owner} sent bytes that are not the chunk")
                )

            return c._disk.name_of(buffer, length, named)

        header = ("get", c._ring.tag, self.name)
        self.running.append(c._bulk.call(owner, header, None, buffer, READ_S, received))

    def _give_up(self) -> None:
        if not self.future.done():
            self.failures += silent_ones(self.pending)
            self.future.set_result(None)

    def _cut(self) -> None:
        for one in self.running:
            one.cancel()

    def _got(self, owner: str, buffer: Buffer, result: int | AtollError) -> None:
        self.pending.discard(owner)
        if isinstance(result, int):
            self.c.heard.note(owner)
        if isinstance(result, int) and not self.future.done():
            self.left -= 1
            self.giver = owner
            self.future.set_result((buffer, result))
            return
        self.pool.give(buffer)
        if isinstance(result, AtollError):
            self._failed(owner, result)
        else:
            self.left -= 1

    def _failed(self, owner: str, error: AtollError) -> None:
        self.left -= 1
        self.failures.append((owner, error))
        if self.future.done():
            return
        if not self.order and self.left == 0 and not self.asked_all:
            self._ask_others()
        if self.order:
            self.c._env.spawn(self._next(), "next owner of a chunk")
        elif self.left == 0:
            self.future.set_result(None)

    def _ask_others(self) -> None:
        """Nobody who should have the chunk does, for certain: before it is called lost, everybody else is asked (C4)."""
        self.asked_all = True
        if all(_has_none(error) for _, error in self.failures):
            asked = {member for member, _ in self.failures}
            others = [member.id for member in self.c._ring.epoch.everybody if member.id not in asked]
            self.order = self.c._ring.prefer(others)

    def _overtake(self, owner: str) -> None:
        self.timer = None
        if not self.future.done() and self.order:
            self.c.counts["hedges"] += 1
            self.c._ring.was_late(owner)
            self.c._env.spawn(self._next(), "hedged read of a chunk")


def _has_none(error: AtollError) -> bool:
    """Whether who answered so certainly has no good copy."""
    return isinstance(error, NotFound | Corrupt) or error.code == Corrupt.code
