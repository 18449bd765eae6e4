"""Listings over HTTP: a sorted set is the model, pages of any size must spell it out."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster_world import ClusterWorld

KEYS = st.sets(
    st.text("ab/-é\x00\U0010ffff", min_size=1, max_size=6).map(lambda s: s.strip() or "a"), max_size=25
)
PIECES = st.text("ab/-é", max_size=3)
_numbers = itertools.count()


def pages(cluster: ClusterWorld, bucket: str, limit: int | None, **query: str) -> list[dict[str, Any]]:
    """All pages from the first on, each asked of the next peer."""
    found: list[dict[str, Any]] = []
    while True:
        asked = {name: value for name, value in query.items() if value}
        if limit is not None:
            asked["limit"] = str(limit)
        peer = len(found) % 3
        answer = cluster.call("GET", f"/v1/buckets/{bucket}/objects?{urlencode(asked)}", peer=peer)
        assert answer.status == 200, answer
        page = answer.json
        assert set(page) == {"objects", "prefixes", "next"}
        found.append(page)
        if page["next"] is None:
            return found
        assert len(page["objects"]) + len(page["prefixes"]) == limit
        query["after"] = page["next"]


def model(keys: set[str], prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str]]:
    """Keys and common prefixes a listing must give, each in byte order."""
    objects, prefixes = set(), set()
    for key in keys:
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at < 0:
            if key.encode() > after.encode():
                objects.add(key)
        else:
            common = key[: at + len(delimiter)]
            # A position that is a common prefix, or lies beyond it, has that prefix behind it.
            if key.encode() > after.encode() and common != after:
                prefixes.add(common)
    return sorted(objects, key=str.encode), sorted(prefixes, key=str.encode)


def fill(cluster: ClusterWorld, keys: set[str], shards: int) -> str:
    bucket = f"listed-{next(_numbers)}"
    assert cluster.call("PUT", f"/v1/buckets/{bucket}", b'{"shards": %d}' % shards).status == 201
    for number, key in enumerate(sorted(keys)):
        path = f"/v1/buckets/{bucket}/objects/" + urlencode({"": key})[1:].replace("+", "%20")
        assert cluster.call("PUT", path, b"x", peer=number % 3).status == 200
    return bucket


@settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keys=KEYS, shards=st.sampled_from([1, 3, 64]),
    asked=st.lists(
        st.tuples(PIECES, st.sampled_from(["", "/", "-", "ab"]), PIECES, st.integers(1, 8)), min_size=1, max_size=8
    ),
)  # fmt: skip
def test_pages_spell_out_the_model(
    cluster: ClusterWorld, keys: set[str], shards: int, asked: list[tuple[str, str, str, int]]
) -> None:
    """Goal: for any keys, prefix, delimiter, position and page size, pages together are the model, in order."""
    bucket = fill(cluster, keys, shards)
    for prefix, delimiter, after, limit in asked:
        objects, prefixes = model(keys, prefix, delimiter, after)
        for size in (None, limit):
            got = pages(cluster, bucket, size, prefix=prefix, delimiter=delimiter, after=after)
            assert [entry["key"] for page in got for entry in page["objects"]] == objects
            assert [common for page in got for common in page["prefixes"]] == prefixes
            order: list[bytes] = []
            for page in got:
                both = [entry["key"] for entry in page["objects"]] + page["prefixes"]
                order += sorted(name.encode() for name in both)
            assert order == sorted(order), "a later page goes back"


def test_limits(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: a limit of nothing gives nothing, of one gives one; other values are refused with the bounds."""
    for key in "abc":
        assert cluster.call("PUT", f"/v1/buckets/{bucket}/objects/{key}", b"x").status == 200
    path = f"/v1/buckets/{bucket}/objects"
    assert cluster.call("GET", f"{path}?limit=0").json == {"objects": [], "prefixes": [], "next": None}
    assert [len(page["objects"]) for page in pages(cluster, bucket, 1)] == [1, 1, 1]
    assert len(pages(cluster, bucket, 3)) == 1
    for bad in ("-1", "1001", "x", "", "1.5", "%D9%A1", "9" * 5000, "+1"):
        answer = cluster.call("GET", f"{path}?limit={bad}")
        assert (answer.status, answer.code) == (400, "InvalidArgument"), bad
        assert "0 to 1000" in answer.message


@pytest.mark.parametrize(
    "query", ["prefx=a", "prefix=a&prefix=b", "prefix=%ff", "prefix=%zz", "limit=1&limit=1", "=x"]
)
def test_bad_queries(cluster: ClusterWorld, bucket: str, query: str) -> None:
    """Goal: a query that is not understood is refused: a misspelt prefix would list everything."""
    answer = cluster.call("GET", f"/v1/buckets/{bucket}/objects?{query}")
    assert answer.status == 400
    assert answer.code in ("InvalidArgument", "InvalidURI")


def test_many_keys(cluster: ClusterWorld) -> None:
    """Goal: thousands of keys in pages, then half of them deleted: no page shows a deleted one or lacks a live one."""
    keys = {f"{i % 7}/{i % 31:02d}/{i:05d}" for i in range(1500)}
    bucket = f"listed-{next(_numbers)}"
    assert cluster.call("PUT", f"/v1/buckets/{bucket}").status == 201
    base = f"/v1/buckets/{bucket}/objects/"
    numbered = list(enumerate(sorted(keys)))
    with ThreadPoolExecutor(12) as pool:
        puts = pool.map(
            lambda item: cluster.call("PUT", base + item[1], b"", peer=item[0] % 3).status, numbered
        )
        assert set(puts) == {200}
        for limit in (None, 997):
            listed = [
                entry["key"] for page in pages(cluster, bucket, limit or 1000) for entry in page["objects"]
            ]
            assert listed == sorted(keys)
        assert [p for page in pages(cluster, bucket, 2, delimiter="/") for p in page["prefixes"]] == [
            f"{i}/" for i in range(7)
        ]
        deletions = pool.map(
            lambda item: cluster.call("DELETE", base + item[1], peer=item[0] % 3).status, numbered[::2]
        )
        assert set(deletions) == {204}
    listed = [entry["key"] for page in pages(cluster, bucket, 100) for entry in page["objects"]]
    assert listed == [key for _, key in numbered[1::2]]
    assert pages(cluster, bucket, 1000, prefix="3/", delimiter="/")[0]["prefixes"] == sorted(
        {key[:5] for _, key in numbered[1::2] if key.startswith("3/")}
    )


def test_listing_while_others_write(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: keys that stand throughout are on their page, whatever is written and deleted around them."""
    base = f"/v1/buckets/{bucket}/objects/"
    standing = [f"{i:02d}-stands" for i in range(20)]
    for key in standing:
        assert cluster.call("PUT", base + key, b"x").status == 200

    def flicker(peer: int) -> None:
        for i in range(30):
            key = f"{i % 20:02d}-flickers-{peer}"
            assert cluster.call("PUT", base + key, b"y", peer=peer).status == 200
            assert cluster.call("DELETE", base + key, peer=(peer + 1) % 3).status == 204

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(flicker, peer) for peer in range(3)]
        looked = 0
        while looked < 3 or not all(writer.done() for writer in writers):
            listed = [entry["key"] for page in pages(cluster, bucket, 7) for entry in page["objects"]]
            assert [key for key in listed if key in standing] == standing
            assert listed == sorted(set(listed))
            looked += 1
        for writer in writers:
            writer.result()
    listed = [entry["key"] for page in pages(cluster, bucket, 1000) for entry in page["objects"]]
    assert listed == standing
