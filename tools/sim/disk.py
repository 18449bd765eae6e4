"""The simulated disk of one peer, and its metadata rows: a crash loses what was not synced.

`SimDisk` is the machine's disk and outlives processes; `SimRows` is one process's open database. They
follow `peer/storage/rows.py`: one writer takes everything queued into one transaction (group commit),
transactions are atomic and FIFO, readers see committed state only, `done` runs on the loop a little after
the commit became visible (R1 to R6 and R8 there). After a crash exactly the durable transactions remain, and
perhaps the one in flight: durable, but acknowledged to nobody.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sortedcontainers import SortedDict

from peer.errors import AtollError, Full, ReadOnly, Unavailable
from peer.replication import meta
from peer.storage.records import Extent
from peer.storage.rows import TABLES, Done, Key, Write
from tools.sim.env import SimEnv
from tools.sim.story import Story

Undo = list[tuple[str, Key, bytes | None]]
Group = list[tuple[tuple[Write, ...], Done]]


@dataclass
class DiskTraits:
    """Times in seconds, probabilities per transaction."""

    commit_s: float = 0.0015
    stall: float = 0.01
    stall_s: float = 0.2
    wake_s: float = 0.00005  # from queueing to the writer's start: what comes meanwhile joins the group
    notice_s: float = 0.0003  # at most, from visible to `done`
    queue_soft: int = 4096  # batches
    queue_hard: int = 65536


@dataclass
class SimDisk:
    """What is on the disk. `lying` is a negative control: syncs are skipped, so a crash loses a tail."""

    tables: dict[str, Any] = field(default_factory=lambda: {name: SortedDict() for name in TABLES})
    sequence: int = 0
    full: bool = False
    read_only: bool = False
    low: bool = False  # room only for what the ballast is kept for
    lying: bool = False
    unsynced: list[Undo] = field(default_factory=list)  # only of a lying disk, oldest first
    extents: dict[Extent, bytes] = field(default_factory=dict)  # chunk bytes that are synced (`extents`)
    newest_segment: int = 0

    def copy(self) -> SimDisk:
        """A backup taken now, as `cp -a` of a stopped peer's directory would."""
        tables = {name: SortedDict(table) for name, table in self.tables.items()}
        return SimDisk(tables, self.sequence, extents=dict(self.extents), newest_segment=self.newest_segment)

    def apply(self, group: Sequence[Write]) -> None:
        """One transaction, durable and visible at once."""
        undo: Undo = []
        for name, key, value in group:
            table = self.tables[name]
            if self.lying:
                undo.append((name, key, table.get(key)))
            if value is None:
                table.pop(key, None)
            else:
                table[key] = bytes(value)
        self.sequence += 1
        if self.lying:
            self.unsynced.append(undo)

    def lose_tail(self, rng: random.Random) -> int:
        """Power loss on a lying disk: the last transactions, a drawn number of them, never were."""
        lost = rng.randint(0, len(self.unsynced))
        for undo in reversed(self.unsynced[len(self.unsynced) - lost :]):
            for name, key, value in reversed(undo):
                if value is None:
                    self.tables[name].pop(key, None)
                else:
                    self.tables[name][key] = value
            self.sequence -= 1
        self.unsynced.clear()
        return lost

    def kept(self, key: bytes) -> bytes | None:
        """What the peer durably keeps about itself under this key. Raises Corrupt."""
        stored = self.tables[meta.TABLE].get(key)
        return None if stored is None else meta.value_of(key, stored)

    def corrupt(self, rng: random.Random, table: str) -> Key | None:
        """Flip one bit of one row; the key of the row, or None if there is none."""
        rows = self.tables[table]
        if not rows:
            return None
        key = rows.keys()[rng.randrange(len(rows))]
        value = bytearray(rows[key])
        if value:
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
            rows[key] = bytes(value)
        return key  # type: ignore[no-any-return]


