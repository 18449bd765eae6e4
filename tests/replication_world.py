"""Replicas on virtual time, for schedules written by hand.

The random simulator draws its faults; here a test says which message is lost or late, whose disk is full, and
looks at what every owner stored. `simulate` runs a scenario against a `World` of peers that founded a ring and
hold nothing yet. `replication_owner` has one acceptor alone, `replication_chunks` adds chunk stores.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from peer.errors import AtollError, Conflict, Corrupt, Unavailable
from peer.replication.agreement.identity import Amnesia
from peer.replication.agreement.proposals import again
from peer.replication.keys import SYSTEM, Space
from peer.replication.messages import ACCEPT, BALLOT, NO_GATE, PREPARE, READ, SCAN
from peer.replication.node import Replica
from peer.replication.registers.register import Current, Judge, Put
from peer.replication.value import Accepted, decode_row, payload_of, wrap
from ring.changes import joined
from ring.epoch import Epoch
from ring.members import Member
from ring.placement import place
from ring.table import Table
from tools.sim.disk import SimDisk, SimRows
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop
from tools.sim.network import SimNetwork
from tools.sim.story import Story

POWER = 8
SPACE = Space(SYSTEM, b"testing!", 1, POWER)
KEY = SPACE.row_key(b"key")
STRANGER = "f" * 16
OP_ID = b"planted!"
ROW_REQUESTS: list[tuple[Any, ...]] = [
    (PREPARE, KEY, b"\xff" * 20, NO_GATE, False),
    (ACCEPT, KEY, b"\xff" * 20, b"\0v", None, NO_GATE),
    (READ, KEY, NO_GATE, False),
    (BALLOT, KEY, NO_GATE),
    (SCAN, [SPACE.prefix(0)], b"", b"", 10, NO_GATE, 0),
]
"""One request of every kind about `KEY`, as `Peer.ask` takes them: each is refused, or would change something."""


# --- ballots and members


def ballot_at(counter: int, who: int = 1, boot: int = 1) -> bytes:
    """The ballot (counter, member `who`, boot)."""
    return counter.to_bytes(8, "big") + who.to_bytes(8, "big") + boot.to_bytes(4, "big")


def member(index: int) -> Member:
    """The machine number `index`, each in a zone of its own."""
    port = 7400 + 10 * index
    zone = f"zone-{index}"
    return Member(f"{index:016x}", f"p{index}", "127.0.0.1", port + 2, port, port + 1, zone, 10**12)


@lru_cache(maxsize=64)
def _table(previous: Table | None, members: tuple[Member, ...]) -> Table:
    return place(previous, members, 3, POWER)


def ring_of(*members: Member) -> Epoch:
    """Epoch 1 with these members and three replicas."""
    return Epoch(
        generation=0, number=1, kind="final", cluster_id="a7" * 16, members=members, replicas=3,
        partition_power=POWER, format_level=1, chunk_bytes=1 << 16, table=_table(None, members), previous=None,
        root_access_key="", root_secret_key="",
    )  # fmt: skip


def grown(base: Epoch, joiner: Member) -> Epoch:
    """`base` with one member more, under the next number."""
    members = (*base.members, joiner)
    return replace(base, number=base.number + 1, members=members, table=_table(base.table, members))


# --- a ring of peers


def rot(disk: SimDisk, table: str, key: bytes) -> None:
    """Flip the last bit of a row behind everyone's back."""
    row = bytearray(disk.tables[table][key])
    row[-1] ^= 1
    disk.tables[table][key] = bytes(row)


