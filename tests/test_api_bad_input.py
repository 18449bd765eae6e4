"""What clients get wrong, on raw sockets: short bodies, vanishing clients, garbage. Nothing of it changes anything."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster_world import ClusterWorld

CHUNK = 64 * 1024  # of the shared cluster
WAIT_S = 20.0


def connect(cluster: ClusterWorld, peer: int = 0, receive_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(WAIT_S)
    connection.connect(("127.0.0.1", cluster.place(peer).api_port))
    return connection


def head_of(cluster: ClusterWorld, method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: {cluster.authorization}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the one answer that comes before the server closes."""
    reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def vanish(connection: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def eventually(holds: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)


def buffers_are_back(cluster: ClusterWorld) -> None:
    """Wait until no peer has a buffer lent, or somebody waiting for one."""

    def back() -> bool:
        for peer in range(3):
            node = cluster.call("GET", "/v1/cluster/nodes/self", peer=peer).json
            if any(pool["lent"] or pool["waiting"] for pool in node["buffers"].values()):
                return False
        return True

    eventually(back, "buffers are not given back")


def nothing_stored(cluster: ClusterWorld, bucket: str) -> None:
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects", peer=1).json["objects"] == []
    assert cluster.call("GET", f"/v1/buckets/{bucket}/objects/k", peer=2).status == 404


# --- bodies that end too early


@pytest.mark.parametrize(
    ("said", "sent"), [(10, 0), (10, 9), (CHUNK, 10), (5 * CHUNK, 4 * CHUNK), (5 * CHUNK, 5 * CHUNK - 1)]
)
def test_short_body(cluster: ClusterWorld, bucket: str, said: int, sent: int) -> None:
    """Goal: a body shorter than its Content-Length is 400 by that name, and stores nothing."""
    with connect(cluster) as connection:
        connection.sendall(
            head_of(cluster, "PUT", f"/v1/buckets/{bucket}/objects/k", f"Content-Length: {said}")
        )
        connection.sendall(os.urandom(sent))
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert (status, error["error"]["code"]) == (400, "IncompleteBody")
    assert "Content-Length" in error["error"]["message"] and "nothing was stored" in error["error"]["message"]
    nothing_stored(cluster, bucket)
    buffers_are_back(cluster)


@pytest.mark.parametrize(
    "body",
    [b"", b"5\r\nhel", b"5\r\nhello\r\n", b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloworld\r\n0\r\n\r\n", b"-1\r\n\r\n",
     b"10000\r\n" + b"x" * 65536 + b"\r\nnot a size\r\n", b"ffffffffffffffffff\r\n"],
)  # fmt: skip
def test_bad_chunks(cluster: ClusterWorld, bucket: str, body: bytes) -> None:
    """Goal: chunked encoding that is cut off or makes no sense is 400 and stores nothing."""
    with connect(cluster) as connection:
        chunked = "Transfer-Encoding: chunked"
        connection.sendall(head_of(cluster, "PUT", f"/v1/buckets/{bucket}/objects/k", chunked) + body)
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert (status, error["error"]["code"]) in ((400, "IncompleteBody"), (400, "BadRequest"))
    nothing_stored(cluster, bucket)
    buffers_are_back(cluster)


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "gzip", "identity", "chunked\r\nTransfer-Encoding: chunked"]
)
def test_transfer_codings(cluster: ClusterWorld, bucket: str, coding: str) -> None:
    """Goal (RFC 9112, 6.1): a body in a coding that is not known is refused, not stored as if it were plain."""
    with connect(cluster) as connection:
        head = head_of(cluster, "PUT", f"/v1/buckets/{bucket}/objects/k", f"Transfer-Encoding: {coding}")
        connection.sendall(head + b"5\r\nhello\r\n0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert (status, error["error"]["code"]) in ((501, "NotImplemented"), (400, "BadRequest"))
    assert status == 501 or coding != "gzip, chunked"
    nothing_stored(cluster, bucket)


@pytest.mark.parametrize("leave", [vanish, socket.socket.close], ids=["reset", "close"])
def test_clients_that_vanish_uploading(
    cluster: ClusterWorld, bucket: str, leave: Callable[[socket.socket], None]
) -> None:
    """Goal: of many clients that vanish mid-upload nothing is visible, and every buffer comes back."""
    path = f"/v1/buckets/{bucket}/objects/k"
    for sent in (0, 100, 300_000, 10 * CHUNK + 5):
        connections = []
        for peer in range(10):
            connection = connect(cluster, peer % 3)
            connection.sendall(head_of(cluster, "PUT", path, f"Content-Length: {40 * CHUNK}"))
            connection.sendall(os.urandom(sent))
            connections.append(connection)
        for connection in connections:
            leave(connection)
    buffers_are_back(cluster)
    nothing_stored(cluster, bucket)
    assert cluster.call("PUT", path, b"x" * (3 * CHUNK)).status == 200


def test_clients_that_vanish_downloading(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a client that stops reading holds only its own buffers, and none once it is gone."""
    path = f"/v1/buckets/{bucket}/objects/k"
    body = os.urandom(160 * CHUNK)
    assert cluster.call("PUT", path, body).status == 200
    connections = []
    for peer in range(9):
        connection = connect(cluster, peer % 3, receive_bytes=8192)
        connection.sendall(head_of(cluster, "GET", path))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        connections.append(connection)
    with ThreadPoolExecutor(3) as pool:  # while those stand still, others are served, and the right bytes
        for got in pool.map(lambda peer: cluster.call("GET", path, peer=peer), (0, 1, 2)):
            assert got.status == 200 and got.body == body
    slow = connections.pop()
    for connection in connections:
        vanish(connection)
    received = b""
    while len(received) < len(body) - 2000:
        part = slow.recv(65536)
        assert part, "cut off"
        received += part
    assert received in body
    slow.close()
    buffers_are_back(cluster)


# --- what is not HTTP


GARBAGE = {
    "words": b"hello there\r\n\r\n",
    "binary": bytes(range(256)),
    "zeros": b"\0" * 1000,
    "tls": bytes.fromhex("1603010200010001fc0303") + b"\x11" * 200,
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
    "negative length": b"PUT /v1/buckets/abc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "no length": b"PUT /v1/buckets/abc HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "two lengths": b"PUT /v1/buckets/abc HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "two framings": (
        b"PUT /v1/buckets/abc HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad header": b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "bad name": b"GET /health HTTP/1.1\r\nHost: x\r\nna me: x\r\n\r\n",
    "control": b"GET /health HTTP/1.1\r\nHost: x\r\nname: a\0b\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage(cluster: ClusterWorld, what: str) -> None:
    """Goal: what is no HTTP gets a 400 in the API's own form, and the connection ends."""
    with connect(cluster) as connection:
        connection.sendall(GARBAGE[what])
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert (status, error["error"]["code"]) == (400, "BadRequest")
    assert error["error"]["message"] and error["error"]["request_id"]


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nlong: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(5000)) + b"\r\n",
    ],
    ids=["header", "line", "headers"],
)
def test_too_much_head(cluster: ClusterWorld, request_head: bytes) -> None:
    """Goal: a head without bounds is refused, naming the bound."""
    with connect(cluster) as connection:
        connection.sendall(request_head)
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert status in (400, 431)
    assert error["error"]["code"] in ("BadRequest", "RequestHeaderFieldsTooLarge")


