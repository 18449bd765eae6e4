"""Who has room for what is to be written: the rule that owners and coordinators share, and what a coordinator was told.

What an owner said of its disk counts for FULL_FOR_S: a majority promises, and the third may be the full one. It is a guess
at what a commit would find there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peer.errors import AtollError, Full, Unavailable
from peer.replication.env import Env
from peer.replication.keys import OBJECT
from peer.replication.owners import Owners
from peer.replication.quorum import Poll, Round, Send

FULL_FOR_S = 2.0
"""So long after a commit that did not fit an owner tells coordinators that its disk is full: long enough that a client
who tries again hears a definite "full", short enough that space given back is soon used."""
ANSWER_S = 0.5
"""So long a coordinator waits for what an owner says of its disk: longer than a hedge, as silence refuses the write."""


def needs_room(key: bytes, payload: bytes | None) -> bool:
    """Whether a disk that is all but full refuses this. Only heads of objects: tombstones, gates and records of buckets are
    how space is given back, and have what the ballast keeps free."""
    return key[0] == OBJECT and payload is not None


class Room:
    """Members that said a moment ago that their disk is full; no more than were in the ring in that time."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._full: dict[str, float] = {}  # until when that counts

    def note(self, member: str, full: bool) -> None:
        """What a member said of its disk."""
        if full:
            self._full[member] = self._env.now() + FULL_FOR_S
        else:
            self._full.pop(member, None)

    def lacking(self, owners: Iterable[str]) -> list[str]:
        """Those of the owners that have no room. What was said too long ago, by members that left, too, is forgotten."""
        now = self._env.now()
        self._full = {member: until_s for member, until_s in self._full.items() if until_s > now}
        return [owner for owner in owners if owner in self._full]

    async def refusal(
        self, send: Send, message: tuple[Any, ...], owners: Owners, prepared: Round
    ) -> AtollError | None:
        """Why an accept of what needs room is not to be sent: too few owners would take it. None: enough would.

        `prepared`: the round in which `message`, a PREPARE, found its majority. When somebody has no room the others are
        asked, too, and only who promised counts: what one owner takes and neither a full one nor a dead one can hides what
        stands, or leaves it in doubt, until there is room. Full, or Unavailable if there might be room with the silent.
        """
        heard = len(prepared.oks)
        promised = {owner for owner, _ in prepared.oks}
        full = self.lacking(owners.everyone)
        if not full or owners.majority(promised.difference(full)):
            return None
        rest = [owner for owner in owners.everyone if owner not in promised]
        more = Poll(self._env, send, message, rest, ANSWER_S)
        await more.run()
        for owner, reply in prepared.oks[heard:] + more.oks:  # who was asked twice promised the first time
            self.note(owner, reply[4])
            promised.add(owner)
        full = self.lacking(owners.everyone)
        if not full or owners.majority(promised.difference(full)):
            return None
        story = "; ".join(f"{owner}: its disk is full" for owner in full)
        if not owners.majority(set(owners.everyone).difference(full)):
            return Full(too_full(story))
        return Unavailable(
            f"some owners of this key have a full disk ({story}), and too few others answered ({more.story()}); try again"
        )


def too_full(story: str) -> str:
    """The sentence for a client, with what the owners said."""
    return f"too many owners of this key have a full disk ({story}); free space or add a peer"
