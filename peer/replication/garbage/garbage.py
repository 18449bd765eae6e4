"""Garbage: what overwritten, deleted and abandoned data leaves on the disks, and how it goes (architecture §7).

A chunk stays as long as a reference row names it. So there are two questions, and each has one rule:

G1  A reference row goes only if its attempt is dead (`verdicts`): no head names it, and none ever will.
G2  A chunk's row goes only in a turn in which no reference to it is there or under way (C7 of `holder`); its extent is
    punched after that is durable and the last reader is gone (S6, S7 of `segments`).

What races with them, and why nothing that is referenced goes:

- A put of equal bytes asks for a reference while the chunk is being removed: it waits for the removal's commit, is told
  "missing", and sends the bytes, which take a new place. If its reference comes first, the chunk stays. (This is the doomed
  row of the design in one turn instead of two: between recheck and commit nothing can come.)
- A put stores chunks and has not yet committed its head, perhaps for hours: its attempt is open, so not dead (T1). Its
  coordinator dies: the references stay until that one's next start says "over", or it is out of the ring; an accept it
  sent may still win, which the identity change of V2 decides.
- An owner was away while references were dropped, and hands them over when it is back: whoever pulls asks first whether a
  head names them (`chunksync`), and doubts them otherwise. Dropped rows need no markers that somebody would have to purge.
- A straggler adds a reference of an attempt that is dead already: it is found by the walk, as everything is.
- Two owners differ in what references they hold. An owner removes a chunk only after it asked a majority of every live set
  and took over the references it lacked; and what it acknowledged itself has a row of its own, so it would be right alone.
- The ring changes. A chunk on a peer that does not own it goes only when every present owner says, under the epoch that is
  in force when the removal is queued, that it holds the bytes and each of the references.
- A reader has the head, and the object is replaced: bytes stay for `grace_s` after their last reference went.

Drops are told at once by the coordinator that replaced a head, from memory. Whatever is lost of that (a crash, an owner out
of reach, a full queue) the **walk** finds: over all references and all chunks of this peer, again and again, its position
durable.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from peer.buffers import Buffer
from peer.errors import AtollError
from peer.replication import meta
from peer.replication.chunks.holder import Holder, answer_to
from peer.replication.chunks.rows import NAME_END, chunk_key
from peer.replication.env import Env, Reply, Ring, RowStore
from peer.replication.messages import DROP, OK
from peer.replication.quorum import Round, Send
from peer.replication.workers import Worker

from .attempts import ATTEMPT_BYTES
from .loose import Loose, live_sets
from .verdicts import Pair, Verdicts

GRACE_S = 300.0
PASS_EVERY_S = 3600.0
PAGE_ROWS = 1_000
PAGE_EVERY_S = 0.5
UNSURE_S = 60.0
"""So long after a pass in which somebody could not be asked the next one begins."""
KEYS_A_STEP = 512
KEYS_A_MESSAGE = 256
JUDGED_A_STEP = 64
REPLACED_MOST = 10_000
FAILED_MOST = 1_000
DOUBTS_MOST = 10_000
RETRY_S = 30.0
ASK_S = 5.0
NAME_BYTES = 32
LEFT_BY = "what uploads through"
_WALK = b"garbage/walk"
_TABLES = ("refs", "chunks")
_END = b"\xff" * (NAME_END + ATTEMPT_BYTES + 1)


class Source(Protocol):
    """Where manifests are read."""

    async def get(self, name: bytes) -> tuple[Buffer, int]: ...
    def give(self, buffer: Buffer) -> None: ...


@dataclass(slots=True)
class _Replaced:
    """What a dead attempt referred to: chunk names, or those of manifests that list them."""

    attempt: bytes
    names: bytes
    manifest: bool
    since_s: float


@dataclass(slots=True)
class _Failed:
    """What a put referred to whose head was perhaps not accepted; `back` is the head's row key."""

    attempt: bytes
    back: bytes
    names: bytes
    manifest: bool
    not_before_s: float


