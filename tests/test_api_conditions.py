"""Ranges and conditional requests over HTTP, on three real peers."""

from __future__ import annotations

import email.utils
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster_world import Answer, ClusterWorld

CHUNK = 64 * 1024  # of the shared cluster
SMALL = bytes(range(100))
LARGE = os.urandom(5 * CHUNK + 100)


def stored(cluster: ClusterWorld, bucket: str, body: bytes) -> str:
    """The path of a fresh object with this body."""
    path = f"/v1/buckets/{bucket}/objects/k"
    assert cluster.call("PUT", path, body).status == 200
    return path


# --- ranges


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["inline", "chunks"])
def test_ranges(cluster: ClusterWorld, bucket: str, body: bytes) -> None:
    """Goal: every form of one range gives exactly those bytes."""
    path = stored(cluster, bucket, body)
    size = len(body)
    spans = [
        ("0-0", 0, 1), (f"0-{size - 1}", 0, size), ("10-19", 10, 20), (f"{size - 1}-", size - 1, size), ("5-", 5, size),
        ("-1", size - 1, size), ("-50", size - 50, size), (f"-{size}", 0, size), (f"-{10 * size}", 0, size),
        (f"7-{10 * size}", 7, size), ("0-" + "9" * 18, 0, size),
    ]  # fmt: skip
    if size > CHUNK:
        spans += [
            (f"{CHUNK - 1}-{CHUNK}", CHUNK - 1, CHUNK + 1), (f"{CHUNK}-{2 * CHUNK - 1}", CHUNK, 2 * CHUNK),
            (f"{CHUNK + 7}-{4 * CHUNK + 1}", CHUNK + 7, 4 * CHUNK + 2), (f"{5 * CHUNK}-", 5 * CHUNK, size),
        ]  # fmt: skip
    for number, (text, start, stop) in enumerate(spans):
        for method in ("GET", "HEAD"):
            answer = cluster.call(method, path, headers={"Range": f"bytes={text}"}, peer=number % 3)
            assert answer.status == 206, text
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            assert answer.headers["content-length"] == str(stop - start)
            assert answer.body == (body[start:stop] if method == "GET" else b""), text


def test_ranges_that_cannot_be(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a range outside the object is 416 and tells its size; so is any of an empty one."""
    for body, ranges in ((SMALL, ("100-", "100-200", "-0", "9" * 18 + "-")), (b"", ("0-", "0-0", "-1"))):
        path = stored(cluster, bucket, body)
        for text in ranges:
            answer = cluster.call("GET", path, headers={"Range": f"bytes={text}"})
            assert (answer.status, answer.code) == (416, "InvalidRange"), text
            assert answer.headers["content-range"] == f"bytes */{len(body)}"
            head = cluster.call("HEAD", path, headers={"Range": f"bytes={text}"})
            assert (head.status, head.body) == (416, b"")


@pytest.mark.parametrize(
    "text",
    ["bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=0-1,4-5", "bytes 0-5", "0-5", "bytes=0-5-9", "bytes=--5",
     "bytes=0x1-2", "bytes=\u0661-".encode().decode("latin-1"), "bytes=" + "1" * 5000 + "-"],
)  # fmt: skip
def test_malformed_ranges(cluster: ClusterWorld, bucket: str, text: str) -> None:
    """Goal: what is no range is refused with an example of one."""
    answer = cluster.call("GET", stored(cluster, bucket, SMALL), headers={"Range": text})
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert "Range" in answer.message


def test_other_units_are_ignored(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: as RFC 9110 has it, a unit nobody knows means the whole object."""
    path = stored(cluster, bucket, SMALL)
    assert cluster.call("GET", path, headers={"Range": "lines=1-2"}).status == 200
    assert cluster.call("GET", path, headers={"Range": "Bytes=1-2"}).body == SMALL[1:3]


def test_if_range(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a resumed download gets the rest of the same object, or the whole of another."""
    path = stored(cluster, bucket, SMALL)
    etag = cluster.call("HEAD", path).headers["etag"]
    part = {"Range": "bytes=50-"}
    assert cluster.call("GET", path, headers={**part, "If-Range": etag}).body == SMALL[50:]
    for other in ('"other-1"', f"W/{etag}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        answer = cluster.call("GET", path, headers={**part, "If-Range": other})
        assert (answer.status, answer.body) == (200, SMALL)


# --- conditions on reads


def test_conditional_reads(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: 200, 304 and 412 in the order of RFC 9110, section 13.2.2, for GET and HEAD."""
    path = stored(cluster, bucket, SMALL)
    etag = cluster.call("HEAD", path).headers["etag"]
    past, future = (email.utils.formatdate(time.time() + off, usegmt=True) for off in (-3600, 3600))
    cases: list[tuple[dict[str, str], int]] = [
        ({"If-Match": etag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f'"other-1", {etag}'}, 200),
        ({"If-Match": '"other-1"'}, 412),
        ({"If-Match": f"W/{etag}"}, 412),
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f"W/{etag}"}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f'"other-1",{etag}'}, 304),
        ({"If-None-Match": '"other-1"'}, 200),
        ({"If-Modified-Since": future}, 304),
        ({"If-Modified-Since": past}, 200),
        ({"If-Unmodified-Since": past}, 412),
        ({"If-Unmodified-Since": future}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        # If-Match decides before If-Unmodified-Since, If-None-Match before If-Modified-Since, 412 before 304.
        ({"If-Match": etag, "If-Unmodified-Since": past}, 200),
        ({"If-None-Match": '"other-1"', "If-Modified-Since": future}, 200),
        ({"If-Match": '"other-1"', "If-None-Match": etag}, 412),
        ({"If-Match": etag, "If-None-Match": etag}, 304),
        ({"If-None-Match": etag, "Range": "bytes=0-1"}, 304),
        ({"If-Match": '"other-1"', "Range": "bytes=900-"}, 412),
    ]
    for headers, status in cases:
        for method in ("GET", "HEAD"):
            answer = cluster.call(method, path, headers=headers, peer=1)
            assert answer.status == status, (method, headers)
            if status == 304:
                assert answer.body == b"" and answer.headers["etag"] == etag
            if status == 412 and method == "GET":
                assert answer.code == "PreconditionFailed"
    for header in ("If-Match", "If-None-Match"):
        assert cluster.call("GET", f"{path}-missing", headers={header: "*"}).code == "NoSuchKey"


