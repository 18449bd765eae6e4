"""What goes wrong in a run: a nemesis draws faults from its seed and lets each last a drawn time.

Safety must hold whatever happens, so any number of faults may overlap. Two things would make a run prove
nothing, and are avoided: a cluster that never works (each fault ends), and losses beyond the promise (at most
one machine at a time may run on a wrong disk or have a rotten row, P2).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tools.sim.cluster import Cluster, SimPeer
from tools.sim.disk import DiskTraits
from tools.sim.network import Weather
from tools.sim.ringfaults import RingFaults
from tools.sim.survival import Survival

FAULTS = {
    "bad weather": 16,
    "stragglers": 4,
    "partition": 14,
    "one-way cut": 8,
    "reset": 8,
    "crash": 16,
    "crash beside a pause": 6,
    "power loss": 4,
    "pause": 12,
    "clock jump": 6,
    "slow disks": 5,
    "full disk": 4,
    "short queue": 5,
    "false suspicion": 5,
    "old disk": 4,
    "rotten row": 3,
    "gates raised": 4,
    "peer joins": 5,
    "peer drains": 5,
    "peer removed": 4,
    "peer replaced": 4,
    "change aborted": 4,
}
AWAY = {"peer stays away": 14, "peer held for dead": 8}
"""Where the dead are removed by themselves."""
RING_FAULTS = ("peer joins", "peer drains", "peer removed", "peer replaced", "change aborted")
CHUNK_FAULTS = {"rotten chunk": 6, "rotten rows": 6, "lost rows of chunks": 1}
"""Those of worlds that store chunks."""


BETWEEN_PEERS = ("partition", "one-way cut", "reset", "false suspicion")


@dataclass(frozen=True)
class Climate:
    """How often faults begin (mean seconds between two) and how likely each kind is."""

    every_s: float = 0.8
    scale: float = 1.0  # of how long faults last
    weights: dict[str, int] = field(default_factory=lambda: dict(FAULTS))


class Nemesis:
    """Draws faults while `running`; `calm` ends them all."""

    def __init__(self, cluster: Cluster, rng: random.Random, climate: Climate) -> None:
        self.cluster = cluster
        self.rng = rng
        self.climate = climate
        self.running = True
        self.raise_gates: Callable[[], Awaitable[None]] | None = None
        self.wrong_disk: str | None = None  # the name of the machine that may lack what it acknowledged
        self._rotten = False
        self.ring = RingFaults(self)
        self.survival: Survival | None = None
        """Asked before anything is destroyed, in worlds that store chunks."""
        self._spare = len(cluster.peers) >= 3  # one machine may be lost for a majority
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        alone = len(self.cluster.peers) == 1
        drawn = {k: w for k, w in self.climate.weights.items() if not (alone and k in BETWEEN_PEERS)}
        drawn |= AWAY if self.cluster.evict_after_s and "peer removed" in drawn else {}
        kinds, weights = list(drawn), list(drawn.values())
        actions: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "bad weather": self.bad_weather,
            "stragglers": self.stragglers,
            "partition": self.partition,
            "one-way cut": self.one_way_cut,
            "reset": self.reset,
            "crash": self.crash,
            "crash beside a pause": self.crash_beside_a_pause,
            "power loss": self.power_loss,
            "pause": self.pause,
            "clock jump": self.clock_jump,
            "slow disks": self.slow_disks,
            "full disk": self.full_disk,
            "short queue": self.short_queue,
            "false suspicion": self.false_suspicion,
            "old disk": self.old_disk,
            "rotten row": self.rotten_row,
            "gates raised": self.gates_raised,
            "rotten chunk": self.rotten_chunk,
            "rotten rows": self.rotten_rows,
            "lost rows of chunks": self.lost_rows,
            **self.ring.actions(),
        }
        while self.running:
            await asyncio.sleep(self.rng.expovariate(1 / self.climate.every_s))
            if not self.running:
                return
            kind = self.rng.choices(kinds, weights)[0]
            task = self.cluster.loop.create_task(actions[kind](), name=f"fault {kind}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def calm(self) -> None:
        """End every fault: fair weather, all machines up on their own disks."""
        self.running = False
        while self._tasks:
            self._mend()  # a change of the ring may wait for a majority
            await asyncio.wait(self._tasks, timeout=1.0)
        self._mend()

    def _mend(self) -> None:
        self.cluster.network.heal()
        for peer in self.cluster.peers:
            peer.disk.full = False
            if peer.env is not None and peer.env.paused:
                peer.env.resume()
            if not peer.running and peer.name != self.wrong_disk:
                peer.start()

    def may_lose(self) -> bool:
        """Whether one machine more may lose what it acknowledged."""
        doubtful = any(peer.doubtful for peer in self.cluster.peers)
        return self._spare and not self._rotten and self.wrong_disk is None and not doubtful

    def survives(self, peer: SimPeer) -> bool:
        """Whether all would be left that this machine holds, were it lost for good."""
        return self.survival is None or self.survival.without(peer)

    # --- drawing

    def peer(self) -> SimPeer:
        return self.cluster.peers[self.rng.randrange(len(self.cluster.peers))]

    def note(self, fault: str, peer: SimPeer | None, what: str) -> None:
        self.cluster.story.fault(fault, peer.name if peer is not None else "world", what)

    def short_s(self, most_s: float) -> float:
        """Mostly short, sometimes long: most faults should end while requests still remember them."""
        return most_s * self.climate.scale * float(self.rng.random() ** 2.5)

    # --- the network

    async def bad_weather(self) -> None:
        rng = self.rng
        weather = Weather(
            delay_s=rng.choice([0.0002, 0.001, 0.01, 0.05]),
            loss=rng.choice([0, 0.02, 0.1, 0.25]),
            duplicate=rng.choice([0, 0.05, 0.3]),
            straggle=rng.choice([0, 0.02, 0.1, 0.3]),
            straggle_s=rng.choice([0.05, 0.5, 3.0]),
        )
        await self._weather("bad weather", weather)

    async def stragglers(self) -> None:
        """Every third message comes up to two seconds late, beyond crashes and restarts."""
        await self._weather("stragglers", Weather(straggle=0.35, straggle_s=2.0))

    async def _weather(self, fault: str, mine: Weather) -> None:
        network = self.cluster.network
        network.weather = mine
        self.note(fault, None, str(mine))
        await asyncio.sleep(0.3 + self.short_s(6))
        if network.weather is mine:
            network.weather = Weather()

    async def partition(self) -> None:
        peers = self.cluster.peers[:]
        self.rng.shuffle(peers)
        split = self.rng.randint(1, len(peers) - 1)
        pairs = {(a.id, b.id) for a in peers[:split] for b in peers[split:]}
        cut = pairs | {(b, a) for a, b in pairs}
        names = " ".join(p.name for p in peers[:split]) + " | " + " ".join(p.name for p in peers[split:])
        await self._cut("partition", cut, names)

    async def one_way_cut(self) -> None:
        one, other = self.rng.sample(self.cluster.peers, 2)
        await self._cut("one-way cut", {(one.id, other.id)}, f"{one.name} -> {other.name}")

    async def _cut(self, fault: str, cut: set[tuple[str, str]], text: str) -> None:
        network = self.cluster.network
        self.note(fault, None, text)
        network.cut |= cut
        await asyncio.sleep(0.1 + self.short_s(6))
        network.cut -= cut
        self.cluster.story.event("world", f"{fault} over: {text}")

    async def reset(self) -> None:
        one, other = self.rng.sample(self.cluster.peers, 2)
        broken = self.cluster.network.reset(one.id, other.id)
        if broken:
            self.note("reset", None, f"{one.name} - {other.name}, {broken} calls broken")

    async def false_suspicion(self) -> None:
        one, other = self.rng.sample(self.cluster.peers, 2)
        self.note("false suspicion", one, f"believes {other.name} dead")
        self.cluster.network.doubted.add((one.id, other.id))
        await asyncio.sleep(self.short_s(5))
        self.cluster.network.doubted.discard((one.id, other.id))

    # --- machines

    async def crash(self) -> None:
        peer = self.peer()
        if peer.running:
            self.note("crash", peer, "loses what was not durable")
            peer.crash()
            await self._start_after(peer, self.short_s(4))

    async def power_loss(self) -> None:
        up = [peer for peer in self.cluster.peers if peer.running]
        self.note("power loss", None, "every machine at once")
        for peer in up:
            peer.crash()
        await asyncio.gather(*(self._start_after(peer, self.short_s(2)) for peer in up))

    async def _start_after(self, peer: SimPeer, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if not peer.running and self.wrong_disk != peer.name and not peer.removed:
            peer.start()

    async def pause(self, most_s: float = 6.0) -> None:
        peer = self.peer()
        if peer.env is None or peer.env.paused:
            return
        env = peer.env
        self.note("pause", peer, "stands still")
        env.pause()
        await asyncio.sleep(self.short_s(most_s))
        if not env.dead:
            self.cluster.story.event(peer.name, "goes on")
            env.resume()

    async def crash_beside_a_pause(self) -> None:
        """Coordinators stand still between their two rounds while an owner forgets what it may."""
        await asyncio.gather(self.pause(3.0), self.pause(3.0), self.crash())

    async def clock_jump(self) -> None:
        peer = self.peer()
        jump_s = self.rng.choice([-1, 1]) * self.rng.choice([0.01, 1, 60, 3600])
        self.note("clock jump", peer, f"{jump_s:+} s")
        peer.skew_s += jump_s
        if peer.env is not None:
            peer.env.skew_s = peer.skew_s

    # --- disks

    async def slow_disks(self) -> None:
        slow = [peer for peer in self.cluster.peers if self.rng.random() < 0.7]
        self.note("slow disks", None, " ".join(peer.name for peer in slow))
        for peer in slow:
            peer.traits.stall, peer.traits.stall_s = 0.7, 0.5
        await asyncio.sleep(0.2 + self.short_s(3))
        if self.rng.random() < 0.5:
            await self.power_loss()
        for peer in slow:
            peer.traits.stall, peer.traits.stall_s = 0.01, 0.2

    async def full_disk(self) -> None:
        peer = self.peer()
        self.note("full disk", peer, "no room for anything")
        disk = peer.disk  # another one may be in its place by then
        disk.full = True
        await asyncio.sleep(self.short_s(3))
        disk.full = False

    async def short_queue(self) -> None:
        """Writes come faster than the disk takes them: few may wait, and then perhaps none."""
        peer = self.peer()
        soft = self.rng.choice([0, 1, 2, 4])
        hard = soft + self.rng.choice([0, 1, 2, 8])
        self.note("short queue", peer, f"{soft} writes may wait, {hard} at most")
        peer.traits.queue_soft, peer.traits.queue_hard = soft, hard
        await asyncio.sleep(0.1 + self.short_s(3))
        peer.traits.queue_soft, peer.traits.queue_hard = DiskTraits.queue_soft, DiskTraits.queue_hard

    async def old_disk(self) -> None:
        """Copy a disk, go on for a while, come back on the copy; then find the right disk again.

        The copy is from an earlier start, and all others have durably recorded the later one: what nobody that
        is up has heard of, nobody can know.
        """
        peer = self.peer()
        if not self.may_lose() or not peer.running:
            return
        self.wrong_disk = peer.name
        backup, starts = peer.disk.copy(), peer.starts
        await asyncio.sleep(0.5 + self.short_s(4))
        if peer.starts == starts:
            if peer.running:
                peer.crash()
            peer.start()
            await self.until(lambda: peer.serving, 5)
        await self.until(lambda: self._start_is_known(peer) or not peer.running, 10)
        confirmed = peer.serving and peer.starts > starts and self._start_is_known(peer)
        if peer.running:
            peer.crash()
        if confirmed:
            right, peer.disk = peer.disk, backup
            self.note("old disk", peer, "comes back on a copy of its disk from an earlier start")
            for _ in range(self.rng.randint(1, 3)):
                await asyncio.sleep(self.short_s(1))
                peer.start()
                await self.until(lambda: bool(peer.refused) and not peer.running, 0.5 + self.short_s(6))
                if peer.serving and "no_amnesia_check" not in self.cluster.unsafe:
                    self.cluster.failures.append(
                        f"{peer.name} was let vote on an old copy of its disk at {self.cluster.loop.time():.3f}"
                    )
                if peer.running:
                    peer.crash()
            peer.disk = right
            peer.doubtful = True
        self.wrong_disk = None
        await self._start_after(peer, 0.0)

    def _start_is_known(self, peer: SimPeer) -> bool:
        others = (other for other in self.cluster.peers if other is not peer)
        boot = peer.replica.identity.boot if peer.replica is not None else 0
        return boot > 0 and all(other.remembers(peer.id) >= boot for other in others)

    async def rotten_row(self) -> None:
        """Flip a bit of one register on one machine; once a run, as a second copy may be the last good one."""
        peer = self.peer()
        if not self.may_lose():
            return
        self._rotten = True
        key = peer.disk.corrupt(self.rng, "rows")
        if key is not None:
            self.note("rotten row", peer, f"a bit of row {key!r} flipped")

    async def rotten_chunk(self) -> None:
        """Flip a bit of some chunk, never of the last good copy."""
        peer = self.peer()
        if self.survival is not None and self.wrong_disk is None:
            extent = self.survival.rot_chunk(peer, self.rng)
            if extent is not None:
                self.note("rotten chunk", peer, f"a bit of {extent} flipped")

    async def rotten_rows(self) -> None:
        """Flip a bit of a row of some table, never of the last good one."""
        peer, table = self.peer(), self.rng.choice(["rows", "side", "chunks", "refs"])
        if self.survival is not None and self._spare and self.wrong_disk is None:
            key = self.survival.rot_row(peer, table, self.rng)
            if key is not None:
                self.note("rotten rows", peer, f"a bit of {key!r} of {table} flipped")

    async def lost_rows(self) -> None:
        """A machine restarts without any row of a chunk or a reference: its segments tell what it holds."""
        peer = self.peer()
        if self._spare and peer.running and self.wrong_disk is None and self.survives(peer):
            self.note("lost rows of chunks", peer, "and restarts")
            peer.crash()
            for table in ("chunks", "refs"):
                peer.disk.tables[table].clear()
            await self._start_after(peer, self.short_s(2))

    async def gates_raised(self) -> None:
        """The bucket's configuration changes while requests of the old one are under way."""
        if self.raise_gates is not None:
            self.note("gates raised", None, "to the next generation")
            await self.raise_gates()

    async def until(self, condition: Callable[[], bool], most_s: float) -> None:
        until = self.cluster.loop.time() + most_s
        while not condition() and self.cluster.loop.time() < until:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.05)
