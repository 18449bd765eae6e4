"""Ballots: an order that bytes keep, and numbers that are issued once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.replication.ballot import BALLOT_BYTES, NONE, BallotClock, ceiling, counter_of
from tests.replication_world import ballot_at
from tools.sim.env import SimEnv
from tools.sim.loop import VirtualLoop

COUNTERS = st.integers(0, 2**64 - 1)
PARTS = st.tuples(COUNTERS, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


class Clock:
    """A BallotClock on a wall clock that the test sets."""

    def __init__(self, who: int = 7, boot: int = 3) -> None:
        self.loop = VirtualLoop()
        self.env = SimEnv(self.loop, "a", "a")
        self.ballots = BallotClock(self.env, f"{who:016x}", boot)
        self.start_us = self.env.wall_us()

    def at(self, offset_us: int) -> None:
        self.env.skew_s = offset_us / 1e6

    def close(self) -> None:
        self.loop.close()


@given(PARTS, PARTS)
@settings(deadline=None, max_examples=200)
def test_bytes_order_as_the_parts_do(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """Goal: comparing encoded ballots compares (counter, member, boot); NONE is below all of them."""
    assert (ballot_at(*one) < ballot_at(*other)) == (one < other)
    assert ballot_at(*one) > NONE
    assert len(ballot_at(*one)) == BALLOT_BYTES
    assert counter_of(ballot_at(*one)) == one[0]


@given(COUNTERS, PARTS)
@settings(deadline=None, max_examples=100)
def test_a_ceiling_bounds_exactly_its_counter(counter: int, parts: tuple[int, int, int]) -> None:
    """Goal: the ceiling of a counter is at or above every ballot of it and below every ballot of the next."""
    assert (ballot_at(*parts) <= ceiling(counter)) == (parts[0] <= counter)
    assert counter_of(NONE) == 0


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(-5, 5)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=100)
def test_b1_no_ballot_twice_whatever_the_clock_does(steps: list[tuple[int, int]]) -> None:
    """Goal (B1): counters only rise while the clock jumps both ways, and each beats the highest seen."""
    clock = Clock()
    issued: list[bytes] = []
    for offset_us, seen in steps:
        clock.at(offset_us)
        above = ballot_at(counter_of(issued[-1]) + seen, who=2**63) if issued else NONE
        ballot = clock.ballots.next(above)
        assert ballot > above
        assert not issued or ballot > issued[-1]
        issued.append(ballot)
    assert [counter_of(ballot) for ballot in issued] == sorted({counter_of(ballot) for ballot in issued})
    clock.close()


def test_b1_two_starts_and_two_members_never_share_a_ballot() -> None:
    """Goal (B1): at the same microsecond another boot or another member issues another ballot."""
    clocks = [Clock(who, boot) for who in (1, 2) for boot in (1, 2)]
    ballots = [clock.ballots.next() for clock in clocks]
    assert len(set(ballots)) == 4
    assert len({counter_of(ballot) for ballot in ballots}) == 1
    for clock in clocks:
        clock.close()


def test_a_right_clock_shows_in_the_counter() -> None:
    """Goal: without contention the counter is the wall clock in microseconds."""
    clock = Clock()
    assert counter_of(clock.ballots.next()) == clock.start_us
    clock.at(1_000_000)
    assert counter_of(clock.ballots.next()) == clock.start_us + 1_000_000
    clock.close()
