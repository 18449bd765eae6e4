"""What came of one simulated run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass
class Result:
    """What came of a run. `problems` is empty if every promise held."""

    seed: int
    problems: list[str]
    operations: int
    virtual_s: float
    digest: str
    faults: Counter[str]
    safeguards: Counter[str]
    outcomes: Counter[str]
    lines: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems
