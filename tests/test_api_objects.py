"""Objects over HTTP, on three real peers: bytes, sizes, keys, metadata."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.api.objects_api import DEFAULT_TYPE
from peer.etag import etag_of
from peer.objects.store import INLINE_MAX
from tests.cluster_world import ClusterWorld

CHUNK = 64 * 1024  # of the shared cluster
SIZES = [
    0, 1, 4096, INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 17, 256 * 1024,
    256 * 1024 + 1, 64 * CHUNK, 64 * CHUNK + 1, 66 * CHUNK,
]  # fmt: skip
ODD_KEYS = [
    b"..", b".", b"../../etc/passwd", b"a/../b", b"a//b", b"//", b"/", b"/leading", b"trailing/", b"a", b"a/b", b"%2F",
    b"%", b"%25", b"100%", b"a b", b" ", b"a+b", b"a?b", b"?", b"a#b", b"#", b"a&b=c", b"a;b", b"a:b@c", b"\\", b'"',
    b"'", b"<>", b"~", b"*", b"\0", b"\x01\x7f", b"\r\n", b"\t", "é".encode(), "e\u0301".encode(), "日本語/🦀".encode(),
    "\ufeff".encode(), "\u202e".encode(), b"x" * 1024, "ü".encode() * 512,
]  # fmt: skip


def path_of(bucket: str, key: bytes, safe: str = "/") -> str:
    return f"/v1/buckets/{bucket}/objects/{quote(key, safe=safe)}"


@pytest.mark.parametrize("size", SIZES)
def test_sizes(cluster: ClusterWorld, bucket: str, size: int) -> None:
    """Goal: bodies around every boundary come back whole through another peer, with the ETag a client computes."""
    body = os.urandom(size)
    etag = etag_of(body, CHUNK)
    put = cluster.call("PUT", path_of(bucket, b"k"), body, peer=0)
    assert put.status == 200
    assert put.json == {"key": "k", "size": size, "etag": etag}
    assert put.headers["etag"] == f'"{etag}"'
    for peer in (1, 2):
        got = cluster.call("GET", path_of(bucket, b"k"), peer=peer)
        assert (got.status, got.body == body) == (200, True)
        head = cluster.call("HEAD", path_of(bucket, b"k"), peer=peer)
        assert (head.status, head.body) == (200, b"")
        for name in ("etag", "content-length", "content-type", "last-modified", "accept-ranges"):
            assert got.headers[name] == head.headers[name]
        assert got.headers["content-length"] == str(size)
        assert got.headers["content-type"] == DEFAULT_TYPE
        assert got.headers["accept-ranges"] == "bytes"
        assert got.headers["x-request-id"] != head.headers["x-request-id"]


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX, INLINE_MAX + 1, CHUNK, 5 * CHUNK + 1])
def test_chunked_transfer_encoding(cluster: ClusterWorld, bucket: str, size: int) -> None:
    """Goal: a body whose length nobody told is stored the same."""
    body = os.urandom(size)

    def pieces() -> Iterator[bytes]:
        for at in range(0, size, 7001):
            yield body[at : at + 7001]

    put = cluster.call("PUT", path_of(bucket, b"k"), pieces(), peer=1)
    assert (put.status, put.json["size"], put.json["etag"]) == (200, size, etag_of(body, CHUNK))
    assert cluster.call("GET", path_of(bucket, b"k"), peer=2).body == body


def test_replaced(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: the last put counts, whatever the sizes; equal bytes under many keys are each their own object."""
    large, small = os.urandom(3 * CHUNK), b"small"
    for number, body in enumerate([large, small, b"", large, large, small]):
        assert cluster.call("PUT", path_of(bucket, b"k"), body, peer=number % 3).status == 200
        assert cluster.call("GET", path_of(bucket, b"k"), peer=(number + 1) % 3).body == body
    for peer in range(3):
        assert cluster.call("PUT", path_of(bucket, b"copy-%d" % peer), large, peer=peer).status == 200
    assert cluster.call("DELETE", path_of(bucket, b"copy-0")).status == 204
    for peer in (1, 2):
        assert cluster.call("GET", path_of(bucket, b"copy-%d" % peer)).body == large


