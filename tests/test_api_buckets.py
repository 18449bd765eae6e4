"""Buckets over HTTP, on three real peers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster_world import ClusterWorld

GOOD_NAMES = ["abc", "a-b", "1st.and.2nd", "0" * 63, "xn-not-punycode", "1.2.3"]
BAD_NAMES = [
    "ab", "0" * 64, "Upper", "under_score", "-abc", "abc-", ".abc", "abc.", "a..b", "a.-b", "a-.b", "192.168.5.4",
    "999.1.1.1", "xn--abc", "sthree-abc", "amzn-s3-demo-abc", "abc-s3alias", "abc--ol-s3", "abc.mrap", "abc--x-s3",
    "b%20c", "caf%C3%A9", "%ff%fe%fd", "a%2Fb%2Fc",
]  # fmt: skip


def test_created_once(cluster: ClusterWorld) -> None:
    """Goal: creating answers 201, creating again 200 with the same bucket, through every peer."""
    first = cluster.call("PUT", "/v1/buckets/created-once")
    assert first.status == 201
    assert set(first.json) == {"name", "created", "shards"}
    assert first.json["shards"] == 64
    for peer in range(3):
        again = cluster.call("PUT", "/v1/buckets/created-once", b"{}", peer=peer)
        assert (again.status, again.json) == (200, first.json)
        found = cluster.call("GET", "/v1/buckets/created-once", peer=peer)
        assert (found.status, found.json) == (200, first.json)


def test_racing_creators_agree(cluster: ClusterWorld) -> None:
    """Goal: of many racing creators one is told 201, and all are told of the same bucket."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: cluster.call("PUT", "/v1/buckets/raced", peer=i % 3), range(6)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [201]
    assert len({answer.body for answer in answers}) == 1


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_good_names(cluster: ClusterWorld, name: str) -> None:
    """Goal: what S3 allows is allowed."""
    assert cluster.call("PUT", f"/v1/buckets/{name}", b'{"shards": 1}').status == 201
    assert cluster.call("DELETE", f"/v1/buckets/{name}").status == 204


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names(cluster: ClusterWorld, name: str) -> None:
    """Goal: what S3 forbids is refused, on every way in, with the rule that is broken."""
    for method, path in (("PUT", ""), ("GET", ""), ("PUT", "/objects/k"), ("GET", "/objects")):
        answer = cluster.call(method, f"/v1/buckets/{name}{path}")
        assert (answer.status, answer.code) == (400, "InvalidBucketName"), (method, path)
        assert "cannot name a bucket: " in answer.message


@pytest.mark.parametrize("shards", [0, 1025, -1, "8", 1.5, True, None, [1]])
def test_bad_shards(cluster: ClusterWorld, shards: object) -> None:
    """Goal: a number of shards that makes no sense is refused and creates nothing."""
    answer = cluster.call("PUT", "/v1/buckets/bad-shards", json.dumps({"shards": shards}).encode())
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert "shards" in answer.message
    assert cluster.call("GET", "/v1/buckets/bad-shards").status == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "MalformedJSON"),
        (b"[]", 400, "MalformedJSON"),
        (b"\xff\xfe\x00", 400, "MalformedJSON"),
        (b"[" * 100_000, 400, "MalformedJSON"),
        (b'{"shards": ' + b"9" * 10_000 + b"}", 400, "MalformedJSON"),
        (b'{"colour": "red"}', 400, "InvalidArgument"),
        (b" " * (2 << 20), 413, "EntityTooLarge"),
    ],
)
def test_bad_json(cluster: ClusterWorld, body: bytes, status: int, code: str) -> None:
    """Goal: a body that is no JSON object is refused and creates nothing."""
    answer = cluster.call("PUT", "/v1/buckets/bad-json", body)
    assert (answer.status, answer.code) == (status, code)
    assert cluster.call("GET", "/v1/buckets/bad-json").status == 404


