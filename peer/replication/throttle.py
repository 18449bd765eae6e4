"""How background work gives way to clients (W4), and how much of it is under way at once.

A fixed rate would be too much for one machine and too little for another. So while clients keep the peer busy, work takes
turns with them: whoever moved something for a while rests as long, and does half as many things at once. What a turn takes
grows with the load, and the rest with it; and as every turn moves something, the backlog falls all the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from peer.errors import AtollError

from .env import Env

T = TypeVar("T")

BYTES_PER_S = 200_000_000
SHARE = 0.5
"""Of the time, for what does one thing after the other, while clients keep the peer busy."""
REST_MOST_S = 0.5
"""At once. Something that took long because it waited for another peer did not keep this one busy."""
BUSY_PER_S = 20.0
"""So many requests of clients a second, as their gateway or as an owner, keep a peer busy."""
SAMPLE_S = 0.25


class Activity:
    """Whether clients keep a peer busy, from a count of what it did for them. Call it often: it looks now and then."""

    def __init__(self, env: Env, count: Callable[[], int]) -> None:
        self._env = env
        self._count = count
        self._seen = count()
        self._seen_s = env.now()
        self._busy = False

    def __call__(self) -> bool:
        now = self._env.now()
        since_s = now - self._seen_s
        if since_s >= SAMPLE_S:
            count = self._count()
            self._busy = (count - self._seen) / since_s >= BUSY_PER_S
            self._seen, self._seen_s = count, now
        return self._busy


class Throttle:
    """A token bucket over all workers of a peer, in bytes, and their rests while clients are `busy` (W4)."""

    def __init__(
        self, env: Env, bytes_per_s: float = BYTES_PER_S, busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._env = env
        self.bytes_per_s = bytes_per_s
        self.busy = busy
        self._free_at_s = 0.0

    async def spend(self, size: int) -> None:
        """Wait until so many bytes may be moved."""
        now = self._env.now()
        self._free_at_s = max(self._free_at_s, now) + size / self.bytes_per_s
        if self._free_at_s - now > 0.05:
            await self._env.sleep(self._free_at_s - now)

    async def give_way(self, took_s: float) -> None:
        """Rest after something that took so long, if clients are busy."""
        if took_s > 0.0 and self.busy():
            await self._env.sleep(min(REST_MOST_S, took_s * (1.0 / SHARE - 1.0)))

    def lanes(self, most: int) -> int:
        """How many things may be under way at once."""
        return max(1, most // 2) if self.busy() else most

    async def each(
        self, items: Iterable[T], act: Callable[[T], Awaitable[None]], most: int, *, rests: bool = True
    ) -> None:
        """`act` for every item, several at once, giving way after each unless `act` does. The first error ends it: nothing
        is begun any more, and it is raised when what was under way has ended."""
        waiting = deque(items)
        failed: list[AtollError] = []

        async def lane(number: int) -> None:
            while waiting and not failed and (number == 0 or number < self.lanes(most)):
                began_s = self._env.now()
                try:
                    await act(waiting.popleft())
                except AtollError as error:
                    failed.append(error)
                if rests:
                    await self.give_way(self._env.now() - began_s)

        others = [
            self._env.spawn(lane(number), "lane") for number in range(1, min(self.lanes(most), len(waiting)))
        ]
        try:
            await lane(0)
            for other in others:
                await other
        finally:
            for other in others:
                other.cancel()
        if failed:
            raise failed[0]
