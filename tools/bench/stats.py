"""What a round measured, and medians over rounds. Pure.

Bytes count in MB of 10^6, as the figures do; times in seconds inside, in milliseconds where shown.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Round:
    """One round of one workload. `latencies_s` of the requests that succeeded; `units` are keys listed."""

    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    moved_bytes: int = 0
    units: int = 0
    elapsed_s: float = 0.0
    cpu_s: float | None = None
    own_cpu_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def ops(self) -> int:
        return len(self.latencies_s)

    def add(self, other: Round) -> None:
        """Take in what another client of the same round measured; times stay this one's."""
        self.latencies_s.extend(other.latencies_s)
        self.moved_bytes += other.moved_bytes
        self.units += other.units
        self.errors.update(other.errors)


def percentile(values: Sequence[float], part: float) -> float | None:
    """The smallest value that at least `part` (0 to 1) of all do not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(-(-len(ordered) * part // 1), 1)
    return ordered[int(rank) - 1]


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds of one workload; None where nothing was measured."""

    name: str
    clients: int
    size_bytes: int
    rounds: int
    ops: int
    ops_s: float | None
    mb_s: float | None
    units_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    ops_per_cpu_s: float | None
    mb_per_cpu_s: float | None
    units_per_cpu_s: float | None
    spread: float | None
    generator_cores: float | None
    errors: dict[str, int]


def summarise(name: str, clients: int, size_bytes: int, rounds: Sequence[Round]) -> Result:
    """Each figure's median over the rounds; `spread` is (highest - lowest) / median of ops/s."""
    errors: Counter[str] = Counter()
    for one in rounds:
        errors.update(one.errors)
    rates = [rate for one in rounds if (rate := _rate(one.ops, one.elapsed_s)) is not None]
    middle = median(rates) if rates else None
    return Result(
        name=name,
        clients=clients,
        size_bytes=size_bytes,
        rounds=len(rounds),
        ops=sum(one.ops for one in rounds),
        ops_s=middle,
        mb_s=_median(rounds, lambda one: _rate(one.moved_bytes / 1e6, one.elapsed_s)),
        units_s=_median(rounds, lambda one: _rate(one.units, one.elapsed_s)),
        p50_ms=_median(rounds, lambda one: _ms(percentile(one.latencies_s, 0.50))),
        p99_ms=_median(rounds, lambda one: _ms(percentile(one.latencies_s, 0.99))),
        ops_per_cpu_s=_median(rounds, lambda one: _rate(one.ops, one.cpu_s)),
        mb_per_cpu_s=_median(rounds, lambda one: _rate(one.moved_bytes / 1e6, one.cpu_s)),
        units_per_cpu_s=_median(rounds, lambda one: _rate(one.units, one.cpu_s)),
        spread=(max(rates) - min(rates)) / middle if middle else None,
        generator_cores=_median(rounds, lambda one: _rate(one.own_cpu_s, one.elapsed_s)),
        errors=dict(errors),
    )


def _median(rounds: Sequence[Round], figure: Callable[[Round], float | None]) -> float | None:
    known = [value for one in rounds if (value := figure(one)) is not None]
    return median(known) if known else None


def _rate(amount: float, seconds: float | None) -> float | None:
    return amount / seconds if seconds else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
