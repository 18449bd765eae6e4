"""Changes of the ring, as pure functions from one epoch to the next (architecture.md §5).

Each change takes the present epoch, final, and returns the final epoch that is wanted. Where owner sets differ,
`joint_of` makes of the two the joint epoch that goes between them, and `completed` or `aborted` makes of that the final one.

A joint epoch carries the members and the table of both sides, so that `aborted` restores exactly what was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ring.epoch import Epoch
from ring.members import ACTIVE, DRAINING, LEAVING, Member
from ring.placement import place
from ring.table import MAX_REPLICAS, Table


class ChangeRefused(ValueError):
    """The ring must not change so. `code` is the API's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# --- what operators and peers want


def joined(base: Epoch, member: Member) -> Epoch:
    """`base` with one more member and its share of the ring; itself if it is in already."""
    known = base.member(member.id)
    if known is not None:
        if replace(known, state=ACTIVE, zone=member.zone, weight=member.weight) == member:
            return base
        raise ChangeRefused(
            "InvalidRequest", f"member {member.id} is already in the ring under another address"
        )
    _final(base)
    _refuse_name(base, member)
    return _next(base, (*base.members, member))


def replaced(base: Epoch, old_id: str, member: Member) -> Epoch:
    """`member` joins and `old_id` goes, in one change: what the one held the other gets, mostly."""
    if base.member(old_id) is None:
        return joined(base, member)
    if base.member(member.id) is not None:
        return removed(base, old_id)
    _final(base)
    others = tuple(one for one in base.members if one.id != old_id)
    _refuse_name(base, member, but=old_id)
    return _next(base, (*others, member))


def returned(base: Epoch, old_id: str, member: Member) -> Epoch:
    """`member` is `old_id`, come back without its memory: it takes that one's place, with its weight, zone and state."""
    old = base.member(old_id)
    if old is None or base.member(member.id) is not None:
        return replaced(base, old_id, member)
    return replaced(base, old_id, _as(old, member))


def redone_with(base: Epoch, joint: Epoch, old_id: str, member: Member, *, same: bool) -> Epoch:
    """The change `joint` was to make, anew on `base`, which it was aborted to, with `member` in the place of one that died
    over it; of itself, if it is the `same` and lost its memory."""
    old = joint.member(old_id)
    if old is None or base.member(old_id) is None or base.member(member.id) is not None:
        return base
    _final(base)
    _refuse_name(base, member, but=old_id)
    others = tuple(one for one in joint.members if one.id != old_id)
    return _next(base, (*others, _as(old, member) if same else member), joint.replicas)


def drained(base: Epoch, member_id: str, *, leave: bool = False) -> Epoch:
    """`base` without partitions for a member that goes on serving them until they have moved.

    `leave`: it is removed then.
    """
    member, state = _member(base, member_id), LEAVING if leave else DRAINING
    if member.state == state:
        return base
    _final(base)
    members = _with(base, replace(member, state=state))
    if member.state == ACTIVE:
        _refuse_too_few(base, members, f"without {member.name}")
    return _next(base, members)


def undrained(base: Epoch, member_id: str) -> Epoch:
    """`base` with a share for a member that was draining or leaving."""
    member = _member(base, member_id)
    if member.state == ACTIVE:
        return base
    _final(base)
    return _next(base, _with(base, replace(member, state=ACTIVE)))


def removed(base: Epoch, member_id: str) -> Epoch:
    """`base` without a member that is dead, or that holds nothing any more."""
    if base.member(member_id) is None:
        return base
    member = _member(base, member_id)
    _final(base)
    members = tuple(one for one in base.members if one.id != member_id)
    if member.state == ACTIVE:
        _refuse_too_few(base, members, f"without {member.name}")
    return _next(base, members)


def redone_without(base: Epoch, joint: Epoch, member_id: str) -> Epoch:
    """What becomes of the change `joint` was to make when a member that it waits for is dead, on `base`, which it was
    aborted to: the same change without that member; where too few would be left for it, only the removal; `base` itself if
    the member was only joining."""
    if base.member(member_id) is None:
        return base
    _final(base)
    rest = tuple(member for member in joint.members if member.id != member_id)
    if sum(member.state == ACTIVE for member in rest) >= joint.replicas:
        return _next(base, rest, joint.replicas)
    return removed(base, member_id)


