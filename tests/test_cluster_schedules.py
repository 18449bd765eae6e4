"""Named schedules (docs/testing.md) that need real processes and HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster_tools import content
from tests.cluster_world import Answer, ClusterWorld

CLIENTS = 12
CREATE = {"If-None-Match": "*"}
SIZES = (10, 30_000, 200_000)
"""Inline, and as chunks that travel in a call."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    with ClusterWorld(tmp_path_factory.mktemp("race"), options=["--partition-power", "8"]) as cluster:
        assert cluster.call("PUT", "/v1/buckets/race").status == 201
        yield cluster


def race(world: ClusterWorld, key: str, gateways: tuple[int, ...], size: int) -> list[Answer]:
    """Every client creates the key at once, through its gateway; client n sends `content(n, size)`."""
    start = threading.Barrier(CLIENTS)

    def create(number: int) -> Answer:
        start.wait(30)
        path = f"/v1/buckets/race/objects/{key}"
        return world.call("PUT", path, content(number, size), CREATE, peer=gateways[number % len(gateways)])

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(create, range(CLIENTS)))


@pytest.mark.parametrize("size", SIZES)
def test_gateways_race_to_create_over_http(world: ClusterWorld, size: int) -> None:
    """Schedule 6: twelve clients create one key at once through three gateways, twenty times: one is told 200, all others
    412 or 409, and every gateway serves the winner's bytes. With one gateway killed it is the same through the other two."""
    assert sum(decided(world, f"{size}-{number}", (0, 1, 2), size) for number in range(20)) > 0
    world.kill(2)
    try:
        assert sum(decided(world, f"{size}-two-{number}", (0, 1), size) for number in range(5)) > 0
    finally:
        world.start_again()


def decided(world: ClusterWorld, key: str, gateways: tuple[int, ...], size: int) -> bool:
    """One race. False if nobody was told that it won: on a machine that stands still for seconds the winner may be among
    those that were told 503."""
    answers = race(world, key, gateways, size)
    told = [answer.status for answer in answers]
    assert set(told) <= {200, 409, 412, 503} and told.count(200) <= 1, told
    read = {world.call("GET", f"/v1/buckets/race/objects/{key}", peer=peer).body for peer in gateways}
    winners = [number for number, status in enumerate(told) if status == (200 if 200 in told else 503)]
    assert len(read) == 1 and read <= {content(number, size) for number in winners}, told
    return 200 in told


def test_nobody_creates_without_a_majority(world: ClusterWorld) -> None:
    """Schedule 6, its end: cut off from a majority every creator is told 503 and when to come back, of a key that is there
    as well as of one that is not: a condition that cannot be decided is not ignored. Afterwards nothing is there."""
    world.call("PUT", "/v1/buckets/race/objects/there", b"kept")
    world.kill(1)
    world.kill(2)
    try:
        for key, size in (("nobody", 10), ("nobody-large", 200_000), ("there", 10)):
            answers = race(world, key, (0,), size)
            assert {answer.status for answer in answers} == {503}
            assert all("retry-after" in answer.headers for answer in answers)
    finally:
        world.start_again()
    for peer in range(3):
        assert world.call("GET", "/v1/buckets/race/objects/there", peer=peer).body == b"kept"
        for key in ("nobody", "nobody-large"):
            assert world.call("GET", f"/v1/buckets/race/objects/{key}", peer=peer).status == 404
