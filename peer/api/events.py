"""GET /v1/events: what happens in the cluster, as server-sent events (WHATWG HTML, section 9.2).

Two kinds of events. A **happening** (`membership`, `epoch`) is told once, as soon as this peer knows. A **state**
(`cluster`, `repair`, `requests`) is told at first, whole, and again when it changed, about once a second: of a state that
was not sent yet only the newest is kept. So a client that follows both has the truth at any moment, without asking again.

One task looks for all clients, as long as there are any. What waits for a client has a bound: happenings beyond it are
dropped, the oldest first, and an event `lost` says how many; one that reads nothing at all is cut like any other body.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from aiohttp import web

from peer.errors import AtollError, Invalid, Unavailable
from peer.membership import MemberView
from ring.epoch import Epoch

from .context import Call, Transfer

log = logging.getLogger(__name__)

STATES = ("cluster", "repair", "requests")
HAPPENINGS = ("membership", "epoch")
TYPES = (*STATES, *HAPPENINGS)
LOST = "lost"
EVERY_S = 1.0
AGAIN_S = 10.0
"""A state that did not change is told again so often: what changes all the time, such as the bytes used, is no news by
itself. A client hears something as often, be it an empty comment."""
QUEUED_MOST = 256
CLIENTS_MOST = 64
RETRY_MS = 2000
NO_REQUESTS = ("status ", "clients_gone", "idle_bodies", "events")
"""Beginnings of the names of counters that count something else than requests of clients."""


class Cluster(Protocol):
    """The views of the cluster (peer.api.cluster.ClusterView)."""

    async def overview(self) -> dict[str, Any]: ...
    async def infos(self) -> dict[str, dict[str, Any]]: ...


class Workers(Protocol):
    """The background workers of all peers (peer.api.workers.WorkersView)."""

    async def listed(self) -> dict[str, Any]: ...


class Subscription:
    """What waits to be sent to one client."""

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
        """Everything that waits, or a comment when nothing came for AGAIN_S; None at the end."""
        try:
            async with asyncio.timeout(AGAIN_S):
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


class Events:
    """One peer's events and who listens to them."""

    def __init__(self, cluster: Cluster, workers: Workers) -> None:
        self._cluster = cluster
        self._workers = workers
        self._clients: set[Subscription] = set()
        self._told: dict[str, tuple[float, Any, bytes]] = {}  # state -> when, what mattered of it, the event
        self._counted: dict[str, tuple[float, dict[str, int]]] = {}  # member -> its uptime, its counters
        self._watching: asyncio.Task[None] | None = None

    # --- clients

    def subscribe(self, types: Collection[str]) -> Subscription:
        """Begin to listen. Raises Unavailable when too many do."""
        if len(self._clients) >= CLIENTS_MOST:
            raise Unavailable(
                f"{CLIENTS_MOST} clients listen to this peer's events already; try another peer",
                code="SlowDown",
            )
        one = Subscription(types)
        self._clients.add(one)
        if self._watching is None:
            self._told.clear()
            self._counted.clear()
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="events")
        for kind, (_, _, event) in self._told.items():
            one.tell(kind, event)
        return one

    def leave(self, one: Subscription) -> None:
        self._clients.discard(one)
        if not self._clients and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    @property
    def listening(self) -> int:
        """How many clients follow."""
        return len(self._clients)

    def close(self) -> None:
        """The peer stops: end every stream."""
        for one in self._clients:
            one.end()

    # --- happenings

    def member(self, view: MemberView) -> None:
        """Gossip has heard something new about a member."""
        self._tell(
            "membership",
            {
                "id": view.id,
                "name": view.name,
                "state": view.state,
                "flags": sorted(view.flags),
                "boot": view.boot,
                "incarnation": view.incarnation,
            },
        )

    def epoch(self, epoch: Epoch) -> None:
        """Another epoch is in force here."""
        names = [member.name for member in epoch.members]
        self._tell(
            "epoch",
            {"generation": epoch.generation, "number": epoch.number, "kind": epoch.kind, "members": names},
        )

    # --- states

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except AtollError as error:
                log.debug("no state to tell: %s", error)
            except Exception:
                log.exception("a look at the cluster for events failed")  # the next one must still come
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Tell the states that changed."""
        overview = await self._cluster.overview()
        self._state("cluster", overview, _lasting(overview))
        infos = await self._cluster.infos()
        self._tell("requests", self._rates(overview["nodes"], infos))
        workers = await self._workers.listed()
        self._state("repair", workers, [_lasting_of(one) for one in workers["workers"]])

    def _state(self, kind: str, state: Any, matters: Any) -> None:
        now = asyncio.get_running_loop().time()
        told_s, before, _ = self._told.get(kind, (0.0, None, b""))
        if matters != before or now - told_s >= AGAIN_S:
            event = encoded(kind, state)
            self._told[kind] = now, matters, event
            self._send(kind, event)

    def _rates(self, nodes: list[dict[str, Any]], infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Requests a second that each peer answered since it was asked last, by its own clock; at first all are 0."""
        shown = []
        for node in nodes:
            info = infos.get(node["id"])
            if info is None:
                self._counted.pop(node["id"], None)
                continue
            uptime_s, counts = info["process"]["uptime_s"], requests_in(info["requests"])
            before_s, before = self._counted.get(node["id"], (uptime_s, counts))
            if uptime_s < before_s:  # it was started anew
                before_s, before = 0.0, {}
            self._counted[node["id"]] = uptime_s, counts
            passed_s = max(uptime_s - before_s, 0.001)
            rates = {
                kind: round((count - before.get(kind, 0)) / passed_s, 1) for kind, count in counts.items()
            }
            rates = {kind: rate for kind, rate in rates.items() if rate > 0}
            shown.append({"id": node["id"], "name": node["name"], "per_second": rates, "all": _sum(rates)})
        return {"nodes": shown, "all": round(sum(one["all"] for one in shown), 1)}

    def _tell(self, kind: str, what: Any) -> None:
        if self._clients:
            self._send(kind, encoded(kind, what))

    def _send(self, kind: str, event: bytes) -> None:
        for one in self._clients:
            one.tell(kind, event)


