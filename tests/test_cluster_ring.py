"""P6 on real peers: the ring changes while clients work, and afterwards every owner holds what it should, nobody more.

The audit at the end of each test reads the data directories, not the API: rows and chunks of every partition lie on each
of its owners, and rows on nobody else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peer.replication.healing.transition import IDLE_S
from tests.cluster_tools import Writer, content, wait_until
from tests.cluster_world import ClusterWorld

BUCKET = "filled"
SMALL, LARGE = 900, 120_000
CHANGE_S = 120.0


class RingWorld(ClusterWorld):
    """A cluster of which the first `first` peers are started at once, the others by `start` when they are to join."""

    first = 3

    def start_all(self) -> None:
        whole = self.layout.peers
        self.layout = replace(self.layout, peers=self.first)
        super().start_all()
        self.layout = replace(self.layout, peers=whole)


@contextmanager
def filled(
    directory: Path, peers: int, objects: int = 300, environment: Mapping[str, str] | None = None
) -> Iterator[ClusterWorld]:
    """Three peers with objects of both kinds, and room for more peers."""
    with RingWorld(directory, peers, options=["--partition-power", "8"], environment=environment) as world:
        world.call("PUT", f"/v1/buckets/{BUCKET}")
        with world.client(0, 1, 2) as client:
            for number in range(objects):
                client.put(BUCKET, f"old/{number:05d}", content(number, LARGE if number % 10 == 0 else SMALL))
        yield world


@contextmanager
def writing(world: ClusterWorld, writers: tuple[int, ...], reader: int) -> Iterator[Writer]:
    """Clients write through some peers meanwhile; in the end all of it reads through another one."""
    with world.client(*writers) as client, Writer(client, BUCKET, "new/") as writer:
        yield writer
    with world.client(reader, pin=True) as client:
        assert writer.check(client)


def check_old(world: ClusterWorld, peer: int, objects: int = 300) -> None:
    """Every object of `filled` reads through this peer."""
    with world.client(peer, pin=True) as client:
        for number in range(objects):
            found = client.get(BUCKET, f"old/{number:05d}").read()
            assert found == content(number, LARGE if number % 10 == 0 else SMALL), number


def settled(world: ClusterWorld, peers: list[int], members: int) -> bool:
    """All of these see one final ring of so many members, and nothing left to heal."""
    seen = set()
    for peer in peers:
        told = world.json_of("/v1/cluster", peer=peer)
        if told["verdict"] != "healthy" or len(told["nodes"]) != members:
            return False
        seen.add((told["epoch"]["number"], told["epoch"]["kind"]))
    return len(seen) == 1 and next(iter(seen))[1] == "final"


def wait_settled(world: ClusterWorld, peers: list[int], members: int) -> None:
    try:
        wait_until(lambda: settled(world, peers, members), f"a ring of {members} at rest", CHANGE_S)
    except AssertionError as error:
        told = [world.json_of("/v1/cluster", peer=peer) for peer in peers]
        story = [(one["epoch"], one["verdict"], one["reasons"], len(one["nodes"])) for one in told]
        raise AssertionError(f"{error}: {story}") from error


def held(world: ClusterWorld, peer: int, table: str) -> dict[int, set[bytes]]:
    """Partition -> keys of the rows a peer's disk has."""
    database = world.place(peer).directory / "rows" / "atoll.db"
    found: dict[int, set[bytes]] = {}
    at = 1 if table == "rows" else 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        for (key,) in rows.execute(f"SELECT k FROM {table}"):
            found.setdefault(int.from_bytes(key[at : at + 2], "big"), set()).add(bytes(key))
    return found


def misplaced(world: ClusterWorld, peers: dict[str, int]) -> str:
    """What the data directories have in the wrong place or lack; "" if nothing. `peers`: member id -> number."""
    ring: dict[str, Any] = world.json_of("/v1/cluster/ring", peer=next(iter(peers.values())))
    ids = [member["id"] for member in ring["members"]]
    for table in ("rows", "chunks"):
        disks = {member: held(world, number, table) for member, number in peers.items()}
        for partition, row in enumerate(ring["owners"]):
            owners = [ids[index] for index in row]
            keys = set().union(*(disk.get(partition, set()) for disk in disks.values()))
            for member, disk in disks.items():
                mine = disk.get(partition, set())
                if member in owners and mine != keys:
                    return f"peer {peers[member]} lacks {len(keys - mine)} {table} of partition {partition}"
                if member not in owners and mine and table == "rows":
                    return (
                        f"peer {peers[member]} holds {len(mine)} rows of partition {partition}, not its own"
                    )
    return ""