@pytest.mark.parametrize("text", ["", '"', 'a b"', '"a" "b"', '"a", *', "W/"])
@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
def test_malformed_conditions(cluster: ClusterWorld, bucket: str, header: str, text: str) -> None:
    """Goal: a condition that cannot be read is refused, never ignored."""
    path = stored(cluster, bucket, SMALL)
    for method in ("GET", "PUT", "DELETE"):
        answer = cluster.call(method, path, b"new" if method == "PUT" else None, {header: text})
        assert (answer.status, answer.code) == (400, "InvalidArgument"), method
    assert cluster.call("GET", path).body == SMALL


# --- conditions on writes


def test_conditional_writes(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a write happens only under its condition, whichever peer is asked and however large it is."""
    path = f"/v1/buckets/{bucket}/objects/k"
    small, large = b"small", os.urandom(2 * CHUNK)

    def put(body: bytes, peer: int, **conditions: str) -> Answer:
        return cluster.call(
            "PUT", path, body, {k.replace("_", "-"): v for k, v in conditions.items()}, peer=peer
        )

    for body in (small, large):
        missing = put(body, 0, If_Match="*")
        assert (missing.status, missing.code) == (404, "NoSuchKey")
        assert put(body, 0, If_Match='"abc-1"').status == 404
        first = put(body, 1, If_None_Match="*")
        assert first.status == 200
        for peer in range(3):
            again = put(b"other", peer, If_None_Match="*")
            assert (again.status, again.code) == (412, "PreconditionFailed")
            assert put(b"other", peer, If_Match='"abc-1"').status == 412
            assert put(b"other", peer, If_Match="W/" + first.headers["etag"]).status == 412
            assert put(b"other", peer, If_None_Match=first.headers["etag"]).status == 412
            assert cluster.call("GET", path, peer=peer).body == body
        second = put(b"second", 2, If_Match=f'"abc-1", {first.headers["etag"]}')
        assert second.status == 200
        assert put(b"third", 0, If_None_Match=first.headers["etag"]).status == 200
        assert cluster.call("DELETE", path, headers={"If-Match": first.headers["etag"]}).status == 412
        third = cluster.call("HEAD", path).headers["etag"]
        assert cluster.call("DELETE", path, headers={"If-Match": third}, peer=1).status == 204
        assert cluster.call("DELETE", path, headers={"If-Match": "*"}, peer=1).code == "NoSuchKey"
        assert cluster.call("GET", path).status == 404


@pytest.mark.parametrize("header", ["If-Modified-Since", "If-Unmodified-Since"])
def test_dates_do_not_guard_writes(cluster: ClusterWorld, bucket: str, header: str) -> None:
    """Goal: a condition this server does not decide on writes is refused, not ignored."""
    path = stored(cluster, bucket, SMALL)
    for method in ("PUT", "DELETE"):
        answer = cluster.call(method, path, b"x", {header: "Sat, 01 Jan 2000 00:00:00 GMT"})
        assert (answer.status, answer.code) == (501, "NotImplemented")
    assert cluster.call("GET", path).body == SMALL


@pytest.mark.parametrize("size", [10, CHUNK + 1])
def test_one_creator_wins(cluster: ClusterWorld, bucket: str, size: int) -> None:
    """Goal: of racing creators through different peers exactly one wins; the rest are refused."""
    for number in range(4):
        path = f"/v1/buckets/{bucket}/objects/raced-{number}"
        bodies = [os.urandom(size) for _ in range(9)]

        def create(i: int, path: str = path, bodies: list[bytes] = bodies) -> Answer:
            return cluster.call("PUT", path, bodies[i], {"If-None-Match": "*"}, peer=i % 3)

        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(create, range(9)))
        winners = [i for i, answer in enumerate(answers) if answer.status == 200]
        assert len(winners) == 1, [answer.status for answer in answers]
        assert {answer.status for answer in answers} <= {200, 412, 409}
        for peer in range(3):
            assert cluster.call("GET", path, peer=peer).body == bodies[winners[0]]


def test_appends_under_contention(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: replace-if-matches loses no update: of racing appends, the acknowledged ones are there, the refused not."""
    path = f"/v1/buckets/{bucket}/objects/log"
    assert cluster.call("PUT", path, b"").status == 200
    outcomes: dict[bytes, int] = {}

    def append(writer: int) -> None:
        wins = tries = 0
        while wins < 5:
            tries += 1
            entry = b"%d.%d;" % (writer, tries)
            got = cluster.call("GET", path, peer=writer % 3)
            condition = {"If-Match": got.headers["etag"]}
            put = cluster.call("PUT", path, got.body + entry, condition, peer=writer % 3)
            assert put.status in (200, 412, 409) or put.code == "OutcomeUnknown", put
            outcomes[entry] = put.status
            wins += put.status == 200

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(append, range(6)))
    log = [entry + b";" for entry in cluster.call("GET", path).body.split(b";")[:-1]]
    assert len(log) == len(set(log))
    for entry, status in outcomes.items():
        assert status == 503 or (entry in log) == (status == 200), (entry, status)
