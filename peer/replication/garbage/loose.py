"""Chunks that nothing may name any more: asked about elsewhere, then let go (G2 of `garbage`)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from peer.replication.chunks.holder import Holder
from peer.replication.env import Env, Reply, Ring, RowStore
from peer.replication.messages import HELD, OK, REFERENCES
from peer.replication.quorum import Round, Send
from ring.epoch import Epoch

from .verdicts import Verdicts

CHUNKS_A_STEP = 64
REFERENCES_MOST = 1_000
"""To one chunk: of so many it is compared who holds them."""
LOOSE_MOST = 100_000
RETRY_S = 30.0
ASK_S = 5.0


def partition_in(key: bytes) -> int:
    """The partition of a chunk or a reference, by its key."""
    return (key[0] << 8) | key[1]


def live_sets(epoch: Epoch, key: bytes) -> tuple[tuple[str, ...], ...]:
    """The owners of a chunk that count: of the table, and in a joint epoch those of the previous one as well."""
    tables = (epoch.table,) if epoch.previous is None else (epoch.table, epoch.previous)
    return tuple(table.owners(partition_in(key)) for table in tables)


class Loose:
    """A bounded queue of chunks, each to be looked at when its time has come.

    `tell(references)` has their owners drop them, `doubt(reference, back pointer)` has one judged.
    """

    def __init__(
        self, env: Env, rows: RowStore, me: str, ring: Ring, send: Send, holder: Holder, verdicts: Verdicts,
        alive: Callable[[str], bool], tell: Callable[[Sequence[bytes]], Awaitable[None]],
        doubt: Callable[[bytes, bytes], None],
    ) -> None:  # fmt: skip
        self._env = env
        self._rows = rows
        self._me = me
        self._ring = ring
        self._send = send
        self._holder = holder
        self._verdicts = verdicts
        self._alive = alive
        self._tell = tell
        self._doubt = doubt
        self._due: list[tuple[float, bytes]] = []  # a heap: when to look, chunk
        self._queued: dict[bytes, float] = {}  # the chunks in it, and when the time of each really comes
        self.last_error = ""
        self.counts = {"removed": 0, "removed_bytes": 0, "kept": 0, "forgotten": 0}

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, chunk: bytes, after_s: float) -> None:
        """Look after some time whether nothing names this chunk, given its key. Told again, the time begins anew; but one
        that may go at once, as its bytes are no good, does not wait for a time set when they were."""
        due_s = self._env.now() + after_s
        queued_s = self._queued.get(chunk)
        if queued_s is None:
            if len(self._queued) >= LOOSE_MOST:
                self.counts["forgotten"] += 1  # the walk finds it
                return
        elif after_s > 0.0 or due_s >= queued_s:
            self._queued[chunk] = max(due_s, queued_s)
            return
        heapq.heappush(self._due, (due_s, chunk))
        self._queued[chunk] = due_s

    def due_s(self) -> float:
        """When the next one is to be looked at, or somewhat earlier."""
        return self._due[0][0] if self._due else math.inf

    def owns(self, chunk: bytes) -> bool:
        return any(self._me in owners for owners in live_sets(self._ring.epoch, chunk))

    async def step(self) -> tuple[int, int]:
        """Look at some chunks whose time has come. (chunks looked at, bytes let go)."""
        chunks: list[bytes] = []
        now = self._env.now()
        while self._due and self._due[0][0] <= now and len(chunks) < CHUNKS_A_STEP:
            _, chunk = heapq.heappop(self._due)
            due_s = self._queued.get(chunk)
            if due_s is None:
                continue  # it went at an earlier time than was set first
            if due_s > now:  # it was named and let go again meanwhile
                heapq.heappush(self._due, (due_s, chunk))
                continue
            del self._queued[chunk]
            if self._rows.get("chunks", chunk) is not None:
                chunks.append(chunk)
        mine = [chunk for chunk in chunks if self.owns(chunk)]
        size = 0
        for chunk in await self._compared([chunk for chunk in mine if not self._holder.referenced(chunk)]):
            size += await self._remove(chunk)
        foreign = [chunk for chunk in chunks if chunk not in mine]
        for chunk, attempts in (await self._confirmed(foreign)).items():
            size += await self._remove(chunk, attempts)
        return len(chunks), size

    async def _remove(self, chunk: bytes, references: Sequence[bytes] | None = None) -> int:
        removed = self._env.future()
        self._holder.remove(chunk, removed.set_result, references)
        size = await removed
        if size is None:
            self.counts["kept"] += 1
            return 0
        self.counts["removed"] += 1
        self.counts["removed_bytes"] += size
        return int(size)

    async def _compared(self, chunks: Sequence[bytes]) -> list[bytes]:
        """Those of these chunks that nothing names by what a majority of every live set holds. References that others
        hold and this peer lacks are taken over, unless their attempts are known to be dead."""
        sets = {chunk: live_sets(self._ring.epoch, chunk) for chunk in chunks}
        heard: dict[bytes, set[str]] = {chunk: {self._me} for chunk in chunks}
        named: set[bytes] = set()
        dead: list[bytes] = []
        for member, batch in self._by_member(sets).items():
            answer = await self._ask(member, (REFERENCES, self._ring.tag, batch))
            for chunk, references in zip(batch, answer or (), strict=answer is not None):
                heard[chunk].add(member)
                for attempt, back in references:
                    if self._verdicts.is_dead(attempt):
                        dead.append(chunk + attempt)
                    else:
                        named.add(chunk)
                        await self._take_over(chunk, attempt, back)
        await self._tell(dead)
        free = []
        for chunk in chunks:
            enough = all(2 * len(heard[chunk].intersection(owners)) > len(owners) for owners in sets[chunk])
            if chunk not in named and enough:
                free.append(chunk)
            elif chunk not in named:
                self.add(chunk, RETRY_S)
        return free

    async def _take_over(self, chunk: bytes, attempt: bytes, back: bytes | None) -> None:
        if back is not None:
            done = self._env.future()
            self._holder.refer(chunk[2:], attempt, back, done.set_result)
            await done
            self._doubt(chunk + attempt, back)

    async def _confirmed(self, chunks: Sequence[bytes]) -> dict[bytes, list[bytes]]:
        """Of chunks this peer does not own: those that every present owner holds, with all references there are here, or
        that nobody has a reference to. The others are looked at again later."""
        tag = self._ring.tag
        references = {
            chunk: [attempt for attempt, _ in self._holder.references_of(chunk, REFERENCES_MOST)] for chunk in chunks
        }  # fmt: skip
        sets = {chunk: live_sets(self._ring.epoch, chunk) for chunk in chunks}
        held_by: dict[bytes, set[str]] = {chunk: set() for chunk in chunks}
        for member, batch in self._by_member(sets).items():
            answer = await self._ask(member, (HELD, tag, [(chunk, references[chunk]) for chunk in batch]))
            for chunk, held in zip(batch, answer or (), strict=answer is not None):
                if held:
                    held_by[chunk].add(member)
        done = {}
        for chunk in chunks:
            owners = {owner for one in sets[chunk] for owner in one}
            if owners <= held_by[chunk] and self._ring.tag == tag:
                done[chunk] = references[chunk]
            else:
                self.add(chunk, RETRY_S)
        return done

    def _by_member(self, sets: dict[bytes, tuple[tuple[str, ...], ...]]) -> dict[str, list[bytes]]:
        """The other members to ask, and about which chunks."""
        asked: dict[str, list[bytes]] = {}
        for chunk, owners in sets.items():
            for member in sorted({member for one in owners for member in one} - {self._me}):
                asked.setdefault(member, []).append(chunk)
        return asked

    async def _ask(self, member: str, message: tuple[Any, ...]) -> Any | None:
        if not self._alive(member):
            return None
        one = Round(self._env, self._send, message, 1, ASK_S)
        if await one.start([member]) and len(one.oks[0][1][1]) == len(message[2]):
            return one.oks[0][1][1]
        self.last_error = one.story()
        return None

    # --- what others ask

    def on_references(self, message: Any, reply: Reply) -> None:
        """(REFERENCES, tag, [chunk's key]) -> OK, [[[attempt, back pointer | None]]]."""
        chunks = message[2][:CHUNKS_A_STEP]
        reply((OK, [self._holder.references_of(chunk, REFERENCES_MOST) for chunk in chunks]))

    def on_held(self, message: Any, reply: Reply) -> None:
        """(HELD, tag, [[chunk's key, [attempt]]]) -> OK, [whether this owner needs no other copy, see Holder.spares]."""
        reply((OK, [self._holder.spares(chunk, attempts) for chunk, attempts in message[2][:CHUNKS_A_STEP]]))
