"""One run of one simulated peer: its time, its randomness, its tasks; it can pause and it can die.

Whatever reaches a peer from outside (a timer, a message, a finished commit, a client's request) comes
through `post`. A dead peer drops it; a paused one takes it up when it resumes, in order, late. A peer
that restarts gets a new SimEnv; nothing of the old one reaches it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from tools.sim.loop import VirtualLoop

WALL_START_S = 1_795_000_000  # a day in November 2026
MONOTONIC_SPREAD_S = 1e6


class Timer:
    """What call_later returns. Cancelling works until the callback has really run."""

    __slots__ = ("callback", "env", "handle")

    def __init__(self, env: SimEnv, delay_s: float, callback: Callable[[], object]) -> None:
        self.env = env
        self.callback: Callable[[], object] | None = callback
        self.handle = env.loop.call_later(max(0.0, delay_s), env.post, self.run)

    def run(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    def cancel(self) -> None:
        self.callback = None
        self.handle.cancel()


class SimEnv:
    """The Env of peer/replication for one boot of one peer. `skew_s` is its wall clock's error."""

    def __init__(self, loop: VirtualLoop, name: str, seed: str, skew_s: float = 0.0) -> None:
        self.loop = loop
        self.name = name
        self.rng = random.Random(f"env {seed}")
        self.skew_s = skew_s
        self.dead = False
        self.paused = False
        self.on_task_failure: Callable[[str, BaseException], None] | None = None
        self._origin_s = self.rng.random() * MONOTONIC_SPREAD_S
        self._late: list[Callable[[], object]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}

    # What the peer calls

    def now(self) -> float:
        return self._origin_s + self.loop.now

    def wall_us(self) -> int:
        return int((WALL_START_S + self.loop.now + self.skew_s) * 1e6)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return Timer(self, delay_s, callback)

    def future(self) -> asyncio.Future[Any]:
        return self.loop.create_future()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """A task that ends with the peer. One that raises is reported, for nobody may await it."""
        task = self.loop.create_task(coro, name=f"{self.name}/{name}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        if self.dead:
            task.cancel()
        return task

    async def sleep(self, seconds: float) -> None:
        future = self.future()
        timer = self.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            timer.cancel()

    # What the world does to it

    def post(self, callback: Callable[[], object]) -> None:
        """Run now, when the peer resumes, or never."""
        if self.paused:
            self._late.append(callback)
        elif not self.dead:
            callback()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Run what came meanwhile. One that dies or pauses again halfway keeps the rest waiting."""
        self.paused = False
        late, self._late = self._late, []
        for index, callback in enumerate(late):
            if self.paused:
                self._late = late[index:] + self._late
                return
            if not self.dead:
                callback()

    def kill(self) -> None:
        """The process ends here. Its tasks are cancelled only to free them: nothing they do counts."""
        self.dead = True
        self.paused = False
        self._late.clear()
        for task in list(self._tasks):
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or self.dead:
            return
        error = task.exception()
        if error is not None and self.on_task_failure is not None:
            self.on_task_failure(task.get_name(), error)
