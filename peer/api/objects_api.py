"""/v1/buckets/{bucket}/objects[/{key}] and the form upload."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from aiohttp.multipart import BodyPartReader, MultipartReader

from peer.errors import Invalid
from peer.objects.heads import Head
from peer.objects.listing import MAX_LIMIT, list_objects
from peer.objects.store import Found

from .context import Body, Call
from .http import (
    METADATA_PREFIX,
    RangeNotSatisfiable,
    http_time,
    iso_time,
    metadata_of,
    parse_int,
    parse_range,
    read_status,
    write_conditions,
)

SLICE_BYTES = 256 * 1024
SMALL_BYTES = 256 * 1024
DEFAULT_TYPE = "application/octet-stream"


async def put_object(call: Call, bucket: str, key: bytes) -> web.StreamResponse:
    request = call.request
    headers = request.headers
    body = Body(request, call.context)
    try:
        if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = await call.context.objects.put(
            bucket,
            key,
            body,
            size=body.size,
            content_type=headers.get("Content-Type", DEFAULT_TYPE),
            metadata=metadata_of(headers),
            conditions=write_conditions(headers),
        )
    finally:
        body.done()
    answer = json.dumps({"key": key.decode(), "size": head.size, "etag": head.etag}).encode()
    return web.Response(body=answer, headers={"ETag": f'"{head.etag}"', "Content-Type": "application/json"})


async def get_object(call: Call, bucket: str, key: bytes) -> web.StreamResponse:
    call.only()
    request = call.request
    found = await call.context.objects.find(bucket, key, inline=request.method == "GET")
    head = found.head
    headers = object_headers(head)
    status = read_status(request.headers, head.etag, head.modified_us)
    if status == 304:
        return web.Response(status=304, headers={k: headers[k] for k in ("ETag", "Last-Modified")})
    if status == 412:
        raise Invalid(
            "the object does not meet the request's conditions", code="PreconditionFailed", status=412
        )
    range_header = request.headers.get("Range")
    if (
        range_header is not None
        and "If-Range" in request.headers
        and request.headers["If-Range"] != headers["ETag"]
    ):
        range_header = None
    try:
        span = parse_range(range_header, head.size)
    except RangeNotSatisfiable as error:
        error.add_note(f"bytes */{head.size}")
        raise
    if span.partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{head.size}"
    status = 206 if span.partial else 200
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers | {"Content-Length": str(span.stop - span.start)})
    if found.inline is not None:
        body = found.inline if not span.partial else found.inline[span.start : span.stop]
        return web.Response(status=status, body=body, headers=headers)
    return await _send(call, found, span.start, span.stop, status, headers)


async def _send(
    call: Call, found: Found, start: int, stop: int, status: int, headers: dict[str, str]
) -> web.StreamResponse:
    """Chunks, each verified whole before its first byte leaves. The status goes out with the first chunk, so that a
    failure on it is an honest error; a later one can only end the connection."""
    pieces = call.context.objects.read(found, start, stop)
    request = call.request
    response: web.StreamResponse | None = None
    try:
        async for view, release in pieces:
            try:
                if response is None:
                    if stop - start <= SMALL_BYTES and len(view) == stop - start:
                        return web.Response(status=status, body=bytes(view), headers=headers)
                    response = web.StreamResponse(status=status, headers=headers)
                    response.content_length = stop - start
                    if request.transport is not None:
                        # Any write waits until the socket has taken all: only then may the buffer be used again.
                        request.transport.set_write_buffer_limits(high=0)
                    await response.prepare(request)
                for at in range(0, len(view), SLICE_BYTES):
                    part = view[at : at + SLICE_BYTES]
                    await response.write(part if len(part) > 65536 else bytes(part))
            finally:
                release()
        if response is None:
            return web.Response(status=status, body=b"", headers=headers)
        await response.write_eof()
        return response
    except Exception:
        if response is not None and request.transport is not None:
            request.transport.abort()
        raise
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


async def delete_object(call: Call, bucket: str, key: bytes) -> web.StreamResponse:
    call.only()
    await call.context.objects.delete(bucket, key, write_conditions(call.request.headers))
    return web.Response(status=204)


async def list_bucket(call: Call, bucket: str) -> web.StreamResponse:
    call.only("prefix", "delimiter", "after", "limit")
    limit = parse_int(call.argument("limit", str(MAX_LIMIT)), "limit", 0, MAX_LIMIT)
    listing = await list_objects(
        call.context.objects,
        call.context.replica,
        bucket,
        prefix=call.argument("prefix").encode(),
        delimiter=call.argument("delimiter").encode(),
        after=call.argument("after").encode(),
        limit=limit,
    )
    answer = {
        "objects": [_entry(key, head) for key, head in listing.objects],
        "prefixes": [prefix.decode("utf-8", "replace") for prefix in listing.prefixes],
        "next": None if listing.next is None else listing.next.decode("utf-8", "replace"),
    }
    return web.Response(body=json.dumps(answer).encode(), headers={"Content-Type": "application/json"})


async def upload_form(call: Call, bucket: str) -> web.StreamResponse:
    """multipart/form-data with `file` fields; each is an object named by its file name behind ?prefix=."""
    call.only("prefix")
    request = call.request
    if not request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        raise Invalid(
            "send multipart/form-data with `file` fields, as curl -F file=@NAME does", code="InvalidArgument"
        )
    body = Body(request, call.context)
    stored = []
    try:
        reader = MultipartReader(request.headers, request.content)
        fields = 0
        while (part := await reader.next()) is not None:
            fields += 1
            if fields > call.context.limits.form_fields:
                raise Invalid(
                    f"a form may have {call.context.limits.form_fields} fields", code="InvalidArgument"
                )
            if not isinstance(part, BodyPartReader) or part.name != "file" or not part.filename:
                continue
            key = (call.argument("prefix") + part.filename).encode()
            head = await call.context.objects.put(
                bucket,
                key,
                _Part(part, body),
                size=None,
                content_type=part.headers.get("Content-Type", DEFAULT_TYPE),
            )
            stored.append({"key": key.decode(), "size": head.size, "etag": head.etag})
    except (ValueError, ConnectionError, AssertionError) as error:
        raise Invalid(f"the form is malformed or was cut off: {error}", code="MalformedForm") from error
    finally:
        body.done()
    if not stored:
        raise Invalid("the form has no `file` field with a file name", code="InvalidArgument")
    return web.json_response({"objects": stored})


class _Part:
    """One field of a form as a body."""

    def __init__(self, part: BodyPartReader, body: Body) -> None:
        self._part = part
        self._body = body

    async def read(self) -> bytes:
        import time

        piece = await self._part.read_chunk(65536)
        self._body.progress_s = time.monotonic()
        return bytes(piece)


def object_headers(head: Head) -> dict[str, str]:
    headers = {
        "ETag": f'"{head.etag}"',
        "Last-Modified": http_time(head.modified_us),
        "Content-Type": head.content_type,
        "Accept-Ranges": "bytes",
    }
    if head.metadata:
        for name, value in head.metadata.items():
            headers[METADATA_PREFIX + name] = value
    return headers


def _entry(key: bytes, head: Head) -> dict[str, Any]:
    return {
        "key": key.decode("utf-8", "replace"),
        "size": head.size,
        "etag": head.etag,
        "modified": iso_time(head.modified_us),
        "content_type": head.content_type,
    }


__all__ = ["delete_object", "get_object", "list_bucket", "put_object", "upload_form"]
