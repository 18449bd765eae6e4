"""Row keys: how a shard, its gate and its keys lie together, and that this never changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.replication.keys import (
    GATE,
    OBJECT,
    PREFIX_BYTES,
    SYSTEM,
    Space,
    gate_key_of,
    partition_in,
    prefix_end,
    shard_prefix,
)
from ring.hashing import partition_of

BUCKETS = st.binary(min_size=8, max_size=8)
KEYS = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))


@given(BUCKETS, st.integers(1, 1024), KEYS, st.integers(8, 16))
@settings(deadline=None, max_examples=100)
def test_a_row_lies_in_its_shards_partition_beside_its_gate(
    bucket: bytes, shards: int, key: bytes, power: int
) -> None:
    """Goal: a key's row, its shard's prefix and its gate name one partition, so they have the same owners."""
    space = Space(OBJECT, bucket, shards, power)
    shard = space.shard_of(key)
    row_key = space.row_key(key)
    assert 0 <= shard < shards
    assert row_key == space.prefix(shard) + key
    assert partition_in(row_key) == partition_of(bucket + shard.to_bytes(2, "big"), power)
    assert gate_key_of(row_key) == shard_prefix(GATE, bucket, shard, power)
    assert partition_in(gate_key_of(row_key)) == partition_in(row_key)


@given(st.binary(max_size=20), st.binary(max_size=20))
@settings(deadline=None, max_examples=300)
def test_a_prefixs_end_is_the_least_key_beyond_it(prefix: bytes, other: bytes) -> None:
    """Goal: exactly the keys from a prefix to its end begin with it."""
    end = prefix_end(prefix)
    inside = prefix <= other and (not end or other < end)
    assert inside == other.startswith(prefix)
    assert not end or prefix < end


def test_prefixes_of_all_ones_have_no_end_or_a_shorter_one() -> None:
    """Goal: 0xff bytes carry over."""
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b""
    assert prefix_end(b"") == b""


def test_keys_order_as_text_within_a_shard_and_shards_lie_apart() -> None:
    """Goal: a scan of one shard meets its keys in byte order and nothing of the next shard."""
    space = Space(OBJECT, b"bucket-1", 3, 8)
    prefix = space.prefix(1)
    rows = sorted(prefix + key for key in (b"b", b"a", b"", b"a/b", b"a\x00"))
    assert [row[PREFIX_BYTES:] for row in rows] == [b"", b"a", b"a\x00", b"a/b", b"b"]
    assert all(prefix <= row < prefix_end(prefix) for row in rows)
    assert not space.prefix(2).startswith(prefix)


def test_placement_never_changes() -> None:
    """Goal: shard and partition of known keys are fixed to the byte: a change would lose every object."""
    space = Space(OBJECT, b"bucket-1", 64, 12)
    assert [space.shard_of(key) for key in (b"", b"a", b"photos/2026/a.jpg", "häuser".encode())] == [
        20,
        21,
        58,
        9,
    ]
    assert space.row_key(b"a") == bytes.fromhex("030ea76275636b65742d31001561")
    assert Space(SYSTEM, b"\0" * 7 + b"\1", 16, 12).row_key(b"photos") == bytes.fromhex(
        "0103f70000000000000001000e70686f746f73"
    )