def encoded(kind: str, what: Any) -> bytes:
    """One event as it travels; JSON has no line breaks."""
    return f"event: {kind}\ndata: {json.dumps(what, separators=(',', ':'))}\n\n".encode()


def requests_in(counts: Mapping[str, int]) -> dict[str, int]:
    """Of a peer's counters those of requests, by kind."""
    return {kind: count for kind, count in counts.items() if not kind.startswith(NO_REQUESTS)}


def _sum(rates: Mapping[str, float]) -> float:
    return round(sum(rates.values()), 1)


def _lasting(overview: Mapping[str, Any]) -> dict[str, Any]:
    """What of the overview is news when it changes."""
    passing = ("time", "peer", "nodes")
    kept = {key: value for key, value in overview.items() if key not in passing}
    return kept | {
        "nodes": [(one["id"], one["state"], one["ring"], one["flags"]) for one in overview["nodes"]]
    }


def _lasting_of(worker: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a worker is news when it changes: not how old its oldest item is."""
    told = ("state", "queue", "done", "last_error", "per_second")
    return (worker["worker"], worker["node"]["id"], *(worker[key] for key in told))


async def stream(call: Call) -> web.StreamResponse:
    """Answer until the client goes, stops reading, or this peer stops."""
    call.only("types")
    types = [kind for kind in call.argument("types").split(",") if kind] or TYPES
    if unknown := set(types).difference(TYPES):
        raise Invalid(f"types: {min(unknown)[:40]!r} is none of {', '.join(TYPES)}", code="InvalidArgument")
    events = call.context.events
    subscription = events.subscribe(types)
    transfer = Transfer(call.request, call.context)
    try:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "x-request-id": call.id}
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        piece: bytes | None = f"retry: {RETRY_MS}\n\n".encode()
        while piece is not None:
            transfer.waits()
            await response.write(piece)
            call.context.requests.body_bytes_out += len(piece)
            transfer.moved()
            piece = await subscription.next()
        await response.write_eof()
        return response
    finally:
        transfer.done()
        events.leave(subscription)