class Peer:
    """One machine; `replica` is the process on it. The disk outlives processes."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.member = member(index)
        self.id = self.member.id
        self.disk = SimDisk()
        self.starts = 0
        self.open()

    def open(self, disk: SimDisk | None = None, attach: bool = True) -> None:
        """A process on the machine's disk, or on another one; unattached it can call but not be called."""
        world = self.world
        self.starts += 1
        self.env = SimEnv(world.loop, self.member.name, f"{self.id} {self.starts}")
        self.env.on_task_failure = world.task_failed
        rng = random.Random(f"{self.id} {self.starts}")
        self.rows = SimRows(disk or self.disk, self.env, rng, world.story)
        self.replica = Replica(self.env, world.network.link(self.id, self.env), self.rows, self.id)
        if attach:
            world.network.attach(self.id, self.env, self.replica.handle)

    async def start(self, epoch: Epoch | None = None) -> None:
        """Begin, install `epoch` if given, and wait until the others confirmed who we are."""
        await self.replica.begin()
        epoch = epoch or self.replica.epochs.current
        if epoch is not None:
            await self._start_on(epoch)

    async def join(self, seed: Peer) -> None:
        """As a new peer does: ask a running one until it admits us."""
        await self.replica.begin()
        while True:
            try:
                epoch = await seed.replica.change_ring(partial(joined, member=self.member))
                break
            except Unavailable:
                await self.env.sleep(0.2)
        await self._start_on(epoch)

    async def _start_on(self, epoch: Epoch) -> None:
        await self.replica.epochs.installed(epoch)
        await self.replica.confirm()

    def crash(self) -> None:
        """Power loss; `open` and `start` bring it back."""
        self.env.kill()
        self.rows.crash()
        self.world.network.died(self.id)

    async def restart(self) -> None:
        self.crash()
        self.open()
        await self.start()

    # what a client of this peer does

    async def put(self, payload: bytes | None, key: bytes = KEY, side: bytes | None = None) -> Current:
        return await self.replica.registers.change(key, lambda _: Put(payload, side))

    async def get(self, key: bytes = KEY) -> bytes | None:
        return (await self.replica.registers.read(key)).payload

    async def change(self, judge: Judge, key: bytes = KEY, operation: bytes = b"") -> Current:
        return await self.replica.registers.change(key, judge, operation=operation)

    @property
    def counts(self) -> dict[str, int]:
        return self.replica.registers.counts

    # what another replica asks it

    def ask(self, *message: Any, tag: int | None = None) -> asyncio.Future[Any]:
        """(operation, fields...) with this peer's epoch tag, or `tag`, put between them."""
        future: asyncio.Future[Any] = self.world.loop.create_future()
        standing = self.replica.epochs.tag if tag is None else tag
        self.replica.handle(STRANGER, [message[0], standing, *message[1:]], future.set_result)
        return future

    async def plant(self, payload: bytes | None, ballot: bytes, key: bytes = KEY, side: Any = None) -> None:
        """Make this owner, and nobody else, accept a value: what a coordinator that died leaves behind."""
        reply = await self.ask(ACCEPT, key, ballot, wrap(payload, b"", OP_ID), side, NO_GATE)
        assert reply == (0,), reply

    def stored(self, key: bytes = KEY) -> Accepted:
        return decode_row(key, self.disk.tables["rows"].get(key))

    def holds(self, key: bytes = KEY) -> bytes | None:
        """The payload this owner's disk holds; None also if its row is damaged."""
        try:
            return payload_of(self.stored(key).value)
        except Corrupt:
            return None


@dataclass
class Meddling:
    """What happens to requests of some kinds on their arrival. `hits` counts them."""

    kinds: Sequence[int]
    sender: Peer | None
    to: Peer | None
    delay_s: float | None
    do: Callable[[], None] | None
    hits: int = 0

    def concerns(self, sender: str, target: str, kind: int) -> bool:
        if self.kinds and kind not in self.kinds:
            return False
        return (self.sender is None or self.sender.id == sender) and (self.to is None or self.to.id == target)


