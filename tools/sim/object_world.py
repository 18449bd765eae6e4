"""One seeded run of whole peers: objects of many chunks are put, overwritten, deleted and read while garbage is collected.

Everything under `peer/objects` and `peer/replication` is real; machines, network and clients are simulated, and faults are
drawn as in `world`. Chunks are tiny, and drawn from few contents, so that objects share them all the time.

Judged: each key is linearizable (P3), what is read is what was written (P5), no object that stands has lost a chunk (P2:
nothing referenced is ever deleted), and in the end exactly what the heads name is left on the disks.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from peer.errors import AtollError, Conflict, Corrupt, NotFound, UnknownOutcome
from peer.objects.conditions import Conditions
from tools.sim import linear
from tools.sim.belief import Belief
from tools.sim.cluster import Cluster, Gone, NotServing, SimPeer
from tools.sim.faults import CHUNK_FAULTS, FAULTS, Climate, Nemesis
from tools.sim.linear import Op
from tools.sim.loop import Crashed, Deadlock, Stuck, VirtualLoop
from tools.sim.object_end import BUCKET, Ending
from tools.sim.object_store import Body, Store
from tools.sim.result import Result
from tools.sim.story import Story
from tools.sim.survival import Survival

CHUNK_BYTES = 256
CONTENTS = 8
PEERS = range(3, 13)
CALM_S = 600.0
SERVING_S = 120.0
EVICT_AFTER_S = 12.0
EVICTING = 0.3
"""The share of seeds in which the dead are removed by themselves after that time."""
LEFT_OUT = ("rotten row", "gates raised")
WEIGHTS = {name: weight for name, weight in FAULTS.items() if name not in LEFT_OUT} | CHUNK_FAULTS
MIX = {linear.GET: 30, linear.PUT: 30, linear.DELETE: 12, linear.PUT_IF_ABSENT: 8}

Play = Callable[["ObjectWorld"], Awaitable[None]]


@dataclass(frozen=True)
class ObjectOptions:
    """What a run is made of, apart from its seed. Times in seconds."""

    peers: int | None = None  # drawn from PEERS
    operations: int = 150
    clients: int = 5
    keys: int = 4
    grace_s: float = 10.0
    pass_every_s: float = 10.0
    purge_s: float = 6.0
    scrub_s: float = 20.0
    faulty_s: float = 40.0
    calm_s: float = CALM_S  # in which all must be clean again
    think_s: float = 0.25
    evict_after_s: float | None = None  # None: drawn, for a share of the seeds
    unsafe: frozenset[str] = frozenset()
    climate: Climate = field(default_factory=lambda: Climate(every_s=1.5, weights=dict(WEIGHTS)))
    play: Play | None = None  # instead of clients and nemesis


class ObjectWorld:
    """The parts of one run, wired together."""

    def __init__(self, seed: int, options: ObjectOptions, story: bool = False) -> None:
        self.seed = seed
        self.options = options
        limit_s = options.faulty_s + options.calm_s + 300
        self.loop = VirtualLoop(limit_s, max_turns=20_000_000 + int(2000 * limit_s))
        self.story = Story(self.loop.time, story)
        peers = options.peers or random.Random(f"size {seed}").choice(PEERS)
        self.cluster = Cluster(self.loop, self.story, seed, peers, options.unsafe, chunk_bytes=CHUNK_BYTES)
        self.cluster.evict_after_s = _evict_after_s(seed, options)
        self.cluster.on_out = self._out
        self.cluster.heals = False  # a store brings its own workers
        self.cluster.on_start = self._started
        self.cluster.on_serving = lambda peer: self.stores[peer.name].begin()
        self.nemesis = Nemesis(self.cluster, random.Random(f"nemesis {seed}"), options.climate)
        self.nemesis.survival = Survival(self.cluster)
        self.belief = Belief(self.cluster, random.Random(f"belief {seed}"), self._told)
        self.rng = random.Random(f"objects {seed}")
        self.stores: dict[str, Store] = {}
        self.contents = [self.rng.randbytes(CHUNK_BYTES) for _ in range(CONTENTS)]
        self.keys = [f"k{number}" for number in range(options.keys)]
        self.values: dict[str, bytes] = {}  # name of a value -> the object's bytes
        self.history: list[Op] = []
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.stopping = False
        self.stall_s = 0.0
        """So long each body stands still before its last bytes."""

    def _started(self, peer: SimPeer) -> None:
        self._collect(peer)
        self.stores[peer.name] = Store(peer, self.options)

    def _told(self, peer: SimPeer, other: SimPeer, state: str) -> None:
        """Gossip has news for a peer of another one."""
        store = self.stores.get(peer.name)
        if store is not None and peer.env is not None:
            peer.env.post(lambda: store.healing.heard(other.id, state, other.starts))

    def _out(self, peer: SimPeer) -> None:
        """A peer that was removed while it was away joins by itself, under a new id, with the chunks it has."""
        if peer.evicted:
            again = self.cluster.again(peer)
            self.story.fault("evicted peer returns", again.name, f"is {peer.name} as another peer")
            again.start()

    def _collect(self, peer: SimPeer) -> None:
        """Keep the counts of a process before its successor's take their place."""
        store = self.stores.pop(peer.name, None)
        if store is not None:
            self.counts.update(store.counts())

    def run(self) -> Result:
        try:
            self.loop.run(self._main())
        except (Crashed, Deadlock, Stuck, AssertionError) as error:
            self.problems.append(f"the run broke: {type(error).__name__}: {error}; {error.__cause__!r}")
        for peer in self.cluster.peers:
            self._collect(peer)
            self.cluster.collect(peer)
        self.problems += self.cluster.failures
        self._judge()
        outcomes = Counter(op.outcome for op in self.history)
        return Result(
            seed=self.seed,
            problems=self.problems,
            operations=sum(outcomes[name] for name in (linear.OK, linear.ABSENT, linear.MISMATCH)),
            virtual_s=self.loop.time(),
            digest=self.story.digest(),
            faults=self.story.faults,
            safeguards=self.counts + self.cluster.counts + self.story.safeguards,
            outcomes=outcomes,
            lines=self.story.lines,
        )

    async def _main(self) -> None:
        await self.cluster.found()
        gossip = self.loop.create_task(self.belief.run(), name="gossip")
        await self._create_bucket()
        await (self._work_under_faults() if self.options.play is None else self.options.play(self))
        await self.nemesis.calm()
        self.story.event("world", "all faults are over")
        self._restart_rotten()
        await self._until_serving()
        await asyncio.sleep(6.0)  # beyond every budget and every message still under way
        newest = self.cluster.newest()
        for peer in [peer for peer in self.cluster.peers if newest and newest.member(peer.id) is not None]:
            for key in self.keys:
                await self.operate("final", peer, linear.GET, key)
        await self._until_clean()
        gossip.cancel()

    def _restart_rotten(self) -> None:
        """Bytes whose row rotted are found to be nobody's by the next start."""
        assert self.nemesis.survival is not None
        for peer in self.cluster.peers:
            if peer.name in self.nemesis.survival.rotten and peer.running:
                peer.crash()
                peer.start()

    async def _work_under_faults(self) -> None:
        clients = [self.loop.create_task(self._client(f"c{n}")) for n in range(self.options.clients)]
        nemesis = self.loop.create_task(self.nemesis.run())
        until_s = self.loop.time() + self.options.faulty_s
        while self.loop.time() < until_s or len(self.history) < self.options.operations:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(max(0.1, self.options.faulty_s / 10_000))
        self.stopping = True
        self.nemesis.running = False
        await asyncio.gather(nemesis, *clients)

    async def _create_bucket(self) -> None:
        peer = self.cluster.peers[0]
        while True:
            try:
                await peer.request(lambda: self.stores[peer.name].objects.buckets.create(BUCKET, shards=3))
                return
            except AtollError:
                await asyncio.sleep(0.1)

    async def _until_serving(self) -> None:
        until_s = self.loop.time() + SERVING_S
        while not (all(peer.serving for peer in self.cluster.peers) and self.cluster.whole):
            await asyncio.sleep(0.1)
            if self.loop.time() > until_s:
                down = [
                    f"{peer.name} ({peer.refused or 'starting'})"
                    for peer in self.cluster.peers
                    if not peer.serving
                ]
                self.problems.append(
                    f"not serving {SERVING_S:.0f} s after the last fault: {', '.join(down) or 'the ring'}"
                )
                return

    async def _until_clean(self) -> None:
        """P7: bounded time, no operator."""
        calm_s = self.options.calm_s
        ending, until_s = Ending(self), self.loop.time() + calm_s
        while wrong := await ending.differences():
            if self.loop.time() > until_s:
                self.problems.append(
                    f"P7 not clean {calm_s:.0f} s after the last fault: {'; '.join(wrong[:4])}"
                )
                return
            await asyncio.sleep(max(2.0, calm_s / 300))
        self.counts["clean after, s"] += int(self.loop.time() - until_s + calm_s)

    # --- clients

    async def _client(self, name: str) -> None:
        while not self.stopping:
            await asyncio.sleep(self.rng.expovariate(1 / self.options.think_s))
            serving = [peer for peer in self.cluster.peers if peer.serving] or self.cluster.peers
            peer = serving[self.rng.randrange(len(serving))]
            kind = self.rng.choices(list(MIX), list(MIX.values()))[0]
            await self.operate(name, peer, kind, self.keys[self.rng.randrange(len(self.keys))])

    def _new_value(self, count: int | None = None) -> str:
        """Bytes nobody wrote before: shared chunks, then some of their own; rarely so many that manifests list them."""
        value = f"v{len(self.values) + 1}"
        if count is None:
            count = self.rng.choice([0, 0, 1, 2, 3, 5]) if self.rng.random() < 0.97 else 65
        chunks = [self.contents[self.rng.randrange(CONTENTS)] for _ in range(count)]
        own = value.encode() * (1 if self.rng.random() < 0.3 else 20)
        self.values[value] = b"".join(chunks) + own
        return value

    async def operate(
        self, client: str, peer: SimPeer, kind: str, key: str, chunks: int | None = None
    ) -> None:
        """One operation on one key through one peer, recorded in the history. `chunks`: how many shared ones to put."""
        value = self._new_value(chunks) if kind.startswith("put") else None
        start_s, outcome, output = self.loop.time(), linear.OK, None
        store = self.stores.get(peer.name)
        try:
            if store is None:
                raise NotServing(f"{peer.name} is down")
            if kind == linear.GET:
                output = await peer.request(partial(self._get, store, key), 60.0)
                if output is None:
                    outcome = linear.ABSENT
            elif kind == linear.DELETE:
                await peer.request(partial(store.objects.delete, BUCKET, key.encode()))
            else:
                await peer.request(partial(self._put, store, kind, key, value or ""), 60.0)
        except (UnknownOutcome, Gone):
            outcome = linear.UNKNOWN
        except NotFound:
            outcome = linear.ABSENT
        except Conflict as error:
            contended = error.code == "ConditionalRequestConflict"
            outcome = linear.FAILED if contended else linear.MISMATCH
        except Corrupt as error:
            outcome = linear.FAILED
            self.problems.append(f"P2 broken at {key}, through {peer.name}, {self.loop.time():.3f}: {error}")
        except AtollError as error:
            outcome = linear.FAILED
            if error.code == "ObjectReplaced":
                self.problems.append(
                    f"P5 broken at {key}: a read was cut short, {self.loop.time():.3f}: {error}"
                )
            if client == "final":
                self.problems.append(f"{peer.name} cannot read {key} in a healed cluster: {error}")
        op = Op(client, kind, key, start_s, self.loop.time(), outcome, value, None, output)
        self.history.append(op)
        self.story.bytes(f"{op.kind}{op.key}{op.outcome}{op.output}".encode())
        self.story.note(client, str(op))

    async def _put(self, store: Store, kind: str, key: str, value: str) -> None:
        data = self.values[value]
        conditions = Conditions(if_none_match=frozenset("*")) if kind == linear.PUT_IF_ABSENT else None
        size = len(data) if self.rng.random() < 0.7 else None
        body = Body(data, self.rng, self.stall_s)
        if self.rng.random() < 0.05:
            body, size = Body(data[: len(data) // 2], self.rng), len(data)  # ends too early
        await store.objects.put(
            BUCKET, key.encode(), body, size=size, content_type=value, conditions=conditions
        )

    async def _get(self, store: Store, key: str) -> str | None:
        """The value's name; its bytes must be what was written under it. A slow client reads with pauses."""
        try:
            found = await store.objects.find(BUCKET, key.encode())
        except NotFound:
            return None
        slow_s = 3.0 * self.rng.random() if self.rng.random() < 0.1 else 0.0
        data = bytearray()
        async for view, release in store.objects.read(found, 0, found.head.size):
            data += view
            release()
            if slow_s:
                await store.peer.env.sleep(min(slow_s, 1.0))  # type: ignore[union-attr]
                slow_s = max(0.0, slow_s - 1.0)
        value = found.head.content_type
        if bytes(data) != self.values[value]:
            self.problems.append(f"P5 broken at {key}: {value} was read as other bytes")
        return value

    def _judge(self) -> None:
        try:
            verdicts = linear.check(self.history)
        except linear.Undecided as error:
            self.problems.append(f"undecided: {error}")
            return
        self.problems += [f"P3 broken at {key}: {v.explain()}" for key, v in verdicts.items() if not v.ok]


def _evict_after_s(seed: int, options: ObjectOptions) -> float:
    """After which time the dead are removed by themselves in this run; 0: never."""
    if options.evict_after_s is not None or options.play is not None:
        return options.evict_after_s or 0.0
    return EVICT_AFTER_S if random.Random(f"eviction {seed}").random() < EVICTING else 0.0


def run_object_seed(seed: int, options: ObjectOptions | None = None, story: bool = False) -> Result:
    """Run one seed. Never raises for what the simulated code does: that is in `problems`."""
    return ObjectWorld(seed, options or ObjectOptions(), story).run()
