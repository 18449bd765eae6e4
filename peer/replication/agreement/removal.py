"""Having a dead member removed or replaced, also in the middle of a change that waits for it (architecture.md §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from ring.changes import aborted, redone_with, redone_without, removed, replaced, returned
from ring.epoch import Epoch
from ring.eviction import waits_for
from ring.members import Member

Change = Callable[[Epoch], Epoch]
Decide = Callable[[Change], Awaitable[Epoch]]


def without_dead(base: Epoch, member_id: str) -> Epoch:
    """The ring that `remove_dead` gets to from `base`, should nothing come between. Raises ChangeRefused if the member would
    stay in it: too few would be left, or the ring is being changed and that waits for others."""
    if base.kind == "final" or not waits_for(base, member_id):
        return removed(base, member_id)
    return redone_without(aborted(base), base, member_id)


async def remove_dead(decide: Decide, base: Epoch, member_id: str) -> Epoch:
    """Have a member removed that will not come back; the epoch that stands then.

    `decide` has a change decided (`Replica.change_ring`), `base` is the ring it was judged by: in any other one nothing
    happens. A change that waits for the member is given up and made anew without it (`redone_without`); should this end
    between the two, the ring is as before that change.
    Raises what `decide` does: RingRefused, Unavailable.
    """
    if base.kind == "final":
        return await decide(lambda ring: removed(ring, member_id) if ring == base else ring)
    if not waits_for(base, member_id):
        return await decide(lambda ring: removed(ring, member_id))  # it is refused: the ring is being changed
    back = aborted(base)
    stands = await decide(lambda ring: back if ring == base else ring)
    if stands != back:
        return stands
    return await decide(lambda ring: redone_without(ring, base, member_id) if ring == back else ring)


async def take_place(decide: Decide, base: Epoch, old_id: str, member: Member, *, same: bool) -> Epoch:
    """Have `member` join in the place of one that is dead, in one change; the epoch that stands then.

    `same`: it is that one itself, come back without its memory: it has the weight, zone and state it had then. A change that
    waits for the dead one is given up and made anew with the new one. Raises what `decide` does.
    """
    if base.kind == "joint" and waits_for(base, old_id):
        back = aborted(base)
        if await decide(lambda ring: back if ring == base else ring) == back:
            anew = partial(redone_with, joint=base, old_id=old_id, member=member, same=same)
            await decide(lambda ring: anew(ring) if ring == back else ring)
    change = returned if same else replaced
    return await decide(lambda ring: change(ring, old_id, member))