def test_deleted(cluster: ClusterWorld) -> None:
    """Goal: a deleted bucket is gone on every peer, at once; deleting again says so."""
    assert cluster.call("PUT", "/v1/buckets/deleted").status == 201
    for peer in range(3):
        assert cluster.call("GET", "/v1/buckets/deleted/objects", peer=peer).status == 200
    assert cluster.call("DELETE", "/v1/buckets/deleted", peer=1).status == 204
    for peer in range(3):
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("GET", "/objects"), ("GET", "/objects/k"), ("PUT", "/objects/k"),
            ("DELETE", "/objects/k"),
        ):  # fmt: skip
            answer = cluster.call(method, f"/v1/buckets/deleted{path}", peer=peer)
            assert (answer.status, answer.code) == (404, "NoSuchBucket"), (peer, method, path)
    assert "deleted" not in [b["name"] for b in cluster.call("GET", "/v1/buckets").json["buckets"]]


def test_not_deleted_while_it_holds_something(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a bucket with an object stays, whole; without it, it goes, and comes back empty."""
    path = f"/v1/buckets/{bucket}"
    assert cluster.call("PUT", f"{path}/objects/k", b"kept").status == 200
    refused = cluster.call("DELETE", path, peer=1)
    assert (refused.status, refused.code) == (409, "BucketNotEmpty")
    assert cluster.call("GET", f"{path}/objects/k", peer=2).body == b"kept"
    assert cluster.call("PUT", f"{path}/objects/l", b"more", peer=2).status == 200
    for key in ("k", "l"):
        assert cluster.call("DELETE", f"{path}/objects/{key}", peer=1).status == 204
    assert cluster.call("DELETE", path, peer=2).status == 204
    assert cluster.call("PUT", path, b'{"shards": 2}', peer=0).status == 201
    for peer in range(3):
        assert cluster.call("GET", f"{path}/objects", peer=peer).json["objects"] == []
        assert cluster.call("GET", f"{path}/objects/k", peer=peer).code == "NoSuchKey"
    assert cluster.call("PUT", f"{path}/objects/k", b"new", peer=1).status == 200
    assert cluster.call("GET", f"{path}/objects/k", peer=2).body == b"new"


def test_listed_by_name(cluster: ClusterWorld) -> None:
    """Goal: the list of buckets is ordered, and the same through every peer."""
    names = ["zz-listed", "aa-listed", "mm-listed"]
    for name in names:
        assert cluster.call("PUT", f"/v1/buckets/{name}", b'{"shards": 1}').status == 201
    answers = [cluster.call("GET", "/v1/buckets", peer=peer) for peer in range(3)]
    assert all(answer.status == 200 and answer.body == answers[0].body for answer in answers)
    listed = [entry["name"] for entry in answers[0].json["buckets"]]
    assert listed == sorted(listed)
    assert [name for name in listed if name in names] == sorted(names)
    paged: list[str] = []
    rest = ""
    while rest is not None:
        page = cluster.call("GET", f"/v1/buckets?limit=2&after={rest}").json
        assert len(page["buckets"]) <= 2
        paged += [entry["name"] for entry in page["buckets"]]
        rest = page["next"]
    assert paged == listed and answers[0].json["next"] is None
    for wrong in ("0", "1001", "x"):
        assert cluster.call("GET", f"/v1/buckets?limit={wrong}").code == "InvalidArgument"


def test_puts_racing_with_deletion(cluster: ClusterWorld) -> None:
    """Goal: whatever is acknowledged while a bucket is deleted is there afterwards, or the bucket refused to go."""
    for number in range(6):
        path = f"/v1/buckets/racing-{number}"
        assert cluster.call("PUT", path, b'{"shards": 2}').status == 201
        with ThreadPoolExecutor(3) as pool:
            puts = [
                pool.submit(cluster.call, "PUT", f"{path}/objects/k{i}", b"x", peer=i % 3) for i in range(4)
            ]
            gone = cluster.call("DELETE", path, peer=number % 3)
            stored = [i for i, put in enumerate(puts) if put.result().status == 200]
        assert gone.status in (204, 409, 503), gone
        for put in puts:
            assert put.result().status in (200, 404, 503), put.result()
        if gone.status == 204:
            assert not stored
            assert cluster.call("GET", path).code == "NoSuchBucket"
        else:
            for i in stored:
                assert cluster.call("GET", f"{path}/objects/k{i}").body == b"x"
