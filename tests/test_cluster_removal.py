"""Changes of the ring on real peers over which somebody dies, at known moments: a paused worker keeps a change where it is.

Whoever dies, the change ends or is undone without an operator, and in the end every owner holds what it should.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster_tools import wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_eviction import LATER, SOON
from tests.test_cluster_ring import (
    CHANGE_S,
    audit,
    check_old,
    filled,
    node_of,
    paused,
    ring_state,
    state,
    wait_settled,
    writing,
)

OBJECTS = 100


def kind(world: ClusterWorld) -> str:
    """Of the epoch in force."""
    return str(world.json_of("/v1/cluster")["epoch"]["kind"])


def four(world: ClusterWorld) -> None:
    world.start(3)
    world.wait_ready(3)
    wait_settled(world, [0, 1, 2, 3], 4)


def test_a_peer_that_was_killed_a_moment_ago_is_removed(tmp_path: Path) -> None:
    """Goal: gossip does not know yet, or only suspects it: the removal is the end of it all the same, long before it would
    be removed by itself."""
    with filled(tmp_path, 4, OBJECTS) as world:
        four(world)
        with writing(world, (0, 2, 3), 2) as writer:
            writer.wait_for(5)
            world.kill(1)
            assert world.atoll("node", "remove", "peer-2", "--confirm", "peer-2").returncode == 0
            wait_settled(world, [0, 2, 3], 3)
        check_old(world, 3, OBJECTS)
        audit(world, [0, 2, 3])


@pytest.mark.parametrize("worker", ["transition", "anti-entropy"])
def test_a_peer_that_dies_while_it_leaves_is_out(tmp_path: Path, worker: str) -> None:
    """Goal: it dies in the joint epoch, or in the final one while the others fetch its chunks. Started again it ends as it
    was asked to; started once more it is a new peer."""
    with filled(tmp_path, 4, OBJECTS) as world:
        four(world)
        old = node_of(world, "peer-2")["id"]
        with paused(world, worker, "peer-1", "peer-3", "peer-4"):
            assert world.atoll("node", "remove", "peer-2", "--confirm", "peer-2").returncode == 0
            wanted = "joint" if worker == "transition" else "final"
            wait_until(lambda: kind(world) == wanted, f"the ring is {wanted}", CHANGE_S)
            wait_until(
                lambda: world.json_of("/v1/cluster", peer=1)["epoch"]["kind"] == wanted, "it knows", CHANGE_S
            )
            assert ring_state(world, "peer-2") == "leaving"
            world.kill(1)
            wait_until(lambda: state(world, "peer-2") == "dead", "peer-2 is known to be dead", CHANGE_S)
        wait_settled(world, [0, 2, 3], 3)
        check_old(world, 3, OBJECTS)
        audit(world, [0, 2, 3])
        world.start(1)
        wait_until(lambda: not world.running(1), "it ends as it was asked to", CHANGE_S)
        assert world.stop(1) == 0
        world.start(1)
        world.wait_ready(1)
        wait_settled(world, [0, 1, 2, 3], 4)
        assert node_of(world, "peer-2")["id"] != old
        audit(world, [0, 1, 2, 3])


@pytest.mark.parametrize("instead", [False, True])
def test_a_peer_that_dies_while_it_joins_is_given_up(tmp_path: Path, instead: bool) -> None:
    """Goal: a fourth one, or one in the place of a dead one, dies in the joint epoch: the ring is as before by itself.
    Whoever comes back then is in it."""
    with filled(tmp_path, 4, OBJECTS, environment=SOON) as world:
        if instead:
            world.kill(1)
            wait_until(lambda: state(world, "peer-2") == "dead", "peer-2 is known to be dead", CHANGE_S)
        with paused(world, "transition", "peer-3"), writing(world, (0, 2), 0) as writer:
            world.start(3, *(("--replace", "peer-2") if instead else ()))
            world.wait_ready(3)
            assert kind(world) == "joint"
            world.kill(3)
            writer.wait_for(5)
            wait_until(lambda: kind(world) == "final", "it is given up", CHANGE_S)
        names = {node["name"] for node in world.json_of("/v1/cluster/nodes")["nodes"]}
        assert names == {"peer-1", "peer-2", "peer-3"}
        back = 1 if instead else 3
        world.start(back)
        world.wait_ready(back)
        there = [0, 1, 2] if instead else [0, 1, 2, 3]
        wait_settled(world, there, len(there))
        check_old(world, back, OBJECTS)
        audit(world, there)


def test_more_replicas_are_made_only_by_as_many_living_peers(tmp_path: Path) -> None:
    """Goal: refused early while one of the four is dead, and told whom to start. When it dies over the change that is given
    up by itself, and the dead one removed; three peers keep three replicas."""
    with filled(tmp_path, 4, OBJECTS, environment=LATER) as world:
        four(world)
        world.kill(3)
        wait_until(lambda: state(world, "peer-4") == "dead", "peer-4 is known to be dead", CHANGE_S)
        refused = world.atoll("ring", "set-replicas", "4", "--yes")
        assert refused.returncode == 6 and "start peer-4" in refused.stderr
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        with paused(world, "transition", "peer-1"):
            assert world.atoll("ring", "set-replicas", "4", "--yes").returncode == 0
            assert kind(world) == "joint"
            world.kill(3)
        wait_settled(world, [0, 1, 2], 3)
        assert world.json_of("/v1/cluster")["replicas"] == 3
        check_old(world, 1, OBJECTS)
        audit(world, [0, 1, 2])
