"""The worker that has the long dead removed: peers on virtual time, with a gossip that each test tells what to believe."""

from __future__ import annotations

import asyncio

import pytest

from peer.replication.agreement.removal import remove_dead, take_place
from peer.replication.healing.eviction import AGAIN_S, LOOK_S, Eviction
from peer.replication.healing.transition import Transition
from peer.replication.messages import EPOCH_ACCEPT, MERGED
from peer.replication.workers import Workers
from ring.changes import drained, joined, with_replicas
from ring.eviction import PAUSE_S, TURN_S
from ring.members import ACTIVE
from tests.replication_world import KEY, Peer, World, member, simulate, until

AFTER_S = 20.0


class Healed:
    """Peers with the workers that change the ring; `dead` are those that everybody's gossip holds for dead."""

    def __init__(self, world: World, after_s: float = AFTER_S) -> None:
        self.world = world
        self.dead: set[str] = set()
        self.after_s = after_s
        self.workers: dict[str, Eviction] = {}
        self.all: dict[str, Workers] = {}
        self.transitions: dict[str, Transition] = {}
        for peer in world.peers:
            self.heal(peer)

    def heal(self, peer: Peer) -> Eviction:
        workers = self.all[peer.id] = Workers(peer.env, peer.rows)
        transition = self.transitions[peer.id] = Transition(
            peer.env, peer.rows, peer.replica, self.seen, workers.throttle
        )
        peer.replica.on_epoch = lambda epoch: transition.wake()
        workers.add(transition)
        eviction = self.workers[peer.id] = Eviction(peer.env, peer.replica, self.seen, self.after_s)
        workers.add(eviction)
        return eviction

    def seen(self, who: str) -> bool:
        return who not in self.dead

    def dies(self, peer: Peer) -> None:
        peer.crash()
        self.dead.add(peer.id)

    def members(self, *peers: Peer) -> list[set[str]]:
        """Of the final ring that each of these peers has; {} while it has a joint one."""
        epochs = [peer.replica.epoch for peer in peers]
        return [{m.id for m in epoch.members} if epoch.kind == "final" else set() for epoch in epochs]

    def removed(self) -> int:
        return sum(worker.detail["removed"] for worker in self.workers.values())


def test_the_long_dead_is_removed_and_what_it_held_is_copied() -> None:
    """Goal: of four peers one dies: not before its time it is removed, by one proposer, and all three hold everything."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world)
        await a.put(b"value")
        dead = next(peer for peer in world.owners(KEY) if peer is not a)
        rest = [peer for peer in (a, b, c, d) if peer is not dead]
        healed.dies(dead)
        await asyncio.sleep(AFTER_S - 1)
        assert healed.members(*rest) == [{p.id for p in world.peers}] * 3
        assert all("it is removed at" in healed.workers[p.id].outlook()[dead.id] for p in rest)
        await until(lambda: healed.members(*rest) == [{p.id for p in rest}] * 3, 2 * LOOK_S + 5)
        assert healed.removed() == 1
        assert [peer.holds() for peer in rest] == [b"value"] * 3
        assert await rest[-1].get() == b"value"

    simulate(scenario, 4)


def test_three_of_three_stay_and_the_worker_says_why() -> None:
    """Goal: nobody is removed below three members for three replicas; `repair status` and `status` say so."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer) -> None:
        healed = Healed(world)
        healed.dies(c)
        await asyncio.sleep(3 * AFTER_S)
        assert len(a.replica.epoch.members) == 3
        worker = healed.workers[a.id]
        assert "2 peers would be left for 3 replicas" in worker.last_error
        assert worker.last_error.startswith("p3 is dead (") and worker.detail["held_back"] == 1
        assert "not removed by itself" in worker.outlook()[c.id]

    simulate(scenario, 3)


