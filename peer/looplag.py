"""Whether this peer's event loop turns: everything a peer says and answers waits for it.

The loop beats every BEAT_S, and a thread watches the beats. When one is LATE_S overdue the thread logs where the loop
hangs, while it hangs; the next beat says how long it took. If the thread itself was late, nothing was wrong with the loop:
the whole process did not run (SIGSTOP, a machine that was suspended or starved).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peer.durations import LAG_S, Durations

log = logging.getLogger(__name__)

BEAT_S = 0.25
LATE_S = 1.0
TOLD_FOR_S = 10.0
"""A standstill is told for so long after its end: who blocked once tends to block again."""
STACK_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Standstill:
    """The loop did not turn for `lasted_s`, until `ended_s` (monotonic). `stopped`: nor did the whole process."""

    lasted_s: float
    ended_s: float
    stopped: bool


class LoopLag:
    """Watches one loop from `start` to `stop`. `on_standstill` is called on it, after each. `late`: how late beats came."""

    def __init__(
        self, on_standstill: Callable[[Standstill], None] = lambda one: None, now: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self.on_standstill = on_standstill
        self.count = self.stops = 0  # standstills; those in which the whole process stood still
        self.late = Durations(LAG_S)
        self.longest_s = 0.0
        self._now = now
        self._last: Standstill | None = None
        self._beat_s = self._looked_s = now()
        self._slept_s = 0.0  # how late the thread itself was, at most, since the last beat
        self._told = False
        self._timer: asyncio.TimerHandle | None = None
        self._ending = threading.Event()
        self._loop_thread = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._beat_s = self._looked_s = self._now()
        threading.Thread(target=self._watch, name="loop-lag", daemon=True).start()
        self._beat(loop)

    def stop(self) -> None:
        self._ending.set()
        if self._timer is not None:
            self._timer.cancel()

    def recent(self) -> Standstill | None:
        """The last standstill, if it ended less than TOLD_FOR_S ago."""
        last = self._last
        return last if last is not None and self._now() - last.ended_s < TOLD_FOR_S else None

    def info(self) -> dict[str, Any] | None:
        """The same for others to see: how long it `lasted_s`, and ended `ago_s`."""
        last = self.recent()
        if last is None:
            return None
        return {
            "lasted_s": round(last.lasted_s, 1),
            "ago_s": round(self._now() - last.ended_s, 1),
            "stopped": last.stopped,
        }

    # --- on the loop

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self.beat()
        self._timer = loop.call_later(BEAT_S, self._beat, loop)

    def beat(self) -> None:
        """The loop turns. One beat is due every BEAT_S."""
        now = self._now()
        late_s = now - self._beat_s - BEAT_S
        slept_s = max(self._slept_s, now - self._looked_s - BEAT_S)
        self._beat_s, self._slept_s, self._told = now, 0.0, False
        self.late.observe(max(0.0, late_s))
        if late_s < LATE_S:
            return
        one = self._last = Standstill(late_s, now, slept_s > late_s / 2)
        self.count += 1
        self.stops += one.stopped
        self.longest_s = max(self.longest_s, late_s)
        what = "this process was stopped" if one.stopped else "the event loop was blocked"
        log.warning("%s for %.1f s", what, late_s)
        self.on_standstill(one)

    # --- in the thread

    def _watch(self) -> None:
        while not self._ending.wait(BEAT_S):
            self.look()

    def look(self) -> bool:
        """Look for an overdue beat, every BEAT_S; whether it was told now where the loop hangs."""
        now = self._now()
        self._slept_s = max(self._slept_s, now - self._looked_s - BEAT_S)
        self._looked_s = now
        overdue_s = now - self._beat_s - BEAT_S
        if self._told or overdue_s < LATE_S or self._slept_s > overdue_s / 2:
            return False
        self._told = True
        frame = sys._current_frames().get(self._loop_thread)
        where = "".join(traceback.format_stack(frame, STACK_DEPTH)) if frame is not None else "  ?\n"
        log.warning("the event loop has not turned for %.1f s; it is here:\n%s", overdue_s, where.rstrip())
        return True
