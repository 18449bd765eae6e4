"""A real peer that was away for longer than hints, garbage, tombstones, and its own membership: it resurrects nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.errors import NotFound
from tests.cluster_tools import content, listing, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_ring import (
    BUCKET,
    CHANGE_S,
    LARGE,
    SMALL,
    filled,
    held,
    node_of,
    wait_settled,
)

OBJECTS = 60
GONE = range(0, OBJECTS, 4)
"""Deleted while the peer is away; of the objects of chunks each other one is."""
KEY_AT = 13
"""Where an object's own key begins in its row's."""


def key_of(number: int) -> str:
    return f"old/{number:05d}"


def rows_of_the_gone(world: ClusterWorld, peers: list[int]) -> int:
    """Rows on the disks of these peers, values or tombstones, about what was deleted."""
    gone = {key_of(number).encode() for number in GONE}
    rows = [key for peer in peers for keys in held(world, peer, "rows").values() for key in keys]
    return sum(key[0] == 3 and key[KEY_AT:] in gone for key in rows)


def chunks_on(world: ClusterWorld, peer: int) -> set[bytes]:
    return set().union(*held(world, peer, "chunks").values())


def purge(world: ClusterWorld) -> None:
    """Begin with tombstones what would begin in an hour. The first pass goes up to when the wait before it began."""
    assert world.atoll("repair", "start", "tombstones").returncode in (0, 7)


def wait_purged(world: ClusterWorld, peers: list[int]) -> None:
    def none_left() -> bool:
        purge(world)
        return rows_of_the_gone(world, peers) == 0

    wait_until(none_left, "no row is left of what was deleted", CHANGE_S)


def check(world: ClusterWorld, peers: list[int]) -> None:
    """What was deleted is so, and all else is there, through each of these peers."""
    for peer in peers:
        with world.client(peer, pin=True) as client:
            for number in range(OBJECTS):
                if number in GONE:
                    with pytest.raises(NotFound):
                        client.get(BUCKET, key_of(number)).read()
                else:
                    size = LARGE if number % 10 == 0 else SMALL
                    assert client.get(BUCKET, key_of(number)).read() == content(number, size)
            wanted = [key_of(number) for number in range(OBJECTS) if number not in GONE]
            assert [one.key for one in listing(client, BUCKET)] == wanted


@pytest.mark.parametrize("fate", ["it was removed meanwhile", "it is a member still"])
def test_who_was_away_longer_than_everything_resurrects_nothing(tmp_path: Path, fate: str) -> None:
    """Goal (§8): objects are deleted while a peer is dead, and their chunks go. If it was removed, tombstones are purged and
    hints are gone before it comes back with all its old rows and chunks; if not, tombstones wait for it, and are purged
    afterwards. Either way nothing deleted is read or listed through anybody, nor lies on its disk."""
    removed = fate == "it was removed meanwhile"
    environment = {"ATOLL_GARBAGE_AFTER": "100ms", "ATOLL_EVICT_AFTER": "6s" if removed else "0s"}
    peers = [0, 1, 2, 3] if removed else [0, 1, 2]
    others = [peer for peer in peers if peer != 1]
    with filled(tmp_path, len(peers), OBJECTS, environment) as world:
        if removed:
            world.start(3)
            world.wait_ready(3)
        wait_settled(world, peers, len(peers))
        old = node_of(world, "peer-2")["id"]
        world.kill(1)
        with world.client(*others) as client:
            for number in GONE:
                client.delete(BUCKET, key_of(number))
        if removed:
            wait_settled(world, others, 3)
            wait_purged(world, others)
        else:
            for _ in range(3):
                purge(world)
            assert rows_of_the_gone(world, others) == 2 * len(GONE), "tombstones wait for who is away"
        kept = set().union(*(chunks_on(world, peer) for peer in others))
        world.start(1)
        world.wait_ready(1)
        wait_settled(world, peers, len(peers))
        assert (node_of(world, "peer-2")["id"] == old) == (not removed)
        check(world, peers)
        wait_purged(world, peers)
        check(world, peers)
        still = set().union(*(chunks_on(world, peer) for peer in others))
        assert still <= kept
        wait_until(lambda: chunks_on(world, 1) <= still, "its old chunks are gone, too", CHANGE_S)
