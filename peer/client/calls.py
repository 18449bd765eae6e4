"""Every call of the API that fits in memory: what to send and how to read the answer. No I/O.

Client and AsyncClient run these; puts and gets, whose bytes stream, are in transfer.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from peer.client import wire
from peer.client.model import BucketInfo, ClusterInfo, NodeInfo, ObjectInfo, Page, Stored, unquoted
from peer.client.wire import Repeat, Request, parse_json
from peer.errors import Invalid

T = TypeVar("T")
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, the statuses that mean success, and what its answer is read as."""

    request: Request
    parse: Callable[[int, Headers, bytes], T]
    ok: tuple[int, ...] = (200,)
    gone_is_done: bool = False
    """After a lost answer, "not found" means that the first attempt did it."""


def _read(
    path: str, what: str, parse: Callable[[dict[str, Any]], T], patience_s: float | None = None
) -> Call[T]:
    silence_s = wire.SILENCE_S if patience_s is None else wire.SIDE_SILENCE_S
    request = Request("GET", path, what, Repeat.FREELY, patience_s=patience_s, silence_s=silence_s)
    return Call(request, lambda status, headers, body: parse(parse_json(body, what)))


def buckets(after: str | None) -> Call[tuple[list[BucketInfo], str | None]]:
    """A page of them, and the name that the next page begins behind, None at the end."""
    return _read(
        "/v1/buckets" + ("?" + urlencode({"after": after}) if after else ""),
        "list buckets",
        lambda a: ([BucketInfo.from_json(entry) for entry in a.get("buckets", ())], a.get("next")),
    )


def bucket(name: str) -> Call[BucketInfo]:
    return _read(wire.bucket_path(name), f"bucket {name}", BucketInfo.from_json)


def create_bucket(name: str, shards: int | None) -> Call[bool]:
    """True if it is new, False if it was the caller's already."""
    if shards is not None and shards < 1:
        raise Invalid(f"{shards} shards: a bucket has at least one", code="InvalidArgument")
    body = b"" if shards is None else json.dumps({"shards": shards}).encode()
    headers = {"Content-Type": "application/json"} if body else {}
    path, what = wire.bucket_path(name), f"create bucket {name}"
    request = Request("PUT", path, what, Repeat.SAME_RESULT, headers, body, silence_s=wire.STREAM_SILENCE_S)
    return Call(request, lambda status, headers, body: status == 201, ok=(200, 201))


def delete_bucket(name: str) -> Call[None]:
    path, what = wire.bucket_path(name), f"delete bucket {name}"
    request = Request("DELETE", path, what, Repeat.SAME_RESULT, silence_s=wire.STREAM_SILENCE_S)
    return Call(request, _nothing, ok=(200, 204), gone_is_done=True)


def list_page(
    name: str, prefix: str, delimiter: str | None, after: str | None, limit: int | None
) -> Call[Page]:
    if limit is not None and limit < 1:
        raise Invalid(f"limit {limit}: a page has room for at least one name", code="InvalidArgument")
    path = wire.list_path(name, prefix, delimiter, after, limit)
    return _read(path, f"list {name}/{prefix}", lambda answer: Page.from_json(name, answer))


def stat(name: str, key: str) -> Call[ObjectInfo]:
    def parse(status: int, headers: Headers, body: bytes) -> ObjectInfo:
        return ObjectInfo.from_headers(name, key, headers, int(headers.get("content-length", "0")))

    return Call(Request("HEAD", wire.object_path(name, key), f"stat {name}/{key}", Repeat.FREELY), parse)


def delete(name: str, key: str, if_match: str | None) -> Call[None]:
    conditions = wire.conditions(if_match, None)
    repeat = Repeat.NEVER if conditions else Repeat.SAME_RESULT
    headers = conditions | wire.operation_header()
    request = Request("DELETE", wire.object_path(name, key), f"delete {name}/{key}", repeat, headers)
    return Call(request, _nothing, ok=(200, 204))


