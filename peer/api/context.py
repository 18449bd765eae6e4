"""What the API's handlers share: one peer's parts, and one request's."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from peer.errors import Denied, Invalid
from peer.objects.store import Objects
from peer.replication.node import Replica


class Cluster(Protocol):
    """The views of the cluster (peer.api.cluster.ClusterView)."""

    def ready(self) -> tuple[bool, list[str]]: ...
    def verdict(self) -> dict[str, Any]: ...
    async def overview(self) -> dict[str, Any]: ...
    async def nodes(self) -> list[dict[str, Any]]: ...
    async def node(self, name: str) -> dict[str, Any]: ...
    def ring(self) -> dict[str, Any]: ...
    async def lookup(self, bucket: str, key: bytes | None) -> dict[str, Any]: ...
    def epochs(self) -> list[dict[str, Any]]: ...


@dataclass(slots=True)
class Limits:
    """Every limit of the HTTP surface, an option each."""

    idle_body_s: float = 60.0
    json_bytes: int = 1 << 20
    form_fields: int = 1000


@dataclass(slots=True)
class Context:
    """One peer as the API sees it."""

    replica: Replica
    objects: Objects
    cluster: Cluster
    limits: Limits = field(default_factory=Limits)
    counts: dict[str, int] = field(default_factory=dict)
    reading: dict[Body, None] = field(default_factory=dict)
    _secret: tuple[Any, bytes] = (None, b"")

    def authorise(self, header: str | None) -> None:
        """Raises Denied unless the header carries the root access key."""
        epoch = self.replica.epoch
        if self._secret[0] is not epoch:
            self._secret = (epoch, f"Bearer {epoch.root_access_key}:{epoch.root_secret_key}".encode())
        if header is None:
            raise Denied(
                "this needs credentials: send Authorization: Bearer ACCESS:SECRET",
                code="Unauthorized",
                status=401,
            )
        if not hmac.compare_digest(header.encode("utf-8", "surrogateescape"), self._secret[1]):
            raise Denied("these credentials are not valid here", code="InvalidCredentials", status=403)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def cut_idle_bodies(self) -> None:
        """Once a second: end connections whose body made no progress for `idle_body_s`."""
        limit = time.monotonic() - self.limits.idle_body_s
        for body in list(self.reading):
            if body.progress_s < limit:
                self.count("idle_bodies")
                body.cut()


class Body:
    """A request's body: checks its length, and is cut when the client stalls."""

    __slots__ = ("_context", "_left", "_request", "_why", "progress_s", "size")

    def __init__(self, request: web.BaseRequest, context: Context) -> None:
        self._request = request
        self._context = context
        self.size = request.content_length
        self._left = self.size
        self._why = ""
        self.progress_s = time.monotonic()
        context.reading[self] = None

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises Invalid when the client vanished or stalled."""
        try:
            piece = await self._request.content.readany()
        except (
            ConnectionError,
            ClientError,
            HttpProcessingError,
            asyncio.IncompleteReadError,
            EOFError,
        ) as error:
            why = self._why or "the connection ended before the body did"
            raise Invalid(f"{why}; nothing was stored", code="IncompleteBody") from error
        self.progress_s = time.monotonic()
        if self._left is not None:
            self._left -= len(piece)
            if not piece and self._left > 0:
                raise Invalid(
                    f"the body ended {self._left} bytes short of its Content-Length; nothing was stored",
                    code="IncompleteBody",
                )
        return piece

    def cut(self) -> None:
        self._why = f"no byte of the body came for {self._context.limits.idle_body_s:g} s"
        if self._request.transport is not None:
            self._request.transport.abort()

    def done(self) -> None:
        self._context.reading.pop(self, None)


@dataclass(slots=True)
class Call:
    """One request: what was asked, decoded."""

    request: web.BaseRequest
    context: Context
    id: str
    method: str
    query: dict[str, str]

    def argument(self, name: str, default: str = "") -> str:
        return self.query.get(name, default)

    def only(self, *names: str) -> None:
        """Raises Invalid for a query parameter that means nothing here."""
        unknown = set(self.query).difference(names)
        if unknown:
            allowed = ", ".join(names) or "none"
            raise Invalid(
                f"unknown query parameter {min(unknown)!r}; known here: {allowed}", code="InvalidArgument"
            )


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
