"""/v1/buckets and /v1/buckets/{bucket}."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from peer.errors import Invalid
from peer.objects.buckets import DEFAULT_SHARDS, LIST_MOST
from peer.objects.heads import Bucket

from .context import Body, Call
from .http import iso_time, parse_int


async def list_buckets(call: Call) -> web.StreamResponse:
    call.only("after", "limit")
    limit = parse_int(call.argument("limit", str(LIST_MOST)), "limit", 1, LIST_MOST)
    found, rest = await call.context.objects.buckets.list(call.argument("after"), limit)
    return web.json_response({"buckets": [_entry(bucket) for bucket in found], "next": rest})


async def get_bucket(call: Call, name: str) -> web.StreamResponse:
    call.only()
    return web.json_response(_entry(await call.context.objects.buckets.find(name, fresh=True)))


async def create_bucket(call: Call, name: str) -> web.StreamResponse:
    call.only()
    wanted = await read_json(call)
    unknown = set(wanted).difference({"shards"})
    if unknown:
        raise Invalid(f"unknown field {min(unknown)[:80]!r}; a bucket takes: shards", code="InvalidArgument")
    shards = wanted.get("shards", DEFAULT_SHARDS)
    if type(shards) is not int:
        raise Invalid(f"shards must be a number, not {str(shards)[:80]}", code="InvalidArgument")
    bucket, created = await call.context.objects.buckets.create(name, shards)
    return web.json_response(_entry(bucket), status=201 if created else 200)


async def delete_bucket(call: Call, name: str) -> web.StreamResponse:
    call.only()
    await call.context.objects.buckets.delete(name)
    return web.Response(status=204)


async def read_json(call: Call) -> dict[str, Any]:
    """The body as a JSON object; {} when there is none. Raises Invalid."""
    body = Body(call.request, call.context)
    data = b""
    try:
        while piece := await body.read():
            data += piece
            if len(data) > call.context.limits.json_bytes:
                most = call.context.limits.json_bytes
                raise Invalid(f"a JSON body may have {most} bytes here", code="EntityTooLarge", status=413)
    finally:
        body.done()
    if not data.strip():
        return {}
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}", code="MalformedJSON") from None
    if not isinstance(parsed, dict):
        raise Invalid("the body must be a JSON object, as in {}", code="MalformedJSON")
    return parsed


def _entry(bucket: Bucket) -> dict[str, Any]:
    return {"name": bucket.name, "created": iso_time(bucket.created_us), "shards": bucket.shards}
