"""Rows: an ordered key-value store with atomic, durable, first-in first-out commits (architecture.md §9).

All of a peer's metadata lives behind this interface. `sqlite.SqliteRows` implements it on a disk and the
simulator implements it in memory with crashes; both pass `tests/storage_contract.py`.

What a caller may rely on:

 R1  A batch is atomic: after a crash all of its writes are there or none is.
 R2  Batches take effect in the order of the calls to `commit`, and `done` is called in that order.
 R3  After `done(None)` the batch survives power loss.
 R4  `get`, `scan` and `last` show committed state only: never a batch whose `done(None)` could still
     turn into an error.
 R5  No batch commits on top of one that failed: its error also reaches every batch that was queued
     when the failure is reported, so whatever was computed from a pending batch never outlives it.
 R6  `sequence` grows with every commit and never falls back, restarts included, unless the database was
     replaced by an older one: that is how amnesia is noticed (§5).
 R7  Any other I/O error ends the process. It is never retried: after a failed fsync nobody knows what
     the disk holds (§6).
 R8  What is queued has a bound. A batch beyond it fails like one that met a full disk, with `Unavailable`,
     through `done` and in its turn (R2, R5): callers change their memory before they commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from peer.errors import AtollError

Key = bytes | int
Write = tuple[str, Key, bytes | None]
"""(table, key, value); None deletes, and deleting what is absent is allowed."""

Done = Callable[[AtollError | None], None]

BYTES_TABLES = ("rows", "chunks", "refs", "hints", "meta")
"""Tables ordered by a bytes key, compared as unsigned bytes. Values of some hundred bytes."""

INT_TABLES = ("side",)
"""Tables ordered by a key of 63 bits, for values up to `inline_max`, cheapest when keys only grow."""

TABLES = BYTES_TABLES + INT_TABLES

UNREADABLE = "Unreadable"
"""The code of Corrupt for what the disk does not give: it may be there all the same."""


class Rows(Protocol):
    """See the module's R1 to R7."""

    @property
    def sequence(self) -> int:
        """Number of the newest commit whose callbacks have begun; 0 in a new store. Durable."""
        ...

    @property
    def congested(self) -> bool:
        """True while so much is queued that new requests should be turned away."""
        ...

    @property
    def saturated(self) -> bool:
        """True while the bound is reached: `commit` would fail (R8)."""
        ...

    @property
    def roomy(self) -> bool:
        """False: the disk is so full that only what gives space back, or keeps the peer going, should be queued.

        Nothing is refused here for that: callers know which of their writes make the peer hold more.
        """
        ...

    @property
    def read_only(self) -> bool:
        """True while the disk refuses writes: what is committed can be read, and commits fail with `ReadOnly`."""
        ...

    def get(self, table: str, key: Key) -> bytes | None:
        """The committed value, or None. Raises `Corrupt` if the store cannot read it."""
        ...

    def scan(self, table: str, start: Key, end: Key, limit: int) -> list[tuple[Key, bytes]]:
        """At most `limit` rows with start <= key < end in key order, from one snapshot. Raises `Corrupt`."""
        ...

    def heads(
        self, table: str, start: Key, end: Key, limit: int, head_bytes: int
    ) -> list[tuple[Key, bytes, int]]:
        """As `scan`, but of each value only its first `head_bytes`, and how many bytes it has."""
        ...

    def last(self, table: str) -> Key | None:
        """The greatest committed key of the table, or None when it is empty. Raises `Corrupt`."""
        ...

    def commit(self, writes: Sequence[Write], done: Done) -> None:
        """Queue an atomic batch; from any thread.

        `done(None)` once it is durable, `done(Full)` if the disk had no room, `done(ReadOnly)` if it takes no writes,
        `done(Unavailable)` if too much is queued (nothing changed then); on the loop thread, never from within this
        call. Of several writes of one key in a batch the last wins. Raises only after `close`.
        """
        ...

    def close(self) -> None:
        """Commit what is queued, call its callbacks, release everything. Later commits raise."""
        ...