def test_deleted(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a deleted object is gone on every peer at once, also from listings; deleting again is no error."""
    for body in (b"small", os.urandom(CHUNK)):
        assert cluster.call("PUT", path_of(bucket, b"k"), body).status == 200
        for peer in range(3):
            assert cluster.call("DELETE", path_of(bucket, b"k"), peer=peer).status == 204
            answer = cluster.call("GET", path_of(bucket, b"k"), peer=(peer + 1) % 3)
            assert (answer.status, answer.code) == (404, "NoSuchKey")
            assert cluster.call("HEAD", path_of(bucket, b"k"), peer=peer).status == 404
            assert cluster.call("GET", f"/v1/buckets/{bucket}/objects", peer=peer).json["objects"] == []


def test_odd_keys_are_different_keys(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: keys are bytes: nothing is normalised, merged or decoded twice."""
    for number, key in enumerate(ODD_KEYS):
        put = cluster.call("PUT", path_of(bucket, key), b"%d" % number, peer=number % 3)
        assert (put.status, put.json["key"]) == (200, key.decode())
    for number, key in enumerate(ODD_KEYS):
        for safe in ("/", ""):
            got = cluster.call("GET", path_of(bucket, key, safe), peer=(number + 1) % 3)
            assert (got.status, got.body) == (200, b"%d" % number), key
    listed = cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"]
    assert [entry["key"].encode() for entry in listed] == sorted(ODD_KEYS)
    for key in ODD_KEYS:
        assert cluster.call("DELETE", path_of(bucket, key)).status == 204
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"] == []


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(key=st.text(min_size=1, max_size=60))
def test_any_key_round_trips(cluster: ClusterWorld, bucket: str, key: str) -> None:
    """Goal: any UTF-8 text is a key."""
    raw = key.encode("utf-8", "surrogatepass")
    answer = cluster.call("PUT", path_of(bucket, raw), raw)
    if any("\ud800" <= c <= "\udfff" for c in key):
        assert answer.status == 400
        return
    assert (answer.status, answer.json["key"]) == (200, key)
    assert cluster.call("GET", path_of(bucket, raw, ""), peer=1).body == raw
    after = quote(raw[:-1].decode("utf-8", "ignore"), safe="")
    listed = cluster.call("GET", f"/v1/buckets/{bucket}/objects?limit=1000&prefix={after}", peer=2).json
    assert key in [entry["key"] for entry in listed["objects"]]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("", "InvalidArgument"),
        ("x" * 1025, "KeyTooLongError"),
        ("%C3%BC" * 513, "KeyTooLongError"),
        ("%ff", "InvalidArgument"),
        ("a%C3", "InvalidArgument"),
        ("%ED%A0%80", "InvalidArgument"),
        ("%zz", "InvalidURI"),
        ("%", "InvalidURI"),
        ("a%2", "InvalidURI"),
    ],
)
def test_bad_keys(cluster: ClusterWorld, bucket: str, raw: str, code: str) -> None:
    """Goal: what is no key is refused by every method, says why, and changes nothing."""
    for method in ("PUT", "GET", "DELETE"):
        answer = cluster.call(method, f"/v1/buckets/{bucket}/objects/{raw}")
        assert (answer.status, answer.code) == (400, code)
    assert cluster.call("HEAD", f"/v1/buckets/{bucket}/objects/{raw}").status == 400
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"] == []


