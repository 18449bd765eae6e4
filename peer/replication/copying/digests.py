"""Digests of what an owner holds, so that two owners find their few differences without listing everything (§8).

A partition's digest is 16 leaves. A leaf is the XOR of one 64-bit hash for each row in it, of the row's key and its
version (a register's accepted ballot). XOR takes a row's old hash out as easily as it puts the new one in, in any order.

Digests live in memory. They are built from the rows, a partition at a time, when first asked for, and then follow each
commit: a row of their own per leaf in every commit would cost a put a tenth of its CPU.

D1  A digest that `ready` tells of is that of the committed rows: what commits while it is built is counted once.
D2  While a partition is scanned, commits behind the cursor are folded in; those ahead are found by the scan. A row
    whose commit is pending counts as before it (`base`), for its fold is still to come.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Callable, Iterator

from blake3 import blake3

LEAVES = 16
SLICE_ROWS = 500

Scan = Callable[[bytes, bytes, int], list[tuple[bytes, bytes | None]]]
"""(from key, to key, limit) -> [(key, version as committed before any pending commit, None: no such row)]."""


def leaf_of(key: bytes) -> int:
    """Which leaf a row belongs to, the same on every peer."""
    return zlib.crc32(key) & (LEAVES - 1)


def entry_of(key: bytes, version: bytes) -> int:
    """A row's share of its leaf."""
    return int.from_bytes(blake3(key + version).digest(8), "big")


class _Partition:
    __slots__ = ("cursor", "leaves", "root", "rows")

    def __init__(self, cursor: bytes | None) -> None:
        self.leaves = array("Q", bytes(8 * LEAVES))
        self.root = b""  # of these leaves, once somebody has asked; b"": not since they changed
        self.cursor = cursor  # where the scan goes on; None: it has ended
        self.rows = 0  # of those that count


class Digests:
    """The digests of one kind of rows.

    `ranges(partition)` are its key ranges, ascending; `partition_of(key)` is the inverse. `counts(key)` says which rows are
    counted in `rows`.
    """

    def __init__(
        self,
        scan: Scan,
        ranges: Callable[[int], list[tuple[bytes, bytes]]],
        partition_of: Callable[[bytes], int],
        counts: Callable[[bytes], bool] = lambda key: True,
    ) -> None:
        self._scan = scan
        self._ranges = ranges
        self._partition_of = partition_of
        self._counts = counts
        self._known: dict[int, _Partition] = {}
        self.rows = 0
        """Rows that count, in the partitions whose digest is known, or built so far."""
        self.built = 0

    def fold(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        """A commit has replaced version `old` by `new`; None: no row. Cheap where no digest was asked for."""
        known = self._known.get(self._partition_of(key))
        if known is None or (known.cursor is not None and key >= known.cursor):
            return
        leaf = leaf_of(key)
        known.root = b""
        if old is not None:
            known.leaves[leaf] ^= entry_of(key, old)
        if new is not None:
            known.leaves[leaf] ^= entry_of(key, new)
        if (old is None) is not (new is None) and self._counts(key):
            self._count(known, 1 if old is None else -1)

    def _count(self, known: _Partition, by: int) -> None:
        known.rows += by
        self.rows += by

    @property
    def known(self) -> int:
        """How many partitions have a digest, or one that is being built."""
        return len(self._known)

    def ready(self, partition: int) -> bool:
        known = self._known.get(partition)
        return known is not None and known.cursor is None

    def leaves(self, partition: int) -> bytes:
        """The 16 leaves, big-endian. The digest must be ready."""
        known = self._known[partition]
        assert known.cursor is None, "D1: the digest is being built"
        leaves = known.leaves[:]
        if sys.byteorder == "little":
            leaves.byteswap()
        return leaves.tobytes()

    def root(self, partition: int) -> bytes:
        """One number for the whole partition, 8 bytes: equal for equal leaves."""
        known = self._known[partition]
        if not known.root:
            known.root = blake3(self.leaves(partition)).digest(8)
        return known.root

    def drop(self, partition: int) -> None:
        """Forget a digest: the partition is not owned any more, or its rows changed behind our back."""
        known = self._known.pop(partition, None)
        if known is not None:
            self.rows -= known.rows

    def build(self, partition: int) -> Iterator[None]:
        """Build a digest in slices of some hundred rows; let others run between two of them. Idempotent.

        A build that is already under way is joined: its slices are done by whoever comes first.
        """
        if partition not in self._known:
            first = self._ranges(partition)[0][0]
            self._known[partition] = _Partition(first)
        while (known := self._known.get(partition)) is not None and known.cursor is not None:
            self._slice(partition, known)
            yield

    def _slice(self, partition: int, known: _Partition) -> None:
        assert known.cursor is not None
        left = SLICE_ROWS
        for start, end in self._ranges(partition):
            if known.cursor >= end:
                continue
            rows = self._scan(max(known.cursor, start), end, left)
            for key, version in rows:
                if version is not None:
                    known.leaves[leaf_of(key)] ^= entry_of(key, version)
                    if self._counts(key):
                        self._count(known, 1)
            if len(rows) >= left:
                known.cursor = rows[-1][0] + b"\0"
                return
            left -= len(rows)
            known.cursor = end
        known.cursor = None
        self.built += 1
