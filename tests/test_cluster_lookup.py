"""GET /v1/cluster/ring/lookup?chunks=true on real peers: who holds what, and what nobody can know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_api_openapi import check

KIB = 1024
CHUNK = 64 * KIB
ROUTE = "/v1/cluster/ring/lookup"
BUCKET = "/v1/buckets/photos"


def look(world: ClusterWorld, key: str, peer: int = 0, more: str = "") -> dict[str, Any]:
    answer = world.call("GET", f"{ROUTE}?bucket=photos&key={key}&chunks=true{more}", peer=peer)
    check(answer, "GET", ROUTE)
    return dict(answer.json)


def copies(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all its chunks."""
    return [copy for chunk in told["object"]["chunks"] for copy in chunk["copies"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = ("--chunk-size", "64KiB", "--partition-power", "8")
    with ClusterWorld(tmp_path_factory.mktemp("lookup"), 4, options=options) as running:
        assert running.call("PUT", BUCKET).status == 201
        yield running


def test_an_object_and_its_chunks(world: ClusterWorld) -> None:
    """Goal: every peer tells every chunk of an object, from lists beside its head, too, with its size, its partition and
    three copies; a hundred at a time."""
    body = content(1, 130 * CHUNK + 5)
    put = world.call("PUT", f"{BUCKET}/objects/large", body)

    def made() -> bool:
        parts = [look(world, "large"), look(world, "large", more="&from=100")]
        owners = [owner["holds"] for part in parts for owner in part["owners"]]
        return all(owners) and all(copy["holds"] for part in parts for copy in copies(part))

    wait_until(made, "all copies are made: an upload is answered when most are")
    for peer in range(4):
        told = look(world, "large", peer)
        assert (told["object"]["size"], told["object"]["etag"]) == (len(body), put.json["etag"])
        assert [one["holds"] for one in told["owners"]] == [True] * 3
        rest = look(world, "large", peer, f"&from={told['object']['next']}")
        chunks = told["object"]["chunks"] + rest["object"]["chunks"]
        assert (told["object"]["next"], rest["object"]["next"]) == (100, None)
        assert [chunk["index"] for chunk in chunks] == list(range(131))
        assert [chunk["size"] for chunk in chunks] == [CHUNK] * 130 + [5]
        ring = world.json_of("/v1/cluster/ring")
        for chunk in chunks:
            owners = {ring["members"][at]["id"] for at in ring["owners"][chunk["partition"]]}
            held = {copy["id"] for copy in chunk["copies"] if copy["holds"] and copy["state"] == "alive"}
            assert held >= owners, "and perhaps whoever took one in the place of an owner that was slow"
    assert look(world, "large", more="&from=4000")["object"]["chunks"] == []


def test_what_has_no_chunks(world: ClusterWorld) -> None:
    """Goal: an object that is kept beside its head, none at all, and questions that make no sense."""
    assert world.call("PUT", f"{BUCKET}/objects/small", b"x").status == 200
    wait_until(lambda: all(owner["holds"] for owner in look(world, "small")["owners"]), "all have it")
    told = look(world, "small")
    assert (told["object"]["size"], told["object"]["chunks"], told["object"]["next"]) == (1, [], None)
    told = look(world, "none")
    assert told["object"] is None and [one["holds"] for one in told["owners"]] == [None] * 3
    plain = world.json_of(f"{ROUTE}?bucket=photos&key=small")
    assert "object" not in plain and "holds" not in plain["owners"][0]
    for wrong in ("chunks=yes", "from=1", "chunks=true&from=-1", "chunks=true&from=x"):
        assert world.call("GET", f"{ROUTE}?bucket=photos&key=small&{wrong}").code == "InvalidArgument"
    assert world.call("GET", f"{ROUTE}?bucket=nothing&key=small&chunks=true").code == "NoSuchBucket"


def test_copies_that_are_missing(world: ClusterWorld) -> None:
    """Goal: of a dead peer nothing is known; who keeps a chunk in its place is told of; and when it is back without what it
    missed, it is seen to lack that, until it has fetched it."""
    for worker in ("hints", "anti-entropy"):
        assert world.call("POST", f"/v1/cluster/workers/{worker}/pause").status == 200
    assert world.call("PUT", f"{BUCKET}/objects/before", content(2, 12 * CHUNK)).status == 200
    world.kill(3)
    wait_until(
        lambda: world.json_of("/v1/cluster/nodes")["nodes"][3]["state"] == "dead", "it is known to be dead"
    )
    assert world.call("PUT", f"{BUCKET}/objects/after", content(3, 12 * CHUNK)).status == 200
    small = [f"small-{number}" for number in range(10)]
    for key in small:
        assert world.call("PUT", f"{BUCKET}/objects/{key}", b"x").status == 200
    for key in ("before", "after"):
        told = look(world, key)
        assert {copy["holds"] for copy in copies(told) if copy["name"] == "peer-4"} == {None}
    assert any(len(chunk["copies"]) == 4 for chunk in told["object"]["chunks"]), (
        "somebody keeps it in its place"
    )
    world.start(3)
    world.wait_ready(3)
    wait_until(
        lambda: world.json_of("/v1/cluster/nodes")["nodes"][3]["state"] == "alive", "it is known to live"
    )
    told = look(world, "after")
    assert {copy["holds"] for copy in copies(told) if copy["name"] == "peer-4"} == {False}
    heads = [owner for key in small for owner in look(world, key)["owners"]]
    assert False in {owner["holds"] for owner in heads if owner["name"] == "peer-4"}
    for worker in ("hints", "anti-entropy"):
        assert world.call("POST", f"/v1/cluster/workers/{worker}/resume").status == 200
    wait_until(
        lambda: (
            {copy["holds"] for copy in copies(look(world, "after")) if copy["name"] == "peer-4"} == {True}
        ),
        "it has fetched what it missed",
    )
