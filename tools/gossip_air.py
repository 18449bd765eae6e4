"""What carries the datagrams and exchanges of many gossiping processes in virtual time.

Every process is a `gossip.swim.Swim` with the real codec; the clock, the network and the sockets are simulated. What is
modelled: loss of each datagram by itself, a delay of 0.2 to 2 ms, networks that are cut, sockets that overflow while their
process does not run, TCP that repeats lost packets after Linux's timeouts, machines on which one process ends and another
starts.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from gossip.codec import unpack
from gossip.host import Exchange, Send
from gossip.keyring import SEAL_BYTES, Keyring
from gossip.members import Member
from gossip.messages import Address
from gossip.swim import Swim

DELAY_LEAST_S: Final = 0.0002
DELAY_MOST_S: Final = 0.002
# Linux: net.core.rmem_max, and what each small datagram is charged besides its bytes.
SOCKET_BYTES: Final = 212_992
DATAGRAM_COST: Final = 768
# Linux's first timeouts for a lost SYN and for lost data; each further one is twice as long.
SYN_TIMEOUT_S: Final = 1.0
DATA_TIMEOUT_S: Final = 0.2

# What arrives at a machine, for whichever process runs there then; and what concerns one process.
_DATAGRAM, _REQUEST, _WAKE, _REPLY, _STALL, _RESUME = range(6)


@dataclass(slots=True)
class Node:
    """One process: its state machine and what its kernel holds for it while it does not run."""

    index: int  # of its machine
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


def address_of(index: int) -> Address:
    """Where machine number `index` is."""
    return f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 7402


@lru_cache(maxsize=65_536)
def machine_at(address: Address) -> int:
    """The number of the machine at an address: the inverse of `address_of`."""
    _, high, middle, low = address[0].split(".")
    return int(high) << 16 | int(middle) << 8 | int(low)


class Air:
    """The machines and the network between them, which loses `loss` of all packets.

    `drain_first` is what the runtime does: sockets before timers.
    """

    def __init__(self, loss: float, rng: random.Random, *, drain_first: bool = True) -> None:
        self.now = 0.0
        self.loss = loss
        self.rng = rng
        self.drain_first = drain_first
        self.packets = self.bytes = self.tcp_bytes = 0
        self.nodes: dict[int, Node] = {}  # by machine: the process that runs there, or ran last
        self._events: list[tuple[float, int, int, Any, Any, Any]] = []
        self._order = 0
        self._stirred = False

    def run(self, until: float) -> float:
        """Let virtual time pass until then, or until an event that `stir`red; returns the time it is."""
        events = self._events
        self._stirred = False
        while events and events[0][0] <= until:
            self.now, _, kind, target, one, other = heapq.heappop(events)
            node = self.nodes.get(target) if kind <= _REQUEST else target
            if node is None or node.crashed:
                continue
            if kind == _WAKE:
                if node.wake_at == self.now and not node.stalled:
                    node.wake_at = float("inf")
                    node.swim.tick(self.now)
                    self.settle(node)
                    self._begin_stall(node)
            elif kind == _STALL:
                node.stall_s = max(node.stall_s, one)
            elif kind == _RESUME:
                self._resume(node)
            elif node.stalled:
                self._keep(node, kind, one, other)
            else:
                self._deliver(node, kind, one, other)
                self.settle(node)
            if self._stirred:
                return self.now
        self.now = until
        return until

    def stir(self) -> None:
        """Have `run` return after the present event: somebody else has something to do now."""
        self._stirred = True

    def place(self, node: Node) -> None:
        """A process starts on its machine, the first one or in place of one that has ended."""
        last = self.nodes.get(node.index)
        assert last is None or last.crashed, "two processes on one machine"
        self.nodes[node.index] = node
        self.settle(node)

    def end(self, node: Node) -> None:
        """A process is gone, and what its kernel held for it."""
        node.crashed = True

    def stall(self, node: Node, start: float, length_s: float) -> None:
        """Once past `start`, this process does not run for `length_s`; it may be declared dead for that.

        It stops at the worst moment: right after its timers, so most often with a ping just sent.
        """
        node.was_stalled = True
        self._schedule(start, _STALL, node, length_s, None)

    def contact(self, node: Node, address: Address) -> None:
        """Exchange memberships with whoever answers there, as one that starts does."""
        self._exchange(node, Exchange(-1, address, node.swim.join_request(self.now), 10.0))

    # What a world may refine.

    def reaches(self, one: int, other: int) -> bool:
        """Whether packets pass from one machine to the other."""
        return True

    def noted(self, node: Node, member: Member) -> None:
        """What a process believes of another one has changed."""

    def stopped(self, node: Node) -> None:
        """A process has been stopped where it was."""

    def resumed(self, node: Node) -> None:
        """A stopped process runs again, and has seen to its sockets and timers."""

    # One process

    def _begin_stall(self, node: Node) -> None:
        if node.stall_s > 0.0 and not node.stalled:
            node.stalled = True
            self._schedule(self.now + node.stall_s, _RESUME, node, None, None)
            node.stall_s = 0.0
            self.stopped(node)

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
        self.settle(node)
        self.resumed(node)

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
            if one >= 0:
                node.swim.answered(self.now, one, other)
            elif other is not None:
                node.swim.joined(self.now, other)
        else:
            token, asker = one
            reply = node.swim.serve(self.now, other)
            if self.reaches(node.index, asker.index):
                self.tcp_bytes += len(reply)
                self._schedule(self.now + self._leg_s(), _REPLY, asker, token, reply)

    def settle(self, node: Node) -> None:
        """Carry out what a process wants after an event, and see to its next timer."""
        swim = node.swim
        for wish in swim.outbox:
            if type(wish) is Send:
                self._send(node, wish)
            else:
                assert type(wish) is Exchange
                self._exchange(node, wish)
        swim.outbox.clear()
        if swim.changes:
            changes = list(swim.changes)
            swim.changes.clear()
            for member in changes:
                self.noted(node, member)
        due = swim.next_clock()
        if due < node.wake_at:
            node.wake_at = max(due, self.now)
            self._schedule(node.wake_at, _WAKE, node, None, None)

    # The network

    def _send(self, node: Node, wish: Send) -> None:
        data = wish.body if node.keyring is None else node.keyring.seal(wish.body)
        self.packets += 1
        self.bytes += len(data) + (SEAL_BYTES if node.keyring is None else 0)
        target = machine_at(wish.address)
        if self.rng.random() >= self.loss and self.reaches(node.index, target):
            self._schedule(self.now + self._delay_s(), _DATAGRAM, target, data, node.swim.me.address)

    def _exchange(self, node: Node, wish: Exchange) -> None:
        """A connection, a handshake of one round trip, the request; the reply comes by `_deliver`."""
        arrival = self.now + self._round_trip_s(SYN_TIMEOUT_S) + 3 * self._leg_s()
        target = machine_at(wish.address)
        self.tcp_bytes += len(wish.payload)
        if self.reaches(node.index, target) and self.reaches(target, node.index):
            self._schedule(arrival, _REQUEST, target, (wish.token, node), wish.payload)
        # An answer that comes first makes this one void.
        self._schedule(self.now + wish.timeout_s, _REPLY, node, wish.token, None)

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

    def _schedule(self, when: float, kind: int, target: Any, one: Any, other: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, kind, target, one, other))
