"""Hints: what an owner missed, kept durably by somebody who knows it, until the owner has it (architecture §8).

A coordinator notes which owners did not take a write that a majority took. A fallback peer that stores a chunk in an
owner's place notes it in the commit that stores the bytes. The owner asks for the hints about it (`handoff`), brings what
it lacks, and says so; only then a hint goes.

G1  A hint names an item and never carries its value, so one that is replayed late can bring nothing back: what comes is
    what the owners hold by then.
G2  A hint is deleted only if it is still the one the owner has dealt with (same value): one that was renewed stays.
G3  What is not kept (too many for one target, no room, not written yet when the process ends) is counted as dropped where
    it can be, and means that anti-entropy does the work.

Table "hints": target's id, 8 bytes | kind u8 | item key.
    kind REGISTER: a row's key. Value: the ballot that was missed.
    kind CHUNK: a reference row's key (partition, chunk name, attempt). Value: bytes kept here for the target u32 | back
    pointer.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peer.errors import AtollError, Corrupt, ReadOnly

from .env import Env, Reply, RowStore, Write
from .messages import FAILED, OK

REGISTER, CHUNK = 1, 2
TARGET_BYTES = 8
KEYS_MOST = 100_000
BYTES_PART = 10
"""A target's hints may hold one part in so many of this peer's capacity."""
UNWRITTEN_MOST = 20_000
WRITE_AFTER_S = 0.05
READ_ONLY_AGAIN_S = 1.0
A_COMMIT = 500
PAGE = 256

Item = tuple[bytes, bytes]
"""(kind and item key, value)."""


def chunk_value(size: int, back: bytes) -> bytes:
    """The value of a chunk's hint; `size` bytes lie here in the target's place, 0 if this only names the chunk."""
    return size.to_bytes(4, "big") + back


def size_in(item: bytes, value: bytes) -> int:
    return int.from_bytes(value[:4], "big") if item[0] == CHUNK else 0


@dataclass(slots=True)
class Kept:
    """What lies here for one target; `since_s`: when the first of these hints was seen by this process."""

    keys: int = 0
    bytes: int = 0
    since_s: float = 0.0


@dataclass(slots=True)
class _Queued:
    """A hint of which commits are under way: what the last of them will leave (see `_size_of`), and how many they are."""

    size: int | None
    commits: int = 0


_NOTHING = Kept()


class Hints:
    """The hints one peer keeps for others."""

    def __init__(self, env: Env, rows: RowStore, capacity_bytes: int) -> None:
        self._env = env
        self._rows = rows
        self._bytes_most = capacity_bytes // BYTES_PART
        self.let_go: Callable[[bytes], None] = lambda reference: None
        """Told of a reference (its key) whose chunk was kept here in somebody's place, and need not be any more."""
        self.kept: dict[str, Kept] = {}
        self.counts = {"kept": 0, "dropped": 0, "delivered": 0}
        self.dropped_at_s: float | None = None  # the last time
        self.on_kept: Callable[[], None] = lambda: None
        self._new: dict[bytes, bytes] = {}  # not written yet
        self._writing: dict[bytes, bytes] = {}
        self._counted: bytes | None = b""  # hints up to here were counted since the start; None: all
        self._queued: dict[bytes, _Queued] = {}

    # --- keeping

    def missed(self, member: str, key: bytes, ballot: bytes) -> None:
        """An owner did not take this change of a register, which a majority did. Written a moment later."""
        self._note(bytes.fromhex(member) + bytes((REGISTER,)) + key, ballot)

    def missed_chunk(self, member: str, reference: bytes, back: bytes) -> None:
        """An owner does not hold this reference to a chunk, which others hold. Written a moment later."""
        self._note(bytes.fromhex(member) + bytes((CHUNK,)) + reference, chunk_value(0, back))

    def room_for(self, member: str, size: int) -> bool:
        """Whether a chunk of so many bytes may be kept for this target."""
        kept = self.kept.get(member, _NOTHING)
        return kept.keys < KEYS_MOST and kept.bytes + size <= self._bytes_most

    def write_of(
        self, member: str, reference: bytes, size: int, back: bytes
    ) -> tuple[Write, Callable[[AtollError | None], None]]:
        """What the commit that stores a chunk in `member`'s place holds besides, and whom to tell how it ended."""
        key, value = bytes.fromhex(member) + bytes((CHUNK,)) + reference, chunk_value(size, back)
        return ("hints", key, value), self._queue(key, value)

    async def keep(self, member: str, items: Sequence[Item]) -> None:
        """Keep hints that somebody else kept so far; returns when they are durable. Raises Full."""
        target = bytes.fromhex(member)
        done = self._env.future()
        self._commit([("hints", target + item, value) for item, value in items], done.set_result)
        if error := await done:
            raise error

    def _note(self, key: bytes, value: bytes) -> None:
        if len(self._new) >= UNWRITTEN_MOST and key not in self._new:
            return self._drop(1)
        if not self._new and not self._writing:
            self._env.call_later(WRITE_AFTER_S, self._write)
        self._new[key] = value
        return None

    def _drop(self, count: int) -> None:
        """So many are not kept (G3)."""
        self.counts["dropped"] += count
        self.dropped_at_s = self._env.now()

    def _write(self) -> None:
        """Commit what was noted; one commit at a time."""
        writes: list[Write] = []
        wanted: dict[bytes, int] = {}
        for key in list(self._new)[:A_COMMIT]:
            value = self._new.pop(key)
            target, there = key[:TARGET_BYTES], self._size_of(key) is not None
            if there and key[TARGET_BYTES] == CHUNK:
                continue  # the old one may speak of bytes
            if not there:
                wanted[target] = wanted.get(target, 0) + 1
                if self.kept.get(target.hex(), _NOTHING).keys + wanted[target] > KEYS_MOST:
                    self._drop(1)
                    continue
            writes.append(("hints", key, value))
            self._writing[key] = value
        if not writes:
            return self._written(0, None)
        return self._commit(writes, lambda error: self._written(len(writes), error))

    def _written(self, count: int, error: AtollError | None) -> None:
        again_s = WRITE_AFTER_S
        if isinstance(error, ReadOnly):  # for a while: what was noted stays in memory, within its bound
            self._new, again_s = {**self._writing, **self._new}, READ_ONLY_AGAIN_S
        elif error is not None:
            self._drop(count)
        self._writing.clear()
        if self._new:
            self._env.call_later(again_s, self._write)
        self.on_kept()

    # --- counting

    @property
    def total(self) -> int:
        return sum(kept.keys for kept in self.kept.values()) + len(self._new)

    def owing(self) -> dict[str, int]:
        """Target -> how many hints. One that has only such as are not written yet is there, too."""
        unwritten = Counter(key[:TARGET_BYTES].hex() for key in (*self._new, *self._writing))
        return {**unwritten, **{member: kept.keys for member, kept in self.kept.items()}}

    def oldest_s(self) -> float | None:
        since = [kept.since_s for kept in self.kept.values()]
        return self._env.now() - min(since) if since else None

    def count_some(self) -> bool:
        """After a start: count a page of what is kept. False once all are counted."""
        if self._counted is None:
            return False
        page = self._rows.scan("hints", self._counted, b"\xff" * 80, 2000)
        for key, value in page:
            self._add(key, 1, size_in(key[TARGET_BYTES:], value))
        self._counted = page[-1][0] + b"\0" if len(page) == 2000 else None
        return self._counted is not None

    def _size_of(self, key: bytes) -> int | None:
        """What the hint will say of bytes kept once everything queued is durable; None: there is none then, or it cannot be
        read. This is for counting; whoever stores something beside a hint must not fail for it."""
        queued = self._queued.get(key)
        if queued is not None:
            return queued.size
        with contextlib.suppress(Corrupt):
            value = self._rows.get("hints", key)
            return None if value is None else size_in(key[TARGET_BYTES:], value)
        return None

    def _queue(self, key: bytes, value: bytes | None) -> Callable[[AtollError | None], None]:
        """A commit that writes (None: deletes) this hint is queued now. Whom to tell how it ended: it is counted then, once,
        however many commits about it are under way."""
        old = self._size_of(key)
        new = None if value is None else size_in(key[TARGET_BYTES:], value)
        queued = self._queued.setdefault(key, _Queued(new))
        queued.size = new
        queued.commits += 1

        def ended(error: AtollError | None) -> None:
            queued.commits -= 1
            if not queued.commits:
                del self._queued[key]
            if error is not None:
                queued.size = old
            else:
                self._count(key, (new is not None) - (old is not None), (new or 0) - (old or 0))

        return ended

    def _commit(self, writes: Sequence[Write], done: Callable[[AtollError | None], None]) -> None:
        """Commit writes of hints, and count them."""
        told = [self._queue(key, value) for _, key, value in writes]

        def committed(error: AtollError | None) -> None:
            for ended in told:
                ended(error)
            done(error)

        self._rows.commit(writes, committed)

    def _count(self, key: bytes, keys: int, size: int) -> None:
        if keys:
            self.counts["kept" if keys > 0 else "delivered"] += 1
        if self._counted is None or key < self._counted:  # else it is counted when its page comes
            self._add(key, keys, size)

    def _add(self, key: bytes, keys: int, size: int) -> None:
        target = key[:TARGET_BYTES].hex()
        kept = self.kept.get(target)
        if kept is None:
            kept = self.kept[target] = Kept(since_s=self._env.now())
        kept.keys += keys
        kept.bytes += size
        if kept.keys <= 0:
            del self.kept[target]

    # --- giving

    def page(self, after: bytes, limit: int = PAGE) -> list[Item]:
        """Durable hints with whole keys from `after` on: [(key, value)]."""
        return self._rows.scan("hints", after, b"\xff" * 80, limit)

    def on_hints(self, message: Any, reply: Reply) -> None:
        """(HINTS, tag, target, after item, limit) -> OK, [[item, value]], how many are kept for the target."""
        _, _, member, after, limit = message
        target = bytes.fromhex(member)
        found = self._rows.scan("hints", target + after, target + b"\xff" * 72, min(limit, PAGE))
        kept = self.kept.get(member, _NOTHING).keys
        reply((OK, [(key[TARGET_BYTES:], value) for key, value in found], kept))

    def on_hinted(self, message: Any, reply: Reply) -> None:
        """(HINTED, tag, target, [[item, value]]): the target has these. OK once they are forgotten here."""
        _, _, member, items = message
        target = bytes.fromhex(member)

        def forgotten(error: AtollError | None) -> None:
            reply((OK,) if error is None else (FAILED, error.code, str(error)))

        self.forget([(target + item, value) for item, value in items], [], forgotten)

    def on_keep(self, message: Any, reply: Reply) -> None:
        """(HINT_KEEP, tag, target, [[item, value]]) -> OK once they are durable here."""
        self._env.spawn(self._keep_then(message[2], message[3], reply), "keep hints")

    async def _keep_then(self, member: str, items: list[Any], reply: Reply) -> None:
        if not self.room_for(member, 0):
            self._drop(len(items))
            return reply((OK,))
        try:
            await self.keep(member, [(item, value) for item, value in items])
        except AtollError as error:
            return reply((FAILED, error.code, str(error)))
        return reply((OK,))

    def forget(
        self, items: Sequence[Item], instead: Sequence[Write], done: Callable[[AtollError | None], None]
    ) -> None:
        """Delete hints (whole keys) that still have these values (G2) and write others in the same commit."""
        gone = [(key, value) for key, value in items if self._is(key, value)]

        def committed(error: AtollError | None) -> None:
            if error is None:
                for key, value in gone:
                    item = key[TARGET_BYTES:]
                    if size_in(item, value) and not self._named_by_another(item):
                        self.let_go(item[1:])
            done(error)

        writes: list[Write] = [("hints", key, None) for key, _ in gone]
        if not writes and not instead:
            return done(None)
        return self._commit([*writes, *instead], committed)

    def _is(self, key: bytes, value: bytes) -> bool:
        queued = self._new.get(key) or self._writing.get(key)
        return queued in (None, value) and self._rows.get("hints", key) == value

    def _named_by_another(self, item: bytes) -> bool:
        """The same reference is kept for another target, too."""
        return any(self._rows.get("hints", bytes.fromhex(member) + item) is not None for member in self.kept)
