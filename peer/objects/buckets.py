"""Buckets: a name's register, and a gate beside every shard.

Creation opens the gates, then commits the name. Deletion marks the name, closes the gates, looks whether anything is
left and lets the name's register decide; gates reopen, at a higher generation, only after that decision. Requests
carry the generation they know; owners refuse what is older than their gate, so a cached record cannot mislead.

K1  A gate's generation only rises, so a finisher that comes late changes nothing.
K2  No write to a bucket completes between the closing of its gates and the decision about its name.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgpack

from peer.errors import Conflict, Invalid, NotFound, Unavailable
from peer.replication.keys import GATE, Space, shard_prefix
from peer.replication.node import Replica
from peer.replication.registers.gates import CLOSED, OPEN, gate_payload
from peer.replication.registers.register import Current, GateRefused, Judge, Keep, Put

from .heads import ACTIVE, DELETING, Bucket, bucket_names
from .names import check_bucket_name

DEFAULT_SHARDS = 64
MAX_SHARDS = 1024
STALE_DELETING_US = 15_000_000
CACHED = 10_000
GATES_AT_ONCE = 16
LIST_MOST = 1000


class Buckets:
    """Creates, finds, lists and deletes buckets; one per peer."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._registers = replica.registers
        self._env = replica.env
        self._cache: dict[str, Bucket] = {}

    @property
    def _power(self) -> int:
        return self._replica.epoch.partition_power

    def cached(self, name: str) -> Bucket | None:
        return self._cache.get(name)

    async def find(self, name: str, *, fresh: bool = False) -> Bucket:
        """The active bucket. Raises NotFound, or Unavailable while its deletion is being decided."""
        if not fresh:
            known = self._cache.get(name)
            if known is not None:
                return known
        check_bucket_name(name)
        bucket = await self._read(name)
        if bucket is not None and bucket.state == DELETING:
            bucket = await self._settle(bucket)
        if bucket is None:
            raise NotFound(
                f"bucket {name!r} does not exist; look at its name, or create it", code="NoSuchBucket"
            )
        return self._keep(bucket)

    async def create(self, name: str, shards: int = DEFAULT_SHARDS) -> tuple[Bucket, bool]:
        """(bucket, created): an existing one is returned as it is. Raises Invalid, Unavailable."""
        check_bucket_name(name)
        if not 1 <= shards <= MAX_SHARDS:
            raise Invalid(f"a bucket has 1 to {MAX_SHARDS} shards, not {shards}", code="InvalidArgument")
        existing = await self._read(name)
        if existing is not None and existing.state == DELETING:
            existing = await self._settle(existing)
        if existing is not None:
            return self._keep(existing), False
        bucket = Bucket(self._new_id(), name, self._env.wall_us(), shards, generation=1)
        await self._set_gates(bucket, OPEN, bucket.generation)

        def judge(current: Current) -> Put | type[Keep]:
            return Keep if current.payload is not None else Put(bucket.encode())

        stands = await self._registers.change(self._row(name), judge)
        assert stands.payload is not None
        winner = Bucket.decode(stands.payload)
        if winner.state != ACTIVE:
            raise Unavailable(f"bucket {name!r} is being deleted; try again")
        return self._keep(winner), winner.id == bucket.id

    async def delete(self, name: str) -> None:
        """Raises NotFound, Conflict (BucketNotEmpty), Unavailable."""
        bucket = await self.find(name, fresh=True)
        if await self._surely_holds(bucket):
            raise _not_empty(name)
        marked = replace(bucket, state=DELETING, deleting_us=self._env.wall_us())
        stands = await self._registers.change(self._row(name), _if_same(bucket, Put(marked.encode())))
        if stands.payload != marked.encode():
            raise Unavailable(f"bucket {name!r} changed meanwhile; try again")
        self._cache.pop(name, None)
        if await self._decide(marked) is not None:
            raise _not_empty(name)

    async def list(self, after: str = "", limit: int = LIST_MOST) -> tuple[list[Bucket], str | None]:
        """Active buckets by name, from at most `limit` names behind `after`; and the name to go on behind, None at the
        end. Raises Unavailable."""
        start = after.encode() + b"\0" if after else b""
        page = await self._replica.scans.page(bucket_names(self._power), start, b"", limit, -1)
        found = [Bucket.decode(payload) for _, payload in page.entries]
        rest = None if page.bound is None else page.bound.decode()
        return [bucket for bucket in found if bucket.state == ACTIVE], rest

    async def heal_gates(self, bucket: Bucket) -> None:
        """Some gate is behind the decided record (a creator or finisher died): bring all up to it (K1)."""
        await self._set_gates(bucket, OPEN, bucket.generation)

    def forget(self, name: str) -> None:
        self._cache.pop(name, None)

    # --- inside

    def _row(self, name: str) -> bytes:
        return bucket_names(self._power).row_key(name.encode())

    async def _read(self, name: str) -> Bucket | None:
        current = await self._registers.read(self._row(name))
        return None if current.payload is None else Bucket.decode(current.payload)

    async def _settle(self, bucket: Bucket) -> Bucket | None:
        """Finish a deletion whose peer seems gone; while it may be alive, ask the client to come back."""
        if self._env.wall_us() - bucket.deleting_us < STALE_DELETING_US:
            raise Unavailable(f"bucket {bucket.name!r} is being deleted; try again in a moment")
        return await self._decide(bucket)

    async def _decide(self, marked: Bucket) -> Bucket | None:
        """Close, look, decide, reopen; None when the bucket is gone, else the bucket that stays."""
        await self._set_gates(marked, CLOSED, marked.generation + 1)
        space = marked.objects(self._power)
        empty = await self._is_empty(space, marked.generation + 1)
        stays = replace(marked, state=ACTIVE, deleting_us=0, generation=marked.generation + 2)
        wanted = Put(None) if empty else Put(stays.encode())
        stands = await self._registers.change(self._row(marked.name), _if_same(marked, wanted))
        if stands.payload is None:
            return None
        decided = Bucket.decode(stands.payload)
        if decided.id != marked.id:
            return None
        if decided.state == DELETING:
            raise Unavailable(f"bucket {marked.name!r} is being deleted; try again in a moment")
        await self._set_gates(decided, OPEN, decided.generation)
        return decided

    async def _surely_holds(self, bucket: Bucket) -> bool:
        """Whether a look through open gates finds an object; clients at work notice nothing of it."""
        try:
            page = await self._replica.scans.page(bucket.objects(self._power), b"", b"", 1, bucket.generation)
        except GateRefused:
            return False  # a creator or finisher died between gates: closing them all will tell
        return bool(page.entries)

    async def _is_empty(self, space: Space, generation: int) -> bool:
        start = b""
        while True:
            page = await self._replica.scans.page(space, start, b"", 100, generation, closed=True)
            if page.entries:
                return False
            if page.bound is None:
                return True
            start = page.bound + b"\0"

    async def _set_gates(self, bucket: Bucket, state: int, generation: int) -> None:
        payload = gate_payload(state, generation)

        def judge(current: Current) -> Put | type[Keep]:
            if current.payload is not None and msgpack.unpackb(current.payload)[1] >= generation:
                return Keep
            return Put(payload)

        keys = [shard_prefix(GATE, bucket.id, shard, self._power) for shard in range(bucket.shards)]
        for at in range(0, len(keys), GATES_AT_ONCE):
            batch = keys[at : at + GATES_AT_ONCE]
            tasks = [self._env.spawn(self._registers.change(key, judge), "gate") for key in batch]
            await asyncio.gather(*tasks)

    def _new_id(self) -> bytes:
        return (self._env.rng.getrandbits(63) | 1 << 63).to_bytes(8, "big")

    def _keep(self, bucket: Bucket) -> Bucket:
        if len(self._cache) >= CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[bucket.name] = bucket
        return bucket


def _not_empty(name: str) -> Conflict:
    return Conflict(
        f"bucket {name!r} is not empty; delete its objects first", code="BucketNotEmpty", status=409
    )


def _if_same(expected: Bucket, wanted: Put) -> Judge:
    """Store `wanted` if the register still holds `expected`, else keep what is there."""
    encoded = expected.encode()

    def judge(current: Current) -> Put | type[Keep]:
        return wanted if current.payload == encoded else Keep

    return judge
