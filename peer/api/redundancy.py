"""Whether every object has all its replicas, how many do not, and when they will: one sentence, from what peers tell.

Counts of objects are estimates where a peer is away: the living say how many objects they hold in how many partitions,
and objects are spread evenly over those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ring.epoch import Epoch

Info = Mapping[str, Any]


def redundancy(
    epoch: Epoch, dead: Collection[str], behind: Collection[str], infos: Mapping[str, Info], unhealed: bool
) -> dict[str, Any]:
    """{"whole", "lacking", "left_s", "message"}. `dead` and `behind` are member ids, `infos` what the living tell, and
    `unhealed` says that something else is known to be out of order."""
    healing = {member: info.get("healing", {}) for member, info in infos.items()}
    few = epoch.table.width < epoch.replicas
    lacking = _objects_of(epoch, dead, healing)
    waiting = sum(
        count
        for told in healing.values()
        for target, count in told.get("hints", {}).items()
        if target not in dead
    )
    left_s = _left_s(healing, behind)
    if dead:
        names = _names(epoch, dead)
        message = f"about {lacking:,} objects lack a replica until {names} is back or removed"
        left_s = None
    elif behind or waiting:
        lacking = waiting
        names = _names(epoch, behind) or "their owners"
        when = f"all replicas in about {left_s:.0f} s" if left_s is not None else "all replicas soon"
        what = (
            f"{waiting:,} missed changes are on their way to {names}" if waiting else f"{names}: catching up"
        )
        message = f"{what}; {when}"
    elif unhealed:
        lacking = sum(told.get("missing", 0) + told.get("damaged", 0) for told in healing.values())
        message = "some copies are being made good; see the reasons"
    elif few:
        message = f"every object has {len(epoch.members)} of {epoch.replicas} replicas: more peers are needed"
    else:
        message = f"every object has all its {epoch.replicas} replicas"
    whole = not (dead or behind or waiting or unhealed or few)
    return {"whole": whole, "lacking": lacking, "left_s": left_s, "message": message}


def _objects_of(epoch: Epoch, dead: Collection[str], healing: Mapping[str, Info]) -> int:
    """About how many objects have an owner among these members."""
    counted = sum(told.get("counted", 0) for told in healing.values())
    if not dead or not counted:
        return 0
    objects = sum(told.get("objects", 0) for told in healing.values())
    gone = frozenset(dead)
    partitions = range(1 << epoch.partition_power)
    lacking = sum(not gone.isdisjoint(epoch.table.owners(partition)) for partition in partitions)
    return int(objects * lacking / counted + 0.5)


def _left_s(healing: Mapping[str, Info], behind: Collection[str]) -> float | None:
    """How long the workers of those who catch up still need; None when nobody can tell."""
    left = [
        worker["left_s"]
        for member in behind
        for worker in healing.get(member, {}).get("workers", ())
        if worker.get("left_s") is not None
    ]
    return round(max(left), 1) if left else None


def _names(epoch: Epoch, ids: Collection[str]) -> str:
    found = sorted(member.name for member in epoch.members if member.id in ids)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def moving(joint: bool, healing: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Reasons for a verdict: what is still on its way to new owners, registers in a joint epoch, chunks after it too."""
    told = list(healing)
    reasons = []
    if joint:
        left = sum(info.get("merging", 0) for info in told)
        message = f"the ring is being changed; its new owners have still to merge {left} partitions"
        reasons.append({"code": "ring_changing", "message": message})
    fetching = sum(info.get("fetching", 0) for info in told)
    if fetching:
        message = f"the chunks of {fetching} partitions are still to be fetched from their former owners"
        reasons.append({"code": "chunks_moving", "message": message})
    return reasons
