"""What must be so when all faults are over: every owner holds exactly what heads name, and nobody else holds anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peer.errors import AtollError, NotFound
from peer.objects.heads import CHUNKS, INLINE, NAME_BYTES, Head
from peer.replication.chunks.rows import LIVE, NAME_END, decode_chunk_row
from peer.replication.copying.digests import LEAVES, entry_of, leaf_of
from peer.replication.copying.registersync import REGISTERS
from peer.replication.healing.chunksync import CHUNKS as CHUNK_SIDE
from peer.replication.keys import partition_in
from peer.replication.value import BALLOT_SLICE, decode_row, is_tombstone
from ring.epoch import Epoch
from tools.sim.damage import damaged

if TYPE_CHECKING:
    from tools.sim.cluster import SimPeer
    from tools.sim.object_store import Store
    from tools.sim.object_world import ObjectWorld

BUCKET = "bucket"
Wanted = dict[bytes, set[bytes]]
"""Chunk -> attempts of the heads that name it."""


class Ending:
    """Compares the disks of a world's machines with what its heads say, and with each other."""

    def __init__(self, world: ObjectWorld) -> None:
        self._world = world

    async def differences(self) -> list[str]:
        """What is not in its final order yet; nothing if all is."""
        world = self._world
        newest = world.cluster.newest()
        if newest is None or newest.kind != "final":
            return ["the ring is changing"]
        members = [peer for peer in world.cluster.peers if newest.member(peer.id) is not None]
        for peer in members:
            if peer.replica is None or peer.replica.epochs.current != newest or not peer.serving:
                return [f"{peer.name} is not in epoch {newest.number}"]
        wanted: Wanted = {}
        store = world.stores[members[0].name]
        for key in world.keys:
            try:
                found = await store.objects.find(BUCKET, key.encode())
                for name in await self._names(store, found.head):
                    wanted.setdefault(name, set()).add(found.head.attempt)
            except NotFound:
                continue
            except AtollError as error:
                return [f"{key}: {error}"]
        wrong = []
        for peer in world.cluster.peers:
            bad = damaged(peer.disk)
            if bad:
                wrong.append(f"{peer.name} has {bad} damaged rows or chunks")
            else:
                wrong += self._chunks(peer, store, wanted) + self._left(peer)
        return wrong or self._rows(newest) or self._digests(members)

    def _chunks(self, peer: SimPeer, store: Store, wanted: Wanted) -> list[str]:
        """Nothing that is referenced is missing, nothing that is not is left (conservation)."""
        wrong = []
        mine = {name for name in wanted if peer.id in store.chunks.owners_of(name)}
        held = {key[2:]: decode_chunk_row(key, row) for key, row in peer.disk.tables["chunks"].items()}
        references = {(key[2:NAME_END], key[NAME_END:]) for key in peer.disk.tables["refs"]}
        expected = {(name, attempt) for name in mine for attempt in wanted[name]}
        for what, ours, right in (("chunks", set(held), mine), ("references", references, expected)):
            if ours != right:
                wrong.append(
                    f"{peer.name} has {len(ours - right)} {what} too many, lacks {len(right - ours)}"
                )
        if any(state != LIVE for state, _ in held.values()):
            wrong.append(f"{peer.name} has chunks without bytes")
        stray = len(peer.disk.extents) - len(held)
        if stray:
            wrong.append(f"{peer.name} has {stray} extents that no row names")
        return wrong

    @staticmethod
    def _left(peer: SimPeer) -> list[str]:
        """Neither hints nor tombstones are."""
        tables = peer.disk.tables
        stones = sum(is_tombstone(decode_row(key, row).value) for key, row in tables["rows"].items())
        found = ((stones, "tombstones"), (len(tables["hints"]), "hints"))
        return [f"{peer.name} has {count} {what}" for count, what in found if count]

    def _rows(self, newest: Epoch) -> list[str]:
        """All owners of a partition hold the same registers, and nobody else one."""
        held: dict[int, dict[str, list[tuple[bytes, bytes]]]] = {}
        for peer in self._world.cluster.peers:
            for key, row in peer.disk.tables["rows"].items():
                rows = held.setdefault(partition_in(key), {}).setdefault(peer.id, [])
                rows.append((key, row[BALLOT_SLICE]))
        wrong, names = [], self._world.cluster.names
        for partition, holders in sorted(held.items()):
            owners = newest.table.owners(partition)
            wrong += [
                f"{names[holder]} holds rows of partition {partition}, which it does not own"
                for holder in holders
                if holder not in owners
            ]
            if any(holders.get(owner) != holders.get(owners[0]) for owner in owners):
                wrong.append(f"the owners of partition {partition} hold different rows")
        return wrong

    def _digests(self, members: list[SimPeer]) -> list[str]:
        """What each peer would tell others that it holds is what it holds."""
        wrong = []
        for peer in members:
            assert peer.replica is not None
            rows = ((key, row[BALLOT_SLICE]) for key, row in peer.disk.tables["rows"].items())
            references = ((key, b"") for key in peer.disk.tables["refs"])
            for side, found in ((REGISTERS, rows), (CHUNK_SIDE, references)):
                digests, leaves = peer.replica.copies.side(side).digests, dict[int, list[int]]()
                for key, version in found:
                    partition = partition_in(key) if side == REGISTERS else int.from_bytes(key[:2], "big")
                    leaves.setdefault(partition, [0] * LEAVES)[leaf_of(key)] ^= entry_of(key, version)
                wrong += [
                    f"{peer.name} has a wrong digest of partition {partition}, side {side}"
                    for partition in range(1 << peer.replica.epoch.partition_power)
                    if digests.ready(partition)
                    and digests.leaves(partition) != _encoded(leaves.get(partition, [0] * LEAVES))
                ]
        return wrong

    @staticmethod
    async def _names(store: Store, head: Head) -> list[bytes]:
        """All chunks of an object, manifests included."""
        names = [head.names[at : at + NAME_BYTES] for at in range(0, len(head.names), NAME_BYTES)]
        if head.kind in (INLINE, CHUNKS):
            return names
        listed = []
        for name in names:
            buffer, length = await store.chunks.get(name)
            data = bytes(buffer.payload(length))
            store.pool.give(buffer)
            listed += [data[at : at + NAME_BYTES] for at in range(0, length, NAME_BYTES)]
        return names + listed


def _encoded(leaves: list[int]) -> bytes:
    return b"".join(leaf.to_bytes(8, "big") for leaf in leaves)
