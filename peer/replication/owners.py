"""Who owns a row: whose answers make a majority."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain


class Owners:
    """Who owns a row: one set of members, or in a joint epoch the old one and the new one. Immutable."""

    __slots__ = ("everyone", "joint", "need", "needed", "sets")

    def __init__(self, *sets: tuple[str, ...]) -> None:
        self.sets = self.needed = sets
        self.everyone: tuple[str, ...] = sets[0] if len(sets) == 1 else tuple(dict.fromkeys(chain(*sets)))
        self.joint = len(sets) > 1
        self.need = len(sets[0]) // 2 + 1
        """The majority, where there is one set."""

    def majority(self, members: Collection[str]) -> bool:
        """Whether these are more than half of every set (that is `needed`; negative controls take one out)."""
        return all(2 * sum(owner in members for owner in owners) > len(owners) for owners in self.needed)
