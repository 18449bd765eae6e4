"""Local health: how far this member trusts its own view (Lifeguard, section IV-A).

A member that is starved of CPU or deaf misses answers and would accuse healthy others. Missed answers of
those who surely are there (relays that do not even say no), refutations it had to make, and pauses of
its own raise the score; answered probes lower it. The probe interval stretches with the score.
"""

from __future__ import annotations


class Awareness:
    """A score from 0 (healthy) to `most`."""

    __slots__ = ("_most", "score")

    def __init__(self, most: int) -> None:
        self._most = most
        self.score = 0

    def add(self, points: int) -> None:
        """Worse by so many points, better if negative; stays within 0 and the most."""
        self.score = max(0, min(self._most, self.score + points))

    def stretch(self, duration_s: float) -> float:
        """A duration as long as the present score asks for: 1 to `most` + 1 times."""
        return duration_s * (self.score + 1)
