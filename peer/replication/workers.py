"""Background work, in small steps: hints, anti-entropy, transitions, garbage, scrub (architecture §8).

Each kind of work is a `Worker`: it has a name, says what it has to do, and does a little of it when told. `Workers` runs
them, one task each, so that a step that waits holds nobody up.

W1  A step is bounded: some 50 ms of work, a few seconds of waiting. Nothing it does depends on when the next one comes.
W2  A step that fails is told (`last_error`) and tried again, at growing intervals up to a minute; it ends no other worker.
W3  A paused worker takes no step; that it is paused outlives the process, and so does a rate that was set.
W4  Workers give way (`throttle`): together they move at most `bytes_per_s`, and while clients keep the peer busy each of
    them works half of the time, and does half as much at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import msgpack

from peer.errors import AtollError

from . import meta
from .env import Env, RowStore
from .throttle import Throttle

log = logging.getLogger(__name__)

BACKOFF_S = 1.0
BACKOFF_MOST_S = 60.0
PACE_MOST_S = 60.0
RATE_OVER_S = 30.0
RESTED_S = 2 * RATE_OVER_S
"""Who has finished nothing for so long has no rate: what comes next may be quick, and its end is not told by it."""
_PAUSED, _RATES = b"workers/paused", b"workers/rates"


@dataclass(frozen=True, slots=True)
class Status:
    """What a worker says of itself. `oldest_s` is the age of the oldest item in its queue, None when there is none."""

    name: str
    state: str  # idle, busy, paused, failing
    queue: int
    oldest_s: float | None
    done: int  # items since the start
    rate: float  # items a second, over the last half minute
    bytes: int
    last_error: str
    per_second: float | None = None  # items a second at most
    detail: dict[str, int] = field(default_factory=dict)

    @property
    def left_s(self) -> float | None:
        """Seconds until the queue is empty at the present rate; None when nothing moves: also while the worker waits, to try
        again after a failure or for what is left to fall due, as its rate is that of what it did before."""
        moves = self.state == "busy" and self.queue and self.rate > 0
        return self.queue / self.rate if moves else None

    def to_map(self) -> dict[str, Any]:
        return asdict(self) | {"left_s": self.left_s}


class Worker(ABC):
    """One kind of background work. Subclasses do `step` and count with `did`."""

    name = "?"
    every_s = 5.0  # how long to rest when there was nothing to do, unless woken
    rest_most_s = 5.0
    """Of those that know when something is due (`due_s`): the longest rest."""
    per_second: float | None = None
    """Items a second at most; None: as fast as the steps go."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.done = 0
        self.bytes = 0
        self.last_error = ""
        self.detail: dict[str, int] = {}
        self._wake: asyncio.Future[Any] | None = None
        self._woken = False
        self._rate = 0.0
        self._rated_s = self._did_s = env.now()
        self._busy_since_s = env.now()  # since when `_rate` has been built up

    @abstractmethod
    async def step(self) -> bool:
        """Do one bounded piece (W1). True: there is more to do right now."""

    def start(self) -> None:
        """Somebody asked for it: begin now what would begin by itself in a while."""
        self.wake()

    def queue(self) -> int:
        """Items waiting, as far as they are known."""
        return 0

    def oldest_s(self) -> float | None:
        return None

    def due_s(self) -> float | None:
        """When, by the clock of `env`, there will be something to do that nobody wakes it for; None: it cannot tell."""
        return None

    def rest_s(self) -> float:
        """How long to rest when there was nothing to do: until something is due, within bounds."""
        due_s = self.due_s()
        if due_s is None:
            return self.every_s
        return min(max(due_s - self.env.now(), self.every_s), self.rest_most_s)

    def wake(self) -> None:
        """Something to do has come: do not rest."""
        self._woken = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def did(self, items: int = 1, size: int = 0) -> None:
        """Count finished items and bytes moved."""
        if not (items or size):
            return
        self.done += items
        self.bytes += size
        self._decay()
        if not self._rate:
            self._busy_since_s = self.env.now() - 1.0
        self._did_s = self.env.now()
        self._rate += items / RATE_OVER_S

    def rate(self) -> float:
        """Items a second over the last half minute, or since work began after a rest; 0 after RESTED_S without one."""
        self._decay()
        return self._rate / (1.0 - math.exp((self._busy_since_s - self._rated_s - 0.001) / RATE_OVER_S))

    def _decay(self) -> None:
        now = self.env.now()
        if now - self._did_s > RESTED_S:
            self._rate = 0.0
        self._rate *= math.exp((self._rated_s - now) / RATE_OVER_S)
        self._rated_s = now

    async def rest(self, for_s: float) -> None:
        """Wait until woken, at most so long."""
        if not self._woken:
            self._wake = self.env.future()
            timer = self.env.call_later(for_s, self.wake)
            try:
                await self._wake
            finally:
                timer.cancel()
                self._wake = None
        self._woken = False


