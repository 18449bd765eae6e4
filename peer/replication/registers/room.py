"""Who has room for what is to be written, as far as a coordinator was told.

What an owner said of its disk counts for FULL_FOR_S: a majority promises, and the third may be the full one. It is a guess
at what a commit would find there.
"""

from __future__ import annotations

from collections.abc import Iterable

from peer.replication.env import Env

from .acceptor import FULL_FOR_S


class Room:
    """Members that said a moment ago that their disk is full; no more than there are in the ring."""

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
        """Those of the owners that have no room."""
        now = self._env.now()
        return [owner for owner in owners if self._full.get(owner, now) > now]


def too_full(story: str) -> str:
    """The sentence for a client, with what the owners said."""
    return f"too many owners of this key have a full disk ({story}); free space or add a peer"
