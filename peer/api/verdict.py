"""The verdict over a cluster: one word, the reasons for it, what it tolerates, and what costs time but no copy.

It claims no health that is not there: a partition is whole while all its owners are, and who has anything wrong with it
that may cost a copy is not (`standing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from peer.replication.owners import Owners
from ring.epoch import Epoch

from . import conditions
from .clocks import SKEW_S
from .redundancy import moving
from .standing import LIVING, Standing

Sentence = dict[str, str]

WORDS = {"left": "stopped", "unknown": "not heard of since this peer started"}
"""How the verdict says the states that speak of gossip more than of the peer."""
LOST = "if the dead peers are lost for good, an operator can go on without them: `atoll recover epoch`"


class Partitions:
    """How many partitions have which owners: counted once for each ring."""

    def __init__(self, owners_of: Callable[[int], Owners]) -> None:
        self._owners_of = owners_of
        self._epoch: Epoch | None = None
        self._counted: list[tuple[Owners, int]] = []

    def counted(self, epoch: Epoch) -> list[tuple[Owners, int]]:
        if self._epoch is not epoch:
            self._counted = list(Counter(map(self._owners_of, range(1 << epoch.partition_power))).items())
            self._epoch = epoch
        return self._counted


def count(
    standing: Standing, partitions: Iterable[tuple[Owners, int]], gone: Collection[str] = ()
) -> dict[str, int]:
    """Partitions by how many of their owners live, and failures tolerated now; as if those that are `gone` were dead."""
    mute = standing.mute.union(gone)
    lacking = standing.lacking.union(gone)
    full = degraded = unavailable = 0
    tolerates = len(standing.epoch.members)
    for owners, so_many in partitions:
        spare = votes = min((len(ids) - 1) // 2 for ids in owners.sets)
        whole = lacking.isdisjoint(owners.everyone)
        if not whole:
            spare = min(sum(o not in lacking for o in ids) - len(ids) // 2 - 1 for ids in owners.sets)
            votes = min(sum(o not in mute for o in ids) - len(ids) // 2 - 1 for ids in owners.sets)
        whole = whole and not owners.joint
        tolerates = min(tolerates, spare)
        if whole:
            full += so_many
        elif votes >= 0:
            degraded += so_many
        else:
            unavailable += so_many
    total = 1 << standing.epoch.partition_power
    return {
        "total": total, "full": full, "degraded": degraded, "unavailable": unavailable, "tolerates": max(0, tolerates),
    }  # fmt: skip


def verdict(standing: Standing, counts: dict[str, int], not_ready: Iterable[str]) -> dict[str, Any]:
    """{"verdict", "reasons", "warnings", "tolerates", "partitions"}; `counts` as from `count`, `not_ready` is why this peer
    does not do its part."""
    tolerates = counts.pop("tolerates")
    reasons = _down(standing)
    if counts["unavailable"]:
        message = f"{counts['unavailable']} partitions have lost their majority; {LOST}"
        reasons.append({"code": "no_quorum", "message": message})
    epoch = standing.epoch
    if epoch.table.width < epoch.replicas:
        missing = epoch.replicas - epoch.table.width
        reasons.append(
            {"code": "too_few_peers", "message": f"{missing} more peers are needed for full replication"}
        )
    reasons += moves(standing)
    reasons += unhealed(standing)
    reasons += conditions.reasons(standing.told)
    reasons += [{"code": "not_ready", "message": f"this peer is not ready: {why}"} for why in not_ready]
    word = "unavailable" if counts["unavailable"] else "degraded" if reasons else "healthy"
    warnings = conditions.warnings(standing.told) + _clocks(standing)
    if not tolerates and word != "unavailable":
        message = "no failure is tolerated now: if one more peer fails, some of the data is out of reach"
        warnings.append({"code": "no_failures_tolerated", "message": message})
    return {
        "verdict": word,
        "reasons": reasons,
        "warnings": warnings,
        "tolerates": tolerates,
        "partitions": counts,
    }


def _down(standing: Standing) -> list[Sentence]:
    outlook = standing.healing(standing.me).get("outlook", {})
    found = []
    for member in standing.epoch.members:
        state = standing.state(member.id)
        if state not in LIVING:
            message = f"{member.name} is {WORDS.get(state, state)} {outlook.get(member.id, '')}"
            found.append({"code": "peer_down", "message": message.rstrip()})
    return found


def moves(standing: Standing) -> list[Sentence]:
    """What is still on its way to new owners."""
    return moving(standing.epoch.kind == "joint", (standing.healing(m.id) for m in standing.living))


def _clocks(standing: Standing) -> list[Sentence]:
    names = {member.id: member.name for member in standing.epoch.members}
    found = []
    for member, skew_s in standing.skews.items():
        if abs(skew_s) > SKEW_S and member in names:
            way = "ahead of" if skew_s > 0 else "behind"
            message = f"{names[member]}: its clock is {abs(skew_s):.0f} s {way} the others; is time synchronised there?"
            found.append({"code": "clock_skew", "node": names[member], "message": message})
    return found


def unhealed(standing: Standing) -> list[Sentence]:
    """What the living know to be out of order, and heal by themselves."""
    found = [_behind(member.name, member.id in standing.silent)
             for member in standing.living if member.id in standing.behind]  # fmt: skip
    for member in standing.living:
        if count := standing.number(member.id, "damaged"):
            chunks = "1 chunk" if count == 1 else f"{count} chunks"
            message = f"{member.name} has lost the bytes of {chunks}, and fetches them from the others"
            found.append({"code": "chunks_damaged", "message": message})
        if count := standing.number(member.id, "damaged_rows"):
            rows = "1 row" if count == 1 else f"{count} rows"
            message = f"{member.name} has {rows} of metadata damaged, and takes them from the others"
            found.append({"code": "rows_damaged", "message": message})
    return found + _missed(standing, [standing.healing(member.id) for member in standing.living])


def _behind(name: str, silent: bool) -> Sentence:
    if silent:
        return {"code": "silent", "message": f"{name} did not answer just now"}
    return {"code": "catching_up", "message": f"{name} fetches what was written while it was away"}


def _missed(standing: Standing, healing: list[Mapping[str, Any]]) -> list[Sentence]:
    """Changes and chunks that some owner has not got."""
    found = []
    waiting = sum(
        count for info in healing for owner, count in info.get("hints", {}).items() if standing.lives(owner)
    )
    if waiting:
        message = f"{waiting} changes have missed an owner, which is about to fetch them"
        found.append({"code": "changes_missed", "message": message})
    dropped = [info["dropped_s"] for info in healing if info.get("dropped_s") is not None]
    compared = [info.get("compared_s") for info in healing]
    if dropped and any(at_s is None or at_s >= min(dropped) for at_s in compared):
        message = "changes that missed an owner could not all be kept; all peers compare what they hold"
        found.append({"code": "hints_dropped", "message": message})
    missing = sum(info.get("missing", 0) for info in healing)
    if missing:
        message = f"{missing} chunks could not be fetched from any owner when last tried"
        found.append({"code": "chunks_missing", "message": message})
    return found
