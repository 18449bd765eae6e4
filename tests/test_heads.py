"""Records of objects and buckets: they round-trip, and yesterday's bytes are still read."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Corrupt
from peer.objects.heads import ACTIVE, CHUNKS, DELETING, INLINE, MANIFEST, Bucket, Head, bucket_names

INT = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=30)
HEADS = st.builds(
    Head, INT, TEXT, INT, TEXT, st.none() | st.dictionaries(TEXT, TEXT, max_size=3), st.binary(max_size=20),
    st.sampled_from([INLINE, CHUNKS, MANIFEST]), st.binary(max_size=96),
)  # fmt: skip
BUCKETS = st.builds(
    Bucket, st.binary(min_size=8, max_size=8), TEXT, INT, st.integers(1, 1024), INT,
    st.sampled_from([ACTIVE, DELETING]), INT,
)  # fmt: skip

# What version 1 has written since the first release. These bytes lie on disks: never change them.
INLINE_HEAD = bytes.fromhex(
    "990105d92230313233343536373839616263646566303132333435363738396162636465662d31cf00060a2418202240aa746578742f706c"
    "61696e81a6636f6c6f7572a4626c7565c414000102030405060708090a0b0c0d0e0f1011121300c400"
)
CHUNKED_HEAD = bytes.fromhex(
    "9901ce00895440d92266656463626139383736353433323130666564636261393837363534333231302d33cf00060a24181e4000b8617070"
    "6c69636174696f6e2f6f637465742d73747265616dc0c414000000000000000000000000000000000000000001c460"
) + bytes(range(96))
DELETING_BUCKET = bytes.fromhex(
    "9801c4088000000000000000a670686f746f73cf00060a2418202240400302cf00060a24182d823f"
)


def test_yesterdays_heads() -> None:
    """Goal: heads as version 1 wrote them are read field by field, and written the same today."""
    inline = Head.decode(INLINE_HEAD)
    assert inline == Head(
        5, "0123456789abcdef0123456789abcdef-1", 1_700_000_000_123_456, "text/plain", {"colour": "blue"},
        bytes(range(20)), INLINE, b"",
    )  # fmt: skip
    chunked = Head.decode(CHUNKED_HEAD)
    assert chunked == Head(
        9_000_000, "fedcba9876543210fedcba9876543210-3", 1_700_000_000_000_000, "application/octet-stream", None,
        bytes(20), CHUNKS, bytes(range(96)),
    )  # fmt: skip
    assert (inline.encode(), chunked.encode()) == (INLINE_HEAD, CHUNKED_HEAD)


def test_yesterdays_buckets() -> None:
    """Goal: a bucket's record as version 1 wrote it is read field by field, and written the same today."""
    bucket = Bucket.decode(DELETING_BUCKET)
    assert bucket == Bucket(
        b"\x80" + bytes(7), "photos", 1_700_000_000_123_456, 64, 3, DELETING, 1_700_000_000_999_999
    )
    assert bucket.encode() == DELETING_BUCKET


@settings(max_examples=100, deadline=None)
@given(HEADS, BUCKETS)
def test_round_trip(head: Head, bucket: Bucket) -> None:
    """Goal: decode undoes encode."""
    assert Head.decode(head.encode()) == head
    assert Bucket.decode(bucket.encode()) == bucket


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_other_bytes_are_corrupt(data: bytes) -> None:
    """Goal: bytes that are no record raise Corrupt and nothing else."""
    for kind in (Head, Bucket):
        with pytest.raises(Corrupt):
            kind.decode(data)


def test_unknown_versions_are_refused() -> None:
    """Goal: a record of a later version is not misread; the message says to upgrade."""
    fields = msgpack.unpackb(INLINE_HEAD)
    for changed in ([2, *fields[1:]], [*fields, 0], fields[:-1]):
        with pytest.raises(Corrupt, match="upgrade"):
            Head.decode(msgpack.packb(changed))


def test_where_records_lie() -> None:
    """Goal: row keys of buckets and objects never move: a cluster's data would be lost to it."""
    assert bucket_names(12).row_key(b"photos").hex() == "0103f70000000000000001000e70686f746f73"
    space = Bucket.decode(DELETING_BUCKET).objects(12)
    assert space.row_key(b"a/b").hex() == "030f4880000000000000000038612f62"
    assert {space.shard_of(b"%d" % i) for i in range(2000)} == set(range(64))
