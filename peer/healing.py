"""What a peer does by itself to come back to full health: its background workers, put together (architecture §8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol

from peer.buffers import BufferPool
from peer.errors import AtollError
from peer.replication.chunks.chunks import Chunks
from peer.replication.chunks.holder import Disk
from peer.replication.copying.registersync import REGISTERS
from peer.replication.env import Env, RowStore
from peer.replication.garbage.garbage import GRACE_S, Garbage
from peer.replication.garbage.purge import Purge
from peer.replication.garbage.verdicts import Verdicts
from peer.replication.healing.adoption import Adoption
from peer.replication.healing.adoption import Disk as AdoptionDisk
from peer.replication.healing.antientropy import AntiEntropy
from peer.replication.healing.chunksync import CHUNKS, ChunkSide
from peer.replication.healing.eviction import Eviction
from peer.replication.healing.handoff import Handoff
from peer.replication.healing.recovery import Recovery
from peer.replication.healing.scrub import Disk as ScrubDisk
from peer.replication.healing.scrub import Scrub
from peer.replication.healing.transition import Transition
from peer.replication.messages import (
    DROP,
    HELD,
    HINT_KEEP,
    HINTED,
    HINTS,
    NAMED,
    PURGE,
    PURGE_PROMISE,
    REFERENCES,
    REPAIR,
)
from peer.replication.node import Replica
from peer.replication.throttle import Activity
from peer.replication.workers import Workers
from ring.epoch import Epoch
from ring.hashing import partition_of
from ring.members import LEAVING

log = logging.getLogger(__name__)

LEAVE_S = 5.0


def full_disk(why: str | None, roomy: bool) -> str:
    """What a peer's disk has no room for, in words; "" while it has room. `why`: chunks are refused; not `roomy`: heads."""
    if not roomy:
        return f"its disk is full ({why or 'no room for metadata'}), it takes deletions only"
    return f"it takes no new chunks ({why})" if why else ""


class AllDisk(Disk, ScrubDisk, AdoptionDisk, Protocol):
    """A peer's chunk files, for all who work with them."""


class Gossip(Protocol):
    """Who is alive (peer.membership.Membership)."""

    def is_alive(self, member_id: str) -> bool:
        """False of a member never heard of."""


class Removed(AtollError):
    """The ring has decided that this peer is no member any more."""

    code = "Removed"


class Evicted(Removed):
    """The ring went on without this peer, which was asked for nothing: it had been away for too long."""


class Overruled(Removed):
    """An operator's override made a ring of a higher generation, without this peer."""


