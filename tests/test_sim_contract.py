"""The simulator's storage keeps the promises that the disk's own keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from peer.errors import Full
from peer.storage.records import Extent
from tests.storage_contract import CHUNKS_CONTRACT, ROWS_CONTRACT, ChunksBench, RowsBench
from tools.sim.blocks import SimFiles
from tools.sim.chunks import SimChunks, file_name
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop
from tools.sim.story import Story


class SimBench:
    """A RowsBench: one simulated database on virtual time."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop(limit_s=3600)
        self.rng = random.Random(seed)
        self.disk = SimDisk()
        self.story = Story(self.loop.time)
        self._open()

    def _open(self) -> None:
        self.env = SimEnv(self.loop, "bench", "bench")
        self.rows = SimRows(self.disk, self.env, self.rng, self.story)

    def settle(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(60))

    def reopen(self) -> None:
        self.rows.close()
        self._open()

    def crash(self) -> None:
        self.env.kill()
        self.rows.crash()
        self._open()

    def fill(self, full: bool) -> None:
        self.disk.full = full


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("check", ROWS_CONTRACT, ids=lambda check: check.__name__)
def test_rows(check: Callable[[RowsBench], None], seed: int) -> None:
    """Goal: the simulated rows pass the contract suite of `peer/storage/rows.py`."""
    bench = SimBench(seed)
    try:
        check(bench)
    finally:
        bench.loop.close()


class SimChunksBench:
    """A ChunksBench: the segments machine over simulated files, every call run to its end on virtual time."""

    def __init__(self, seed: int) -> None:
        self.loop = VirtualLoop(limit_s=100_000)
        self.rng = random.Random(seed)
        self.files = SimFiles(self._later)
        self.chunks = SimChunks(self.files)
        for name in ("read", "scan"):
            setattr(self, name, lambda *args, _name=name: getattr(self.chunks, _name)(*args))
        for name in ("named", "abandon", "doomed", "unnamed", "pin", "unpin", "stray", "adopt", "adopted"):
            setattr(self, name, lambda *args, _name=name: getattr(self.chunks.machine, _name)(*args))

    def _later(self, act: Callable[[], None]) -> None:
        self.loop.call_later(self.rng.random() * 0.01, act)

    def append(self, payload: bytes) -> Extent:
        answers: list[Extent | Full] = []
        self.chunks.append(payload, answers.append)
        while not answers:
            self.loop.run_until_complete(asyncio.sleep(0.01))
        assert isinstance(answers[0], Extent)
        return answers[0]

    def settle(self) -> None:
        for _ in range(5):
            self.chunks.pump(flush=True)
            while self.chunks.running:
                self.loop.run_until_complete(asyncio.sleep(0.01))

    def segments(self) -> list[int]:
        return sorted(segment.id for segment in self.chunks.machine.all.values() if segment.earlier)

    def crash(
        self, named: Sequence[tuple[bytes, Extent]], *, adopting: bool = False
    ) -> list[tuple[bytes, Extent, str]]:
        self.files = self.files.crash(self.rng, self._later)
        self.chunks = SimChunks(self.files, named, adopting=adopting)
        return self.chunks.lost

    def damage(self, extent: Extent, at: int) -> None:
        self.files.corrupt(file_name(extent.segment), extent.offset + at, self.rng)

    def used_bytes(self) -> int:
        return sum(self.files.used(name) for name in self.files.names())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("check", CHUNKS_CONTRACT, ids=lambda check: check.__name__)
def test_chunks(check: Callable[[ChunksBench], None], seed: int) -> None:
    """Goal: segments over simulated files pass the contract suite of the disk's chunk store."""
    bench = SimChunksBench(seed)
    try:
        check(bench)  # type: ignore[arg-type]
    finally:
        bench.loop.close()
