"""Buckets deleted and made again while clients at other peers write into them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld

Figure = Callable[[str, object], None]

PATH = "/v1/buckets/flux"
CREATE = b'{"shards": 8}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    with ClusterWorld(tmp_path_factory.mktemp("buckets")) as cluster:
        yield cluster


class Tenant:
    """Puts an object, reads it, removes it, again and again.

    An acknowledged object makes the bucket one that cannot be deleted until the tenant itself removes it: then a
    missing bucket or object is a broken promise, while a put that finds no bucket (or one that is being deleted) is
    just refused.
    """

    def __init__(self, world: ClusterWorld, number: int, stop: threading.Event) -> None:
        self._world = world
        self._number = number
        self._stop = stop
        self.kept = 0
        self.refused = 0
        self.broken: list[str] = []

    def run(self) -> None:
        step = 0
        while not self._stop.is_set():
            path = f"{PATH}/objects/{self._number}/{step}"
            body = content(self._number * 1_000_000 + step, (200, 30_000)[step % 2])
            status = self._put(path, body)
            if status == 200:
                self.kept += 1
                self._expect("GET", path, (200, body))
                self._remove(path)
            else:
                self.refused += 1
            step += 1

    def _told(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        answer = self._world.call(method, path, body, peer=self._number % 3)
        return answer.status, answer.body

    def _put(self, path: str, body: bytes) -> int:
        """Put until the outcome is known: 200, or that there is no bucket (or none that takes objects now).

        After "it may or may not have happened" only a write that is acknowledged settles the matter: the first one may
        yet take effect, after a delete that found nothing, too.
        """
        in_doubt = False
        seen: list[int] = []

        def decided() -> bool:
            nonlocal in_doubt
            status, answer = self._told("PUT", path, body)
            seen.append(status)
            in_doubt |= b"OutcomeUnknown" in answer
            return status in (200, 404) or not in_doubt

        wait_until(decided, f"PUT {path} is decided")
        if seen[-1] not in (200, 404, 409, 503):
            self.broken.append(f"PUT {path}: {seen[-1]}")
        return seen[-1]

    def _expect(self, method: str, path: str, wanted: tuple[int, bytes]) -> None:
        """A bucket under deletion may say "later"; anything else but the wanted answer breaks a promise."""
        seen: list[tuple[int, bytes]] = []

        def decided() -> bool:
            seen.append(self._told(method, path))
            return seen[-1][0] != 503

        wait_until(decided, f"{method} {path} is decided")
        if seen[-1] != wanted:
            self.broken.append(f"{method} {path}: {seen[-1][0]} {seen[-1][1][:100]!r}")

    def _remove(self, path: str) -> None:
        seen: list[int] = []

        def decided() -> bool:
            seen.append(self._told("DELETE", path)[0])
            return seen[-1] not in (409, 503)

        wait_until(decided, f"DELETE {path} is decided")
        lost_answers = len(seen) > 1  # an earlier try may have removed it, and then the bucket may go
        if seen[-1] != 204 and not lost_answers:
            self.broken.append(f"DELETE {path}: {seen[-1]}")


def replace_bucket(world: ClusterWorld, turn: int, running: list[Future[None]]) -> None:
    """Delete the bucket as soon as it is found empty, at one peer after the other, and make it anew at another."""

    def gone() -> bool:
        nonlocal turn
        for task in running:
            assert not task.done(), f"a tenant gave up: {task.exception()!r}"
        turn += 1
        status = world.call("DELETE", PATH, peer=turn % 3).status
        assert status in (204, 404, 409, 503), status
        return status in (204, 404)

    wait_until(gone, "the bucket is found empty once", 120.0)
    maker = (turn + 1) % 3
    wait_until(lambda: world.call("PUT", PATH, CREATE, peer=maker).status in (200, 201), "the bucket is back")


def wait_for_all(tenants: list[Tenant], running: list[Future[None]]) -> None:
    """Until every tenant has written into the new bucket (or failed, which `result` will tell)."""
    goals = [tenant.kept + 2 for tenant in tenants]

    def written() -> bool:
        states = zip(tenants, running, goals, strict=True)
        return all(task.done() or tenant.kept >= goal for tenant, task, goal in states)

    wait_until(written, "every tenant writes into the new bucket")


def deleted_under_load(world: ClusterWorld, times: int, figure: Figure) -> None:
    assert world.call("PUT", PATH, CREATE).status == 201
    stop = threading.Event()
    tenants = [Tenant(world, number, stop) for number in range(3)]
    with ThreadPoolExecutor(len(tenants)) as pool:
        running = [pool.submit(tenant.run) for tenant in tenants]
        try:
            for turn in range(times):
                wait_for_all(tenants, running)
                replace_bucket(world, turn, running)
            wait_for_all(tenants, running)
        finally:
            stop.set()
        for task in running:
            task.result()
    assert [line for tenant in tenants for line in tenant.broken] == []
    for peer in range(3):
        listed = world.call("GET", f"{PATH}/objects", peer=peer)
        assert listed.status == 200 and listed.json["objects"] == []
    figure("objects acknowledged", sum(tenant.kept for tenant in tenants))
    figure("puts refused while there was no bucket", sum(tenant.refused for tenant in tenants))
    assert world.call("DELETE", PATH).status == 204


def test_deleted_under_load(world: ClusterWorld, record_property: Figure) -> None:
    """Goal: a bucket is only deleted when nothing acknowledged is in it, and its successor begins empty and works."""
    deleted_under_load(world, 4, record_property)


@pytest.mark.full
def test_deleted_under_load_often(world: ClusterWorld, record_property: Figure) -> None:
    """Goal: the same, fifty times."""
    deleted_under_load(world, 50, record_property)
