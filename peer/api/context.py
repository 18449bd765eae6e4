"""What the API's handlers share: one peer's parts, and one request's."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from peer.errors import Denied, Invalid
from peer.journal import Journal
from peer.objects.store import Objects
from peer.replication.node import Replica

from .accounting import OTHER, Requests

BODY_ERRORS = (
    ConnectionError,
    ClientError,
    HttpProcessingError,
    web.RequestPayloadError,
    asyncio.IncompleteReadError,
    EOFError,
)
"""What reading a request's body may raise when the client errs or goes away."""


FEW_BYTES = 4096
SLOWEST = 64 * 1024
"""Bytes a second below which an upload may be cut while it keeps a buffer that others wait for."""


class Cluster(Protocol):
    """The views of the cluster (peer.api.cluster.ClusterView)."""

    def ready(self) -> tuple[bool, list[str]]: ...
    def verdict(self) -> dict[str, Any]: ...
    async def looked(self) -> None: ...
    def safe_without(self, name: str) -> bool: ...
    async def overview(self) -> dict[str, Any]: ...
    async def nodes(self) -> list[dict[str, Any]]: ...
    async def node(self, name: str) -> dict[str, Any]: ...
    async def views(self) -> dict[str, Any]: ...
    async def ring(self) -> dict[str, Any]: ...
    async def lookup(
        self, bucket: str, key: bytes | None, chunks_from: int | None = None
    ) -> dict[str, Any]: ...
    def epochs(self) -> list[dict[str, Any]]: ...


class Workers(Protocol):
    """The background workers of all peers (peer.api.workers.WorkersView)."""

    async def listed(self) -> dict[str, Any]: ...
    async def command(self, verb: str, worker: str, node: str | None, value: float) -> dict[str, Any]: ...


class Events(Protocol):
    """What happens in the cluster (peer.api.events.Events)."""

    def subscribe(self, types: Collection[str]) -> Any: ...
    def hello(self) -> bytes: ...
    def leave(self, one: Any) -> None: ...
    def close(self) -> None: ...


class Log(Protocol):
    """The journals of all peers (peer.api.logview.LogView)."""

    async def listed(self, limit: int) -> dict[str, Any]: ...


class Ring(Protocol):
    """Changes of the ring (peer.api.ringadmin.RingAdmin)."""

    async def drain(self, name: str, *, plan: bool) -> dict[str, Any]: ...
    async def undrain(self, name: str, *, plan: bool) -> dict[str, Any]: ...
    async def remove(self, name: str, *, plan: bool) -> dict[str, Any]: ...
    async def revise(self, name: str, wanted: dict[str, Any], *, plan: bool) -> dict[str, Any]: ...
    async def set_replicas(self, wanted: dict[str, Any], *, plan: bool) -> dict[str, Any]: ...
    async def abort(self) -> dict[str, Any]: ...


class Metrics(Protocol):
    """What this peer has counted (peer.metrics.Metrics)."""

    async def render(self, accept: str) -> tuple[bytes, str]: ...


@dataclass(slots=True)
class Limits:
    """Every limit of the HTTP surface, an option each (peer.config.LIMITS has their bounds).

    A body that makes no progress is cut after `idle_body_s`; after `pressed_body_s` if it keeps a buffer that others wait
    for. A connection without a request is closed after `idle_connection_s`. A stopping peer gives requests `drain_s`.
    A JSON body may have `json_bytes`, a form `form_fields`.
    """

    idle_body_s: float = 60.0
    pressed_body_s: float = 5.0
    idle_connection_s: float = 75.0
    drain_s: float = 10.0
    json_bytes: int = 1 << 20
    form_fields: int = 1000


@dataclass(slots=True)
class Context:
    """One peer as the API sees it."""

    replica: Replica
    objects: Objects
    cluster: Cluster
    workers: Workers
    limits: Limits = field(default_factory=Limits)
    authority: bytes | None = None
    """The certificate of the cluster's own authority, as PEM, where certificates of it are shown."""
    ring: Ring = field(init=False)
    events: Events = field(init=False)
    log: Log = field(init=False)
    journal: Journal = field(init=False)
    metrics: Metrics = field(init=False)
    metrics_public: bool = False
    """Whether /metrics needs no credentials."""
    requests: Requests = field(default_factory=lambda: Requests("api"))
    counts: dict[str, int] = field(default_factory=dict)
    transfers: dict[Transfer, None] = field(default_factory=dict)
    _secret: tuple[Any, bytes] = (None, b"")

    def authorise(self, header: str | None) -> None:
        """Raises Denied unless the header carries the root access key."""
        epoch = self.replica.epoch
        if self._secret[0] is not epoch:
            self._secret = (epoch, f"{epoch.root_access_key}:{epoch.root_secret_key}".encode())
        if not header:
            raise Denied(
                "this needs credentials: send Authorization: Bearer ACCESS:SECRET",
                code="Unauthorized",
                status=401,
            )
        scheme, _, given = header.partition(" ")
        known = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._secret[1])
        if not known or scheme.lower() != "bearer":
            raise Denied(
                "these credentials are not valid here; DIR/root.json of the founding peer has those that are",
                code="InvalidCredentials",
                status=403,
            )

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def cut_idle_bodies(self) -> None:
        """Now and then (`server.SWEEP_S`): end connections whose body, either way, made no progress for `idle_body_s`.

        While others wait for buffers, clients that stall while they keep one lose it, or their connection: after
        `pressed_body_s`, and once somebody has waited for so long, after a fifth of it. So many stalled clients are through
        before the others, who wait behind them, give up.
        """
        limits = self.limits
        starved_s = self.objects.starved_s if self.transfers else None
        pressed_s = limits.pressed_body_s
        if starved_s is not None and starved_s > pressed_s:
            pressed_s /= 5
        for transfer in list(self.transfers):
            waited_s = transfer.waited_s()
            if waited_s > limits.idle_body_s:
                self.count("idle_bodies")
                transfer.cut(f"no byte of the body came for {limits.idle_body_s:g} s")
            elif starved_s is not None and transfer.lent and transfer.stalls(pressed_s):
                self.count("idle_bodies")
                transfer.cut("the body came too slowly while others waited for the buffer it kept")
            elif starved_s is not None and waited_s > 0:
                transfer.give_back()


