"""The cluster as one peer sees it: nodes, ring, verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from peer.errors import Invalid, NotFound, Unavailable
from peer.membership import MemberView
from peer.objects.buckets import Buckets
from peer.replication.keys import partition_in
from peer.replication.messages import INFO, OK
from peer.replication.node import Replica
from peer.replication.owners import Owners
from ring.members import DRAINING, Member

from . import conditions
from .http import iso_time
from .infos import Infos
from .redundancy import Redundancy, moving


class Members(Protocol):
    """What gossip believes (peer.membership.Membership)."""

    def members(self) -> list[MemberView]: ...
    def get(self, member_id: str) -> MemberView | None: ...


WORDS = {"left": "stopped", "unknown": "not heard of since this peer started"}
"""How the verdict says the states that speak of gossip more than of the peer."""
LOST = "if the dead peers are lost for good, an operator can go on without them: `atoll recover epoch`"


class ClusterView:
    """Answers what /v1/cluster and its siblings ask."""

    def __init__(
        self,
        replica: Replica,
        buckets: Buckets,
        members: Callable[[], Members | None],
        info: Callable[[], dict[str, Any]],
        version: str,
    ) -> None:
        self._replica = replica
        self._buckets = buckets
        self._members = members
        self._own_info = info
        self._infos = Infos(replica, info, self.lives)
        self._version = version
        self._started_s = time.monotonic()
        replica.serve(INFO, lambda _, reply: reply((OK, info())), votes=False)

    # --- verdict

    def state(self, member: str) -> str:
        if member == self._replica.me:
            return "alive"
        members = self._members()
        view = members.get(member) if members is not None else None
        return view.state if view is not None else "unknown"

    def _count(self, gone: frozenset[str] = frozenset()) -> dict[str, int]:
        """Partitions by how many of their owners live, and failures tolerated now."""
        epoch = self._replica.epoch
        dead = {m.id for m in epoch.everybody if not self.lives(m.id)} | gone
        mute = dead | self._recovering()
        lacking = mute | self._behind() | self._damaged() | self._owed() | self._read_only()
        full = degraded = unavailable = 0
        tolerates = len(epoch.members)
        cache: dict[Owners, tuple[bool, int, int]] = {}
        for partition in range(1 << epoch.partition_power):
            owners = self._replica.owners_of(partition)
            counted = cache.get(owners)
            if counted is None:
                whole = all(owner not in lacking for owner in owners.everyone)
                spare = min(sum(o not in lacking for o in ids) - len(ids) // 2 - 1 for ids in owners.sets)
                votes = min(sum(o not in mute for o in ids) - len(ids) // 2 - 1 for ids in owners.sets)
                counted = cache[owners] = whole and not owners.joint, spare, votes
            whole, spare, votes = counted
            tolerates = min(tolerates, spare)
            if whole:
                full += 1
            elif votes >= 0:
                degraded += 1
            else:
                unavailable += 1
        total = 1 << epoch.partition_power
        return {
            "total": total, "full": full, "degraded": degraded, "unavailable": unavailable,
            "tolerates": max(0, tolerates),
        }  # fmt: skip

    def ready(self) -> tuple[bool, list[str]]:
        reasons, info = self._not_ready(), self._own_info()
        if info.get("full"):
            reasons.append("the disk is below its free-space floor")
        if conditions.read_only(info):
            reasons.append("the disk is read-only")
        if info.get("healing", {}).get("recovering"):
            reasons.append("merging what the other survivors hold")
        return not reasons, reasons

    def _not_ready(self) -> list[str]:
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

    async def looked(self) -> None:
        """Return when what is known of the others is fresh."""
        await self._infos.refresh()

    async def infos(self) -> dict[str, dict[str, Any]]:
        """Member id -> what that peer tells of itself, of those that live and answered just now."""
        await self._infos.refresh()
        living = [
            m.id for m in self._replica.epoch.members if self.lives(m.id) and m.id not in self._infos.silent
        ]
        return {member: self._infos.of(member) for member in living}

    def verdict(self) -> dict[str, Any]:
        """{"verdict", "reasons", "warnings", "tolerates", "partitions"}."""
        counts = self._count()
        tolerates = counts.pop("tolerates")
        reasons = []
        epoch = self._replica.epoch
        outlook = self._own_info().get("healing", {}).get("outlook", {})
        for member in epoch.members:
            state = self.state(member.id)
            if state not in ("alive", "suspect"):
                message = f"{member.name} is {WORDS.get(state, state)} {outlook.get(member.id, '')}"
                reasons.append({"code": "peer_down", "message": message.rstrip()})
        if counts["unavailable"]:
            message = f"{counts['unavailable']} partitions have lost their majority; {LOST}"
            reasons.append({"code": "no_quorum", "message": message})
        if epoch.table.width < epoch.replicas:
            missing = epoch.replicas - epoch.table.width
            reasons.append(
                {"code": "too_few_peers", "message": f"{missing} more peers are needed for full replication"}
            )
        reasons += self._moving()
        reasons += self._unhealed()
        told = self._told()
        reasons += conditions.reasons(told)
        reasons += [
            {"code": "not_ready", "message": f"this peer is not ready: {why}"} for why in self._not_ready()
        ]
        word = "unavailable" if counts["unavailable"] else "degraded" if reasons else "healthy"
        return {
            "verdict": word,
            "reasons": reasons,
            "warnings": conditions.warnings(told),
            "tolerates": tolerates,
            "partitions": counts,
        }

    def safe_without(self, name: str) -> bool:
        """Whether every partition keeps its majority when this node is taken down, too. Raises NotFound."""
        return self._count(frozenset({self.find(name).id}))["unavailable"] == 0

    def _behind(self) -> frozenset[str]:
        """Members that live, but may lack what was written while they were away, or do not say."""
        return frozenset(
            member.id
            for member in self._replica.epoch.members
            if self.lives(member.id)
            and (
                member.id in self._infos.silent or self._infos.of(member.id).get("healing", {}).get("behind")
            )
        )

    def _recovering(self) -> frozenset[str]:
        """Members that live and vote on nothing: they merge what all survivors of `recover epoch` hold."""
        return frozenset(m.id for m in self._replica.epoch.members if self._number(m.id, "recovering"))

    def _owed(self) -> frozenset[str]:
        """Members for whom some living one keeps what they missed."""
        living = (m.id for m in self._replica.epoch.members if self.lives(m.id))
        return frozenset(o for m in living for o in self._infos.of(m).get("healing", {}).get("hints", {}))

    def _damaged(self) -> frozenset[str]:
        """Members that live, but hold some chunks or rows of metadata only damaged, or have lost them."""
        members = self._replica.epoch.members
        return frozenset(
            m.id
            for m in members
            if self.lives(m.id) and (self._number(m.id, "damaged") or self._number(m.id, "damaged_rows"))
        )

    def _read_only(self) -> frozenset[str]:
        """Members whose disk takes no writes: what is written now misses a copy there."""
        members = self._replica.epoch.members
        return frozenset(m.id for m in members if conditions.read_only(self._infos.of(m.id)))

    def _number(self, member: str, count: str) -> int:
        return int(self._infos.of(member).get("healing", {}).get(count, 0))

    def _told(self) -> list[conditions.Told]:
        """What the living tell of themselves: to us, or, should they not answer just now, in gossip."""
        told: list[conditions.Told] = []
        members = self._members()
        for member in self._replica.epoch.members:
            if self.lives(member.id):
                view = members.get(member.id) if members is not None else None
                silent = member.id in self._infos.silent
                info = {} if silent else self._infos.of(member.id)
                told.append((member.name, info, view.flags if view is not None else ()))
        return told

    def lives(self, member: str) -> bool:
        return self.state(member) in ("alive", "suspect")

    def _moving(self) -> list[dict[str, str]]:
        epoch = self._replica.epoch
        living = (member.id for member in epoch.members if self.lives(member.id))
        return moving(epoch.kind == "joint", (self._infos.of(member).get("healing", {}) for member in living))

    def _unhealed(self) -> list[dict[str, str]]:
        """What the living know to be out of order, and heal by themselves."""
        epoch, behind = self._replica.epoch, self._behind()
        reasons = [
            {"code": "silent", "message": f"{member.name} did not answer just now"}
            if member.id in self._infos.silent
            else {
                "code": "catching_up",
                "message": f"{member.name} fetches what was written while it was away",
            }
            for member in epoch.members
            if member.id in behind
        ]
        for member in epoch.members:
            if self.lives(member.id) and (count := self._number(member.id, "damaged")):
                chunks = "1 chunk" if count == 1 else f"{count} chunks"
                message = f"{member.name} has lost the bytes of {chunks}, and fetches them from the others"
                reasons.append({"code": "chunks_damaged", "message": message})
            if self.lives(member.id) and (count := self._number(member.id, "damaged_rows")):
                rows = "1 row" if count == 1 else f"{count} rows"
                message = f"{member.name} has {rows} of metadata damaged, and takes them from the others"
                reasons.append({"code": "rows_damaged", "message": message})
        healing = [self._infos.of(m.id).get("healing", {}) for m in epoch.members if self.lives(m.id)]
        waiting = sum(
            count for info in healing for owner, count in info.get("hints", {}).items() if self.lives(owner)
        )
        if waiting:
            message = f"{waiting} changes have missed an owner, which is about to fetch them"
            reasons.append({"code": "changes_missed", "message": message})
        dropped = [info["dropped_s"] for info in healing if info.get("dropped_s") is not None]
        compared = [info.get("compared_s") for info in healing]
        if dropped and any(at_s is None or at_s >= min(dropped) for at_s in compared):
            message = "changes that missed an owner could not all be kept; all peers compare what they hold"
            reasons.append({"code": "hints_dropped", "message": message})
        missing = sum(info.get("missing", 0) for info in healing)
        if missing:
            message = f"{missing} chunks could not be fetched from any owner when last tried"
            reasons.append({"code": "chunks_missing", "message": message})
        return reasons

    def _redundancy(self) -> dict[str, Any]:
        epoch = self._replica.epoch
        living = [member.id for member in epoch.members if self.lives(member.id)]
        dead = [member.id for member in epoch.everybody if not self.lives(member.id)]
        infos = {member: self._infos.of(member) for member in living}
        return Redundancy(epoch, dead, self._behind(), infos, bool(self._unhealed())).to_map()

    # --- views

    async def overview(self) -> dict[str, Any]:
        await self._infos.refresh()
        epoch = self._replica.epoch
        verdict = self.verdict()
        me = self.find(self._replica.me)
        return {
            "cluster_id": epoch.cluster_id,
            "time": iso_time(self._replica.env.wall_us()),
            "peer": {
                "id": me.id,
                "name": me.name,
                "version": self._version,
                "uptime_s": round(time.monotonic() - self._started_s, 3),
            },
            **verdict,
            "redundancy": self._redundancy(),
            "epoch": {"generation": epoch.generation, "number": epoch.number, "kind": epoch.kind},
            "replicas": epoch.replicas,
            "partition_power": epoch.partition_power,
            "chunk_bytes": epoch.chunk_bytes,
            "nodes": self._nodes(),
        }

    async def nodes(self) -> list[dict[str, Any]]:
        await self._infos.refresh()
        return self._nodes()

    async def node(self, name: str) -> dict[str, Any]:
        """One node in full, asked of itself. Raises NotFound; `process` is null if it does not answer."""
        member = self.find(name)
        info = await self._infos.asked(member.id)
        node = self._node(member)
        for part in ("process", "storage", "requests", "replication", "buffers", "condition"):
            node[part] = info.get(part) if info is not None else None
        return node

    def ring(self) -> dict[str, Any]:
        epoch = self._replica.epoch
        index = {member_id: i for i, member_id in enumerate(epoch.table.member_ids)}
        names = {member.id: member.name for member in epoch.members}
        owners = [[index[o] for o in epoch.table.owners(p)] for p in range(1 << epoch.partition_power)]
        return {
            "epoch": {"generation": epoch.generation, "number": epoch.number, "kind": epoch.kind},
            "partition_power": epoch.partition_power,
            "replicas": epoch.replicas,
            "members": [{"id": m, "name": names[m]} for m in epoch.table.member_ids],
            "owners": owners,
        }

    async def lookup(self, bucket: str, key: bytes | None) -> dict[str, Any]:
        """Who owns a key, or a whole bucket's shard 0 when no key is given."""
        if not bucket:
            raise Invalid("say which: /v1/cluster/ring/lookup?bucket=B&key=K", code="InvalidArgument")
        known = await self._buckets.find(bucket)
        epoch = self._replica.epoch
        space = known.objects(epoch.partition_power)
        row = space.row_key(key) if key is not None else space.prefix(0)
        owners = []
        for owner in self._replica.owners_of_row(row).sets[-1]:
            node = self._node(self.find(owner))
            owners.append({k: node[k] for k in ("id", "name", "state", "api_url")})
        return {
            "bucket": bucket,
            "key": None if key is None else key.decode(),
            "partition": partition_in(row),
            "placement": row[3:13].hex(),
            "owners": owners,
        }

    def epochs(self) -> list[dict[str, Any]]:
        return self._replica.epochs.history()

    # --- nodes

    def _nodes(self) -> list[dict[str, Any]]:
        members = sorted(
            self._replica.epoch.members, key=lambda member: (len(member.name), member.name, member.id)
        )
        return [self._node(member) for member in members]

    def used_bytes(self, member: str) -> int | None:
        """What a member said last that it uses."""
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

    def _node(self, member: Member) -> dict[str, Any]:
        me = member.id == self._replica.me
        members = self._members()
        view = members.get(member.id) if members is not None else None
        host, peer_port, s3_port, api_port = member.host, member.peer_port, member.s3_port, member.api_port
        if view is not None:
            host, peer_port, s3_port, api_port = view.host, view.peer_port, view.s3_port, view.api_port
        epoch = self._replica.epoch
        held = epoch.table.partitions_of(member.id)
        placed = sum(epoch.table.partitions_of(m.id) for m in epoch.members) or 1
        weights = sum(m.weight for m in epoch.members)
        info = self._infos.of(member.id)
        shown = f"[{host}]" if ":" in host else host
        return {
            "id": member.id,
            "name": member.name,
            "self": me,
            "host": host,
            "s3_url": f"http://{shown}:{s3_port}",
            "api_url": f"http://{shown}:{api_port}",
            "peer_address": f"{shown}:{peer_port}",
            "zone": member.zone,
            "state": self.state(member.id),
            "ring": self._ring_state(member),
            "incarnation": view.incarnation if view is not None else 0,
            "boot": self._replica.identity.boot if me else view.boot if view is not None else 0,
            "last_heard_s": 0.0 if me else round(view.last_heard_s, 3) if view is not None else None,
            "version": self._version if me else view.version if view is not None else None,
            "epoch": [epoch.generation, epoch.number]
            if me
            else list(view.epoch)
            if view is not None
            else None,
            "flags": sorted(view.flags) if view is not None else [],
            "capacity_bytes": member.weight,
            "used_bytes": info.get("used_bytes"),
            "partitions": held,
            "share": held / placed,
            "owned_fair": member.weight / weights,
        }

    def _ring_state(self, member: Member) -> str:
        """active, draining, drained (nothing of it is needed any more) or leaving."""
        needed = self._moving() or self._replica.epoch.table.partitions_of(member.id)
        return member.state if member.state != DRAINING or needed else "drained"