def audit(world: ClusterWorld, numbers: list[int]) -> None:
    """Every owner holds everything of its partitions on its disk, and nobody rows of others'."""
    ids = {world.json_of("/v1/cluster", peer=number)["peer"]["id"]: number for number in numbers}
    wait_until(lambda: misplaced(world, ids) == "", "all in place on the disks", CHANGE_S)


def test_a_peer_joins_a_filled_cluster_under_load(tmp_path: Path) -> None:
    """Goal: a fourth peer joins while clients write; no write fails, everything is there, owners hold their share."""
    with filled(tmp_path, 4) as world:
        with writing(world, (0, 1, 2), 3) as writer:
            writer.wait_for(20)
            world.start(3)
            world.wait_ready(3)
            wait_settled(world, [0, 1, 2, 3], 4)
            writer.wait_for(20)
        check_old(world, 3)
        audit(world, [0, 1, 2, 3])
        nodes = world.json_of("/v1/cluster/nodes", peer=3)["nodes"]
        assert [node["partitions"] for node in nodes] == [192] * 4


def test_a_peer_drains_comes_back_and_leaves(tmp_path: Path) -> None:
    """Goal: planned, drained, undrained, removed by hand under load; the drained one can be stopped without any loss."""
    with filled(tmp_path, 4) as world:
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        plan = world.call("POST", "/v1/cluster/nodes/peer-2/drain?plan=true").json
        assert (plan["applied"], plan["partitions"]) == (False, 192) and plan["bytes"] > 0
        with writing(world, (0, 2, 3), 2):
            assert world.atoll("node", "drain", "peer-2", "--yes").returncode == 0
            wait_until(lambda: ring_state(world, "peer-2") == "drained", "peer-2 is drained", CHANGE_S)
            audit(world, [0, 2, 3])
            assert world.atoll("node", "undrain", "peer-2", "--yes").returncode == 0
            wait_until(lambda: ring_state(world, "peer-2") == "active", "peer-2 is active again", CHANGE_S)
            wait_settled(world, [0, 1, 2, 3], 4)
            refused = world.atoll("node", "remove", "peer-2", "--yes")
            assert refused.returncode == 6 and "--confirm peer-2" in refused.stderr
            assert world.atoll("node", "remove", "peer-2", "--confirm", "peer-2").returncode == 0
            wait_until(lambda: not world.running(1), "the removed peer ends", CHANGE_S)
            assert world.stop(1) == 0  # so that Restart=on-failure does not undo it
            wait_settled(world, [0, 2, 3], 3)
        check_old(world, 0)
        audit(world, [0, 2, 3])
        few = world.call("POST", "/v1/cluster/nodes/peer-1/drain")
        assert (few.status, few.code) == (409, "TooFewPeers")


def test_a_keeper_of_hints_leaves_only_when_they_are_delivered(tmp_path: Path) -> None:
    """Schedule 9 (a hint holder drains): a peer that keeps hints for another one, which lives but does not fetch them, is
    removed by an operator. It stays, with all that it had moved away, until the other one has them; then it goes."""
    with filled(tmp_path, 4) as world:
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        assert world.atoll("repair", "pause", "hints", "--node", "peer-2").returncode == 0
        world.kill(1)
        with world.client(0, pin=True) as client:
            for number in range(40):
                client.put(BUCKET, f"missed/{number}", content(number, LARGE if number % 10 == 0 else SMALL))
        wait_until(lambda: keeps(world, "peer-1") > 0, "hints are kept", CHANGE_S)
        world.start(1)
        world.wait_ready(1)
        wait_until(lambda: state(world, "peer-2") == "alive", "peer-2 is back", CHANGE_S)
        assert world.atoll("node", "remove", "peer-1", "--confirm", "peer-1", peer=2).returncode == 0
        wait_until(lambda: moved(world) == {"changes_missed"}, "all else is done", CHANGE_S)
        until_s = uptime_s(world, 2) + 3 * IDLE_S
        wait_until(lambda: uptime_s(world, 2) > until_s, "those who would let it go have looked again")
        assert world.running(0) and keeps(world, "peer-1") > 0
        assert world.atoll("repair", "resume", "hints", "--node", "peer-2", peer=2).returncode == 0
        wait_until(lambda: not world.running(0), "the keeper leaves", CHANGE_S)
        wait_settled(world, [1, 2, 3], 3)
        with world.client(1, pin=True) as client:
            for number in range(40):
                expected = content(number, LARGE if number % 10 == 0 else SMALL)
                assert client.get(BUCKET, f"missed/{number}").read() == expected
        audit(world, [1, 2, 3])


