"""What may be destroyed without breaking a promise oneself: never every copy of what was acknowledged (P2).

Atoll promises to survive the loss of any minority of owners, and copies that rot one after the other while it mends
them. So a machine may die for good, and a bit may rot, only where a good copy is left on another disk. All of it is
judged by what lies on the disks, whatever peers believe.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from blake3 import blake3

from peer.errors import Corrupt
from peer.objects.heads import NAME_BYTES, Head
from peer.replication.chunks.rows import LIVE, NAME_END, decode_chunk_row, decode_reference
from peer.replication.keys import OBJECT
from peer.replication.value import decode_row, payload_of
from peer.storage.records import Extent
from tools.sim.cluster import Cluster, SimPeer
from tools.sim.damage import damaged_rows
from tools.sim.disk import SimDisk

TRIES = 8


class Survival:
    """Looks at the disks of all machines of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.rotten: set[str] = set()
        """Names of machines on which the row of a chunk rotted: what it named belongs to nobody until the next start."""

    def without(self, peer: SimPeer) -> bool:
        """Whether everything would still be there if this machine's disk were gone: each chunk and each reference it holds
        lies, undamaged, on another one as well, and no register is damaged elsewhere."""
        others = self._others(peer)
        if any(damaged_rows(other.disk) for other in others):
            return False
        named = {key[:NAME_END] for one in (peer, *others) for key in one.disk.tables["refs"]}
        held = {key for other in others for key in _good_chunks(other.disk)}
        if any(key in named and key not in held for key in peer.disk.tables["chunks"]):
            return False
        return all(self._referenced(key, others) for key in peer.disk.tables["refs"])

    def last_copies(self, peer: SimPeer) -> int:
        """Of how many chunks that a head names this machine has the only good copy. It must not leave the ring by itself."""
        mine = _good_chunks(peer.disk)
        others = {key for other in self._others(peer) for key in _good_chunks(other.disk)}
        alone = {key[2:] for key in mine if key not in others}
        return len(alone & self._named()) if alone else 0

    def _named(self) -> set[bytes]:
        """Every chunk that a head on some disk names, manifests and what they list included."""
        named: set[bytes] = set()
        for peer in self._cluster.peers:
            for key, row in peer.disk.tables["rows"].items():
                if key[0] == OBJECT:
                    named |= _names_in(key, row)
        listed: set[bytes] = set()
        for peer in self._cluster.peers:
            for key, extent in _good_chunks(peer.disk).items():
                if key[2:] in named and extent.length % NAME_BYTES == 0:
                    listed |= _cut(
                        peer.disk.extents[extent]
                    )  # if it is no manifest, these are nobody's names
        return named | listed

    def rot_chunk(self, peer: SimPeer, rng: random.Random) -> Extent | None:
        """An extent of this machine of which another one has a good copy, and whose bit was flipped."""
        disk, held = peer.disk, {key for other in self._others(peer) for key in _good_chunks(other.disk)}
        extents = [extent for key, extent in _good_chunks(disk).items() if key in held]
        if not extents:
            return None
        extent = extents[rng.randrange(len(extents))]
        data = bytearray(disk.extents[extent])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        disk.extents[extent] = bytes(data)
        return extent

    def rot_row(self, peer: SimPeer, table: str, rng: random.Random) -> bytes | int | None:
        """The key of a row of this table on this machine, one of whose bits was flipped; None if none may be."""
        rows, others = peer.disk.tables[table], self._others(peer)
        if not rows or (table in ("rows", "side") and any(damaged_rows(other.disk) for other in others)):
            return None
        for _ in range(TRIES):
            key: bytes | int = rows.keys()[rng.randrange(len(rows))]
            if not isinstance(key, bytes) or self._elsewhere(table, key, others):
                value = bytearray(rows[key])
                value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
                rows[key] = bytes(value)
                if table == "chunks":
                    self.rotten.add(peer.name)
                return key
        return None

    def _elsewhere(self, table: str, key: bytes, others: Iterable[SimPeer]) -> bool:
        if table == "refs":
            return self._referenced(key, others)
        return table == "rows" or any(key in _good_chunks(other.disk) for other in others)

    def _others(self, peer: SimPeer) -> list[SimPeer]:
        """Machines of members, whether they run or not. What lies on others' disks may never be read again."""
        newest = self._cluster.newest()
        return [
            other
            for other in self._cluster.peers
            if other is not peer
            and not other.removed
            and newest is not None
            and newest.member(other.id) is not None
        ]

    @staticmethod
    def _referenced(key: bytes, others: Iterable[SimPeer]) -> bool:
        """Whether another machine has this reference, readable."""
        for other in others:
            row = other.disk.tables["refs"].get(key)
            try:
                if row is not None and decode_reference(key, row) is not None:
                    return True
            except Corrupt:
                continue
        return False


def _names_in(key: bytes, row: bytes) -> set[bytes]:
    try:
        payload = payload_of(decode_row(key, row).value)
        return set() if payload is None else _cut(Head.decode(payload).names)
    except Corrupt:
        return set()


def _cut(names: bytes) -> set[bytes]:
    return {names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)}


def _good_chunks(disk: SimDisk) -> dict[bytes, Extent]:
    """Key of each chunk that lies here with the right bytes -> where."""
    found = {}
    for key, row in disk.tables["chunks"].items():
        try:
            state, extent = decode_chunk_row(key, row)
        except Corrupt:
            continue
        if state == LIVE and extent in disk.extents and blake3(disk.extents[extent]).digest() == key[2:]:
            found[key] = extent
    return found
