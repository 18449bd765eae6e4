"""Deadlines in the time this process was awake.

A process that was stopped, swapped out or stuck in a long turn wakes up with all its deadlines passed at
once. What it waited for may have arrived meanwhile, or may be late for the same reason. Were the deadlines
to count, it would accuse healthy members. So the clock here stops during a pause: when the earliest
deadline is found more than `late_s` past, the time since the last event does not count, which moves every
deadline back by the pause at the cost of one addition.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

# [deadline, order of arming, what to do or None if cancelled, its argument]
Timer = list[Any]

# Adding and subtracting the time slept rounds: a caller who comes exactly at `next_clock` may seem to be
# early by a little, and must not be sent away to come again at the same moment.
_ROUNDING_S = 1e-6


class Timers:
    """A heap of timers. All methods but `observe` and `next_clock` use awake time in seconds."""

    __slots__ = ("_armed", "_forgave", "_heap", "_late_s", "_slept_s", "now")

    def __init__(self, clock: float, late_s: float) -> None:
        self.now = clock
        self._slept_s = 0.0
        self._late_s = late_s
        self._heap: list[Timer] = []
        self._armed = 0
        # A pause was forgiven since the last timer fired. The next one then counts only from the earliest
        # deadline on: a loop that is always late must still get its timers, if later.
        self._forgave = False

    def observe(self, clock: float) -> float:
        """It is now `clock` seconds on the caller's monotonic clock. Returns how late we are, 0 if not."""
        awake = clock - self._slept_s
        heap = self._heap
        late = 0.0
        if heap and awake - heap[0][0] > self._late_s:
            self._drop_cancelled()
            if heap and awake - heap[0][0] > self._late_s:
                late = awake - heap[0][0]
                pause = awake - (max(self.now, heap[0][0]) if self._forgave else self.now)
                self._forgave = True
                self._slept_s += pause
                awake -= pause
        if awake > self.now:
            self.now = awake
        return late

    def at(self, deadline: float, action: Callable[[Any], None], argument: object = None) -> Timer:
        """Call `action(argument)` from the first `pop_due` at or after `deadline`."""
        self._armed += 1
        timer: Timer = [deadline, self._armed, action, argument]
        heapq.heappush(self._heap, timer)
        return timer

    @staticmethod
    def cancel(timer: Timer) -> None:
        """It will not be called; its place is freed when its deadline comes to the top."""
        timer[2] = timer[3] = None

    def pop_due(self) -> Timer | None:
        """The earliest timer whose deadline has come, no longer armed; or None."""
        self._drop_cancelled()
        if not self._heap or self._heap[0][0] > self.now + _ROUNDING_S:
            return None
        self._forgave = False
        timer = heapq.heappop(self._heap)
        self.now = max(self.now, timer[0])
        return timer

    def next_clock(self) -> float:
        """When `pop_due` will next have something, on the caller's clock; infinite if never."""
        self._drop_cancelled()
        return self._heap[0][0] + self._slept_s if self._heap else float("inf")

    def _drop_cancelled(self) -> None:
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
