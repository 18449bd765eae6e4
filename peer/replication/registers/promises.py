"""Promises, kept in memory under one durable bound.

A Paxos acceptor must never forget a promise. Writing each to disk would cost a put two fsyncs, so instead
one number is durable: H, the greatest ballot counter this peer may have promised.

H1  No ballot with counter > H is promised before H is durable.
H2  After a restart every key counts as promised at H: no promise made before the crash can be broken.
H3  An entry that leaves memory raises `floor` to its promise; keys without an entry count as promised there.
H4  An accept is a promise, too: one above H commits a new H with itself. Otherwise only its row would tell of it
    after a restart, and a row can rot.

H runs about two seconds ahead of the clock and is extended in the background, so a put rarely waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peer.errors import AtollError
from peer.replication import meta
from peer.replication.ballot import NONE, ceiling, counter_of
from peer.replication.env import RowStore, Write

AHEAD_US = 2_000_000
ENTRIES_KEPT = 16_384
_BOUND_KEY = b"bound"
_MOST = 2**64 - 1


@dataclass(slots=True)
class Entry:
    """One register as its owner remembers it: the promise, and what is accepted (perhaps not yet durable)."""

    promised: bytes
    ballot: bytes
    side_id: int


class Promises:
    """All promises of one owner; bounded memory, one durable bound."""

    def __init__(self, rows: RowStore, unsafe: frozenset[str] = frozenset()) -> None:
        self._rows = rows
        self._entries: dict[bytes, Entry] = {}
        stored = meta.load(rows, _BOUND_KEY)
        self._durable = self._requested = int.from_bytes(stored, "big") if stored else 0
        self.floor = ceiling(self._durable) if stored and "h_not_durable" not in unsafe else NONE
        self._waiting: list[Callable[[AtollError | None], None]] = []
        self._ignore_bound = "h_not_durable" in unsafe
        self.extensions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def remember(self, key: bytes, entry: Entry) -> None:
        """Keep `entry`; the oldest one leaves when there are too many (H3)."""
        entries = self._entries
        entries[key] = entry
        if len(entries) > ENTRIES_KEPT:
            oldest = next(iter(entries))
            evicted = entries.pop(oldest)
            if evicted.promised > self.floor:
                self.floor = evicted.promised

    def forget(self, key: bytes, promised: bytes) -> None:
        """Without an entry from now on, and yet promised at that ballot (H3)."""
        self._entries.pop(key, None)
        self.floor = max(self.floor, promised)

    def drop(self, key: bytes) -> None:
        """Forget a key that this peer owns no more: whoever owns it next begins without its promises."""
        self._entries.pop(key, None)

    def may_promise(self, ballot: bytes, resume: Callable[[AtollError | None], None]) -> bool:
        """True if H covers the ballot (H1). Otherwise False, and `resume` runs once it does, or with an error."""
        counter = counter_of(ballot)
        if self._ignore_bound:
            return True
        if counter <= self._durable:
            if counter + AHEAD_US // 2 > self._requested:
                self._extend(counter)
            return True
        self._waiting.append(resume)
        self._extend(counter)
        return False

    def covers(self, ballot: bytes) -> bool:
        """Whether H is durable at or above this ballot: then no restart makes this owner take it again (H2)."""
        return counter_of(ballot) <= self._durable

    def cover(self, ballot: bytes) -> Write | None:
        """What the commit of an accept must hold besides, so that H covers it (H4). When that commit has ended, call
        `settled` with the same write. A bound already under way is enough: it commits first, or both fail."""
        counter = counter_of(ballot)
        if counter <= self._requested or self._ignore_bound:
            return None
        return self._raise_above(counter)

    def settled(self, bound: Write, error: AtollError | None) -> None:
        """The commit that holds `bound` has ended."""
        if error is None:
            assert bound[2] is not None
            self._durable = max(self._durable, int.from_bytes(meta.value_of(_BOUND_KEY, bound[2]), "big"))
        else:
            self._requested = self._durable
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume(error)

    def _extend(self, counter: int) -> None:
        if counter <= self._requested - AHEAD_US // 2:
            return
        bound = self._raise_above(counter)
        self._rows.commit([bound], partial(self.settled, bound))

    def _raise_above(self, counter: int) -> Write:
        self._requested = min(max(counter + AHEAD_US, self._requested), _MOST)
        self.extensions += 1
        return meta.write(_BOUND_KEY, self._requested.to_bytes(8, "big"))
