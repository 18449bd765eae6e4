"""One seeded run: found a cluster, let clients work while faults strike, heal, read everything, judge.

The same seed and options give the same run, bit for bit, in any process: `Result.digest` shows it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from peer.errors import Corrupt
from peer.replication.keys import partition_in
from peer.replication.value import BALLOT_SLICE, decode_row
from tools.sim import linear
from tools.sim.cluster import Cluster
from tools.sim.faults import Climate, Nemesis
from tools.sim.founding import REPLICAS
from tools.sim.linear import Undecided
from tools.sim.listing import judge
from tools.sim.loop import Crashed, Deadlock, Stuck, VirtualLoop
from tools.sim.result import Result
from tools.sim.schedules import Schedule
from tools.sim.story import Story
from tools.sim.workload import Habits, Workload

LEAST_OPERATIONS = 500
LEAST_FAULTS = 5
MOST_S = 180.0
HEAL_S = 60.0
CONVERGE_S = 200.0


@dataclass(frozen=True)
class Options:
    """What a run is made of, apart from its seed."""

    peers: int = 3
    operations: int = 520
    unsafe: frozenset[str] = frozenset()
    habits: Habits = field(default_factory=Habits)
    climate: Climate = field(default_factory=Climate)
    evict_after_s: float | None = None  # None: drawn, for a share of the seeds
    schedule: Schedule | None = None  # instead of clients and nemesis


class World:
    """The parts of one run, wired together."""

    def __init__(self, seed: int, options: Options, story: bool = False, details: bool = False) -> None:
        self.seed = seed
        self.options = options
        self.loop = VirtualLoop(limit_s=MOST_S + 120 + CONVERGE_S)
        self.story = Story(self.loop.time, story, details)
        evict_after_s = _evict_after_s(seed, options)
        drawn = options.evict_after_s is None and evict_after_s > 0
        peers = options.peers + (drawn and options.peers == REPLICAS)  # or there is hardly anybody to spare
        self.cluster = Cluster(self.loop, self.story, seed, peers, options.unsafe)
        self.cluster.sweeping = options.schedule is None
        self.cluster.evict_after_s = evict_after_s
        self.workload = Workload(self.cluster, random.Random(f"workload {seed}"), options.habits)
        self.nemesis = Nemesis(self.cluster, random.Random(f"nemesis {seed}"), options.climate)
        self.nemesis.raise_gates = self.workload.raise_gates
        self.rng = random.Random(f"schedule {seed}")
        self.problems: list[str] = []

    def run(self) -> Result:
        try:
            self.loop.run(self._main())
        except (Crashed, Deadlock, Stuck, AssertionError) as error:
            self.problems.append(f"the run broke: {type(error).__name__}: {error}")
        for peer in self.cluster.peers:
            self.cluster.collect(peer)
        self.problems += self.cluster.failures
        self.problems += self.workload.torn
        self._judge()
        safeguards = Counter(self.story.safeguards)
        safeguards.update({name: count for name, count in self.cluster.counts.items() if count})
        return Result(
            seed=self.seed,
            problems=self.problems,
            operations=self.workload.completed,
            virtual_s=self.loop.time(),
            digest=self.story.digest(),
            faults=Counter(self.story.faults),
            safeguards=safeguards,
            outcomes=Counter(self.workload.outcomes),
            lines=self.story.lines,
        )

    async def _main(self) -> None:
        await self.cluster.found()
        await self.workload.open_gates()
        if self.options.schedule is None:
            await self._work_under_faults()
        else:
            await self.options.schedule(self)
        await self.nemesis.calm()
        self.story.event("world", "all faults are over")
        await self._read_everything()

    async def _work_under_faults(self) -> None:
        clients = [
            self.loop.create_task(self.workload.client(f"c{number}"), name=f"client {number}")
            for number in range(self.options.habits.clients)
        ]
        nemesis = self.loop.create_task(self.nemesis.run(), name="nemesis")
        while not self._enough() and self.loop.time() < MOST_S:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        self.workload.stopping = True
        self.nemesis.running = False
        await asyncio.gather(nemesis, *clients)

    def _enough(self) -> bool:
        return self.workload.completed >= self.options.operations and self._faults() >= LEAST_FAULTS

    def _faults(self) -> int:
        return sum(1 for count in self.story.faults.values() if count)

    async def _read_everything(self) -> None:
        """After healing every peer must answer for every key; the answers join the history."""
        until = self.loop.time() + HEAL_S
        while True:
            expected = [peer for peer in self.cluster.peers if not (peer.doubtful and peer.refused)]
            down = [f"{peer.name} ({peer.refused or 'starting'})" for peer in expected if not peer.serving]
            newest = self.cluster.newest()
            assert newest is not None
            if newest.kind != "final":
                down.append(f"the ring ({newest.number} {newest.kind})")
            if not down:
                break
            await asyncio.sleep(0.1)
            if self.loop.time() > until:
                self.problems.append(f"not serving {HEAL_S:.0f} s after the last fault: {', '.join(down)}")
                return
        await asyncio.sleep(6.0)  # beyond every budget and every message still under way
        for peer in [peer for peer in expected if newest.member(peer.id) is not None]:
            for key in self.workload.keys:
                op = await self.workload.operate("final", peer, linear.GET, key)
                if op.outcome not in (linear.OK, linear.ABSENT):
                    self.problems.append(f"{peer.name} cannot read {key} in a healed cluster: {op}")
            if not await self.workload.list_page("final", peer):
                self.problems.append(f"{peer.name} cannot list in a healed cluster")
        if self.cluster.sweeping:
            await self._converge()

    async def _converge(self) -> None:
        """P7: all owners come to hold the same, and nobody else holds anything."""
        until = self.loop.time() + CONVERGE_S
        while (apart := self._apart()) and self.loop.time() < until:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(2.0)
        if apart:
            self.problems.append(f"P7 not healed {CONVERGE_S:.0f} s after the last fault: {apart}")

    def _apart(self) -> str:
        """What is not in its final order yet; "" if everything is."""
        newest = self.cluster.newest()
        assert newest is not None
        rows: dict[int, dict[str, list[tuple[bytes, bytes]]]] = {}
        rotten: set[int] = (
            set()
        )  # partitions with a row that rotted behind its owner's back, which scrub will find
        for peer in self.cluster.peers:
            if newest.member(peer.id) is None:
                continue
            if peer.replica is None or not peer.serving:
                if peer.doubtful:
                    continue
                return f"{peer.name} is down"
            if peer.replica.epochs.current != newest:
                return f"{peer.name} is not in epoch {newest.number}"
            for key, row in peer.disk.tables["rows"].items():
                held = rows.setdefault(partition_in(key), {})
                try:
                    decode_row(key, row)
                except Corrupt:
                    rotten.add(partition_in(key))
                held.setdefault(peer.id, []).append((key, row[BALLOT_SLICE]))
        serving = {peer.id for peer in self.cluster.peers if peer.serving}
        for partition in sorted(rows.keys() - rotten):
            held = rows[partition]
            owners = newest.table.owners(partition)
            for holder in sorted(held):
                if holder not in owners:
                    return f"{self.cluster.names[holder]} holds rows of partition {partition}, which it does not own"
            if any(held.get(owner) != next(iter(held.values())) for owner in owners if owner in serving):
                return f"the owners of partition {partition} hold different rows"
        return ""

    def _judge(self) -> None:
        work = self.workload
        try:
            faults = judge(work.history, work.pages, work.keys)
        except Undecided as error:
            self.problems.append(f"undecided: {error}")
            return
        self.problems += [f"{fault.kind} broken at {fault.key or 'a page'}: {fault.text}" for fault in faults]
        if self.options.schedule is not None:
            return
        if work.completed < min(LEAST_OPERATIONS, self.options.operations):
            self.problems.append(f"only {work.completed} operations completed in {self.loop.time():.0f} s")
        if self._faults() < LEAST_FAULTS:
            self.problems.append(f"only {self._faults()} kinds of faults struck")


def _evict_after_s(seed: int, options: Options) -> float:
    """Every other seed removes the dead by itself, after a time in which many come back and some do not."""
    if options.evict_after_s is not None or options.schedule is not None:
        return options.evict_after_s or 0.0
    rng = random.Random(f"eviction {seed}")
    return rng.choice([1.0, 2.0, 4.0]) if rng.random() < 0.5 else 0.0


def run_seed(seed: int, options: Options | None = None, story: bool = False, details: bool = False) -> Result:
    """Run one seed. Never raises for what the simulated code does: that is in `problems`."""
    return World(seed, options or Options(), story, details).run()
