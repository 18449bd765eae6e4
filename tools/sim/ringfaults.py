"""Changes of the ring as faults: peers join, drain, are removed and replaced, and changes are given up halfway.

They are drawn like any other fault, so everything else happens during them: crashes of whoever takes part, partitions,
slow and full disks. At most one machine at a time is lost for good, and the next only when the ring is whole again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from peer.errors import AtollError, Conflict
from ring.changes import aborted, drained, removed, replaced, undrained
from ring.epoch import Epoch
from ring.members import ACTIVE
from tools.sim.cluster import SimPeer
from tools.sim.founding import REPLICAS

if TYPE_CHECKING:
    from tools.sim.faults import Nemesis

MACHINES_MORE = 2
PATIENCE_S = 20.0
AWAY_S = 8.0


class RingFaults:
    """Part of a nemesis."""

    def __init__(self, nemesis: Nemesis) -> None:
        self._n = nemesis
        self._cluster = nemesis.cluster
        self._most = len(nemesis.cluster.peers) + MACHINES_MORE
        self._large = len(nemesis.cluster.peers) >= REPLICAS
        self._busy = False

    def actions(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        return {
            "peer joins": self.joins,
            "peer drains": self.drains,
            "peer removed": self.is_removed,
            "peer replaced": self.is_replaced,
            "change aborted": self.is_aborted,
            "peer stays away": self.stays_away,
            "peer held for dead": self.is_held_for_dead,
        }

    async def joins(self) -> None:
        """A new machine asks to be admitted until it is."""
        if len(self._cluster.peers) < self._most and self._large:
            peer = self._cluster.add()
            self._n.note("peer joins", peer, "a new machine")
            peer.start()
            await self._n.until(lambda: peer.serving, PATIENCE_S)

    async def drains(self) -> None:
        """A peer gives its partitions away, then takes some again, or leaves."""
        peer = self._n.peer()
        if not self._may_spare(peer) or self._busy:
            return
        self._busy = True
        if self._n.survival is not None and self._n.rng.random() < 0.5:
            await self._leaves(peer)
            self._busy = False
            return
        self._n.note("peer drains", peer, "is asked to give its partitions away")
        if await self._change(lambda base: drained(base, peer.id)):
            await asyncio.sleep(self._n.short_s(3))
            if self._n.rng.random() < 0.5:
                await self._change(lambda base: undrained(base, peer.id))
            else:
                await self._whole()
                await self._n.until(lambda: self._n.survives(peer), PATIENCE_S)
                if self._n.may_lose() and self._n.survives(peer) and self._owns_nothing(peer):
                    await self._let_go(peer, "drained, now removed")
        self._busy = False

    async def is_removed(self) -> None:
        """A machine dies for good and its peer is removed; sometimes the machine comes back after all."""
        peer = self._n.peer()
        if not self._n.may_lose() or not self._may_spare(peer) or self._busy or not self._n.survives(peer):
            return
        self._busy = True
        self._n.note("peer removed", peer, "dies for good")
        await self._let_go(peer, "removed")
        if peer.removed and self._n.rng.random() < 0.5:
            peer.start()
            await asyncio.sleep(1.0 + self._n.short_s(4))
            if peer.running:
                peer.crash()
        self._busy = False
        if peer.removed and self._n.survival is not None and self._n.rng.random() < 0.5:
            await self._joins_again(peer)

    async def is_replaced(self) -> None:
        """A machine dies for good, and a new one takes its place in the same change."""
        peer = self._n.peer()
        if not self._n.may_lose() or not self._large or self._busy or not peer.serving:
            return
        if not self._n.survives(peer):
            return
        self._busy = True
        self._n.note("peer replaced", peer, "dies for good; a new machine takes its place")
        await self._let_go(peer, "replaced", replace=True)
        self._busy = False

    async def stays_away(self) -> None:
        """A machine is off for so long that its peer may be removed; then it comes back, as what it was or as nobody."""
        peer = self._n.peer()
        if not peer.running or not self._may_spare(peer):
            return
        self._n.note("peer stays away", peer, "is off until the others may have removed it")
        peer.crash()
        most_s = self._cluster.evict_after_s + AWAY_S
        await self._n.until(lambda: self._is_out(peer), most_s)
        if not peer.running and self._n.wrong_disk != peer.name and not peer.removed:
            peer.start()

    async def is_held_for_dead(self) -> None:
        """Everybody's gossip is wrong about a peer for so long that it would be removed; but it answers."""
        peer = self._n.peer()
        if not self._may_spare(peer):
            return
        self._n.note("peer held for dead", peer, "by all the others, and lives")
        pairs = {(other.id, peer.id) for other in self._cluster.peers if other is not peer}
        self._cluster.network.doubted |= pairs
        await asyncio.sleep(self._cluster.evict_after_s + AWAY_S)
        self._cluster.network.doubted -= pairs

    async def is_aborted(self) -> None:
        """Whatever change is under way is given up."""
        epoch = self._cluster.newest()
        if epoch is not None and epoch.kind == "joint":
            self._n.note("change aborted", None, f"epoch {epoch.number}")
            await self._change(lambda base: aborted(base) if base == epoch else base)

    async def _leaves(self, peer: SimPeer) -> None:
        """A peer is asked to leave: it gives its partitions away, is removed when others have its chunks, and ends."""
        self._n.note("peer leaves", peer, "is asked to give its partitions away and go")
        if await self._change(lambda base: drained(base, peer.id, leave=True)):
            await self._n.until(lambda: peer.removed, 3 * PATIENCE_S)

    async def _joins_again(self, gone: SimPeer) -> None:
        """A machine that was removed comes back: under a new id, without rows, with the chunks in its segments."""
        if len(self._cluster.peers) < self._most:
            again = self._cluster.again(gone)
            self._n.note("peer returns", again, f"is the machine of {gone.name}, whose chunks it still has")
            again.start()
            await self._n.until(lambda: again.serving, PATIENCE_S)

    # --- inside

    async def _let_go(self, peer: SimPeer, word: str, replace: bool = False) -> None:
        """The machine is gone: have the ring changed until that is decided and done."""
        self._n.wrong_disk = peer.name
        if peer.running:
            peer.crash()
        other: SimPeer | None = None
        while not peer.removed:
            if other is not None:
                self._put_back(other)
            if replace and (other is None or other.removed):  # its joining was given up
                other = self._cluster.add()
            if not await self._change(self._without(peer, other)):
                replace = True  # too few would be left
            if other is not None and not other.running:
                other.start()
            await self._whole()
            if not self._cluster.whole:
                await self._change(lambda base: aborted(base) if base.kind == "joint" else base)
            peer.removed = self._is_out(peer)
        if other is not None:
            self._put_back(other)
        if peer in self._cluster.peers:
            self._cluster.peers.remove(peer)
        self._cluster.story.event(peer.name, word)
        self._n.wrong_disk = None

    def _put_back(self, peer: SimPeer) -> None:
        """One whose joining was given up ended, while it was admitted anew: its machine is needed after all."""
        newest = self._cluster.newest()
        if peer.removed and not peer.running and newest is not None and newest.member(peer.id) is not None:
            peer.removed = False
            if peer not in self._cluster.peers:
                self._cluster.peers.append(peer)

    @staticmethod
    def _without(peer: SimPeer, other: SimPeer | None) -> Callable[[Epoch], Epoch]:
        if other is None:
            return lambda base: removed(base, peer.id)
        return lambda base: replaced(base, peer.id, other.member)

    async def _change(self, change: Callable[[Epoch], Epoch]) -> bool:
        """Ask one peer after the other until the change is decided or refused."""
        until = self._cluster.loop.time() + PATIENCE_S
        while self._cluster.loop.time() < until:
            peer = self._n.peer()
            replica = peer.replica
            if replica is not None and peer.serving:
                try:
                    await peer.request(lambda: replica.change_ring(change))  # noqa: B023
                    return True
                except Conflict as error:
                    self._cluster.story.safeguards["change refused"] += 1
                    if error.code != "ChangeUnderWay":
                        return False
                except AtollError:
                    pass
            await asyncio.sleep(0.3)
        return False

    async def _whole(self) -> None:
        """Wait, for a while, until the ring is final."""
        await self._n.until(lambda: self._cluster.whole, PATIENCE_S)

    def _may_spare(self, peer: SimPeer) -> bool:
        """Whether enough members are left without this one."""
        newest = self._cluster.newest()
        known = newest.member(peer.id) if newest is not None else None
        if newest is None or known is None or not self._large or not peer.serving:
            return False
        left = sum(member.state == ACTIVE and member.id != peer.id for member in newest.members)
        return left >= REPLICAS

    def _is_out(self, peer: SimPeer) -> bool:
        newest = self._cluster.newest()
        return newest is not None and newest.kind == "final" and newest.member(peer.id) is None

    def _owns_nothing(self, peer: SimPeer) -> bool:
        newest = self._cluster.newest()
        return newest is not None and newest.kind == "final" and newest.table.partitions_of(peer.id) == 0
