"""What a peer knows of its own condition and tells the others, so that they route round it (architecture.md §4, §8).

A flag in gossip for each: `full`, `slow` and `read-only` for its disk, `blocked` for its event loop. The others ask such a
peer later, or another one; nobody counts its word for less.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from peer.looplag import LoopLag
from peer.storage.gauge import Gauge

log = logging.getLogger(__name__)

LOOK_S = 0.5
TRY_OUT_S = 2.0
"""A disk that is slow or takes no writes is tried so often: with less asked of it, it might not show that it is well."""

FULL, SLOW, READ_ONLY, BLOCKED = "full", "slow", "read-only", "blocked"
HAMPERED = frozenset({SLOW, READ_ONLY, BLOCKED})
"""Flags of members that are asked later. A full one answers as fast as ever."""


class _Disk:
    """A disk that is watched. `path` is what is tried when it is not well."""

    def __init__(self, gauge: Gauge, path: Path) -> None:
        self.gauge = gauge
        self.slow: tuple[str, float] | None = None
        self._path = path
        self._trial: asyncio.Future[None] | None = None
        self._tried_s = float("-inf")

    def look(self) -> None:
        """Draw conclusions from what was measured, and have the disk tried if it is not well."""
        before, self.slow = self.slow, self.gauge.slow()
        if self.slow is not None and before is None:
            log.warning("%s is slow: one %s took %.1f s", self.gauge, *self.slow)
        elif self.slow is None and before is not None:
            log.warning("%s is as fast as before", self.gauge)
        ill = self.slow is not None or self.gauge.read_only
        trying = self._trial is not None and not self._trial.done()
        if ill and not trying and time.monotonic() - self._tried_s >= TRY_OUT_S:
            self._tried_s = time.monotonic()
            self._trial = asyncio.ensure_future(asyncio.to_thread(self.gauge.try_out, self._path))


class Vitals:
    """One peer's own condition. `rows` is its metadata database, `segments` its directory of chunks, on one disk or on two:
    what one of two does says nothing of the other. All methods belong to the loop's thread."""

    def __init__(self, rows: Path, segments: Path) -> None:
        apart = rows.parent.stat().st_dev != segments.stat().st_dev
        self.rows = Gauge(place="rows/" if apart else "")
        self.segments = Gauge(place="segments/") if apart else self.rows
        self._disks = [_Disk(self.rows, rows)]
        if apart:
            self._disks.append(_Disk(self.segments, segments))
        self.lag = LoopLag()
        self.tell: Callable[[frozenset[str]], None] = lambda flags: None
        """Told all flags, at first and whenever they change."""
        self.on_writable: Callable[[], None] = lambda: None
        """Told when the disk takes writes again, or chunks again."""
        self._flags: frozenset[str] = frozenset()

    @property
    def flags(self) -> frozenset[str]:
        return self._flags

    def flag(self, states: Iterable[tuple[str, bool]]) -> None:
        """Raise or lower flags."""
        flags = set(self._flags)
        for name, raised in states:
            (flags.add if raised else flags.discard)(name)
        if flags != self._flags:
            before, self._flags = self._flags, frozenset(flags)
            if (before - flags) & {READ_ONLY, FULL}:
                self.on_writable()
            self.tell(self._flags)

    async def watch(self) -> NoReturn:
        """For ever. Nothing here waits for the disk: one that hangs must be told of, too."""
        self.lag.start(asyncio.get_running_loop())
        try:
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)
        finally:
            self.lag.stop()

    def look(self) -> None:
        """Look at the disks and at the loop, and tell what changed."""
        for disk in self._disks:
            disk.look()
        slow = any(disk.slow is not None for disk in self._disks)
        self.flag(
            [(SLOW, slow), (READ_ONLY, self._read_only() != ""), (BLOCKED, self.lag.recent() is not None)]
        )

    def _read_only(self) -> str:
        """Why disks take no writes; "" while all do."""
        gauges = [disk.gauge for disk in self._disks if disk.gauge.read_only]
        return "; ".join(f"{one.place}: {one.read_only}" if one.place else one.read_only for one in gauges)

    def info(self) -> dict[str, Any]:
        """For the view of the cluster: the slowest operation of a `slow` disk, why one is `read_only` ("": none is), and
        when the event loop last stood still (`blocked`)."""
        slow = max(
            ((*disk.slow, disk.gauge.place) for disk in self._disks if disk.slow is not None),
            key=lambda one: one[1], default=None,
        )  # fmt: skip
        return {
            "slow": None
            if slow is None
            else {"operation": slow[0], "took_s": round(slow[1], 1), "disk": slow[2]},
            "read_only": self._read_only(),
            "blocked": self.lag.info(),
            "standstills": self.lag.count,
            "longest_standstill_s": round(self.lag.longest_s, 1),
        }
