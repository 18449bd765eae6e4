"""How long things took, counted by classes of duration: what a Prometheus histogram is made of.

Plain integers, so that counting costs a fraction of a microsecond; `peer.metrics` turns them into a histogram when asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

REQUEST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""For what a client waits for: a read from memory takes half a millisecond, a request is given up after 5 s, a large body
takes its time."""
DISK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For operations of a disk: half a second counts as slow (`storage.gauge`)."""
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For the event loop: a second counts as a standstill (`looplag`)."""


class Durations:
    """A histogram. `bounds_s`: the upper bound of each class in seconds, rising; a last class takes what is longer.

    Whoever observes from several threads does so under a lock of its own.
    """

    __slots__ = ("bounds_s", "counts", "total_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.total_s = 0.0

    def observe(self, took_s: float) -> None:
        """One more thing took so long. A bound belongs to its class, as Prometheus' `le` has it."""
        self.counts[bisect_left(self.bounds_s, took_s)] += 1
        self.total_s += took_s

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """(bound, how many took at most so long), the last bound being +Inf."""
        names = [*map(str, self.bounds_s), "+Inf"]
        return zip(names, accumulate(self.counts), strict=True)
