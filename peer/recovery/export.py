"""The objects that stopped peers' disks hold together, each in its newest version (`atoll recover export`).

Of each register the accepted value of the highest ballot on any disk counts. That may be a write that was never
acknowledged; it is never an older one than the last that was, as far as these disks hold it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from peer.errors import Corrupt, NotFound
from peer.objects.heads import INLINE, MANIFEST, NAME_BYTES, Bucket, Head, bucket_names
from peer.replication.chunks.rows import chunk_key
from peer.replication.keys import OBJECT, PREFIX_BYTES, SYSTEM
from peer.replication.value import Accepted, decode_row, decode_side, payload_of

from .disks import Disk, Strays


@dataclass(frozen=True, slots=True)
class Found:
    """One object: where it was, what its head says, and on which disks that version lies."""

    bucket: str
    key: bytes
    head: Head
    row_key: bytes
    held: tuple[tuple[Disk, Accepted], ...]


class Export:
    """What some data directories hold. Raises StartupError, NotFound."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self.disks: list[Disk] = []
        try:
            for path in paths:
                self.disks.append(self._stack.enter_context(Disk(path)))
            epochs = [epoch for disk in self.disks if (epoch := disk.epoch()) is not None]
            if not epochs:
                raise NotFound("none of these directories knows its ring; without one no name can be read")
            if len({epoch.cluster_id for epoch in epochs}) > 1:
                raise Corrupt("these directories belong to different clusters")
            self._power = epochs[0].partition_power
            self._strays = Strays(self.disks)
            self._stack.callback(self._strays.close)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def problems(self) -> list[str]:
        return [problem for disk in self.disks for problem in disk.problems]

    def buckets(self) -> dict[bytes, str]:
        """Bucket id -> name."""
        prefixes = bucket_names(self._power)
        bucket_id = prefixes.bucket
        found = {}
        for key, _, payload, _ in self._registers(bytes((SYSTEM,)), bytes((SYSTEM + 1,))):
            if key[3:11] == bucket_id and payload is not None:
                try:
                    bucket = Bucket.decode(payload)
                except Corrupt as error:
                    self.disks[0].problem(f"a bucket's record cannot be read: {error}")
                else:
                    found[bucket.id] = bucket.name
        return found

    def objects(self) -> Iterator[Found | str]:
        """Every object, in no order a person would know; a sentence for one whose head cannot be read."""
        names = self.buckets()
        for key, _, payload, held in self._registers(bytes((OBJECT,)), bytes((OBJECT + 1,))):
            if payload is None:
                continue
            bucket = names.get(key[3:11], f"bucket-{key[3:11].hex()}")
            try:
                yield Found(bucket, key[PREFIX_BYTES:], Head.decode(payload), key, held)
            except Corrupt as error:
                yield f"{bucket}/{key[PREFIX_BYTES:].decode(errors='replace')}: {error}"

    def _registers(
        self, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes, bytes | None, tuple[tuple[Disk, Accepted], ...]]]:
        """(row key, ballot, payload, disks that hold that ballot) of every register of a range."""
        scans = [self._scan(number, start, end) for number in range(len(self.disks))]
        for key, rows in groupby(heapq.merge(*scans), key=lambda one: one[0]):
            held = []
            for _, number, row in rows:
                disk = self.disks[number]
                try:
                    held.append((disk, decode_row(key, row)))
                except Corrupt as error:
                    disk.problem(f"{disk.path}: {error}")
            if held:
                ballot = max(accepted.ballot for _, accepted in held)
                newest = tuple((disk, accepted) for disk, accepted in held if accepted.ballot == ballot)
                yield key, ballot, payload_of(newest[0][1].value), newest

    def _scan(self, number: int, start: bytes, end: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        for key, row in self.disks[number].scan(start, end):
            yield key, number, row

    def data(self, found: Found) -> Iterator[bytes]:
        """The object's bytes, piece by piece, each verified. Raises Corrupt if a piece is nowhere."""
        head = found.head
        if head.kind == INLINE:
            if head.size:
                yield self._inline(found)
            return
        names = [head.names[at : at + NAME_BYTES] for at in range(0, len(head.names), NAME_BYTES)]
        for name in names:
            if head.kind != MANIFEST:
                yield self._chunk(name)
                continue
            listed = self._chunk(name)
            for at in range(0, len(listed), NAME_BYTES):
                yield self._chunk(listed[at : at + NAME_BYTES])

    def _inline(self, found: Found) -> bytes:
        for disk, accepted in found.held:
            stored = disk.rows.get("side", accepted.side_id) if disk.rows is not None else None
            if stored is not None:
                try:
                    return decode_side(found.row_key, stored)
                except Corrupt as error:
                    disk.problem(f"{disk.path}: {error}")
        raise Corrupt("its bytes are on none of these disks")

    def _chunk(self, name: bytes) -> bytes:
        key = chunk_key(name, self._power)
        for disk in self.disks:
            data = disk.chunk(key)
            if data is not None:
                return data
        data = self._strays.chunk(name)
        if data is None:
            raise Corrupt(f"chunk {name.hex()} is on none of these disks")
        return data
