"""Purge floors: below them a partition's owners keep no tombstones (architecture §6, Deletion).

A tombstone may go once no older value of its key can come back. For a partition, with a ballot F:

F1  An owner that **promises** F for the partition, durably, accepts and promises nothing at or below F for any of its keys
    any more. Copies of what was accepted before are still taken over.
F2  When every owner of every live set has promised F, and all hold the same rows after that, each holds every tombstone at
    or below F, or something newer: what one owner had accepted by then, all have.
F3  Then F may become the partition's **floor**: an owner removes its tombstones at or below F in the commit that keeps the
    floor. From now on it takes no copy at or below F of a row it does not hold: that was deleted. "No row" and "a
    tombstone at or below F" mean the same to everybody, so owners may do so one after the other.
F4  A tombstone remembers the operations before it, its purge forgets them. So promises tell the floor, and a coordinator
    whose accept may be older than that cannot know its outcome any more (R3).

F5  A new owner takes both over, from a majority of the old owners, in the commit that says that it has merged the rows of
    the partition. Otherwise what the old ones promised to shut out could be accepted, or copied, by the new ones alone.
    What it knows of former times it forgets with its rows of then.

All of it is kept in one row a partition: promised ballot, floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgpack

from peer.errors import AtollError
from peer.replication import meta
from peer.replication.ballot import NONE
from peer.replication.env import RowStore, Write

_PREFIX = b"floors/"


class Floors:
    """What one owner promised and purged, by partition; bounded by their number."""

    def __init__(self, rows: RowStore, unsafe: frozenset[str] = frozenset()) -> None:
        self._rows = rows
        self._forgetful = "purge_floor_off" in unsafe
        self._known: dict[int, tuple[bytes, bytes]] = {}
        for value in meta.scan(rows, _PREFIX, 1 << 16):
            partition, promised, floor = msgpack.unpackb(value)
            self._known[partition] = promised, floor

    @property
    def any(self) -> bool:
        """Whether anything was promised or purged."""
        return bool(self._known)

    def promised(self, key: bytes) -> bytes:
        """Nothing at or below this ballot is accepted or promised for the row (F1)."""
        return self._known.get((key[1] << 8) | key[2], _NOTHING)[0] if self._known else NONE

    def floor(self, key: bytes) -> bytes:
        """Tombstones of the row's partition at or below this ballot are gone (F3)."""
        if self._forgetful or not self._known:
            return NONE
        return self._known.get((key[1] << 8) | key[2], _NOTHING)[1]

    def floor_of(self, partition: int) -> bytes:
        return self._known.get(partition, _NOTHING)[1]

    def promise(
        self, partitions: Iterable[int], ballot: bytes, done: Callable[[AtollError | None], None]
    ) -> None:
        """Promise this ballot for these partitions, from now on; `done` when it is durable."""
        writes = []
        for partition in partitions:
            promised, floor = self._known.get(partition, _NOTHING)
            if ballot > promised:
                self._known[partition] = ballot, floor
            writes.append(self._write(partition))
        self._rows.commit(writes, done)

    def raising(self, partition: int, ballot: bytes) -> Write:
        """What the commit writes that makes this ballot the floor; it counts from now on. Should that fail, only the
        removal of tombstones is left to do."""
        promised, floor = self._known.get(partition, _NOTHING)
        self._known[partition] = max(promised, ballot), max(floor, ballot)
        return self._write(partition)

    def known(self, partition: int) -> tuple[bytes, bytes]:
        """Promised ballot and floor."""
        return self._known.get(partition, _NOTHING)

    def taking_over(self, partition: int, promised: bytes, floor: bytes) -> list[Write]:
        """What the commit writes that raises both to these; they count from now on (F5)."""
        mine = self.known(partition)
        if promised <= mine[0] and floor <= mine[1]:
            return []
        self._known[partition] = max(mine[0], promised), max(mine[1], floor)
        return [self._write(partition)]

    def forgetting(self, partitions: Iterable[int]) -> list[Write]:
        """What the commit writes that forgets them (F5)."""
        known = [partition for partition in partitions if self._known.pop(partition, None) is not None]
        return [meta.remove(_PREFIX + partition.to_bytes(2, "big")) for partition in known]

    def _write(self, partition: int) -> Write:
        promised, floor = self._known[partition]
        value = msgpack.packb([partition, promised, floor])
        return meta.write(_PREFIX + partition.to_bytes(2, "big"), bytes(value))


_NOTHING = (NONE, NONE)
