"""One change per key at a time per coordinator: racing ballots of one's own would only cost retries."""

from __future__ import annotations

import asyncio
from functools import partial

from peer.errors import Unavailable
from peer.replication.env import Env

QUEUE_MOST = 256


class Turns:
    """Who changes a key now, and at most QUEUE_MOST others who wait for that, first come first served."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._busy: dict[bytes, list[asyncio.Future[bool]]] = {}

    def __len__(self) -> int:
        """How many keys somebody has the turn of."""
        return len(self._busy)

    async def take(self, key: bytes, budget_s: float) -> None:
        """Return when it is the caller's turn, who calls `give` after it. Raises Unavailable (SlowDown) instead when the
        queue is full, or after `budget_s`."""
        queue = self._busy.get(key)
        if queue is None:
            self._busy[key] = []
            return
        if len(queue) >= QUEUE_MOST:
            raise Unavailable("too many requests change this key at once; slow down", code="SlowDown")
        turn: asyncio.Future[bool] = self._env.future()
        queue.append(turn)
        timer = self._env.call_later(budget_s, partial(_settle, turn, False))
        try:
            mine = await turn
        except BaseException:
            if turn in queue:
                queue.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.result():
                self.give(key)
            raise
        finally:
            timer.cancel()
        if not mine:
            if turn in queue:
                queue.remove(turn)
            raise Unavailable("too many requests change this key at once; slow down", code="SlowDown")

    def give(self, key: bytes) -> None:
        """The turn is over: the next one's begins."""
        queue = self._busy[key]
        while queue:
            turn = queue.pop(0)
            if not turn.done():
                turn.set_result(True)
                return
        del self._busy[key]


def _settle(turn: asyncio.Future[bool], result: bool) -> None:
    if not turn.done():
        turn.set_result(result)
