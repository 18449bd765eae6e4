"""The event loop's beats: a standstill is measured, told for a while, and told apart from a process that did not run."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from peer.looplag import BEAT_S, LATE_S, TOLD_FOR_S, LoopLag, Standstill


class Bench:
    """A loop and its watching thread, turned by hand."""

    def __init__(self) -> None:
        self.now_s = 500.0
        self.seen: list[Standstill] = []
        self.lag = LoopLag(self.seen.append, lambda: self.now_s)

    def run(self, seconds: float, *, loop: bool = True, thread: bool = True) -> list[bool]:
        """Time passes; what of each look of the thread told where the loop hangs."""
        told = []
        for _ in range(round(seconds / BEAT_S)):
            self.now_s += BEAT_S
            if thread:
                told.append(self.lag.look())
            if loop:
                self.lag.beat()
        return told


def test_beats_in_time_are_nothing() -> None:
    """Goal: a loop that turns, or is a little late, is no news."""
    bench = Bench()
    bench.run(60)
    bench.now_s += LATE_S * 0.9
    bench.lag.look()
    bench.lag.beat()
    assert not bench.seen and bench.lag.info() is None


def test_a_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: while it hangs the thread says once where; afterwards it is known how long it took, for some seconds."""
    bench = Bench()
    bench.run(5)
    with caplog.at_level(logging.WARNING):
        told = bench.run(3, loop=False)
        assert told.count(True) == 1
        bench.run(BEAT_S)
    assert [record.getMessage().split("\n")[0] for record in caplog.records] == [
        "the event loop has not turned for 1.0 s; it is here:",
        "the event loop was blocked for 3.0 s",
    ]
    assert [(one.lasted_s, one.stopped) for one in bench.seen] == [(pytest.approx(3.0), False)]
    bench.run(4)
    assert bench.lag.info() == {"lasted_s": 3.0, "ago_s": 4.0, "stopped": False}
    bench.run(TOLD_FOR_S)
    assert bench.lag.info() is None and bench.lag.count == 1 and bench.lag.longest_s == pytest.approx(3.0)


@pytest.mark.parametrize("thread_first", [True, False])
def test_a_stopped_process(thread_first: bool) -> None:
    """Goal: when the thread did not run either, whoever of the two runs first, the loop is not to blame."""
    bench = Bench()
    bench.run(5)
    bench.now_s += 8.0
    for act in (bench.lag.look, bench.lag.beat) if thread_first else (bench.lag.beat, bench.lag.look):
        assert not act()
    assert [one.stopped for one in bench.seen] == [True]
    bench.run(1)
    bench.run(2, loop=False)
    bench.run(BEAT_S)
    assert [one.stopped for one in bench.seen] == [True, False]


def test_a_real_loop_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: the thread names the function that blocks the loop; `stop` ends both."""
    ended = asyncio.Event()
    lag = LoopLag(lambda _: ended.set())

    def culprit() -> None:
        deadline_s = time.monotonic() + 30
        while not any("culprit" in record.getMessage() for record in caplog.records):
            assert time.monotonic() < deadline_s

    async def main() -> None:
        lag.start(asyncio.get_running_loop())
        await asyncio.sleep(2 * BEAT_S)
        culprit()
        async with asyncio.timeout(30):
            await ended.wait()
        lag.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert lag.longest_s >= LATE_S
    assert all(thread.name != "loop-lag" or thread.daemon for thread in threading.enumerate())


def test_beats_are_counted_by_how_late_they_came() -> None:
    """Goal: every beat is in the histogram of /metrics, and standstills are told apart by their cause."""
    bench = Bench()
    bench.run(10)
    bench.now_s += 3.0
    bench.lag.look()
    bench.lag.beat()
    assert (bench.lag.count, bench.lag.stops) == (1, 1), "the thread was as late: the process was stopped"
    assert bench.lag.late.count == 10 / BEAT_S + 1
    assert dict(bench.lag.late.cumulative())["1.0"] == 10 / BEAT_S
