"""What operators ask of the ring while somebody dies: peers on virtual time, and a gossip that says what the test wants."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from peer.api.cluster import ClusterView
from peer.api.ringadmin import SUSPECT_S, RingAdmin
from peer.errors import NotFound
from peer.replication.agreement.proposals import RingRefused
from ring.changes import joined, revised
from ring.members import ACTIVE, LEAVING, Member
from tests.replication_world import Peer, World, error_of, member, simulate, until
from tests.test_replication_eviction import Healed


class Gossip:
    """The part of a `ClusterView` that a RingAdmin asks: states of members that are not alive."""

    def __init__(self, peer: Peer) -> None:
        self.states: dict[str, str] = {}
        self._replica = peer.replica

    def state(self, who: str) -> str:
        return self.states.get(who, "alive")

    def lives(self, who: str) -> bool:
        return self.state(who) in ("alive", "suspect")

    def find(self, name: str) -> Member:
        found = next((one for one in self._replica.epoch.members if name in (one.id, one.name)), None)
        if found is None:
            raise NotFound(name)
        return found

    def used_bytes(self, who: str) -> int:
        return 1000

    async def looked(self) -> None:
        return


def admin_of(peer: Peer) -> tuple[RingAdmin, Gossip]:
    gossip = Gossip(peer)
    return RingAdmin(peer.replica, cast(ClusterView, gossip)), gossip


def state_of(peer: Peer, who: Peer) -> str | None:
    known = peer.replica.epoch.member(who.id)
    return known.state if known is not None else None


@pytest.mark.parametrize("lives", [False, True])
def test_a_removal_waits_until_gossip_knows_whether_a_suspect_lives(lives: bool) -> None:
    """Goal: killed seconds ago it is out at once as soon as that is known; one that was only slow is asked to leave."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        admin, gossip = admin_of(a)
        gossip.states[d.id] = "suspect"
        asked = asyncio.ensure_future(admin.remove("p4", plan=False))
        await asyncio.sleep(5)
        assert not asked.done() and state_of(a, d) == ACTIVE
        gossip.states[d.id] = "alive" if lives else "dead"
        answer: dict[str, Any] = await asked
        assert answer["applied"] and answer["epoch"]["kind"] == "joint" and answer["copies"] > 0
        assert state_of(a, d) == (LEAVING if lives else None)

    simulate(scenario, 4)


def test_a_removal_does_not_wait_for_ever() -> None:
    """Goal: a peer that stays suspect is asked to leave; should it die it is let go then."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        admin, gossip = admin_of(a)
        gossip.states[d.id] = "suspect"
        begun_s = world.now
        await admin.remove("p4", plan=False)
        assert state_of(a, d) == LEAVING and SUSPECT_S <= world.now - begun_s < SUSPECT_S + 5

    simulate(scenario, 4)


def test_who_was_asked_to_leave_and_dies_is_let_go() -> None:
    """Goal: no operator has to come back for it, and automatic removal is off."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        healed = Healed(world, 0)
        admin, _ = admin_of(a)
        await admin.remove("p4", plan=False)
        healed.dies(d)
        await until(lambda: healed.members(a, b, c) == [{a.id, b.id, c.id}] * 3)
        assert [peer.holds() for peer in (a, b, c)] == [b"value"] * 3

    simulate(scenario, 4)


def test_a_drained_peer_that_dies_stays_a_member() -> None:
    """Goal: it was not asked to leave. Others may come and go meanwhile."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        healed = Healed(world, 0)
        admin, gossip = admin_of(a)
        await admin.drain("p4", plan=False)
        healed.dies(d)
        gossip.states[d.id] = "dead"
        await until(lambda: a.replica.epoch.kind == "final")
        await asyncio.sleep(60)
        assert state_of(a, d) == "draining" and [peer.holds() for peer in (a, b, c)] == [b"value"] * 3
        assert (await admin.remove("p4", plan=False))["epoch"]["kind"] == "final"

    simulate(scenario, 4)


def test_more_replicas_are_refused_while_too_few_peers_live() -> None:
    """Goal: the change would wait for the dead one; the answer says whom, and nothing has changed. Without it that many
    replicas are not to be had, with a fifth peer they are."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer, e: Peer) -> None:
        await world.found(a, b, c, d)
        await a.put(b"value")
        admin, gossip = admin_of(a)
        gossip.states[d.id] = "dead"
        before = a.replica.epoch
        for plan in (True, False):
            error = await error_of(admin.set_replicas({"replicas": 4}, plan=plan))
            assert isinstance(error, RingRefused) and error.code == "TooFewPeers"
            assert "4 replicas need 4 living peers, and there are 3: start p4" in str(error)
        assert a.replica.epoch is before
        healed = Healed(world, 0)
        await e.join(a)
        healed.heal(e)
        await until(lambda: a.replica.epoch.kind == "final")
        assert (await admin.set_replicas({"replicas": 4}, plan=False))["epoch"]["kind"] == "joint"

    simulate(scenario, 5, founded=False)


def test_removing_the_dead_gives_up_more_replicas_than_are_left() -> None:
    """Goal: a peer dies while replicas are raised to as many as there are peers. It is removed with a word, with as many
    replicas as there were; a plan changes nothing and says what would move."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        admin, gossip = admin_of(a)
        joint = (await admin.set_replicas({"replicas": 4}, plan=False))["epoch"]
        gossip.states[d.id] = "dead"
        healed = Healed(world, 0)
        healed.dies(d)
        planned = await admin.remove("p4", plan=True)
        assert not planned["applied"] and planned["epoch"] == joint and planned["copies"] == 192
        assert (await admin.remove("p4", plan=False))["applied"]
        await until(lambda: healed.members(a, b, c) == [{a.id, b.id, c.id}] * 3)
        assert a.replica.epoch.replicas == 3 and [peer.holds() for peer in (a, b, c)] == [b"value"] * 3

    simulate(scenario, 4)


def test_a_removal_that_another_change_overtakes_says_so() -> None:
    """Goal: "applied" is said only when it is true."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        admin, gossip = admin_of(a)
        gossip.states[d.id] = "dead"

        async def overtaken() -> None:
            await b.replica.change_ring(lambda base: revised(base, b.id, capacity=2 * b.member.weight))
            await until(lambda: a.replica.tag == b.replica.tag)

        gossip.looked = overtaken  # type: ignore[method-assign]
        error = await error_of(admin.remove("p4", plan=False))
        assert (
            isinstance(error, RingRefused) and error.code == "ChangeUnderWay" and "say it again" in str(error)
        )
        assert state_of(a, d) == ACTIVE

    simulate(scenario, 4)


def test_a_removal_that_could_not_end_is_refused() -> None:
    """Goal: with two owners of three dead nobody can copy from a majority. One that was only joining can go."""

    async def scenario(world: World, *peers: Peer) -> None:
        a = peers[0]
        await a.put(b"value")
        admin, gossip = admin_of(a)
        gossip.states = {peers[2].id: "dead", peers[3].id: "dead"}
        error = await error_of(admin.remove("p4", plan=False))
        assert isinstance(error, RingRefused) and error.code == "MajorityLost"
        assert "have lost their majority, from which what p4 held would have to be copied" in str(error)
        gossip.states = {peers[2].id: "dead"}
        await a.replica.change_ring(lambda base: joined(base, member(9)))
        gossip.states |= {peers[3].id: "dead", member(9).id: "dead"}
        assert (await admin.remove("p9", plan=False))["epoch"]["kind"] == "final"

    simulate(scenario, 4)
