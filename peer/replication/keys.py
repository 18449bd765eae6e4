"""Row keys: table u8 | partition u16 | bucket id 8 bytes | shard u16 | key, big-endian.

(bucket id, shard) is the placement key, so a shard's gate and all its keys have the same owners and lie
together in that order on every owner. System records (buckets, users) are rows of reserved bucket ids.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import mmh3

from ring.hashing import partition_of

SYSTEM = 1
GATE = 2
OBJECT = 3

PREFIX_BYTES = 13
_PREFIX = struct.Struct(">BH8sH")


@dataclass(frozen=True, slots=True)
class Space:
    """A sharded key space: one table of one bucket."""

    table: int
    bucket: bytes
    shards: int
    partition_power: int

    def shard_of(self, key: bytes) -> int:
        """The shard a key belongs to, the same on every peer for ever."""
        return int(mmh3.hash(key, 0x41746F6C, signed=False)) % self.shards

    def prefix(self, shard: int) -> bytes:
        """The 13 bytes all row keys of a shard begin with."""
        return shard_prefix(self.table, self.bucket, shard, self.partition_power)

    def row_key(self, key: bytes) -> bytes:
        return self.prefix(self.shard_of(key)) + key


def shard_prefix(table: int, bucket: bytes, shard: int, partition_power: int) -> bytes:
    placement = bucket + shard.to_bytes(2, "big")
    return _PREFIX.pack(table, partition_of(placement, partition_power), bucket, shard)


def partition_in(row_key: bytes) -> int:
    return (row_key[1] << 8) | row_key[2]


def gate_key_of(row_key: bytes) -> bytes:
    """The gate that guards a row: same partition, bucket and shard, empty key."""
    return b"\x02" + row_key[1:PREFIX_BYTES]


def prefix_end(prefix: bytes) -> bytes:
    """The least byte string greater than everything that begins with `prefix`; b"" if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b""


TABLES = (SYSTEM, GATE, OBJECT)
"""Of registers, in the order of their keys; a shard's gate comes before its rows."""


def ranges_of(partition: int) -> list[tuple[bytes, bytes]]:
    """The key ranges of a partition's registers, ascending."""
    place, after = partition.to_bytes(2, "big"), (partition + 1).to_bytes(3, "big")
    return [
        (bytes((table,)) + place, bytes((table,)) + after[1:] if after[0] == 0 else bytes((table + 1,)))
        for table in TABLES
    ]
