"""One seeded run of one peer's chunk store: clients store, read and delete while the power fails.

Judged: an acknowledged chunk that nobody deleted reads back whole after any number of crashes (P2); no read ever
returns wrong bytes (P5); and the segments machine never meets a state that its invariants forbid.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from peer.errors import Corrupt, NotFound
from peer.storage.records import Extent
from peer.storage.segment import InvariantError
from tools.sim.blocks import SimFiles
from tools.sim.chunks import SimChunks, file_name
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop
from tools.sim.story import Story

CONTROLS = {
    "row_before_sync": "the row is committed before a sync covers the bytes",
    "sync_before_write_returned": "the sync began before the write returned",
    "punch_before_removal": "an extent is punched before the removal of its row is durable",
    "punch_under_reader": "a reader holds no pin",
    "scrub_before_adoption": "what no row names is punched before a start without rows has read the segments",
}
SEEDS_A_CONTROL = 8
ROWS_LOST = 0.15
"""The share of crashes that take the rows as well."""


@dataclass
class ChunkResult:
    problems: list[str]
    counts: Counter[str]
    digest: str


@dataclass
class ChunkWorld:
    """The machine, the process on it, and what its clients know."""

    seed: int
    unsafe: frozenset[str] = frozenset()
    operations: int = 400
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.loop = VirtualLoop(limit_s=600)
        self.rng = random.Random(f"chunks {self.seed}")
        self.story = Story(self.loop.time)
        self.disk = SimDisk()
        self.files = SimFiles(self._later)
        self.acknowledged: dict[bytes, bytes] = {}  # name -> payload, not deleted
        self.done = 0
        self.adopting = False

    def run(self) -> ChunkResult:
        try:
            self.loop.run(self._main())
        except (InvariantError, AssertionError) as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        return ChunkResult(self.problems, self.counts, self.story.digest())

    def _later(self, act: Any) -> None:
        """Disk operations take their time, and so end in any order."""
        slow = 20 if self.rng.random() < 0.1 else 1
        self.loop.call_later(0.0002 + 0.002 * slow * self.rng.random(), act)

    def _start(self) -> None:
        self.env = SimEnv(self.loop, "peer", f"{self.seed} {self.counts['crash']}")
        self.env.on_task_failure = lambda _, error: self.problems.append(f"{type(error).__name__}: {error}")
        self.rows = SimRows(self.disk, self.env, self.rng, self.story)
        named = [
            (name, Extent.decode(value)) for name, value in self.rows.scan("chunks", b"", b"\xff" * 33, 10**6)
        ]
        adopting = self.adopting and "scrub_before_adoption" not in self.unsafe
        self.chunks = SimChunks(self.files, named, adopting=adopting, unsafe=self.unsafe)  # type: ignore[arg-type]
        for name, extent, reason in self.chunks.lost:
            self.problems.append(f"lost after a crash: {name.hex()[:8]} at {extent}: {reason}")

    async def _adopt(self) -> None:
        """A start without rows: scrub looks at the segments, whether it may or not, and adoption gives each record a row."""
        machine = self.chunks.machine
        segments = sorted(segment.id for segment in machine.all.values() if segment.earlier)
        found = {segment: self.chunks.scan(segment) for segment in segments}
        for _, extent in (record for segment in segments for record in found[segment]):
            self.counts["punched unadopted"] += machine.stray(extent)
        self.chunks.pump(flush=True)
        await self.env.sleep(0.2)
        for segment in (one for one in segments if file_name(one) in self.files.names()):
            for name, extent in self.chunks.scan(segment):
                if self.rows.get("chunks", name) is None:
                    await self._commit(("chunks", name, extent.encode()))
                    machine.adopt(extent)
                    self.counts["adopted"] += 1
            machine.adopted(segment)
        self.adopting = False

    def _check_everything(self) -> None:
        """Every acknowledged chunk has its row, and every row has its bytes, acknowledged or not."""
        rows = {bytes(name): row for name, row in self.rows.scan("chunks", b"", b"\xff" * 33, 10**6)}
        for name in sorted(self.acknowledged):
            if name not in rows:
                self.problems.append(f"acknowledged chunk {name.hex()[:8]} has no row")
        for name, row in rows.items():
            try:
                self.chunks.read(Extent.decode(row), name)
                self.counts["read after a crash"] += 1
            except (Corrupt, NotFound) as error:
                self.problems.append(f"row without its bytes: {error}")

    async def _main(self) -> None:
        self._start()
        while self.done < self.operations and not self.problems:
            if self.adopting:
                await self._adopt()
            self._check_everything()
            clients = [self.env.spawn(self._client(), "client") for _ in range(6)]
            await asyncio.sleep(0.05 + 0.4 * self.rng.random() ** 2)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            self._crash()
        if not self.adopting:
            self._check_everything()

    def _crash(self) -> None:
        self.counts["crash"] += 1
        self.env.kill()
        self.rows.crash()
        self.files = self.files.crash(self.rng, self._later)
        if self.rng.random() < ROWS_LOST:
            self.disk.tables["chunks"].clear()
            self.adopting = True
        self._start()

    async def _client(self) -> None:
        while True:
            draw = self.rng.random()
            if draw < 0.45 or not self.acknowledged:
                await self._store()
            elif draw < 0.7:
                await self._read()
            else:
                await self._delete()
            self.done += 1
            if self.rng.random() < 0.05:
                self.chunks.pump(flush=True)

    async def _store(self) -> None:
        payload = self.rng.randbytes(self.rng.choice([10, 4000, 5000, 20_000, 60_000]))
        name = blake3(payload).digest()
        future = self.env.future()
        chunks = self.chunks
        chunks.append(payload, lambda got: None if future.done() else future.set_result(got))
        extent = await future
        assert isinstance(extent, Extent)
        await self._commit(("chunks", name, extent.encode()))
        chunks.machine.named(extent)
        self.acknowledged[name] = payload
        self.counts["stored"] += 1
        self.story.bytes(name)

    async def _read(self) -> None:
        name = self.rng.choice(sorted(self.acknowledged))
        payload, row = self.acknowledged[name], self.rows.get("chunks", name)
        if row is None:
            return
        extent, machine = Extent.decode(row), self.chunks.machine
        pinned = "punch_under_reader" not in self.unsafe
        if pinned and not machine.pin(extent):
            self.counts["gone before it was pinned"] += 1
            return
        try:
            await self.env.sleep(0.01 * self.rng.random())  # the request waits for a thread
            found = self.chunks.read_pinned(extent, name)
            assert found == payload, "wrong bytes served"
            self.counts["read"] += 1
            self.story.bytes(name)
        except (Corrupt, FileNotFoundError) as error:
            self.problems.append(f"a reader found {extent} overwritten or gone: {error}")
        finally:
            if pinned and not self.env.dead and machine is self.chunks.machine:
                machine.unpin(extent)

    async def _delete(self) -> None:
        name = self.rng.choice(sorted(self.acknowledged))
        row = self.rows.get("chunks", name)
        if row is None or self.acknowledged.pop(name, None) is None:
            return
        extent, chunks = Extent.decode(row), self.chunks
        chunks.machine.doomed(extent)
        if "punch_before_removal" in self.unsafe:
            chunks.machine.unnamed(extent)
            chunks.pump(flush=True)
            await self.env.sleep(0.005)
        await self._commit(("chunks", name, None))
        if "punch_before_removal" not in self.unsafe:
            chunks.machine.unnamed(extent)
        chunks.pump()
        self.counts["deleted"] += 1
        self.story.bytes(name)

    async def _commit(self, write: Any) -> None:
        future = self.env.future()
        self.rows.commit([write], lambda error: None if future.done() else future.set_result(error))
        assert await future is None


def run_chunk_seed(seed: int, unsafe: frozenset[str] = frozenset()) -> ChunkResult:
    """Run one seed of the chunk store."""
    return ChunkWorld(seed, unsafe).run()


def hunt(name: str, seeds: int = SEEDS_A_CONTROL) -> tuple[int, str] | None:
    """The first seed that shows what this control takes away, and how; None if none does."""
    for seed in range(seeds):
        if problems := run_chunk_seed(seed, frozenset({name})).problems:
            return seed, problems[0]
    return None
