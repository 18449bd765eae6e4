"""The bench's answer: tables for people, one JSON document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.bench.figures import FIGURES, Figure, judge
from tools.bench.floor import Floor
from tools.bench.stats import Result

WORDS = {
    "aim": ("aim", "green"),
    "enough": ("enough", "green"),
    "below": ("BELOW", "red"),
    "reported": ("", ""),
    "missing": ("missing", "yellow"),
}


@dataclass(slots=True)
class Report:
    """Everything one run found. `figures`: whether the table of figures was asked for."""

    cluster: dict[str, Any]
    plan: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    floor: list[Floor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON; times in the units their names end in, MB of 10^6 bytes, null for what was not measured."""
        document: dict[str, Any] = {
            "cluster": self.cluster,
            "plan": self.plan,
            "workloads": [asdict(result) for result in self.results],
            "floor": [asdict(floor) for floor in self.floor],
            "notes": self.notes,
        }
        if self.figures:
            document["figures"] = [
                {
                    "figure": figure.label,
                    "unit": figure.unit,
                    "measured": (value := figure.measure(self._by_name())),
                    "at_least": figure.at_least,
                    "aim": figure.aim,
                    "verdict": judge(figure, value),
                    "of_floor": self._of_floor(figure, value),
                }
                for figure in FIGURES
            ]
        return document

    def _by_name(self) -> dict[str, Result]:
        return {result.name: result for result in self.results}

    def show(self, console: Console) -> None:
        """Tables on `console`, notes below."""
        if self.results:
            console.print(_results_table(self.results))
        if self.floor:
            console.print(_floor_table(self.floor))
        if self.figures:
            console.print(self._figures_table())
        for note in self.notes:
            console.print(note, highlight=False)

    def _of_floor(self, figure: Figure, value: float | None) -> float | None:
        """The figure as a part of the bare measurement it stands on."""
        for floor in self.floor:
            if floor.name == figure.floor and value is not None:
                return value / (floor.per_cpu_s if figure.unit.endswith("/CPU-s") else floor.per_s)
        return None

    def _figures_table(self) -> Table:
        beside = ("of floor",) if self.floor else ()
        table = _table("Figures", "figure", ("measured", "at least", "aim", *beside), "")
        results = self._by_name()
        for figure in FIGURES:
            value = figure.measure(results)
            verdict = judge(figure, value)
            words, colour = WORDS[verdict]
            numbers = [number(value), number(figure.at_least), number(figure.aim)]
            if self.floor:
                part = self._of_floor(figure, value)
                numbers.append("-" if part is None else f"{part * 100:.0f} %")
            table.add_row(
                f"{figure.label}, {figure.unit}",
                *numbers,
                words,
                style=colour if verdict in ("below", "missing") else "",
            )
        return table


def number(value: float | None) -> str:
    """Three figures or so: 12,345 / 123 / 12.3 / 1.23; a dash for what is not known."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(title: str, first: str, numbers: Sequence[str], *words: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in words:
        table.add_column(heading, no_wrap=True)
    return table


def _results_table(results: Sequence[Result]) -> Table:
    """Medians over the rounds; "units" of a list are keys."""
    table = _table(
        "Workloads, medians over the rounds; gen. is the generator's own CPU",
        "workload",
        ("clients", "ops/s", "MB/s", "p50 ms", "p99 ms", "per CPU-s", "spread", "gen."),
        *(["errors"] if any(result.errors for result in results) else []),
    )
    for result in results:
        listing = result.units_s is not None and result.units_s > 0
        large = result.size_bytes > 1 << 20
        per_cpu = f"{number(result.ops_per_cpu_s)} ops"
        if listing:
            per_cpu = f"{number(result.units_per_cpu_s)} keys"
        elif large:
            per_cpu = f"{number(result.mb_per_cpu_s)} MB"
        errors = ", ".join(f"{count} {what}" for what, count in sorted(result.errors.items()))
        table.add_row(
            result.name,
            str(result.clients),
            number(result.ops_s),
            number(result.mb_s) if result.mb_s else "-",
            number(result.p50_ms),
            number(result.p99_ms),
            per_cpu,
            "-" if result.spread is None else f"{result.spread * 100:.0f} %",
            "-" if result.generator_cores is None else f"{result.generator_cores * 100:.0f} %",
            *([errors] if errors else []),
            style="red" if errors else "",
        )
    return table


def _floor_table(floors: Sequence[Floor]) -> Table:
    table = _table(
        "Floor: the same machine, the same run, without Atoll",
        "measurement",
        ("per s", "per CPU-s"),
        "unit",
        "",
    )
    for floor in floors:
        table.add_row(floor.name, number(floor.per_s), number(floor.per_cpu_s), floor.unit, floor.note)
    return table
