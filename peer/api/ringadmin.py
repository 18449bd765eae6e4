"""What operators change about the ring: whom it drains, removes, weighs anew, and how many copies it keeps.

Each change can be planned first: the plan says which partitions would get new owners and how many bytes would move.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from peer.errors import Invalid, NotFound
from peer.replication.agreement.proposals import RingRefused
from peer.replication.agreement.removal import remove_dead, without_dead
from peer.replication.node import Replica
from ring.changes import (
    ChangeRefused,
    aborted,
    drained,
    revised,
    undrained,
    with_replicas,
)
from ring.epoch import Epoch
from ring.eviction import lost_majorities
from ring.members import ACTIVE, MAX_TEXT_BYTES, MAX_WEIGHT, Member
from ring.table import moves

from .cluster import ClusterView

Change = Callable[[Epoch], Epoch]

SUSPECT_S = 30.0
"""How long a removal waits until gossip knows whether a suspect lives: the longest time one has to defend itself among ten
peers (`gossip.config`), and some more."""
LOOK_S = 0.1


class RingAdmin:
    """Plans and makes changes of the ring, through the peer that is asked."""

    def __init__(self, replica: Replica, view: ClusterView) -> None:
        self._replica = replica
        self._view = view

    async def drain(self, name: str, *, plan: bool) -> dict[str, Any]:
        """Move everything off a peer; it stays a member. Raises NotFound, RingRefused, Unavailable."""
        node = self._find(name)
        return await self._run(f"drain {node.name}", lambda base: drained(base, node.id), plan)

    async def undrain(self, name: str, *, plan: bool) -> dict[str, Any]:
        """Give a draining or leaving peer its share again."""
        node = self._find(name)
        return await self._run(f"undrain {node.name}", lambda base: undrained(base, node.id), plan)

    async def remove(self, name: str, *, plan: bool) -> dict[str, Any]:
        """Have a peer leave the ring: one that lives gives away what it has first; a dead one is out at once, and what it
        held is copied from the others. A change under way that would wait for a dead one is made anew without it, or given
        up where too few would be left for it."""
        node = self._find(name)
        word = f"remove {node.name}"
        if await self._lives(node):
            return await self._run(word, lambda base: drained(base, node.id, leave=True), plan)
        make = partial(self._remove_dead, node)
        return await self._run(word, lambda base: self._without(base, node), plan, make)

    async def revise(self, name: str, wanted: dict[str, Any], *, plan: bool) -> dict[str, Any]:
        """Another capacity (bytes) or zone for a peer."""
        node = self._find(name)
        capacity, zone = wanted.pop("capacity_bytes", None), wanted.pop("zone", None)
        if wanted or (capacity is None and zone is None):
            raise Invalid("say capacity_bytes, zone or both, and nothing else", code="InvalidArgument")
        if capacity is not None and (type(capacity) is not int or not 1 <= capacity <= MAX_WEIGHT):
            raise Invalid("capacity_bytes is a positive number of bytes", code="InvalidArgument")
        if zone is not None and (not isinstance(zone, str) or not 1 <= len(zone.encode()) <= MAX_TEXT_BYTES):
            raise Invalid(f"a zone is text of 1 to {MAX_TEXT_BYTES} bytes", code="InvalidArgument")
        return await self._run(
            f"set {node.name}", lambda base: revised(base, node.id, capacity=capacity, zone=zone), plan
        )

    async def set_replicas(self, wanted: dict[str, Any], *, plan: bool) -> dict[str, Any]:
        """Another number of copies of everything. More only while so many peers live: it would wait for a dead one."""
        replicas = wanted.pop("replicas", None)
        if wanted or type(replicas) is not int:
            raise Invalid('say {"replicas": NUMBER}', code="InvalidArgument")
        return await self._run(f"{replicas} replicas", lambda base: self._with_replicas(base, replicas), plan)

    async def abort(self) -> dict[str, Any]:
        """Give up the change that is under way: the ring is as before it."""
        epoch = self._replica.epoch
        if epoch.kind != "joint":
            raise RingRefused("no change of the ring is under way", code="NoChangeUnderWay")
        return await self._run("abort", lambda base: aborted(base) if base == epoch else base, False)

    # --- inside

    async def _run(
        self, word: str, change: Change, plan: bool, make: Callable[[Epoch], Awaitable[Epoch]] | None = None
    ) -> dict[str, Any]:
        """Plan a change of the present ring, and make it unless only the plan is wanted, by `make` if that is given."""
        base = self._replica.epoch
        await self._view.looked()
        try:
            wanted = change(base)
        except ChangeRefused as error:
            if error.code == "NoSuchNode":
                raise NotFound(str(error), code=error.code) from error
            raise RingRefused(str(error), code=error.code) from error
        answer = {"change": word, "applied": False, **self._moves(_before(base), wanted)}
        if not plan:
            stands = await (make(base) if make is not None else self._replica.change_ring(change))
            answer["applied"] = True
            base = stands
        return answer | {"epoch": {"generation": base.generation, "number": base.number, "kind": base.kind}}

    def _without(self, base: Epoch, node: Member) -> Epoch:
        """Raises ChangeRefused also where the change could not end, as nobody is left to copy from."""
        dead = {one.id for one in base.everybody if not self._view.lives(one.id)}
        if lost := lost_majorities(base, dead, node.id):
            raise ChangeRefused(
                "MajorityLost",
                f"{lost}, from which what {node.name} held would have to be copied; start the peers that are missing, or see"
                " docs/operate.md, When most of it is lost",
            )
        return without_dead(base, node.id)

    async def _remove_dead(self, node: Member, base: Epoch) -> Epoch:
        stands = await remove_dead(self._replica.change_ring, base, node.id)
        if stands.member(node.id) is not None:
            raise RingRefused(
                f"the ring was changed meanwhile, and {node.name} is in it still; say it again",
                code="ChangeUnderWay",
            )
        return stands

    async def _lives(self, node: Member) -> bool:
        """Whether a peer lives. What gossip only suspects it knows soon: one that was killed just now is dead then, and need
        not be asked to leave."""
        env = self._replica.env
        until_s = env.now() + SUSPECT_S
        while self._view.state(node.id) == "suspect" and env.now() < until_s:
            await env.sleep(LOOK_S)
        return self._view.lives(node.id)

    def _with_replicas(self, base: Epoch, replicas: int) -> Epoch:
        wanted = with_replicas(base, replicas)
        dead = [one.name for one in base.members if one.state == ACTIVE and not self._view.lives(one.id)]
        living = sum(one.state == ACTIVE for one in base.members) - len(dead)
        if replicas > max(living, base.replicas):
            raise ChangeRefused(
                "TooFewPeers",
                f"{replicas} replicas need {replicas} living peers, and there are {living}: start {', '.join(dead)}, or add"
                " peers first",
            )
        return wanted

    def _moves(self, base: Epoch, wanted: Epoch) -> dict[str, Any]:
        """What would get from `base` to `wanted`: replicas to copy in all and for each peer, and about how many bytes."""
        names = {member.id: member.name for member in (*base.everybody, *wanted.members)}
        gains: dict[str, int] = {}
        touched: set[int] = set()
        for move in moves(base.table, wanted.table):
            touched.add(move.partition)
            gains[move.target] = gains.get(move.target, 0) + 1
        mean = self._bytes_a_replica(base)
        return {
            "partitions": len(touched),
            "copies": sum(gains.values()),
            "bytes": round(sum(gains.values()) * mean),
            "nodes": [
                {"id": node, "name": names[node], "copies": count, "bytes": round(count * mean)}
                for node, count in sorted(gains.items(), key=lambda item: names[item[0]])
            ],
        }

    def _bytes_a_replica(self, base: Epoch) -> float:
        """The mean size of one replica of a partition, from what the living say they use."""
        used = held = 0
        for member in base.members:
            size = self._view.used_bytes(member.id)
            if size is not None:
                used += size
                held += base.table.partitions_of(member.id)
        return used / held if held else 0.0

    def _find(self, name: str) -> Member:
        return self._view.find(name)


def _before(base: Epoch) -> Epoch:
    """Where the data lies that a change of `base` starts from."""
    return aborted(base) if base.kind == "joint" else base