class Workers:
    """Runs a peer's workers. `busy` says whether clients keep the peer busy right now."""

    def __init__(self, env: Env, rows: RowStore, busy: Callable[[], bool] = lambda: False) -> None:
        self._env = env
        self._rows = rows
        self._all: dict[str, Worker] = {}
        self._states: dict[str, str] = {}
        self._paced: dict[str, int] = {}
        self.throttle = Throttle(env, busy=busy)
        stored, rates = meta.load(rows, _PAUSED), meta.load(rows, _RATES)
        self._paused: set[str] = set(msgpack.unpackb(stored)) if stored else set()
        self._rates: dict[str, float] = msgpack.unpackb(rates) if rates else {}

    def add(self, worker: Worker) -> None:
        """Run this worker from now on."""
        self._all[worker.name] = worker
        worker.per_second = self._rates.get(worker.name, worker.per_second) or None
        self._states[worker.name] = "idle"
        self._env.spawn(self._run(worker), f"worker {worker.name}")

    @property
    def names(self) -> list[str]:
        return list(self._all)

    def statuses(self) -> list[Status]:
        return [
            Status(
                worker.name,
                "paused" if worker.name in self._paused else self._states[worker.name],
                worker.queue(),
                worker.oldest_s(),
                worker.done,
                worker.rate(),
                worker.bytes,
                worker.last_error,
                worker.per_second,
                dict(worker.detail),
            )
            for worker in self._all.values()
        ]

    async def pause(self, names: list[str]) -> None:
        """Stop these (durably, W3). Raises Full when that cannot be kept; nothing changed then."""
        await self._keep_paused(self._paused | set(names))

    async def resume(self, names: list[str]) -> None:
        """Let these go on. Raises Full; nothing changed then."""
        await self._keep_paused(self._paused - set(names))
        for name in names:
            if name in self._all:
                self._all[name].wake()

    async def limit(self, names: list[str], per_second: float) -> None:
        """Let these do so many items a second at most (durably, W3); 0: as many as they can. Raises Full; nothing changed
        then."""
        rates = self._rates | dict.fromkeys(names, per_second)
        await self._keep(_RATES, rates)
        self._rates = rates
        for name in names:
            if name in self._all:
                self._all[name].per_second = per_second or None

    def start(self, names: list[str]) -> None:
        """Have these begin now. One that is paused stays so."""
        for name in names:
            if name in self._all:
                self._all[name].start()

    def wake(self) -> None:
        """What failed may go well now: nobody waits any longer to try again."""
        for worker in self._all.values():
            worker.wake()

    async def _keep_paused(self, paused: set[str]) -> None:
        await self._keep(_PAUSED, sorted(paused))
        self._paused = paused

    async def _keep(self, key: bytes, what: Any) -> None:
        future = self._env.future()
        self._rows.commit([meta.write(key, bytes(msgpack.packb(what)))], future.set_result)
        error = await future
        if error is not None:
            raise error

    async def _run(self, worker: Worker) -> None:
        backoff_s = BACKOFF_S
        while True:
            if worker.name in self._paused:
                await worker.rest(worker.every_s)
                continue
            began_s = self._env.now()
            try:
                self._states[worker.name] = "busy"
                more = await worker.step()
            except Exception as error:  # W2: whatever it is, healing goes on
                known = isinstance(error, AtollError)
                worker.last_error = str(error) if known else f"an unexpected error: {error!r}"
                self._states[worker.name] = "failing"
                log.log(
                    logging.INFO if known else logging.ERROR,
                    "worker %s: %s",
                    worker.name,
                    error,
                    exc_info=not known,
                )
                await worker.rest(backoff_s)
                backoff_s = min(BACKOFF_MOST_S, backoff_s * 2)
                continue
            backoff_s = BACKOFF_S
            await self.throttle.give_way(self._env.now() - began_s)
            await self._pace(worker)
            if not more:
                self._states[worker.name] = "idle"
                await worker.rest(worker.rest_s())

    async def _pace(self, worker: Worker) -> None:
        """Wait as long as what the last step did takes at the worker's set rate, at most PACE_MOST_S (W1)."""
        items, self._paced[worker.name] = worker.done - self._paced.get(worker.name, 0), worker.done
        if items and worker.per_second:
            await self._env.sleep(min(PACE_MOST_S, items / worker.per_second))
