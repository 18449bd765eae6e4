"""One seeded run: a fleet, hours of churn, calm, and the verdict. The same seed gives the same run."""

from __future__ import annotations

import asyncio
import random
import resource
from collections import Counter
from dataclasses import dataclass, field

from tools.churn.clients import Clients
from tools.churn.faults import FAULTS, Faults, Pace
from tools.churn.fleet import Fleet
from tools.churn.judge import Judge
from tools.sim.loop import Crashed, Deadlock, Stuck, VirtualLoop
from tools.sim.story import Story

LOSS = 0.005
CONVERGE_S = 1800.0
STEP_S = 0.5
BEGIN_S = 30.0


@dataclass(frozen=True)
class Options:
    """Members at first, virtual seconds of churn, partitions as a power of two, seconds between two increments."""

    members: int = 200
    seconds: float = 7200.0
    power: int = 8
    client_s: float = 2.0
    pace: Pace = field(default_factory=Pace)
    unsafe: frozenset[str] = frozenset()  # safeguards left out, for negative controls


@dataclass
class Result:
    """What came of a run; `problems` is empty if all held. Times in virtual seconds but for `cpu_s`."""

    seed: int
    problems: list[str]
    virtual_s: float
    converged_s: float
    members: int
    epochs: int
    faults: Counter[str]
    safeguards: Counter[str]
    answers: Counter[str]
    removed_after_s: list[float]
    false_removals: int
    deaths: int
    false_deaths: int
    datagrams: int
    udp_bytes: int
    tcp_bytes: int
    member_seconds: float
    cpu_s: float
    digest: str
    lines: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems

    def missing(self) -> list[str]:
        """Faults that never struck."""
        return [name for name in FAULTS if not self.faults[name]]


class Run:
    """The parts of one run, wired together."""

    def __init__(self, seed: int, options: Options, story: bool = False) -> None:
        self.seed = seed
        self.options = options
        limit = options.seconds + CONVERGE_S + 7200
        self.loop = VirtualLoop(limit_s=limit, max_turns=1_000_000_000)
        self.story = Story(self.loop.time, story)
        self.fleet = Fleet(
            self.loop, self.story, seed, options.members, options.power, LOSS, options.pace.evict_after_s,
            options.unsafe,
        )  # fmt: skip
        self.judge = Judge(self.fleet)
        self.clients = Clients(self.fleet, random.Random(f"clients {seed}"), options.client_s)
        self.faults = Faults(self.fleet, random.Random(f"faults {seed}"), options.pace)
        self.problems: list[str] = []
        self.converged_s = 0.0
        self.member_seconds = 0.0

    def run(self) -> Result:
        began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            self.loop.run(self._main())
        except (Crashed, Deadlock, Stuck, AssertionError) as error:
            self.problems.append(f"the run broke: {type(error).__name__}: {error}")
        fleet, air = self.fleet, self.fleet.air
        self.problems += self.judge.false_removals + fleet.failures
        return Result(
            seed=self.seed, problems=self.problems, virtual_s=self.loop.time(), converged_s=self.converged_s,
            members=len(fleet.newest().members), epochs=len(fleet.epochs), faults=Counter(self.story.faults),
            safeguards=Counter(self.story.safeguards), answers=Counter(self.clients.answers),
            removed_after_s=self.judge.removed_after_s, false_removals=len(self.judge.false_removals),
            deaths=len(fleet.deaths), false_deaths=len(fleet.false_deaths),
            datagrams=air.packets, udp_bytes=air.bytes, tcp_bytes=air.tcp_bytes, member_seconds=self.member_seconds,
            cpu_s=resource.getrusage(resource.RUSAGE_SELF).ru_utime - began, digest=self.story.digest(),
            lines=self.story.lines,
        )  # fmt: skip

    async def _main(self) -> None:
        options, loop = self.options, self.loop
        founding = self.fleet.founding()
        for machine in self.fleet.machines:
            machine.start(founding)
        await asyncio.sleep(1.0)
        await self._until_settled(BEGIN_S + options.members / 2)
        if self.problems:
            return
        await self.clients.begin()
        self.story.event("fleet", "everything is in order; faults begin")
        clients = loop.create_task(self.clients.run(), name="clients")
        faults = loop.create_task(self.faults.run(), name="faults")
        until = loop.time() + options.seconds
        while loop.time() < until:
            await asyncio.sleep(60.0)
            self.member_seconds += 60.0 * len(self.fleet.running())
        await self.faults.calm()
        await faults
        self.clients.working = False
        await clients
        self.story.event("fleet", "all faults are over")
        calm = loop.time()
        await self._until_settled(CONVERGE_S)
        self.converged_s = loop.time() - calm
        if not self.problems:
            self.story.event("fleet", f"in order {self.converged_s:.1f} s later")
            self.problems += self.judge.settled()
            self.problems += await self.clients.verify()
        air = self.fleet.air
        self.story.event(
            "fleet", f"{air.packets} datagrams of {air.bytes} bytes, {air.tcp_bytes} bytes by TCP"
        )

    async def _until_settled(self, within_s: float) -> None:
        until = self.loop.time() + within_s
        while word := self.judge.apart():
            if self.loop.time() > until:
                self.problems.append(f"not in order after {within_s:.0f} s: {word}")
                return
            await asyncio.sleep(STEP_S)


def run_seed(seed: int, options: Options | None = None, story: bool = False) -> Result:
    """Run one seed. Never raises for what the simulated code does: that is in `problems`."""
    return Run(seed, options or Options(), story).run()
