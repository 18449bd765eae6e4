"""Automatic removal: which of the long dead is removed from the ring, and if none, why not (architecture.md §5).

Pure, as all of `ring`: what one peer sees of the others goes in, what is to be done comes out. `Sightings` turns what it
sees into how long each member has been dead, `prospects` judges that. Times are seconds of the caller's monotonic clock.

V1  A member counts as dead for as long as this peer has seen it dead itself, without a break, while it saw a majority of
    every live ring's members alive, and was not asleep. So nobody is removed by a peer that has just started, was paused or
    was cut off: it counts from anew. What others have seen is never taken for one's own.
V2  Nobody is removed unless enough members are left for all replicas. One that owns nothing (it drained) is not missed.
V3  Nobody is removed while some owner set has lost its majority (what it held must be copied from that majority), or while
    more than one zone is wholly dead (that looks like a cut in the network, or like something an operator should see).
V4  Nobody is removed while the ring is being changed, unless the change waits for the very member: then it is given up, and
    made anew without it, but for a member that was only joining. Giving up puts the old owners back and guesses nothing.
    Where too few would be left for the change (a drain, or more replicas) the member is removed in its stead.
V5  One at a time: whoever has been dead for longest, of those that may be removed.
V6  Voters take turns, so that mostly one of them proposes it. One that is only joining does not: with the change given up it
    is no member any more, and could not make it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import filterfalse

from ring.changes import differing
from ring.epoch import Epoch
from ring.members import ACTIVE, Member

EVICT_AFTER_S = 900.0
"""How long a member must have been dead, unless told otherwise."""

PAUSE_S = 5.0
"""Who has not looked for so long was paused, and counts from anew (V1). Look at least twice as often."""

TURN_S = 5.0


class Sightings:
    """How long one peer, `me`, has seen which members dead (V1). `unsafe`, for negative controls: it
    counts on through its own pauses and while it is cut off."""

    def __init__(self, me: str, unsafe: bool = False) -> None:
        self._me = me
        self._unsafe = unsafe
        self._epoch: Epoch | None = None
        self._others: tuple[str, ...] = ()  # everybody else in it
        self._looked_s: float | None = None
        self._dead: dict[str, float] = {}  # since when
        self.restarts = 0  # how often counting began anew
        self.apart = False  # no majority alive, when last looked

    def look(self, epoch: Epoch, alive: Callable[[str], bool], now_s: float) -> None:
        """Note who is dead now. `alive(member)` is false of a member never heard of as well."""
        if epoch is not self._epoch:
            self._epoch = epoch
            self._others = tuple(one.id for one in epoch.everybody if one.id != self._me)
        dead = set(filterfalse(alive, self._others))
        was_apart, self.apart = (
            self.apart,
            not all(_majority(ring, dead) for ring in (epoch.members, epoch.previous_members)),
        )
        asleep = self._looked_s is not None and now_s - self._looked_s > PAUSE_S
        if (was_apart or self.apart or asleep) and not self._unsafe:
            self.restarts += bool(self._dead) and not was_apart
            self._dead.clear()
        self._looked_s = now_s
        self._dead = {member: self._dead.get(member, now_s) for member in sorted(dead)}

    def answered(self, member: str) -> None:
        """It turned out to live: count from anew."""
        if self._looked_s is not None and member in self._dead:
            self._dead[member] = self._looked_s

    def dead_s(self) -> dict[str, float]:
        """Member id -> for how long it had been dead when last looked."""
        return {member: (self._looked_s or 0.0) - since_s for member, since_s in self._dead.items()}


@dataclass(frozen=True, slots=True)
class Prospect:
    """What becomes of one dead member: removed in `left_s` seconds (0: now), or not before `why_not` has changed."""

    member: str
    dead_s: float
    left_s: float | None
    why_not: str = ""

    @property
    def due(self) -> bool:
        return self.left_s is not None and self.left_s <= 0


def prospects(
    epoch: Epoch, dead_s: Mapping[str, float], evict_after_s: float = EVICT_AFTER_S,
    held: Mapping[str, str] | None = None,
) -> list[Prospect]:  # fmt: skip
    """What becomes of each dead member, the one that was dead for longest first. `evict_after_s` 0: nobody is removed.
    `held`: what `obstacles` says of these members, if that is known already."""
    if held is None:
        held = obstacles(epoch, dead_s.keys())
    found = []
    for member in sorted(held, key=lambda member: (-dead_s[member], member)):
        why_not = held[member] if evict_after_s > 0 else "automatic removal is off"
        left_s = None if why_not else max(0.0, evict_after_s - dead_s[member])
        found.append(Prospect(member, dead_s[member], left_s, why_not))
    return found


def obstacles(epoch: Epoch, dead: Collection[str]) -> dict[str, str]:
    """What keeps each dead member of the ring from being removed, whatever its time; "" if nothing does (V2 to V4)."""
    known = [member for member in epoch.everybody if member.id in dead]
    if not known:
        return {}
    for_all = lost_majorities(epoch, dead) or _zones(epoch.members, dead)
    awaited = _awaited(epoch)
    return {member.id: _obstacle(epoch, member, awaited, for_all) for member in known}


def to_remove(
    epoch: Epoch, dead_s: Mapping[str, float], evict_after_s: float = EVICT_AFTER_S
) -> Prospect | None:
    """Who is to be removed now (V5)."""
    return next((one for one in prospects(epoch, dead_s, evict_after_s) if one.due), None)


def turn_s(epoch: Epoch, me: str, dead: Collection[str]) -> float | None:
    """How long after a removal is due `me` proposes it; None: it leaves that to others (V6)."""
    before = {member.id for member in epoch.previous_members or epoch.members}
    living = [voter for voter in epoch.voters() if voter in before and voter not in dead]
    return living.index(me) * TURN_S if me in living else None


def waits_for(joint: Epoch, member_id: str) -> bool:
    """Whether a change cannot end without a member: it is a new owner of a partition whose owners change."""
    return member_id in _awaited(joint)


def lost_majorities(epoch: Epoch, dead: Collection[str], of: str = "") -> str:
    """Owner sets without a majority, in words; "" if there is none. Of the old owners in a joint epoch, for they are who the
    next change starts from. `of`: only those with that member."""
    table = epoch.table if epoch.previous is None else epoch.previous
    gone = frozenset(dead)
    touched = (
        owners for owners in table.all_owners if not gone.isdisjoint(owners) and (not of or of in owners)
    )
    lost = sum(2 * sum(owner not in gone for owner in owners) <= len(owners) for owners in touched)
    if not lost:
        return ""
    return "1 partition has lost its majority" if lost == 1 else f"{lost} partitions have lost their majority"


def words_of(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# --- inside


def _awaited(epoch: Epoch) -> frozenset[str]:
    """The new owners of partitions whose owners change."""
    if epoch.previous is None:
        return frozenset()
    changing = differing(epoch.previous, epoch.table)
    return frozenset(owner for partition in changing for owner in epoch.table.owners(partition))


def _obstacle(epoch: Epoch, member: Member, awaited: Collection[str], for_all: str) -> str:
    """What keeps one member from being removed. `for_all`: what keeps every one from it."""
    if epoch.previous is not None:
        if member.id not in awaited:
            return "the ring is being changed, which comes first"
        if all(one.id != member.id for one in epoch.previous_members):
            return ""  # it was joining: its change is given up, and that was all
        if not _too_few(epoch.members, member.id, epoch.replicas):
            return for_all
        return _too_few(epoch.previous_members, member.id, epoch.previous.replicas) or for_all
    return _too_few(epoch.members, member.id, epoch.replicas) or for_all


def _too_few(members: Iterable[Member], gone: str, replicas: int) -> str:
    """What is wrong with a ring of these members without that one; "" if it has enough, or the one owns nothing."""
    left = 0
    for one in members:
        if one.id != gone:
            left += one.state == ACTIVE
        elif one.state != ACTIVE:
            return ""
    if left >= replicas:
        return ""
    peers = "1 peer" if left == 1 else f"{left} peers"
    return f"{peers} would be left for {replicas} replicas"


def _zones(members: Iterable[Member], dead: Collection[str]) -> str:
    living = {member.zone for member in members if member.id not in dead}
    gone = sorted({member.zone for member in members if member.zone not in living})
    if len(gone) < 2:
        return ""
    return f"{len(gone)} zones are dead ({', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''})"


def _majority(members: Collection[Member], dead: Collection[str]) -> bool:
    return not (members and dead) or 2 * sum(member.id not in dead for member in members) > len(members)
