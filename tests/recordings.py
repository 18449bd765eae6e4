"""`python -m tests.recordings [NAME ...]`: makes tests/data/events-NAME.jsonl anew, from live clusters of five peers.

What the screens are tested on: told by real peers, in the order and with the pauses it came in. `repair` is thinned out, as
it is most of the bytes. Takes some minutes in all.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from peer.client import AsyncClient, Event
from tests.cluster_world import ClusterWorld
from tools.cli.events import recorded

DATA = Path(__file__).parent / "data"
PEERS = 5
OPTIONS = ("--partition-power", "8", "--chunk-size", "64KiB")
PATIENCE_S = 120.0
REPAIR_EVERY_S = 3.0
BYTES_MOST = 300_000
BUCKET = "/v1/buckets/photos"


class Recorder:
    """Follows the first peer, and goes on at the others, on a thread of its own."""

    def __init__(self, world: ClusterWorld) -> None:
        self._world = world
        self._lines: list[str] = []
        self._repair_s = -REPAIR_EVERY_S
        self._news = threading.Condition()
        self._last: dict[str, Any] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()))

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _follow(self) -> None:
        access, secret = self._world.credentials
        urls = [self._world.api_url(peer) for peer in range(PEERS)]
        async with AsyncClient(urls, access_key=access, secret_key=secret) as client:
            now = asyncio.get_running_loop().time
            began_s = now()
            async for event in client.events():
                self._keep(now() - began_s, event)
                if self._over.is_set():
                    return

    def _keep(self, at_s: float, event: Event) -> None:
        with self._news:
            self._last[event.kind] = event.data
            self._news.notify_all()
        if event.kind == "repair":
            if at_s - self._repair_s < REPAIR_EVERY_S:
                return
            self._repair_s = at_s
        self._lines.append(recorded(at_s, event))

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until it holds for the newest of each kind. Raises TimeoutError."""
        until_s = monotonic() + PATIENCE_S
        with self._news:
            while not self._holds(holds):
                if not self._news.wait(until_s - monotonic()):
                    raise TimeoutError("what was to be recorded did not happen")

    def _holds(self, holds: Callable[[dict[str, Any]], bool]) -> bool:
        with suppress(KeyError):
            return holds(self._last)
        return False

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


@contextmanager
def load(world: ClusterWorld, *peers: int) -> Iterator[None]:
    """A little of everything, through these peers, a few times a second."""
    over = threading.Event()

    def run() -> None:
        number = 0
        while not over.wait(0.15):
            number += 1
            for method, body in (("PUT", os.urandom(30_000)), ("GET", None), ("HEAD", None)):
                peer = peers[number % len(peers)]
                with suppress(OSError):
                    world.call(method, f"{BUCKET}/objects/2026/{number % 50}.jpg", body, peer=peer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def settled(last: dict[str, Any]) -> bool:
    return bool(last["cluster"]["verdict"] == "healthy" and not last["ring"].keys() & {"pending", "before"})


def healthy(world: ClusterWorld, recorder: Recorder) -> None:
    """Five peers that are well."""
    with load(world, 0, 1, 2):
        sleep(20)


def killed(world: ClusterWorld, recorder: Recorder) -> None:
    """One is killed, everybody takes it for dead, and it comes back."""
    with load(world, 0, 1):
        sleep(4)
        world.kill(2)
        recorder.until(
            lambda last: sum(one["believes"] is not None for one in last["views"]["views"]) == PEERS - 1
        )
        recorder.until(
            lambda last: all(
                "dead" in (one["believes"] or {"": "dead"}).values() for one in last["views"]["views"]
            )
        )
        sleep(5)
        world.start(2)
        recorder.until(lambda last: "dead" not in str(last["views"]) and settled(last))
        sleep(4)


def drain(world: ClusterWorld, recorder: Recorder) -> None:
    """One gives everything away, slowly enough to be watched."""
    for worker, rate in (("transition", 10), ("anti-entropy", 150)):
        world.call("POST", f"/v1/cluster/workers/{worker}/throttle?per_second={rate}")
    sleep(3)
    assert world.call("POST", "/v1/cluster/nodes/peer-5/drain", peer=1, timeout_s=PATIENCE_S).status == 200
    recorder.until(lambda last: last["ring"]["epoch"]["kind"] == "joint")
    recorder.until(
        lambda last: settled(last) and [one["ring"] for one in last["cluster"]["nodes"]][-1] == "drained"
    )
    sleep(4)


STORIES: dict[str, Callable[[ClusterWorld, Recorder], None]] = {
    "healthy": healthy,
    "killed": killed,
    "drain": drain,
}


def record(name: str) -> str:
    """Live through a story; what was told meanwhile."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ClusterWorld(Path(directory), PEERS, options=OPTIONS) as world,
    ):
        assert world.call("PUT", BUCKET).status == 201
        for number in range(60):
            body = os.urandom(200_000 if number % 5 else 1_000)
            assert world.call("PUT", f"{BUCKET}/objects/2026/{number}.jpg", body).status == 200
        with Recorder(world) as watching:
            watching.until(settled)  # whatever its beginnings were
        with Recorder(world) as recorder:
            STORIES[name](world, recorder)
    return recorder.text()


def main() -> None:
    for name in sys.argv[1:] or STORIES:
        text = record(name)
        if len(text) > BYTES_MOST:
            raise SystemExit(f"{name}: {len(text)} bytes are too many for a fixture")
        (DATA / f"events-{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(text.splitlines())} events, {len(text)} bytes")


if __name__ == "__main__":
    main()
