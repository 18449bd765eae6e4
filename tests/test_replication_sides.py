"""Inline bytes that rotted on one owner's disk: never told, never spread (A4 of acceptor.py)."""

from __future__ import annotations

from peer.replication.messages import ABSTAIN, OK
from peer.replication.registers.register import Keep
from peer.replication.value import decode_side
from tests.replication_owner import Owner
from tests.replication_world import KEY, Peer, World, ballot_at, simulate, until
from tools.sim.disk import SimDisk


def rot_sides(disk: SimDisk) -> None:
    """Flip the last bit of all inline bytes behind everyone's back."""
    sides = disk.tables["side"]
    for number, stored in list(sides.items()):
        sides[number] = stored[:-1] + bytes((stored[-1] ^ 1,))


def test_a4_rotten_inline_bytes_abstain_when_they_are_asked_for() -> None:
    """Goal (A4, P5): inline bytes that fail their checksum are not told; without them the owner still votes."""
    owner = Owner()

    async def scenario() -> None:
        assert await owner.accept(ballot_at(10), b"a", side=b"one") == (OK,)
        rot_sides(owner.disk)
        assert (await owner.read(side=True))[0] == ABSTAIN
        assert (await owner.prepare(ballot_at(20), side=True))[0] == ABSTAIN
        assert (await owner.read())[:2] == (OK, ballot_at(10))
        assert await owner.accept(ballot_at(30), b"a", side=b"one") == (OK,)
        assert (await owner.read(side=True))[3] == b"one"

    owner.run(scenario())


def test_a_repair_never_spreads_rotten_inline_bytes() -> None:
    """Goal (P2, P5): they rotted at one owner and another missed the write: the third one's good copy is what spreads."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        world.isolate(c)
        await a.put(b"v", side=b"bytes")
        await until(lambda: world.holding(b"v") == 2)
        world.join_up()
        rot_sides(a.disk)
        await c.change(lambda _: Keep)
        for peer in (c, a, b):
            current = await peer.replica.registers.read(KEY, want_side=True)
            assert (current.payload, current.side) == (b"v", b"bytes")
        good = [peer for peer in (b, c) if peer.stored().side_id in peer.disk.tables["side"]]
        assert good == [b, c]
        for peer in good:
            assert decode_side(KEY, peer.disk.tables["side"][peer.stored().side_id]) == b"bytes"

    simulate(scenario)
