"""/v1/buckets/{bucket}/objects[/{key}] and the form upload."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from aiohttp import StreamReader, web
from aiohttp.multipart import BodyPartReader, MultipartReader

from peer.errors import AtollError, Invalid
from peer.objects.heads import Head
from peer.objects.listing import MAX_LIMIT, list_objects

from .context import BODY_ERRORS, Body, Call
from .http import (
    METADATA_PREFIX,
    content_type_of,
    header_of,
    http_time,
    iso_time,
    metadata_of,
    operation_of,
    parse_int,
    parse_range,
    read_status,
    write_conditions,
)
from .sending import send_object

DEFAULT_TYPE = "application/octet-stream"


async def put_object(call: Call, bucket: str, key: bytes) -> web.StreamResponse:
    call.only()
    request = call.request
    headers = request.headers
    if "Content-Range" in headers:
        raise Invalid("Content-Range: an object is replaced whole; send all of it", code="InvalidArgument")
    content_type = content_type_of(headers, DEFAULT_TYPE)
    metadata = metadata_of(headers)
    conditions = write_conditions(headers)
    operation = operation_of(headers)
    body = Body(request, call.context)
    try:
        head = await call.context.objects.put(
            bucket,
            key,
            body,
            size=body.size,
            content_type=content_type,
            metadata=metadata,
            conditions=conditions,
            operation=operation,
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
            f"the object (ETag {head.etag}) does not meet the request's conditions",
            code="PreconditionFailed",
            status=412,
        )
    range_header = header_of(request.headers, "Range")
    if (
        range_header is not None
        and "If-Range" in request.headers
        and request.headers["If-Range"] != headers["ETag"]
    ):
        range_header = None
    span = parse_range(range_header, head.size)
    if "%" in request.raw_path.rpartition("/")[2]:
        headers["Content-Disposition"] = disposition_of(key)
    if span.partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{head.size}"
    status = 206 if span.partial else 200
    if request.method == "HEAD":
        return web.Response(status=status, headers=headers | {"Content-Length": str(span.stop - span.start)})
    if found.inline is not None:
        body = found.inline if not span.partial else found.inline[span.start : span.stop]
        return web.Response(status=status, body=body, headers=headers)
    return await send_object(call, found, span.start, span.stop, status, headers)


async def delete_object(call: Call, bucket: str, key: bytes) -> web.StreamResponse:
    call.only()
    headers = call.request.headers
    await call.context.objects.delete(bucket, key, write_conditions(headers), operation_of(headers))
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
    """multipart/form-data with `file` fields; each is an object named by its file name behind ?prefix=.

    Objects are stored one after the other; an error names those that were stored before it.
    """
    call.only("prefix")
    request = call.request
    if not request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        raise Invalid(
            "send multipart/form-data with `file` fields, as curl -F file=@NAME does", code="InvalidArgument"
        )
    await call.context.objects.buckets.find(bucket)
    body = Body(request, call.context)
    body.ask()
    stored: list[dict[str, Any]] = []
    try:
        await _store_fields(call, bucket, body, stored)
    except (ValueError, AssertionError, *BODY_ERRORS) as error:
        raise Invalid(
            f"the form is malformed or was cut off: {error}{_told(stored)}", code="MalformedForm"
        ) from error
    except AtollError as error:
        # Of an unknown outcome nobody can say that nothing was stored.
        if stored or isinstance(error, Invalid):
            error.args = (f"{error}{_told(stored)}",)
        raise
    finally:
        body.done()
    if not stored:
        raise Invalid(
            "the form has no `file` field with a file name; send one as curl -F file=@NAME does",
            code="InvalidArgument",
        )
    return web.json_response({"objects": stored})


async def _store_fields(call: Call, bucket: str, body: Body, stored: list[dict[str, Any]]) -> None:
    reader = MultipartReader(call.request.headers, call.request.content)
    prefix = call.argument("prefix")
    fields = 0
    while True:
        body.waits()
        part = await reader.next()
        body.moved()
        if part is None:
            return
        fields += 1
        if fields > call.context.limits.form_fields:
            raise Invalid(f"a form may have {call.context.limits.form_fields} fields", code="InvalidArgument")
        if not isinstance(part, BodyPartReader) or part.name != "file" or not part.filename:
            continue
        if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise Invalid("send fields without Content-Transfer-Encoding", code="InvalidArgument")
        key = (prefix + part.filename).encode()
        content_type = content_type_of(part.headers, DEFAULT_TYPE)
        head = await call.context.objects.put(
            bucket, key, _Part(part, body, call.request.content), size=None, content_type=content_type
        )
        stored.append({"key": key.decode(), "size": head.size, "etag": head.etag})


def _told(stored: list[dict[str, Any]]) -> str:
    """What a failed form left behind."""
    if not stored:
        return "; nothing was stored"
    keys = ", ".join(repr(entry["key"]) for entry in stored[:10])
    return f"; stored before it: {keys}" + (f" and {len(stored) - 10} more" if len(stored) > 10 else "")


class _Part:
    """One field of a form as a body."""

    def __init__(self, part: BodyPartReader, body: Body, content: StreamReader) -> None:
        self._part = part
        self._content = content
        self._body = body
        length = part.headers.get("Content-Length")
        self._left = None if length is None else parse_int(length, "a field's Content-Length", 0, 10**18 - 1)

    async def read(self, *, few: bool = False) -> bytes:
        self._body.waits()
        piece = bytes(await self._part.read_chunk(65536))
        self._body.moved(len(piece))
        if self._left is not None:
            self._left -= len(piece)
        if not piece:
            self._check_end()
        return piece

    def holds(self, buffer: bool) -> None:
        self._body.holds(buffer)

    def _check_end(self) -> None:
        """aiohttp takes the end of the body for the end of a field; only a boundary, still unread, is one."""
        if self._content.at_eof():
            raise Invalid("the form ends within a field", code="IncompleteBody")
        if self._left:
            raise Invalid("a field's Content-Length is not that of its content", code="InvalidArgument")


def disposition_of(key: bytes) -> str:
    """The last part of a key as a file name, for clients whose URL shows it percent-encoded (curl -OJ)."""
    name = key.rpartition(b"/")[2].decode()
    plain = "".join("_" if ord(c) < 32 or ord(c) == 127 else c for c in name)
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f"inline; filename=\"{quoted}\"; filename*=UTF-8''{quote(name, safe='')}" if plain else "inline"


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
