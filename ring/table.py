"""The table: partition -> owners, immutable, about 24 KiB encoded at 4,096 partitions of three.

Layout of `Table.encode()`, big-endian (a peer's rows and its wire frames carry the checksums):

    version u8 = 1 | partition power u8 | replicas u8 | member count u16
    member ids, 8 bytes each, ascending
    for each partition: min(replicas, member count) member indexes, u16 each, in preference order
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from ring.hashing import check_partition_power
from ring.members import MAX_MEMBERS, check_member_id

MAX_REPLICAS = 16

_VERSION = 1
_HEADER = struct.Struct(">BBBH")
_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Table:
    """Who owns which partition. Every partition has min(replicas, members) distinct owners.

    `rows[partition]` lists indexes into `member_ids` in preference order. Raises ValueError if the
    parts contradict each other, so every Table that exists is a valid one.
    """

    member_ids: tuple[str, ...]
    partition_power: int
    replicas: int
    rows: tuple[tuple[int, ...], ...] = field(repr=False)
    _owners: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)
    _counts: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_header(self.member_ids, self.partition_power, self.replicas)
        _check_rows(self.rows, 1 << self.partition_power, len(self.member_ids), self.width)
        ids = self.member_ids
        counts = [0] * len(ids)
        seen: dict[tuple[int, ...], tuple[str, ...]] = {}  # equal rows share one tuple of ids
        owners = []
        for row in self.rows:
            named = seen.get(row)
            if named is None:
                named = seen[row] = tuple(ids[index] for index in row)
            owners.append(named)
            for index in row:
                counts[index] += 1
        object.__setattr__(self, "_owners", tuple(owners))
        object.__setattr__(self, "_counts", dict(zip(ids, counts, strict=True)))

    @property
    def partitions(self) -> int:
        """How many partitions there are: 2**partition_power."""
        return 1 << self.partition_power

    @property
    def width(self) -> int:
        """How many owners every partition has: `replicas`, or all members when there are fewer."""
        return min(self.replicas, len(self.member_ids))

    def owners(self, partition: int) -> tuple[str, ...]:
        """The owners of a partition in preference order. Raises IndexError if there is no such partition."""
        if partition < 0:
            raise IndexError(partition)
        return self._owners[partition]

    @property
    def all_owners(self) -> tuple[tuple[str, ...], ...]:
        """The owners of every partition, by its number."""
        return self._owners

    def partitions_of(self, member_id: str) -> int:
        """How many partitions a member holds a replica of; 0 for one the table does not know."""
        return self._counts.get(member_id, 0)

    def encode(self) -> bytes:
        """The table as bytes; equal tables give equal bytes."""
        flat = array("H", (index for row in self.rows for index in row))
        if sys.byteorder == "little":
            flat.byteswap()
        head = _HEADER.pack(_VERSION, self.partition_power, self.replicas, len(self.member_ids))
        return b"".join((head, *map(bytes.fromhex, self.member_ids), flat.tobytes()))

    @staticmethod
    def decode(data: bytes) -> Table:
        """The table that `data` encodes. Raises ValueError, saying what is wrong, for anything else."""
        if len(data) < _HEADER.size:
            raise ValueError(f"a table of {len(data)} bytes is cut short")
        version, power, replicas, count = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"table version {version} is not known here; this software reads {_VERSION}")
        check_partition_power(power)
        width = min(replicas, count)
        ids_end = _HEADER.size + count * _ID_BYTES
        expected = ids_end + (width << power) * 2
        if len(data) != expected:
            raise ValueError(
                f"a table of {count} members and power {power} has {expected} bytes, not {len(data)}"
            )
        ids = bytes(data[_HEADER.size : ids_end]).hex()
        flat = array("H", bytes(data[ids_end:]))
        if sys.byteorder == "little":
            flat.byteswap()
        columns = iter(flat.tolist())
        return Table(
            member_ids=tuple(ids[at : at + 16] for at in range(0, len(ids), 16)),
            partition_power=power,
            replicas=replicas,
            rows=tuple(zip(*(columns,) * width, strict=True)),
        )


def _check_header(member_ids: tuple[str, ...], partition_power: int, replicas: int) -> None:
    check_partition_power(partition_power)
    check_replicas(replicas)
    if not 1 <= len(member_ids) <= MAX_MEMBERS:
        raise ValueError(f"a table has from 1 to {MAX_MEMBERS} members, not {len(member_ids)}")
    for member_id in member_ids:
        check_member_id(member_id)
    if any(one >= other for one, other in pairwise(member_ids)):
        raise ValueError("the member ids of a table must be distinct and ascending")


def _check_rows(rows: tuple[tuple[int, ...], ...], partitions: int, members: int, width: int) -> None:
    if len(rows) != partitions:
        raise ValueError(f"a table of {partitions} partitions cannot have {len(rows)} rows")
    for partition, row in enumerate(rows):
        if len(row) != width or len(set(row)) != width or min(row) < 0 or max(row) >= members:
            raise ValueError(f"partition {partition} must have {width} distinct owners, not {row!r}")


def check_replicas(replicas: object) -> None:
    """Raise ValueError unless `replicas` is an integer a cluster can have."""
    if type(replicas) is not int or not 1 <= replicas <= MAX_REPLICAS:
        raise ValueError(f"replicas must be from 1 to {MAX_REPLICAS}, not {replicas!r}")


@dataclass(frozen=True, slots=True)
class Move:
    """A replica that `target` must fetch. `source` gave its place up, or is None: a replica was missing."""

    partition: int
    source: str | None
    target: str


def moves(old: Table, new: Table) -> Iterator[Move]:
    """What has to be copied to get from `old` to `new`, by partition; orders of preference do not count.

    Additions come with no source: filling a missing replica takes nothing from anyone and is not a
    movement. A replica that is only dropped is no move either. Raises ValueError if the two cut the
    key space differently.
    """
    if old.partition_power != new.partition_power:
        raise ValueError("two tables of different partition powers have no partition in common")
    for partition in range(new.partitions):
        before, after = old.owners(partition), new.owners(partition)
        if before == after:
            continue
        lost = sorted(set(before).difference(after))
        gained = sorted(set(after).difference(before))
        for at, target in enumerate(gained):
            yield Move(partition, lost[at] if at < len(lost) else None, target)


def moved(old: Table, new: Table) -> int:
    """How many replicas moved: `moves` without the additions."""
    return sum(1 for move in moves(old, new) if move.source is not None)
