"""Where the screen's data comes from: one peer at a time, the next when it dies.

`Feed.poll` asks the peer that answered last and, if it does not answer, each other known peer in turn.
It learns the other peers' addresses from what they say of each other, so that a `top` started against one
peer outlives it. It holds no task and no timer: the caller decides when to ask. The clock and the request
come from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
Fetch = Callable[[str, str], Awaitable[Json]]  # (endpoint, "cluster" or "ring") -> JSON; raises FeedError

MAX_ENDPOINTS = 1000  # the endpoints learnt are bounded, like everything


class FeedError(Exception):
    """One peer did not answer, or refused; `str()` says why in a few words. A retry may help."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one peer said. `taken_at` is the feed's clock, in seconds."""

    cluster: Json
    ring: Json | None
    endpoint: str
    taken_at: float


@dataclass(frozen=True, slots=True)
class Outage:
    """Nobody answered: each endpoint tried and why it failed."""

    failures: tuple[tuple[str, str], ...]
    since: float


@dataclass(slots=True)
class Feed:
    """Polls peers for their view of the cluster.

    Args:
        endpoints: API addresses to try, best first; at least one.
        fetch: one request to one endpoint; must have its own deadline.
        clock: monotonic seconds.
        pinned: ask these endpoints only, learn no others (`--endpoint`).
    """

    endpoints: list[str]
    fetch: Fetch
    clock: Callable[[], float]
    pinned: bool = False
    last: Snapshot | None = None
    moved: tuple[str, str, str] | None = None  # from, to, why: set by the poll that moved
    _down_since: float | None = None

    async def poll(self) -> Snapshot | Outage:
        """Ask until one answers. Sets `moved` if it is another peer than last time."""
        self.moved = None
        failures: list[tuple[str, str]] = []
        for endpoint in self._order():
            try:
                snapshot = await self._ask(endpoint)
            except FeedError as error:
                failures.append((endpoint, str(error)))
                continue
            if self.last is not None and self.last.endpoint != endpoint:
                why = dict(failures).get(self.last.endpoint, "it stopped answering")
                self.moved = (self.last.endpoint, endpoint, why)
            self.last, self._down_since = snapshot, None
            self._learn(snapshot.cluster)
            return snapshot
        if self._down_since is None:
            self._down_since = self.clock()
        return Outage(tuple(failures), self._down_since)

    async def _ask(self, endpoint: str) -> Snapshot:
        cluster = await self.fetch(endpoint, "cluster")
        ring = self.last.ring if self.last is not None else None
        if ring is None or _epoch(ring) != _epoch(cluster):
            try:
                ring = await self.fetch(endpoint, "ring")
            except FeedError:
                ring = None  # the rest is worth showing without the circle of partitions
        return Snapshot(cluster, ring, endpoint, self.clock())

    def _order(self) -> Sequence[str]:
        if self.last is None:
            return tuple(self.endpoints)
        current = self.last.endpoint
        return (current, *(endpoint for endpoint in self.endpoints if endpoint != current))

    def _learn(self, cluster: Json) -> None:
        if self.pinned:
            return
        nodes = cluster.get("nodes")
        for node in nodes if isinstance(nodes, list) else ():
            url = str(node.get("api_url") or "").rstrip("/") if isinstance(node, Mapping) else ""
            if url and url not in self.endpoints and len(self.endpoints) < MAX_ENDPOINTS:
                self.endpoints.append(url)


def _epoch(document: Json) -> Any:
    return document.get("epoch")


async def within(deadline_s: float, answer: Awaitable[Json]) -> Json:
    """`answer`, or FeedError once `deadline_s` has passed."""
    try:
        return await asyncio.wait_for(answer, deadline_s)
    except TimeoutError:
        raise FeedError(f"no answer within {deadline_s:g} s") from None
