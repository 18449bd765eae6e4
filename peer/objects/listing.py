"""Listing of a bucket: prefix, delimiter, pages (promise P4).

A common prefix is emitted once a key beneath it is agreed live, and then skipped past: the scan seeks behind it
and never walks through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.replication.keys import prefix_end
from peer.replication.node import Replica

from .heads import Bucket, Head
from .store import Objects

MAX_LIMIT = 1000


@dataclass(slots=True)
class Listing:
    """One page. `next` is the position to go on after, None at the end; prefixes count against the limit."""

    objects: list[tuple[bytes, Head]] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    next: bytes | None = None


async def list_objects(
    objects: Objects,
    replica: Replica,
    bucket: str,
    *,
    prefix: bytes,
    delimiter: bytes,
    after: bytes,
    limit: int,
) -> Listing:
    """At most `limit` keys and common prefixes after `after`, in byte order.

    Raises NotFound (NoSuchBucket), Unavailable.
    """
    limit = max(0, min(limit, MAX_LIMIT))

    async def page(known: Bucket) -> Listing:
        return await _Pager(replica, known, prefix, delimiter, limit).run(after)

    return await objects.in_bucket(bucket, page)


class _Pager:
    def __init__(self, replica: Replica, bucket: Bucket, prefix: bytes, delimiter: bytes, limit: int) -> None:
        self._replica = replica
        self._bucket = bucket
        self._prefix = prefix
        self._delimiter = delimiter
        self._limit = limit
        self._out = Listing()
        self._last = b""  # key or prefix emitted last

    async def run(self, after: bytes) -> Listing:
        space = self._bucket.objects(self._replica.epoch.partition_power)
        end = prefix_end(self._prefix)
        start = max(self._prefix, self._behind(after)) if after else self._prefix
        while self._limit and not (end and start >= end):
            want = self._limit - self._count + 1
            page = await self._replica.scans.page(space, start, end, want, self._bucket.generation)
            seek = self._take(page.entries)
            if self._out.next is not None or page.bound is None:
                break
            start = max(seek or b"", page.bound + b"\0")
        return self._out

    @property
    def _count(self) -> int:
        return len(self._out.objects) + len(self._out.prefixes)

    def _behind(self, after: bytes) -> bytes:
        """Where to go on after a position: behind the common prefix it stands for, or behind the key."""
        common = self._common(after)
        if common is not None and common == after:
            return prefix_end(common) or after + b"\xff" * 8
        return after + b"\0"

    def _common(self, key: bytes) -> bytes | None:
        if not self._delimiter or not key.startswith(self._prefix):
            return None
        at = key.find(self._delimiter, len(self._prefix))
        return None if at < 0 else key[: at + len(self._delimiter)]

    def _take(self, entries: list[tuple[bytes, bytes]]) -> bytes | None:
        """Emit entries; where the last of them lies under a common prefix, return the seek behind it."""
        seek: bytes | None = None
        for key, payload in entries:
            if seek is not None and key < seek:
                continue
            seek = None
            if self._count >= self._limit:
                self._out.next = self._last
                return None
            common = self._common(key)
            if common is None:
                self._out.objects.append((key, Head.decode(payload)))
                self._last = key
            else:
                self._out.prefixes.append(common)
                self._last = common
                seek = prefix_end(common) or key + b"\0"
        return seek
