"""/health, /ready, /v1/cluster...: the cluster from this peer's view."""

from __future__ import annotations

import math
from importlib import resources

from aiohttp import web

from peer.errors import Invalid
from peer.objects.names import check_key

from .context import Call
from .http import decode_name


async def health(call: Call) -> web.StreamResponse:
    return web.json_response({"status": "ok"})


async def ready(call: Call) -> web.StreamResponse:
    is_ready, reasons = call.context.cluster.ready()
    return web.json_response({"ready": is_ready, "reasons": reasons}, status=200 if is_ready else 503)


async def health_cluster(call: Call) -> web.StreamResponse:
    call.only("maintenance")
    await call.context.cluster.looked()
    verdict = call.context.cluster.verdict()
    if "maintenance" in call.query:
        safe = call.context.cluster.safe_without(call.query["maintenance"])
        return web.json_response({"verdict": verdict["verdict"], "safe": safe}, status=200 if safe else 412)
    status = 503 if verdict["verdict"] == "unavailable" else 200
    return web.json_response({"verdict": verdict["verdict"]}, status=status)


async def overview(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response(await call.context.cluster.overview())


async def nodes(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response({"nodes": await call.context.cluster.nodes()})


async def node(call: Call, name: str) -> web.StreamResponse:
    call.only()
    return web.json_response(await call.context.cluster.node(name))


async def ring(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response(call.context.cluster.ring())


async def lookup(call: Call) -> web.StreamResponse:
    call.only("bucket", "key")
    key = check_key(call.query["key"].encode()) if "key" in call.query else None
    return web.json_response(await call.context.cluster.lookup(call.argument("bucket"), key))


async def epochs(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response({"epochs": call.context.cluster.epochs()})


async def workers(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response(await call.context.workers.listed())


async def command_workers(call: Call, rest: str) -> web.StreamResponse:
    """POST /v1/cluster/workers/{worker}/{verb}"""
    worker, _, verb = rest.partition("/")
    call.only(*(("node", "per_second") if verb == "throttle" else ("node",)))
    value = 0.0
    if verb == "throttle":
        try:
            value = float(call.argument("per_second"))
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise Invalid("per_second: a number of items, 0 for as many as it can", code="InvalidArgument")
    told = await call.context.workers.command(verb, decode_name(worker), call.query.get("node"), value)
    return web.json_response(told)


_OPENAPI: list[bytes] = []


async def openapi(call: Call) -> web.StreamResponse:
    if not _OPENAPI:
        _OPENAPI.append(resources.files("peer.api").joinpath("openapi.json").read_bytes())
    return web.Response(body=_OPENAPI[0], headers={"Content-Type": "application/json"})