class Healing:
    """One peer's workers, and what is known to be out of order."""

    def __init__(
        self, env: Env, rows: RowStore, replica: Replica, chunks: Chunks, disk: AllDisk, pool: BufferPool,
        alive: Callable[[str], bool], attempt_in: Callable[[bytes], bytes], grace_s: float = GRACE_S,
        unsafe: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`attempt_in` reads the attempt out of a head's payload, Corrupt if it cannot; `grace_s`: see `garbage`."""
        self._env = env
        self._rows = rows
        self._disk = disk
        self._pool = pool
        self._chunks = chunks
        self._replica = replica
        self._copies = replica.copies
        current = replica.epochs.current
        self._generation = 0  # the last one it belonged to
        self._stays = False  # the last ring with this peer in it meant to keep it
        if current is not None:
            self._note(current)
        self.on_removed: Callable[[AtollError], None] = lambda error: None
        self.eviction: Eviction | None = None
        self.workers = Workers(env, rows, Activity(env, lambda: replica.asked))
        replica.copies.throttle = self.workers.throttle
        self.side = ChunkSide(env, rows, chunks.holder, disk, chunks, self.workers.throttle)
        replica.copies.add(CHUNKS, self.side)
        self._reached: dict[str, int] = {}  # members that are alive -> the boot they were reached in
        self.anti_entropy = AntiEntropy(
            env,
            replica.me,
            replica.copies,
            lambda: replica.epochs.current,
            alive,
            replica.former_owners,
        )
        hints = chunks.hints
        self.handoff = Handoff(env, replica, chunks, self.side, hints, alive)
        self.recovery = Recovery(env, replica)
        replica.registers.on_missed = hints.missed
        replica.serve(HINTS, hints.on_hints)
        replica.serve(HINTED, hints.on_hinted)
        replica.serve(HINT_KEEP, hints.on_keep)
        chunks.on_bad_copy = self._bad_copy
        replica.serve(REPAIR, chunks.on_repair)

        self.transition = Transition(env, rows, replica, alive, self.workers.throttle)
        self.transition.fetching = self._to_fetch
        self._clean(env, rows, replica, disk, pool, alive, attempt_in, grace_s, unsafe)

    def _clean(
        self, env: Env, rows: RowStore, replica: Replica, disk: AllDisk, pool: BufferPool, alive: Callable[[str], bool],
        attempt_in: Callable[[bytes], bytes], grace_s: float, unsafe: frozenset[str],
    ) -> None:  # fmt: skip
        me, send, holder = replica.me, replica.send, self._chunks.holder
        verdicts = Verdicts(
            env,
            replica,
            replica.registers,
            send,
            replica.attempts,
            replica.acceptor.stored,
            attempt_in,
            unsafe,
        )
        self.verdicts = verdicts
        self.garbage = Garbage(
            env, rows, me, replica, send, holder, self._chunks, verdicts, alive, grace_s=grace_s
        )  # fmt: skip
        self.side.wanted, self.side.is_dead = verdicts.wanted, verdicts.is_dead
        self.side.on_doubt = self.garbage.doubt
        for op, handler in (
            (NAMED, verdicts.on_named),
            (DROP, self.garbage.on_drop),
            (REFERENCES, self.garbage.loose.on_references),
            (HELD, self.garbage.loose.on_held),
        ):
            replica.serve(op, handler)

        self.scrub = Scrub(
            env, rows, me, replica, send, holder, self.side, disk, pool, replica.settle, self.workers.throttle.spend
        )  # fmt: skip
        self.scrub.on_unwanted = self.garbage.look_at
        self.scrub.bad_rows, self.scrub.found_bad = replica.acceptor.bad, replica.acceptor.found_bad
        self.purge = Purge(
            env, rows, me, replica, send, replica.acceptor, REGISTERS,
            replica.copies.side(REGISTERS).digests.drop, unsafe=unsafe,
        )  # fmt: skip
        replica.serve(PURGE_PROMISE, self.purge.on_promise)
        replica.serve(PURGE, self.purge.on_purge)

    def evict(self, gossip: Callable[[], Gossip | None], after_s: float) -> None:
        """Have members removed that gossip held for dead, or never heard of, for so long, 0 for none; before `begin`."""

        def seen(member: str) -> bool:
            known = gossip()
            return known is not None and known.is_alive(member)

        self.eviction = Eviction(self._env, self._replica, seen, after_s)

    def begin(self, adopting: bool) -> None:
        """Run the workers. Called once the peer's identity is confirmed. `adopting`: chunks lie here without rows; they are
        taken over before others work on chunks. A change of the ring waits for this peer's registers alone."""
        self.workers.add(self.transition)
        if not adopting:
            return self._begin()
        holder = self._chunks.holder
        return self.workers.add(Adoption(self._env, self._rows, holder, self._disk, self._pool, self._begin))

    def _begin(self) -> None:
        self.workers.add(self.recovery)
        self.workers.add(self.handoff)
        self.workers.add(self.anti_entropy)
        self.workers.add(self.garbage)
        self.workers.add(self.purge)
        self.workers.add(self.scrub)
        if self.eviction is not None:
            self.workers.add(self.eviction)

    def ring_changed(self, epoch: Epoch) -> None:
        """Another epoch is in force."""
        log.info(
            "epoch %d.%d (%s): %d members", epoch.generation, epoch.number, epoch.kind, len(epoch.members)
        )
        for worker in (self.recovery, self.transition, self.handoff, self.anti_entropy):
            worker.wake()
        if epoch.kind == "final" and epoch.member(self._replica.me) is None:
            self._env.spawn(self._leave(), "leave")
        else:
            self._note(epoch)

    def _note(self, epoch: Epoch) -> None:
        """What the ring wants of this peer, should it be out of it some day. One whose joining was given up is to end."""
        me = epoch.member(self._replica.me)
        if any(member.id == self._replica.me for member in epoch.everybody):
            self._generation = epoch.generation
        if me is not None:
            joining = epoch.kind == "joint" and all(member.id != me.id for member in epoch.previous_members)
            self._stays = me.state != LEAVING and not joining

    async def _leave(self) -> None:
        """The ring is without this peer: it ends once the others are sure to know, unless it is admitted anew."""
        await self._replica.proposals.hand_on()
        await self._env.sleep(LEAVE_S)
        epoch = self._replica.epoch
        if epoch.kind == "final" and epoch.member(self._replica.me) is None:
            self.on_removed(self._why_out(epoch))

    def _why_out(self, epoch: Epoch) -> Removed:
        if epoch.generation > self._generation:
            return Overruled("an operator's override made a new ring without this peer")
        if self._stays:
            return Evicted("this peer was out of reach for so long that it was removed from the ring")
        return Removed("this peer was removed from the ring, so it stops")

    def heard(self, member: str, state: str, boot: int) -> None:
        """Gossip says this of a member. One that is alive again, or has started anew, is compared with first; other news of
        it (a flag, an epoch) says nothing about what it holds."""
        if state != "alive":
            self._reached.pop(member, None)
        elif self._reached.get(member) != boot:
            self._reached[member] = boot
            self.handoff.returned(member)
            self.anti_entropy.returned(member)

    def writable(self) -> None:
        """The disk takes writes again: what found it full, or read-only, need not wait until its pause is over."""
        self.anti_entropy.try_again()
        self.handoff.try_again()
        self.workers.wake()

    def _bad_copy(self, name: bytes, source: str) -> None:
        """A read found this peer's copy of a chunk missing or damaged."""
        epoch = self._replica.epochs.current
        if epoch is not None:
            self.anti_entropy.soon(source, CHUNKS, partition_of(name, epoch.partition_power))

    def _to_fetch(self, gone: Collection[str]) -> int:
        """Partitions whose chunks are to be fetched still. Those that are `gone` are not waited for, unless something is
        known to be missing or damaged here, which they may have. A peer that gives its own away has, besides, to hand on
        what it keeps for others: its hints may be all that says where bytes lie, and it is let go once nothing is left."""
        epoch = self._replica.epochs.current
        leaving = epoch is not None and epoch.table.partitions_of(self._replica.me) == 0
        hints = self._chunks.hints.total if leaving else 0
        lacking = self._lacking if gone else 0
        return self.anti_entropy.to_fetch(gone) + hints + lacking

    @property
    def _lacking(self) -> int:
        """Chunks that nobody could give, or that are damaged here, and damaged rows."""
        missing = self.side.missing(self.anti_entropy.compared_s)
        return missing + self._chunks.holder.damaged + self.scrub.damaged_rows

    @property
    def pending(self) -> set[int]:
        """Partitions this peer has still to merge, or whose chunks it has still to fetch."""
        return self.anti_entropy.pending.union(self.transition.pending)

    @property
    def dropped_s(self) -> float | None:
        """Seconds since a hint was dropped here: what it was about is found only by a comparison begun since."""
        at_s = self._chunks.hints.dropped_at_s
        return None if at_s is None else self._env.now() - at_s

    def info(self) -> dict[str, Any]:
        """For the cluster's view: partitions it is still `merging`, and `fetching` the chunks of; whether this peer is
        `behind`, or votes on nothing yet as it is `recovering` from a lost majority; how old its last comparison with
        everybody alive is, for whom it keeps how many `hints`, when it last dropped one (`dropped_s` ago), chunks `missing`
        everywhere, how many lie here only `damaged`, how many rows are (`damaged_rows`), how many `objects` it holds in how
        many `counted` partitions, the `outlook` of each dead member, and the workers."""
        digests = self._copies.side(REGISTERS).digests
        return {
            "behind": self.anti_entropy.behind or self._replica.recovering,
            "recovering": self._replica.recovering,
            "merging": self.transition.queue(),
            "fetching": self.anti_entropy.fetching,
            "compared_s": self.anti_entropy.compared_s,
            "hints": self.handoff.owing,
            "dropped_s": self.dropped_s,
            "missing": self.side.missing(self.anti_entropy.compared_s),
            "damaged": self._chunks.holder.damaged,
            "damaged_rows": self.scrub.damaged_rows,
            "objects": digests.rows,
            "counted": digests.known,
            "outlook": self.eviction.outlook() if self.eviction is not None else {},
            "workers": [status.to_map() for status in self.workers.statuses()],
        }
