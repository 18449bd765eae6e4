"""The API's HTTP server: one handler, routes by the raw path, errors rendered in one place.

The path is taken raw and decoded once, so keys like `..`, `a//b`, `%2F` or a leading `/` arrive byte for byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from time import perf_counter
from typing import Any

from aiohttp import web
from multidict import istr

from peer.errors import AtollError, Invalid, NotFound, StartupError, Unavailable
from peer.logs import HERE
from peer.requestid import CURRENT, is_sane
from peer.tls.certificates import Certificates

from . import buckets_api, cluster_api, events, exposition, objects_api
from .accounting import GONE, OTHER, STREAMS
from .context import Call, Context
from .http import RangeNotSatisfiable, decode_name, decode_segment, error_body, parse_query
from .protocol import HttpServer
from .site import listen, plain_answer

log = logging.getLogger(__name__)

BUCKETS = "/v1/buckets"
EVENTS = "/v1/events"
RETRY_AFTER_S = "1"
SWEEP_S = 0.25
READ_BUFFER_BYTES = 64 * 1024
"""aiohttp pauses a body at twice this. The socket is read 256 KiB at a time all the same: at four times this size a
hundred uploads took 130 MiB more and were no faster."""
FAREWELL_S = 0.3
"""Clients that send a request that often are told that the connection ends before it does (`HttpServer.farewell`)."""
UNBUILT = ("uploads", "versions", "copy", "move")
OBJECT_METHODS: dict[str, Callable[[Call, str, bytes], Awaitable[web.StreamResponse]]] = {
    "PUT": objects_api.put_object,
    "GET": objects_api.get_object,
    "HEAD": objects_api.get_object,
    "DELETE": objects_api.delete_object,
}
OBJECT_OPERATIONS = {method: f"{method.lower()}_object" for method in OBJECT_METHODS}
BUCKET_METHODS: dict[str, Callable[[Call, str], Awaitable[web.StreamResponse]]] = {
    "PUT": buckets_api.create_bucket,
    "GET": buckets_api.get_bucket,
    "DELETE": buckets_api.delete_bucket,
}
OPEN_PATHS: dict[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
    "/health": cluster_api.health,
    "/ready": cluster_api.ready,
    "/health/cluster": cluster_api.health_cluster,
    "/ca.pem": cluster_api.authority,
}
FIXED_PATHS: dict[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
    "/openapi.json": cluster_api.openapi,
    BUCKETS: buckets_api.list_buckets,
    "/v1/cluster": cluster_api.overview,
    "/v1/cluster/nodes": cluster_api.nodes,
    "/v1/cluster/ring": cluster_api.ring,
    "/v1/cluster/ring/lookup": cluster_api.lookup,
    "/v1/cluster/views": cluster_api.views,
    "/v1/cluster/log": cluster_api.log,
    "/v1/cluster/epochs": cluster_api.epochs,
    "/v1/cluster/workers": cluster_api.workers,
    EVENTS: events.stream,
}
LIST_METHODS: dict[str, Callable[[Call, str], Awaitable[web.StreamResponse]]] = {
    "GET": objects_api.list_bucket,
}
UPLOAD_METHODS: dict[str, Callable[[Call, str], Awaitable[web.StreamResponse]]] = {
    "POST": objects_api.upload_form,
}
ADMIN_PATHS: dict[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
    "/v1/cluster/ring/replicas": cluster_api.set_replicas,
    "/v1/cluster/ring/abort": cluster_api.abort,
}
REQUEST_ID = istr("x-request-id")
METRICS = "/metrics"
OPERATIONS: dict[str, str] = {
    **dict.fromkeys(OPEN_PATHS, "health"),
    "/openapi.json": "openapi",
    BUCKETS: "list_buckets",
    EVENTS: STREAMS,
    METRICS: "metrics",
}
"""What requests of these paths count as (`accounting`); the other fixed ones are views of the cluster."""
NODE = "/v1/cluster/nodes/"
WORKER = "/v1/cluster/workers/"
NODE_ACTIONS = ("drain", "undrain", "remove", "set")
ADMIN_METHODS = ("POST",)
OPEN_METHODS = ("GET", "HEAD")
VIEW_METHODS = ("GET",)
COMMAND_METHODS = ("POST",)
ROUTES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(OPEN_PATHS, OPEN_METHODS),
    **dict.fromkeys(FIXED_PATHS, VIEW_METHODS),
    METRICS: VIEW_METHODS,
    NODE + "{node}": VIEW_METHODS,
    WORKER + "{worker}/{verb}": COMMAND_METHODS,
    **{NODE + "{node}/" + action: ADMIN_METHODS for action in NODE_ACTIONS},
    **dict.fromkeys(ADMIN_PATHS, ADMIN_METHODS),
    BUCKETS + "/{bucket}": tuple(BUCKET_METHODS),
    BUCKETS + "/{bucket}/objects": tuple(LIST_METHODS),
    BUCKETS + "/{bucket}/objects/{key}": tuple(OBJECT_METHODS),
    BUCKETS + "/{bucket}/upload": tuple(UPLOAD_METHODS),
}
"""All there is, for openapi.json to be compared with; {key} may contain slashes."""


class MethodNotAllowed(Invalid):
    code = "MethodNotAllowed"
    status = 405

    def __init__(self, method: str, allowed: Collection[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"{method[:20]} is not allowed here; allowed: {self.allowed}")


class ApiServer:
    """Serves the API of one peer on one port."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runner: web.ServerRunner | None = None
        self._server: HttpServer | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._request_prefix = context.replica.me[:8]
        self._requests = 0

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> int:
        """Listen, with TLS if there are certificates; the port in use. Raises StartupError if it is taken."""
        self._server = HttpServer(
            self.handle,
            self._refuse,
            access_log=None,
            read_bufsize=READ_BUFFER_BYTES,
            keepalive_timeout=self._context.limits.idle_connection_s,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=self._context.limits.drain_s)
        await self._runner.setup()
        try:
            port = await listen(self._runner, host, port, certificates, self._refuse_plain)
        except OSError as error:
            await self._runner.cleanup()
            raise StartupError(
                f"the API port {host}:{port} cannot be used ({error.strerror}); is another peer running? choose --port"
            ) from error
        self._sweeper = asyncio.create_task(self._sweep())
        return port

    async def stop(self) -> None:
        """Listen no more, answer what still comes on open connections, let requests in flight end (`drain_s` at most)."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._runner is None or self._server is None:
            return
        for site in list(self._runner.sites):
            await site.stop()
        await self._server.farewell(min(FAREWELL_S, self._context.limits.drain_s))
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self._context.cut_idle_bodies()
            except Exception:
                log.exception("a look for idle bodies failed")  # the next one must still come

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: never raises but for cancellation and a client that is gone."""
        began_s = perf_counter()
        requests = self._context.requests
        requests.begun += 1
        given = request.headers.get(REQUEST_ID)
        request_id = given if given is not None and is_sane(given) else self._next_id()
        # Of this connection's task, until its next request, and of all that comes of it.
        CURRENT.set(request_id)
        call = Call(request, self._context, request_id, request.method, {})
        code = GONE
        try:
            response = await self._route(call)
            code = response.status
        except ConnectionError:
            self._context.count("clients_gone")
            raise
        except Exception as error:  # noqa: BLE001 - it is logged there, and answered
            response = self._failed(call, error)
            code = response.status
        finally:
            took_s = perf_counter() - began_s
            requests.end(call.operation, code, took_s)
            if HERE.debugs:
                log.debug("%s %s: %d in %.1f ms", call.method, request.raw_path, code, took_s * 1000)
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id
            if isinstance(response, web.Response) and (body := response.body) and call.method != "HEAD":
                requests.body_bytes_out += len(body)  # type: ignore[arg-type]
            if not request.content.is_eof() or request.content.exception() is not None:
                # An answer before the body's end: what follows on this connection would be the body.
                response.force_close()
        return response

    def _failed(self, call: Call, error: Exception) -> web.Response:
        """The answer to what a request raised."""
        if isinstance(error, AtollError):
            return self._error(call.method, error, call.id)
        log.error("request %s %s %s failed", call.id, call.method, call.request.raw_path, exc_info=error)
        failure = AtollError(f"an unexpected error; the peer's log has it under {call.id}")
        failure.state_changed = None
        return self._error(call.method, failure, call.id)

    def _next_id(self) -> str:
        self._requests += 1
        return f"{self._request_prefix}-{self._requests:x}"

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        """The answer to what is no HTTP request."""
        request_id = self._next_id()
        response = self._error("", Invalid(message, code=code, status=status), request_id)
        self._count_refused(response.status)
        response.headers["x-request-id"] = request_id
        return response

    def _refuse_plain(self) -> bytes:
        """The answer to plain HTTP where TLS is spoken."""
        error = Invalid("this port speaks TLS: write https:// in the address", code="TlsRequired")
        request_id = self._next_id()
        self._count_refused(error.status)
        body = error_body(error, request_id, self._names())
        return plain_answer("application/json", body, f"x-request-id: {request_id}\r\n")

    def _count_refused(self, status: int) -> None:
        """One more that never became a request."""
        requests = self._context.requests
        requests.begun += 1
        requests.end(OTHER, status, 0.0)

    async def _route(self, call: Call) -> web.StreamResponse:
        context, request = self._context, call.request
        raw, _, query = request.raw_path.partition("?")
        method = call.method
        codings = ", ".join(request.headers.getall("Transfer-Encoding", ()))
        if codings.strip().lower() not in ("", "chunked"):
            raise Invalid(
                f"Transfer-Encoding {codings[:80]!r} is not understood here, only chunked is; send the body as it is",
                code="NotImplemented",
                status=501,
            )
        if raw in OPEN_PATHS:
            call.operation = OPERATIONS[raw]
            self._allow(method, OPEN_METHODS)
            call.query = parse_query(query)
            return await OPEN_PATHS[raw](call)
        if raw != METRICS or not context.metrics_public:
            context.authorise(request.headers.get("Authorization"))
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            raise Invalid("Expect: only 100-continue is known here", code="ExpectationFailed", status=417)
        call.query = parse_query(query)
        if raw.startswith(BUCKETS + "/"):
            return await self._bucket_route(call, raw[len(BUCKETS) + 1 :])
        if raw in FIXED_PATHS:
            call.operation = OPERATIONS.get(raw, "view_cluster")
            self._allow(method, VIEW_METHODS)
            return await FIXED_PATHS[raw](call)
        if raw == METRICS:
            call.operation = OPERATIONS[raw]
            self._allow(method, VIEW_METHODS)
            return await exposition.metrics(call)
        if raw in ADMIN_PATHS:
            call.operation = "change_cluster"
            self._allow(method, ADMIN_METHODS)
            return await ADMIN_PATHS[raw](call)
        if raw.startswith(NODE):
            return await self._node_route(call, raw[len(NODE) :])
        if raw.startswith(WORKER):
            call.operation = "change_cluster"
            self._allow(method, COMMAND_METHODS)
            return await cluster_api.command_workers(call, raw[len(WORKER) :])
        raise NotFound(f"there is nothing at {raw[:200]!r}; see /openapi.json", code="NoSuchPath")

    async def _node_route(self, call: Call, rest: str) -> web.StreamResponse:
        raw_name, slash, action = rest.partition("/")
        if slash and action in NODE_ACTIONS:
            call.operation = "change_cluster"
            self._allow(call.method, ADMIN_METHODS)
            return await cluster_api.change_node(call, decode_name(raw_name), action)
        call.operation = "view_cluster"
        self._allow(call.method, VIEW_METHODS)
        return await cluster_api.node(call, decode_name(rest))

    async def _bucket_route(self, call: Call, rest: str) -> web.StreamResponse:
        raw_name, slash, tail = rest.partition("/")
        name = decode_name(raw_name)
        method = call.method
        if not slash or not tail:
            self._allow(method, BUCKET_METHODS)
            call.operation = f"{method.lower()}_bucket"
            return await BUCKET_METHODS[method](call, name)
        if tail.startswith("objects/"):
            self._allow(method, OBJECT_METHODS)
            call.operation = OBJECT_OPERATIONS[method]
            return await OBJECT_METHODS[method](call, name, decode_segment(tail[8:]))
        if tail == "objects":
            call.operation = "list_objects"
            self._allow(method, LIST_METHODS)
            return await LIST_METHODS[method](call, name)
        if tail == "upload":
            call.operation = "upload_form"
            self._allow(method, UPLOAD_METHODS)
            return await UPLOAD_METHODS[method](call, name)
        part = tail.partition("/")[0]
        if part in UNBUILT:
            raise AtollError(
                f"{part!r} of a bucket is not implemented in this version; see /openapi.json",
                code="NotImplemented",
                status=501,
            )
        raise NotFound(f"a bucket has no {part[:80]!r}; see /openapi.json", code="NoSuchPath")

    def _names(self) -> dict[str, str]:
        """Member ids, which nobody knows by heart, and what people call them."""
        epoch = self._context.replica.epochs.current
        return {} if epoch is None else {member.id: member.name for member in epoch.members}

    @staticmethod
    def _allow(method: str, allowed: Collection[str]) -> None:
        if method not in allowed:
            raise MethodNotAllowed(method, allowed)

    def _error(self, method: str, error: AtollError, request_id: str) -> web.Response:
        headers: dict[str, Any] = {"Content-Type": "application/json"}
        if isinstance(error, Unavailable) or error.retry:
            headers["Retry-After"] = RETRY_AFTER_S
        if isinstance(error, RangeNotSatisfiable):
            headers["Content-Range"] = f"bytes */{error.size}"
        elif isinstance(error, MethodNotAllowed):
            headers["Allow"] = error.allowed
        elif error.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="atoll"'
        body = b"" if method == "HEAD" else error_body(error, request_id, self._names())
        return web.Response(status=error.status, body=body, headers=headers)