def test_whoever_answers_a_call_is_not_removed() -> None:
    """Goal: gossip is wrong about a member (E1): nothing happens to it, and the worker says what is odd."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world)
        healed.dead.add(d.id)
        del healed.workers[d.id]
        await asyncio.sleep(2 * AFTER_S + 4 * TURN_S)
        assert len(a.replica.epoch.members) == 4
        assert any(worker.detail["answered"] for worker in healed.workers.values())

    simulate(scenario, 4)


def test_a_joiner_that_dies_for_good_holds_nobody_up() -> None:
    """Goal: a joint epoch whose new owner never comes back ends by itself, as the ring was before."""

    async def scenario(world: World, *peers: Peer) -> None:
        a, b, c = peers
        await a.put(b"value")
        healed = Healed(world)
        ghost = member(9)
        await a.replica.change_ring(lambda base: joined(base, ghost))
        healed.dead.add(ghost.id)
        await until(lambda: b.replica.epoch.kind == "joint")
        await until(lambda: healed.members(*peers) == [{p.id for p in peers}] * 3, AFTER_S + 20)
        await until(lambda: healed.removed() == 1)  # counted when the ring has been told
        assert await c.get() == b"value"

    simulate(scenario, 3)


def test_only_voters_ask_whether_a_change_is_done() -> None:
    """Goal: a change that waits for a new owner keeps five peers of eight busy, not all with all the others; and these
    ask only the one that is not done."""

    async def scenario(world: World, *peers: Peer) -> None:
        await peers[0].put(b"value")
        Healed(world)
        asking: set[str] = set()
        asked: set[str] = set()

        def note(sender: str, target: str, kind: int) -> None:
            if kind == MERGED:
                asking.add(sender)
                asked.add(target)

        world.network.rule = note
        joint = await peers[0].replica.change_ring(lambda base: joined(base, member(99)))
        await asyncio.sleep(60)
        assert joint.kind == peers[0].replica.epoch.kind == "joint"
        assert asking and asking <= set(joint.voters())
        assert len(asked) > 1
        asked.clear()
        await asyncio.sleep(10)
        assert asked == {member(99).id}

    simulate(scenario, 8)


def test_a_member_that_dies_over_a_join_is_left_out_of_it() -> None:
    """Goal: a fourth joins three, one of these dies before it has merged: in the end the other two and the new one are the
    ring, and hold everything."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        healed = Healed(world)
        healed.dies(c)
        await d.join(a)
        healed.heal(d)
        assert a.replica.epoch.kind == "joint"
        await until(lambda: healed.members(a, b, d) == [{a.id, b.id, d.id}] * 3, AFTER_S + 40)
        assert [peer.holds() for peer in (a, b, d)] == [b"value"] * 3

    async def founded(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await world.found(a, b, c)
        await scenario(world, a, b, c, d)

    simulate(founded, 4, founded=False)


def test_more_replicas_than_are_left_are_given_up() -> None:
    """Goal: one of four dies while four replicas are made: in the end three peers hold three."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        healed = Healed(world)
        await a.replica.change_ring(lambda base: with_replicas(base, 4))
        healed.dies(d)
        await until(lambda: healed.members(a, b, c) == [{a.id, b.id, c.id}] * 3, AFTER_S + 40)
        assert a.replica.epoch.replicas == 3 and [peer.holds() for peer in (a, b, c)] == [b"value"] * 3

    simulate(scenario, 4)


@pytest.mark.parametrize("leave", [False, True])
def test_a_drain_that_another_one_dies_over_is_given_up(leave: bool) -> None:
    """Goal: too few would be left with both out: the dead one is removed, and the other keeps its share and stays."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        await a.put(b"value")
        healed = Healed(world)
        dead, drained_one, *rest = world.owners(KEY)[::-1]
        await rest[0].replica.change_ring(lambda base: drained(base, drained_one.id, leave=leave))
        healed.dies(dead)
        living = [peer for peer in (a, b, c, d) if peer is not dead]
        await until(lambda: healed.members(*living) == [{p.id for p in living}] * 3, AFTER_S + 40)
        assert [m.state for m in living[0].replica.epoch.members] == [ACTIVE] * 3
        assert [peer.holds() for peer in living] == [b"value"] * 3

    simulate(scenario, 4)


@pytest.mark.parametrize("replicas", [2, 3])
def test_who_dies_while_it_leaves_is_waited_for_if_nobody_else_may_have_what_it_has(replicas: int) -> None:
    """Goal: of three owners two have what was acknowledged without it; of two it may be the only one, so that it has until
    automatic removal to come back."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world)
        if replicas != 3:
            await a.replica.change_ring(lambda base: with_replicas(base, replicas))
            await until(lambda: all(healed.members(a, b, c, d)))
        for transition in healed.transitions.values():
            transition.fetching = lambda gone: 0 if gone or d.id in healed.dead else 1
        await a.replica.change_ring(lambda base: drained(base, d.id, leave=True))
        await until(lambda: all(healed.members(a, b, c, d)))
        healed.dies(d)
        began_s = world.loop.time()
        await until(lambda: a.replica.epoch.member(d.id) is None, AFTER_S + 40)
        assert (world.loop.time() - began_s < AFTER_S) == (replicas == 3)

    simulate(scenario, 4)


def test_a_new_peer_that_dies_in_the_place_of_a_dead_one_is_given_up() -> None:
    """Goal: `--replace` with a peer that dies half way: the ring is as before, so that another one may take the place."""

    async def scenario(world: World, *peers: Peer) -> None:
        a, b, c, d = peers
        await world.found(a, b, c)
        await a.put(b"value")
        healed = Healed(world)
        healed.dies(c)
        ghost = member(9)
        await take_place(a.replica.change_ring, a.replica.epoch, c.id, ghost, same=False)
        healed.dead.add(ghost.id)
        await until(lambda: healed.members(a, b) == [{a.id, b.id, c.id}] * 2, AFTER_S + 40)
        await take_place(a.replica.change_ring, a.replica.epoch, c.id, d.member, same=False)
        await d.start(a.replica.epoch)
        healed.heal(d)
        await until(lambda: healed.members(a, b, d) == [{a.id, b.id, d.id}] * 3, AFTER_S)
        assert [peer.holds() for peer in (a, b, d)] == [b"value"] * 3

    simulate(scenario, 4, founded=False)


def test_a_drained_member_that_dies_is_removed() -> None:
    """Goal: it owns nothing, so it is not needed for the number of replicas."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world)
        await a.replica.change_ring(lambda base: drained(base, d.id))
        await until(lambda: len(healed.members(a, b, c)[0]) == 4 and a.replica.epoch.kind == "final")
        healed.dies(d)
        await until(lambda: healed.members(a, b, c) == [{a.id, b.id, c.id}] * 3, AFTER_S + 20)

    simulate(scenario, 4)


def test_a_peer_that_was_cut_off_removes_nobody_when_it_is_back() -> None:
    """Goal: for a long time it held all the others for dead, and for a moment after; they all stay."""

    async def scenario(world: World, *peers: Peer) -> None:
        healed = Healed(world)
        lonely = healed.workers[peers[0].id]
        lonely._seen = lambda who: False
        world.isolate(peers[0])
        await asyncio.sleep(3 * AFTER_S)
        assert lonely.last_error == "this peer sees no majority of the members alive"
        world.join_up()
        lonely._seen = lambda who: who in {p.id for p in peers[:3]}
        await asyncio.sleep(AFTER_S - LOOK_S)
        lonely._seen = lambda who: True
        await asyncio.sleep(2 * AFTER_S)
        assert healed.members(*peers) == [{p.id for p in peers}] * 5 and healed.removed() == 0

    simulate(scenario, 5)


def test_a_peer_that_was_paused_counts_from_anew() -> None:
    """Goal: SIGSTOP and SIGCONT: what it saw before says nothing about the time between."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world)
        healed.dead.add(d.id)
        await asyncio.sleep(AFTER_S / 2)
        a.env.pause()
        await asyncio.sleep(PAUSE_S + 2 * LOOK_S)
        a.env.resume()
        await asyncio.sleep(LOOK_S)
        worker = healed.workers[a.id]
        assert worker.detail["restarts"] == 1 and (worker.oldest_s() or 0.0) <= 2 * LOOK_S

    simulate(scenario, 4)


def test_a_removal_that_fails_is_tried_again_and_looking_goes_on() -> None:
    """Goal: no majority of voters can be asked for a while: the worker says so, does not count from anew, and succeeds."""

    async def scenario(world: World, *peers: Peer) -> None:
        healed = Healed(world)
        dead = peers[4]
        healed.dies(dead)
        with world.lost(EPOCH_ACCEPT):
            await asyncio.sleep(AFTER_S + AGAIN_S + 3 * TURN_S)
            assert any("could not be removed" in worker.last_error for worker in healed.workers.values())
        rest = peers[:4]
        await until(lambda: healed.members(*rest) == [{p.id for p in rest}] * 4, AGAIN_S + 20)
        assert all(not worker.detail["restarts"] for worker in healed.workers.values())

    simulate(scenario, 5)


def test_automatic_removal_is_off() -> None:
    """Goal: with 0 nobody is removed, and whoever asks is told."""

    async def scenario(world: World, a: Peer, b: Peer, c: Peer, d: Peer) -> None:
        healed = Healed(world, 0)
        healed.dies(d)
        await asyncio.sleep(300)
        assert len(a.replica.epoch.members) == 4
        assert "automatic removal is off" in healed.workers[a.id].outlook()[d.id]

    simulate(scenario, 4)


def test_what_was_judged_by_another_ring_is_not_done() -> None:
    """Goal: two proposers judge the same epoch (E2): the second one's removal changes nothing."""

    async def scenario(world: World, *peers: Peer) -> None:
        a, b = peers[:2]
        await a.put(b"value")  # without any the ring changes in one step
        base = a.replica.epoch
        stands = await remove_dead(a.replica.change_ring, base, peers[4].id)
        assert stands.member(peers[4].id) is None
        await until(lambda: b.replica.tag == a.replica.tag)
        assert await remove_dead(b.replica.change_ring, base, peers[3].id) == stands
        assert stands.kind == "joint" and stands.member(peers[3].id) is not None
        anew = await remove_dead(b.replica.change_ring, stands, peers[3].id)  # the change waits for that one
        assert anew.kind == "joint" and {m.id for m in anew.members} == {p.id for p in peers[:3]}

    simulate(scenario, 5)


def test_while_it_is_paused_nobody_is_removed_and_status_says_so() -> None:
    """Goal: an operator pauses the worker for work on a peer: nothing is said of a time that does not run; afterwards the
    dead one has its whole time."""

    async def scenario(world: World, *peers: Peer) -> None:
        healed = Healed(world)
        healed.dies(peers[3])
        await asyncio.sleep(AFTER_S / 2)
        for peer in peers[:3]:
            await healed.all[peer.id].pause(["eviction"])
        await asyncio.sleep(3 * AFTER_S)
        worker = healed.workers[peers[0].id]
        assert worker.outlook() == {
            peers[3].id: "and not removed by itself: `atoll repair resume eviction` lets that go on"
        }
        assert healed.removed() == 0
        for peer in peers[:3]:
            await healed.all[peer.id].resume(["eviction"])
        await asyncio.sleep(AFTER_S - LOOK_S)
        assert healed.removed() == 0 and "it is removed at" in worker.outlook()[peers[3].id]
        await until(lambda: healed.removed() == 1, 3 * LOOK_S)

    simulate(scenario, 4)
