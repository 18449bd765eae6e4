"""The cluster as one peer sees it: nodes, ring, verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from peer.errors import Invalid, NotFound, Unavailable
from peer.membership import MemberView
from peer.objects.store import Objects
from peer.replication.keys import partition_in
from peer.replication.messages import INFO, OK
from peer.replication.node import Replica
from ring.members import DRAINING, Member

from . import conditions
from .addresses import addresses_of, flags_of
from .http import iso_time
from .infos import Infos
from .lookup import Lookup
from .redundancy import Redundancy
from .ringview import RingView
from .standing import LIVING, Standing
from .verdict import Partitions, count, moves, unhealed, verdict
from .views import in_order, views


class Members(Protocol):
    """What gossip believes (peer.membership.Membership)."""

    def members(self) -> list[MemberView]: ...
    def get(self, member_id: str) -> MemberView | None: ...


class ClusterView:
    """Answers what /v1/cluster and its siblings ask."""

    def __init__(
        self,
        replica: Replica,
        objects: Objects,
        members: Callable[[], Members | None],
        info: Callable[[], dict[str, Any]],
        version: str,
    ) -> None:
        self._replica = replica
        self._objects = objects
        self._members = members
        self._own_info = info
        self._infos = Infos(replica, info, self.lives)
        self._partitions = Partitions(replica.owners_of)
        self._ring = RingView()
        self._lookup = Lookup(replica, objects, self.standing)
        self._version = version
        self._started_s = time.monotonic()
        replica.serve(INFO, lambda _, reply: reply((OK, info())), votes=False)

    # --- how everybody stands

    def state(self, member: str) -> str:
        if member == self._replica.me:
            return "alive"
        members = self._members()
        view = members.get(member) if members is not None else None
        return view.state if view is not None else "unknown"

    def lives(self, member: str) -> bool:
        return self.state(member) in LIVING

    async def looked(self) -> None:
        """Return when what is known of the others is fresh."""
        await self._infos.refresh()

    def standing(self) -> Standing:
        """How everybody stands, as far as it is known now."""
        members, infos, epoch = self._members(), self._infos, self._replica.epoch
        views = {view.id: view for view in members.members()} if members is not None else {}
        told = {member.id: infos.of(member.id) for member in epoch.everybody}
        return Standing(epoch, self._replica.me, views, told, infos.silent, infos.offsets)

    async def infos(self) -> dict[str, dict[str, Any]]:
        """Member id -> what that peer tells of itself, of those that live and answered just now."""
        await self._infos.refresh()
        return {member.id: self._infos.of(member.id) for member in self.standing().answering}

    # --- verdict

    def ready(self) -> tuple[bool, list[str]]:
        reasons, info = self.waits_for(), self._own_info()
        if info.get("full"):
            reasons.append("the disk is below its free-space floor")
        if conditions.read_only(info):
            reasons.append("the disk is read-only")
        if info.get("healing", {}).get("recovering"):
            reasons.append("merging what the other survivors hold")
        return not reasons, reasons

    def waits_for(self) -> list[str]:
        """What keeps this peer from its part, but for its disk, of which the verdict tells for every peer."""
        reasons = []
        if self._replica.epochs.current is None:
            reasons.append("not joined yet")
        elif not self._replica.is_member:
            reasons.append("out of the ring")
        elif not self._replica.identity.confirmed:
            reasons.append("waiting for the other peers to confirm this peer's identity")
        elif self._replica.epochs.fenced:
            reasons.append("waiting for the next epoch")
        return reasons

    def verdict(self, standing: Standing | None = None) -> dict[str, Any]:
        """{"verdict", "reasons", "warnings", "tolerates", "partitions"}."""
        standing = standing or self.standing()
        return verdict(standing, self._count(standing), self.waits_for())

    def safe_without(self, name: str) -> bool:
        """Whether every partition keeps its majority when this node is taken down, too. Raises NotFound."""
        return self._count(self.standing(), (self.find(name).id,))["unavailable"] == 0

    def _count(self, standing: Standing, gone: tuple[str, ...] = ()) -> dict[str, int]:
        return count(standing, self._partitions.counted(standing.epoch), gone)

    @staticmethod
    def _redundancy(standing: Standing) -> dict[str, Any]:
        infos = {member.id: standing.info(member.id) for member in standing.living}
        amiss = bool(unhealed(standing))
        found = Redundancy(standing.epoch, standing.dead, standing.behind, infos, amiss, standing.silent)
        return found.to_map()

    # --- views

    async def overview(self) -> dict[str, Any]:
        await self._infos.refresh()
        return self.overview_of(self.standing())

    def overview_of(self, standing: Standing) -> dict[str, Any]:
        """/v1/cluster. Raises Unavailable if this peer is no member any more."""
        epoch, me = standing.epoch, self.find(self._replica.me)
        return {
            "cluster_id": epoch.cluster_id,
            "time": self.time(),
            "peer": {**self.peer(me), "uptime_s": round(time.monotonic() - self._started_s, 3)},
            **self.verdict(standing),
            "redundancy": self._redundancy(standing),
            "epoch": {"generation": epoch.generation, "number": epoch.number, "kind": epoch.kind},
            "replicas": epoch.replicas,
            "partition_power": epoch.partition_power,
            "chunk_bytes": epoch.chunk_bytes,
            "nodes": self._nodes(standing),
        }

    def time(self) -> str:
        return iso_time(self._replica.env.wall_us())

    def peer(self, me: Member | None = None) -> dict[str, str]:
        """Whose view it is."""
        me = me or self._replica.epoch.member(self._replica.me)
        name = me.name if me is not None else self._replica.me
        return {"id": self._replica.me, "name": name, "version": self._version}

    async def nodes(self) -> list[dict[str, Any]]:
        await self._infos.refresh()
        return self._nodes(self.standing())

    async def views(self) -> dict[str, Any]:
        await self._infos.refresh()
        return self.views_of(self.standing())

    def views_of(self, standing: Standing) -> dict[str, Any]:
        """/v1/cluster/views."""
        return views(standing)

    async def node(self, name: str) -> dict[str, Any]:
        """One node in full, asked of itself. Raises NotFound; `process` is null if it does not answer."""
        member = self.find(name)
        info = await self._infos.asked(member.id)
        node = next(one for one in self._nodes(self.standing()) if one["id"] == member.id)
        for part in ("process", "storage", "requests", "replication", "buffers", "condition", "tls"):
            node[part] = info.get(part) if info is not None else None
        return node

    async def ring(self) -> dict[str, Any]:
        await self._infos.refresh()
        return self.ring_of(self.standing())

    def ring_of(self, standing: Standing) -> dict[str, Any]:
        """/v1/cluster/ring."""
        return self._ring.to_map(standing)

    async def lookup(self, bucket: str, key: bytes | None, chunks_from: int | None = None) -> dict[str, Any]:
        """Who owns a key, or a whole bucket's shard 0 when no key is given. With `chunks_from`, who holds it, and its chunks
        from that number on."""
        if not bucket:
            raise Invalid("say which: /v1/cluster/ring/lookup?bucket=B&key=K", code="InvalidArgument")
        known = await self._objects.buckets.find(bucket)
        epoch = self._replica.epoch
        space = known.objects(epoch.partition_power)
        row = space.row_key(key) if key is not None else space.prefix(0)
        nodes = {node["id"]: node for node in self._nodes(self.standing())}
        ids = [owner for owner in self._replica.owners_of_row(row).sets[-1] if owner in nodes]
        owners = [{k: nodes[owner][k] for k in ("id", "name", "state", "api_url")} for owner in ids]
        told = {
            "bucket": bucket,
            "key": None if key is None else key.decode(),
            "partition": partition_in(row),
            "placement": row[3:13].hex(),
            "owners": owners,
        }
        if key is None or chunks_from is None:
            return told
        holds = await self._lookup.heads(row, known.generation, ids)  # before a read mends what it finds
        found = await self._lookup.object(bucket, key, chunks_from)
        if found is None:
            holds = dict.fromkeys(ids)
        return told | {"owners": [one | {"holds": holds[one["id"]]} for one in owners], "object": found}

    def epochs(self) -> list[dict[str, Any]]:
        return self._replica.epochs.history()

    # --- nodes

    def _nodes(self, standing: Standing) -> list[dict[str, Any]]:
        epoch = standing.epoch
        placed = sum(epoch.table.partitions_of(member.id) for member in epoch.members) or 1
        weights = sum(member.weight for member in epoch.members)
        moving = bool(moves(standing))
        return [
            self._node(standing, member, moving)
            | {
                "share": epoch.table.partitions_of(member.id) / placed,
                "owned_fair": member.weight / weights,
            }
            for member in in_order(epoch.members)
        ]

    def used_bytes(self, member: str) -> int | None:
        """What a member says that it uses; None if it lives no more or did not answer just now: what it said before that
        may be of a time when it was empty."""
        if not self.lives(member) or member in self._infos.silent:
            return None
        return self._infos.of(member).get("used_bytes")

    def find(self, name: str) -> Member:
        """A member by id or name, or this peer for "self". Raises NotFound; Unavailable if this peer itself is no member."""
        if name == "self":
            name = self._replica.me
        if name == self._replica.me and not self._replica.is_member:
            raise Unavailable("this peer has left the ring and is about to end; ask another one")
        found = [m for m in self._replica.epoch.members if name in (m.id, m.name)]
        if not found:
            raise NotFound(
                f"there is no peer {name[:80]!r}; GET /v1/cluster/nodes lists them", code="NoSuchNode"
            )
        return found[0]

    def _node(self, standing: Standing, member: Member, moving: bool) -> dict[str, Any]:
        me = member.id == self._replica.me
        view = standing.views.get(member.id)
        epoch = standing.epoch
        held = epoch.table.partitions_of(member.id)
        return {
            "id": member.id,
            "name": member.name,
            "self": me,
            **addresses_of(member, view, standing.views.get(self._replica.me)),
            "zone": member.zone,
            "state": standing.state(member.id),
            "whole": member.id not in standing.lacking,
            "ring": ring_state(member, moving or held > 0),
            "incarnation": view.incarnation if view is not None else 0,
            "boot": self._replica.identity.boot if me else view.boot if view is not None else 0,
            "last_heard_s": 0.0 if me else round(view.last_heard_s, 3) if view is not None else None,
            "version": self._version if me else view.version if view is not None else None,
            "epoch": [epoch.generation, epoch.number]
            if me
            else list(view.epoch)
            if view is not None
            else None,
            "flags": flags_of(view) if view is not None else [],
            "capacity_bytes": member.weight,
            "used_bytes": self.used_bytes(member.id),
            "clock_skew_s": standing.skews.get(member.id),
            "partitions": held,
        }


def ring_state(member: Member, needed: bool) -> str:
    """active, draining, drained (nothing of it is needed any more) or leaving."""
    return member.state if member.state != DRAINING or needed else "drained"
