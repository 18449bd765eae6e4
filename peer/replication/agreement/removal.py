"""Having a dead member removed or replaced, also in the middle of a change that waits for it (architecture.md §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ring.changes import aborted, redone_with, redone_without, removed, returned
from ring.epoch import Epoch
from ring.eviction import waits_for
from ring.members import Member

Change = Callable[[Epoch], Epoch]
Decide = Callable[[Change], Awaitable[Epoch]]


async def remove_dead(decide: Decide, base: Epoch, member_id: str) -> Epoch:
    """Have a member removed that will not come back; the epoch that stands then.

    `decide` has a change decided (`Replica.change_ring`), `base` is the ring it was judged by: in any other one nothing
    happens. A change that waits for the member is given up and made anew without it; should this end between the two, the
    ring is as before that change.
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


async def take_back(decide: Decide, base: Epoch, former: str, member: Member) -> Epoch:
    """Have `member` take the place it had as `former`, before it lost its memory; the epoch that stands then.

    A change that waits for the former one is given up and made anew with the new one. Raises what `decide` does.
    """
    if base.kind == "joint" and waits_for(base, former):
        back = aborted(base)
        if await decide(lambda ring: back if ring == base else ring) == back:
            await decide(lambda ring: redone_with(ring, base, former, member) if ring == back else ring)
    return await decide(lambda ring: returned(ring, former, member))
