"""Datagram bodies and exchanges as bytes: nothing is lost, nothing but typed errors comes out."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import exchange
from gossip.codec import HEADER_BYTES, encode, pack, unpack
from gossip.errors import GossipError, Malformed, Stranger
from gossip.messages import DEAD, Ack, Claim, Message, Nack, Ping
from gossip.record import Record, encode_record
from tests.gossip_strategies import ids, junk, messages, record, records

CLUSTER = "ab" * 16


@settings(deadline=None, max_examples=150)
@given(ids, st.lists(messages, max_size=12))
def test_what_is_packed_is_unpacked(sender: str, content: list[Message]) -> None:
    """Goal: a datagram body carries any messages, in order, and is as long as promised."""
    encoded = [encode(message) for message in content]
    body = pack(sender, encoded)
    assert len(body) == HEADER_BYTES + sum(map(len, encoded))
    assert unpack(body) == (sender, content, 0)


def test_yesterdays_bytes_are_read() -> None:
    """Goal: format 1 stays readable."""
    body = bytes.fromhex(
        "dc000601c40800000000000000aa"
        "930107c40800000000000000bb"
        "9303cd0102c40800000000000000aa"
        "920409"
        "960602c40800000000000000cc0304c40800000000000000aa"
    )
    content = [
        Ping(7, f"{0xBB:016x}"),
        Ack(258, f"{0xAA:016x}"),
        Nack(9),
        Claim(DEAD, f"{0xCC:016x}", 3, 4, f"{0xAA:016x}"),
    ]
    assert unpack(body) == (f"{0xAA:016x}", content, 0)
    assert pack(f"{0xAA:016x}", [encode(message) for message in content]) == body


def test_unknown_kinds_and_further_fields_are_skipped() -> None:
    """Goal: messages of a later version do not hide those this version knows."""
    later = [msgpack.packb([99, "new"]), msgpack.packb([1, 5, bytes(8), "more"]), encode(Nack(1))]
    packet = unpack(pack("0" * 16, later))
    assert packet.messages == [Ping(5, "0" * 16), Nack(1)]
    assert packet.unknown == 1


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=120), junk.map(msgpack.packb)))
def test_nonsense_is_malformed(body: bytes) -> None:
    """Goal: no bytes make the decoder raise anything but Malformed."""
    with pytest.raises(Malformed):
        unpack(body)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8), st.lists(junk, max_size=6)), max_size=4))
def test_well_formed_nonsense_is_malformed_or_understood(content: list[tuple[int, list[object]]]) -> None:
    """Goal: messages of known kinds with any fields are decoded or Malformed."""
    try:
        unpack(pack("0" * 16, [msgpack.packb([kind, *fields]) for kind, fields in content]))
    except Malformed:
        pass


@settings(deadline=None, max_examples=150)
@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_damaged_datagrams_are_malformed_or_understood(content: list[Message], data: st.DataObject) -> None:
    """Goal: flipping, cutting and doubling bytes of a good body raises nothing but Malformed."""
    body = bytearray(pack("0" * 16, [encode(message) for message in content]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut]), bytes(body + body)):
        try:
            unpack(damaged)
        except Malformed:
            pass


def test_deep_nesting_is_malformed() -> None:
    """Goal: a few bytes that would nest for ever end in Malformed."""
    for body in (b"\x91" * 1300, b"\x81" * 1300, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(Malformed):
            unpack(body)
        with pytest.raises(Malformed):
            exchange.decode(CLUSTER, body)


Entries = list[tuple[Record, int, int, int]]
entries = st.lists(st.tuples(records, st.integers(0, 99), st.integers(0, 99), st.integers(0, 3)), max_size=5)


@settings(deadline=None, max_examples=60)
@given(ids, entries)
def test_exchanges_carry_memberships(sender: str, content: Entries) -> None:
    """Goal: a membership survives an exchange, and the probe kinds theirs."""
    rows = [(encode_record(of), *rest) for of, *rest in content]
    payload = exchange.encode_state(CLUSTER, sender, exchange.STATE, rows)  # type: ignore[arg-type]
    decoded = exchange.decode(CLUSTER, payload)
    assert (decoded.sender, decoded.kind) == (sender, exchange.STATE)
    assert [(e.raw, e.boot, e.incarnation, e.state) for e in decoded.entries] == rows
    probe = exchange.decode(CLUSTER, exchange.encode_probe(CLUSTER, sender, exchange.PROBE, sender))
    assert (probe.sender, probe.kind, probe.member) == (sender, exchange.PROBE, sender)


def test_another_clusters_exchange_is_a_strangers() -> None:
    """Goal: memberships of two clusters never merge, even over an authenticated link."""
    payload = exchange.encode_state(CLUSTER, "0" * 16, exchange.STATE, [(encode_record(record(1)), 1, 0, 0)])
    with pytest.raises(Stranger):
        exchange.decode("cd" * 16, payload)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=80), junk.map(msgpack.packb)), junk, st.integers(0, 6))
def test_nonsense_in_exchanges_is_typed(noise: bytes, content: object, kind: int) -> None:
    """Goal: no exchange raises anything but the typed errors."""
    for payload in (noise, msgpack.packb([1, CLUSTER, bytes(8), kind, content])):
        try:
            exchange.decode(CLUSTER, payload)
        except GossipError:
            pass
    with pytest.raises(GossipError):
        exchange.decode(CLUSTER, noise)
