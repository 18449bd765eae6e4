"""An asyncio event loop on virtual time: deterministic, without threads, sockets or waiting.

Only the selector is replaced: where the real one would sleep until the next timer, this one moves the
clock there. Everything else (tasks, futures, the order of callbacks) is asyncio's own, so code under
simulation runs as it does in production, only with nobody else to wait for.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, NoReturn, Protocol, TypeVar

T = TypeVar("T")

SHORT_S = 7200.0
"""A run that may take longer, in virtual time, collects its garbage."""


class Deadlock(RuntimeError):
    """Nothing is scheduled any more, and the main coroutine still waits."""


class Stuck(RuntimeError):
    """The run went beyond its bound of virtual time or of loop turns: a livelock, most likely."""


class Crashed(RuntimeError):
    """A callback or task of the code under simulation raised what nobody expected; see __cause__."""


class Agenda(Protocol):
    """Events besides the loop's own timers, too many for a timer each."""

    def run(self, until: float) -> float:
        """Let everything up to `until` happen; return until when it did: less if something gave the loop work to do."""


class _Jump:
    """A selector that is never ready: selecting moves the loop's clock instead of sleeping."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        loop = self.loop
        if timeout is None and loop.agenda is None:
            raise Deadlock(f"nothing is scheduled after {loop.now:.6f} s of virtual time")
        loop.turns += 1
        if timeout is None or timeout > 0:
            until = loop.limit_s + 1.0 if timeout is None else loop.now + timeout
            loop.now = until if loop.agenda is None else loop.agenda.run(until)
            if loop.now > loop.limit_s:
                raise Stuck(f"still running after {loop.limit_s} s of virtual time")
        if loop.turns > loop.max_turns:
            raise Stuck(f"still running after {loop.max_turns} turns, {loop.now:.6f} s of virtual time")
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """Starts at virtual second 0. `run` raises Deadlock, Stuck or Crashed instead of hanging or hiding."""

    def __init__(self, limit_s: float = 3600.0, max_turns: int = 20_000_000) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0
        self.limit_s = limit_s
        self.max_turns = max_turns
        self.failure: dict[str, Any] | None = None
        self.agenda: Agenda | None = None
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """`call_soon_threadsafe` wakes the selector with this: one that never sleeps needs no waking."""

    def run_in_executor(self, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("a thread in the simulator: whatever needs one stands behind an interface")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Called by asyncio for what nobody awaits. The first such failure ends the run."""
        if self.failure is None:
            self.failure = context
        self.stop()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end on virtual time, cancel what is left over, close the loop."""
        task = self.create_task(main, name="main")
        collecting = gc.isenabled()
        if self.limit_s <= SHORT_S:
            gc.disable()  # a run is short and its garbage small; collecting at whim is a tenth of the time
        try:
            try:
                return self.run_until_complete(task)
            except RuntimeError as error:
                if self.failure is None:
                    raise
                raise self._crashed() from (self.failure.get("exception") or error)
        finally:
            self._cancel_all()
            self.close()
            if collecting:
                gc.enable()

    def _crashed(self) -> Crashed:
        assert self.failure is not None
        error = self.failure.get("exception")
        return Crashed(f"at {self.now:.6f} s: {self.failure.get('message')}: {error!r}")

    def _cancel_all(self) -> None:
        """Ten rounds: a cancelled task may wait once more in its `finally`, but not for ever."""
        self.max_turns = self.turns + 1_000_000
        self.limit_s = self.now + 3600
        for _ in range(10):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                return
            for task in sorted(tasks, key=lambda task: task.get_name()):
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        raise Stuck(f"tasks swallow their cancellation: {sorted(task.get_name() for task in tasks)}")
