"""What strangers and broken senders may send to a member: nothing comes of it."""

from __future__ import annotations

import os
import random
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.codec import DATAGRAM_BYTES, encode, pack
from gossip.keyring import Keyring
from gossip.messages import Packet, Ping
from gossip.record import Record
from peer.datagrams import Datagrams
from peer.errors import ProtocolError, Refused
from tests.membership_world import (
    CLUSTER,
    KEY,
    Town,
    address_of,
    run,
    until,
)


def test_strangers_and_other_clusters_are_dropped_and_counted() -> None:
    """Goal: nothing sealed with another key or for another cluster, and no noise, has any effect."""

    async def story(town: Town) -> None:
        member = await town.add(1)
        stranger = Record("f" * 16, "stranger", "127.0.0.1", 9, 0, 0, 1, 0, "0", 1)
        body = pack(stranger.id, [encode(Ping(1, f"{1:016x}"))])
        entropy = random.Random(5).randbytes
        datagrams = [
            b"",
            b"noise",
            os.urandom(1500),
            body,
            Keyring([bytes(32)], CLUSTER, entropy).seal(body),
            Keyring([KEY], "d2" * 16, entropy).seal(body),
            Keyring([KEY], CLUSTER, entropy).seal(b"\x93\x01\x02\x03"),
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, address_of(member))
        await until(lambda: member.stats().get("packets_in", 0) == len(datagrams))
        stats = member.stats()
        assert (stats["strangers"], stats["malformed"], stats["known"]) == (6, 1, 0)
        assert stats.get("packets_out", 0) == 0

    run(story)


def test_bad_exchanges_are_refused() -> None:
    """Goal: an exchange from another cluster or of nonsense raises the wire's typed errors only."""

    async def story(town: Town) -> None:
        member = await town.add(1)
        other = await town.add(2, cluster_id="d2" * 16)
        with pytest.raises(Refused):
            await member.handle_exchange(other._swim.join_request(time.monotonic()))
        with pytest.raises(ProtocolError):
            await member.handle_exchange(b"\xc1")
        assert await other.join([address_of(member)]) == 0
        assert len(member.members()) == 1
        assert member.stats()["strangers"] == 2

    run(story)


noise = st.binary(max_size=DATAGRAM_BYTES + 60)


@settings(deadline=None, max_examples=150)
@given(st.one_of(noise, st.tuples(st.booleans(), noise)))
def test_no_datagram_raises(content: bytes | tuple[bool, bytes]) -> None:
    """Goal: whatever arrives, open or sealed with our key, is a packet or is dropped and counted."""
    packets: list[Packet] = []
    datagrams = Datagrams(Keyring([KEY], CLUSTER, os.urandom), lambda packet, source: packets.append(packet))
    if isinstance(content, tuple):
        framed, body = content
        body = b"\xdc\x00\x03\x01\xc4\x08" + bytes(8) + body if framed else body
        content = datagrams.keyring.seal(body)
    datagrams._accept(content, ("127.0.0.1", 9))
    counters = datagrams.counters
    assert counters["packets_in"] == 1 and counters["bytes_in"] == len(content)
    assert len(packets) + counters["strangers"] + counters["malformed"] == 1


def test_a_stopped_member_answers_nothing() -> None:
    """Goal: a stopped member does not look alive over TCP while its process still runs."""

    async def story(town: Town) -> None:
        first, second = await town.add(1), await town.add(2)
        await second.stop(leave=False)
        assert await first.join([address_of(second)]) == 0

    run(story)
