"""All machines of one run, the network between them, and what is known of each: who was away since when."""

from __future__ import annotations

import random
from collections.abc import Callable

from gossip.members import Member as Known
from gossip.messages import DEAD, SUSPECT, Address
from ring.epoch import Epoch
from ring.members import Member
from ring.placement import place
from tools.churn.machine import CLUSTER, Machine, Process
from tools.gossip_air import Air, Node
from tools.sim.loop import VirtualLoop
from tools.sim.network import SimNetwork
from tools.sim.story import Story

REPLICAS = 3


class FleetAir(Air):
    """Datagrams and gossip's exchanges, on the loop's time."""

    def __init__(self, fleet: Fleet, loss: float, rng: random.Random) -> None:
        super().__init__(loss, rng)
        self.fleet = fleet

    def stir(self) -> None:
        super().stir()
        self.fleet.loop.now = self.now

    def reaches(self, one: int, other: int) -> bool:
        fleet = self.fleet
        return not fleet.cuts or fleet.reaches(one, other)

    def noted(self, node: Node, member: Known) -> None:
        self.fleet.noted(node, member)

    def stopped(self, node: Node) -> None:
        process = self.fleet.machines[node.index].process
        if process is not None and process.node is node:
            process.env.pause()

    def resumed(self, node: Node) -> None:
        process = self.fleet.machines[node.index].process
        if process is not None and process.node is node:
            self.stir()
            process.env.resume()
            self.fleet.back(process.machine, "frozen")


class FleetNetwork(SimNetwork):
    """Calls between peers."""

    fleet: Fleet

    def _cross(self, sender: str, target: str, data: bytes, arrive: Callable[[bytes], None]) -> None:
        fleet = self.fleet
        if fleet.cuts and not fleet.reaches(fleet.machine_of[sender], fleet.machine_of[target]):
            self.story.fault("message cut off", sender, "", quiet=True)
        else:
            arrive(data)


class Fleet:
    """Who runs where. `failures` collects what must never happen."""

    def __init__(
        self, loop: VirtualLoop, story: Story, seed: int, members: int, power: int, loss: float,
        evict_after_s: float, unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.loop = loop
        self.story = story
        self.seed = seed
        self.power = power
        self.evict_after_s = evict_after_s
        self.unsafe = unsafe
        self.failures: list[str] = []
        self.cuts: list[Callable[[int, int], bool]] = []  # each says whether it cuts (from, to)
        self.network = FleetNetwork(loop, random.Random(f"network {seed}"), story)
        self.network.fleet = self
        self.air = FleetAir(self, loss, random.Random(f"air {seed}"))
        loop.agenda = self.air
        self.machines: list[Machine] = []
        self.machine_of: dict[str, int] = {}
        self._at: dict[Address, Machine] = {}
        self.asked_to_leave: set[str] = set()
        self.dead_for_good: dict[str, float] = {}  # member id -> since when
        self._away: dict[int, dict[str, float]] = {}  # machine -> reason -> since when
        self.absences: dict[int, list[tuple[float, float]]] = {}  # machine -> (from, to), the last few
        self.decided: dict[tuple[int, int], Epoch] = {}
        self.epochs: list[Epoch] = []  # in the order in which anybody first used them
        self.on_decided: Callable[[Epoch | None, Epoch], None] = lambda before, epoch: None
        self.deaths: set[tuple[str, int, int]] = set()  # (member, boot, incarnation) somebody believed dead
        self.false_deaths: set[tuple[str, int, int]] = set()
        for _ in range(members):
            self.add()

    def add(self) -> Machine:
        """Another machine, with nothing on it."""
        machine = Machine(self, len(self.machines))
        self.machines.append(machine)
        self.known(machine)
        return machine

    def known(self, machine: Machine) -> None:
        """The machine has the id it has now."""
        self.machine_of[machine.id] = machine.index
        self._at[machine.member.host, machine.member.peer_port] = machine

    def at(self, address: Address) -> Machine:
        return self._at[address]

    def founding(self) -> Epoch:
        """A ring of all machines there are."""
        members = tuple(machine.member for machine in self.machines)
        return Epoch(
            generation=0, number=1, kind="final", cluster_id=CLUSTER, members=members, replicas=REPLICAS,
            partition_power=self.power, format_level=1, chunk_bytes=4 << 20,
            table=place(None, members, REPLICAS, self.power), previous=None, root_access_key="", root_secret_key="",
        )  # fmt: skip

    # Who is there

    def running(self) -> list[Process]:
        return [machine.process for machine in self.machines if machine.process is not None]

    def serving(self) -> list[Process]:
        """Whom a client may ask now: up, confirmed, neither frozen nor cut off."""
        return [one for one in self.running() if one.serving and not self.is_away(one.machine)]

    def newest(self) -> Epoch:
        """The newest epoch anybody has used."""
        return self.epochs[-1]

    def member(self, machine: Machine) -> Member | None:
        return self.newest().member(machine.id)

    def away(self, machine: Machine, reason: str) -> None:
        """From now on nobody can reach this machine."""
        self._away.setdefault(machine.index, {})[reason] = self.loop.now

    def back(self, machine: Machine, reason: str) -> None:
        """This reason is over."""
        reasons = self._away.get(machine.index, {})
        since = min(reasons.values(), default=self.loop.now)
        if reasons.pop(reason, None) is not None and not reasons:
            self.absences.setdefault(machine.index, []).append((since, self.loop.now))
            del self.absences[machine.index][:-8]

    def is_away(self, machine: Machine) -> bool:
        return bool(self._away.get(machine.index))

    def anybody_away(self) -> bool:
        """Whether anybody is, who is to come back."""
        return any(reasons.keys() - {"gone"} for reasons in self._away.values())

    def away_s(self, machine: Machine, lately_s: float) -> float:
        """For how long it has been away, or was until `lately_s` ago at most."""
        now = self.loop.now
        lengths = [to - since for since, to in self.absences.get(machine.index, ()) if to >= now - lately_s]
        reasons = self._away.get(machine.index)
        if reasons:
            lengths.append(now - min(reasons.values()))
        return max(lengths, default=0.0)

    def reaches(self, one: int, other: int) -> bool:
        return not any(cut(one, other) for cut in self.cuts)

    # What is noticed

    def noted(self, node: Node, member: Known) -> None:
        """Gossip's news at one process."""
        machine = self.machines[node.index]
        if machine.process is not None and machine.process.node is node:
            machine.process.heard(member)
        boot, incarnation, state = member.belief
        if state == DEAD:
            self.deaths.add((member.id, boot, incarnation))
            subject = self.machines[self.machine_of[member.id]]
            there = (
                subject.id == member.id and subject.process is not None and self.away_s(subject, 60.0) == 0.0
            )
            if there and self.away_s(machine, 60.0) == 0.0:
                self.false_deaths.add((member.id, boot, incarnation))
        elif state == SUSPECT:
            self.story.safeguards["suspected"] += 1

    def installed(self, machine: Machine, epoch: Epoch) -> None:
        """A process uses an epoch: of one number there is only one."""
        known = self.decided.setdefault(epoch.order, epoch)
        if known is not epoch and known != epoch:
            self.failures.append(f"{machine.name} uses another epoch {epoch.order} than was decided first")
        before = self.epochs[-1] if self.epochs else None
        if before is None or epoch.order > before.order:
            self.epochs.append(epoch)
            self.on_decided(before, epoch)
