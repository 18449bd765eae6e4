"""Deadlines in awake time: a pause moves them back, a slow loop only delays them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.timers import Timers


def fire(timers: Timers) -> list[object]:
    """The arguments of all timers that are due, in order."""
    fired = []
    while (timer := timers.pop_due()) is not None:
        fired.append(timer[3])
    return fired


def nothing(_: object) -> None:
    """What the timers of these tests would do."""


def test_timers_fire_in_order() -> None:
    """Goal: by deadline, then by order of arming; cancelled ones never."""
    timers = Timers(100.0, 0.1)
    for deadline, name in ((102.0, "c"), (101.0, "a"), (101.0, "b")):
        timers.at(deadline, nothing, name)
    Timers.cancel(timers.at(100.5, nothing, "x"))
    assert timers.next_clock() == 101.0
    assert timers.observe(101.05) == 0.0
    assert fire(timers) == ["a", "b"]
    timers.observe(102.0)
    assert fire(timers) == ["c"]
    assert timers.next_clock() == float("inf")


def test_a_pause_moves_every_deadline_back() -> None:
    """Goal: the time from the last event before a pause to its end does not count."""
    timers = Timers(0.0, 0.1)
    timers.at(0.5, nothing, "probe")
    timers.at(4.0, nothing, "suspicion")
    timers.observe(0.2)
    assert timers.observe(60.2) > 59.0
    assert timers.now == pytest.approx(0.2)
    assert fire(timers) == []
    assert timers.next_clock() == pytest.approx(60.5)
    timers.observe(timers.next_clock())
    assert fire(timers) == ["probe"]
    assert timers.next_clock() == pytest.approx(64.0)


def test_a_loop_that_is_always_late_still_gets_its_timers() -> None:
    """Goal: forgiving one pause after another must not keep a timer from ever firing."""
    timers = Timers(0.0, 0.1)
    clock, fired = 0.0, 0
    timers.at(1.0, nothing, None)
    for _ in range(40):
        clock = max(clock, timers.next_clock()) + 0.5
        timers.observe(clock)
        for _timer in fire(timers):
            fired += 1
            timers.at(timers.now + 1.0, nothing, None)
    assert fired >= 15


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=40), st.floats(0.0, 1e6))
def test_awake_time_never_runs_backwards_or_ahead(steps: list[float], start: float) -> None:
    """Goal: whatever the pauses, awake time is monotonic and never exceeds the clock's, and calling at
    `next_clock` always makes progress."""
    timers = Timers(start, 0.1)
    clock, before = start, timers.now
    timers.at(start + 1.0, nothing, None)
    for step in steps:
        clock += step
        timers.observe(clock)
        assert before <= timers.now <= clock + 1e-6
        before = timers.now
        for _timer in fire(timers):
            timers.at(timers.now + 1.0, nothing, None)
        before = timers.now
    for _ in range(5):
        clock = max(clock, timers.next_clock())
        timers.observe(clock)
        assert fire(timers) == [None]
        timers.at(timers.now + 1.0, nothing, None)
