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

from peer.buffers import BufferPool
from peer.errors import AtollError, Conflict, Corrupt, NotFound, UnknownOutcome
from peer.healing import Healing
from peer.objects.conditions import Conditions
from peer.objects.heads import CHUNKS, INLINE, NAME_BYTES, Head, attempt_in
from peer.objects.store import Objects
from peer.replication.chunks.chunks import Chunks
from peer.replication.chunks.rows import LIVE, NAME_END, decode_chunk_row, named_extents
from peer.replication.healing.adoption import is_adopting
from peer.replication.hints import Hints
from peer.replication.keys import partition_in
from peer.replication.messages import ADD_REF, STORE_CHUNK
from peer.replication.value import decode_row, is_tombstone
from tools.sim import linear
from tools.sim.cluster import Cluster, Gone, NotServing, SimPeer
from tools.sim.damage import damaged
from tools.sim.extents import BULK, SimBulk, SimExtents
from tools.sim.faults import CHUNK_FAULTS, FAULTS, RING_FAULTS, Climate, Nemesis
from tools.sim.linear import Op
from tools.sim.loop import Crashed, Deadlock, Stuck, VirtualLoop
from tools.sim.story import Story

BUCKET = "bucket"
CHUNK_BYTES = 256
INLINE_MAX = 24
CONTENTS = 8
CALM_S = 600.0
LEFT_OUT = ("rotten row", "gates raised", "old disk", *RING_FAULTS)
WEIGHTS = {name: weight for name, weight in FAULTS.items() if name not in LEFT_OUT} | CHUNK_FAULTS
MIX = {linear.GET: 30, linear.PUT: 30, linear.DELETE: 12, linear.PUT_IF_ABSENT: 8}


Play = Callable[["ObjectWorld"], Awaitable[None]]


@dataclass(frozen=True)
class ObjectOptions:
    """What a run is made of, apart from its seed. Times in seconds."""

    peers: int = 3
    operations: int = 150
    clients: int = 5
    keys: int = 4
    grace_s: float = 10.0
    pass_every_s: float = 10.0
    purge_s: float = 6.0
    scrub_s: float = 20.0
    faulty_s: float = 40.0
    unsafe: frozenset[str] = frozenset()
    climate: Climate = field(default_factory=lambda: Climate(every_s=1.5, weights=dict(WEIGHTS)))
    play: Play | None = None  # instead of clients and nemesis


@dataclass
class ObjectResult:
    """`problems` is empty if every promise held."""

    seed: int
    problems: list[str]
    operations: int
    counts: Counter[str]
    faults: Counter[str]
    digest: str
    lines: list[str]


class Store:
    """What one process has on top of its replica."""

    def __init__(self, world: ObjectWorld, peer: SimPeer) -> None:
        assert peer.env is not None and peer.replica is not None and peer.rows is not None
        env, replica, rows = peer.env, peer.replica, peer.rows
        self.peer = peer
        self.adopting = is_adopting(rows)
        named = list(named_extents(rows))
        self.files = SimExtents(peer, [extent for _, extent in named])
        self.pool = BufferPool(16, name="client", chunk_bytes=4096)
        replica_pool = BufferPool(64, name="replica", chunk_bytes=4096)
        bulk = SimBulk(peer, self.files, replica_pool)
        unsafe, hints = world.options.unsafe, Hints(env, rows, 1 << 40)
        self.chunks = Chunks(
            env, replica, rows, self.files, bulk, self.pool, replica_pool, peer.id, hints, unsafe
        )
        holder = self.chunks.holder
        bulk.holder = holder
        replica.serve(ADD_REF, holder.on_add_ref)
        replica.serve(STORE_CHUNK, holder.on_store)
        replica.serve(BULK, bulk.serve, votes=False)
        link = world.cluster.network.link(peer.id, env)
        options = world.options
        self.healing = Healing(
            env, rows, replica, self.chunks, self.files, self.pool, link.is_alive, attempt_in, options.grace_s,
            options.unsafe,
        )  # fmt: skip
        self.healing.garbage.pass_every_s = options.pass_every_s
        self.healing.purge.age_s = options.purge_s
        self.healing.scrub.pass_every_s = options.scrub_s
        self.objects = Objects(
            replica, self.chunks, self.pool, inline_max=INLINE_MAX, garbage=self.healing.garbage
        )

    def begin(self) -> None:
        self.healing.begin(self.adopting)