def test_longest_request_line_fits(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: the longest listing anybody may ask for is within the bounds."""
    key = "%C3%BC" * 512
    answer = cluster.call(
        "GET", f"/v1/buckets/{bucket}/objects?prefix={key}&after={key}&delimiter={key}&limit=1000"
    )
    assert (answer.status, answer.json["objects"]) == (200, [])


# --- connections


def test_refused_body_is_no_request(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: the body of a refused request is never taken for the next one."""
    hidden = head_of(cluster, "DELETE", f"/v1/buckets/{bucket}")
    with connect(cluster) as connection:
        refused = head_of(
            cluster, "PUT", "/v1/buckets/missing-one/objects/k", f"Content-Length: {len(hidden)}"
        )
        connection.sendall(refused + hidden)
        connection.shutdown(socket.SHUT_WR)
        status, error = answer_of(connection)
    assert (status, error["error"]["code"]) == (404, "NoSuchBucket")
    assert cluster.call("GET", f"/v1/buckets/{bucket}").status == 200


def test_pipelined_and_half_closed(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: requests sent in one go, the connection then closed for sending, are all answered in order."""
    path = f"/v1/buckets/{bucket}/objects/k"
    with connect(cluster) as connection:
        sent = head_of(cluster, "PUT", path, "Content-Length: 5") + b"hello"
        connection.sendall(sent + head_of(cluster, "GET", path) + head_of(cluster, "DELETE", path))
        connection.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert reply.count(b"HTTP/1.1 200 OK") == 2 and reply.count(b"HTTP/1.1 204 No Content") == 1
    assert b"hello" in reply
    nothing_stored(cluster, bucket)


def test_byte_by_byte(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a request that arrives one byte at a time is a request."""
    with connect(cluster) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = head_of(
            cluster, "PUT", f"/v1/buckets/{bucket}/objects/k", "Content-Length: 40", "Connection: close"
        )
        for byte in sent + b"x" * 40:
            connection.sendall(bytes([byte]))
        status, stored = answer_of(connection)
    assert (status, stored["size"]) == (200, 40)


def test_unknown_expectation(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: what a client expects and nobody knows is 417."""
    answer = cluster.call("PUT", f"/v1/buckets/{bucket}/objects/k", b"x", {"Expect": "200-ok"})
    assert (answer.status, answer.code) == (417, "ExpectationFailed")
    nothing_stored(cluster, bucket)


def test_upgrades_are_declined(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a client that offers another protocol is served over this one."""
    upgrade = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA",
    }
    path = f"/v1/buckets/{bucket}/objects/k"
    assert cluster.call("PUT", path, b"hello", upgrade).status == 200
    assert cluster.call("GET", path, headers=upgrade).body == b"hello"
    assert cluster.call("GET", path).body == b"hello"


def test_nothing_is_left_behind(cluster: ClusterWorld) -> None:
    """Goal: nothing a client did wrong was an unexpected error or cost a buffer. (All tests before this one count.)"""
    buffers_are_back(cluster)
    for peer in range(3):
        text = cluster.place(peer).log.read_text()
        assert "Traceback" not in text, text[max(0, text.index("Traceback") - 500) :][:3000]
        assert "never retrieved" not in text
