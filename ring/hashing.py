"""Where a placement key lies: MurmurHash3 and the partitions it is cut into (architecture.md §3)."""

from __future__ import annotations

import mmh3

MIN_PARTITION_POWER = 8
MAX_PARTITION_POWER = 16
DEFAULT_PARTITION_POWER = 12

POSITION_BITS = 64
"""The circle has 2**64 positions: the top half of the hash is far finer than any partition."""


def partition_of(placement_key: bytes, partition_power: int) -> int:
    """The partition of a key: the top `partition_power` bits of its 128-bit MurmurHash3 (x64, seed 0)."""
    return int(mmh3.mmh3_x64_128_uintdigest(placement_key)) >> (128 - partition_power)


def position_of(token: bytes) -> int:
    """The position of a token on the circle: the top 64 bits of its 128-bit MurmurHash3."""
    return int(mmh3.mmh3_x64_128_uintdigest(token)) >> (128 - POSITION_BITS)


def partition_start(partition: int, partition_power: int) -> int:
    """The first position of a partition on the circle."""
    return partition << (POSITION_BITS - partition_power)


def check_partition_power(partition_power: object) -> None:
    """Raise ValueError unless `partition_power` is an integer a cluster can be founded with."""
    if type(partition_power) is not int or not MIN_PARTITION_POWER <= partition_power <= MAX_PARTITION_POWER:
        raise ValueError(
            f"a partition power is {MIN_PARTITION_POWER} to {MAX_PARTITION_POWER}, not {partition_power!r}"
        )
