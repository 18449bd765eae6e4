"""How long an accused member has to defend itself (Lifeguard, section IV-B).

A lone accuser may be the one who is ill, so its word alone runs the longest time. Each further
independent accuser shortens it, logarithmically, down to the shortest.
"""

from __future__ import annotations

import math


class Suspicion:
    """One accusation in progress. `deadline` is when the member is declared dead."""

    __slots__ = ("_longest_s", "_shortest_s", "_wanted", "accusers", "deadline", "started")

    def __init__(
        self, accuser: str, started: float, shortest_s: float, longest_s: float, wanted: int
    ) -> None:
        self.started = started
        # In order of their accusations; at most `wanted` + 1 of them.
        self.accusers: dict[str, None] = {accuser: None}
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._wanted = wanted
        self.deadline = started + self._patience_s()

    def confirm(self, accuser: str) -> bool:
        """Another member accuses too. True if that was news; then `deadline` has come nearer.

        False if this accuser was heard before, or if enough have been.
        """
        if len(self.accusers) > self._wanted or accuser in self.accusers:
            return False
        self.accusers[accuser] = None
        self.deadline = self.started + self._patience_s()
        return True

    def _patience_s(self) -> float:
        if self._wanted == 0:
            return self._shortest_s
        share = math.log(len(self.accusers)) / math.log(self._wanted + 1)
        return max(self._shortest_s, self._longest_s - (self._longest_s - self._shortest_s) * share)
