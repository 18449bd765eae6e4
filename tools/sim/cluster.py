"""A cluster of simulated peers: each a real Replica on a simulated machine that can be made to fail.

A `SimPeer` is a machine: its disk and its clock outlive the processes that are started on it. What the
process of a real peer does around its Replica (start, wait for the identity to be confirmed, serve, stop for
good when it turns out to be an old copy) is done here in the same order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgpack

from peer.errors import AtollError, Conflict, Full, Unavailable
from peer.healing import LEAVE_S
from peer.replication import meta
from peer.replication.agreement.identity import Amnesia
from peer.replication.healing.antientropy import AntiEntropy
from peer.replication.healing.eviction import Eviction
from peer.replication.healing.transition import Transition
from peer.replication.node import Replica
from peer.replication.workers import Workers
from ring.changes import joined
from ring.epoch import Epoch
from tools.sim import spell
from tools.sim.company import leaving, left_out, seen
from tools.sim.disk import DiskTraits, SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.founding import founding_epoch, member
from tools.sim.loop import VirtualLoop
from tools.sim.network import SimNetwork, Weather
from tools.sim.story import Story

CLIENT_DELAY_S = 0.0005
BAD_START_S = 10.0
EVICTIONS = {
    "removed": "removed by itself",
    "held_back": "removal held back",
    "restarts": "dead counted anew",
    "answered": "dead answered",
}
"""What the workers that remove the dead count, and the words for it."""


class NotServing(Unavailable):
    """Nobody listens there (a stopped, starting or refused peer): the request had no effect."""


class Gone(Unavailable):
    """The connection broke or the client's patience ended: the request may have had any effect, or none."""


