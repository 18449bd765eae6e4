"""Automatic removal on real peers: who stays dead is removed, what it held is copied, and it may come back (§5)."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.cluster_tools import wait_until
from tests.cluster_world import READY_S, ClusterWorld
from tests.test_cluster_ring import (
    CHANGE_S,
    audit,
    check_old,
    filled,
    node_of,
    state,
    wait_settled,
    writing,
)
from tools.devlayout import last_words

SOON = {"ATOLL_EVICT_AFTER": "6s"}
LATER = {"ATOLL_EVICT_AFTER": "12s"}  # so that what is said before can be read on a busy machine, too


def reasons(world: ClusterWorld) -> str:
    """What peer 0 says is out of order."""
    return " / ".join(reason["message"] for reason in world.json_of("/v1/cluster")["reasons"])


def test_a_dead_peer_is_removed_by_itself(tmp_path: Path) -> None:
    """Goal: one of four is killed under load and removed by itself; health returns, and everything reads with any further
    peer killed. It comes back after all, and joins by itself under a new id."""
    with filled(tmp_path, 4, environment=LATER) as world:
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        old = node_of(world, "peer-2")["id"]
        with writing(world, (0, 2, 3), 2) as writer:
            writer.wait_for(5)
            world.kill(1)
            wait_until(lambda: "it is removed at 12 s" in reasons(world), "status says when", CHANGE_S)
            wait_settled(world, [0, 2, 3], 3)
        audit(world, [0, 2, 3])
        logs = "".join(world.place(number).log.read_text() for number in (0, 2, 3))
        assert "removing peer-2" in logs
        for victim, reader in ((0, 2), (2, 3), (3, 0)):
            world.kill(victim)
            check_old(world, reader)
            world.start(victim)
            world.wait_ready(victim)
        world.start(1)
        world.wait_ready(1)
        wait_settled(world, [0, 1, 2, 3], 4)
        assert node_of(world, "peer-2")["id"] != old
        check_old(world, 1)
        audit(world, [0, 1, 2, 3])


def test_a_join_that_waits_for_a_dead_peer_ends_by_itself(tmp_path: Path) -> None:
    """Goal: one of three dies and stays, as too few would be left, and `status` says so. A fourth joins, which waits for the
    dead one; after a while the change is made anew without that, and all is whole."""
    with filled(tmp_path, 4, environment=SOON) as world:
        world.kill(1)
        wait_until(lambda: state(world, "peer-2") == "dead", "peer-2 is known to be dead", CHANGE_S)
        wait_until(lambda: "2 peers would be left for 3 replicas" in reasons(world), "it says why", CHANGE_S)
        workers = world.atoll("repair", "status")
        assert "eviction" in workers.stdout and "2 peers would be left" in workers.stdout
        world.start(3)
        world.wait_ready(3)
        with writing(world, (0, 2), 3) as writer:
            writer.wait_for(5)
            wait_settled(world, [0, 2, 3], 3)
        check_old(world, 3)
        audit(world, [0, 2, 3])


def test_a_frozen_peer_that_was_removed_comes_back_by_itself(tmp_path: Path) -> None:
    """Goal: one of four stands still (SIGSTOP) until it is removed; it goes on, learns that, and joins under a new id, not
    started again."""
    with filled(tmp_path, 4, environment=SOON) as world:
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        old = node_of(world, "peer-2")["id"]
        world.signal(1, signal.SIGSTOP)
        with writing(world, (0, 2, 3), 2) as writer:
            writer.wait_for(5)
            wait_settled(world, [0, 2, 3], 3)
        world.signal(1, signal.SIGCONT)
        wait_until(lambda: node_of(world, "peer-2").get("id", old) != old, "it is back", CHANGE_S)
        world.wait_ready(1)
        wait_settled(world, [0, 1, 2, 3], 4)
        check_old(world, 1)
        audit(world, [0, 1, 2, 3])


def test_a_dead_peer_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    """Goal: `--replace`: refused for a living and for an unknown peer, and nothing changed; for a dead one the new one is in
    its place after one change, and everything reads."""
    with filled(tmp_path, 4) as world:
        for name, why in (("peer-2", "peer-2 is alive"), ("peer-7", "no peer 'peer-7' in the ring")):
            world.start(3, "--replace", name)
            wait_until(lambda: not world.running(3), "the new peer ends", READY_S)
            assert why in " / ".join(last_words(world.place(3), 5))
            assert world.json_of("/v1/cluster")["verdict"] == "healthy"
        before = world.json_of("/v1/cluster")["epoch"]["number"]
        world.kill(1)
        with writing(world, (0, 2), 3) as writer:
            world.start(3, "--replace", "peer-2")
            world.wait_ready(3)
            writer.wait_for(5)
            wait_settled(world, [0, 2, 3], 3)
        ring = [one for one in world.json_of("/v1/cluster/epochs")["epochs"] if one["number"] > before]
        joint = [sorted(one["members"]) for one in ring if one["kind"] == "joint"]
        assert joint == [["peer-1", "peer-3", "peer-4"]]
        check_old(world, 3)
        audit(world, [0, 2, 3])
