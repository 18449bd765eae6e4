"""The bare HTTP server of the floor: aiohttp as the peers use it, answering from memory.

Run as a process of its own; prints its port, ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from aiohttp import web

BODY = bytes(4096)


async def put(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({"key": request.match_info["key"], "size": 4096}, headers={"ETag": '"floor"'})


async def get(request: web.Request) -> web.Response:
    return web.Response(body=BODY, headers={"ETag": '"floor"'})


async def cpu(request: web.Request) -> web.Response:
    return web.json_response({"process": {"cpu_s": time.process_time()}})


async def serve() -> None:
    application = web.Application()
    application.router.add_put("/v1/buckets/{bucket}/objects/{key:.+}", put)
    application.router.add_get("/v1/buckets/{bucket}/objects/{key:.+}", get)
    application.router.add_get("/v1/cluster/nodes/self", cpu)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    print(port, flush=True)
    try:
        await asyncio.to_thread(sys.stdin.read)  # until our parent lets go of us, or dies
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop_runner:
        loop_runner.run(serve())
