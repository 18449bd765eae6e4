"""`python -m tools.ring_table`: it measures, prints and judges."""

from __future__ import annotations

import pytest

from tools.ring_table import main, measure


def test_measures_one_join_and_one_leave() -> None:
    """Ten equal members: the joiner takes its share, a leave copies what it held, all within tolerance."""
    row = measure(10, 1, "equal", replicas=3, partition_power=8, seed=1)
    assert row.balanced and 0.9 < row.lowest <= 1 <= row.highest < 1.1
    assert row.join.moved == row.join.minimum == 256 * 3 // 11
    assert 76 <= row.leave.minimum <= row.leave.moved <= 77 * 1.2


def test_three_members_lose_one() -> None:
    """With fewer members left than replicas nothing moves, and the minimum says so."""
    row = measure(3, 3, "uneven", replicas=3, partition_power=8, seed=1)
    assert (row.leave.moved, row.leave.minimum) == (0, 0)


def test_prints_a_row_for_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes, zones and weights can be chosen, and every combination has its line, uncut."""
    chosen = ["--size", "3", "--size", "10", "--zones", "1", "--zones", "3", "--partition-power", "8"]
    assert main(chosen) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if " equal " in line or " uneven " in line]
    assert len(rows) == 8 and all(row.rstrip().endswith("yes") and "…" not in row for row in rows)
    assert any("256 partitions, 3 replicas" in line for line in lines)


def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error names the option and exits with 2."""
    assert main(["--size", "1"]) == 2
    assert "--size" in capsys.readouterr().err
