"""Whom to ask first: a matter of speed, never of right. Every owner's word counts the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .env import Env
from .lateness import Lateness


class Preference:
    """What one peer knows of the others' promptness."""

    def __init__(self, env: Env, me: str, is_alive: Callable[[str], bool]) -> None:
        self._me = me
        self._is_alive = is_alive
        self._lateness = Lateness(env)
        self.hampered: frozenset[str] = frozenset()
        """Members, this peer perhaps among them, that say of themselves that their disk is slow or takes no writes, or that
        their event loop was blocked. They are asked after the prompt ones, and before those believed dead."""

    def order(self, owners: Iterable[str]) -> list[str]:
        """Owners in the order to ask them: this peer, then those believed alive and prompt, then the hampered, then the
        rest."""
        first: list[str] = []
        hampered: list[str] = []
        last: list[str] = []
        for owner in owners:
            if owner == self._me:
                (hampered if owner in self.hampered else first).insert(0, owner)
            elif not self._is_alive(owner) or self._lateness.avoided(owner):
                last.append(owner)
            else:
                (hampered if owner in self.hampered else first).append(owner)
        return first + hampered + last if hampered or last else first

    def was_late(self, member: str) -> None:
        """A hedge fired while this member owed an answer: ask it later for a while."""
        self._lateness.late(member)

    def pardon(self) -> None:
        """This peer itself stood still, so whoever seemed late need not have been."""
        self._lateness.clear()
