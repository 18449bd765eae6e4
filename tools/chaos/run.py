"""One run: load, one fault after the other, healing after each, and then everything is verified."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from peer.errors import AtollError
from peer.recovery.audit import audit
from tools.chaos.ailments import NoAilment
from tools.chaos.faults import FAULTS, Fault
from tools.chaos.load import Load, availability, longest_outage_s
from tools.chaos.machines import Machines, NoDisk, small_disk
from tools.chaos.network import Network, NoNetwork
from tools.chaos.watch import Watch, moved_bytes, whole
from tools.devlayout import DevError

CHUNK_BYTES = 128 * 1024
HEAL_S = 120.0
CALM_S = 2.0
SLOW_S, GRACE_S = 2.0, 5.0
"""No request may take longer than the first, from the second after a fault on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made of."""

    peers: int = 3
    clients: int = 4
    keys: int = 60
    seconds: float = 60.0
    hold_s: float = 6.0
    seed: int = 1
    port: int = 7500
    faults: tuple[str, ...] = tuple(FAULTS)
    kill_each: bool = True


@dataclass(slots=True)
class Struck:
    """One fault and what came of it. Bytes: what the disks lacked when it ended, and what was moved to heal it."""

    fault: str
    peer: str
    began_s: float
    held_s: float
    healed_s: float | None = None
    lacking_bytes: int = 0
    moved_bytes: int = 0
    slow: int = 0


@dataclass(slots=True)
class Outcome:
    struck: list[Struck] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # fault -> why
    problems: list[str] = field(default_factory=list)
    operations: int = 0
    availability: float = 0.0
    longest_outage_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    verified: int = 0
    audits: int = 0
    status_ahead_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems


class Run:
    """`say` is told what happens, a line at a time."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._chance = random.Random(f"chaos {plan.seed}")
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Raises DevError if the cluster does not start."""
        with self._machines() as machines:
            machines.start_all()
            self._say(f"{len(machines.peers)} peers serve")
            load = Load(machines, self._plan.clients, self._plan.keys)
            with Watch(machines) as watch:
                load.start()
                try:
                    self._strike_all(machines, load)
                finally:
                    load.stop()
                self._await_whole(machines, "at the end")
                self._verify(machines, load)
            outcome = self.outcome
            outcome.audits, outcome.status_ahead_s = watch.audits, round(watch.longest_s, 1)
            outcome.problems += watch.lies
            outcome.problems += load.wrong
            self._count(load)
        return self.outcome

    @contextmanager
    def _machines(self) -> Iterator[Machines]:
        plan = self._plan
        with ExitStack() as stack:
            network, small = None, {}
            if "drop" in plan.faults:
                try:
                    network = stack.enter_context(Network(plan.peers))
                except NoNetwork as why:
                    self._skip("drop", f"no network namespaces here: {why}")
            on_small = [name for name in plan.faults if FAULTS[name].small]
            if on_small:
                try:
                    small = {plan.peers - 1: stack.enter_context(small_disk(self._directory))}
                except NoDisk as why:
                    for name in on_small:
                        self._skip(name, f"no small file system here: {why}")
            machines = Machines(self._directory, plan.peers, plan.port, network, small, CHUNK_BYTES)
            try:
                yield machines
            finally:
                machines.close()

    def _skip(self, fault: str, why: str) -> None:
        self.outcome.skipped[fault] = why
        self._say(f"{fault} is left out: {why}")

    # --- faults

    def _strike_all(self, machines: Machines, load: Load) -> None:
        """Each fault once, then at random until the time is over."""
        time.sleep(CALM_S)
        skipped = self.outcome.skipped
        faults = [FAULTS[name] for name in self._plan.faults if name not in skipped]
        end_s = time.monotonic() + self._plan.seconds
        waiting = list(faults)
        while faults and (waiting or time.monotonic() < end_s):
            fault = waiting.pop(0) if waiting else self._chance.choice(faults)
            try:
                self._strike(machines, load, fault)
            except NoAilment as why:
                self._skip(fault.name, str(why))
                faults.remove(fault)

    def _strike(self, machines: Machines, load: Load, fault: Fault) -> None:
        peer = next(iter(machines.small)) if fault.small else self._chance.choice(machines.peers)
        name = machines.place(peer).name
        began_s = time.monotonic()
        self._say(f"{fault.name}: {name} ({fault.what})")
        fault.begin(machines, peer, self._chance)
        time.sleep(self._plan.hold_s)
        before = moved_bytes(machines)
        fault.end(machines, peer)
        ended_s = time.monotonic()
        struck = Struck(fault.name, name, began_s, round(ended_s - began_s, 1))
        self.outcome.struck.append(struck)
        struck.lacking_bytes = audit(machines.directories).bytes
        struck.healed_s = self._await_whole(machines, f"after {fault.name} of {name}")
        after = moved_bytes(machines)
        struck.moved_bytes = sum(max(0, count - before.get(peer, 0)) for peer, count in after.items())
        struck.slow = sum(
            one.took_s > SLOW_S and began_s + GRACE_S < one.begun_s < ended_s for one in load.operations
        )
        if struck.healed_s is not None:
            self._say(f"  healed {struck.healed_s:.1f} s after its end")
        time.sleep(CALM_S)

    def _await_whole(self, machines: Machines, when: str) -> float | None:
        """Seconds until the cluster says that it is whole; a problem, and None, if it takes too long."""
        began_s = time.monotonic()
        while not whole(machines):
            if time.monotonic() - began_s > HEAL_S:
                self.outcome.problems.append(f"not whole again {HEAL_S:g} s {when}")
                return None
            time.sleep(0.1)
        return round(time.monotonic() - began_s, 1)

    # --- the end

    def _verify(self, machines: Machines, load: Load) -> None:
        """Every object through every peer; then the disks; then with any one peer killed."""
        outcome = self.outcome
        for peer in machines.peers:
            outcome.verified += self._read_all(machines, load, [peer], f"through {machines.place(peer).name}")
        well = self._await_whole(machines, "after everything was read") is not None
        found = audit(machines.directories, deep=True)
        if found.lacking and well:
            outcome.problems.append(
                f"{len(found.lacking)} copies lack on the disks though all is said to be well"
            )
        for peer in machines.peers if self._plan.kill_each else ():
            others = [other for other in machines.peers if other != peer]
            machines.kill(peer)
            outcome.verified += self._read_all(
                machines, load, others, f"while {machines.place(peer).name} is dead"
            )
            machines.start(peer)
            machines.wait_ready(peer)
            self._await_whole(machines, "after the last start")

    def _read_all(self, machines: Machines, load: Load, peers: Sequence[int], how: str) -> int:
        self._say(f"reading every object {how}")
        try:
            return load.verify(*peers)
        except AtollError as error:
            self.outcome.problems.append(f"not every object can be read {how}: {error}")
            return 0

    def _count(self, load: Load) -> None:
        outcome, operations = self.outcome, load.operations
        outcome.operations = len(operations)
        outcome.availability = availability(operations)
        outcome.longest_outage_s = round(longest_outage_s(operations), 2)
        for one in operations:
            if one.failure:
                word = one.failure.partition(":")[0]
                outcome.failures[word] = outcome.failures.get(word, 0) + 1


__all__ = ["DevError", "Outcome", "Plan", "Run", "Struck"]