class Garbage(Worker):
    """One peer's part: references are dropped, chunks let go, and all of both looked through."""

    name = "garbage"
    every_s = 0.5

    def __init__(
        self, env: Env, rows: RowStore, me: str, ring: Ring, send: Send, holder: Holder, source: Source,
        verdicts: Verdicts, alive: Callable[[str], bool], *, grace_s: float = GRACE_S, pass_every_s: float = PASS_EVERY_S,
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._rows = rows
        self._me = me
        self._ring = ring
        self._send = send
        self._holder = holder
        self._source = source
        self._verdicts = verdicts
        self._alive = alive
        self.grace_s = grace_s
        self.pass_every_s = pass_every_s
        self._replaced: deque[_Replaced] = deque()
        self._failed: deque[_Failed] = deque()
        self._doubts: dict[bytes, tuple[bytes, float]] = {}  # reference -> (back pointer, not judged before)
        self.loose = Loose(
            env, rows, me, ring, send, holder, verdicts, alive, self._tell, self.doubt
        )  # fmt: skip
        stored = meta.load(rows, _WALK)
        position: tuple[int, bytes] = msgpack.unpackb(stored) if stored else (0, b"")
        self._table, self._cursor = position
        self._page_at_s = env.now()
        self._unsure = False
        self._forgotten = 0
        self.detail = dict.fromkeys(
            ("dropped", "removed", "removed_bytes", "kept", "walked", "passes", "untold", "forgotten"), 0
        )

    # --- what others tell

    def replaced(self, attempt: bytes, names: bytes, manifest: bool) -> None:
        """The head of this attempt was replaced, first hand (V1): its references may go."""
        self._verdicts.learn(attempt)
        self._drop_all(attempt, names, manifest)

    def failed(self, attempt: bytes, back: bytes, names: bytes, manifest: bool) -> None:
        """A put ended without knowing that its head was accepted; it referred to these chunks, or to these manifests and
        what they list. They go once the attempt is known to be dead."""
        if len(self._failed) >= FAILED_MOST:
            self._forgotten += 1  # the walk finds them
            return
        self._failed.append(_Failed(attempt, back, names, manifest, 0.0))
        self.wake()

    def _drop_all(self, attempt: bytes, names: bytes, manifest: bool) -> None:
        if len(self._replaced) >= REPLACED_MOST:
            self._forgotten += 1
            return
        self._replaced.append(_Replaced(attempt, names, manifest, self.env.now()))
        self.wake()

    def doubt(self, key: bytes, back: bytes) -> None:
        """A reference that no head seems to name: judge it soon."""
        if len(self._doubts) < DOUBTS_MOST:
            self._doubts.setdefault(key, (back, 0.0))
            self.wake()
        else:
            self._forgotten += 1

    def look_at(self, chunk: bytes) -> None:
        """A chunk, given its key, may not be needed here: see to it when readers had their time. Of one without good bytes
        there are none."""
        read = self._holder.find(chunk[2:]) is not None
        self.loose.add(chunk, self.grace_s if read else 0.0)
        if not read:
            self.wake()

    def on_drop(self, message: Any, reply: Reply) -> None:
        """(DROP, tag, [reference's key]): OK once they are gone. Their attempts are dead."""
        keys = message[2][:KEYS_A_MESSAGE]
        for key in keys:
            self._verdicts.learn(key[NAME_END:])
            self._doubts.pop(key, None)

        def dropped(error: AtollError | None) -> None:
            if error is not None:
                return reply(answer_to(error))
            self.detail["dropped"] += len(keys)
            for key in keys:
                self.look_at(key[:NAME_END])
            return reply((OK,))

        self._holder.drop(keys, dropped)

    # --- Worker

    def queue(self) -> int:
        return len(self._replaced) + len(self._failed) + len(self._doubts) + len(self.loose)

    def start(self) -> None:
        """Go on looking through everything now."""
        self._page_at_s = self.env.now()
        self.wake()

    def oldest_s(self) -> float | None:
        return self.env.now() - self._replaced[0].since_s if self._replaced else None

    def due_s(self) -> float:
        doubts = min((not_before_s for _, not_before_s in self._doubts.values()), default=math.inf)
        failed = min((one.not_before_s for one in self._failed), default=math.inf)
        return min(self._page_at_s, self.loose.due_s(), doubts, failed)

    async def step(self) -> bool:
        worked = await self._judge_failed()
        worked = await self._drop_replaced() or worked
        worked = await self._judge_doubts() or worked
        if not (self._doubts or self._failed) and self.last_error.startswith(LEFT_BY):
            self.last_error = ""  # it waits for nobody any more
        looked_at, size = await self.loose.step()
        self.did(looked_at, size)
        self.detail.update(self.loose.counts, forgotten=self._forgotten + self.loose.counts["forgotten"])
        worked = bool(looked_at) or worked
        return await self._walk() or worked

    # --- references

    async def _drop_replaced(self) -> bool:
        """Tell the owners of some replaced chunks to drop their references."""
        keys: list[bytes] = []
        power = self._ring.epoch.partition_power
        while self._replaced and len(keys) < KEYS_A_STEP:
            one = self._replaced[0]
            if one.manifest and one.names:
                name, one.names = one.names[:NAME_BYTES], one.names[NAME_BYTES:]
                listed = await self._listed(name)
                self._replaced.appendleft(_Replaced(one.attempt, listed + name, False, one.since_s))
                continue
            names = _cut(one.names)[: KEYS_A_STEP - len(keys)]
            one.names = one.names[NAME_BYTES * len(names) :]
            keys += [chunk_key(name, power) + one.attempt for name in names]
            if not one.names:
                self._replaced.popleft()
        await self._tell(keys)
        return bool(keys)

    async def _listed(self, manifest: bytes) -> bytes:
        """The names in a manifest; none if it cannot be read now: the walk finds what they name."""
        try:
            buffer, length = await self._source.get(manifest)
        except AtollError as error:
            self.last_error = str(error)
            return b""
        names = bytes(buffer.payload(length))
        self._source.give(buffer)
        return names

    async def _judge_failed(self) -> bool:
        """Judge some puts that failed; what those of dead attempts referred to is dropped as if it had been replaced."""
        now = self.env.now()
        some = [one for one in self._failed if one.not_before_s <= now][:JUDGED_A_STEP]
        if not some:
            return False
        verdicts = await self._judged([(one.back, one.attempt) for one in some])
        for one, verdict in zip(some, verdicts, strict=True):
            if verdict is None:
                one.not_before_s = self.env.now() + RETRY_S
                continue
            self._failed.remove(one)
            if verdict:
                self._drop_all(one.attempt, one.names, one.manifest)
        return True

    async def _judged(self, pairs: Sequence[Pair]) -> list[bool | None]:
        """Verdicts; if some have to wait for a coordinator that says nothing, people are told for whom."""
        verdicts = await self._verdicts.judge(pairs)
        if silent := self._verdicts.silent:
            names = ", ".join(silent)
            self.last_error = f"{LEFT_BY} {names} left behind stays until it answers, or is out of the ring"
        return verdicts

    async def _judge_doubts(self) -> bool:
        """Judge some references that no head seemed to name, and drop those of dead attempts everywhere."""
        now = self.env.now()
        some: list[tuple[bytes, bytes]] = []
        for key, (back, not_before_s) in self._doubts.items():
            if not_before_s <= now:
                some.append((key, back))
                if len(some) >= JUDGED_A_STEP:
                    break
        if not some:
            return False
        verdicts = await self._judged([(back, key[NAME_END:]) for key, back in some])
        dead = []
        for (key, back), verdict in zip(some, verdicts, strict=True):
            self._doubts.pop(key, None)
            if verdict:
                dead.append(key)
            elif verdict is None:
                self._doubts[key] = back, self.env.now() + RETRY_S
        await self._tell(dead)
        return True

    async def _tell(self, keys: Sequence[bytes]) -> None:
        """Have every owner of these references' chunks drop them, and this peer. Who is out of reach is not waited for."""
        epoch, told = self._ring.epoch, dict[str, list[bytes]]()
        for key in keys:
            owners = {owner for owners in live_sets(epoch, key) for owner in owners}
            for member in sorted(owners | {self._me}):
                told.setdefault(member, []).append(key)
        rounds = []
        for member, batch in told.items():
            for at in range(0, len(batch), KEYS_A_MESSAGE):
                some = batch[at : at + KEYS_A_MESSAGE]
                if self._alive(member) or member == self._me:
                    one = Round(self.env, self._send, (DROP, self._ring.tag, some), 1, ASK_S)
                    one.start([member])
                    rounds.append(one)
                else:
                    self.detail["untold"] += len(some)
        for one in rounds:
            if not await one.future:
                self.detail["untold"] += 1
                self.last_error = one.story()
        self.did(len(keys))

    # --- the walk

    async def _walk(self) -> bool:
        """One page of all references, then of all chunks; then rest until the next pass is due."""
        now = self.env.now()
        if now < self._page_at_s:
            return False
        self._page_at_s = now + PAGE_EVERY_S
        page = self._rows.scan(_TABLES[self._table], self._cursor, _END, PAGE_ROWS)
        await self._look_at([(bytes(key), row) for key, row in page])
        self.detail["walked"] += len(page)
        if len(page) == PAGE_ROWS:
            self._cursor = page[-1][0] + b"\0"
        else:
            self._table, self._cursor = (self._table + 1) % len(_TABLES), b""
            if self._table == 0:
                self.detail["passes"] += 1
                self._page_at_s = now + min(
                    self.pass_every_s, UNSURE_S if self._unsure else self.pass_every_s
                )
                self._unsure = False
        kept = self.env.future()
        position = bytes(msgpack.packb([self._table, self._cursor]))
        self._rows.commit([meta.write(_WALK, position)], kept.set_result)
        await kept  # on a full disk a restart begins further back
        return False

    async def _look_at(self, page: Sequence[tuple[bytes, bytes]]) -> None:
        if self._table == 1:
            for chunk, _ in page:
                if not self.loose.owns(chunk) or not self._holder.referenced(chunk):
                    self.look_at(chunk)
            return
        found = [(key, self._holder.back_of(key)) for key, _ in page]
        known = [(key, back) for key, back in found if back is not None]  # a damaged row is scrub's
        named = await self._verdicts.named([(back, key[NAME_END:]) for key, back in known])
        for (key, back), answer in zip(known, named, strict=True):
            if answer is False:
                self.doubt(key, back)
            self._unsure = self._unsure or answer is None


def _cut(names: bytes) -> list[bytes]:
    return [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]
