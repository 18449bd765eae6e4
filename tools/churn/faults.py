"""What happens to the fleet: machines fail in every way they can, and operators change the ring.

Two things are kept from happening, for they would prove nothing: that a partition's owners die for good faster than the
ring can make them good (the next one dies only when the ring goes on without the last), and that a fault never ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from typing import Any

from gossip.messages import Address
from peer.errors import AtollError
from ring.changes import aborted, drained, revised, undrained
from ring.epoch import Epoch
from ring.members import ACTIVE
from tools.churn.clients import within
from tools.churn.fleet import REPLICAS, Fleet
from tools.churn.machine import Machine, Process

Change = Callable[[Epoch], Epoch]

CHANGE_FOR_S = (
    3600.0  # it may wait for changes whose new owners died, each removed after a quarter of an hour or two
)
CHANGE_PAUSE_S = 5.0
GIVE_UP_S = 120.0  # how long operators look at a change that does not end


@dataclass(frozen=True)
class Pace:
    """Mean seconds between two of a kind, for the whole fleet; how long automatic removal waits."""

    crash_s: float = 45.0
    freeze_s: float = 45.0
    island_s: float = 700.0
    one_way_s: float = 400.0
    storm_s: float = 900.0
    away_long_s: float = 2500.0
    dies_s: float = 1300.0
    joins_s: float = 450.0
    leaves_s: float = 500.0
    drains_s: float = 900.0
    weighs_s: float = 900.0
    two_at_once_s: float = 600.0
    power_s: float = 1700.0
    evict_after_s: float = 900.0

    def faster(self, times: float) -> Pace:
        """Everything but single crashes and freezes comes sooner, automatic removal as well."""
        kept = ("crash_s", "freeze_s")
        return replace(self, **{k: v / times for k, v in asdict(self).items() if k not in kept})


FAULTS = (
    "crash", "freeze", "island", "one-way cut", "storm", "away for long", "dies for good", "joins", "leaves", "drains",
    "weighed anew", "two operators at once", "power loss of a rack", "change aborted", "message cut off", "loss",
)  # fmt: skip
"""All of them; none may be zero in a long run."""


class Faults:
    """Draws faults while `running`."""

    def __init__(self, fleet: Fleet, rng: random.Random, pace: Pace) -> None:
        self.fleet = fleet
        self.rng = rng
        self.pace = pace
        self.running = True
        self.base_loss = fleet.air.loss
        self._tasks: set[asyncio.Task[None]] = set()
        self._dying: Machine | None = None
        self._calmed = asyncio.Event()

    async def run(self) -> None:
        """For ever: each kind at its own pace."""
        pace = self.pace
        kinds: tuple[tuple[Callable[[], Coroutine[Any, Any, None]], float], ...] = (
            (self.crash, pace.crash_s), (self.freeze, pace.freeze_s), (self.island, pace.island_s),
            (self.one_way, pace.one_way_s), (self.storm, pace.storm_s), (self.away_for_long, pace.away_long_s),
            (self.dies, pace.dies_s), (self.joins, pace.joins_s), (self.leaves, pace.leaves_s),
            (self.drains, pace.drains_s), (self.weighs, pace.weighs_s), (self.two_at_once, pace.two_at_once_s),
            (self.power_loss, pace.power_s), (self.gives_up, GIVE_UP_S),
        )  # fmt: skip
        await asyncio.gather(*(self._draw(act, every_s) for act, every_s in kinds))

    async def _draw(self, act: Callable[[], Coroutine[Any, Any, None]], every_s: float) -> None:
        rng = random.Random(self.rng.random())
        while self.running:
            try:
                async with asyncio.timeout(rng.expovariate(1.0) * every_s):
                    await self._calmed.wait()
            except TimeoutError:
                pass
            if self.running:
                task = self.fleet.loop.create_task(act(), name=act.__name__)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def calm(self) -> None:
        """No more of it: the network is whole, and who is down or frozen comes back when its time has come."""
        self.running = False
        self._calmed.set()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        assert not self.fleet.cuts
        while self.fleet.anybody_away():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.5)

    # --- machines

    async def crash(self) -> None:
        """One process ends and is started again, most of them soon."""
        machine = self._someone()
        self._fault("crash", machine, "its process is killed")
        await self._down(machine, self._some_s(2.0, 240.0))

    async def power_loss(self) -> None:
        """Half of the machines of one zone go out together: not more, for a majority of the owners must be left."""
        zone = self._someone().zone
        machines = [m for m in self._up() if m.zone == zone][::2]
        for machine in machines:
            self._fault("power loss of a rack", machine, "is without power")
        await asyncio.gather(*(self._down(machine, self._some_s(20.0, 200.0)) for machine in machines))

    async def freeze(self) -> None:
        """One process is stopped where it is, and goes on later."""
        machine = self._someone()
        process, length_s = machine.process, self._some_s(0.3, 300.0)
        if process is None or process.node is None:
            return
        self._fault("freeze", machine, f"stands still for {length_s:.1f} s")
        self.fleet.away(machine, "frozen")
        self.fleet.air.stall(process.node, self.fleet.loop.now, length_s)
        await self._pass(length_s + 2.0)

    async def away_for_long(self) -> None:
        """A machine is off for longer than it takes to be removed, and comes back."""
        machine = self._someone()
        if self._dying is not None or self._few():
            return
        self._dying = machine
        length_s = self.pace.evict_after_s * (1.1 + 0.5 * self.rng.random())
        self._fault("away for long", machine, f"is off for {length_s:.0f} s")
        await self._down(machine, length_s, end_early=False)
        self._dying = None

    async def dies(self) -> None:
        """A machine is gone for good: the others have to notice, and to go on without it."""
        machine = self._someone()
        if self._dying is not None or self._few():
            return
        self._dying = machine
        self._fault("dies for good", machine, "is gone for good")
        self.fleet.away(machine, "gone")
        self.fleet.dead_for_good[machine.id] = self.fleet.loop.now
        machine.retired = True
        machine.crash()
        while not self._without(machine):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(5.0)
        self._dying = None

    async def _down(self, machine: Machine, length_s: float, *, end_early: bool = True) -> None:
        self.fleet.away(machine, "down")
        machine.crash()
        await (self._pass(length_s) if end_early else asyncio.sleep(length_s))
        self.fleet.back(machine, "down")
        self.fleet.back(machine, "frozen")
        machine.start()

    # --- the network

    async def island(self) -> None:
        """A part of the machines, a hundredth to a third, can reach only each other."""
        machines = self._up()
        count = max(1, int(len(machines) * (0.01 + 0.3 * self.rng.random() ** 2)))
        inside = set(self.rng.sample([machine.index for machine in machines], count))
        length_s = self._some_s(5.0, 240.0)
        self._fault("island", None, f"{count} machines are cut off for {length_s:.0f} s")
        await self._cut(inside, lambda one, other: (one in inside) != (other in inside), length_s)

    async def one_way(self) -> None:
        """What one machine sends gets nowhere, or nothing gets to it."""
        machine, length_s, deaf = self._someone(), self._some_s(5.0, 120.0), self.rng.random() < 0.5
        what = "hears nothing" if deaf else "is not heard"
        self._fault("one-way cut", machine, f"{what} for {length_s:.0f} s")
        index = machine.index
        await self._cut({index}, lambda one, other: (other if deaf else one) == index, length_s)

    async def _cut(self, inside: set[int], cut: Callable[[int, int], bool], length_s: float) -> None:
        reason = f"cut {self.fleet.loop.now}"
        for index in sorted(inside):
            self.fleet.away(self.fleet.machines[index], reason)
        self.fleet.cuts.append(cut)
        await self._pass(length_s)
        self.fleet.cuts.remove(cut)
        for index in sorted(inside):
            self.fleet.back(self.fleet.machines[index], reason)

    async def storm(self) -> None:
        """For a while the network loses a tenth of all packets, or a fifth."""
        loss, length_s = self.rng.choice((0.1, 0.2)), self._some_s(20.0, 120.0)
        self._fault("storm", None, f"{loss:.0%} of all packets are lost for {length_s:.0f} s")
        self.fleet.air.loss, self.fleet.network.weather.loss = loss, loss / 10
        await self._pass(length_s)
        self.fleet.air.loss, self.fleet.network.weather.loss = self.base_loss, self.base_loss / 10

    # --- operators

    async def joins(self) -> None:
        """A new machine, told a few seeds."""
        machine = self.fleet.add()
        machine.seeds = self._seeds()
        self._fault("joins", machine, "is new")
        machine.start()

    async def leaves(self) -> None:
        """A machine that works is removed: it gives everything away first."""
        machine = self._someone()
        if self._few():
            return
        self._fault("leaves", machine, "is asked to leave")
        self.fleet.asked_to_leave.add(machine.id)
        await self._change(lambda base: drained(base, machine.id, leave=True))

    async def drains(self) -> None:
        """A machine gives everything away, and some time later gets a share again."""
        machine = self._someone()
        self._fault("drains", machine, "is to give everything away")
        if await self._change(lambda base: drained(base, machine.id)):
            await self._pass(self._some_s(10.0, 300.0))
            await self._change(lambda base: undrained(base, machine.id))

    async def weighs(self) -> None:
        """A machine has another capacity."""
        machine = self._someone()
        weight = 10**11 * self.rng.randrange(8, 13)
        self._fault("weighed anew", machine, f"has a capacity of {weight / 10**12:g} TB")
        await self._change(lambda base: revised(base, machine.id, capacity=weight))

    async def two_at_once(self) -> None:
        """Two operators change different things in the same moment, through different peers."""
        one, other = self._someone(), self._someone()
        self._fault(
            "two operators at once", None, f"{one.name} is weighed anew, {other.name} gets another rack"
        )
        weight, zone = 10**11 * self.rng.randrange(8, 13), f"rack-{self.rng.randrange(10)}"
        answers = await asyncio.gather(
            self._ask_once(lambda base: revised(base, one.id, capacity=weight)),
            self._ask_once(lambda base: revised(base, other.id, zone=zone)),
        )
        for answer in answers:
            self.fleet.story.safeguards[f"of two at once: {answer}"] += 1

    async def gives_up(self) -> None:
        """An operator sees a change that has not ended for minutes, and gives it up."""
        joint = self.fleet.newest()
        await self._pass(GIVE_UP_S)
        if joint.kind == "joint" and self.fleet.newest() == joint and self.rng.random() < 0.5:
            self._fault("change aborted", None, f"epoch {joint.number} is given up")
            await self._ask_once(lambda base: aborted(base) if base == joint else base)

    # --- inside

    async def _change(self, change: Change) -> bool:
        """Ask again until it is decided or cannot be; whether it was decided."""
        until = self.fleet.loop.time() + CHANGE_FOR_S
        while self.fleet.loop.time() < until:
            answer = await self._ask_once(change)
            if answer in ("decided", "refused"):
                return answer == "decided"
            await asyncio.sleep(CHANGE_PAUSE_S * (0.5 + self.rng.random()))
        self.fleet.failures.append("an operator's change was not decided in an hour")
        return False

    async def _ask_once(self, change: Change) -> str:
        """One request to one peer: decided, refused, told to wait, unknown."""
        process = self._peer()
        try:
            await within(process, process.replica.change_ring(change))
        except AtollError as error:
            if error.code == "ChangeUnderWay":
                return "told to wait"
            return "refused" if not error.retry else "unknown"
        return "decided"

    def _peer(self) -> Process:
        serving = self.fleet.serving()
        return serving[self.rng.randrange(len(serving))]

    def _up(self) -> list[Machine]:
        """Machines that are there and stay: members, running, with no fault of their own."""
        fleet = self.fleet
        ring = fleet.newest()
        return [
            one.machine
            for one in fleet.serving()
            if (known := ring.member(one.me)) is not None
            and known.state == ACTIVE
            and one.me not in fleet.asked_to_leave
        ]

    def _someone(self) -> Machine:
        machines = self._up()
        return machines[self.rng.randrange(len(machines))]

    def _seeds(self) -> tuple[Address, ...]:
        found = (self._someone().member for _ in range(3))
        return tuple((member.host, member.peer_port) for member in found)

    def _few(self) -> bool:
        return len(self._up()) <= max(2 * REPLICAS, len(self.fleet.epochs[0].members) * 3 // 4)

    def _without(self, machine: Machine) -> bool:
        """Whether the ring is whole and does not name this machine."""
        return self.fleet.newest().kind == "final" and self.fleet.member(machine) is None

    def _fault(self, name: str, machine: Machine | None, what: str) -> None:
        self.fleet.story.fault(name, machine.name if machine is not None else "fleet", what)

    def _some_s(self, least: float, most: float) -> float:
        """A length of time, short ones as likely as long ones of ten times the size."""
        return float(least * (most / least) ** self.rng.random())

    async def _pass(self, length_s: float) -> None:
        """So much time, or less when everything is to end."""
        try:
            async with asyncio.timeout(length_s):
                await self._calmed.wait()
        except TimeoutError:
            pass
