"""Counts replicas in data directories, of running peers too, without asking any peer (`atoll chaos`).

For each register: do all owners hold the newest accepted ballot, intact? For each object: does each owner of each of its
chunks hold it, by a live row and, in a deep audit, by bytes that match the name? What lacks is counted, copy by copy.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from peer.errors import AtollError, Corrupt, NotFound
from peer.objects.heads import INLINE, MANIFEST, NAME_BYTES, Head
from peer.replication import meta
from peer.replication.chunks.rows import LIVE, chunk_key, decode_chunk_row
from peer.replication.keys import OBJECT, SYSTEM, partition_in
from peer.replication.value import Accepted, decode_row, payload_of
from peer.storage.offline import OfflineRows, OfflineSegments
from ring.epoch import Epoch
from ring.hashing import partition_of

Lacking = tuple[str, bytes]
"""(member id, row key of a register or of a chunk)."""


@dataclass(slots=True)
class Audit:
    """What was found. `lacking`: copy -> bytes it would have."""

    objects: int = 0
    lacking: dict[Lacking, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.lacking.values())


class _Member:
    """One data directory, read beside its peer."""

    def __init__(self, path: Path) -> None:
        self.rows = OfflineRows(path / "rows" / "atoll.db")
        self.segments = OfflineSegments(path / "segments")

    def meta(self, key: bytes) -> bytes:
        stored = self.rows.get("meta", key)
        if stored is None:
            raise NotFound("it has not joined yet")
        return meta.value_of(key, stored)

    def chunk(self, key: bytes, deep: bool) -> int | None:
        """The length of a live copy; None if there is none."""
        row = self.rows.get("chunks", key)
        if row is None:
            return None
        with suppress(AtollError, ValueError):
            state, extent = decode_chunk_row(key, row)
            if state == LIVE and (not deep or self.segments.read(extent, key[2:])):
                return extent.length
        return None

    def data(self, key: bytes) -> bytes | None:
        row = self.rows.get("chunks", key)
        if row is not None:
            with suppress(AtollError, ValueError):
                return self.segments.read(decode_chunk_row(key, row)[1], key[2:])
        return None


def heads_in(directory: Path) -> int:
    """How many heads of objects lie in one data directory, deleted ones included; nobody must be writing there."""
    with closing(sqlite3.connect(directory / "rows" / "atoll.db")) as database:
        wanted = "select count(*) from rows where substr(k, 1, 1) = ?"
        return int(database.execute(wanted, (bytes((OBJECT,)),)).fetchone()[0])


def audit(directories: Sequence[Path], deep: bool = False) -> Audit:
    """Audit the cluster that has these data directories. Raises NotFound when none of them is a member's yet."""
    with ExitStack() as stack:
        members: dict[str, _Member] = {}
        epochs: list[Epoch] = []
        for path in directories:
            with suppress(NotFound, Corrupt):
                member = _Member(path)
                stack.callback(member.rows.close)
                members[member.meta(b"member").decode()] = member
                epochs.append(Epoch.decode(member.meta(b"epoch")))
        if not epochs:
            raise NotFound("none of these directories is a member's")
        return _Auditor(max(epochs, key=lambda epoch: epoch.order), members, deep).run()


class _Auditor:
    def __init__(self, epoch: Epoch, members: dict[str, _Member], deep: bool) -> None:
        self._epoch = epoch
        self._members = members
        self._deep = deep
        self._seen: set[bytes] = set()  # chunks that were looked at
        self._found = Audit()

    def run(self) -> Audit:
        scans = [self._scan(member_id) for member_id in sorted(self._members)]
        for key, rows in groupby(heapq.merge(*scans), key=lambda one: one[0]):
            self._register(key, {member: row for _, member, row in rows})
        return self._found

    def _scan(self, member: str) -> Iterator[tuple[bytes, str, bytes]]:
        for key, row in self._members[member].rows.scan("rows", bytes((SYSTEM,)), bytes((OBJECT + 1,))):
            yield key, member, row

    def _register(self, key: bytes, rows: dict[str, bytes]) -> None:
        held: dict[str, Accepted] = {}
        for member, row in rows.items():
            with suppress(Corrupt):
                held[member] = decode_row(key, row)
        if not held:
            return
        newest = max(held.values(), key=lambda accepted: accepted.ballot)
        for owner in self._epoch.table.owners(partition_in(key)):
            if owner not in held or held[owner].ballot != newest.ballot:
                self._found.lacking[owner, key] = len(key) + len(newest.value)
        payload = payload_of(newest.value)
        if key[0] == OBJECT and payload is not None:
            self._found.objects += 1
            self._chunks_of(Head.decode(payload))

    def _chunks_of(self, head: Head) -> None:
        if head.kind == INLINE:
            return
        for name in _names(head.names):
            self._chunk(name)
            if head.kind == MANIFEST:
                key = chunk_key(name, self._epoch.partition_power)
                copies = (member.data(key) for member in self._members.values())
                for inner in _names(next((copy for copy in copies if copy is not None), b"")):
                    self._chunk(inner)

    def _chunk(self, name: bytes) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        key = chunk_key(name, self._epoch.partition_power)
        owners = self._epoch.table.owners(partition_of(name, self._epoch.partition_power))
        lengths = {
            owner: self._members[owner].chunk(key, self._deep) if owner in self._members else None
            for owner in owners
        }
        size = max((length for length in lengths.values() if length is not None), default=0)
        for owner, length in lengths.items():
            if length is None:
                self._found.lacking[owner, key] = size


def _names(packed: bytes) -> list[bytes]:
    return [packed[at : at + NAME_BYTES] for at in range(0, len(packed), NAME_BYTES)]
