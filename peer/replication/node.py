"""One peer's replication, put together: dispatch of messages, who owns what, who is asked first.

`Replica` is everything the simulator needs to run hundreds of in one process: no threads, no clock, no sockets.
The checks that hold for every message are here, in one place:

N1  The sender's epoch: a replica that is behind persists the newer epoch before it answers; one that is ahead
    refuses with its own tag.
N2  A peer whose identity is not confirmed votes on nothing.
N3  Rows are answered for owned partitions only, and not while this epoch is fenced. In a joint epoch old and new owners
    answer; who is new only once it has forgotten what it may have held of the partition in former times (`progress`).
N4  In a new generation (the operator's override) a peer owns nothing until it has merged what all members hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from peer.errors import AtollError, Unavailable
from ring.changes import ChangeRefused
from ring.circle import Circle
from ring.epoch import Epoch
from ring.hashing import partition_of

from . import meta
from .agreement.epochs import Epochs
from .agreement.identity import Identity
from .agreement.progress import CLEAN, Progress
from .agreement.proposals import Proposals, RingRefused
from .copying.registersync import REGISTERS, RegisterSide
from .copying.sync import Copies
from .env import Done, Env, Network, Reply, RowStore
from .garbage.attempts import Attempts
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
from .owners import Owners
from .preference import Preference
from .registers.acceptor import Acceptor
from .registers.register import Registers
from .registers.scan import Scans, answer_scan

_MERGED = b"merged"
_UNCLEAN, _ANSWERS = 1, 2  # of an owner; 0 is no owner
_NOT_YET = (ABSTAIN, "it has not yet forgotten what it held of this partition in former times")
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
        self.preference = Preference(env, me, net.is_alive)
        self._old_only = "joint_old_only" in unsafe
        self._owned = b""
        self._owners: list[Owners] = []
        self._circle: Circle | None = None
        self._fallbacks: dict[int, tuple[str, ...]] = {}
        self._everybody: frozenset[str] = frozenset()
        self._waiting = 0
        self.asked = 0  # about rows, which is what clients' requests come to
        self.identity = Identity(env, rows, me, self.send, unsafe)
        boot = self.identity.boot
        self.acceptor = Acceptor(rows, env.now, unsafe)
        self.epochs = Epochs(env, rows, me, self.send, self._holds_rows, self._epoch_installed)
        self.proposals = Proposals(env, me, boot, self.epochs, self.send, self._holds_rows)
        self.progress = Progress(rows)
        self.registers = Registers(env, me, boot, self, self.send, self.prefer, self.was_late, unsafe)
        self.scans = Scans(env, self, self.registers, self.send, self.prefer, self.was_late, unsafe)
        self.copies = Copies(env, self, self.send)
        self.register_side = RegisterSide(env, rows, self.acceptor, self.settle, self.plain)
        self.copies.add(REGISTERS, self.register_side)
        self.acceptor.gates.may_lack = lambda key: self.newly_owned(partition_in(key))
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
        self.env.spawn(self.identity.report(lambda: list(self.epoch.voters())), "boot reports")

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
        return self.me in self._everybody

    def owners_of_row(self, row_key: bytes) -> Owners:
        if not self._owners:
            raise Unavailable("this peer has not joined a cluster yet; try another peer")
        return self._owners[(row_key[1] << 8) | row_key[2]]

    def owners_of(self, partition: int) -> Owners:
        """The owners of a partition's rows: two sets of them while they change."""
        return self._owners[partition]

    def former_owners(self, partition: int) -> list[str]:
        """Members that owned a partition in this epoch's old table or in an earlier one, and do no more, latest first.
        Chunks may still lie there, and only there. One that has left the ring for good is not asked any more."""
        epoch = self.epoch
        before = () if epoch.previous is None else epoch.previous.owners(partition)
        known = {member.id for member in epoch.everybody}.difference(epoch.table.owners(partition))
        return [m for m in dict.fromkeys((*before, *self.epochs.earlier.owners(partition))) if m in known]

    def places_of(self, name: bytes) -> list[str]:
        """Where a chunk may lie, in the order to ask: its owners, then those of earlier epochs (§5)."""
        partition = partition_of(name, self.epoch.partition_power)
        owners = self.epoch.table.owners(partition)
        return [*self.prefer(owners), *self.prefer(self.former_owners(partition))]

    def plain(self, row_key: bytes) -> bool:
        """Whether a row of another owner may be taken over as it is: it has one set of owners, this peer is one of them, and
        no epoch waits."""
        owners = self.owners_of_row(row_key)
        return not owners.joint and self.me in owners.everyone and not self.epochs.fenced

    def newly_owned(self, partition: int) -> bool:
        """Whether this peer is one of the new owners of a partition and none of the old, in a joint epoch."""
        owners = self._owners[partition]
        return owners.joint and self.me not in owners.sets[0]

    def cleaned(self, partitions: Iterable[int]) -> None:
        """This new owner holds nothing of former times of these partitions any more: it answers for them from now on."""
        owned = bytearray(self._owned)
        for partition in partitions:
            owned[partition] = _ANSWERS
        self._owned = bytes(owned)

    def unclean(self, partition: int) -> bool:
        return self._owned[partition] == _UNCLEAN

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
        await self.proposals.lift_fence()

    def prefer(self, owners: Iterable[str]) -> list[str]:
        """Owners in the order to ask them."""
        return self.preference.order(owners)

    @property
    def hampered(self) -> frozenset[str]:
        """Members that say of themselves that they are slow."""
        return self.preference.hampered

    def is_alive(self, member: str) -> bool:
        """What gossip believes."""
        return member == self.me or self._net.is_alive(member)

    def was_late(self, member: str) -> None:
        """A hedge fired while this member owed an answer."""
        self.preference.was_late(member)
        self.registers.counts["hedges"] += 1

    async def settle(self, row_key: bytes) -> None:
        """Have a register's value accepted anew, above what this peer promised. Raises Unavailable, Refused."""
        gate = self.acceptor.gates.generation_for(row_key)
        await self.registers.settle(row_key, gate=gate, above=self.acceptor.promised(row_key))

    async def change_ring(self, transform: Callable[[Epoch], Epoch]) -> Epoch:
        """Have a change of the ring decided (`ring.changes`); the epoch that stands then, which is joint where data moves.

        Raises RingRefused (nothing changed), Unavailable.
        """
        try:
            return await self.proposals.propose(transform)
        except ChangeRefused as error:
            raise RingRefused(str(error), code=error.code) from error

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
            self.asked += 1
            if message[1] != self.epochs.tag:
                return self._other_epoch(sender, message, reply)
            if not self.identity.confirmed:
                return reply((ABSTAIN, "its identity is not confirmed yet"))
            if self.epochs.fenced:
                return reply((FENCED,))
            key = message[2]
            owned = self._owned[(key[1] << 8) | key[2]]
            if owned != _ANSWERS:
                return reply(_NOT_YET if owned else (NOT_OWNER,))
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
        if not all(self._owned[partition_in(prefix)] == _ANSWERS for prefix in message[2]):
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
        """Or has purged some, which new owners have to be told of (F5)."""
        acceptor = self.acceptor
        return not acceptor.idle or acceptor.floors.any or bool(self._rows.scan("rows", b"", b"\xff" * 8, 1))

    def _epoch_installed(self, epoch: Epoch) -> None:
        if self._new_here:  # one that joins has nothing to merge
            self._new_here, self._merged = False, epoch.generation
            if epoch.generation:
                self._rows.commit([meta.write(_MERGED, epoch.generation.to_bytes(8, "big"))], lambda _: None)
        self._circle = None
        self._fallbacks = {}
        self._everybody = frozenset(member.id for member in epoch.everybody)
        self.identity.ring_changed(self._everybody)
        self.progress.load(self.epochs.tag)
        known: dict[Any, Owners] = {}
        self._owners = []
        for partition in range(1 << epoch.partition_power):
            new = epoch.table.owners(partition)
            old = new if epoch.previous is None else epoch.previous.owners(partition)
            owners = known.get((old, new))
            if owners is None:
                owners = known[old, new] = Owners(new) if set(old) == set(new) else Owners(old, new)
                if self._old_only:
                    owners.needed = owners.sets[:1]
            self._owners.append(owners)
        self._own()
        if self.identity.confirmed and len(epoch.members) > 1:  # a founder was confirmed by nobody but itself
            self.env.spawn(self.identity.introduce(list(epoch.voters())), "boot report")
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
        self._own()

    def _own(self) -> None:
        """Note which partitions are answered for (N3, N4)."""
        owned = bytearray(len(self._owners))
        for partition, owners in enumerate(self._owners):
            if self.me in owners.everyone and not self.recovering:
                late = self.newly_owned(partition) and self.progress.state(partition) < CLEAN
                owned[partition] = _UNCLEAN if late else _ANSWERS
        self._owned = bytes(owned)
