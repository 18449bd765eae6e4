"""Many clients in closed loops on one event loop: each sends its next request when it has its answer.

No task a request and no timer a request: a client is a callback, one sweep a second enforces the deadline. A
client whose connection breaks counts an error and dials again after a pause; an answer that is not what
the source wants is an error by its status, and the client goes on after a short pause.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine, Sequence
from typing import Protocol

from tools.bench.stats import Round
from tools.bench.wire import Connection, Endpoint, Part, connect

REDIAL_S = 0.2
AFTER_ERROR_S = 0.01
SWEEP_S = 0.5
DIAL_S = 5.0


class Source(Protocol):
    """What one client asks, and what it makes of the answers. Not shared between clients.

    keep: whether `judge` wants bodies. head_only: whether its requests are HEAD.
    """

    keep: bool
    head_only: bool

    def next(self, endpoint: Endpoint) -> Sequence[Part] | None:
        """The parts of the next request, None when there is nothing left to ask."""

    def judge(self, status: int, length: int, body: bytes) -> str:
        """ "" if the answer is right, otherwise what was wrong, in a word or two."""

    def weigh(self, length: int) -> tuple[int, int]:
        """(bytes moved, units) of the request just judged right."""


class Client:
    """One closed loop, its requests spread in turn over its endpoints (usually one)."""

    def __init__(self, run: Load, source: Source, endpoints: Sequence[Endpoint]) -> None:
        self._run = run
        self._source = source
        self._endpoints = endpoints
        self._connections: list[Connection | None] = [None] * len(endpoints)
        self._turn = 0
        self._asked_at = 0.0
        self._waiting: Connection | None = None
        self.round = Round()
        self.done = False

    def start(self) -> None:
        self._send()

    def stop(self) -> None:
        self.done = True
        for connection in self._connections:
            if connection is not None:
                connection.close()

    def sweep(self, now: float, deadline_s: float) -> None:
        """Give up a request that is older than the deadline."""
        if self._waiting is not None and now - self._asked_at > deadline_s:
            self._waiting.close("deadline")

    def _send(self) -> None:
        if self.done:
            return
        connection = self._connections[self._turn]
        if connection is None:
            self._run.spawn(self._dial())
            return
        parts = self._source.next(self._endpoints[self._turn]) if self._run.open else None
        if parts is None:
            self._finish()
            return
        self._waiting = connection
        self._asked_at = time.perf_counter()
        connection.request(parts, keep=self._source.keep, head_only=self._source.head_only)

    async def _dial(self) -> None:
        turn = self._turn
        try:
            connection = await connect(self._endpoints[turn], self._answered, self._lost, DIAL_S)
        except OSError as error:
            self.round.errors[f"connect: {_short(error)}"] += 1
            self._again(REDIAL_S)
            return
        if self.done:
            connection.close()
            return
        self._connections[turn] = connection
        self._send()

    def _answered(self, status: int, length: int, body: bytes) -> None:
        took = time.perf_counter() - self._asked_at
        self._waiting = None
        wrong = self._source.judge(status, length, body)
        self._turn = (self._turn + 1) % len(self._endpoints)
        if wrong:
            self.round.errors[wrong] += 1
            self._again(AFTER_ERROR_S)
            return
        moved, units = self._source.weigh(length)
        self.round.latencies_s.append(took)
        self.round.moved_bytes += moved
        self.round.units += units
        self._send()

    def _lost(self, reason: str) -> None:
        """A connection ended; only the one with a request under way is an error."""
        for index, connection in enumerate(self._connections):
            if connection is not None and connection.closing:
                self._connections[index] = None
                if connection is self._waiting:
                    self._waiting = None
                    self.round.errors[f"connection: {reason}"] += 1
                    self._turn = (index + 1) % len(self._endpoints)
                    self._again(REDIAL_S)

    def _again(self, delay_s: float) -> None:
        if not self._run.open:
            self._finish()
        else:
            asyncio.get_running_loop().call_later(delay_s, self._send)

    def _finish(self) -> None:
        if not self.done:
            self.stop()
            self._run.finished()


class Load:
    """One round: all clients until the time is up or their sources are empty."""

    def __init__(self, deadline_s: float) -> None:
        self.open = True
        self._deadline_s = deadline_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = 0
        self._ended = asyncio.Event()

    async def run(
        self, sources: Sequence[Source], spread: Sequence[Sequence[Endpoint]], seconds: float | None
    ) -> Round:
        """Measure: `sources[i]` asks `spread[i]`. `seconds` None: until every source is empty.

        Every request begun is waited for, up to the deadline, and counted; the time runs until the last.
        """
        clients = [Client(self, source, ends) for source, ends in zip(sources, spread, strict=True)]
        self._left = len(clients)
        loop = asyncio.get_running_loop()
        gc.collect()
        gc.disable()
        timer = loop.call_later(seconds, self._close) if seconds is not None else None
        own, began = time.process_time(), time.perf_counter()
        try:
            for client in clients:
                client.start()
            sweeper = loop.create_task(self._sweep(clients))
            try:
                await self._ended.wait()
            finally:
                sweeper.cancel()
        finally:
            if timer is not None:
                timer.cancel()
            for client in clients:
                client.stop()
            for task in tuple(self._tasks):
                task.cancel()
            gc.enable()
        total = Round(elapsed_s=time.perf_counter() - began, own_cpu_s=time.process_time() - own)
        for client in clients:
            total.add(client.round)
        return total

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finished(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._ended.set()

    def _close(self) -> None:
        self.open = False

    async def _sweep(self, clients: Sequence[Client]) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.perf_counter()
            for client in clients:
                client.sweep(now, self._deadline_s)


def _short(error: OSError) -> str:
    return "deadline" if isinstance(error, TimeoutError) else (error.strerror or type(error).__name__)
