"""What is measured: a table of workloads, and how each is prepared and run.

A workload is prepared once (objects to read are stored, unmeasured), warmed up, and then run in rounds; the
peers' CPU time is read before and after each round, when nothing is in flight.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from tools.bench.blocking import Act, LargeClient, LargeLoad
from tools.bench.bodies import Bodies
from tools.bench.load import Load, Source
from tools.bench.sources import Get, Head, List, Put
from tools.bench.stats import Round
from tools.bench.target import BenchError, Target

KIB, MIB = 1 << 10, 1 << 20
INLINE_MAX = 24 * KIB  # architecture §6: the largest body that lies in the row's own transaction
LARGE = 64 * MIB
LARGE_CLIENTS = 4
LIST_PAGE = 1000
LIST_CLIENTS = 8
MAX_PREPARED = 1 << 29  # bytes stored for reads


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table. `clients` None: as many as asked for."""

    name: str
    kind: str  # put, get, head, list; "cold" is a get of what the page cache was made to forget
    size: int = 0
    clients: int | None = None

    @property
    def large(self) -> bool:
        return self.size > MIB

    @property
    def objects(self) -> int:
        """How many objects are stored for reading."""
        return max(min(2000, MAX_PREPARED // max(self.size, 1)), 2 * LARGE_CLIENTS if self.large else 16)


WORKLOADS: tuple[Workload, ...] = (
    Workload("put-4k", "put", 4 * KIB),
    Workload("get-4k", "get", 4 * KIB),
    Workload("head", "head", 4 * KIB),
    Workload("put-inline", "put", INLINE_MAX),
    Workload("put-above", "put", INLINE_MAX + 1),
    Workload("get-inline", "get", INLINE_MAX),
    Workload("get-above", "get", INLINE_MAX + 1),
    Workload("put-128k", "put", 128 * KIB),
    Workload("get-128k", "get", 128 * KIB),
    Workload("put-64m", "put", LARGE, LARGE_CLIENTS),
    Workload("get-64m", "get", LARGE, LARGE_CLIENTS),
    Workload("get-64m-cold", "cold", LARGE, LARGE_CLIENTS),
    Workload("list", "list", 0, LIST_CLIENTS),
    Workload("put-one", "put", 4 * KIB, 1),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
USUAL = ("put-4k", "get-4k", "head", "put-128k", "get-128k", "put-one")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard. Times in seconds."""

    clients: int = 32
    rounds: int = 5
    seconds: float = 3.0
    warm_up_s: float = 1.0
    deadline_s: float = 30.0
    keys: int = 100_000
    verify: bool = False


Progress = Callable[[str], None]


class Runner:
    """Runs workloads against one target. Names of objects are its own: a second one would collide."""

    def __init__(self, target: Target, bodies: Bodies, plan: Plan, progress: Progress) -> None:
        self.target = target
        self.bodies = bodies
        self.plan = plan
        self._progress = progress
        self._prepared: dict[int, list[str]] = {}
        self._listed = False
        self._serial = count()

    async def run(self, workload: Workload) -> list[Round]:
        """All measured rounds. Raises BenchError: it cannot be prepared, or nothing at all succeeded."""
        await self._prepare(workload)
        rounds = await (self._run_large(workload) if workload.large else self._run_small(workload))
        if not any(one.ops for one in rounds):
            errors = sorted({error for one in rounds for error in one.errors})
            raise BenchError(
                f"{workload.name}: no request succeeded: {', '.join(errors) or 'none was answered'}"
            )
        return rounds

    def clients_of(self, workload: Workload) -> int:
        return workload.clients if workload.clients is not None else self.plan.clients

    # --- small bodies and lists: many clients on this loop

    async def _run_small(self, workload: Workload) -> list[Round]:
        clients = self.clients_of(workload)
        self._progress(f"{workload.name}: warming up")
        await self._round(self._sources(workload, clients), clients, self.plan.warm_up_s)
        rounds = []
        for number in range(self.plan.rounds):
            self._progress(f"{workload.name}: round {number + 1} of {self.plan.rounds}")
            rounds.append(await self._round(self._sources(workload, clients), clients, self.plan.seconds))
        return rounds

    async def _round(self, sources: Sequence[Source], clients: int, seconds: float) -> Round:
        before = await self.target.cpu_s()
        one = await Load(self.plan.deadline_s).run(sources, self.target.spread(clients), seconds)
        after = await self.target.cpu_s()
        one.cpu_s = after - before if before is not None and after is not None else None
        return one

    def _sources(self, workload: Workload, clients: int) -> list[Source]:
        heads, bodies, size = self.target.heads, self.bodies, workload.size
        if workload.kind == "put":
            return [Put(heads, bodies, self._fresh(workload.name), size) for _ in range(clients)]
        if workload.kind == "list":
            return [
                List(heads, "list/", LIST_PAGE, self.plan.keys, verify=self.plan.verify)
                for _ in range(clients)
            ]
        names = self._prepared[size]
        # Each client begins elsewhere, so that they do not read the same object at once.
        turned = [
            names[i * len(names) // clients :] + names[: i * len(names) // clients] for i in range(clients)
        ]
        if workload.kind == "head":
            return [Head(heads, bodies, mine, size) for mine in turned]
        return [Get(heads, bodies, mine, size, verify=self.plan.verify) for mine in turned]

    def _fresh(self, name: str) -> Iterator[str]:
        """Names nobody used before, for one client."""
        mine = next(self._serial)
        return (f"{name}/{mine}/{number}" for number in count())

    # --- large bodies: a few clients on threads

    async def _run_large(self, workload: Workload) -> list[Round]:
        clients = self.clients_of(workload)
        self._progress(f"{workload.name}: warming up")
        first = await self._large_round(workload, clients, 1)
        each = 1
        if workload.kind != "cold" and first.latencies_s:
            each = max(1, round(self.plan.seconds * first.ops / clients / max(first.elapsed_s, 1e-9)))
        rounds = []
        for number in range(self.plan.rounds):
            self._progress(f"{workload.name}: round {number + 1} of {self.plan.rounds}")
            rounds.append(await self._large_round(workload, clients, each))
        return rounds

    async def _large_round(self, workload: Workload, clients: int, each: int) -> Round:
        """Every client does `each` objects, so that all end at about the same time."""
        size, verify = workload.size, self.plan.verify
        if workload.kind == "put":
            names = [[name for name, _ in zip(self._fresh(workload.name), range(each), strict=False)]
                     for _ in range(clients)]  # fmt: skip
            return await self._threads(lambda client, name: client.put(name, size), names, size)
        stored = self._prepared[size]
        if workload.kind == "cold":
            forget_files(peer.pid for peer in self.target.peers)
            each = len(stored) // clients
        names = [[stored[(i + clients * turn) % len(stored)] for turn in range(each)] for i in range(clients)]
        return await self._threads(lambda client, name: client.get(name, size, verify=verify), names, size)

    async def _threads(self, act: Act, names: Sequence[Sequence[str]], size: int) -> Round:
        heads, bodies, deadline_s = self.target.heads, self.bodies, self.plan.deadline_s
        ends = [spread[0] for spread in self.target.spread(max(len(names), 2))]
        load = LargeLoad([LargeClient(ends[i], heads, bodies, deadline_s) for i in range(len(names))])
        before = await self.target.cpu_s()
        work = asyncio.create_task(asyncio.to_thread(load.run, act, names, size))
        try:
            one = await asyncio.shield(work)
        finally:
            load.stop()
            await asyncio.wait([work])
        after = await self.target.cpu_s()
        one.cpu_s = after - before if before is not None and after is not None else None
        return one

    # --- what reads need

    async def _prepare(self, workload: Workload) -> None:
        if workload.kind == "list":
            if not self._listed:
                self._progress(f"list: storing {self.plan.keys:,} keys")
                await self._store([f"list/{number:09d}" for number in range(self.plan.keys)], 16)
                self._listed = True
        elif workload.kind != "put" and workload.size not in self._prepared:
            self._progress(f"{workload.name}: storing {workload.objects} objects to read")
            names = [f"read/{workload.size}/{number}" for number in range(workload.objects)]
            await self._store(names, workload.size)
            self._prepared[workload.size] = names

    async def _store(self, names: list[str], size: int) -> None:
        """Store all names, trying again what failed; raises BenchError if one will not be stored."""
        if size > MIB:
            lists = [names[i::LARGE_CLIENTS] for i in range(LARGE_CLIENTS)]
            one = await self._threads(lambda client, name: client.put(name, size), lists, size)
        else:
            shared = iter(names)
            clients = max(self.plan.clients, 32)
            sources = [Put(self.target.heads, self.bodies, shared, size) for _ in range(clients)]
            one = await Load(self.plan.deadline_s).run(sources, self.target.spread(clients), None)
        if one.ops < len(names):
            raise BenchError(f"only {one.ops} of {len(names)} objects could be stored: {dict(one.errors)}")


def forget_files(pids: Iterator[int | None] | Sequence[int | None]) -> int:
    """Make the page cache drop the files those processes hold open; returns how many files.

    Clean pages only, and only for processes of this machine and user. Raises BenchError if there is none: a
    "cold" figure must not be a warm one.
    """
    files = 0
    for pid in pids:
        for name in _open_files(pid):
            try:
                handle = os.open(name, os.O_RDONLY)
            except OSError:
                continue
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                files += 1
            finally:
                os.close(handle)
    if not files:
        raise BenchError(
            "get-64m-cold: the peers do not run on this machine as this user, their cache stays warm"
        )
    return files


def _open_files(pid: int | None) -> list[str]:
    """Regular files a process holds open; and the segments beside them, which it may open only to read."""
    if pid is None:
        return []
    found: set[str] = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                path = os.readlink(entry.path)
            except OSError:
                continue
            if path.startswith("/") and os.path.isfile(path):
                found.add(path)
                if os.path.basename(os.path.dirname(path)) == "segments":
                    found.update(one.path for one in os.scandir(os.path.dirname(path)) if one.is_file())
    except OSError:
        return []
    return sorted(found)
