"""Who may ask, what exists, and how the API says no."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from peer.api.server import EVENTS, ROUTES
from tests.cluster_world import Answer, ClusterWorld

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "PROPFIND")
OPEN = ("/health", "/ready", "/health/cluster")
CERTIFICATE = "/ca.pem"
"""Open as well, and 404 where plain HTTP is spoken (tests/test_cluster_tls.py)."""


def check_error(answer: Answer, status: int, code: str) -> None:
    """The form every error has."""
    assert (answer.status, answer.code) == (status, code), answer
    assert set(answer.json) == {"error"}
    error = answer.json["error"]
    assert set(error) == {"code", "message", "retry", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"] and error["retry"] is False
    assert answer.headers["content-type"].startswith("application/json")


def concrete(route: str, bucket: str) -> str:
    return route.replace("{bucket}", bucket).replace("{key}", "k").replace("{node}", "self")


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (None, 401, "Unauthorized"),
        ("", 401, "Unauthorized"),
        ("Bearer", 403, "InvalidCredentials"),
        ("Bearer {access}", 403, "InvalidCredentials"),
        ("Bearer {access}:", 403, "InvalidCredentials"),
        ("Bearer {access}:{secret}x", 403, "InvalidCredentials"),
        ("Bearer {secret}:{access}", 403, "InvalidCredentials"),
        ("Basic {access}:{secret}", 403, "InvalidCredentials"),
        ("{access}:{secret}", 403, "InvalidCredentials"),
        ("Bearer \xff\xfe", 403, "InvalidCredentials"),
    ],
)
def test_credentials(cluster: ClusterWorld, bucket: str, header: str | None, status: int, code: str) -> None:
    """Goal: without the right credentials nothing is answered and nothing changes, on any path."""
    access, secret = cluster.credentials
    headers = {} if header is None else {"Authorization": header.format(access=access, secret=secret)}
    paths = [concrete(route, bucket) for route in ROUTES if route not in (*OPEN, CERTIFICATE)]
    for path in [*paths, "/", "/v1", "/v1/nothing", "/v1/buckets/missing-one"]:
        for method in ("GET", "PUT", "DELETE"):
            body = b"x" if method == "PUT" else None
            answer = cluster.call(method, path, body, headers, authorised=False)
            check_error(answer, status, code)
            assert ("www-authenticate" in answer.headers) == (status == 401)
            assert secret not in answer.body.decode()
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"] == []


def test_scheme_in_any_case(cluster: ClusterWorld) -> None:
    """Goal: the scheme's name has no case (RFC 9110, section 11.1)."""
    access, secret = cluster.credentials
    for scheme in ("bearer", "BEARER"):
        answer = cluster.call("GET", "/v1/buckets", headers={"Authorization": f"{scheme} {access}:{secret}"})
        assert answer.status == 200


def test_open_paths(cluster: ClusterWorld) -> None:
    """Goal: health needs no credentials, and tells no more than the verdict."""
    for peer in range(3):
        for path, shown in zip(OPEN, ({"status"}, {"ready", "reasons"}, {"verdict"}), strict=True):
            answer = cluster.call("GET", path, peer=peer, authorised=False)
            assert (answer.status, set(answer.json)) == (200, shown)
            assert answer.headers["x-request-id"]
            assert cluster.call("HEAD", path, peer=peer, authorised=False).status == 200


@pytest.mark.parametrize("route", ROUTES)
def test_methods(cluster: ClusterWorld, bucket: str, route: str) -> None:
    """Goal: every route answers the methods it lists, and 405 with Allow to every other."""
    path = concrete(route, bucket) + ("?types=none" if route == EVENTS else "")  # or it would never end
    for method in METHODS:
        answer = cluster.call(method, path, b"" if method in ("PUT", "POST") else None)
        if method in ROUTES[route]:
            assert answer.status != 405, method
        else:
            assert answer.status == 405, method
            assert answer.headers["allow"] == ", ".join(ROUTES[route])
            if method != "HEAD":
                check_error(answer, 405, "MethodNotAllowed")
        if method == "DELETE" and route == "/v1/buckets/{bucket}":
            assert cluster.call("PUT", path).status == 201


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v2/buckets", "/v1/bucketsx", "/v1/cluster/", "/v1/cluster/x", "/health/", "//health",
     "/v1/buckets/abc/objectsx/k", "/v1/buckets/abc/Objects", "/v1/cluster/nodes/nobody", "/../etc/passwd", "/%00"],
)  # fmt: skip
def test_unknown_paths(cluster: ClusterWorld, path: str) -> None:
    """Goal: what does not exist is 404, and says where to look."""
    answer = cluster.call("GET", path)
    assert answer.status == 404
    assert answer.code in ("NoSuchPath", "NoSuchNode")
    assert "/openapi.json" in answer.message or "/v1/cluster/nodes" in answer.message