class _Body:
    """A request body that comes in pieces, now and then slowly."""

    def __init__(self, data: bytes, rng: random.Random, stall_s: float = 0.0) -> None:
        self._data, self._rng, self._stall_s = data, rng, stall_s

    def holds(self, buffer: bool) -> None:
        """Nobody hurries simulated clients."""

    async def read(self, *, few: bool = False) -> bytes:
        if len(self._data) < 300 and self._stall_s:
            stall_s, self._stall_s = self._stall_s, 0.0
            await asyncio.sleep(stall_s)
        if self._data and self._rng.random() < 0.1:
            await asyncio.sleep(3.0 * self._rng.random() ** 3)
        piece, self._data = self._data[:200], self._data[200:]
        return piece


class ObjectWorld:
    """The parts of one run, wired together."""

    def __init__(self, seed: int, options: ObjectOptions, story: bool = False) -> None:
        self.seed = seed
        self.options = options
        self.loop = VirtualLoop(limit_s=options.faulty_s + CALM_S + 300)
        self.story = Story(self.loop.time, story)
        unsafe = options.unsafe
        self.cluster = Cluster(self.loop, self.story, seed, options.peers, unsafe, chunk_bytes=CHUNK_BYTES)
        self.cluster.heals = False  # a store brings its own workers
        self.cluster.on_start = self._started
        self.cluster.on_serving = lambda peer: self.stores[peer.name].begin()
        self.nemesis = Nemesis(self.cluster, random.Random(f"nemesis {seed}"), options.climate)
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
        self.stores[peer.name] = Store(self, peer)

    def _collect(self, peer: SimPeer) -> None:
        """Keep the counts of a process before its successor's take their place."""
        store = self.stores.pop(peer.name, None)
        if store is not None:
            workers = store.healing.workers.statuses()
            for group in (
                *(worker.detail for worker in workers if worker.name == "adoption"),
                store.chunks.holder.counts, store.healing.garbage.detail, store.healing.verdicts.counts,
                store.healing.anti_entropy.detail, store.healing.purge.detail,
                store.healing.scrub.detail,
            ):  # fmt: skip
                self.counts.update({name: count for name, count in group.items() if count})

    def run(self) -> ObjectResult:
        try:
            self.loop.run(self._main())
        except (Crashed, Deadlock, Stuck, AssertionError) as error:
            self.problems.append(f"the run broke: {type(error).__name__}: {error}; {error.__cause__!r}")
        for peer in self.cluster.peers:
            self._collect(peer)
        self.problems += self.cluster.failures
        self._judge()
        done = sum(1 for op in self.history if op.outcome in (linear.OK, linear.ABSENT, linear.MISMATCH))
        return ObjectResult(
            self.seed, self.problems, done, self.counts, self.story.faults, self.story.digest(), self.story.lines
        )  # fmt: skip

    async def _main(self) -> None:
        await self.cluster.found()
        await self._create_bucket()
        await (self._work_under_faults() if self.options.play is None else self.options.play(self))
        await self.nemesis.calm()
        self.story.event("world", "all faults are over")
        rotten = self.cluster.peers[0]
        if rotten.running:  # bytes whose row rotted are found to be nobody's by the next start
            rotten.crash()
            rotten.start()
        await self._until_serving()
        await asyncio.sleep(6.0)  # beyond every budget and every message still under way
        for peer in self.cluster.peers:
            for key in self.keys:
                await self.operate("final", peer, linear.GET, key)
        await self._until_clean()

    async def _work_under_faults(self) -> None:
        clients = [self.loop.create_task(self._client(f"c{n}")) for n in range(self.options.clients)]
        nemesis = self.loop.create_task(self.nemesis.run())
        until_s = self.loop.time() + self.options.faulty_s
        while self.loop.time() < until_s or len(self.history) < self.options.operations:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
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
        until_s = self.loop.time() + 30
        while not all(peer.serving for peer in self.cluster.peers):
            await asyncio.sleep(0.1)
            if self.loop.time() > until_s:
                self.problems.append("a peer does not serve 30 s after the last fault")
                return

    # --- clients

    async def _client(self, name: str) -> None:
        while not self.stopping:
            await asyncio.sleep(self.rng.expovariate(1 / 0.25))
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
        body = _Body(data, self.rng, self.stall_s)
        if self.rng.random() < 0.05:
            body, size = _Body(data[: len(data) // 2], self.rng), len(data)  # ends too early
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

    # --- the end

    async def _until_clean(self) -> None:
        """Exactly what heads name is left, on exactly the owners, in bounded time."""
        until_s = self.loop.time() + CALM_S
        while True:
            wrong = await self._differences()
            if not wrong:
                self.counts["clean after, s"] += int(self.loop.time() - until_s + CALM_S)
                return
            if self.loop.time() > until_s:
                self.problems.append(f"not clean {CALM_S:.0f} s after the last fault: {'; '.join(wrong[:4])}")
                return
            await asyncio.sleep(2.0)

    async def _differences(self) -> list[str]:
        wanted: dict[bytes, set[bytes]] = {}  # chunk -> attempts
        any_store = next(iter(self.stores.values()))
        for key in self.keys:
            try:
                found = await any_store.objects.find(BUCKET, key.encode())
                for name in await self._names(any_store, found.head):
                    wanted.setdefault(name, set()).add(found.head.attempt)
            except NotFound:
                continue
            except AtollError as error:
                return [f"{key}: {error}"]
        wrong = []
        table = any_store.peer.replica.epoch.table  # type: ignore[union-attr]
        for peer in self.cluster.peers:
            bad = damaged(peer.disk)
            if bad:
                wrong.append(f"{peer.name} has {bad} damaged rows or chunks")
                continue
            stones = sum(
                is_tombstone(decode_row(key, row).value)
                for key, row in peer.disk.tables["rows"].items()
                if peer.id in table.owners(partition_in(key))
            )
            if stones:
                wrong.append(f"{peer.name} has {stones} tombstones")
            mine = {name for name in wanted if peer.id in any_store.chunks.owners_of(name)}
            held = {key[2:]: decode_chunk_row(key, row) for key, row in peer.disk.tables["chunks"].items()}
            references = {(key[2:NAME_END], key[NAME_END:]) for key in peer.disk.tables["refs"]}
            expected = {(name, attempt) for name in mine for attempt in wanted[name]}
            for what, ours, right in (("chunks", set(held), mine), ("references", references, expected)):
                if ours != right:
                    wrong.append(
                        f"{peer.name} has {len(ours - right)} {what} too many, lacks {len(right - ours)}"
                    )
            if any(state != LIVE for state, _ in held.values()):
                wrong.append(f"{peer.name} has chunks without bytes")
            stray = len(peer.disk.extents) - len(held)
            if stray:
                wrong.append(f"{peer.name} has {stray} extents that no row names")
        return wrong

    @staticmethod
    async def _names(store: Store, head: Head) -> list[bytes]:
        """All chunks of an object, manifests included."""
        names = [head.names[at : at + NAME_BYTES] for at in range(0, len(head.names), NAME_BYTES)]
        if head.kind in (INLINE, CHUNKS):
            return names
        listed = []
        for name in names:
            buffer, length = await store.chunks.get(name)
            data = bytes(buffer.payload(length))
            store.pool.give(buffer)
            listed += [data[at : at + NAME_BYTES] for at in range(0, length, NAME_BYTES)]
        return names + listed

    def _judge(self) -> None:
        try:
            verdicts = linear.check(self.history)
        except linear.Undecided as error:
            self.problems.append(f"undecided: {error}")
            return
        self.problems += [f"P3 broken at {key}: {v.explain()}" for key, v in verdicts.items() if not v.ok]


def run_object_seed(seed: int, options: ObjectOptions | None = None, story: bool = False) -> ObjectResult:
    """Run one seed. Never raises for what the simulated code does: that is in `problems`."""
    return ObjectWorld(seed, options or ObjectOptions(), story).run()
