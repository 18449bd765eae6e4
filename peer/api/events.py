"""GET /v1/events: what happens in the cluster, as server-sent events (WHATWG HTML, section 9.2).

Two kinds of events. A **happening** (`membership`, `epoch`, `log`) is told once, as soon as this peer knows; of the log also
the last 200 entries, to whoever begins to listen. A **state** (`cluster`, `repair`, `ring`, `views`, `requests`) is told at
first, whole, and again when it changed, about once a second; of a state that was not sent yet only the newest is kept. So a
client that follows both has the truth at any moment, without asking again. `requests` is told after every look at the
cluster, and after the others: what was told before it stands as of then.

The first event is `hello`, which says whose view it is, and no second passes without a word, be it a comment: silence means
that the peer is dead or stands still.

One task looks for all clients, as long as there are any. What waits for a client has a bound (`subscription`); one that
reads nothing at all is cut like any other body.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from aiohttp import web

from peer.errors import AtollError, Invalid, Unavailable
from peer.membership import MemberView
from ring.epoch import Epoch

from .addresses import flags_of
from .context import Call, Transfer
from .rates import Rates
from .standing import Standing
from .subscription import HELLO, LOG, STATES, TYPES, Subscription, encoded

log = logging.getLogger(__name__)

EVERY_S = 1.0
PAUSE_S = 0.25
"""Between two looks, however long they take: while a peer is silent a look waits a second for it."""
AGAIN_S = {"cluster": 10.0, "repair": 10.0}
"""These are told again so often also when nothing changed in them that is news: the bytes used, a queue's oldest item."""
BYTES_S = 256 * 1024
"""A state of more bytes is told less often than every second: so many bytes a second at most. The ring of 2**16 partitions
has 1 MB, and in a change of it is another one all the time."""
CLIENTS_MOST = 64
RETRY_MS = 2000


class Cluster(Protocol):
    """The views of the cluster (peer.api.cluster.ClusterView)."""

    async def looked(self) -> None: ...
    def standing(self) -> Standing: ...
    def peer(self) -> dict[str, str]: ...
    def time(self) -> str: ...
    def overview_of(self, standing: Standing) -> dict[str, Any]: ...
    def ring_of(self, standing: Standing) -> dict[str, Any]: ...
    def views_of(self, standing: Standing) -> dict[str, Any]: ...


class Workers(Protocol):
    """The background workers of all peers (peer.api.workers.WorkersView)."""

    def listed_of(self, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]: ...


class Log(Protocol):
    """The journals of all peers (peer.api.logview.LogView)."""

    recent: deque[dict[str, Any]]

    async def news(self, infos: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]: ...
    def forget(self) -> None: ...


class Events:
    """One peer's events and who listens to them."""

    def __init__(self, cluster: Cluster, workers: Workers, log: Log) -> None:
        self._cluster = cluster
        self._workers = workers
        self._log = log
        self._clients: set[Subscription] = set()
        self._told: dict[str, tuple[float, Any, bytes]] = {}  # state -> when, what mattered of it, the event
        self._rates = Rates()
        self._watching: asyncio.Task[None] | None = None
        self._over = False

    # --- clients

    def subscribe(self, types: Collection[str]) -> Subscription:
        """Begin to listen. Raises Unavailable when too many do, or the peer stops."""
        if self._over:
            raise Unavailable("this peer stops; listen to another one")
        if len(self._clients) >= CLIENTS_MOST:
            raise Unavailable(
                f"{CLIENTS_MOST} clients listen to this peer's events already; try another peer",
                code="SlowDown",
            )
        one = Subscription(types)
        self._clients.add(one)
        if self._watching is None:
            self._told.clear()
            self._rates.clear()
            self._log.forget()
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="events")
        for entry in self._log.recent:
            one.tell(LOG, encoded(LOG, entry))
        for kind, (_, _, event) in sorted(self._told.items(), key=lambda told: STATES.index(told[0])):
            one.tell(kind, event)
        return one

    def hello(self) -> bytes:
        """What every client is told first: whose view this is, and what there is to listen to."""
        told = {"peer": self._cluster.peer(), "time": self._cluster.time(), "types": list(TYPES)}
        return encoded(HELLO, told)

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
        """The peer stops: end every stream, and begin none: it would be waited for like any request."""
        self._over = True
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
                "flags": flags_of(view),
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
        now = asyncio.get_running_loop().time
        while True:
            began_s = now()
            try:
                await self.look()
            except AtollError as error:
                log.debug("no state to tell: %s", error)
            except Exception:
                log.exception("a look at the cluster for events failed")  # the next one must still come
            await asyncio.sleep(max(PAUSE_S, began_s + EVERY_S - now()))

    async def look(self) -> None:
        """Look once, and tell the states that changed."""
        await self._cluster.looked()
        standing = self._cluster.standing()
        infos = {member.id: standing.info(member.id) for member in standing.answering}
        overview = self._cluster.overview_of(standing)
        self._state("cluster", overview, _lasting(overview))
        await asyncio.sleep(0)  # all of a look takes some 50 ms with 300 peers: requests go between
        workers = self._workers.listed_of(infos)
        self._state("repair", workers, [_lasting_of(one) for one in workers["workers"]])
        await asyncio.sleep(0)
        ring = self._cluster.ring_of(standing)
        self._state("ring", ring, (ring["epoch"], ring.get("pending")))
        await asyncio.sleep(0)
        views = self._cluster.views_of(standing)
        self._state("views", views, [(one["id"], one["answers"], one["believes"]) for one in views["views"]])
        requests = {"time": overview["time"], **self._rates.told(overview["nodes"], infos)}
        self._state("requests", requests, object())  # always news
        await asyncio.sleep(0)
        for entry in await self._log.news(infos):
            self._tell(LOG, entry)

    def _state(self, kind: str, state: Any, matters: Any) -> None:
        """Tell a state if what `matters` of it changed, or if it is time to tell it again."""
        now = asyncio.get_running_loop().time()
        told_s, before, event = self._told.get(kind, (0.0, None, b""))
        news = matters != before and now - told_s >= len(event) / BYTES_S - EVERY_S
        if news or now - told_s >= AGAIN_S.get(kind, math.inf):
            event = encoded(kind, state)
            self._told[kind] = now, matters, event
            self._send(kind, event)

    def _tell(self, kind: str, what: Any) -> None:
        if self._clients:
            self._send(kind, encoded(kind, what))

    def _send(self, kind: str, event: bytes) -> None:
        for one in self._clients:
            one.tell(kind, event)


def _lasting(overview: Mapping[str, Any]) -> dict[str, Any]:
    """What of the overview is news when it changes."""
    passing = ("time", "peer", "nodes")
    kept = {key: value for key, value in overview.items() if key not in passing}
    return kept | {
        "nodes": [
            (one["id"], one["state"], one["whole"], one["ring"], one["flags"]) for one in overview["nodes"]
        ]
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
    events, requests = call.context.events, call.context.requests
    subscription = events.subscribe(types)
    transfer = Transfer(call.request, call.context)
    try:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "x-request-id": call.id}
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        piece: bytes | None = f"retry: {RETRY_MS}\n\n".encode() + events.hello()
        while piece is not None:
            transfer.waits()
            await response.write(piece)
            requests.body_bytes_out += len(piece)
            requests.stream_bytes_out += len(piece)
            transfer.moved()
            piece = await subscription.next()
        await response.write_eof()
        return response
    finally:
        transfer.done()
        events.leave(subscription)
