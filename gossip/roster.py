"""A set of members to draw from: in a random order without repetition, or a few at random. All in O(1).

SWIM probes in rounds, each a fresh random permutation, so every member is probed at least once in any
2n - 1 probes (SWIM, section 4.3). The list is cut in two: those drawn in this round, then the rest. A draw
swaps a random one of the rest to the cut and moves the cut: a shuffle spread over the round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Rng(Protocol):
    """What the state machine needs of `random.Random`."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...


class Seated(Protocol):
    """A member of at most one roster at a time; `seat` is its index there, -1 in none."""

    seat: int


T = TypeVar("T", bound=Seated)


class Roster(Generic[T]):
    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._seats: list[T] = []
        self._cut = 0  # those before it were drawn in this round

    def __len__(self) -> int:
        return len(self._seats)

    def add(self, item: T) -> None:
        """Join, still to be drawn in this round. The item must be in no roster."""
        assert item.seat < 0
        item.seat = len(self._seats)
        self._seats.append(item)

    def remove(self, item: T) -> None:
        """Leave. The item must be in this roster."""
        seat = item.seat
        assert self._seats[seat] is item
        if seat < self._cut:
            self._cut -= 1
            self._swap(seat, self._cut)
            seat = self._cut
        self._swap(seat, len(self._seats) - 1)
        self._seats.pop()
        item.seat = -1

    def draw(self) -> T | None:
        """The next of this round, in random order; None of none."""
        if not self._seats:
            return None
        if self._cut >= len(self._seats):
            self._cut = 0
        self._swap(self._cut, self._cut + int(self._rng.random() * (len(self._seats) - self._cut)))
        self._cut += 1
        return self._seats[self._cut - 1]

    def pick(self) -> T | None:
        """Anyone, with equal chances; None of none."""
        return self._seats[int(self._rng.random() * len(self._seats))] if self._seats else None

    def sample(self, count: int, accept: Callable[[T], bool]) -> list[T]:
        """Up to `count` different ones that `accept` takes; may find fewer where few are acceptable."""
        chosen: list[T] = []
        seats = self._seats
        if len(seats) <= 4 * count:
            rest = [item for item in seats if accept(item)]
            while rest and len(chosen) < count:
                chosen.append(rest.pop(int(self._rng.random() * len(rest))))
            return chosen
        for _ in range(4 * count):
            item = seats[int(self._rng.random() * len(seats))]
            if item not in chosen and accept(item):
                chosen.append(item)
                if len(chosen) == count:
                    break
        return chosen

    def __contains__(self, item: T) -> bool:
        return 0 <= item.seat < len(self._seats) and self._seats[item.seat] is item

    def _swap(self, one: int, other: int) -> None:
        seats = self._seats
        seats[one], seats[other] = seats[other], seats[one]
        seats[one].seat = one
        seats[other].seat = other
