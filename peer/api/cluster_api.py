"""/health, /ready, /v1/cluster...: the cluster from this peer's view."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from aiohttp import web

from peer.errors import AtollError, Invalid, NotFound
from peer.journal import ADMIN, INFO, KEPT, WARNING
from peer.objects.names import check_key

from .buckets_api import read_json
from .context import Call
from .http import decode_name, parse_int

MOST_CHUNKS = 1 << 40


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


async def authority(call: Call) -> web.StreamResponse:
    """Whoever takes it from here compares its fingerprint with one that came another way."""
    pem = call.context.authority
    if pem is None:
        raise NotFound("this peer shows no certificate of the cluster's own authority", code="NoAuthority")
    return web.Response(body=pem, content_type="application/x-pem-file")


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
    return web.json_response(await call.context.cluster.ring())


async def views(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response(await call.context.cluster.views())


async def lookup(call: Call) -> web.StreamResponse:
    call.only("bucket", "key", "chunks", "from")
    key = check_key(call.query["key"].encode()) if "key" in call.query else None
    chunks, first = _truth(call, "chunks"), parse_int(call.argument("from", "0"), "from", 0, MOST_CHUNKS)
    if "from" in call.query and not chunks:
        raise Invalid("from: the number of a chunk, for chunks=true", code="InvalidArgument")
    told = await call.context.cluster.lookup(call.argument("bucket"), key, first if chunks else None)
    return web.json_response(told)


async def epochs(call: Call) -> web.StreamResponse:
    call.only()
    return web.json_response({"epochs": call.context.cluster.epochs()})


async def log(call: Call) -> web.StreamResponse:
    call.only("limit")
    limit = parse_int(call.argument("limit", str(KEPT)), "limit", 1, KEPT)
    return web.json_response(await call.context.log.listed(limit))


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
    with _noted(call, verb):
        told = await call.context.workers.command(verb, decode_name(worker), call.query.get("node"), value)
    return web.json_response(told)


async def change_node(call: Call, name: str, action: str) -> web.StreamResponse:
    """POST /v1/cluster/nodes/{node}/ACTION."""
    plan = _plan(call)
    admin = call.context.ring
    wanted = await read_json(call)
    with _noted(call, action, plan):
        if action == "set":
            return web.json_response(await admin.revise(name, wanted, plan=plan))
        if wanted:
            raise Invalid(f"{action} takes no body", code="InvalidArgument")
        change = {"drain": admin.drain, "undrain": admin.undrain, "remove": admin.remove}[action]
        return web.json_response(await change(name, plan=plan))


async def set_replicas(call: Call) -> web.StreamResponse:
    plan = _plan(call)
    wanted = await read_json(call)
    with _noted(call, "replicas", plan):
        return web.json_response(await call.context.ring.set_replicas(wanted, plan=plan))


async def abort(call: Call) -> web.StreamResponse:
    call.only()
    with _noted(call, "abort"):
        return web.json_response(await call.context.ring.abort())


@contextmanager
def _noted(call: Call, code: str, plan: bool = False) -> Iterator[None]:
    """Write what an operator asks for into the journal, and how that went; a plan alone is none of it."""
    note, path = call.context.journal.note, call.request.raw_path.partition("?")[0][:200]
    asked = f"{call.method} {path} (request {call.id})"
    try:
        yield
    except AtollError as error:
        if not plan:
            note(WARNING, ADMIN, f"{code}_refused", f"{asked} was refused: {error}")
        raise
    except BaseException:
        if not plan:
            note(
                WARNING,
                ADMIN,
                f"{code}_unknown",
                f"{asked} was broken off: it may have been done all the same",
            )
        raise
    if not plan:
        note(INFO, ADMIN, code, f"{asked} was done")


def _plan(call: Call) -> bool:
    """Whether only the plan is wanted."""
    call.only("plan")
    return _truth(call, "plan")


def _truth(call: Call, name: str) -> bool:
    value = call.query.get(name, "false")
    if value not in ("true", "false"):
        raise Invalid(f"{name} is true or false", code="InvalidArgument")
    return value == "true"


_OPENAPI: list[bytes] = []


async def openapi(call: Call) -> web.StreamResponse:
    if not _OPENAPI:
        _OPENAPI.append(resources.files("peer.api").joinpath("openapi.json").read_bytes())
    return web.Response(body=_OPENAPI[0], headers={"Content-Type": "application/json"})
