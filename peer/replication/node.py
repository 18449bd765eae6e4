"""One peer's replication, put together: dispatch of messages, who owns what, who is asked first.

`Replica` is everything the simulator needs to run hundreds of in one process: no threads, no clock, no sockets.
The checks that hold for every message are here, in one place:

N1  The sender's epoch: a replica that is behind persists the newer epoch before it answers; one that is ahead
    refuses with its own tag.
N2  A peer whose identity is not confirmed votes on nothing.
N3  Rows are answered for owned partitions only, and not while this epoch is fenced.
N4  In a new generation (the operator's override) a peer owns nothing until it has merged what all members hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from peer.errors import AtollError, Invalid, Unavailable
from ring.circle import Circle
from ring.epoch import Epoch
from ring.members import Member

from . import meta
from .acceptor import Acceptor
from .attempts import Attempts
from .env import Done, Env, Network, Reply, RowStore
from .epochs import Epochs
from .identity import Identity
from .keys import partition_in
from .messages import (
    ABSTAIN,
    ACCEPT,
    ATTEMPTS,
    BALLOT,
    BOOTS,
    COPY_DIGESTS,
    COPY_FETCH,
    COPY_LEAVES,
    COPY_LIST,
    EPOCH_ACCEPT,
    EPOCH_DECIDED,
    EPOCH_GET,
    EPOCH_PREPARE,
    EPOCH_RELEASE,
    FAILED,
    FENCED,
    NOT_OWNER,
    PREPARE,
    READ,
    SCAN,
    STALE,
)
from .register import Registers
from .registersync import REGISTERS, RegisterSide
from .scan import Scans, answer_scan
from .sync import Copies

LATE_FOR_S = 3.0
_MERGED = b"merged"
WAITING_MOST = 10_000

Handler = Callable[[Any, Reply], None]


class Replica:
    """The registers, scans, epochs and identity of one peer.

    `me` is the member id. After construction: `await begin()`, then either `epochs.installed(founding epoch)` or
    a join, then `await confirm()`; from then on it votes and coordinates.
    """

    def __init__(
        self, env: Env, net: Network, rows: RowStore, me: str, unsafe: frozenset[str] = frozenset()
    ) -> None:
        self.env = env
        self.me = me
        self._net = net
        self._rows = rows
        self._late: dict[str, float] = {}
        self._owned = b""
        self._circle: Circle | None = None
        self._fallbacks: dict[int, tuple[str, ...]] = {}
        self._member = False
        self._waiting = 0
        self.identity = Identity(env, rows, me, self.send, unsafe)
        boot = self.identity.boot
        self.acceptor = Acceptor(rows, env.now, unsafe)
        self.epochs = Epochs(env, rows, me, boot, self.send, self._holds_rows, self._epoch_installed)
        self.registers = Registers(env, me, boot, self, self.send, self.prefer, self.was_late, unsafe)
        self.scans = Scans(env, self, self.registers, self.send, self.prefer, self.was_late, unsafe)
        self.copies = Copies(env, self, self.send)
        self.copies.add(REGISTERS, RegisterSide(env, rows, self.acceptor, self.settle))
        merged = meta.load(rows, _MERGED)
        self._merged = int.from_bytes(merged, "big") if merged is not None else 0
        self._new_here = self.epochs.current is None
        self.attempts = Attempts(me, boot)
        self.on_epoch: Callable[[Epoch], None] = lambda _: None
        self._row_handlers: dict[int, Handler] = {
            PREPARE: self.acceptor.prepare,
            ACCEPT: self.acceptor.accept,
            READ: self.acceptor.read,
            BALLOT: self.acceptor.ballot,
        }
        self._epoch_handlers: dict[int, Handler] = {
            EPOCH_PREPARE: self.epochs.on_prepare,
            EPOCH_ACCEPT: self.epochs.on_accept,
            EPOCH_RELEASE: self.epochs.on_release,
        }
        self._open_handlers: dict[int, Handler] = {
            EPOCH_DECIDED: self.epochs.on_decided,
            EPOCH_GET: self._on_get,
            BOOTS: self.identity.on_boots,
        }
        self._chunk_handlers: dict[int, Handler] = {
            COPY_DIGESTS: self.copies.on_digests,
            COPY_LEAVES: self.copies.on_leaves,
            COPY_LIST: self.copies.on_list,
            COPY_FETCH: self.copies.on_fetch,
            ATTEMPTS: self.attempts.on_ask,
        }
        if self.epochs.current is not None:
            self._epoch_installed(self.epochs.current)

    # --- life

    async def begin(self) -> None:
        """Make this start durable. Nothing may be sent before."""
        await self.identity.begin()

    async def confirm(self) -> None:
        """Return once this peer may vote. Raises identity.Amnesia."""
        assert self.epochs.current is not None, "found or join first"
        await self.identity.confirm(lambda: self.epoch)
        self.env.spawn(self.identity.report(self._member_ids), "boot reports")

    def serve(self, op: int, handler: Handler, *, votes: bool = True) -> None:
        """Register a further operation; one that `votes` passes N1 and N2 first."""
        (self._chunk_handlers if votes else self._open_handlers)[op] = handler

    # --- what coordinators ask (register.Ring)

    @property
    def tag(self) -> int:
        return self.epochs.tag

    @property
    def epoch(self) -> Epoch:
        """The epoch in force. Raises Unavailable before this peer has joined."""
        if self.epochs.current is None:
            raise Unavailable("this peer has not joined a cluster yet; try another peer")
        return self.epochs.current

    @property
    def is_member(self) -> bool:
        """Whether this peer is in the ring it knows; one that is not coordinates no change."""
        return self._member

    def owners_of_row(self, row_key: bytes) -> tuple[str, ...]:
        return self.epoch.table.owners(partition_in(row_key))

    def fallbacks(self, partition: int) -> tuple[str, ...]:
        """The members that take the chunks of owners out of reach: the next ones of the walk, as many as there are owners
        (§7). None in a cluster whose members all own everything."""
        known = self._fallbacks.get(partition)
        if known is None:
            epoch = self.epoch
            owners = epoch.table.owners(partition)
            others: Iterator[str] = iter(())
            if len(epoch.members) > len(owners):
                self._circle = self._circle or Circle(epoch.members)
                walk = self._circle.walk(partition, epoch.partition_power)
                held = epoch.table.partitions_of
                others = (
                    member for member in walk if member not in owners and held(member)
                )  # none that leaves
            known = self._fallbacks[partition] = tuple(islice(others, len(owners)))
        return known

    async def catch_up(self, tag: int) -> None:
        await self.epochs.catch_up(tag)

    async def lift_fence(self) -> None:
        await self.epochs.lift_fence()

    def prefer(self, owners: Iterable[str]) -> list[str]:
        """Owners in the order to ask them: this peer, then those believed alive and prompt, then the rest."""
        first: list[str] = []
        last: list[str] = []
        for owner in owners:
            if owner == self.me:
                first.insert(0, owner)
            elif self._net.is_alive(owner) and not self._is_late(owner):
                first.append(owner)
            else:
                last.append(owner)
        return first + last if last else first

    def is_alive(self, member: str) -> bool:
        """What gossip believes."""
        return member == self.me or self._net.is_alive(member)

    def was_late(self, member: str) -> None:
        """A hedge fired while this member owed an answer: ask it later for a while."""
        if len(self._late) < 4096:
            self._late[member] = self.env.now() + LATE_FOR_S
        self.registers.counts["hedges"] += 1

    def _is_late(self, member: str) -> bool:
        until_s = self._late.get(member)
        if until_s is None:
            return False
        if self.env.now() < until_s:
            return True
        del self._late[member]
        return False

    async def settle(self, row_key: bytes) -> None:
        """Have a register's value accepted anew, above what this peer promised. Raises Unavailable, Refused."""
        gate = self.acceptor.gates.generation_for(row_key)
        await self.registers.settle(row_key, gate=gate, above=self.acceptor.promised(row_key))

    # --- messages

    def send(self, member: str, message: tuple[Any, ...], deadline_s: float, done: Done) -> None:
        """Call a peer, or this one without a detour over the network. Never raises: what goes wrong is this owner's answer,
        not that of a round which may have asked others before."""
        if member == self.me:
            try:
                self.handle(self.me, message, done)
            except AtollError as error:
                done(error)
        else:
            self._net.call(member, message, deadline_s, done)

    def handle(self, sender: str, message: Any, reply: Reply) -> None:
        """Answer one message; `reply` runs exactly once, now or after a commit."""
        op = message[0]
        handler = self._row_handlers.get(op)
        if handler is not None:
            if message[1] != self.epochs.tag:
                return self._other_epoch(sender, message, reply)
            if not self.identity.confirmed:
                return reply((ABSTAIN, "its identity is not confirmed yet"))
            if self.epochs.fenced:
                return reply((FENCED,))
            key = message[2]
            if not self._owned[(key[1] << 8) | key[2]]:
                return reply((NOT_OWNER,))
            return handler(message, reply)
        handler = self._open_handlers.get(op)
        if handler is not None:
            return handler(message, reply)
        if message[1] != self.epochs.tag:
            return self._other_epoch(sender, message, reply)
        if not self.identity.confirmed:
            return reply((ABSTAIN, "its identity is not confirmed yet"))
        handler = self._epoch_handlers.get(op) or self._chunk_handlers.get(op)
        if handler is not None:
            return handler(message, reply)
        if op == SCAN:
            return self._on_scan(message, reply)
        return reply((FAILED, "NotImplemented", f"operation {op} is not implemented by this version"))

    def _on_scan(self, message: Any, reply: Reply) -> None:
        if self.epochs.fenced:
            return reply((FENCED,))
        if not all(self._owned[partition_in(prefix)] for prefix in message[2]):
            return reply((NOT_OWNER,))
        answer_scan(self._rows, self.acceptor.gates, self.acceptor.waits_for, message, reply)
        return None

    def _on_get(self, message: Any, reply: Reply) -> None:
        if self.epochs.current is None:
            return reply((FAILED, "ServiceUnavailable", "this peer has not joined a cluster yet"))
        return self.epochs.on_get(message, reply)

    def _other_epoch(self, sender: str, message: Any, reply: Reply) -> None:
        """N1: refuse what is older; before answering what is newer, catch up."""
        tag = message[1]
        if tag < self.epochs.tag or self.epochs.current is None or self._waiting >= WAITING_MOST:
            return reply((STALE, self.epochs.tag))
        self._waiting += 1
        self.env.spawn(self._learn_then(sender, message, reply), "catch up")
        return None

    async def _learn_then(self, sender: str, message: Any, reply: Reply) -> None:
        try:
            await self.epochs.catch_up(message[1], sender)
        except (AtollError, ValueError):
            pass  # answered below: we are still behind
        finally:
            self._waiting -= 1
        if self.epochs.tag == message[1]:
            self.handle(sender, message, reply)
        else:
            reply((STALE, self.epochs.tag))

    # --- epochs

    def _holds_rows(self) -> bool:
        return not self.acceptor.idle or bool(self._rows.scan("rows", b"", b"\xff" * 8, 1))

    def _epoch_installed(self, epoch: Epoch) -> None:
        if self._new_here:  # one that joins has nothing to merge
            self._new_here, self._merged = False, epoch.generation
            if epoch.generation:
                self._rows.commit([meta.write(_MERGED, epoch.generation.to_bytes(8, "big"))], lambda _: None)
        self._circle = None
        self._fallbacks = {}
        self._member = epoch.member(self.me) is not None
        self._own(epoch)
        if self.identity.confirmed and len(epoch.members) > 1:  # a founder was confirmed by nobody but itself
            self.env.spawn(self.identity.tell(self._member_ids()), "boot report")
        self.on_epoch(epoch)

    @property
    def recovering(self) -> bool:
        """The operator's override is in force, and what the other survivors hold has not been merged here yet (N4)."""
        epoch = self.epochs.current
        return epoch is not None and epoch.generation > self._merged

    async def recovered(self, generation: int) -> None:
        """Everything was merged: vote from now on. Raises Full or Unavailable if that cannot be kept."""
        done = self.env.future()
        self._rows.commit([meta.write(_MERGED, generation.to_bytes(8, "big"))], done.set_result)
        if error := await done:
            raise error
        self._merged = generation
        self._own(self.epoch)

    def _own(self, epoch: Epoch) -> None:
        """Note which partitions are answered for (N3, N4)."""
        table, votes = epoch.table, not self.recovering
        self._owned = bytes(votes and self.me in table.owners(p) for p in range(1 << epoch.partition_power))

    def _member_ids(self) -> list[str]:
        return [member.id for member in self.epoch.members]

    async def admit(self, member: Member, change: Callable[[Epoch, Member], Epoch]) -> Epoch:
        """Decide an epoch with one more member; `change` computes it. Raises HoldsRows, Invalid, Unavailable."""

        def transform(base: Epoch) -> Epoch:
            known = base.member(member.id)
            if known == member:
                return base
            if known is not None:
                raise Invalid(f"member {member.id} is already in the ring under another address")
            return change(base, member)

        return await self.epochs.propose(transform)
