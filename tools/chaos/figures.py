"""The figures of healing against what was aimed at: `atoll chaos --figures`. What is measured is in outage and rebuild."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.chaos import outage, rebuild
from tools.chaos.outage import WAYS, Outage
from tools.chaos.rebuild import Rebuild

CLIENTS = 16
OBJECTS, OBJECT_BYTES = 20_000, 256 * 1024

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure. `measured` None: it never came to that. `aim` is a bound, from above unless `higher`."""

    what: str
    measured: float | None
    aim: float
    unit: str
    higher: bool = False

    @property
    def reached(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.aim if self.higher else self.measured <= self.aim


def measure(directory: Path, objects: int, port: int, say: Say) -> tuple[list[Line], list[str]]:
    """Everything, and what was wrong besides. Takes about eight minutes and 16 GB for 20,000 objects. Raises DevError."""
    lines: list[Line] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(dir=directory) as here:
        for one in outage.measure(Path(here), WAYS, CLIENTS, port, outage.MEANWHILE, say):
            lines += of_outage(one)
            problems += [f"{one.way}: {problem}" for problem in one.problems]
    for loaded in (False, True):
        with tempfile.TemporaryDirectory(dir=directory) as here:
            found = rebuild.measure(Path(here), objects, OBJECT_BYTES, CLIENTS, port, say, loaded=loaded)
            lines += of_rebuild(found)
            problems += found.problems
    return lines, problems


def of_outage(one: Outage) -> list[Line]:
    return [
        Line(f"{one.way}: errors of clients, of {one.operations} requests", one.errors, 0, ""),
        Line(f"{one.way}: slowest request of the first 5 s", one.slowest_first_s, outage.GRACE_S, "s"),
        Line(f"{one.way}: slowest request after that", one.slowest_later_s, 2.0, "s"),
        Line(f"{one.way}: whole again, {one.meanwhile} objects written meanwhile", one.healed_s, 60.0, "s"),
    ]


def of_rebuild(found: Rebuild) -> list[Line]:
    lost = f"{found.heads} heads and {found.chunk_bytes / 1e9:.1f} GB lost"
    whole = found.whole_s is not None
    if not found.loaded:
        return [
            Line(f"{lost}: chunks rebuilt", found.chunk_mb_per_s if whole else None, 60.0, "MB/s", True),
            Line("heads rebuilt", found.heads_per_s if found.heads_s else None, 1000.0, "/s", True),
        ]
    return [
        Line(f"under load, {lost}: clients keep", 100 * found.kept, 60.0, "%", True),
        Line("longest time without progress", found.stalled_s if whole else None, rebuild.STALLED_S, "s"),
        Line("chunks rebuilt beside them", found.chunk_mb_per_s if whole else None, 0.0, "MB/s", True),
    ]
