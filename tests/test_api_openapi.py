"""openapi.json is true: its routes are the server's, and live answers validate against its schemas, strictly."""

from __future__ import annotations

import copy
import json
import os
import re
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from peer.api.server import EVENTS, ROUTES
from tests.cluster_world import Answer, ClusterWorld

DOCUMENT: dict[str, Any] = json.loads(resources.files("peer.api").joinpath("openapi.json").read_text())
METHODS = ("get", "put", "post", "delete", "head", "patch", "options")


def strict(node: Any) -> Any:
    """The document with every object closed, so that a field nobody documented is found."""
    if isinstance(node, list):
        return [strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    closed = {name: strict(part) for name, part in node.items()}
    if "allOf" in closed:
        closed["unevaluatedProperties"] = False
    elif "properties" in closed and isinstance(closed["properties"], dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _closed() -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    schemas = document["components"]["schemas"]
    whole_node = copy.deepcopy(schemas["NodeInFull"])
    # A closed Node cannot be extended: in the strict copy the two halves become one object.
    merged = {"type": "object", "properties": {}, "required": []}
    for half in (schemas["Node"], whole_node["allOf"][1]):
        merged["properties"] |= half["properties"]
        merged["required"] += half["required"]
    schemas["NodeInFull"] = merged
    return dict(strict(document))


STRICT = _closed()


def operation(method: str, route: str) -> dict[str, Any]:
    return dict(STRICT["paths"][route][method.lower()])


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = STRICT
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def check(answer: Answer, method: str, route: str) -> None:
    """Status, headers and body of a live answer are what the document says."""
    responses = operation(method, route)["responses"]
    assert str(answer.status) in responses, (
        f"{method} {route} answered {answer.status}: {answer.body[:300]!r}"
    )
    response = resolved(responses[str(answer.status)])
    for name, header in response["headers"].items():
        value = answer.headers.get(name.lower())
        if value is None:
            assert name in ("Content-Disposition", "x-atoll-meta-*", "Retry-After"), f"{name} is missing"
            continue
        pattern = resolved(header)["schema"].get("pattern")
        assert pattern is None or re.search(pattern, value), (name, value)
    if "application/json" in response.get("content", {}):
        if method == "HEAD":
            assert answer.body == b""
            return
        assert answer.headers["content-type"].startswith("application/json")
        schema = {**response["content"]["application/json"]["schema"], "components": STRICT["components"]}
        errors = list(Draft202012Validator(schema).iter_errors(answer.json))
        assert not errors, [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in errors[:5]]
    elif "content" not in response:
        assert answer.body == b""


def test_routes_are_the_servers() -> None:
    """Goal: every route and method of the server is described, and nothing else is."""
    described = {
        route: {method.upper() for method in item if method in METHODS}
        for route, item in DOCUMENT["paths"].items()
    }
    assert described == {route: set(methods) for route, methods in ROUTES.items()}


def test_document_is_sound() -> None:
    """Goal: operations have unique ids, every reference resolves, every part is used, every schema is one."""
    ids = [item[m]["operationId"] for item in DOCUMENT["paths"].values() for m in item if m in METHODS]
    assert len(ids) == len(set(ids))
    text = json.dumps(DOCUMENT)
    references = set(re.findall(r'"\$ref": "#/components/([^"]+)"', text))
    present = {
        f"{kind}/{name}"
        for kind in ("schemas", "responses", "parameters", "headers")
        for name in DOCUMENT["components"][kind]
    }
    assert references == present
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for route, item in DOCUMENT["paths"].items():
        named = {p["name"] for p in map(resolved, item.get("parameters", [])) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", route))


def test_served(cluster: ClusterWorld) -> None:
    """Goal: every peer serves the document as it is."""
    for peer in range(3):
        answer = cluster.call("GET", "/openapi.json", peer=peer)
        assert answer.json == DOCUMENT
        check(answer, "GET", "/openapi.json")


def test_views_validate(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: what every peer tells of health and cluster has the documented shape, field by field."""
    assert cluster.call("PUT", f"/v1/buckets/{bucket}/objects/k", os.urandom(100_000)).status == 200
    for peer in range(3):
        for route in ROUTES:
            if "bucket}" in route or route in ("/openapi.json", EVENTS) or ROUTES[route] == ("POST",):
                continue
            for node in ("self", "peer-1", "peer-3") if "{node}" in route else ("",):
                path = route.replace("{node}", node)
                path += f"?bucket={bucket}&key=k" if route.endswith("/lookup") else ""
                for method in ROUTES[route]:
                    answer = cluster.call(method, path, peer=peer)
                    # These peers speak plain HTTP.
                    assert answer.status == (404 if route == "/ca.pem" else 200)
                    check(answer, method, route)
        check(
            cluster.call("GET", f"/v1/cluster/ring/lookup?bucket={bucket}"), "GET", "/v1/cluster/ring/lookup"
        )
        check_workers(cluster, peer)
        safe = cluster.call("GET", "/health/cluster?maintenance=peer-2", peer=peer)
        assert safe.json["safe"] is True
        check(safe, "GET", "/health/cluster")


def check_workers(cluster: ClusterWorld, peer: int) -> None:
    """Commands to workers answer as documented; afterwards all is as before."""
    route = "/v1/cluster/workers/{worker}/{verb}"
    path = "/v1/cluster/workers/"
    for rest, status in (
        ("hints/start", 200),
        ("hints/throttle?per_second=2000&node=peer-2", 200),
        ("hints/throttle", 400),
        ("hints/throttle?per_second=-1", 400),
        ("nothing/pause", 404),
        ("hints/burn", 404),
        ("all/resume?node=nobody", 404),
    ):
        answer = cluster.call("POST", path + rest, peer=peer)
        assert answer.status == status, (rest, answer)
        check(answer, "POST", route)


def calls(bucket: str) -> list[tuple[str, str, str, bytes | None, dict[str, str], int]]:
    """method, route, rest of the path, body, headers, status; in this order, on one bucket."""
    one, many, item = (
        "/v1/buckets/{bucket}",
        "/v1/buckets/{bucket}/objects",
        "/v1/buckets/{bucket}/objects/{key}",
    )
    form = {"Content-Type": "multipart/form-data; boundary=B"}
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--B--\r\n'
    meta = {"Content-Type": "text/plain", "x-atoll-meta-a": "b"}
    large = b"x" * 300_000
    return [
        ("PUT", one, "", b"{}", {}, 200),
        ("PUT", one, "", b"{", {}, 400),
        ("GET", one, "", None, {}, 200),
        ("GET", "/v1/buckets", "", None, {}, 200),
        ("GET", "/v1/buckets", "?x=1", None, {}, 400),
        ("PUT", item, "a%20b", b"small", meta, 200),
        ("PUT", item, "large", large, meta, 200),
        ("PUT", item, "large", b"", {"If-None-Match": "*"}, 412),
        ("PUT", item, "none", b"", {"If-Match": "*"}, 404),
        ("PUT", item, "none", b"", {"If-Match": '"'}, 400),
        ("PUT", item, "none", b"", {"If-Unmodified-Since": "x"}, 501),
        ("PUT", item, "none", b"", {"Expect": "x"}, 417),
        ("GET", item, "a%20b", None, {}, 200),
        ("GET", item, "large", None, {"Range": "bytes=5-"}, 206),
        ("GET", item, "large", None, {"Range": "bytes=900000-"}, 416),
        ("GET", item, "large", None, {"If-None-Match": "*"}, 304),
        ("GET", item, "large", None, {"If-Match": '"x"'}, 412),
        ("GET", item, "none", None, {}, 404),
        ("HEAD", item, "large", None, {}, 200),
        ("HEAD", item, "large", None, {"Range": "bytes=-5"}, 206),
        ("HEAD", item, "large", None, {"Range": "bytes=900000-"}, 416),
        ("HEAD", item, "none", None, {}, 404),
        ("POST", "/v1/buckets/{bucket}/upload", "", part, form, 200),
        ("POST", "/v1/buckets/{bucket}/upload", "", part[:-9], form, 400),
        ("GET", many, "?delimiter=/&limit=2", None, {}, 200),
        ("GET", many, "?limit=x", None, {}, 400),
        ("DELETE", one, "", None, {}, 409),
        ("DELETE", item, "large", None, {"If-Match": '"x"'}, 412),
        ("DELETE", item, "large", None, {}, 204),
        ("DELETE", item, "a%20b", None, {}, 204),
        ("DELETE", item, "f", None, {}, 204),
        ("DELETE", one, "", None, {}, 204),
        ("DELETE", one, "", None, {}, 404),
        ("GET", many, "", None, {}, 404),
    ]


def test_calls_validate(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: answers to good and bad requests, in the life of a bucket, are the documented ones."""
    seen = set()
    for number, (method, route, rest, body, headers, status) in enumerate(calls(bucket)):
        path = route.replace("{bucket}", bucket).replace("{key}", "") + rest
        answer = cluster.call(method, path, body, headers, peer=number % 3)
        assert answer.status == status, (method, path, headers, answer)
        check(answer, method, route)
        seen.add((method, route))
    assert seen == {
        (m, route) for route, methods in ROUTES.items() for m in methods if route.startswith("/v1/buckets")
    }
    created = cluster.call("PUT", f"/v1/buckets/{bucket}", b'{"shards": 2}')
    assert created.status == 201
    check(created, "PUT", "/v1/buckets/{bucket}")


@pytest.mark.parametrize("route", ROUTES)
def test_credentials_validate(cluster: ClusterWorld, bucket: str, route: str) -> None:
    """Goal: whatever is not declared open refuses strangers in the documented way, and only that."""
    path = route.replace("{bucket}", bucket).replace("{key}", "k").replace("{node}", "self")
    path = path.replace("{worker}", "hints").replace("{verb}", "start")
    for method in ROUTES[route]:
        declared_open = operation(method, route).get("security") == []
        for headers, status in (({}, 401), ({"Authorization": "Bearer a:b"}, 403)):
            answer = cluster.call(method, path, headers=headers, authorised=False)
            if declared_open:
                assert answer.status == (404 if route == "/ca.pem" else 200)
            else:
                assert answer.status == status
                check(answer, method, route)
