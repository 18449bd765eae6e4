"""Disks without room (room.py): what is refused for want of it, what is not, and that refusals leave what stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from peer.errors import Unavailable
from peer.replication.ballot import NONE
from peer.replication.keys import OBJECT, Space, gate_key_of
from peer.replication.messages import ACCEPT, PREPARE
from peer.replication.quorum import HEDGE_S
from peer.replication.registers.gates import OPEN, gate_payload
from peer.replication.registers.register import Current, Put
from peer.replication.registers.room import FULL_FOR_S, Room
from tests.replication_world import POWER, Peer, World, error_of, simulate, until

SPACE = Space(OBJECT, b"bucket-1", 1, POWER)
HEAD = SPACE.row_key(b"key")


async def put_head(peer: Peer, payload: bytes | None) -> Current:
    return await peer.replica.registers.change(HEAD, lambda _: Put(payload), gate=1)


async def settle(peer: Peer, key: bytes = HEAD) -> Current:
    return await peer.replica.registers.settle(key, gate=1, above=NONE)


async def read_head(peer: Peer) -> bytes | None:
    return (await peer.replica.registers.read(HEAD, gate=1)).payload


async def with_head(world: World, payload: bytes) -> None:
    """A bucket, and an object that every owner has."""
    await world.peers[0].put(gate_payload(OPEN, 1), gate_key_of(HEAD))
    await put_head(world.peers[0], payload)
    await until(lambda: world.holding(payload, HEAD) == len(world.peers))


def test_disks_without_room_settle_that_there_is_nothing() -> None:
    """Goal: a tombstone and a register that was never written are settled while two of three disks have no room for heads:
    it is how verdicts on failed uploads are found, and with that how garbage gives space back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_head(world, b"deleted")
        await put_head(a, None)
        b.disk.low = c.disk.low = True
        for number, peer in enumerate((a, b, c)):
            never = SPACE.row_key(b"never written %d" % number)
            before = peer.stored(HEAD).ballot
            stands = [await settle(peer), await settle(peer, never)]
            assert [one.payload for one in stands] == [None, None]
            assert stands[0].ballot > before, "accepted anew"
            assert sum(one.stored(never).ballot == stands[1].ballot for one in (a, b, c)) >= 2

    simulate(scenario)


@pytest.mark.parametrize(
    "leave", [lambda world, c: c.crash(), lambda world, c: world.isolate(c)], ids=["dead", "silent"]
)
def test_a_full_disk_beside_a_dead_owner_leaves_what_stands(leave: Callable[[World, Peer], None]) -> None:
    """Goal (R2, R3, P2): one owner has no room and one does not answer: a put or a repair that the third alone would take is
    refused without doubt, before an accept is sent, and the two go on to agree. It is not "full": the silent one may have
    room, and the next try finds it back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_head(world, b"old")
        leave(world, c)
        b.disk.low = True
        for peer in (a, b):
            with world.lost(ACCEPT) as accepts:
                for work in (put_head(peer, b"new"), settle(peer)):
                    error = await error_of(work)
                    assert type(error) is Unavailable and error.state_changed is False, error
            assert accepts.hits == 0
            assert "its disk is full" in str(error) and c.id in str(error)
        for peer in (a, b):
            assert await read_head(peer) == b"old"

    simulate(scenario)


def test_an_owner_that_is_late_is_asked_for_its_room() -> None:
    """Goal: one disk has no room, and the third owner takes longer than a hedge to promise, so that it is asked twice under
    one ballot: its first promise counts, and the put is done."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await with_head(world, b"old")
        b.disk.low = True
        for peer in (a, b):
            with world.late(HEDGE_S + 0.05, PREPARE, to=c):
                await put_head(peer, b"through " + peer.id.encode())
            assert await read_head(c) == b"through " + peer.id.encode()

    simulate(scenario)


def test_what_members_said_of_their_disks_is_forgotten() -> None:
    """Goal: who left the ring with a full disk is not remembered for ever."""

    async def scenario(world: World, a: Peer) -> None:
        room = Room(a.env)
        room.note("left", True)
        assert room.lacking(["left", "other"]) == ["left"]
        await asyncio.sleep(FULL_FOR_S)
        assert room.lacking(["other"]) == []
        assert room._full == {}

    simulate(scenario, peers=1)