@pytest.mark.parametrize("part", ["uploads", "uploads/1", "versions", "copy", "move"])
def test_not_built_yet(cluster: ClusterWorld, bucket: str, part: str) -> None:
    """Goal: what the contract promises for later says that it is not there yet."""
    for method in ("GET", "POST"):
        check_error(cluster.call(method, f"/v1/buckets/{bucket}/{part}"), 501, "NotImplemented")


def test_s3_port_says_it_is_not_there(cluster: ClusterWorld) -> None:
    """Goal: an S3 client reads why it cannot work yet."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(cluster.place(0).s3_url + "/bucket/key", timeout=10)
    with refused.value as answer:
        assert (answer.status, answer.headers["content-type"]) == (501, "application/xml")
        assert b"<Code>NotImplemented</Code>" in answer.read()


def test_missing_things(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a missing bucket and a missing key are told apart, by name."""
    for method in ("GET", "PUT", "DELETE"):
        answer = cluster.call(method, "/v1/buckets/missing-one/objects/k", b"x" if method == "PUT" else None)
        check_error(answer, 404, "NoSuchBucket")
        assert "'missing-one'" in answer.message and "create it" in answer.message
    answer = cluster.call("GET", f"/v1/buckets/{bucket}/objects/no/such%20key")
    check_error(answer, 404, "NoSuchKey")
    assert "'no/such key'" in answer.message


def test_heads_have_no_body(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a failed HEAD leaves its connection usable: no body follows it."""
    for path, status in (
        (f"/v1/buckets/{bucket}/objects/none", 404),
        ("/v1/buckets/missing-one/objects/k", 404),
        ("/v1/nothing", 404),
        (f"/v1/buckets/{bucket}/objects/%zz", 400),
        (f"/v1/buckets/{bucket}", 405),
    ):
        answer = cluster.call("HEAD", path)
        assert (answer.status, answer.body) == (status, b"")
        assert answer.headers["x-request-id"]
        assert cluster.call("GET", "/health").json == {"status": "ok"}
    assert cluster.call("HEAD", f"/v1/buckets/{bucket}/objects/k", authorised=False).status == 401


def test_every_answer_has_its_own_id(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: request ids are on every kind of answer and never repeat."""
    seen = []
    large = b"x" * 400_000
    for method, path, body in (
        ("PUT", "objects/k", large), ("GET", "objects/k", None), ("HEAD", "objects/k", None), ("GET", "objects", None),
        ("DELETE", "objects/k", None), ("GET", "objects/k", None), ("PATCH", "objects/k", None), ("GET", "nope", None),
    ):  # fmt: skip
        for peer in range(3):
            answer = cluster.call(method, f"/v1/buckets/{bucket}/{path}", body, peer=peer)
            assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["x-request-id"]), (method, path)
            seen.append(answer.headers["x-request-id"])
    assert len(set(seen)) == len(seen)


def test_no_quorum_is_503_at_once(tmp_path: Path) -> None:
    """Goal: with one of two peers dead everything that needs a majority answers 503 with Retry-After within 5 s."""
    with ClusterWorld(tmp_path, 2, options=["--partition-power", "8"]) as world:
        assert world.call("PUT", "/v1/buckets/abc", b'{"shards": 2}').status == 201
        assert world.call("PUT", "/v1/buckets/abc/objects/k", b"x").status == 200
        assert world.call("GET", "/health/cluster", authorised=False).json == {"verdict": "degraded"}
        for node in ("peer-1", "peer-2", "self"):
            risky = world.call("GET", f"/health/cluster?maintenance={node}", authorised=False)
            assert (risky.status, risky.json["safe"]) == (412, False)
        world.kill(1)
        for method, path in (
            ("PUT", "/v1/buckets/abc/objects/k"), ("GET", "/v1/buckets/abc/objects/k"), ("PUT", "/v1/buckets/new"),
            ("PUT", "/v1/buckets/abc/objects/large"), ("DELETE", "/v1/buckets/abc/objects/k"),
            ("GET", "/v1/buckets/abc/objects"), ("DELETE", "/v1/buckets/abc"), ("GET", "/v1/buckets"),
        ):  # fmt: skip
            body = (
                b"x" * (70_000 if "large" in path else 10) if "objects/" in path and method == "PUT" else None
            )
            answer = world.call(method, path, body, timeout_s=10)
            assert answer.status == 503, (method, path, answer)
            assert answer.headers["retry-after"].isdigit()
            assert answer.json["error"]["retry"] is True
        world.start(1)
        world.wait_ready(1)
        assert world.call("GET", "/v1/buckets/abc/objects/k", peer=1).body == b"x"
        names = [entry["name"] for entry in world.call("GET", "/v1/buckets", peer=1).json["buckets"]]
        assert "abc" in names