def test_keys_sent_raw(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a path that is not percent-encoded is refused with that remedy, not guessed at."""
    with socket.create_connection(("127.0.0.1", cluster.place(0).api_port), 10) as connection:
        head = f"PUT /v1/buckets/{bucket}/objects/\u00e9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += f"Authorization: {cluster.authorization}\r\nContent-Length: 1\r\n\r\nx"
        connection.sendall(head.encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b" 400 " in reply.partition(b"\r\n")[0]
    assert b"percent-encode" in reply


def test_metadata(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: metadata and content type come back, of inline objects and others, and go with the next put."""
    sent = {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Atoll-Meta-Colour": "blue, or so",
        "x-atoll-meta-empty": "",
        "x-atoll-meta-name": "caf\u00e9".encode().decode("latin-1"),
        "x-atoll-meta-long": "m" * 1900,
        "Content-Encoding": "gzip",
    }
    for body in (b"not gzip at all", os.urandom(CHUNK + 1)):
        assert cluster.call("PUT", path_of(bucket, b"k"), body, sent).status == 200
        for method in ("GET", "HEAD"):
            got = cluster.call(method, path_of(bucket, b"k"), peer=1)
            assert got.headers["content-type"] == "text/plain; charset=utf-8"
            assert got.headers["x-atoll-meta-colour"] == "blue, or so"
            assert got.headers["x-atoll-meta-empty"] == ""
            assert got.headers["x-atoll-meta-long"] == "m" * 1900
            assert got.headers["x-atoll-meta-name"].encode("latin-1").decode() == "caf\u00e9"
        assert cluster.call("GET", path_of(bucket, b"k"), peer=2).body == body
    listed = cluster.call("GET", f"/v1/buckets/{bucket}/objects").json["objects"]
    assert listed[0]["content_type"] == "text/plain; charset=utf-8"
    assert cluster.call("PUT", path_of(bucket, b"k"), b"plain", {"Content-Type": ""}).status == 200
    got = cluster.call("GET", path_of(bucket, b"k"))
    assert got.headers["content-type"] == DEFAULT_TYPE
    assert not [name for name in got.headers if name.startswith("x-atoll-meta-")]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-atoll-meta-a": "x" * 1500, "x-atoll-meta-b": "x" * 600}, "MetadataTooLarge"),
        ({"x-atoll-meta-": "x"}, "InvalidArgument"),
        ({"x-atoll-meta-a": "caf\xe9"}, "InvalidArgument"),
        ({"Content-Type": "caf\xe9"}, "InvalidArgument"),
        ({"Content-Type": "t" * 300}, "InvalidArgument"),
        ({"Content-Range": "bytes 0-0/2"}, "InvalidArgument"),
    ],
)
def test_bad_headers(cluster: ClusterWorld, bucket: str, headers: dict[str, str], code: str) -> None:
    """Goal: headers that cannot be kept are refused before anything is stored."""
    answer = cluster.call("PUT", path_of(bucket, b"k"), b"x", headers)
    assert (answer.status, answer.code) == (400, code)
    assert cluster.call("GET", path_of(bucket, b"k")).status == 404


def test_listing_entries(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: an entry of a listing says what HEAD says."""
    body = os.urandom(CHUNK + 5)
    put = cluster.call("PUT", path_of(bucket, b"dir/k"), body, {"Content-Type": "image/png"})
    entry = cluster.call("GET", f"/v1/buckets/{bucket}/objects", peer=1).json["objects"][0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry.pop("modified"))
    assert entry == {
        "key": "dir/k", "size": len(body), "etag": put.json["etag"], "content_type": "image/png",
    }  # fmt: skip


def test_too_large(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a body that cannot fit is refused by its length, before it is sent."""
    largest = 64 * (CHUNK // 32) * CHUNK
    with socket.create_connection(("127.0.0.1", cluster.place(0).api_port), 60) as connection:
        head = f"PUT {path_of(bucket, b'k')} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        head += f"Authorization: {cluster.authorization}\r\nContent-Length: {largest + 1}\r\n\r\n"
        connection.sendall(head.encode())
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 413 "), reply
    assert b"EntityTooLarge" in reply and str(largest).encode() in reply


@pytest.mark.parametrize("size", [10, INLINE_MAX + 1])
def test_a_write_that_is_sent_again_is_done_once(cluster: ClusterWorld, bucket: str, size: int) -> None:
    """Goal: an attempt that comes late, under the id of one that was done since, does not undo what was written after it;
    an id that cannot be one is refused."""
    bodies, path = [os.urandom(size) for _ in range(2)], path_of(bucket, b"again")
    first, deletion = ({"X-Atoll-Operation": one * 16} for one in "ab")
    assert cluster.call("PUT", path, bodies[0], first, peer=0).status == 200
    assert cluster.call("PUT", path, bodies[1], peer=0).status == 200
    late = cluster.call("PUT", path, bodies[0], first, peer=1)
    assert (late.status, late.json["etag"]) == (200, etag_of(bodies[0], CHUNK))
    assert cluster.call("GET", path, peer=2).body == bodies[1]
    assert cluster.call("DELETE", path, headers=deletion, peer=0).status == 204
    assert cluster.call("PUT", path, bodies[1], peer=2).status == 200
    assert cluster.call("DELETE", path, headers=deletion, peer=1).status == 204
    assert cluster.call("GET", path, peer=0).body == bodies[1]
    for wrong in ("", "a" * 15, "a" * 17, "g" * 16):
        assert cluster.call("PUT", path, b"", {"X-Atoll-Operation": wrong}).status == 400
