"""The segments machine keeps its promises on a disk that reorders everything and forgets what it may."""

from __future__ import annotations

from collections import Counter

import pytest

from tools.sim.chunk_world import CONTROLS, hunt, run_chunk_seed

SEEDS = 40


def test_chunks_survive_crashes() -> None:
    """Goal: P2 and P5 for chunks: after every crash each row has its bytes, and no read serves others."""
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        result = run_chunk_seed(seed)
        assert not result.problems, f"seed {seed}: {result.problems[:3]}"
        counts.update(result.counts)
    for name in ("stored", "deleted", "read", "read after a crash", "crash", "adopted"):
        assert counts[name] > SEEDS, counts


@pytest.mark.parametrize("name", CONTROLS)
def test_a_broken_order_is_caught(name: str) -> None:
    """Goal: each rule about the order of disk operations, once dropped, shows within a few seeds; the same seed is sound
    with it."""
    caught = hunt(name)
    assert caught is not None, CONTROLS[name]
    assert not run_chunk_seed(caught[0]).problems


def test_a_seed_repeats_itself() -> None:
    """Goal: the same seed gives the same run."""
    assert run_chunk_seed(3).counts == run_chunk_seed(3).counts
    assert run_chunk_seed(3).digest == run_chunk_seed(3).digest
