"""A peer asks to be admitted in the place of another one, or of what it was itself: who is alive is not replaced (W3)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from peer.entry import FORMAT_LEVEL, admit
from peer.replication.messages import FAILED, JOIN, OK
from ring.changes import aborted, completed, drained, joined, returned
from ring.epoch import Epoch
from tests.replication_world import Peer, World, member, ring_of, simulate


@dataclass
class Surroundings:
    """What the admitting peer finds where the former one was: `there` as `Peers.answers` says it, and gossip's belief."""

    there: bool | None = False
    believed: bool = False
    seen_at: tuple[str, int] | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def answers(self, host: str, port: int, member_id: str, timeout_s: float) -> bool | None:
        self.asked.append((host, port))
        return self.there

    def get(self, member_id: str) -> Any:
        return SimpleNamespace(host=self.seen_at[0], peer_port=self.seen_at[1]) if self.seen_at else None

    def is_alive(self, member_id: str) -> bool:
        return self.believed


async def ask(
    through: Peer, former: str, back: int, around: Surroundings, again: bool = True
) -> tuple[Any, ...]:
    """Member number `back` asks to be what `former` was, or (not `again`) to replace it; the answer."""
    one = member(back)
    fields = [one.id, one.name, one.host, one.peer_port, one.s3_port, one.api_port, one.zone, one.weight]
    answer: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()
    message = (JOIN, 0, FORMAT_LEVEL, fields, former, again)
    gossip: Any = around
    await admit(through.replica, gossip, gossip, message, answer.set_result)
    return await answer


def ids(epoch: Epoch) -> list[str]:
    return [one.id for one in epoch.members]


def test_who_answers_is_not_replaced() -> None:
    """Goal: the former id answers at the ring's address, or at the one that gossip knows: refused for good, and the ring is
    as it was. Silence where gossip believes it alive: later. Dead, or somebody else there: in its place, under one
    change, with its weight and zone."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"data")
        before = a.replica.epoch
        for seen_at in (None, ("10.0.0.9", 7)):
            around = Surroundings(there=True, seen_at=seen_at)
            answer = await ask(a, c.id, 9, around)
            assert answer[:2] == (FAILED, "StillAlive") and "is a copy of" in answer[2]
            assert (seen_at or (c.member.host, c.member.peer_port)) in (*around.asked, seen_at)
        answer = await ask(a, c.id, 9, Surroundings(there=None, believed=True, seen_at=("10.0.0.9", 7)))
        assert answer[:2] == (FAILED, "ServiceUnavailable")
        assert a.replica.epoch is before
        c.crash()
        answer = await ask(a, c.id, 9, Surroundings(there=None, seen_at=("10.0.0.9", 7)))
        assert answer[0] == OK
        epoch = Epoch.decode(answer[1])
        assert epoch.kind == "joint" and ids(epoch) == [a.id, b.id, member(9).id]
        (new, old) = (epoch.member(member(9).id), before.member(c.id))
        assert new is not None and old is not None and (new.zone, new.weight) == (old.zone, old.weight)
        again = await ask(b, c.id, 9, Surroundings())
        assert Epoch.decode(again[1]) == epoch  # asked again, after a crash: nothing more changes

    simulate(scenario)


def test_a_change_that_waits_for_the_forgetful_one_is_made_anew() -> None:
    """Goal: a peer forgets everything while the ring is joint and waits for it: the change goes on with its new id."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await world.found(a, b, c)
        await a.put(b"data")
        joint = await a.replica.change_ring(lambda base: joined(base, d.member))
        assert joint.kind == "joint"
        await d.start(joint)
        c.crash()
        answer = await ask(b, c.id, 9, Surroundings())
        assert answer[0] == OK, answer
        epoch = Epoch.decode(answer[1])
        assert epoch.kind == "joint" and sorted(ids(epoch)) == sorted([a.id, b.id, d.id, member(9).id])
        assert epoch.number == joint.number + 2  # given up, made anew

    simulate(scenario, 4, founded=False)


def test_a_member_that_was_leaving_leaves_under_its_new_id() -> None:
    """Goal: the operator's wish outlives the peer's memory: state, weight and zone go over; asked twice is once."""
    base = ring_of(*(replace(member(n), weight=10**12 * n) for n in range(1, 5)))
    former = member(4).id
    leaving = completed(replace(drained(base, former, leave=True), kind="joint", previous=base.table))
    wanted = returned(leaving, former, member(9))
    new = wanted.member(member(9).id)
    assert new is not None and (new.state, new.weight, new.zone) == ("leaving", 4 * 10**12, "zone-4")
    assert new.id not in wanted.table.member_ids and wanted.member(former) is None
    assert returned(wanted, former, member(9)) is wanted
    joint = replace(wanted, kind="joint", previous=base.table, previous_members=base.members)
    assert aborted(joint).member(former) is not None


def test_a_peer_that_is_alive_or_unknown_is_not_replaced() -> None:
    """Goal: `--replace`: a name that is not in the ring, one that answers, the very peer that is asked, and one of which
    nobody knows yet whether it lives. Each is refused in words, and the ring is as it was."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"data")
        before = a.replica.epoch
        for name in ("p7", "f" * 16, "p1 "):
            answer = await ask(a, name, 9, Surroundings(), again=False)
            assert answer[:2] == (FAILED, "NoSuchNode") and "only p1, p2, p3;" in answer[2]
        for name in ("p3", c.id):
            answer = await ask(a, name, 9, Surroundings(there=True), again=False)
            assert answer[:2] == (FAILED, "StillAlive")
            assert answer[2].startswith("p3 is alive at 127.0.0.1:") and "without --replace" in answer[2]
        answer = await ask(a, "p1", 9, Surroundings(), again=False)
        assert answer[:2] == (FAILED, "StillAlive")  # it would not call itself
        silent = Surroundings(there=None, believed=True, seen_at=("10.0.0.9", 7))
        answer = await ask(a, "p3", 9, silent, again=False)
        assert answer[:2] == (FAILED, "ServiceUnavailable") and "may still live" in answer[2]
        assert a.replica.epoch is before

    simulate(scenario)


def test_a_dead_peer_is_replaced_in_one_change() -> None:
    """Goal: the new one joins and the dead one goes in one joint epoch, with the new one's own weight and zone. Asked twice
    is once, of whichever peer."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        await a.put(b"data")
        c.crash()
        answer = await ask(a, "p3", 9, Surroundings(there=None), again=False)
        epoch = Epoch.decode(answer[1])
        assert epoch.kind == "joint" and ids(epoch) == [a.id, b.id, member(9).id]
        new = epoch.member(member(9).id)
        assert new is not None and (new.zone, new.weight) == ("zone-9", member(9).weight)
        for through in (a, b):
            again = await ask(through, "p3", 9, Surroundings(), again=False)
            assert Epoch.decode(again[1]) == epoch

    simulate(scenario)


def test_a_change_that_waits_for_a_dead_peer_goes_on_with_the_one_that_replaces_it() -> None:
    """Goal: a fourth joins three, one of these dies over it, and another machine replaces that: all in one change."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await world.found(a, b, c)
        await a.put(b"data")
        joint = await a.replica.change_ring(lambda base: joined(base, d.member))
        await d.start(joint)
        c.crash()
        answer = await ask(b, "p3", 9, Surroundings(), again=False)
        epoch = Epoch.decode(answer[1])
        assert epoch.kind == "joint" and sorted(ids(epoch)) == sorted([a.id, b.id, d.id, member(9).id])
        new = epoch.member(member(9).id)
        assert new is not None and new.zone == "zone-9"

    simulate(scenario, 4, founded=False)
