"""Handing over what was missed: the owner pulls by the hints that others keep for it (architecture §8).

Each peer asks every other one for the hints about itself when it starts, when the other comes back, and now and then; it
brings what it lacks and tells the keeper, which forgets them. What this peer keeps for owners that are no owners any more
goes to those that are now; what it keeps when its own share of the ring is gone goes to others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peer.errors import AtollError, Corrupt, Full, Unavailable
from peer.replication.chunks.chunks import Chunks
from peer.replication.copying.registersync import REGISTERS
from peer.replication.copying.sync import Pulled
from peer.replication.env import Env, Write
from peer.replication.hints import CHUNK, PAGE, REGISTER, TARGET_BYTES, Hints, Item, chunk_value, size_in
from peer.replication.keys import partition_in
from peer.replication.messages import HINT_KEEP, HINTED, HINTS
from peer.replication.node import Replica
from peer.replication.quorum import Round
from peer.replication.workers import Worker
from ring.epoch import Epoch

from .chunksync import ChunkSide

ASK_EVERY_S, ASK_SELDOM_S = 5.0, 20.0
"""How often to ask a peer that kept something for us when last asked, and at least: it grows while nothing comes."""
ASK_S = 5.0
RETRY_S, RETRY_MOST_S = 0.5, 30.0
FULL_BACKOFF_S = 10.0
CHUNKS_AT_ONCE = 4
PASS_AGAIN_S = 15.0
STEP_BYTES = 16 << 20
"""A step ends once it has moved more (W1)."""


class Handoff(Worker):
    """The worker behind one peer's hints: pulls those about itself, passes on those that lost their target."""

    name = "hints"
    every_s = 1.0
    per_second = 2000.0

    def __init__(
        self, env: Env, replica: Replica, chunks: Chunks, side: ChunkSide, hints: Hints, alive: Callable[[str], bool]
    ) -> None:  # fmt: skip
        super().__init__(env)
        self._replica = replica
        self._chunks = chunks
        self._side = side
        self._hints = hints
        self._alive = alive
        self._due_s: dict[str, float] = {}  # member -> when to ask it next
        self._after: dict[str, bytes] = {}  # member -> where the next page begins
        self._left: dict[str, int] = {}  # member -> how many hints it said it keeps for us
        self._failures: dict[str, int] = {}
        self._pause_s: dict[str, float] = {}  # member -> after which time to ask it again
        self._passed_tag = -1  # the epoch under which all hints kept here were looked through last
        self._pass_again_s = 0.0
        self._passing = b""
        self.detail = hints.counts
        hints.on_kept = self.wake

    def returned(self, member: str) -> None:
        """A member can be reached again, or has started anew: ask it first."""
        if member != self._replica.me:
            self._due_s[member] = 0.0
            self._failures.pop(member, None)
            self._pause_s.pop(member, None)
            self.wake()

    def try_again(self) -> None:
        """What failed may go well now: ask everybody at once."""
        self._failures.clear()
        self._due_s.clear()

    # --- Worker

    def start(self) -> None:
        """Ask everybody now."""
        self._due_s.clear()
        self.wake()

    def queue(self) -> int:
        """Hints kept here for others, and those that others said they keep for this peer."""
        return self._hints.total + sum(self._left.values())

    def oldest_s(self) -> float | None:
        return self._hints.oldest_s()

    @property
    def owing(self) -> dict[str, int]:
        """Member -> items kept here for it, those included that are not written yet."""
        return self._hints.owing()

    def due_s(self) -> float:
        return min(self._due_s.values(), default=0.0)

    async def step(self) -> bool:
        epoch = self._replica.epochs.current
        if epoch is None:
            return False
        if self._hints.count_some():
            return True
        if self._hints.kept and await self._pass_on(epoch):
            return True
        member = self._next(epoch)
        if member is None:
            return False
        try:
            await self._pull(member)
        except AtollError as error:
            self.last_error = str(error)
            failed = self._failures[member] = self._failures.get(member, 0) + 1
            pause_s = FULL_BACKOFF_S if isinstance(error, Full) else RETRY_S * 2 ** min(failed, 9)
            self._due_s[member] = self.env.now() + min(RETRY_MOST_S, pause_s)
        return True

    def _next(self, epoch: Epoch) -> str | None:
        """A member whose turn to be asked has come."""
        now = self.env.now()
        me = self._replica.me
        mine = me in self._hints.kept  # this peer's own disk may have refused what the others took
        self._due_s = {m.id: self._due_s.get(m.id, 0.0) for m in epoch.members if m.id != me or mine}
        self._pause_s = {
            member: pause_s for member, pause_s in self._pause_s.items() if member in self._due_s
        }
        due = [one for one, at_s in self._due_s.items() if at_s <= now and (one == me or self._alive(one))]
        return min(due, key=lambda member: (self._due_s[member], member), default=None)

    # --- the owner's end

    async def _pull(self, member: str) -> None:
        """Deal with one page of what `member` keeps for this peer. Raises Unavailable, Full."""
        me, tag = self._replica.me, self._replica.tag
        after = self._after.get(member, b"")
        _, found, left = await self._ask(member, (HINTS, tag, me, after, PAGE))
        items: list[Item] = [(item, value) for item, value in found]
        pulled = Pulled()
        done = await self._registers([one for one in items if one[0][0] == REGISTER], tag, pulled)
        chunks = [one for one in items if one[0][0] == CHUNK]
        done += await self._bytes(member, chunks, pulled)
        if pulled.bytes > STEP_BYTES:  # the rest of this page is asked for once more
            items = items[:0]
        if done:
            await self._ask(member, (HINTED, tag, me, done))
            self.did(len(done), pulled.bytes)
        self._failures.pop(member, None)
        self.last_error = "" if len(done) == len(found) else self.last_error
        if not items and found:
            self._left[member] = max(0, left - len(done))
        elif len(items) < PAGE:  # that was all; what could not be brought waits for the next round
            self._after.pop(member, None)
            self._left[member] = len(items) - len(done)
            seldom_s = min(ASK_SELDOM_S, 2 * self._pause_s.get(member, ASK_EVERY_S))
            self._pause_s[member] = ASK_EVERY_S if found else seldom_s
            self._due_s[member] = self.env.now() + self._pause_s[member]
        else:
            self._after[member] = items[-1][0] + b"\0"
            self._left[member] = max(0, left - len(done))

    async def _registers(self, items: Sequence[Item], tag: int, pulled: Pulled) -> list[Item]:
        """Bring the rows that this peer lacks at the ballots named; the hints that are dealt with."""
        replica, copies = self._replica, self._replica.copies
        side = copies.side(REGISTERS)
        sources: dict[str, list[bytes]] = {}
        for item, ballot in items:
            key = item[1:]
            owners = replica.owners_of_row(key).everyone
            if replica.me in owners and side.lacks(key, ballot):
                others = [owner for owner in replica.prefer(owners) if owner != replica.me]
                if others:
                    sources.setdefault(others[0], []).append(key)
        for source, keys in sources.items():
            await copies.fetch(REGISTERS, source, tag, keys, pulled)
        done: list[Item] = []
        for item, ballot in items:
            key = item[1:]
            if replica.me in replica.owners_of_row(key).everyone:
                if side.lacks(key, ballot):  # the source lacked it, too
                    await side.settle(key, pulled)
                done.append((item, ballot))
        return done

    async def _bytes(self, keeper: str, items: Sequence[Item], pulled: Pulled) -> list[Item]:
        """Bring the references this peer lacks, and the bytes; the hints that are dealt with. Raises Full."""
        done: list[Item] = []

        async def bring(one: Item) -> None:
            if pulled.bytes <= STEP_BYTES and await self._dealt_with(keeper, *one, pulled):
                done.append(one)

        await self._side.throttle.each(items, bring, CHUNKS_AT_ONCE)
        return done

    async def _dealt_with(self, keeper: str, item: bytes, value: bytes, pulled: Pulled) -> bool:
        """Bring what one hint is about, if it is needed. Whether the hint may go. Raises Full."""
        reference = item[1:]
        if self._replica.me not in self._chunks.owners_of(reference[2:34]):
            return False  # its keeper hears of the epoch and passes it on
        try:
            wanted = await self._side.is_wanted(reference, value[4:])
            if wanted and self._side.lacks(reference, b""):
                await self._side.bring(reference, value[4:], pulled, (keeper,))
            return wanted is not None  # else a put may be under way; it is asked again
        except Full:
            raise
        except Corrupt:
            self.last_error = "a chunk that was missed is on no peer any more"
            return True
        except AtollError as error:
            self.last_error = str(error)
            return False

    # --- the keeper's end

    async def _pass_on(self, epoch: Epoch) -> bool:
        """Look through a page of the hints kept here: those whose target owns the item no more get new targets, and those
        of a peer that leaves get another keeper. True if there is more to look through."""
        leaving = epoch.table.partitions_of(self._replica.me) == 0
        tag, again = self._replica.tag, self._pass_again_s and self.env.now() >= self._pass_again_s
        if self._passed_tag == tag and not leaving and not again and not self._passing:
            return False
        if not self._passing:  # once more when no change of the epoch before can note anything
            self._pass_again_s = 0.0 if self._passed_tag == tag else self.env.now() + PASS_AGAIN_S
        page = self._hints.page(self._passing)
        for key, value in page:
            target, item = key[:TARGET_BYTES].hex(), key[TARGET_BYTES:]
            partition = partition_in(item[1:]) if item[0] == REGISTER else int.from_bytes(item[1:3], "big")
            owners = epoch.table.owners(partition)
            if target not in owners:
                new = [owner for owner in owners if owner != self._replica.me]
                await self._forget((key, value), [("hints", bytes.fromhex(o) + item, value) for o in new])
            elif leaving and not self._alive(target):
                await self._hand_over(target, item, value)
                await self._forget((key, value), [])
        if len(page) == PAGE:
            self._passing = page[-1][0] + b"\0"
            return True
        self._passing, self._passed_tag = b"", tag
        return False

    async def _forget(self, hint: Item, instead: Sequence[Write]) -> None:
        done = self.env.future()
        self._hints.forget([hint], instead, done.set_result)
        if error := await done:
            raise error

    async def _hand_over(self, target: str, item: bytes, value: bytes) -> None:
        """Have others keep a hint, and the bytes with it if they lie here. Raises Unavailable, Full."""
        if item[0] == CHUNK:
            reference, back = item[1:], value[4:]
            name, attempt = reference[2:34], reference[34:]
            if size_in(item, value) and any(map(self._alive, self._chunks.fallbacks_of(name))):
                buffer, length = await self._chunks.get(name)
                await self._chunks.put(buffer, length, attempt, back, lambda: self._chunks.give(buffer))
                return
            value = chunk_value(0, back)
        others = [m for m in self._replica.epoch.table.member_ids if m not in (target, self._replica.me)]
        keeper = next((m for m in self._replica.prefer(others) if self._alive(m)), None)
        if keeper is None:
            raise Unavailable("nobody is there to take over what is kept here for others")
        await self._ask(keeper, (HINT_KEEP, self._replica.tag, target, [(item, value)]))

    async def _ask(self, member: str, message: tuple[Any, ...]) -> Any:
        one = Round(self.env, self._replica.send, message, 1, ASK_S)
        if await one.start([member]):
            return one.oks[0][1]
        raise Unavailable(f"cannot hand over hints with {member}: {one.story()}")