def keeps(world: ClusterWorld, name: str) -> int:
    """How many hints a peer keeps for others."""
    workers = world.json_of("/v1/cluster/workers", peer=2)["workers"]
    return sum(
        int(one["queue"]) for one in workers if one["worker"] == "hints" and one["node"]["name"] == name
    )


def moved(world: ClusterWorld) -> set[str]:
    """What is still out of order."""
    told = world.json_of("/v1/cluster", peer=2)
    return {reason["code"] for reason in told["reasons"]} if told["epoch"]["kind"] == "final" else {"joint"}


def uptime_s(world: ClusterWorld, peer: int) -> float:
    return float(world.json_of("/v1/cluster", peer=peer)["peer"]["uptime_s"])


def test_a_dead_peer_is_removed(tmp_path: Path) -> None:
    """Goal: one of four dies and is removed: what it held is on the others again, and all of it reads. It comes back after
    all, and joins by itself under a new id."""
    with filled(tmp_path, 4) as world:
        world.start(3)
        world.wait_ready(3)
        wait_settled(world, [0, 1, 2, 3], 4)
        old = node_of(world, "peer-2")["id"]
        world.kill(1)
        wait_until(lambda: state(world, "peer-2") == "dead", "peer-2 is known to be dead", CHANGE_S)
        with writing(world, (0, 2, 3), 2) as writer:
            writer.wait_for(5)
            assert world.atoll("node", "remove", "peer-2", "--confirm", "peer-2").returncode == 0
            wait_settled(world, [0, 2, 3], 3)
        check_old(world, 3)
        audit(world, [0, 2, 3])
        world.start(1)
        world.wait_ready(1)
        wait_settled(world, [0, 1, 2, 3], 4)
        assert node_of(world, "peer-2")["id"] != old
        check_old(world, 1)
        audit(world, [0, 1, 2, 3])


def test_a_dead_peer_is_replaced(tmp_path: Path) -> None:
    """Goal: one of three dies for good; a new peer's joining waits for it, until it is removed; then all is whole."""
    with filled(tmp_path, 4) as world:
        world.kill(1)
        wait_until(lambda: state(world, "peer-2") == "dead", "peer-2 is known to be dead", CHANGE_S)
        world.start(3)
        world.wait_ready(3)
        with writing(world, (0, 2), 3) as writer:
            writer.wait_for(5)
            assert world.atoll("node", "remove", "peer-2", "--confirm", "peer-2").returncode == 0
            wait_settled(world, [0, 2, 3], 3)
        check_old(world, 3)
        audit(world, [0, 2, 3])


def test_participants_die_during_a_change(tmp_path: Path) -> None:
    """Goal: a fourth joins under load, and the joint epoch is kept open. The seed that proposed it, the joiner, an old owner
    and an owner that has not merged are killed, one after the other, and start again: it ends, nothing is lost."""
    with filled(tmp_path, 4) as world:
        with writing(world, (0, 1, 2), 3) as writer:
            with paused(world, "transition", "peer-3"):
                world.start(3)
                world.wait_ready(3)
                joint = world.json_of("/v1/cluster")["epoch"]
                assert joint["kind"] == "joint"
                for victim in (0, 3, 1, 2):
                    world.kill(victim)
                    writer.wait_for(2)
                    world.start(victim)
                    world.wait_ready(victim)
                    assert world.json_of("/v1/cluster", peer=victim)["epoch"] == joint
            wait_settled(world, [0, 1, 2, 3], 4)
        check_old(world, 1)
        audit(world, [0, 1, 2, 3])


@contextmanager
def paused(world: ClusterWorld, worker: str, *names: str) -> Iterator[None]:
    """A worker of these peers rests, also after a restart."""
    for name in names:
        assert world.atoll("repair", "pause", worker, "--node", name).returncode == 0
    yield
    for name in names:
        assert world.atoll("repair", "resume", worker, "--node", name).returncode == 0


def ring_state(world: ClusterWorld, name: str) -> str:
    return str(node_of(world, name).get("ring"))


def state(world: ClusterWorld, name: str) -> str:
    return str(node_of(world, name).get("state"))


def node_of(world: ClusterWorld, name: str) -> dict[str, Any]:
    nodes = world.json_of("/v1/cluster/nodes")["nodes"]
    return next((dict(node) for node in nodes if node["name"] == name), {})
