"""The simulator's storage keeps the promises that the disk's own keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.storage_contract import ROWS_CONTRACT, RowsBench
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
