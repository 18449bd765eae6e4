"""The ring as it is told: who owns which partition, and in a change of it, which partitions have still to move."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from peer.replication.agreement.epochs import tag_of
from ring.changes import differing
from ring.epoch import Epoch
from ring.table import Table

from .standing import Info, Standing


def bitmap(partitions: Iterable[int], power: int) -> bytearray:
    """Partition p is bit p & 7 of byte p >> 3."""
    bits = bytearray(max(1, (1 << power) >> 3))
    for partition in partitions:
        bits[partition >> 3] |= 1 << (partition & 7)
    return bits


class RingView:
    """One peer's ring for /v1/cluster/ring. What does not change within an epoch is made once."""

    def __init__(self) -> None:
        self._epoch: Epoch | None = None
        self._fixed: dict[str, Any] = {}
        self._gained: dict[str, bytearray] = {}

    def to_map(self, standing: Standing) -> dict[str, Any]:
        """With `pending` while anything moves, and with `before`, the former owners, in a joint epoch."""
        epoch = standing.epoch
        if self._epoch is not epoch:
            self._fixed, self._gained = _fixed(epoch), _gained(epoch)
            self._epoch = epoch
        bits = self._pending(standing)
        told = self._fixed
        return told | {"pending": b64encode(bits).decode()} if "before" in told or any(bits) else told

    def _pending(self, standing: Standing) -> bytearray:
        """Partitions that some new owner has still to merge, or whose chunks it has still to fetch. Of a new owner that does
        not say (it is dead, silent, or of an older version and not done) it is all those that it gains."""
        epoch = standing.epoch
        found = 0
        for member in epoch.members:
            info = standing.info(member.id)
            said = info.get("pending")
            answers = standing.lives(member.id) and member.id not in standing.silent
            if epoch.kind == "joint" and not (answers and _epoch_of(info) == tag_of(epoch)):
                said = None  # what it said, it said of another ring
            elif said is None and not standing.number(member.id, "merging"):
                continue
            bits = self._gained.get(member.id, b"") if said is None else said
            found |= int.from_bytes(bits, "little")
        size = max(1, (1 << epoch.partition_power) >> 3)
        return bytearray((found & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))


def _epoch_of(info: Info) -> int | None:
    tag: int | None = info.get("replication", {}).get("epoch_tag")
    return tag


def _fixed(epoch: Epoch) -> dict[str, Any]:
    table, before = epoch.table, epoch.previous
    names = {member.id: member.name for member in epoch.everybody}
    ids = table.member_ids if before is None else tuple(sorted({*table.member_ids, *before.member_ids}))
    told: dict[str, Any] = {
        "epoch": {"generation": epoch.generation, "number": epoch.number, "kind": epoch.kind},
        "partition_power": epoch.partition_power,
        "replicas": epoch.replicas,
        "members": [{"id": member, "name": names.get(member, member[:8])} for member in ids],
        "owners": _owners(table, ids),
    }
    return told if before is None else told | {"before": _owners(before, ids)}


def _owners(table: Table, ids: Iterable[str]) -> list[list[int]]:
    index = {member: number for number, member in enumerate(ids)}
    return [[index[owner] for owner in owners] for owners in table.all_owners]


def _gained(epoch: Epoch) -> dict[str, bytearray]:
    """Member -> the partitions it owns in a joint epoch that it did not own before."""
    if epoch.previous is None:
        return {}
    gained: dict[str, list[int]] = {}
    for partition in differing(epoch.previous, epoch.table):
        for owner in set(epoch.table.owners(partition)).difference(epoch.previous.owners(partition)):
            gained.setdefault(owner, []).append(partition)
    return {member: bitmap(some, epoch.partition_power) for member, some in gained.items()}
