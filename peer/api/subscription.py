"""What waits to be sent to one client that listens to events.

What waits has a bound: of a state only the newest is kept, and happenings beyond `QUEUED_MOST` are dropped, the oldest
first; then an event `lost` says how many.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Collection
from typing import Any

STATES = ("cluster", "repair", "ring", "views", "requests")
HAPPENINGS = ("membership", "epoch", "log")
TYPES = (*STATES, *HAPPENINGS)
HELLO, LOG, LOST = "hello", "log", "lost"

HEARTBEAT_S = 0.75
"""An empty comment follows so long after the last word: a client takes 1.5 s of silence for the peer's death."""
QUEUED_MOST = 1024
"""A death among 300 peers is an entry in the journal of each; and 200 entries come first."""


class Subscription:
    """One client's events."""

    def __init__(self, types: Collection[str]) -> None:
        self.types = frozenset(types)
        self._states: dict[str, bytes] = {}
        self._happened: deque[bytes] = deque()
        self._lost = 0
        self._ready = asyncio.Event()
        self._over = False

    def tell(self, kind: str, event: bytes) -> None:
        if kind not in self.types:
            return
        if kind in STATES:
            self._states.pop(
                kind, None
            )  # in the order they were told: `requests` vouches for those before it
            self._states[kind] = event
        else:
            self._happened.append(event)
            if len(self._happened) > QUEUED_MOST:
                self._happened.popleft()
                self._lost += 1
        self._ready.set()

    def end(self) -> None:
        self._over = True
        self._ready.set()

    async def next(self) -> bytes | None:
        """Everything that waits, or a comment when nothing came for HEARTBEAT_S; None at the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._ready.wait()
        except TimeoutError:
            return b":\n\n"
        if self._over:
            return None
        self._ready.clear()
        lost, self._lost = self._lost, 0
        waiting = [encoded(LOST, {"events": lost})] if lost else []
        waiting += [*self._happened, *self._states.values()]
        self._happened.clear()
        self._states.clear()
        return b"".join(waiting)


def encoded(kind: str, what: Any) -> bytes:
    """One event as it travels; JSON has no line breaks."""
    return f"event: {kind}\ndata: {json.dumps(what, separators=(',', ':'))}\n\n".encode()