class SimPeer:
    """One machine and the process that runs on it now, if any. `name` is for stories, `id` for protocols."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.member = member(index)
        self.name = self.member.name
        self.rng = random.Random(f"machine {cluster.seed} {index}")
        self.disk = SimDisk(lying="lying_disk" in cluster.unsafe)
        self.traits = DiskTraits()
        self.skew_s = (self.rng.random() - 0.5) * 0.2
        self.starts = 0
        self.env: SimEnv | None = None
        self.rows: SimRows | None = None
        self.replica: Replica | None = None
        self.serving = False
        self.refused = ""
        self.transition: Transition | None = None
        self.eviction: Eviction | None = None
        self.removed = False  # from the ring, for good
        self.evicted = False  # likewise, and nobody asked it to go
        self.doubtful = False  # an old copy of its disk ran once: the others may refuse the right one too
        self._requests: dict[asyncio.Future[Any], None] = {}

    @property
    def id(self) -> str:
        return self.member.id

    def remembers(self, other: str) -> int:
        """The highest boot of member `other` that this machine has durably recorded."""
        kept = self.disk.kept(b"boots")
        return (
            max((boot for member, boot, *_ in msgpack.unpackb(kept) if member == other), default=0)
            if kept
            else 0
        )

    @property
    def running(self) -> bool:
        return self.env is not None

    def start(self, founding: Epoch | None = None) -> None:
        """Start a process on this machine's disk."""
        assert self.env is None, f"{self.name} runs already"
        cluster = self.cluster
        self.starts += 1
        self.refused = ""
        env = SimEnv(cluster.loop, self.name, f"{cluster.seed} {self.name} {self.starts}", self.skew_s)
        env.on_task_failure = lambda name, error: cluster.task_failed(self, name, error)
        self.env = env
        self.rows = SimRows(self.disk, env, self.rng, cluster.story, self.traits)
        meta.check(self.rows)
        link = cluster.network.link(self.id, env)
        replica = Replica(env, link, self.rows, self.id, cluster.unsafe)
        self.replica = replica
        cluster.on_start(self)
        cluster.story.event(self.name, f"starts, boot {replica.identity.boot}")
        env.spawn(self._live(env, replica, founding), "life")

    async def _live(self, env: SimEnv, replica: Replica, founding: Epoch | None) -> None:
        cluster = self.cluster
        while True:
            try:
                await replica.begin()
                if founding is not None:
                    await replica.epochs.installed(founding)
                break
            except (Full, Unavailable):  # the process would end and be started again
                await env.sleep(0.5)
        cluster.network.attach(self.id, env, self._watched(replica))
        asked = leaving(replica)
        if (cluster.evict_after_s or asked) and await left_out(env, replica):
            cluster.story.safeguards["came back removed"] += 1
            self.removed, self.evicted = True, not asked
            return self.stop("removed from the ring while it was away")
        while replica.epochs.current is None:
            await self._join(env, replica)
        try:
            await replica.confirm()
        except Amnesia as error:
            cluster.story.event(
                self.name, "is refused: its disk is older than what the others have seen of it"
            )
            cluster.story.safeguards["amnesia detected"] += 1
            return self.stop(str(error))
        cluster.story.event(self.name, "serves")
        self.serving = True
        cluster.on_serving(self)
        if cluster.heals:
            self._heal(env, replica)
        return None

    def _heal(self, env: SimEnv, replica: Replica) -> None:
        """Background work, as in a real peer."""
        assert self.rows is not None
        alive = self.cluster.network.link(self.id, env).is_alive
        workers = Workers(env, self.rows)
        transition = Transition(env, self.rows, replica, alive, workers.throttle, self.cluster.unsafe)
        sweep = AntiEntropy(env, replica.me, replica.copies, lambda: replica.epochs.current, alive)
        workers.add(transition)
        if self.cluster.sweeping:
            workers.add(sweep)
        self.transition = transition
        if self.cluster.evict_after_s:
            view = partial(seen, self.cluster, self.id)
            self.eviction = Eviction(env, replica, view, self.cluster.evict_after_s, self.cluster.unsafe)
            workers.add(self.eviction)

        def changed(epoch: Epoch) -> None:
            transition.wake()
            sweep.wake()
            if epoch.kind == "final" and epoch.member(self.id) is None:
                env.spawn(self._leave(replica), "leave")

        replica.on_epoch = changed
        changed(replica.epoch)

    async def _join(self, env: SimEnv, replica: Replica) -> None:
        """Ask a running peer to be admitted; the answer is the epoch that contains us."""
        seeds = [peer for peer in self.cluster.peers if peer is not self and peer.serving]
        try:
            if not seeds:
                raise NotServing("no seed is up")
            seed = seeds[self.rng.randrange(len(seeds))]
            seed_replica = seed.replica
            assert seed_replica is not None
            epoch = await seed.request(
                lambda: seed_replica.change_ring(lambda base: joined(base, self.member))
            )
            await replica.epochs.installed(epoch)
        except Conflict as error:
            self.cluster.story.safeguards["change refused"] += 1
            self.cluster.story.note(self.name, f"is not admitted yet: {error}")
            await env.sleep(0.2 + 0.3 * self.rng.random())
        except AtollError:
            await env.sleep(0.2 + 0.2 * self.rng.random())

    async def _leave(self, replica: Replica) -> None:
        """The ring is without this peer: it ends once the others know, unless it is admitted anew."""
        await replica.proposals.hand_on()
        await replica.env.sleep(LEAVE_S)
        if replica.epoch.member(self.id) is None:
            self.removed = True
            self.stop("removed from the ring")

    def stop(self, why: str) -> None:
        """The process ends itself; a machine that was removed from the ring is not started again."""
        self.refused = why
        env = self.env

        def end() -> None:
            if self.env is env and env is not None:
                self.crash()
            if self.removed and self in self.cluster.peers:
                self.cluster.peers.remove(self)
                self.cluster.on_out(self)

        self.cluster.loop.call_soon(end)

    def crash(self) -> None:
        """SIGKILL and power loss in one: what was not durable is gone."""
        assert self.env is not None and self.rows is not None
        self.cluster.collect(self)
        self.env.kill()
        self.rows.crash()
        self.cluster.network.died(self.id)
        self.env = self.rows = self.replica = self.transition = self.eviction = None
        self.serving = False
        requests, self._requests = self._requests, {}
        for answer in requests:
            if not answer.done():
                answer.set_exception(Gone("the connection broke"))

    async def request(self, work: Callable[[], Awaitable[Any]], patience_s: float = 8.0) -> Any:
        """A client's request to this peer. Raises what `work` raises, NotServing or Gone."""
        loop, env = self.cluster.loop, self.env
        await asyncio.sleep(CLIENT_DELAY_S)
        if env is None or env.dead or not self.serving or self.env is not env:
            raise NotServing(f"{self.name} does not serve")
        answer: asyncio.Future[Any] = loop.create_future()
        self._requests[answer] = None

        async def run() -> None:
            try:
                result, error = await work(), None
            except AtollError as caught:
                result, error = None, caught
            loop.call_later(CLIENT_DELAY_S, settle, result, error)

        def settle(result: Any, error: AtollError | None) -> None:
            self._requests.pop(answer, None)
            if not answer.done():
                answer.set_exception(error) if error is not None else answer.set_result(result)

        env.post(lambda: env.spawn(run(), "request"))
        timer = loop.call_later(patience_s, settle, None, Gone("no answer in time"))
        try:
            return await answer
        finally:
            timer.cancel()

    def _watched(self, replica: Replica) -> Callable[[str, list[Any], Callable[[Any], None]], None]:
        """The replica's handler, counting the safeguards that show in its answers."""
        story, safeguards = self.cluster.story, self.cluster.story.safeguards
        names = self.cluster.names

        def handle(sender: str, message: list[Any], reply: Callable[[Any], None]) -> None:
            answered = False

            def watch(answer: Any) -> None:
                nonlocal answered
                answered = True
                name = spell.REFUSALS.get(answer[0])
                if name is not None:
                    safeguards[name] += 1
                if story.details:
                    story.note(
                        self.name,
                        f"    answers {names.get(sender, sender)}'s {spell.request(message)}: {spell.reply(answer)}",
                    )
                reply(answer)

            replica.handle(sender, message, watch)
            if not answered and message[0] in spell.READS:
                safeguards["answer waited for a commit"] += 1

        return handle


