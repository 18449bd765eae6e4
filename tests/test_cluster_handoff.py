"""Hints, workers and interrupted uploads on real peers."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from blake3 import blake3

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_kills import SIZES, rows_and_chunks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """A cluster whose peers are killed; every test leaves all of them running. Chunks of 1 MiB."""
    with ClusterWorld(tmp_path_factory.mktemp("handoff"), options=["--chunk-size", "1MiB"]) as cluster:
        yield cluster


def workers(world: ClusterWorld, peer: int, name: str) -> dict[str, Any]:
    """Node -> what this worker does there, as one peer tells."""
    answer = world.call("GET", "/v1/cluster/workers", peer=peer)
    assert answer.status == 200
    return {one["node"]["name"]: one for one in answer.json["workers"] if one["worker"] == name}


def command(world: ClusterWorld, rest: str, peer: int = 0) -> Any:
    answer = world.call("POST", f"/v1/cluster/workers/{rest}", peer=peer)
    assert answer.status == 200, answer
    return answer.json


def test_hints_alone_bring_back_what_was_missed(world: ClusterWorld) -> None:
    """Schedule 9 (a hint holder restarts without traffic): with anti-entropy paused, the peers that keep the hints
    restarted and nobody asking for anything, a returning peer gets every row and every chunk it missed."""
    assert command(world, "anti-entropy/pause")["failed"] == []
    world.kill(1)
    assert world.call("PUT", "/v1/buckets/hinted").status == 201
    for number in range(60):
        size = SIZES[number % len(SIZES)]
        path = f"/v1/buckets/hinted/objects/{number}"
        assert world.call("PUT", path, content(number, size), peer=2 * (number % 2)).status == 200
    for number in range(5):
        assert world.call("DELETE", f"/v1/buckets/hinted/objects/{number}").status == 204
    line = world.call("GET", "/v1/cluster").json["redundancy"]
    assert not line["whole"]
    wait_until(
        lambda: all(workers(world, 0, "hints")[name]["queue"] > 20 for name in ("peer-1", "peer-3")), "hints"
    )
    for keeper in (0, 2):
        world.restart(keeper)
    assert {one["state"] for one in workers(world, 0, "anti-entropy").values()} == {"paused"}
    world.start(1)
    world.wait_ready(1)
    wait_until(
        lambda: sum(one["queue"] for one in workers(world, 0, "hints").values()) == 0, "no hint is left"
    )
    rows, chunks = rows_and_chunks(world, 1)
    for peer in (0, 2):
        theirs, names = rows_and_chunks(world, peer)
        behind = [key for key, ballot in theirs.items() if rows.get(key, b"") < ballot]
        assert not behind and set(names) <= set(chunks), f"peer 1 lacks what peer {peer} holds"
    assert command(world, "all/resume", 1)["failed"] == []
    wait_until(
        lambda: bool(world.call("GET", "/v1/cluster").json["redundancy"]["whole"]), "all is well again"
    )
    assert world.call("GET", "/v1/cluster").json["redundancy"]["message"] == "Every object has its 3 copies."


def test_a_throttle_is_kept_over_restarts(world: ClusterWorld) -> None:
    """Goal: a rate set through one peer holds on all, and after a restart."""
    told = command(world, "hints/throttle?per_second=77", 1)
    assert len(told["workers"]) == 3 and told["failed"] == []
    world.restart(2)
    assert {one["per_second"] for one in workers(world, 2, "hints").values()} == {77}
    assert command(world, "hints/throttle?per_second=0")["workers"][0]["per_second"] is None


def test_a_command_names_the_peer_that_did_not_hear_it(world: ClusterWorld) -> None:
    """Goal: nobody believes that a worker is paused where it is not."""
    world.kill(2)
    told = command(world, "anti-entropy/pause")
    assert [one["node"] for one in told["failed"]] == ["peer-3"] and len(told["workers"]) == 2
    world.start(2)
    world.wait_ready(2)
    wait_until(lambda: len(workers(world, 0, "anti-entropy")) == 3, "everybody answers")
    assert workers(world, 0, "anti-entropy")["peer-3"]["state"] != "paused"
    assert command(world, "anti-entropy/resume")["failed"] == []


def test_an_upload_that_dies_half_way_and_is_retried_elsewhere(world: ClusterWorld) -> None:
    """Schedule 13: the coordinator dies in the middle of a chunked upload, of which other peers hold half, and another body
    is put through another peer: everybody reads that one, whole, and before it what was there."""
    assert world.call("PUT", "/v1/buckets/halves").status == 201
    for number in range(3):
        path = f"/v1/buckets/halves/objects/{number}"
        before, dying, after = (content(number * 10 + step, 6 * MIB + 11) for step in range(3))
        assert world.call("PUT", path, before).status == 200
        place = world.place(1)
        connection = http.client.HTTPConnection("127.0.0.1", place.api_port, timeout=30)
        try:
            connection.putrequest("PUT", path)
            connection.putheader("Authorization", world.authorization)
            connection.putheader("Content-Length", str(len(dying)))
            connection.endheaders(dying[: (2 + number) * MIB + 5])
            written = {blake3(dying[at * MIB : (at + 1) * MIB]).digest() for at in range(2 + number)}
            wait_until(partial(_all_held, world, 0, written), "half of the upload lies on another peer")
            world.kill(1)
        finally:
            connection.close()
        assert world.call("GET", path).body == before
        assert world.call("PUT", path, after, peer=2).status == 200
        world.start(1)
        world.wait_ready(1)
        for peer in range(3):
            assert world.call("GET", path, peer=peer).body == after


def _all_held(world: ClusterWorld, peer: int, names: set[bytes]) -> bool:
    return names <= {key[2:] for key in rows_and_chunks(world, peer)[1]}


def _so_many(done: list[int], wanted: int) -> bool:
    return len(done) >= wanted


def test_killed_straight_after_acknowledgements(world: ClusterWorld) -> None:
    """Schedule 14: on real processes, every peer is killed the moment answers arrive; each acknowledged object is there
    after the restart. (That it was synced before, test_cluster_syncs shows; the loss of unsynced pages, the simulator.)"""
    assert world.call("PUT", "/v1/buckets/cut").status == 201
    for turn in range(3):
        acknowledged: list[int] = []

        def put(number: int, turn: int = turn, done: list[int] = acknowledged) -> None:
            path, size = f"/v1/buckets/cut/objects/{turn}-{number}", SIZES[number % len(SIZES)]
            try:
                answer = world.call("PUT", path, content(number + turn, size), peer=number % 3)
            except (OSError, http.client.HTTPException):
                return
            if answer.status == 200:
                done.append(number)

        with ThreadPoolExecutor(12) as pool:
            for number in range(400):
                pool.submit(put, number)
            wait_until(partial(_so_many, acknowledged, 40 * (turn + 1)), "acknowledgements")
            world.kill_all()
        world.start_again()
        assert acknowledged
        for number in acknowledged:
            body = world.call("GET", f"/v1/buckets/cut/objects/{turn}-{number}", peer=(number + 1) % 3).body
            assert body == content(number + turn, SIZES[number % len(SIZES)])
