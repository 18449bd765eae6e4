"""Clients under whom the faults happen: what they were acknowledged, how long they waited, and whether it is all there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from blake3 import blake3

from peer.client.sync import Client
from peer.errors import AtollError, NotFound
from tools.chaos.machines import Machines

BUCKET = "chaos"
SIZES = (300, 300, 5_000, 40_000, 100_000, 300_000)
"""Inline, of one chunk, and of several (`run.CHUNK_BYTES`)."""
PAUSE_S = 0.05
LATE_S = 5.0
"""An operation that takes longer was not answered in time."""
DELETED = -1


@dataclass(slots=True)
class Operation:
    kind: str
    begun_s: float
    took_s: float
    failure: str


@dataclass(slots=True)
class State:
    """What a key may hold: the versions it may have (DELETED: none), several while an outcome is unknown."""

    may: set[int] = field(default_factory=lambda: {DELETED})


class Bytes(Protocol):
    """An object's content."""

    def read(self) -> bytes: ...


class Reads(Protocol):
    """What a check needs of a client."""

    def get(self, bucket: str, key: str) -> Bytes: ...


class Worker:
    """One client and its keys."""

    def __init__(self, number: int, connect: Callable[[], Client], keys: int) -> None:
        self._chance = random.Random(f"chaos client {number}")
        self._number = number
        self._connect = connect
        self.keys = {f"client-{number}/{key:05d}": State() for key in range(keys)}
        self.operations: list[Operation] = []
        self.wrong: list[str] = []
        self._version = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"chaos client {number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._connect() as client:
            while not self._stop.is_set():
                key = self._chance.choice(list(self.keys))
                self._stop.wait(PAUSE_S * 2 * self._chance.random())
                draw = self._chance.random()
                self._timed("put" if draw < 0.5 else "delete" if draw < 0.55 else "get", client, key)

    def _timed(self, kind: str, client: Client, key: str) -> None:
        begun_s, failure = time.monotonic(), ""
        try:
            getattr(self, f"_{kind}")(client, key)
        except AtollError as error:
            failure = f"{type(error).__name__}: {error}"
        self.operations.append(Operation(kind, begun_s, time.monotonic() - begun_s, failure))

    def _put(self, client: Client, key: str) -> None:
        self._version += 1
        state = self.keys[key]
        state.may.add(self._version)
        client.put(BUCKET, key, body(key, self._version))
        state.may = {self._version}

    def _delete(self, client: Client, key: str) -> None:
        state = self.keys[key]
        state.may.add(DELETED)
        client.delete(BUCKET, key)
        state.may = {DELETED}

    def _get(self, client: Client, key: str) -> None:
        self.check(client, key)

    def check(self, client: Reads, key: str) -> None:
        """Read it; what it holds must be one of what it may hold. Raises what the client raises."""
        may = self.keys[key].may
        found = read(client, key)
        if not any(found == (None if version == DELETED else body(key, version)) for version in may):
            self.wrong.append(f"{key} holds {'nothing' if found is None else f'{len(found)} other bytes'}")


def read(client: Reads, key: str) -> bytes | None:
    try:
        return client.get(BUCKET, key).read()
    except NotFound:
        return None


def body(key: str, version: int) -> bytes:
    """The content of a version: like no other's."""
    seed = blake3(f"{key} {version}".encode())
    return seed.digest(SIZES[seed.digest(1)[0] % len(SIZES)])


class Load:
    """All clients of a run."""

    def __init__(self, machines: Machines, clients: int, keys: int) -> None:
        self._machines = machines
        self.workers = [Worker(number, machines.client, keys) for number in range(clients)]

    def start(self) -> None:
        with self._machines.client() as client:
            client.create_bucket(BUCKET)
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    @property
    def operations(self) -> list[Operation]:
        return sorted(
            (one for worker in self.workers for one in worker.operations), key=lambda one: one.begun_s
        )

    @property
    def wrong(self) -> list[str]:
        return [text for worker in self.workers for text in worker.wrong]

    def verify(self, *peers: int) -> int:
        """Read every key through these peers and compare it; how many were read. Raises what the client raises."""
        count = 0
        with self._machines.client(*peers, patience_s=30.0) as client:
            for worker in self.workers:
                for key in worker.keys:
                    worker.check(client, key)
                    count += 1
        return count


def availability(operations: list[Operation]) -> float:
    """The share of operations that were answered in time."""
    good = sum(not one.failure and one.took_s <= LATE_S for one in operations)
    return good / len(operations) if operations else 0.0


def longest_outage_s(operations: list[Operation]) -> float:
    """The longest time in which nothing succeeded."""
    ends = sorted(one.begun_s + one.took_s for one in operations if not one.failure)
    return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)
