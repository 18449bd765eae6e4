"""A light load while everything else happens: counters, one in each partition, that only ever grow.

They make the ring hold data, so that its changes take two epochs and new owners merge. An increment that was acknowledged
must be there in the end, one that failed must not, and what is unknown may be either.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from peer.errors import AtollError, UnknownOutcome
from peer.replication.keys import SYSTEM, partition_in, shard_prefix
from peer.replication.registers.register import Current, Put
from tools.churn.fleet import Fleet
from tools.churn.machine import Process

BUCKET = b"counters"
PATIENCE_S = 30.0
READ_FOR_S = 120.0


def counter_keys(power: int) -> list[bytes]:
    """One row key in each partition."""
    found: dict[int, bytes] = {}
    for shard in range(1 << 16):
        key = shard_prefix(SYSTEM, BUCKET, shard, power) + b"n"
        found.setdefault(partition_in(key), key)
        if len(found) == 1 << power:
            break
    return [found[partition] for partition in sorted(found)]


def _grown(current: Current) -> Put:
    return Put(b"%d" % (int(current.payload or b"0") + 1))


async def within(process: Process, work: Coroutine[Any, Any, Any], patience_s: float = PATIENCE_S) -> Any:
    """What a peer answers. Raises AtollError: what it raises, or UnknownOutcome when it ends, freezes or takes too long."""
    task = process.env.spawn(work, "a client's")
    await asyncio.wait([task], timeout=patience_s)
    if not task.done() or task.cancelled():
        raise UnknownOutcome("no answer in time")
    return task.result()


class Clients:
    """Increments one counter after the other, each through another peer."""

    def __init__(self, fleet: Fleet, rng: random.Random, every_s: float) -> None:
        self.fleet = fleet
        self.rng = rng
        self.every_s = every_s
        self.keys = counter_keys(fleet.power)
        self.acknowledged: Counter[bytes] = Counter()
        self.unknown: Counter[bytes] = Counter()
        self.answers: Counter[str] = Counter()
        self.working = True

    def anybody(self) -> Process:
        """A peer that answers, as far as a client can tell."""
        serving = self.fleet.serving()
        return serving[self.rng.randrange(len(serving))]

    async def begin(self) -> None:
        """Every partition holds something before anything goes wrong."""
        for key in self.keys:
            await self._grow(key)
            assert self.acknowledged[key], "a register cannot be written in a whole cluster"

    async def run(self) -> None:
        while self.working:
            await asyncio.sleep(self.every_s * (0.5 + self.rng.random()))
            await self._grow(self.keys[self.rng.randrange(len(self.keys))])

    async def _grow(self, key: bytes) -> None:
        process = self.anybody()
        try:
            await within(process, process.replica.registers.change(key, _grown))
        except UnknownOutcome:
            self.unknown[key] += 1
            self.answers["unknown"] += 1
        except AtollError:
            self.answers["failed"] += 1
        else:
            self.acknowledged[key] += 1
            self.answers["acknowledged"] += 1

    async def verify(self) -> list[str]:
        """Read every counter in a healed cluster; what is wrong with them."""
        problems = []
        until = self.fleet.loop.time() + READ_FOR_S
        for key in self.keys:
            found = None
            while found is None and self.fleet.loop.time() < until:
                process = self.anybody()
                try:
                    current = await within(process, process.replica.registers.read(key))
                    found = int(current.payload or b"0")
                except AtollError:
                    await asyncio.sleep(1.0)
            least, most = self.acknowledged[key], self.acknowledged[key] + self.unknown[key]
            if found is None:
                problems.append(f"the counter of partition {partition_in(key)} cannot be read")
            elif not least <= found <= most:
                problems.append(
                    f"the counter of partition {partition_in(key)} is {found}: {least} increments were acknowledged,"
                    f" {most - least} are unknown"
                )
        return problems
