"""What a peer's rows say of chunks and of references to them, commits under way included; `holder` changes them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

from peer.errors import AtollError, Corrupt
from peer.replication.env import RowStore
from peer.storage.records import Extent

from .rows import LIVE, NAME_END, chunk_key, decode_chunk_row, decode_reference

_LAST = b"\xff" * 32
"""After every attempt."""
_COUNTS = ("stored", "referenced", "quarantined", "duplicates", "lost", "dropped", "removed", "removed_bytes")


class Held:
    """The chunks and references that lie on one peer. Chunks are asked for by name, or by key: partition and name."""

    def __init__(
        self, rows: RowStore, power: Callable[[], int], unsafe: frozenset[str] = frozenset()
    ) -> None:
        self._rows = rows
        self._power = power
        self._naming: dict[bytes, list[Callable[[], None]]] = {}
        """Chunks whose row is being committed, and who waits for that."""
        self._referring: set[bytes] = set()
        """Reference rows whose first commit is queued."""
        self._pending: Counter[bytes] = Counter()
        """Chunk key -> commits queued that add references to it."""
        self.on_change: Callable[[bytes], None] = lambda key: None
        """Told when references of a chunk (its key) gain or lose their bytes, or go."""
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._unchecked = "remove_unchecked" in unsafe

    def find(self, name: bytes) -> Extent | None:
        """Where a live chunk lies, by its durable row."""
        state, extent = self._row(name)
        return extent if state == LIVE else None

    def key_of(self, name: bytes) -> bytes:
        return chunk_key(name, self._power())

    def _row(self, name: bytes) -> tuple[int, Extent | None]:
        """(state, extent); (0, None) without a row, or with one that is damaged."""
        key = chunk_key(name, self._power())
        row = self._rows.get("chunks", key)
        if row is not None:
            with contextlib.suppress(Corrupt):
                return decode_chunk_row(key, row)
        return 0, None

    def references(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bool]]:
        """(key of a reference row, whether it counts): not one whose commit was not told of yet, that is damaged, or
        without bytes here."""
        live: dict[bytes, bool] = {}
        found = []
        for key, row in self._rows.scan("refs", start, end, limit):
            name = key[2:NAME_END]
            if name not in live:
                live = {name: self.find(name) is not None}
            counts = live[name] and key not in self._referring and _back(key, row) is not None
            found.append((key, counts))
        return found

    def back_of(self, key: bytes) -> bytes | None:
        """Where a reference points back to; None if there is no such row, or a damaged one."""
        row = self._rows.get("refs", key)
        return None if row is None else _back(key, row)

    def references_of(self, chunk: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        """(attempt, back pointer or None where the row is damaged) of the durable references to a chunk, given its key."""
        rows = self._rows.scan("refs", chunk, chunk + _LAST, limit)
        return [(key[NAME_END:], _back(key, row)) for key, row in rows]

    def spares(self, chunk: bytes, attempts: Sequence[bytes]) -> bool:
        """Whether another copy of a chunk, given its key, with these references is not needed here: bytes and references
        are, or neither it nor this peer knows of any reference."""
        if not attempts and not self.referenced(chunk):
            return True
        return self.find(chunk[2:]) is not None and all(self.back_of(chunk + a) is not None for a in attempts)

    def referenced(self, chunk: bytes) -> bool:
        """Whether anything stands for keeping a chunk, given its key: a reference, one under way, bytes being named."""
        if self._unchecked:
            return False
        return (
            chunk in self._pending
            or chunk[2:] in self._naming
            or bool(self._rows.scan("refs", chunk, chunk + _LAST, 1))
        )

    def drop(self, keys: Sequence[bytes], done: Callable[[AtollError | None], None]) -> None:
        """Delete reference rows, given their keys; `done` when that is durable. Bytes stay where they are."""
        there = [key for key in keys if self._rows.get("refs", key) is not None]
        if not there:
            return done(None)

        def committed(error: AtollError | None) -> None:
            if error is None:
                self.counts["dropped"] += len(there)
                for key in there:
                    self.on_change(key[:NAME_END])
            done(error)

        return self._rows.commit([("refs", key, None) for key in there], committed)


def _back(key: bytes, row: bytes) -> bytes | None:
    with contextlib.suppress(Corrupt):
        return decode_reference(key, row)
    return None
