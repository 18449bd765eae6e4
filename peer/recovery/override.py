"""The operator's override: a new generation of the ring with the survivors only (`atoll recover epoch`).

When a majority is lost for good nobody can decide anything: rightly, as nobody can know what the lost ones had
acknowledged. An operator may decide that what the survivors hold is all there is. That decision is an epoch of a higher
generation, which wins over every epoch of the one before. It is written into one stopped survivor's database and spreads
from there. Before anybody answers under it, each survivor merges what all the others hold
(`peer.replication.healing.recovery`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peer.errors import Conflict, Corrupt, Invalid
from peer.replication import meta
from peer.replication.agreement.epochs import writes_of
from peer.storage.datadir import DataDir
from peer.storage.sqlite import SqliteRows
from ring.epoch import Epoch
from ring.members import Member
from ring.placement import place

from .disks import Disk


@dataclass(frozen=True, slots=True)
class Override:
    """What would be decided, and what it gives up. Counts are of partitions."""

    old: Epoch
    new: Epoch
    lost: tuple[Member, ...]
    total: int
    in_doubt: int
    """A majority of their owners is lost: writes that were acknowledged may be gone, or go back to older ones."""
    gone: int
    """All their owners are lost: everything in them is gone, unless a lost disk comes back for `recover export`."""


def plan(disk: Path, lost: Sequence[str]) -> Override:
    """The override for this survivor's ring without the members named. Changes nothing.

    Raises Invalid for names that make no sense, Conflict (NotNeeded) if a majority lives everywhere, Corrupt, StartupError.
    """
    with Disk(disk) as opened:
        epoch = opened.epoch()
        stored = opened.rows.get("meta", b"member") if opened.rows is not None else None
        if epoch is None or stored is None:
            raise Corrupt(
                f"{disk} does not know its ring: " + ("; ".join(opened.problems) or "it never joined one")
            )
        me = meta.value_of(b"member", stored).decode()
    gone = _members(epoch, lost)
    ids = {member.id for member in gone}
    if not gone:
        raise Invalid("name the peers that are lost for good: --lost NAME", code="InvalidArgument")
    if me in ids:
        raise Invalid(f"{disk} is itself one of the peers called lost", code="InvalidArgument")
    owners = [epoch.table.owners(partition) for partition in range(1 << epoch.partition_power)]
    left = [sum(owner not in ids for owner in some) for some in owners]
    in_doubt = sum(count < len(some) // 2 + 1 for count, some in zip(left, owners, strict=True))
    voters = epoch.voters()
    if not in_doubt and sum(voter not in ids for voter in voters) > len(voters) // 2:
        raise Conflict(
            "a majority lives everywhere without them, so nothing has to be given up: start the others, and remove the lost"
            " peers from the running cluster",
            code="NotNeeded",
        )
    members = tuple(member for member in epoch.members if member.id not in ids)
    table = place(epoch.table, members, epoch.replicas, epoch.partition_power)
    new = replace(
        epoch, generation=epoch.generation + 1, number=epoch.number + 1, kind="final", members=members, table=table,
        previous=None,
    )  # fmt: skip
    return Override(epoch, new, gone, len(owners), in_doubt, sum(count == 0 for count in left))


def _members(epoch: Epoch, names: Sequence[str]) -> tuple[Member, ...]:
    found = []
    for name in dict.fromkeys(names):
        match = [member for member in epoch.members if name in (member.id, member.name)]
        if len(match) != 1:
            known = ", ".join(member.name for member in epoch.members)
            what = "is no member of this ring" if not match else "names several members: give the id"
            raise Invalid(f"{name[:80]!r} {what}; its members are {known}", code="InvalidArgument")
        found += match
    return tuple(found)


def write(disk: Path, override: Override) -> None:
    """Make it this survivor's ring, durably. Raises StartupError if a peer runs there, Full."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        rows = SqliteRows(disk / "rows" / "atoll.db", loop)
        try:
            done = loop.create_future()
            rows.commit([*writes_of(override.new), meta.remove(b"paxos")], done.set_result)
            error = await done
            if error is not None:
                raise error
        finally:
            rows.close()

    with DataDir.held(disk):
        asyncio.run(work())
