"""Clients that read, write, delete, write conditionally and list, and remember exactly what they were told.

Every value written is new, so what a read returns names its writer. A value is stored as a payload with, now
and then, inline bytes in a side row that repeat it: a value found beside another one's bytes is a fault.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from peer.errors import AtollError, Conflict, NotFound, UnknownOutcome
from peer.replication.keys import OBJECT, Space, gate_key_of
from peer.replication.registers.gates import OPEN, gate_payload
from peer.replication.registers.register import Current, Judge, Keep, Put
from tools.sim import linear
from tools.sim.cluster import Cluster, Gone, NotServing, SimPeer
from tools.sim.founding import PARTITION_POWER
from tools.sim.linear import Op
from tools.sim.listing import PageSeen

SPACE = Space(OBJECT, b"bucket-1", 3, PARTITION_POWER)
SIDE_SHARE = 0.25

MIX = {
    linear.GET: 30,
    linear.PUT: 14,
    linear.DELETE: 8,
    linear.PUT_IF_ABSENT: 14,
    linear.PUT_IF_MATCH: 12,
    linear.DELETE_IF_MATCH: 6,
    "list": 8,
}


@dataclass(frozen=True)
class Habits:
    """What the clients do. `think_s` is the mean pause between two operations of one client."""

    clients: int = 8
    keys: int = 5
    think_s: float = 0.12
    mix: dict[str, int] = field(default_factory=lambda: dict(MIX))
    hot: float = 0.5  # share of operations on the first key


def side_of(value: str) -> bytes:
    return value.encode() * 40


def judge_of(kind: str, value: str, expect: str | None, side: bool) -> Judge:
    """The change that a request of this kind asks for, as the object layer would state it."""
    wanted = Put(None if "delete" in kind else value.encode(), side_of(value) if side else None)

    def judge(current: Current) -> Put | type[Keep] | AtollError:
        found = None if current.payload is None else current.payload.decode()
        if kind == linear.PUT_IF_ABSENT and found is not None:
            return Conflict("it exists")
        if kind in (linear.PUT_IF_MATCH, linear.DELETE_IF_MATCH):
            if found is None:
                return NotFound("there is nothing to match")
            if found != expect:
                return Conflict("it is something else")
        if kind == linear.DELETE and found is None:
            return Keep
        return wanted

    return judge


class Workload:
    """The clients of one run and everything they were told."""

    def __init__(self, cluster: Cluster, rng: random.Random, habits: Habits) -> None:
        self.cluster = cluster
        self.rng = rng
        self.habits = habits
        self.keys = [f"k{number}" for number in range(habits.keys)]
        self.history: list[Op] = []
        self.pages: list[PageSeen] = []
        self.torn: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.completed = 0
        self.stopping = False
        self.generation = 0  # of the bucket's configuration
        self._raising = False
        self._last_seen: dict[str, str] = {}
        self._values = 0

    async def open_gates(self) -> None:
        """As the object layer does when it creates a bucket or changes its configuration: every gate is
        raised to the next generation, and requests carry it only once all are."""
        if self._raising:
            return
        self._raising = True
        generation = self.generation + 1
        payload = gate_payload(OPEN, generation)

        def judge(current: Current) -> Put | type[Keep]:
            return Keep if current.payload == payload else Put(payload)

        for shard in range(SPACE.shards):
            gate_key = gate_key_of(SPACE.prefix(shard))
            while True:
                peer = self._pick_peer()
                try:
                    if peer.replica is None:
                        raise NotServing("down")
                    await peer.request(partial(peer.replica.registers.change, gate_key, judge))
                    break
                except AtollError:
                    await asyncio.sleep(0.05)
        self.generation = generation
        self._raising = False

    async def raise_gates(self) -> None:
        """Raise all gates; from then on nothing may be written under the generation before."""
        before = self.generation
        await self.open_gates()
        if self.generation == before:
            return
        for key in self.keys[:3]:
            op = await self.operate("late", self._pick_peer(), linear.PUT, key, generation=before)
            self.cluster.story.safeguards["old generation refused"] += op.outcome == linear.FAILED
            if op.outcome == linear.OK:
                self.cluster.failures.append(
                    f"a write of generation {before} passed gates of {before + 1}: {op}"
                )

    async def client(self, name: str) -> None:
        """One client: operations one after the other until the run ends."""
        while not self.stopping:
            await asyncio.sleep(self.rng.expovariate(1 / self.habits.think_s))
            peer = self._pick_peer()
            kind = self.rng.choices(list(self.habits.mix), list(self.habits.mix.values()))[0]
            if kind == "list":
                await self.list_page(name, peer)
            else:
                await self.operate(name, peer, kind, self._pick_key())

    def _pick_peer(self) -> SimPeer:
        """Any peer; mostly, as real clients learn to, one that takes connections."""
        peers = self.cluster.peers
        if self.rng.random() < 0.9:
            peers = [peer for peer in peers if peer.serving] or peers
        return peers[self.rng.randrange(len(peers))]

    def _pick_key(self) -> str:
        hot = self.rng.random() < self.habits.hot
        return self.keys[0] if hot else self.keys[self.rng.randrange(len(self.keys))]

    async def operate(
        self,
        client: str,
        peer: SimPeer,
        kind: str,
        key: str,
        *,
        expect: str | None = None,
        patience_s: float = 8.0,
        generation: int | None = None,
    ) -> Op:
        """One operation on one key through one peer; recorded in the history and returned."""
        loop, replica = self.cluster.loop, peer.replica
        gate = self.generation if generation is None else generation
        self._values += 1
        value = f"v{self._values}" if kind.startswith("put") else None
        if kind in (linear.PUT_IF_MATCH, linear.DELETE_IF_MATCH) and expect is None:
            expect = self._last_seen.get(key, "v0")
        start, outcome, output = loop.time(), linear.OK, None
        try:
            if replica is None:
                raise NotServing(f"{peer.name} is down")
            row_key = SPACE.row_key(key.encode())
            registers = replica.registers
            work: Callable[[], Awaitable[Current]]
            if kind == linear.GET:
                with_side = self.rng.random() < 0.5
                work = lambda: registers.read(row_key, gate=gate, want_side=with_side)  # noqa: E731
            else:
                judge = judge_of(kind, value or "", expect, self.rng.random() < SIDE_SHARE)
                work = lambda: registers.change(row_key, judge, gate=gate)  # noqa: E731
            current = await peer.request(work, patience_s)
            if kind == linear.GET:
                output = self._found(key, current, with_side)
                outcome = linear.OK if output is not None else linear.ABSENT
        except (UnknownOutcome, Gone):
            outcome = linear.UNKNOWN
        except NotFound:
            outcome = linear.ABSENT
        except Conflict:
            outcome = linear.MISMATCH
        except AtollError:
            outcome = linear.FAILED
        op = Op(client, kind, key, start, loop.time(), outcome, value, expect, output)
        return self._record(op)

    def _found(self, key: str, current: Current, with_side: bool) -> str | None:
        if current.payload is None:
            return None
        value = current.payload.decode()
        if current.side is not None and with_side and current.side != side_of(value):
            self.torn.append(f"{key}: value {value} beside {current.side[:8]!r}")
        return value

    def _record(self, op: Op) -> Op:
        self.history.append(op)
        self.outcomes[op.outcome] += 1
        if op.outcome in (linear.OK, linear.ABSENT, linear.MISMATCH):
            self.completed += 1
        if op.outcome == linear.OK and (op.value or op.output):
            self._last_seen[op.key] = op.output or op.value or ""
        if self.cluster.story.keep:
            self.cluster.story.note(op.client, str(op))
        self.cluster.story.bytes(f"{op.kind}{op.key}{op.outcome}{op.output}".encode())
        return op

    async def list_page(self, client: str, peer: SimPeer) -> bool:
        """One page of the listing, from a drawn start, of a drawn size. False if nobody answered."""
        loop, replica = self.cluster.loop, peer.replica
        first = "" if self.rng.random() < 0.6 else self.keys[self.rng.randrange(len(self.keys))]
        limit = 1000 if self.rng.random() < 0.5 else self.rng.randint(1, 4)
        start, gate = loop.time(), self.generation
        try:
            if replica is None:
                raise NotServing(f"{peer.name} is down")
            scans = replica.scans
            page = await peer.request(lambda: scans.page(SPACE, first.encode(), b"", limit, gate))
        except AtollError:
            self.outcomes["listing failed"] += 1
            return False
        entries = tuple((key.decode(), payload.decode()) for key, payload in page.entries)
        bound = None if page.bound is None else page.bound.decode()
        seen = PageSeen(client, start, loop.time(), first, None, bound, entries)
        self.pages.append(seen)
        self.completed += 1
        self.outcomes["listing"] += 1
        self.cluster.story.event(client, f"lists from {first!r}: {dict(entries)} up to {bound!r}")
        return True
