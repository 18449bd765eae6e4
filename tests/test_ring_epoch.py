"""The epoch: its checks, its voters, and an encoding that still reads yesterday's bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.epoch import VOTERS, Epoch, choose_voters
from ring.members import Member
from ring.placement import place
from ring.table import Table
from tests.ring_samples import POWER, clusters, member, members

PEERS = (
    Member("00112233445566aa", "peer-1", "10.0.0.1", 7402, 7400, 7401, "rack-a", 500 * 10**9),
    Member("ffeeddccbbaa9988", "peer-2", "peer2.example", 7412, 7410, 7411, "rack-b", 1 << 40),
)
BOTH = Table((PEERS[0].id, PEERS[1].id), 8, 3, ((0, 1), (1, 0)) * 128)
FIRST_ALONE = Table((PEERS[0].id,), 8, 3, ((0,),) * 256)

# Epochs of encoding 1 as they lie on disks.
HEAD = (
    "c4100123456789abcdef0123456789abcdef"
    "9298c40800112233445566aaa6706565722d31a831302e302e302e31cd1ceacd1ce8cd1ce9a67261636b2d61cf000000746a528800"
    "98c408ffeeddccbbaa9988a6706565722d32ad70656572322e6578616d706c65cd1cf4cd1cf2cd1cf3a67261636b2d62"
    "cf00000100000000000308"
    "01ce00400000c504150108030002" + PEERS[0].id + PEERS[1].id + "0000000100010000" * 128
)
KEYS = "a941544f4c4c524f4f54a6736563726574"
YESTERDAY = {
    "final": bytes.fromhex("9e010107c2" + HEAD + "c0" + KEYS),
    "joint": bytes.fromhex("9e010107c3" + HEAD + "c5020d0108030001" + PEERS[0].id + "0000" * 256 + KEYS),
}


def epoch(**changes: Any) -> Epoch:
    """The final epoch of `YESTERDAY`, with some fields changed."""
    fields: dict[str, Any] = {
        "generation": 1,
        "number": 7,
        "kind": "final",
        "cluster_id": "0123456789abcdef" * 2,
        "members": PEERS,
        "replicas": 3,
        "partition_power": 8,
        "format_level": 1,
        "chunk_bytes": 4 << 20,
        "table": BOTH,
        "previous": None,
        "root_access_key": "ATOLLROOT",
        "root_secret_key": "secret",
    }
    return Epoch(**(fields | changes))


def test_yesterdays_bytes() -> None:
    """Encoding 1 is read and written as it was on the first day, final and joint."""
    joint = epoch(kind="joint", previous=FIRST_ALONE)
    assert Epoch.decode(YESTERDAY["final"]) == epoch()
    assert Epoch.decode(YESTERDAY["joint"]) == joint
    assert epoch().encode() == YESTERDAY["final"] and joint.encode() == YESTERDAY["joint"]


@settings(deadline=None, max_examples=40)
@given(clusters(least=2), st.integers(1, 4), st.integers(0, 9), st.integers(0, 1 << 40), st.text(max_size=40))
def test_encoding_round_trip(
    cluster: list[Member], replicas: int, generation: int, number: int, secret: str
) -> None:
    """What is decoded equals what was encoded, for any cluster in the middle of any change."""
    old = place(None, cluster[1:], replicas, POWER)
    one = epoch(
        kind="joint",
        generation=generation,
        number=number,
        members=tuple(cluster),
        replicas=replicas,
        table=place(old, cluster, replicas, POWER),
        previous=old,
        root_secret_key=secret,
    )
    again = Epoch.decode(one.encode())
    assert again == one and again.encode() == one.encode()


def test_order_and_members() -> None:
    """A generation outranks every number; members are sorted, found by id; secrets stay out of the repr."""
    assert epoch(generation=2, number=1).order > epoch(number=9).order > epoch().order == (1, 7)
    assert epoch(members=PEERS[::-1]) == epoch()
    assert epoch().member(PEERS[1].id) == PEERS[1]
    assert epoch().member("0" * 16) is None
    assert "secret" not in repr(epoch()).replace("root_secret_key", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": -1}, "generation"),
        ({"number": True}, "number"),
        ({"number": 1 << 63}, "number"),
        ({"format_level": None}, "format_level"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
        ({"cluster_id": "x" * 32}, "cluster id"),
        ({"cluster_id": "0" * 31}, "cluster id"),
        ({"kind": "half"}, "final or joint"),
        ({"kind": "joint"}, "previous table"),
        ({"previous": FIRST_ALONE}, "previous table"),
        ({"replicas": 2}, "replicas"),
        ({"replicas": 0}, "replicas"),
        ({"partition_power": 9}, "partition power"),
        ({"kind": "joint", "previous": Table((PEERS[0].id,), 9, 3, ((0,),) * 512)}, "partition power"),
        ({"members": PEERS[:1]}, "lacks"),
        ({"members": (*PEERS, PEERS[0])}, "share the id"),
        ({"root_access_key": b"bytes"}, "root key"),
        ({"root_secret_key": "s" * 1025}, "root key"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    """An epoch whose parts contradict each other cannot be made, and so never be proposed or persisted."""
    with pytest.raises(ValueError, match=message):
        epoch(**changes)


def test_previous_owners_may_be_gone() -> None:
    """A joint epoch that removes a dead member no longer lists it, though the old table names it."""
    alone = epoch(kind="joint", members=PEERS[:1], table=FIRST_ALONE, previous=BOTH)
    assert Epoch.decode(alone.encode()) == alone


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda tail: b"\x9e\x01" + tail)))
def test_any_bytes_raise_value_error(data: bytes) -> None:
    """No input makes the decoder raise anything but ValueError."""
    with pytest.raises(ValueError):
        Epoch.decode(data)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(YESTERDAY)), st.data())
def test_damaged_bytes_decode_or_raise_value_error(kind: str, data: st.DataObject) -> None:
    """Flipped, cut or extended bytes give a valid epoch or a ValueError, nothing else."""
    damaged = bytearray(YESTERDAY[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1) | st.integers(0, 250))] = data.draw(
            st.integers(0, 255)
        )
    del damaged[len(damaged) - data.draw(st.integers(0, 3)) :]
    try:
        one = Epoch.decode(bytes(damaged))
    except ValueError:
        return
    assert Epoch.decode(one.encode()) == one


ODDITIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(YESTERDAY)), st.integers(0, 14), st.integers(-1, 8), ODDITIES)
def test_odd_fields_decode_or_raise_value_error(kind: str, field: int, inner: int, odd: Any) -> None:
    """Well-formed msgpack with a field of any other type or value is no different."""
    fields = msgpack.unpackb(YESTERDAY[kind])
    if field == 5 and 0 <= inner < 8:
        fields[5][1][inner] = odd
    else:
        fields[field:] = [odd, *fields[field + 1 :]]
    try:
        one = Epoch.decode(msgpack.packb(fields))
    except ValueError:
        return
    assert Epoch.decode(one.encode()) == one


def test_a_newer_encoding_is_named() -> None:
    """An epoch of newer software is refused with the version it has and the one that is read here."""
    with pytest.raises(ValueError, match="epoch encoding 2 is not known here; this software reads 1"):
        Epoch.decode(b"\x9e\x02" + YESTERDAY["final"][2:])
    with pytest.raises(ValueError, match="distinct and ascending"):
        fields = msgpack.unpackb(YESTERDAY["final"])
        fields[5].reverse()
        Epoch.decode(msgpack.packb(fields))


@settings(deadline=None, max_examples=150)
@given(clusters(most=20), st.data())
def test_voters(cluster: list[Member], data: st.DataObject) -> None:
    """All up to five; above that five spread over zones, chosen by ids and zones alone, and stable."""
    voters = choose_voters(cluster)
    assert voters == choose_voters(cluster[::-1]) == tuple(sorted(set(voters)))
    assert len(voters) == min(len(cluster), VOTERS)
    zone_of = {one.id: one.zone for one in cluster}
    sizes, votes = Counter(zone_of.values()), Counter(zone_of[one] for one in voters)
    for zone in sizes:
        fullest = max(votes.values())
        assert votes[zone] >= min(fullest - 1, sizes[zone]), "no zone has two more votes than one with room"
    relabelled = [dataclasses.replace(one, name="x", host="y", weight=1) for one in cluster]
    assert choose_voters(relabelled) == voters
    if len(cluster) > 1:
        left = data.draw(st.sampled_from(cluster))
        others = choose_voters([one for one in cluster if one is not left])
        assert len(set(voters) - {left.id} - set(others)) <= 1, "a leave replaces at most one other voter"


def test_voters_of_a_small_and_a_large_ring() -> None:
    """Five of five; and of nine in three zones two, two and one: any zone may fail."""
    assert epoch().voters() == (PEERS[0].id, PEERS[1].id)
    cluster = members(9, zones=3)
    zone_of = {one.id: one.zone for one in cluster}
    assert sorted(Counter(zone_of[one] for one in choose_voters(cluster)).values()) == [1, 2, 2]
    assert len(choose_voters([*members(4), member(77)])) == 5
