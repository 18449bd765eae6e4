"""What one process of a simulated peer has on top of its replica: chunks, workers, objects. All of it is the real code."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from peer.buffers import BufferPool
from peer.errors import AtollError
from peer.healing import Evicted, Healing
from peer.objects.heads import attempt_in
from peer.objects.store import Objects
from peer.replication.chunks.chunks import Chunks
from peer.replication.chunks.rows import named_extents
from peer.replication.healing.adoption import is_adopting
from peer.replication.hints import Hints
from peer.replication.messages import ADD_REF, STORE_CHUNK
from tools.sim.cluster import SimPeer
from tools.sim.company import seen
from tools.sim.extents import BULK, SimBulk, SimExtents
from tools.sim.survival import Survival

if TYPE_CHECKING:
    from tools.sim.object_world import ObjectOptions

INLINE_MAX = 24


class Company:
    """What gossip tells one peer of who is alive."""

    def __init__(self, peer: SimPeer) -> None:
        self._peer = peer

    def is_alive(self, member_id: str) -> bool:
        return seen(self._peer.cluster, self._peer.id, member_id)


class Store:
    """One process."""

    def __init__(self, peer: SimPeer, options: ObjectOptions) -> None:
        assert peer.env is not None and peer.replica is not None and peer.rows is not None
        env, replica, rows = peer.env, peer.replica, peer.rows
        self.peer = peer
        self.adopting = is_adopting(rows)
        named = list(named_extents(rows))
        self.files = SimExtents(peer, [extent for _, extent in named])
        self.pool = BufferPool(16, name="client", chunk_bytes=4096)
        replica_pool = BufferPool(64, name="replica", chunk_bytes=4096)
        bulk = SimBulk(peer, self.files, replica_pool)
        unsafe, hints = options.unsafe, Hints(env, rows, 1 << 40)
        self.chunks = Chunks(
            env, replica, rows, self.files, bulk, self.pool, replica_pool, peer.id, hints, unsafe
        )
        holder = self.chunks.holder
        bulk.holder = holder
        replica.serve(ADD_REF, holder.on_add_ref)
        replica.serve(STORE_CHUNK, holder.on_store)
        replica.serve(BULK, bulk.serve)
        link = peer.cluster.network.link(peer.id, env)
        self.healing = Healing(
            env, rows, replica, self.chunks, self.files, self.pool, link.is_alive, attempt_in, options.grace_s,
            unsafe,
        )  # fmt: skip
        self.healing.garbage.pass_every_s = options.pass_every_s
        self.healing.purge.age_s = options.purge_s
        self.healing.scrub.pass_every_s = options.scrub_s
        self.healing.on_removed = self._removed
        if peer.cluster.evict_after_s:
            self.healing.evict(lambda: Company(peer), peer.cluster.evict_after_s)
        replica.on_epoch = self.healing.ring_changed
        self.objects = Objects(
            replica, self.chunks, self.pool, inline_max=INLINE_MAX, garbage=self.healing.garbage
        )

    def begin(self) -> None:
        """The peer's identity is confirmed."""
        self.peer.transition = self.healing.transition
        self.peer.eviction = self.healing.eviction
        self.healing.begin(self.adopting)
        assert self.peer.replica is not None
        self.healing.ring_changed(self.peer.replica.epoch)

    def _removed(self, why: AtollError) -> None:
        """The ring is without this peer, which ends."""
        if (
            alone := Survival(self.peer.cluster).last_copies(self.peer)
        ) and self.peer in self.peer.cluster.peers:
            self.peer.cluster.failures.append(
                f"P6 broken: {self.peer.name} left with the only copy of {alone} chunks"
            )
        self.peer.removed, self.peer.evicted = True, isinstance(why, Evicted)
        self.peer.stop(str(why))

    def counts(self) -> dict[str, int]:
        """How often what happened in this process."""
        healing, found = self.healing, dict[str, int]()
        for group in (
            *(worker.detail for worker in healing.workers.statuses() if worker.name == "adoption"),
            self.chunks.holder.counts, healing.garbage.detail, healing.verdicts.counts, healing.anti_entropy.detail,
            healing.purge.detail, healing.scrub.detail,
        ):  # fmt: skip
            found.update({name: found.get(name, 0) + count for name, count in group.items() if count})
        found |= {f"hints {name}": count for name, count in healing.handoff.detail.items() if count}
        named = ("fallbacks", "read_repairs", "hedges", "corrupt", "missed")
        return found | {
            f"chunk {name}": self.chunks.counts[name] for name in named if self.chunks.counts[name]
        }


class Body:
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
