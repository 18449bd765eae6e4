"""Records: what a member says about itself, and its bytes."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.errors import Malformed
from gossip.record import INCARNATION_MAX, RECORD_BYTES, Record, decode_record, encode_record
from tests.gossip_strategies import junk, largest_record, record, records


@settings(deadline=None, max_examples=150)
@given(records)
def test_what_is_encoded_is_decoded(original: Record) -> None:
    """Goal: encoding loses nothing, and every record fits a datagram beside a ping."""
    raw = encode_record(original)
    assert decode_record(raw) == original
    assert len(raw) < 700


def test_the_largest_record_is_the_largest() -> None:
    """Goal: the bound of an encoded record is one no field can break."""
    raw = encode_record(largest_record(1, incarnation=INCARNATION_MAX))
    assert 600 < len(raw) < 700
    assert len(raw) < RECORD_BYTES


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "zz"},
        {"id": "ABCDEF0123456789"},
        {"name": ""},
        {"name": "ü" * 40},
        {"host": "h" * 254},
        {"peer_port": 0},
        {"s3_port": 65536},
        {"api_port": True},
        {"boot": -1},
        {"incarnation": INCARNATION_MAX + 1},
        {"version": ""},
        {"format_level": 1.0},
        {"epoch": (1,)},
        {"epoch": (0, 2**63)},
        {"flags": frozenset("abcdefghi")},
        {"flags": frozenset({"f" * 25})},
    ],
)
def test_a_field_out_of_its_bounds_is_our_own_mistake(wrong: dict[str, object]) -> None:
    """Goal: a record that could not travel cannot be made."""
    with pytest.raises(ValueError):
        record(1, **wrong)


def test_yesterdays_bytes_are_read() -> None:
    """Goal: the encoding of format level 1 stays readable."""
    raw = bytes.fromhex(
        "9dc40800000000000000ffa6706565722d31a831302e302e302e31cd1cea"
        "cd1ce8cd1ce90305a5302e312e3001020791a8647261696e696e67"
    )
    expected = record(
        1, id="00000000000000ff", boot=3, incarnation=5, epoch=(2, 7), flags=frozenset({"draining"})
    )
    expected = Record(**{**_facts(expected), "host": "10.0.0.1"})
    assert decode_record(raw) == expected
    assert encode_record(expected) == raw


def _facts(of: Record) -> dict[str, object]:
    return {name: getattr(of, name) for name in Record.__slots__}


def test_fields_of_later_versions_are_left_alone() -> None:
    """Goal: a member of a newer version is understood."""
    fields = msgpack.unpackb(encode_record(record(4)))
    assert decode_record(msgpack.packb([*fields, {"disks": 3}, "more"])) == record(4)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=80), junk.map(msgpack.packb)))
def test_nonsense_is_malformed(raw: bytes) -> None:
    """Goal: the decoder raises Malformed and nothing else."""
    with pytest.raises(Malformed):
        decode_record(raw)


@settings(deadline=None, max_examples=150)
@given(junk, st.integers(0, 12))
def test_right_shape_wrong_fields_are_malformed_or_right(value: object, place: int) -> None:
    """Goal: whatever stands in one field of a good record, the outcome is a record or Malformed."""
    good = msgpack.unpackb(encode_record(record(4)))
    good[place] = value
    try:
        assert isinstance(decode_record(msgpack.packb(good)), Record)
    except Malformed:
        pass


def test_a_record_beyond_any_bound_is_malformed() -> None:
    """Goal: later versions have room, but not endless room: it must fit a datagram."""
    fields = msgpack.unpackb(encode_record(record(4)))
    with pytest.raises(Malformed):
        decode_record(msgpack.packb([*fields, b"x" * RECORD_BYTES]))
