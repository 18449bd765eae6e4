"""Drawing members: everyone once per round, in random order, whoever comes and goes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.roster import Roster


class Seat:
    def __init__(self, number: int) -> None:
        self.number = number
        self.seat = -1


def filled(count: int, seed: int = 1) -> tuple[Roster[Seat], list[Seat]]:
    roster: Roster[Seat] = Roster(random.Random(seed))
    seats = [Seat(number) for number in range(count)]
    for seat in seats:
        roster.add(seat)
    return roster, seats


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_a_round_is_a_permutation(count: int, seed: int) -> None:
    """Goal: n draws give each of n members once, so nobody waits for more than 2n - 1 draws."""
    roster, _ = filled(count, seed)
    for _ in range(3):
        drawn = [roster.draw().number for _ in range(count)]  # type: ignore[union-attr]
        assert sorted(drawn) == list(range(count))


def test_rounds_differ() -> None:
    """Goal: the order of one round says nothing about the next."""
    roster, _ = filled(20)
    rounds = {tuple(roster.draw().number for _ in range(20)) for _ in range(10)}  # type: ignore[union-attr]
    assert len(rounds) == 10


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "draw"]), st.integers(0, 2**16)), max_size=80))
def test_seats_stay_right_through_any_changes(steps: list[tuple[str, int]]) -> None:
    """Goal: after any joins, leaves and draws the roster holds exactly its members, each at its seat."""
    roster, present = filled(3)
    for action, choice in steps:
        if action == "add":
            present.append(Seat(choice))
            roster.add(present[-1])
        elif action == "remove" and present:
            gone = present.pop(choice % len(present))
            roster.remove(gone)
            assert gone not in roster and gone.seat == -1
        elif action == "draw":
            assert (roster.draw() in present) if present else (roster.draw() is None)
        assert len(roster) == len(present)
        assert all(seat in roster for seat in present)
    # Within two rounds everyone present is drawn.
    drawn = {id(roster.draw()) for _ in range(2 * len(present))}
    assert drawn == {id(seat) for seat in present}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(1, 5), st.integers(0, 2**32))
def test_samples_are_different_acceptable_members(count: int, wanted: int, seed: int) -> None:
    """Goal: a sample never repeats a member or holds one that was not acceptable, and is not short
    where there is plenty."""
    roster, _ = filled(count, seed)
    sample = roster.sample(wanted, lambda seat: seat.number % 7 != 0)
    assert len({seat.number for seat in sample}) == len(sample) <= wanted
    assert all(seat.number % 7 for seat in sample)
    if count <= 4 * wanted:
        assert len(sample) == min(wanted, sum(1 for number in range(count) if number % 7))


def test_nobody_to_draw() -> None:
    """Goal: an empty roster answers with nobody."""
    roster, _ = filled(0)
    assert roster.draw() is None and roster.pick() is None
    assert roster.sample(3, lambda seat: True) == []