def revised(base: Epoch, member_id: str, *, capacity: int | None = None, zone: str | None = None) -> Epoch:
    """`base` with another capacity or zone of a member."""
    member = _member(base, member_id)
    wanted = replace(
        member,
        weight=member.weight if capacity is None else capacity,
        zone=member.zone if zone is None else zone,
    )
    if wanted == member:
        return base
    _final(base)
    return _next(base, _with(base, wanted))


def with_replicas(base: Epoch, replicas: int) -> Epoch:
    """`base` with another number of copies of everything."""
    if type(replicas) is not int or not 1 <= replicas <= MAX_REPLICAS:
        raise ChangeRefused(
            "InvalidArgument", f"replicas are from 1 to {MAX_REPLICAS}, not {str(replicas)[:20]}"
        )
    if replicas == base.replicas:
        return base
    _final(base)
    active = sum(member.state == ACTIVE for member in base.members)
    if replicas > max(active, base.replicas):
        raise ChangeRefused(
            "TooFewPeers",
            f"{replicas} replicas need {replicas} peers, and there are {active}; add peers first",
        )
    return _next(base, base.members, replicas)


def rebalanced(base: Epoch) -> Epoch:
    """`base` one step nearer to balance; itself when it is there. Some changes take more than one step (R5)."""
    wanted = _next(base, base.members)
    return base if same_owners(base.table, wanted.table) else wanted


# --- the two steps


def joint_of(base: Epoch, wanted: Epoch) -> Epoch:
    """The joint epoch between two final ones."""
    return replace(
        wanted, number=base.number + 1, kind="joint", previous=base.table, previous_members=base.members
    )


def completed(joint: Epoch) -> Epoch:
    """The final epoch with the new table, once every new owner holds what a majority of the old ones held."""
    return replace(joint, number=joint.number + 1, kind="final", previous=None, previous_members=())


def aborted(joint: Epoch) -> Epoch:
    """The final epoch with the old table and members."""
    old = joint.previous
    assert old is not None, "only a joint epoch can be aborted"
    return replace(
        joint, number=joint.number + 1, kind="final", previous=None, previous_members=(), members=joint.previous_members,
        table=old, replicas=old.replicas,
    )  # fmt: skip


def same_owners(one: Table, other: Table) -> bool:
    """Whether every partition has the same owners in both, in any order."""
    return not any(True for _ in differing(one, other))


def differing(one: Table, other: Table) -> Sequence[int]:
    """The partitions whose owner sets differ, ascending."""
    cache: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}
    found = []
    for partition in range(one.partitions):
        pair = one.owners(partition), other.owners(partition)
        differs = cache.get(pair)
        if differs is None:
            differs = cache[pair] = set(pair[0]) != set(pair[1])
        if differs:
            found.append(partition)
    return found


# --- inside


def _final(base: Epoch) -> None:
    if base.kind != "final":
        raise ChangeRefused(
            "ChangeUnderWay", "the ring is being changed; wait until that has ended (`atoll status` shows it)"
        )


def _member(base: Epoch, member_id: str) -> Member:
    member = base.member(member_id)
    if member is None:
        raise ChangeRefused("NoSuchNode", f"there is no peer {member_id[:80]!r} in the ring")
    return member


def _as(old: Member, member: Member) -> Member:
    return replace(member, weight=old.weight, zone=old.zone, state=old.state)


def _with(base: Epoch, member: Member) -> tuple[Member, ...]:
    return tuple(member if one.id == member.id else one for one in base.members)


def _refuse_name(base: Epoch, member: Member, but: str = "") -> None:
    if any(one.name == member.name for one in base.members if one.id != but):
        raise ChangeRefused(
            "InvalidRequest",
            f"the cluster has a peer named {member.name!r} already; choose another --name, or, if that one is lost for good,"
            f" take its place with --replace {member.name}",
        )


def _refuse_too_few(base: Epoch, members: Sequence[Member], what: str) -> None:
    left = sum(member.state == ACTIVE for member in members)
    if left < base.replicas:
        raise ChangeRefused(
            "TooFewPeers",
            f"{what} {left} peers would be left for {base.replicas} replicas; add a peer first, or lower the replicas"
            " (`atoll ring set-replicas`)",
        )


def _next(base: Epoch, members: Sequence[Member], replicas: int | None = None) -> Epoch:
    """The final epoch after `base` with these members and the table that suits them."""
    copies = base.replicas if replicas is None else replicas
    active = [member for member in members if member.state == ACTIVE]
    return replace(
        base, number=base.number + 1, members=tuple(members), replicas=copies,
        table=place(base.table, active, copies, base.partition_power),
    )  # fmt: skip
