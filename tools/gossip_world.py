"""A cluster of gossip state machines in virtual time: the world that `tools/gossip_sim.py` experiments on.

Every member is a `gossip.swim.Swim` with the real codec; the clock, the network and the sockets are
simulated. A seed repeats a run exactly. What is modelled: loss of each datagram by itself, a delay of 0.2 to
2 ms, islands, sockets that overflow while their process does not run, TCP that repeats lost packets after
Linux's timeouts.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, fields
from typing import Any, Final

from gossip.codec import unpack
from gossip.config import Config
from gossip.host import Exchange, Send, Stats
from gossip.keyring import SEAL_BYTES, Keyring
from gossip.messages import DEAD, SUSPECT, Address
from gossip.record import Record, encode_record
from gossip.swim import Swim

CLUSTER: Final = "5e" * 16
KEY: Final = bytes(range(32))
DELAY_LEAST_S: Final = 0.0002
DELAY_MOST_S: Final = 0.002
# Linux: net.core.rmem_max, and what each small datagram is charged besides its bytes.
SOCKET_BYTES: Final = 212_992
DATAGRAM_COST: Final = 768
# Linux's first timeouts for a lost SYN and for lost data; each further one is twice as long.
SYN_TIMEOUT_S: Final = 1.0
DATA_TIMEOUT_S: Final = 0.2

_DATAGRAM, _WAKE, _REQUEST, _REPLY, _STALL, _RESUME = range(6)


@dataclass(slots=True)
class Node:
    """One member: its state machine and what its kernel holds for it while its process does not run."""

    index: int
    swim: Swim
    keyring: Keyring | None
    wake_at: float = float("inf")
    crashed: bool = False
    stalled: bool = False
    stall_s: float = 0.0  # to come
    was_stalled: bool = False
    socket: list[tuple[bytes, Address]] = field(default_factory=list)
    socket_bytes: int = 0
    waiting: list[tuple[int, int, Any, Any]] = field(default_factory=list)  # TCP, as events


@dataclass(slots=True)
class Sightings:
    """When the crashed member was first suspected, and each survivor's notice of its death, in seconds."""

    suspected: float | None = None
    deaths: dict[int, float] = field(default_factory=dict)