class World:
    """All peers of a scenario, the network between them, and the means to meddle with it."""

    def __init__(self, peers: int) -> None:
        self.loop = VirtualLoop(limit_s=900)
        self.story = Story(self.loop.time)
        self.network = SimNetwork(self.loop, random.Random(1), self.story)
        self.network.rule = self._rule
        self.failures: list[str] = []
        self._meddlings: list[Meddling] = []
        self.peers = [Peer(self, index + 1) for index in range(peers)]

    async def found(self, *peers: Peer) -> None:
        """These peers (none given: all) start on an epoch that contains them all."""
        founders = peers or tuple(self.peers)
        epoch = ring_of(*(peer.member for peer in founders))
        await asyncio.gather(*(peer.start(epoch) for peer in founders))

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def ballot(self, offset_us: int = 0, who: int = 15) -> bytes:
        """A ballot a coordinator might issue `offset_us` from now."""
        return ballot_at(self.peers[0].env.wall_us() + offset_us, who)

    def owners(self, key: bytes) -> list[Peer]:
        by_id = {peer.id: peer for peer in self.peers}
        return [by_id[owner] for owner in self.peers[0].replica.owners_of_row(key).everyone]

    def holding(self, payload: bytes | None, key: bytes = KEY) -> int:
        """On how many disks the register holds this payload."""
        return sum(peer.holds(key) == payload for peer in self.peers)

    def task_failed(self, name: str, error: BaseException) -> None:
        if not isinstance(error, AtollError):
            self.failures.append(f"{name} ended with {error!r}")
        elif isinstance(error, Amnesia):
            self.story.safeguards["amnesia detected late"] += 1

    # meddling with the network

    @contextmanager
    def lost(self, *kinds: int, sender: Peer | None = None, to: Peer | None = None) -> Iterator[Meddling]:
        """Requests of these kinds (none given: all) do not arrive."""
        with self._meddle(Meddling(kinds, sender, to, -1.0, None)) as meddling:
            yield meddling

    @contextmanager
    def late(
        self, delay_s: float, *kinds: int, sender: Peer | None = None, to: Peer | None = None
    ) -> Iterator[Meddling]:
        with self._meddle(Meddling(kinds, sender, to, delay_s, None)) as meddling:
            yield meddling

    @contextmanager
    def when(
        self, do: Callable[[], None], *kinds: int, sender: Peer | None = None, to: Peer | None = None
    ) -> Iterator[Meddling]:
        """`do` runs just before a request of these kinds is handled."""
        with self._meddle(Meddling(kinds, sender, to, None, do)) as meddling:
            yield meddling

    @contextmanager
    def _meddle(self, meddling: Meddling) -> Iterator[Meddling]:
        self._meddlings.append(meddling)
        try:
            yield meddling
        finally:
            self._meddlings.remove(meddling)

    def _rule(self, sender: str, target: str, kind: Any) -> float | None:
        delay_s = None
        for meddling in list(self._meddlings):
            if meddling.concerns(sender, target, kind):
                meddling.hits += 1
                delay_s = meddling.delay_s if meddling.delay_s is not None else delay_s
                if meddling.do is not None:
                    meddling.do()
        return delay_s

    def isolate(self, peer: Peer) -> None:
        """Cut a peer off, both ways; `join_up` ends it."""
        others = [other.id for other in self.peers if other is not peer]
        self.network.cut |= {(peer.id, other) for other in others} | {(other, peer.id) for other in others}

    def silence(self, peer: Peer) -> None:
        """What a peer is asked arrives, what it answers does not."""
        self.network.cut |= {(peer.id, other.id) for other in self.peers if other is not peer}

    def join_up(self) -> None:
        self.network.cut.clear()


Scenario = Callable[..., Coroutine[Any, Any, None]]


def simulate(scenario: Scenario, peers: int = 3, *, founded: bool = True) -> World:
    """Run `scenario(world)`, or `scenario(world, *world.peers)`, to its end; no task may have failed."""
    world = World(peers)

    async def main() -> None:
        if founded:
            await world.found()
        await scenario(world, *world.peers)

    world.loop.run(main())
    assert world.failures == []
    return world


def create(payload: bytes) -> Judge:
    """Create if absent."""

    def judge(current: Current) -> Put | AtollError:
        return Put(payload) if current.payload is None else Conflict("it exists")

    return judge


def appended(text: bytes) -> Judge:
    """Append to what is there; to nothing if there is nothing."""
    return lambda current: Put((current.payload or b"") + text)


def next_of(number: int) -> Callable[[Epoch], Epoch]:
    """The change from epoch `number` to the same ring under the next number."""
    return lambda base: again(base) if base.number == number else base


async def change_ring(peer: Peer) -> None:
    """Decide the same ring under the next number, through this peer."""
    await peer.replica.proposals.propose(next_of(peer.replica.epoch.number))


def tags_of(*peers: Peer) -> list[int]:
    """The epochs these peers are in."""
    return [peer.replica.tag for peer in peers]


async def until(condition: Callable[[], bool], most_s: float = 30.0) -> None:
    """Let virtual time pass until the condition holds."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + most_s
    while not condition():
        assert loop.time() < end_s, "it never came true"
        await asyncio.sleep(0.005)


async def error_of(work: Awaitable[Any]) -> AtollError:
    """The error that `work` ends with."""
    try:
        result = await work
    except AtollError as error:
        return error
    raise AssertionError(f"no error, but {result!r}")
