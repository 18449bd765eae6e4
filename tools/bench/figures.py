"""The figures of a release: what each workload must at least reach, and what is aimed at. Pure.

On two cores with the generator on them too, three peers, fsync on (architecture §12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tools.bench.stats import Result

GROUP_COMMIT = "group commit, 64 rows of 4 KiB"
APPEND = "segment append, 4 MiB O_DIRECT + fdatasync"
HTTP_PUT = "bare aiohttp, put 4 KiB"
HTTP_GET = "bare aiohttp, get 4 KiB"

Results = Mapping[str, Result]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line. `higher` is better, or lower; None for a bound that is not set.

    `floor` names the bare measurement (floor.py) it stands on, in the same unit.
    """

    label: str
    unit: str
    at_least: float | None
    aim: float | None
    measure: Callable[[Results], float | None]
    higher: bool = True
    floor: str = ""


def of(workload: str, figure: str) -> Callable[[Results], float | None]:
    """One number of one workload's result."""

    def measure(results: Results) -> float | None:
        result = results.get(workload)
        return None if result is None else getattr(result, figure)

    return measure


def times_slower(faster: str, slower: str) -> Callable[[Results], float | None]:
    """By what factor CPU per operation grows from one workload to the other."""

    def measure(results: Results) -> float | None:
        a, b = of(faster, "ops_per_cpu_s")(results), of(slower, "ops_per_cpu_s")(results)
        return a / b if a and b else None

    return measure


FIGURES: tuple[Figure, ...] = (
    Figure("put 4 KiB", "ops/CPU-s", 1700, 2600, of("put-4k", "ops_per_cpu_s"), floor=HTTP_PUT),
    Figure("get 4 KiB", "ops/CPU-s", 4500, 8000, of("get-4k", "ops_per_cpu_s"), floor=HTTP_GET),
    Figure("head", "ops/CPU-s", 5500, 9000, of("head", "ops_per_cpu_s"), floor=HTTP_GET),
    Figure("put 128 KiB", "ops/CPU-s", 600, 1000, of("put-128k", "ops_per_cpu_s")),
    Figure("get 128 KiB", "ops/CPU-s", 2200, 4000, of("get-128k", "ops_per_cpu_s")),
    Figure("put 64 MiB", "MB/CPU-s", 150, 210, of("put-64m", "mb_per_cpu_s"), floor=APPEND),
    Figure("put 64 MiB", "MB/s", 220, None, of("put-64m", "mb_s"), floor=APPEND),
    Figure("get 64 MiB warm", "MB/CPU-s", 1000, 1500, of("get-64m", "mb_per_cpu_s")),
    Figure("get 64 MiB warm", "MB/s", 1200, None, of("get-64m", "mb_s")),
    Figure("get 64 MiB cold", "MB/CPU-s", None, None, of("get-64m-cold", "mb_per_cpu_s")),
    Figure("get 64 MiB cold", "MB/s", None, None, of("get-64m-cold", "mb_s")),
    Figure("list 1,000 a page", "keys/CPU-s", 80_000, 150_000, of("list", "units_per_cpu_s")),
    Figure("put 4 KiB, one client, p50", "ms", 2.5, 1.4, of("put-one", "p50_ms"), higher=False),
    Figure("put 4 KiB, p99", "ms", 60, 35, of("put-4k", "p99_ms"), higher=False),
    Figure(
        "put across inline_max",
        "times slower",
        2,
        None,
        times_slower("put-inline", "put-above"),
        higher=False,
    ),
    Figure(
        "get across inline_max",
        "times slower",
        2,
        None,
        times_slower("get-inline", "get-above"),
        higher=False,
    ),
)


def judge(figure: Figure, value: float | None) -> str:
    """ "aim", "enough", "below", "reported" (no bound is set) or "missing"."""
    if value is None:
        return "missing"

    def reaches(bound: float) -> bool:
        return value >= bound if figure.higher else value <= bound

    if figure.aim is not None and reaches(figure.aim):
        return "aim"
    if figure.at_least is None:
        return "reported"
    return "enough" if reaches(figure.at_least) else "below"