class Transfer:
    """Bytes on their way from or to a client; cut when the client lets us wait for `idle_body_s`."""

    __slots__ = ("_context", "_request", "_why", "lease", "lent", "since_s")

    def __init__(self, request: web.BaseRequest, context: Context) -> None:
        self._request = request
        self._context = context
        self._why = ""
        self.since_s = math.inf
        self.lent = False  # whether the connection itself holds a buffer's memory
        self.lease: Callable[[], None] | None = (
            None  # gives back a buffer that is kept, but could be fetched again
        )
        context.transfers[self] = None

    def waits(self) -> None:
        """From now on it is the client's turn."""
        self.since_s = time.monotonic()

    def moved(self) -> None:
        """The client did its part; what takes time now is ours."""
        self.since_s = math.inf

    def waited_s(self) -> float:
        """How long the client has let us wait; 0 or less when it does not."""
        return time.monotonic() - self.since_s

    def give_back(self) -> None:
        """Let go of a kept buffer, if there is one."""
        release, self.lease = self.lease, None
        if release is not None:
            release()

    def stalls(self, limit_s: float) -> bool:
        """Whether the client has kept a buffer for longer without doing its part."""
        return self.waited_s() > limit_s

    def cut(self, why: str) -> None:
        """The client stalls: end its connection, so that nothing waits for it any longer."""
        self._why = why
        if self._request.transport is not None:
            self._request.transport.abort()

    def done(self) -> None:
        self._context.transfers.pop(self, None)


class Body(Transfer):
    """A request's body: asks for it if the client waits to be asked, and checks its length."""

    __slots__ = ("_expected", "_held_bytes", "_held_s", "_left", "size")

    def __init__(self, request: web.BaseRequest, context: Context) -> None:
        super().__init__(request, context)
        self.size = request.content_length
        self._left = self.size
        self._held_bytes = 0  # that came while it kept a buffer, and how long we waited for them
        self._held_s = 0.0
        self._expected = request.headers.get("Expect", "").lower() == "100-continue"

    def holds(self, buffer: bool) -> None:
        """It begins or ends to fill a buffer."""
        self.lent = buffer
        self._held_bytes, self._held_s = 0, 0.0

    def moved(self, count: int = 0) -> None:
        if self.lent:
            self._held_s += max(0.0, self.waited_s())
            self._held_bytes += count
        self._context.requests.body_bytes_in += count
        super().moved()

    def stalls(self, limit_s: float) -> bool:
        """No byte for so long, or ever so few since the buffer was taken."""
        waited_s = max(0.0, self.waited_s())
        held_s = self._held_s + waited_s
        return waited_s > limit_s or (held_s > limit_s and self._held_bytes < held_s * SLOWEST)

    def ask(self) -> None:
        """Nothing speaks against this request so far: tell a client that sent Expect: 100-continue to go on."""
        if self._expected and self._request.transport is not None and self._request.version >= HttpVersion11:
            self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expected = False

    async def read(self, *, few: bool = False) -> bytes:
        """The next bytes, b"" at the end. Raises Invalid when the client vanished or stalled.

        With `few` at most 4 KiB, so that who only wants to know whether more comes leaves the rest where it is.
        """
        if self._expected:
            self.ask()
        self.waits()
        try:
            content = self._request.content
            piece = await (content.read(FEW_BYTES) if few else content.readany())
        except BODY_ERRORS as error:
            raise self.ended(error) from error
        self.moved(len(piece))
        if self._left is not None:
            self._left -= len(piece)
            if not piece and self._left > 0:
                raise Invalid(
                    f"the body ended {self._left} bytes short of its Content-Length; nothing was stored",
                    code="IncompleteBody",
                )
        return piece

    def ended(self, error: BaseException) -> Invalid:
        """What to say when the body's bytes stopped coming, or made no sense."""
        if isinstance(error, ConnectionError):
            short = f", {self._left} bytes short of its Content-Length" if self._left else ""
            why = self._why or f"the connection ended before the body did{short}"
        else:
            told = " ".join(str(error).split())[:200]
            why = f"the body is not framed as HTTP/1.1 wants it ({told}); check Content-Length or chunks"
        return Invalid(f"{why}; nothing was stored", code="IncompleteBody")


@dataclass(slots=True)
class Call:
    """One request: what was asked, decoded. `operation` is what it counts as (`accounting`), once that is known."""

    request: web.BaseRequest
    context: Context
    id: str
    method: str
    query: dict[str, str]
    operation: str = OTHER

    def argument(self, name: str, default: str = "") -> str:
        return self.query.get(name, default)

    def only(self, *names: str) -> None:
        """Raises Invalid for a query parameter that means nothing here."""
        unknown = set(self.query).difference(names)
        if unknown:
            allowed = ", ".join(names) or "none"
            raise Invalid(
                f"unknown query parameter {min(unknown)[:80]!r}; known here: {allowed}",
                code="InvalidArgument",
            )


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
