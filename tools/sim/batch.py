"""Many seeds: totals of every fault and every safeguard, and what was missing.

A fault that never struck or a safeguard that never fired was not tested, so in a batch large enough to expect
each, a zero is a failure of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from tools.sim.faults import AWAY, FAULTS
from tools.sim.result import Result
from tools.sim.world import Options, run_seed

ENOUGH_SEEDS = 50  # from here on, a zero is a failure

EXPECTED_FAULTS = (
    *(name for name in FAULTS if name != "crash beside a pause"),  # made of crashes and pauses
    *AWAY,
    "loss",
    "duplication",
    "reordering",
    "message cut off",
    "slow disk",
    "disk full",
    "queue full",
    "unsynced writes lost",
    "unacknowledged commit survived",
)

EXPECTED_SAFEGUARDS = {
    "conflict refused": "a promise or a newer ballot stood against a request",
    "identities": "a read that met disagreement made its answer chosen first",
    "answer waited for a commit": "a pending row was not revealed",
    "bound extensions": "H was raised durably before a promise beyond it",
    "abstained": "a peer without confirmed identity, or with a bad row, did not vote",
    "amnesia detected": "a peer on an old copy of its disk was refused",
    "change refused": "a change of the ring was not begun beside another, or left too few peers",
    "joint": "a request needed a majority of the old and of the new owners",
    "partitions or rows merged": "a new owner took a partition over",
    "partitions or rows settled": "old owners differed on a row, and its value was accepted anew",
    "partitions or rows discarded": "rows of a partition that is not owned any more were forgotten",
    "removed by itself": "a member that was dead for long was removed by the others",
    "removal held back": "a dead member stayed: too few would be left, or a majority is lost, or another change comes first",
    "dead counted anew": "a peer that was paused, or saw no majority, forgot for how long others had been dead",
    "dead answered": "a member held for dead answered a call, and stayed",
    "came back removed": "a peer that had been removed while it was away found that out and stopped",
    "full disk refused": "a full disk said so and changed nothing",
    "overload refused": "an owner with too many writes queued took no more",
    "doubtful_shards": "a listing asked a majority for rows because digests differed",
    "damaged rows met": "a row that fails its checksum took no part",
    "stale epoch refused": "an older epoch's request was refused",
    "gate refused": "an owner refused a generation older than its gate's",
    "old generation refused": "a write under a configuration that is over did not happen",
    "hedges": "a slow owner was passed over",
    "unknown": "a write of unknown outcome was reported as such",
}


class Outcome(Protocol):
    """What came of a run, of registers or of objects."""

    seed: int
    problems: list[str]
    operations: int
    virtual_s: float
    faults: Counter[str]
    safeguards: Counter[str]
    outcomes: Counter[str]
    lines: list[str]

    @property
    def ok(self) -> bool: ...


R = TypeVar("R", bound=Outcome)


@dataclass
class Totals:
    """The sum of many runs, and what is expected of many."""

    expected_faults: Iterable[str] = EXPECTED_FAULTS
    expected_safeguards: Mapping[str, str] = field(default_factory=lambda: EXPECTED_SAFEGUARDS)
    seeds: int = 0
    operations: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    safeguards: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[Outcome] = field(default_factory=list)

    def add(self, result: Outcome) -> None:
        self.seeds += 1
        self.operations += result.operations
        self.virtual_s += result.virtual_s
        self.faults.update(result.faults)
        self.safeguards.update(result.safeguards)
        self.outcomes.update(result.outcomes)
        if not result.ok:
            self.bad.append(result)

    def missing(self) -> list[str]:
        """Faults that never struck and safeguards that never fired."""
        absent = [f"fault: {name}" for name in self.expected_faults if not self.faults[name]]
        absent += [f"safeguard: {name}" for name in self.expected_safeguards if not self.safeguards[name]]
        return absent


def run_batch(seeds: Iterable[int], options: Options, jobs: int = 1) -> Iterator[Result]:
    """Results in the order of the seeds, from `jobs` processes."""
    return run_seeds(seeds, partial(run_seed, options=options), jobs)


def run_seeds(seeds: Iterable[int], work: Callable[[int], R], jobs: int = 1) -> Iterator[R]:
    """The same of any kind of run."""
    if jobs <= 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, seeds)