def put(
    name: str,
    key: str,
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    if_match: str | None,
    if_none_match: str | None,
) -> Call[Stored]:
    """The put of an object whose body travels beside the request."""
    conditions = wire.conditions(if_match, if_none_match)
    headers = conditions | wire.metadata_headers(metadata) | wire.operation_header()
    if content_type is not None:
        headers["Content-Type"] = content_type
    repeat = Repeat.NEVER if conditions else Repeat.SAME_RESULT
    what = f"put {name}/{key}"

    def parse(status: int, answered: Headers, body: bytes) -> Stored:
        answer = parse_json(body, what)
        etag = unquoted(str(answer.get("etag") or answered.get("etag", "")))
        return Stored(name, key, int(answer.get("size", -1)), etag)

    path = wire.object_path(name, key)
    silence_s = wire.STREAM_SILENCE_S if conditions else wire.UPLOAD_SILENCE_S
    request = Request("PUT", path, what, repeat, headers, silence_s=silence_s)
    return Call(request, parse, ok=(200, 201))


def cluster(patience_s: float | None = None) -> Call[ClusterInfo]:
    return _read("/v1/cluster", "cluster", ClusterInfo.from_json, patience_s)


def nodes() -> Call[list[NodeInfo]]:
    return _read(
        "/v1/cluster/nodes", "nodes", lambda a: [NodeInfo.from_json(entry) for entry in a.get("nodes", ())]
    )


def node(name: str) -> Call[NodeInfo]:
    return _read(f"/v1/cluster/nodes/{quote(name, safe='')}", f"node {name}", NodeInfo.from_json)


def ring() -> Call[dict[str, Any]]:
    return _read("/v1/cluster/ring", "ring", dict)


def workers() -> Call[dict[str, Any]]:
    return _read("/v1/cluster/workers", "workers", dict)


def command_workers(
    verb: str, worker: str, node: str | None, per_second: float | None
) -> Call[dict[str, Any]]:
    asked = {"node": node, "per_second": per_second}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    path = f"/v1/cluster/workers/{quote(worker, safe='')}/{quote(verb, safe='')}" + (
        f"?{query}" if query else ""
    )

    def parse(status: int, headers: Headers, body: bytes) -> dict[str, Any]:
        return parse_json(body, verb)

    return Call(Request("POST", path, f"{verb} {worker}", Repeat.SAME_RESULT), parse)


def epochs() -> Call[dict[str, Any]]:
    return _read("/v1/cluster/epochs", "epochs", dict)


def views() -> Call[dict[str, Any]]:
    return _read("/v1/cluster/views", "views", dict)


def log(limit: int) -> Call[dict[str, Any]]:
    return _read(f"/v1/cluster/log?limit={limit}", "log", dict)


def lookup(
    name: str, key: str | None, patience_s: float | None = None, chunks_from: int | None = None
) -> Call[dict[str, Any]]:
    what = f"owners of {name}" if key is None else f"owners of {name}/{key}"
    path = wire.lookup_path(name, key)
    if chunks_from is not None:
        path += f"&chunks=true&from={chunks_from}"
    return _read(path, what, dict[str, Any], patience_s)


def change_ring(path: str, what: str, body: Mapping[str, Any] | None, plan: bool) -> Call[dict[str, Any]]:
    """A change of the ring, or what it would move."""
    content = b"" if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if content else {}
    path = f"/v1/cluster/{path}" + ("?plan=true" if plan else "")
    request = Request("POST", path, what, Repeat.SAME_RESULT, headers, content, silence_s=wire.RING_SILENCE_S)
    return Call(request, lambda status, headers, body: parse_json(body, what))


def change_node(name: str, action: str, body: Mapping[str, Any] | None, plan: bool) -> Call[dict[str, Any]]:
    return change_ring(f"nodes/{quote(name, safe='')}/{action}", f"{action} {name}", body, plan)


def health() -> Call[str]:
    """The verdict, from the one cluster view that is open without credentials."""

    def parse(status: int, headers: Headers, body: bytes) -> str:
        told = parse_json(body, "health")
        return str(told.get("verdict") or ("unavailable" if status == 503 else "healthy"))

    return Call(Request("GET", "/health/cluster", "health", Repeat.FREELY), parse, ok=(200, 503))


def ready() -> Call[list[str]]:
    """Why the one peer that is asked is not ready for clients; [] if it is."""

    def parse(status: int, headers: Headers, body: bytes) -> list[str]:
        told = parse_json(body, "ready")
        return [] if status == 200 else [str(why) for why in told.get("reasons") or ["it does not say why"]]

    return Call(Request("GET", "/ready", "ready", Repeat.FREELY), parse, ok=(200, 503))


def _nothing(status: int, headers: Headers, body: bytes) -> None:
    return None