class Cluster:
    """All machines of one run."""

    def __init__(
        self, loop: VirtualLoop, story: Story, seed: int, peers: int, unsafe: frozenset[str],
        chunk_bytes: int = 4 << 20,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.chunk_bytes = chunk_bytes
        self.story = story
        self.seed = seed
        self.unsafe = unsafe
        self.network = SimNetwork(loop, random.Random(f"network {seed}"), story)
        self.heals = True  # peers run the workers that keep registers in order
        self.evict_after_s = 0.0  # whoever is dead for so long is removed; 0: nobody
        self.sweeping = True  # directed schedules arrange what anti-entropy would put right
        self.names: dict[str, str] = {}
        self.peers: list[SimPeer] = []
        for _ in range(peers):
            self.add()
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.on_start: Callable[[SimPeer], None] = lambda peer: None
        """Told of each process, its replica made and nothing begun; and, `on_serving`, when it is confirmed."""
        self.on_out: Callable[[SimPeer], None] = lambda peer: None
        """Told of each peer that finds itself out of the ring, and ends."""
        self.on_serving: Callable[[SimPeer], None] = lambda peer: None

    def add(self) -> SimPeer:
        """Another machine, with nothing on it."""
        peer = SimPeer(self, len(self.names) + 1)
        self.names[peer.id] = peer.name
        self.peers.append(peer)
        return peer

    def newest(self) -> Epoch | None:
        """The newest epoch that a running peer has."""
        epochs = [peer.replica.epochs.current for peer in self.peers if peer.replica is not None]
        return max(
            (epoch for epoch in epochs if epoch is not None), key=lambda epoch: epoch.order, default=None
        )

    @property
    def whole(self) -> bool:
        """No change of the ring is under way, as far as anybody who runs knows."""
        newest = self.newest()
        return newest is not None and newest.kind == "final"

    async def found(self) -> None:
        """Found on the first peer and let the others join one by one, through any, mostly in bad weather."""
        if self.network.rng.random() < 0.7:
            self.network.weather = Weather(loss=0.15, duplicate=0.1, straggle=0.2, straggle_s=0.5)
        self.peers[0].start(founding_epoch(self.peers[0].member, self.chunk_bytes))
        for peer in self.peers[1:]:
            peer.start()
        until = self.loop.time() + BAD_START_S
        while not (all(peer.serving for peer in self.peers) and self.whole):
            if self.loop.time() > until:
                self.network.weather = Weather()
            await asyncio.sleep(0.05)
        self.network.weather = Weather()

    def again(self, gone: SimPeer) -> SimPeer:
        """The machine of a peer that is out of the ring as another peer: without rows, with the chunks in its segments."""
        peer = self.add()
        peer.disk.extents = dict(gone.disk.extents)
        peer.disk.newest_segment = gone.disk.newest_segment
        return peer

    def by_id(self, member_id: str) -> SimPeer:
        return next(peer for peer in self.peers if peer.id == member_id)

    def task_failed(self, peer: SimPeer, name: str, error: BaseException) -> None:
        """A task ended with an error. Atoll's own are somebody's answer; Amnesia ends the peer."""
        if isinstance(error, Amnesia):
            self.story.safeguards["amnesia detected late"] += 1
            self.story.event(peer.name, "stops: it turns out to run on an old disk")
            peer.stop(str(error))
        elif not isinstance(error, AtollError):
            self.failures.append(f"{peer.name}: task {name} ended with {error!r}")

    def collect(self, peer: SimPeer) -> None:
        """Keep a process's own counts before it goes."""
        replica = peer.replica
        if replica is None:
            return
        for name, count in (*replica.registers.counts.items(), *replica.scans.counts.items()):
            self.counts[name] += count
        if peer.transition is not None:
            self.counts["partitions or rows merged"] += peer.transition.done
            for name in ("settled", "discarded"):
                self.counts[f"partitions or rows {name}"] += peer.transition.detail[name]
        if peer.eviction is not None:
            for name, word in EVICTIONS.items():
                self.counts[word] += peer.eviction.detail[name]
        self.counts["bound extensions"] += replica.acceptor.promises.extensions
        self.counts["damaged rows met"] += replica.acceptor.damaged
