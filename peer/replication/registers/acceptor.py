"""One owner of registers: it promises, accepts and tells (CASPaxos acceptor).

Everything here runs on the loop, in one turn per message; the store commits in the order in which
writes were queued. So a check made in the turn that queues a write holds "in commit order" (§5).

A1  Accepts at or above the promise only; what is accepted never gets a lower ballot.
A2  Answers reveal durable state only: a message about a row whose commit is pending waits for it.
A3  Promises obey H1 to H4 of promises.py.
A4  A row that fails its checksum takes no part in prepare and read until an accept replaces it. Nor does one whose
    inline bytes fail theirs, when they are asked for.
A5  An accept that a full disk failed, or would have, or that met too long a queue of writes, is never taken later, should
    the network repeat it: the promise moves above it. The refusal says whether a restart remembers that, which it does if
    H covers the ballot.
A6  Who has too many writes queued promises nothing new, so that they become fewer. Accepts it takes while it can: others
    have promised by then. Nor does one whose disk is read-only: it could not keep what it then accepts.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peer.errors import AtollError, Corrupt, Full
from peer.replication.ballot import NONE, after
from peer.replication.env import Reply, RowStore, Write
from peer.replication.keys import GATE
from peer.replication.messages import ABSTAIN, BUSY, CONFLICT, IS_FULL, OK, READ_ONLY, status_of
from peer.replication.value import Accepted, decode_row, decode_side, encode_row, encode_side, payload_of

from .floors import Floors
from .gates import Gates
from .promises import Entry, Promises
from .room import FULL_FOR_S, needs_room

log = logging.getLogger(__name__)

SIDE_READ_TRIES = 8
DAMAGED = b"damaged"
BAD_MOST = 10_000
"""Stands for the ballot of a row that cannot be read: like no other, so that nobody takes it for absent."""


@dataclass(slots=True)
class _Pending:
    """A row whose commit is queued: what it will hold, and what it held before the earliest queued commit."""

    ballot: bytes
    accepted: Accepted
    side: bytes | None
    base: bytes | None
    waiting: list[Callable[[], None]]


class Acceptor:
    """The registers this peer owns. Handlers take the message and a `reply`, called exactly once."""

    def __init__(
        self, rows: RowStore, now: Callable[[], float], unsafe: frozenset[str] = frozenset()
    ) -> None:
        self._rows = rows
        self._now = now
        self._full_until_s = 0.0
        self.promises = Promises(rows, unsafe)
        self.gates = Gates(rows, self._pending_value)
        self.floors = Floors(rows, unsafe)
        self._purging: set[bytes] = set()  # tombstones whose removal is queued
        self._pending: dict[bytes, _Pending] = {}
        self.on_commit: Callable[[bytes, bytes | None, bytes], None] = lambda key, old, new: None
        """Told of each commit: row key, accepted ballot before (None: no row), accepted ballot now."""
        self.on_damage: Callable[[bytes], None] = lambda key: None
        """Told when a damaged row is about to be replaced."""
        last = rows.last("side")
        self._next_side = (last or 0) + 1
        self._read_uncommitted = "read_uncommitted" in unsafe
        self.conflicts = 0
        self.damaged = 0
        self.bad: dict[bytes, None] = {}
        """Rows known to be damaged, until a commit takes their place; no more than BAD_MOST."""

    @property
    def idle(self) -> bool:
        """No accept waits for its commit."""
        return not self._pending

    def prepare(self, message: Any, reply: Reply) -> None:
        """Promise the ballot and tell what is accepted, or CONFLICT with what stands against it."""
        _, _, key, ballot, gate, want_side = message
        refusal = self.gates.refusal(key, gate)
        if refusal is not None:
            return reply(refusal)
        if key in self._pending and not self._read_uncommitted:
            return self._after_commit(key, lambda: self.prepare(message, reply))
        if self._rows.read_only or self._rows.congested:  # A6
            return reply((READ_ONLY if self._rows.read_only else BUSY,))

        def resume(error: AtollError | None) -> None:
            reply((status_of(error),)) if error is not None else self.prepare(message, reply)

        if not self.promises.may_promise(ballot, resume):
            return None
        try:
            accepted, side = self._accepted(key, want_side)
        except Corrupt as error:
            return self._abstain(key, error, reply)
        entry = self.promises.get(key)
        floor = self.promises.floor if entry is None else entry.promised
        promised = max(floor, accepted.ballot, self.floors.promised(key))
        if ballot <= promised:
            self.conflicts += 1
            return reply((CONFLICT, promised))
        if entry is not None:
            entry.promised = ballot
        else:
            self.promises.remember(key, Entry(ballot, accepted.ballot, accepted.side_id))
        full = self._now() < self._full_until_s or not self._rows.roomy
        reply((OK, accepted.ballot, accepted.value, side, full, self.floors.floor(key)))

    def accept(self, message: Any, reply: Reply) -> None:
        """Store (ballot, value) durably and answer OK, or CONFLICT; a repeated accept answers as the first."""
        _, _, key, ballot, value, side, gate = message
        refusal = self.gates.refusal(key, gate)
        if refusal is not None:
            return reply(refusal)
        entry = self._entry(key)
        if ballot == entry.ballot and ballot == entry.promised:
            if key in self._pending:
                return self._after_commit(key, lambda: self.accept(message, reply))
            return reply((OK,))
        purged = self.floors.promised(key)
        if ballot < entry.promised or ballot <= entry.ballot or ballot <= purged:
            self.conflicts += 1
            return reply((CONFLICT, max(entry.promised, entry.ballot, purged)))
        room = self._room_for(key, value)
        if room != OK:
            self._undo(key, ballot)
            return reply((room, self.promises.covers(ballot)))
        return self._store(key, entry, Accepted(ballot, value, 0), side, reply)

    def merge(
        self, key: bytes, ballot: bytes, value: bytes, side: bytes | None, reply: Reply, void: bool = False
    ) -> None:  # fmt: skip
        """Apply what another owner has accepted, as a delayed accept (§6, copying).

        OK once it is durable, CONFLICT, IS_FULL, READ_ONLY or BUSY.

        No gate is asked: a gate decides what is accepted first, not where it is copied to. `void`: nor is a promise, as
        whoever it was made to can do nothing with it any more (`recovery`, O3); it stands all the same.
        """
        entry = self._entry(key)
        promised = entry.promised
        if (ballot < promised and not void) or ballot <= entry.ballot:
            return reply((CONFLICT, max(promised, entry.ballot)))
        if entry.ballot == NONE and ballot <= self.floors.floor(key):  # F3: it was deleted
            return reply((CONFLICT, self.floors.floor(key)))
        room = self._room_for(key, value)
        if room != OK:
            return reply((room, False))
        self._store(key, entry, Accepted(ballot, value, 0), side, reply)
        entry.promised = max(promised, ballot)
        return None

    def purge(
        self, partition: int, floor: bytes, tombstones: Sequence[tuple[bytes, bytes]],
        done: Callable[[AtollError | None], None],
    ) -> int:  # fmt: skip
        """Make this ballot the partition's floor and remove these tombstones (key, ballot) in one commit, but for those
        that something newer has taken the place of; how many. `done` when that is durable, or has failed."""
        gone = [
            key for key, ballot in tombstones if key not in self._pending and self.ballot_of(key) == ballot
        ]
        for key in gone:
            entry = self.promises.get(key)
            if entry is not None:
                entry.ballot, entry.side_id = NONE, 0
        self._purging.update(gone)

        def committed(error: AtollError | None) -> None:
            self._purging.difference_update(gone)
            for key in gone if error is not None else ():
                entry = self.promises.get(key)
                if entry is not None:
                    self.promises.forget(key, entry.promised)
            done(error)

        self._rows.commit(
            [self.floors.raising(partition, floor), *(("rows", key, None) for key in gone)], committed
        )
        return len(gone)

    def _room_for(self, key: bytes, value: bytes) -> int:
        """OK, or why there is no room for this value."""
        if self._rows.saturated:
            return BUSY
        if self._rows.roomy or not needs_room(key, payload_of(value)):
            return OK
        return IS_FULL

    def learn(self, key: bytes, ballot: bytes, value: bytes, side: bytes | None, reply: Reply) -> None:
        """Apply what is known to be chosen: OK once it is durable, or CONFLICT if as much is accepted here already.

        No promise is asked: whoever prepared a higher ballot met a majority of those that chose this value, whether or
        not this owner told of it. The promise stands.
        """
        entry = self._entry(key)
        if ballot <= entry.ballot:
            return reply((CONFLICT, entry.ballot))
        room = self._room_for(key, value)
        if room != OK:
            return reply((room, False))
        return self._store(key, entry, Accepted(ballot, value, 0), side, reply)

    def discard(self, keys: Sequence[bytes], done: Callable[[AtollError | None], None]) -> None:
        """Take rows out, with all memory of them: those of a partition that this peer does not own."""
        writes: list[Write] = []
        for key in keys:
            assert key not in self._pending, "a row of a partition that is not owned is being written"
            self.promises.drop(key)
            self.bad.pop(key, None)
            self.gates.forget(key)
            row = self._rows.get("rows", key)
            with contextlib.suppress(Corrupt):
                side_id = decode_row(key, row).side_id
                if side_id:
                    writes.append(("side", side_id, None))
            writes.append(("rows", key, None))
        self._rows.commit(writes, done)

    def _store(self, key: bytes, entry: Entry, new: Accepted, side: bytes | None, reply: Reply) -> None:
        """Queue the commit of an accept that was judged good."""
        ballot, value = new.ballot, new.value
        side_id = 0
        writes: list[Write] = []
        if side is not None:
            side_id = self._next_side
            self._next_side += 1
            writes.append(("side", side_id, encode_side(key, side)))
        if entry.side_id:
            writes.append(("side", entry.side_id, None))
        writes.append(("rows", key, encode_row(key, ballot, side_id, value)))
        old = entry.ballot if entry.ballot != NONE else None
        entry.ballot = ballot
        entry.promised = max(entry.promised, ballot)
        entry.side_id = side_id
        self.promises.remember(key, entry)
        earlier = self._pending.get(key)
        base, waiting = (earlier.base, earlier.waiting) if earlier is not None else (old, [])
        self._pending[key] = _Pending(ballot, Accepted(ballot, value, side_id), side, base, waiting)
        if key[0] == GATE:
            self.gates.queued(key, value)
        bound = self.promises.cover(ballot)
        if bound is not None:
            writes.append(bound)
        self._rows.commit(writes, lambda error: self._committed(key, old, ballot, bound, error, reply))

    def read(self, message: Any, reply: Reply) -> None:
        """The accepted state, with the side value if wanted."""
        _, _, key, gate, want_side = message
        refusal = self.gates.refusal(key, gate)
        if refusal is not None:
            return reply(refusal)
        if key in self._pending and not self._read_uncommitted:
            return self._after_commit(key, lambda: self.read(message, reply))
        try:
            accepted, side = self._accepted(key, want_side)
        except Corrupt as error:
            return self._abstain(key, error, reply)
        reply((OK, accepted.ballot, accepted.value, side))

    def ballot(self, message: Any, reply: Reply) -> None:
        """The accepted ballot alone."""
        _, _, key, gate = message
        refusal = self.gates.refusal(key, gate)
        if refusal is not None:
            return reply(refusal)
        if key in self._pending and not self._read_uncommitted:
            return self._after_commit(key, lambda: self.ballot(message, reply))
        entry = self.promises.get(key)
        if entry is not None:
            return reply((OK, entry.ballot))
        try:
            accepted, _ = self._accepted(key, False)
        except Corrupt as error:
            return self._abstain(key, error, reply)
        reply((OK, accepted.ballot))

    def _accepted(self, key: bytes, want_side: bool) -> tuple[Accepted, bytes | None]:
        """The durable accepted state. The side row is read apart: a commit may fall between, so look again."""
        if self._read_uncommitted and key in self._pending:
            pending = self._pending[key]
            return pending.accepted, pending.side
        for _ in range(SIDE_READ_TRIES):
            accepted = decode_row(key, self._rows.get("rows", key))
            if not want_side or not accepted.side_id:
                return accepted, None
            side = self._rows.get("side", accepted.side_id)
            if side is not None:
                return accepted, decode_side(key, side)
        raise Corrupt(f"the inline value of the metadata row {key.hex()} is missing")

    def _entry(self, key: bytes) -> Entry:
        entry = self.promises.get(key)
        if entry is None:
            pending = self._pending.get(key)  # its entry may have left memory meanwhile
            try:
                row = None if key in self._purging else self._rows.get("rows", key)
                accepted = pending.accepted if pending else decode_row(key, row)
            except Corrupt:  # A4: this accept was formed without us; it replaces the bad row
                self.damaged += 1
                self.on_damage(key)
                return Entry(self.promises.floor, NONE, 0)
            entry = Entry(max(self.promises.floor, accepted.ballot), accepted.ballot, accepted.side_id)
            self.promises.remember(key, entry)
        return entry

    def _committed(
        self, key: bytes, old: bytes | None, ballot: bytes, bound: Write | None, error: AtollError | None, reply: Reply
    ) -> None:  # fmt: skip
        if bound is not None:
            self.promises.settled(bound, error)
        pending = self._pending.get(key)
        waiting: list[Callable[[], None]] = []
        if pending is not None and pending.ballot == ballot:
            del self._pending[key]
            waiting = pending.waiting
        elif pending is not None and error is None:
            pending.base = ballot
        if error is not None:
            if isinstance(error, Full):
                self._full_until_s = self._now() + FULL_FOR_S
            self._undo(key, ballot)
            reply((status_of(error), self.promises.covers(ballot)))
        else:
            self.bad.pop(key, None)
            self.on_commit(key, old, ballot)
            reply((OK,))
        for resume in waiting:
            resume()

    def _undo(self, key: bytes, ballot: bytes) -> None:
        """The commit failed, or was not tried: the row is as before, and the promise moves above this ballot (A5)."""
        entry = self.promises.get(key)
        promised = max(entry.promised if entry else self.promises.floor, after(ballot))
        if entry is not None and entry.ballot != ballot:
            entry.promised = promised
        else:
            pending = self._pending.get(key)  # a later accept, whose entry has left memory
            try:
                accepted = pending.accepted if pending else decode_row(key, self._rows.get("rows", key))
                self.promises.remember(key, Entry(promised, accepted.ballot, accepted.side_id))
            except Corrupt:  # A4: an entry would answer for the row
                self.promises.forget(key, promised)
        if key[0] == GATE:
            self.gates.forget(key)

    def _pending_value(self, key: bytes) -> bytes | None:
        pending = self._pending.get(key)
        return None if pending is None else pending.accepted.value

    def stored(self, key: bytes) -> tuple[Accepted, bytes | None]:
        """The committed accepted state, with its side value. Raises Corrupt."""
        return self._accepted(key, True)

    def promised(self, key: bytes) -> bytes:
        """The highest ballot this peer may have promised for a row."""
        entry = self.promises.get(key)
        return entry.promised if entry is not None else max(self.promises.floor, self.ballot_of(key))

    def ballot_of(self, key: bytes) -> bytes:
        """The accepted ballot, of a commit that is queued too; NONE for a row that is not there or damaged."""
        entry = self.promises.get(key)
        if entry is not None:
            return entry.ballot
        pending = self._pending.get(key)
        if pending is not None:
            return pending.ballot
        if key in self._purging:
            return NONE
        try:
            return decode_row(key, self._rows.get("rows", key)).ballot
        except Corrupt:
            return NONE

    def committed_ballot(self, key: bytes, row: bytes) -> bytes | None:
        """The accepted ballot of a stored row as before any commit that is still queued (or has not been told of yet);
        None: no row then, or one that does not match its checksum."""
        pending = self._pending.get(key)
        if pending is not None:
            return pending.base
        try:
            return decode_row(key, row).ballot
        except Corrupt:
            return DAMAGED

    def waits_for(self, key: bytes, resume: Callable[[], None]) -> bool:
        """Whether the row's commit is pending (A2); then `resume` is called when it has ended."""
        if key not in self._pending or self._read_uncommitted:
            return False
        self._after_commit(key, resume)
        return True

    def _after_commit(self, key: bytes, resume: Callable[[], None]) -> None:
        self._pending[key].waiting.append(resume)

    def found_bad(self, key: bytes) -> None:
        """A row, or its inline bytes, do not match their checksums: it is to be accepted anew (`scrub`)."""
        if key not in self.bad and len(self.bad) < BAD_MOST:
            self.bad[key] = None
            log.warning("row %s is damaged on this disk; it is made good by the other owners", key.hex())

    def _abstain(self, key: bytes, error: Corrupt, reply: Reply) -> None:
        self.damaged += 1
        self.found_bad(key)
        reply((ABSTAIN, str(error)))