class SimRows:
    """One process's open database (the Rows interface). Dies with its process; then `crash` settles it."""

    def __init__(
        self, disk: SimDisk, env: SimEnv, rng: random.Random, story: Story, traits: DiskTraits | None = None
    ) -> None:
        self.disk = disk
        self.env = env
        self.rng = rng
        self.story = story
        self.traits = traits or DiskTraits()
        self.sequence = disk.sequence
        self.commits = 0
        self._queue: Group = []
        self._writing: Group = []
        self._refused: Group = []  # beyond the bound (R8)
        self._busy = False
        self._gone = False

    @property
    def roomy(self) -> bool:
        return not self.disk.low

    @property
    def read_only(self) -> bool:
        return self.disk.read_only

    @property
    def congested(self) -> bool:
        return len(self._queue) > self.traits.queue_soft

    @property
    def saturated(self) -> bool:
        return len(self._queue) >= self.traits.queue_hard or bool(self._refused)

    def get(self, table: str, key: Key) -> bytes | None:
        return self.disk.tables[table].get(key)  # type: ignore[no-any-return]

    def scan(self, table: str, start: Key, end: Key, limit: int) -> list[tuple[Key, bytes]]:
        rows = self.disk.tables[table]
        return [(key, rows[key]) for key in islice(rows.irange(start, end, (True, False)), limit)]

    def heads(
        self, table: str, start: Key, end: Key, limit: int, head_bytes: int
    ) -> list[tuple[Key, bytes, int]]:
        return [(k, v[:head_bytes], len(v)) for k, v in self.scan(table, start, end, limit)]

    def last(self, table: str) -> Key | None:
        rows = self.disk.tables[table]
        return rows.keys()[-1] if rows else None

    def commit(self, writes: Sequence[Write], done: Done) -> None:
        if self._gone or self.env.dead:
            return
        for name, key, _ in writes:
            assert name in self.disk.tables and isinstance(key, int if name == "side" else bytes), (name, key)
        (self._refused if self.saturated else self._queue).append((tuple(writes), done))
        if not self._busy:
            self._busy = True
            self.env.loop.call_later(self.traits.wake_s, self._next)

    def close(self) -> None:
        """Commit what is queued, call its callbacks. Later commits are ignored, as after a crash."""
        if not self._gone:
            group, self._writing, self._queue = [*self._writing, *self._queue], [], []
            self._gone = True
            if group:
                self.disk.apply([write for writes, _ in group for write in writes])
                self._succeed(group, self.disk.sequence)

    def crash(self) -> None:
        """The process is gone, or the power. Call after env.kill()."""
        if self._gone:
            return
        self._gone = True
        if self._writing and self.rng.random() < 0.5:
            self.disk.apply([write for writes, _ in self._writing for write in writes])
            self.story.fault("unacknowledged commit survived", self.env.name, "", quiet=True)
        elif self._writing or self._queue:
            self.story.fault("unsynced writes lost", self.env.name, "", quiet=True)
        if self.disk.lying:
            lost = self.disk.lose_tail(self.rng)
            self.story.fault("acknowledged commits lost", self.env.name, f"{lost} of a lying disk")

    # The writer

    def _next(self) -> None:
        if self._gone:
            return
        if self._queue:
            self._begin()
        elif self._refused:
            group, self._refused = self._refused, []
            self.story.fault("queue full", self.env.name, "", quiet=True)
            self._tell(
                self.traits.notice_s, group, Unavailable("too many writes wait for the simulated disk")
            )
        else:
            self._busy = False

    def _begin(self) -> None:
        self._writing, self._queue = self._queue, []
        duration_s = self.traits.commit_s * (0.4 + 1.2 * self.rng.random())
        if self.rng.random() < self.traits.stall:
            self.story.fault("slow disk", self.env.name, "", quiet=True)
            duration_s += self.traits.stall_s * self.rng.random()
        self.env.loop.call_later(duration_s, self._end)

    def _end(self) -> None:
        if self._gone:
            return
        group, self._writing = self._writing, []
        notice_s = self.traits.notice_s * self.rng.random()
        if self.disk.full:  # R5: the writer rests until the failure has reached everyone it concerns
            self.story.fault("disk full", self.env.name, "", quiet=True)
            self._tell(notice_s, group, Full("the simulated disk is full"))
            return
        if self.disk.read_only:
            self._tell(notice_s, group, ReadOnly("the simulated disk is read-only"))
            return
        self.disk.apply([write for writes, _ in group for write in writes])
        self.commits += 1
        sequence = self.disk.sequence
        self.env.loop.call_later(notice_s, self.env.post, lambda: self._succeed(group, sequence))
        self._next()

    def _tell(self, notice_s: float, group: Group, error: AtollError) -> None:
        self.env.loop.call_later(notice_s, self.env.post, lambda: self._fail(group, error))

    def _succeed(self, group: Group, sequence: int) -> None:
        self.sequence = sequence
        for _, done in group:
            done(None)

    def _fail(self, group: Group, error: AtollError) -> None:
        failed, self._queue, self._refused = [*group, *self._queue, *self._refused], [], []
        self._busy = False
        for _, done in failed:
            done(error)
