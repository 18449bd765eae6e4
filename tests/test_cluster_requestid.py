"""A client's request id is found in the logs of every peer that worked for the request: three real peers, debug logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_tools import wait_until
from tests.cluster_world import ClusterWorld

LOUD = {"ATOLL_LOG_LEVEL": "debug", "ATOLL_LOG_FORMAT": "json"}
OBJECT = "/v1/buckets/bucket/objects/"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    with ClusterWorld(tmp_path_factory.mktemp("loud"), 3, environment=LOUD) as world:
        assert world.call("PUT", "/v1/buckets/bucket", b'{"shards": 4}').status == 201
        yield world


def lines(world: ClusterWorld, peer: int, request_id: str) -> list[dict[str, Any]]:
    """What this peer logged about a request. Every whole line that begins as JSON must be JSON."""
    text = world.place(peer).log.read_text()
    whole = text[: text.rfind("\n") + 1].splitlines()
    found = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in found if line.get("request_id") == request_id]


def wait_for(world: ClusterWorld, peer: int, request_id: str, words: str) -> dict[str, Any]:
    """The first line of a peer about a request with these words in it."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(world, peer, request_id) if words in line["message"]]

    wait_until(lambda: bool(found()), f"peer {peer} logs {words!r} for {request_id}")
    return found()[0]


def test_a_put_is_found_on_every_peer(world: ClusterWorld) -> None:
    """Goal: the gateway says what was asked and how it ended, the owners what they did for it, for a small put by
    messages, for a large one by transfers of chunks."""
    small, large = "quokka-1", "Root=1-67891233-abcdef012345678912345678"
    told = world.call("PUT", OBJECT + "small", b"x", headers={"X-Request-Id": small}, peer=1)
    assert told.status == 200 and told.headers["x-request-id"] == small
    assert (
        world.call("PUT", OBJECT + "large", bytes(1 << 20), headers={"x-request-id": large}, peer=1).status
        == 200
    )
    gateway = wait_for(world, 1, small, f"PUT {OBJECT}small: 200 in ")
    assert (gateway["level"], gateway["peer"], gateway["logger"]) == ("debug", "peer-2", "peer.api.server")
    ids = {node["name"]: node["id"] for node in world.json_of("/v1/cluster/nodes")["nodes"]}
    for owner in (0, 2):
        line = wait_for(world, owner, small, f"ACCEPT from {ids['peer-2']}")
        assert line["peer"] == f"peer-{owner + 1}" and line["peer_id"] == ids[line["peer"]]
        line = wait_for(world, owner, large, "bulk put of 1048576 bytes")
        assert line["logger"] == "peer.bulkservice"
        wait_for(world, owner, large, "ACCEPT")
    assert not [line for peer in range(3) for line in lines(world, peer, small) if "bulk" in line["message"]]


def test_background_work_is_for_nobody(world: ClusterWorld) -> None:
    """Goal: what peers do by themselves, over connections that requests opened, carries no id."""
    assert world.call("GET", OBJECT + "small", headers={"x-request-id": "only-this"}, peer=2).status == 200
    wait_for(world, 2, "only-this", "GET ")
    for peer in range(3):
        for line in lines(world, peer, "only-this"):
            assert not line["message"].startswith(("COPY_", "HINTS", "INFO", "BOOTS", "PURGE")), line


@pytest.mark.parametrize("odd", ["two words", "", "x" * 65, "caf\xe9"])
def test_an_id_that_cannot_be_shown_is_replaced(world: ClusterWorld, odd: str) -> None:
    """Goal: such a request gets an id of the peer's own, in the answer and in the logs."""
    answer = world.call("GET", OBJECT + "none", headers={"x-request-id": odd})
    assert answer.status == 404
    mine = answer.headers["x-request-id"]
    assert mine != odd and mine == answer.json["error"]["request_id"]
    wait_for(world, 0, mine, f"GET {OBJECT}none: 404 in ")


def test_without_a_terminal_logs_are_json(tmp_path: Path) -> None:
    """Goal: unless something else was said, a log that no terminal shows is JSON, from the first line to the last."""
    with ClusterWorld(tmp_path, 1, environment={"ATOLL_LOG_FORMAT": "auto"}) as alone:
        log = alone.place(0).log
        spoken = [line for line in log.read_text().splitlines() if line.startswith("{")]
        assert [json.loads(line)["level"] for line in spoken] and all(
            json.loads(line)["peer"] for line in spoken
        )
