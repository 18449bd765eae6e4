"""Plays for whole peers: what chance seldom arranges, arranged. Each ends with every check of the object simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from peer.replication.messages import COPY_DIGESTS, COPY_FETCH, COPY_LEAVES, COPY_LIST, HINTS
from ring.changes import drained
from tools.sim import linear
from tools.sim.cluster import SimPeer
from tools.sim.object_world import ObjectOptions, ObjectWorld, Play, run_object_seed

LOST = -1.0
COPIES = (COPY_DIGESTS, COPY_LEAVES, COPY_LIST, COPY_FETCH)


def sound(play: Play, peers: int, seeds: int = 2) -> None:
    """The play ends well: nothing broken, everything clean."""
    for seed in range(seeds):
        result = run_object_seed(seed, ObjectOptions(peers=peers, play=play))
        assert not result.problems, f"seed {seed}: {result.problems[:3]}"


async def until(world: ObjectWorld, condition: Callable[[], bool], most_s: float = 60.0) -> None:
    until_s = world.loop.time() + most_s
    while not condition():
        assert world.loop.time() < until_s, "it did not come to that"
        await asyncio.sleep(0.1)


def kept_by(world: ObjectWorld, peer: SimPeer) -> int:
    store = world.stores.get(peer.name)
    return store.chunks.hints.total if store is not None else 0


def test_a_peer_that_leaves_is_let_go_only_when_its_hints_are_with_others() -> None:
    """Goal (P6): a keeper of an owner's bytes is to leave before that owner can ask for them: it stays until it has."""

    async def play(world: ObjectWorld) -> None:
        cluster, network = world.cluster, world.cluster.network
        away = cluster.peers[1]
        away.crash()
        await until(world, lambda: any(whom == away.id for _, whom in network.given_up))
        for key in world.keys:
            await world.operate("c1", cluster.peers[0], linear.PUT, key, chunks=5)
        leaver = max(cluster.peers[2:], key=lambda peer: kept_by(world, peer))
        assert kept_by(world, leaver) > 0
        network.rule = lambda *what: LOST if what == (away.id, leaver.id, HINTS) else None
        away.start()
        await until(world, lambda: away.serving and not network.given_up)
        replica = cluster.peers[0].replica
        assert replica is not None
        await cluster.peers[0].request(
            lambda: replica.change_ring(lambda base: drained(base, leaver.id, leave=True))
        )
        await until(world, lambda: cluster.whole and replica.epoch.table.partitions_of(leaver.id) == 0)
        await asyncio.sleep(20)
        assert replica.epoch.member(leaver.id) is not None, "it was let go with what it kept for another one"
        network.rule = None
        await until(world, lambda: leaver.removed)

    sound(play, 6)


@pytest.mark.parametrize("merged", [False, True])
def test_a_peer_that_dies_while_it_leaves_is_let_go(merged: bool) -> None:
    """Goal (P6): it dies in the joint epoch, or when that is over and the others fetch its chunks: it is out without an
    operator, nothing is lost, and started again it ends as it was asked to."""

    async def play(world: ObjectWorld) -> None:
        cluster, network = world.cluster, world.cluster.network
        for key in world.keys:
            await world.operate("c1", cluster.peers[0], linear.PUT, key, chunks=5)
        leaver, asked = cluster.peers[2], cluster.peers[0]
        replica = asked.replica
        assert replica is not None
        network.rule = lambda *what: LOST if what[1] == leaver.id and what[2] in COPIES else None
        await asked.request(lambda: replica.change_ring(lambda base: drained(base, leaver.id, leave=True)))
        if merged:
            await until(world, lambda: replica.epoch.kind == "final")
        assert (replica.epoch.kind == "final") == merged and replica.epoch.member(leaver.id) is not None
        leaver.crash()
        healing = world.stores[asked.name].healing
        left = healing._to_fetch([leaver.id])
        healing._chunks.holder.damaged += 1
        assert healing._to_fetch([leaver.id]) == left + 1, "it may have what is damaged here"
        healing._chunks.holder.damaged -= 1
        network.rule = None
        await until(world, lambda: replica.epoch.member(leaver.id) is None)
        leaver.start()
        await until(world, lambda: leaver.removed)
        assert not leaver.evicted

    sound(play, 5)