class World:
    """`size` members that know each other from the start, on a network that loses `loss` of all packets.

    `drain_first` is what the runtime does: sockets before timers. `encrypted` seals every datagram as the
    runtime does; without it only their size is counted.
    """

    def __init__(
        self,
        size: int,
        loss: float,
        seed: int,
        config: Config | None = None,
        *,
        encrypted: bool = False,
        drain_first: bool = True,
    ) -> None:
        self.now = 0.0
        self.config = config or Config()
        self.loss = loss
        self.rng = random.Random(seed)
        self.drain_first = drain_first
        self.packets = self.bytes = self.tcp_bytes = 0
        self.victim: int | None = None
        self.sightings = Sightings()
        # (subject, boot, incarnation) of members that were neither crashed nor ever stalled, yet believed
        # dead, or suspected, by anyone.
        self.false_deaths: set[tuple[int, int, int]] = set()
        self.false_suspicions: set[tuple[int, int, int]] = set()
        # The island of each member, while the network is split; nothing passes between two.
        self.islands: list[int] | None = None
        self._events: list[tuple[float, int, int, int, Any, Any]] = []
        self._order = 0
        self._addresses: dict[Address, int] = {}
        self.nodes = [self._node(index, seed, encrypted) for index in range(size)]
        records = [encode_record(node.swim.me) for node in self.nodes]
        for node in self.nodes:
            node.swim.learn(0.0, records)
            self._settle(node)

    def _node(self, index: int, seed: int, encrypted: bool) -> Node:
        host = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
        me = Record(f"{index:016x}", f"peer-{index}", host, 7402, 7400, 7401, 1, 0, "0.1.0", 1)
        self._addresses[me.address] = index
        rng = random.Random(f"{seed}/{index}")
        swim = Swim(me, CLUSTER, self.config, rng, 0.0)
        return Node(index, swim, Keyring([KEY], CLUSTER, rng.randbytes) if encrypted else None)

    # Experiments act through these.

    def run(self, until: float) -> None:
        """Let virtual time pass until then."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, kind, index, one, other = heapq.heappop(events)
            node = self.nodes[index]
            if node.crashed:
                continue
            if kind == _WAKE:
                if node.wake_at == self.now and not node.stalled:
                    node.wake_at = float("inf")
                    node.swim.tick(self.now)
                    self._settle(node)
                    self._begin_stall(node)
            elif kind == _STALL:
                node.stall_s = max(node.stall_s, one)
            elif kind == _RESUME:
                self._resume(node)
            elif node.stalled:
                self._keep(node, kind, one, other)
            else:
                self._deliver(node, kind, one, other)
                self._settle(node)
        self.now = until

    def crash(self, index: int) -> None:
        """Member `index` is gone; sightings of its death are noted from now on."""
        self.victim = index
        self.nodes[index].crashed = True

    def stall(self, index: int, start: float, length_s: float) -> None:
        """Once past `start`, the process of member `index` does not run for `length_s`; it may die of that.

        It stops at the worst moment: right after its timers, so most often with a ping just sent.
        """
        self.nodes[index].was_stalled = True
        self._schedule(start, _STALL, index, length_s, None)

    def stats(self) -> Stats:
        """The sum over all members."""
        sums = {}
        for name in (item.name for item in fields(Stats)):
            sums[name] = sum(getattr(node.swim.stats, name) for node in self.nodes)
        return Stats(**sums)

    # One member

    def _begin_stall(self, node: Node) -> None:
        if node.stall_s > 0.0 and not node.stalled:
            node.stalled = True
            self._schedule(self.now + node.stall_s, _RESUME, node.index, None, None)
            node.stall_s = 0.0

    def _resume(self, node: Node) -> None:
        node.stalled = False
        if not self.drain_first:
            node.swim.tick(self.now)
        held, node.socket, node.socket_bytes = node.socket, [], 0
        for data, source in held:
            self._deliver(node, _DATAGRAM, data, source)
        if self.drain_first and node.swim.next_clock() <= self.now:
            node.swim.tick(self.now)
        calls, node.waiting = node.waiting, []
        for _, kind, one, other in calls:
            self._deliver(node, kind, one, other)
        node.wake_at = float("inf")
        self._settle(node)

    def _keep(self, node: Node, kind: int, one: Any, other: Any) -> None:
        """The kernel takes what arrives for a process that does not run, while there is room."""
        if kind != _DATAGRAM:
            node.waiting.append((len(node.waiting), kind, one, other))
        elif node.socket_bytes + len(one) + DATAGRAM_COST <= SOCKET_BYTES:
            node.socket.append((one, other))
            node.socket_bytes += len(one) + DATAGRAM_COST

    def _deliver(self, node: Node, kind: int, one: Any, other: Any) -> None:
        if kind == _DATAGRAM:
            body = one if node.keyring is None else node.keyring.open(one)
            node.swim.receive(self.now, unpack(body), other)
        elif kind == _REPLY:
            node.swim.answered(self.now, one, other)
        else:
            token, asker = one
            reply = node.swim.serve(self.now, other)
            self.tcp_bytes += len(reply)
            self._schedule(self.now + self._leg_s(), _REPLY, asker, token, reply)

    def _settle(self, node: Node) -> None:
        """Carry out what a member wants after an event, and see to its next timer."""
        swim = node.swim
        for wish in swim.outbox:
            if type(wish) is Send:
                self._send(node, wish)
            else:
                assert type(wish) is Exchange
                self._exchange(node, wish)
        swim.outbox.clear()
        if swim.changes:
            for member in swim.changes:
                self._note(node, int(member.id, 16), member.belief)
            swim.changes.clear()
        due = swim.next_clock()
        if due < node.wake_at:
            node.wake_at = max(due, self.now)
            self._schedule(node.wake_at, _WAKE, node.index, None, None)

    def _note(self, observer: Node, subject: int, belief: tuple[int, int, int]) -> None:
        boot, incarnation, state = belief
        if subject == self.victim:
            if state == SUSPECT and self.sightings.suspected is None:
                self.sightings.suspected = self.now
            elif state == DEAD:
                self.sightings.deaths.setdefault(observer.index, self.now)
        elif state in (SUSPECT, DEAD) and not self.nodes[subject].was_stalled:
            wrong = self.false_deaths if state == DEAD else self.false_suspicions
            wrong.add((subject, boot, incarnation))

    # The network

    def _send(self, node: Node, wish: Send) -> None:
        data = wish.body if node.keyring is None else node.keyring.seal(wish.body)
        self.packets += 1
        self.bytes += len(data) + (SEAL_BYTES if node.keyring is None else 0)
        target = self._addresses[wish.address]
        if self.rng.random() >= self.loss and self._reaches(node.index, target):
            self._schedule(self.now + self._delay_s(), _DATAGRAM, target, data, node.swim.me.address)

    def _exchange(self, node: Node, wish: Exchange) -> None:
        """A connection, a handshake of one round trip, the request; the reply comes by `_deliver`."""
        arrival = self.now + self._round_trip_s(SYN_TIMEOUT_S) + 3 * self._leg_s()
        target = self._addresses[wish.address]
        self.tcp_bytes += len(wish.payload)
        if self._reaches(node.index, target):
            self._schedule(arrival, _REQUEST, target, (wish.token, node.index), wish.payload)
        # An answer that comes first makes this one void.
        self._schedule(self.now + wish.timeout_s, _REPLY, node.index, wish.token, None)

    def _reaches(self, one: int, other: int) -> bool:
        return self.islands is None or self.islands[one] == self.islands[other]

    def _delay_s(self) -> float:
        return DELAY_LEAST_S + (DELAY_MOST_S - DELAY_LEAST_S) * self.rng.random()

    def _leg_s(self) -> float:
        """One packet over TCP, sent again until it arrives."""
        delay_s, timeout_s = self._delay_s(), DATA_TIMEOUT_S
        while self.rng.random() < self.loss:
            delay_s += timeout_s
            timeout_s *= 2
        return delay_s

    def _round_trip_s(self, timeout_s: float) -> float:
        delay_s = 2 * self._delay_s()
        while self.rng.random() >= (1 - self.loss) ** 2:
            delay_s += timeout_s
            timeout_s *= 2
        return delay_s

    def _schedule(self, when: float, kind: int, index: int, one: Any, other: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, kind, index, one, other))
