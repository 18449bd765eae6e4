"""Placement keys to partitions, and members' fields."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring.hashing import check_partition_power, partition_of, partition_start, position_of
from ring.members import MAX_WEIGHT, Member, by_id
from tests.ring_samples import member, members


def test_partition_of_known_keys() -> None:
    """The mapping is fixed for ever: data on disk is found by it, so these values must never change."""
    assert mmh3.mmh3_x64_128_uintdigest(b"foo") == 0x7EAF87E42BBA7D87E271865701F54561
    assert partition_of(b"foo", 12) == 0x7EA
    assert partition_of(b"foo", 8) == 0x7E
    assert partition_of(b"foo", 16) == 0x7EAF
    assert partition_of(b"", 12) == 0
    assert position_of(b"foo") == 0x7EAF87E42BBA7D87


@given(st.binary(max_size=64), st.integers(8, 16))
def test_partition_contains_its_keys(key: bytes, power: int) -> None:
    """A key's position lies between the start of its partition and the start of the next."""
    partition = partition_of(key, power)
    assert 0 <= partition < 1 << power
    assert partition_start(partition, power) <= position_of(key) < partition_start(partition + 1, power)


def test_keys_spread_evenly() -> None:
    """Sequential keys, as clients choose them, fill all partitions alike (within six deviations)."""
    counts = Counter(partition_of(b"bucket/%d" % number, 8) for number in range(25_600))
    assert len(counts) == 256
    assert min(counts.values()) >= 40 and max(counts.values()) <= 160


@pytest.mark.parametrize("power", [7, 17, 0, -1, True, "12", None])
def test_partition_power_is_checked(power: object) -> None:
    """A cluster cannot be founded outside 8 to 16, nor with something that is no number."""
    with pytest.raises(ValueError, match="partition power"):
        check_partition_power(power)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0123456789abcde"),
        ("id", "0123456789ABCDEF"),
        ("id", "0123456789abcdef\n"),
        ("id", 7),
        ("name", "n" * 256),
        ("host", None),
        ("zone", "ü" * 128),
        ("peer_port", 65_536),
        ("s3_port", -1),
        ("api_port", "80"),
        ("weight", 0),
        ("weight", MAX_WEIGHT + 1),
        ("weight", 1.5),
        ("weight", True),
    ],
)
def test_members_are_checked(field: str, value: Any) -> None:
    """A member that could not be encoded or placed is refused where it is made."""
    with pytest.raises(ValueError):
        dataclasses.replace(member(1), **{field: value})


def test_members_sort_by_id_and_are_distinct() -> None:
    """All of the ring computes in the order of ids; two members of one id are refused."""
    cluster = members(5)
    assert by_id(reversed(cluster)) == by_id(cluster)
    ids = [one.id for one in by_id(cluster)]
    assert ids == sorted(ids)
    twin: Member = dataclasses.replace(member(1), name="twin")
    with pytest.raises(ValueError, match="share the id"):
        by_id([*cluster, twin])
