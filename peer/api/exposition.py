"""GET /metrics: what this peer has counted, as Prometheus reads it."""

from __future__ import annotations

from aiohttp import web

from .context import Call


async def metrics(call: Call) -> web.StreamResponse:
    """Answers within a second or so, also while other peers do not: what they say of themselves is looked up first."""
    call.only()
    accept = call.request.headers.get("Accept", "")
    body, content_type = await call.context.metrics.render(accept)
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
