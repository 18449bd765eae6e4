"""Whose clock is wrong: by how much each differs from most of the others.

A peer's offset is its wall clock when it answered minus ours halfway between question and answer (Cristian, Probabilistic
clock synchronization, 1989): off by half the time that took at most, so what took longer than `ROUND_TRIP_S` says nothing.
Nothing of Atoll's order of changes depends on clocks; times shown to people do, and signatures of requests will.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median_low

SKEW_S = 5.0
"""More is told as a warning."""
ROUND_TRIP_S = 1.0


def offset_s(theirs_us: int, sent_us: int, round_trip_s: float) -> float | None:
    """By how many seconds another clock is ahead of ours; None if the question was under way for too long."""
    if not 0.0 <= round_trip_s <= ROUND_TRIP_S:
        return None
    return (theirs_us - sent_us) / 1e6 - round_trip_s / 2


def skews(offsets: Mapping[str, float]) -> dict[str, float]:
    """Each offset against the median of all, so that it is the one wrong clock that is told of, were it our own. Of two
    clocks nobody can say which is right: the faster one is said to be ahead."""
    middle = median_low(offsets.values())
    return {member: round(offset - middle, 3) for member, offset in offsets.items()}
