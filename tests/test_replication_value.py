"""Values and stored rows: histories of operation ids, tombstones, checksums, and yesterday's bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import Corrupt
from peer.replication.value import (
    BALLOT_SLICE,
    NEVER_WRITTEN,
    NOTHING,
    OP_IDS_KEPT,
    Accepted,
    decode_row,
    encode_row,
    names_operation,
    newest_operation,
    payload_of,
    wrap,
)
from tests.replication_world import ballot_at

PAYLOADS = st.none() | st.binary(max_size=60)
OP_IDS = st.binary(min_size=8, max_size=8)
BALLOTS = st.binary(min_size=20, max_size=20)


@given(st.lists(st.tuples(PAYLOADS, OP_IDS), min_size=1, max_size=40))
@settings(deadline=None, max_examples=100)
def test_a_value_remembers_its_last_sixteen_operations(changes: list[tuple[bytes | None, bytes]]) -> None:
    """Goal: payload and the newest 16 ids come back; whether an older one is part of history stays open."""
    value = b""
    for payload, op_id in changes:
        value = wrap(payload, value, op_id)
        assert payload_of(value) == payload
    history = [op_id for _, op_id in changes]
    for op_id in history[-OP_IDS_KEPT:]:
        assert names_operation(value, op_id) is True
    unheard = b"unheard!"
    if unheard not in history:
        assert names_operation(value, unheard) is (False if len(history) < OP_IDS_KEPT else None)
        assert names_operation(value, unheard, since=history[-1]) is False
        assert names_operation(value, unheard, since=b"forgotten") in (False, None)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_exactly_sixteen_operations_are_remembered(count: int) -> None:
    """Goal: the 16 newest ids are in the value, the one before them is not."""
    ids = [b"op %05d" % number for number in range(count)]
    value = b""
    for op_id in ids:
        value = wrap(b"payload", value, op_id)
    remembered = [op_id for op_id in ids if names_operation(value, op_id)]
    assert remembered == ids[-16:]
    assert newest_operation(value) == ids[-1]
    assert len(value) == 1 + 8 * len(remembered) + len(b"payload")


def test_nothing_and_never_written_are_absence_without_history() -> None:
    """Goal: what was never written has no payload and names no operation, for certain."""
    for value in (b"", NEVER_WRITTEN):
        assert payload_of(value) is None
        assert names_operation(value, b"whatever") is False
        assert newest_operation(value) == b""
        assert payload_of(wrap(b"new", value, b"op-id-01")) == b"new"
    assert decode_row(b"key", None) == NOTHING


def test_an_empty_payload_is_not_a_tombstone() -> None:
    """Goal: a value of no bytes exists; a tombstone does not, and both keep their history."""
    empty = wrap(b"", b"", b"op-id-01")
    gone = wrap(None, empty, b"op-id-02")
    assert payload_of(empty) == b""
    assert payload_of(gone) is None
    assert names_operation(gone, b"op-id-01") is True


@given(st.binary(max_size=40), BALLOTS, st.integers(0, 2**63 - 1), st.binary(max_size=80))
@settings(deadline=None, max_examples=100)
def test_rows_come_back(key: bytes, ballot: bytes, side_id: int, value: bytes) -> None:
    """Goal: a stored row decodes to what was encoded, and its ballot lies where scans cut it."""
    row = encode_row(key, ballot, side_id, value)
    assert decode_row(key, row) == Accepted(ballot, value, side_id)
    assert row[BALLOT_SLICE] == ballot


@given(st.binary(min_size=1, max_size=20), st.binary(max_size=40), st.data())
@settings(deadline=None, max_examples=200)
def test_any_flipped_bit_and_any_cut_is_noticed(key: bytes, value: bytes, data: st.DataObject) -> None:
    """Goal (A4's ground): a row with one wrong bit, or that ends early, is Corrupt and never a value."""
    row = bytearray(encode_row(key, ballot_at(9), 0, value))
    bit = data.draw(st.integers(0, len(row) * 8 - 1))
    cut = data.draw(st.integers(0, len(row) - 1))
    with pytest.raises(Corrupt):
        decode_row(key, bytes(row[:cut]))
    row[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt):
        decode_row(key, bytes(row))


def test_a_row_under_another_key_is_corrupt() -> None:
    """Goal: the checksum covers the key, so that a misplaced row is not taken for its neighbour."""
    row = encode_row(b"mine", ballot_at(9), 0, wrap(b"x", b"", b"op-id-01"))
    with pytest.raises(Corrupt, match="does not match its checksum"):
        decode_row(b"yours", row)


def test_yesterdays_bytes_are_read() -> None:
    """Goal: rows written by format 1 stay readable; a change of format needs a new version, not this edit."""
    row = bytes.fromhex(
        "520cac6701000000000000002a0000000000000001000000010000000000000007016f702d69642d303168656c6c6f"
    )
    accepted = decode_row(b"key", row)
    assert accepted == Accepted(ballot_at(42), wrap(b"hello", b"", b"op-id-01"), 7)
    assert payload_of(accepted.value) == b"hello"
