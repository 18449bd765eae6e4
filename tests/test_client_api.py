"""Goal: both clients do what they promise against peers that behave, and against peers that die."""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.client import (
    Client,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    Prefix,
    Unavailable,
    UnknownOutcome,
    name_of,
)
from peer.etag import etag_of
from tests.client_adapter import BlockingAsyncClient
from tests.fake_api import ACCESS_KEY, CHUNK_BYTES, SECRET_KEY, FakeCluster, fake_cluster

BIG = random.Random(1).randbytes(3_000_000)


@pytest.fixture(params=[Client, BlockingAsyncClient], ids=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as running:
        running.buckets["box"], running.shards["box"] = {}, 64
        yield running


def open_client(kind: Any, cluster: FakeCluster, **options: Any) -> Any:
    options = {"patience_s": 0.3} | options
    return kind(options.pop("urls", cluster.urls), access_key=ACCESS_KEY, secret_key=SECRET_KEY, **options)


def object_requests(cluster: FakeCluster, method: str) -> int:
    return sum(m == method and "/objects/" in path for m, path in cluster.seen)


def test_buckets(kind: Any, cluster: FakeCluster) -> None:
    """Goal: buckets are made once, listed, described, and removed only when empty."""
    with open_client(kind, cluster) as client:
        assert client.create_bucket("photos", shards=8) is True
        assert client.create_bucket("photos") is False
        assert [bucket.name for bucket in client.buckets()] == ["box", "photos"]
        assert client.bucket("photos").shards == 8
        client.put("photos", "k", b"x")
        with pytest.raises(Conflict) as refused:
            client.delete_bucket("photos")
        assert refused.value.code == "BucketNotEmpty"
        client.delete("photos", "k")
        client.delete_bucket("photos")
        with pytest.raises(NotFound):
            client.bucket("photos")
        with pytest.raises(Invalid, match="bucket name"):
            client.create_bucket("No Bucket")


@pytest.mark.parametrize(
    "key", ["a", "a/b", "/lead", "a//b", "..", "../x", "a/./b", "%2F", "ä b?#&+", "€" * 341]
)
def test_keys_survive_byte_for_byte(kind: Any, cluster: FakeCluster, key: str) -> None:
    """Goal: no layer normalises or decodes a key twice."""
    with open_client(kind, cluster) as client:
        client.put("box", key, key.encode())
        assert list(cluster.buckets["box"]) == [key]
        assert client.get("box", key).read() == key.encode()
        assert client.stat("box", key).key == key
        assert [entry.key for entry in client.list("box", prefix=key)] == [key]
        client.delete("box", key)
    assert not cluster.buckets["box"]


def test_every_kind_of_body(kind: Any, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: bytes, views, paths, files, lists and iterators are stored alike, with progress and metadata."""
    file = tmp_path / "f"
    file.write_bytes(BIG)
    blocks = [BIG[i : i + 70_001] for i in range(0, len(BIG), 70_001)]
    moved: list[int] = []
    with open_client(kind, cluster) as client, file.open("rb") as opened:
        opened.seek(5)
        bodies = [BIG, memoryview(BIG), file, opened, io.BytesIO(BIG), blocks, iter(blocks)]
        for number, body in enumerate(bodies):
            wanted = BIG[5:] if body is opened else BIG
            stored = client.put("box", f"k{number}", body, metadata={"who": "me"}, progress=moved.append)
            assert (stored.size, stored.etag) == (len(wanted), etag_of(wanted, CHUNK_BYTES))
            assert cluster.buckets["box"][f"k{number}"].data == wanted
        assert sum(moved) == len(bodies) * len(BIG) - 5
        info = client.stat("box", "k0")
        assert info.metadata == {"who": "me"} and info.size == len(BIG)
        with pytest.raises(TypeError, match="pathlib"):
            client.put("box", "k", "text or path?")
        empty = client.put("box", "empty", b"")
        assert empty.size == 0 and client.get("box", "empty").read() == b""


def test_an_async_iterator_is_a_body(cluster: FakeCluster) -> None:
    """Goal: AsyncClient takes bytes as they come, and reports the iterator's own error as it is."""

    async def blocks(fail: bool) -> Any:
        yield BIG[:1000]
        if fail:
            raise LookupError("the source dried up")
        yield BIG[1000:]

    with open_client(BlockingAsyncClient, cluster) as client:
        assert client.put("box", "k", blocks(False)).size == len(BIG)
        with pytest.raises(LookupError, match="dried up"):
            client.put("box", "half", blocks(True))
    assert list(cluster.buckets["box"]) == ["k"]


def test_a_body_that_fails_leaves_nothing(kind: Any, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: an error of the caller's own body reaches the caller, and no half object is stored."""

    def blocks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise LookupError("the source dried up")

    with open_client(kind, cluster) as client:
        with pytest.raises(LookupError, match="dried up"):
            client.put("box", "k", blocks())
        with pytest.raises(TypeError, match="yields bytes"):
            client.put("box", "k", ["text"])
        assert client.put("box", "after", b"fine").size == 4
    assert list(cluster.buckets["box"]) == ["after"]


def test_ranges_and_saving(kind: Any, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: parts are slices, whole objects are verified into place, errors leave no file."""
    with open_client(kind, cluster) as client:
        client.put("box", "k", BIG)
        for span, wanted in {
            (0, 10): BIG[:10],
            (100, 200_000): BIG[100:200_000],
            (2_999_990, None): BIG[-10:],
            (-7, None): BIG[-7:],
        }.items():
            download = client.get("box", "k", span=span)
            assert download.length == len(wanted) and download.info.size == len(BIG)
            assert not download.verified and download.read() == wanted
        with pytest.raises(Invalid) as refused:
            client.get("box", "k", span=(4_000_000, None))
        assert refused.value.status == 416
        assert client.get("box", "k").save(tmp_path / "copy") == len(BIG)
        assert (tmp_path / "copy").read_bytes() == BIG
        assert b"".join(client.get("box", "k")) == BIG
        for peer in cluster.peers:
            peer.plan("flip")
        with pytest.raises(Corrupt):
            client.get("box", "k").save(tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("links", [True, False])
def test_save_over_nothing(
    kind: Any, cluster: FakeCluster, tmp_path: Any, monkeypatch: Any, links: bool
) -> None:
    """Goal: where nothing may be overwritten what is there stays, and no part of the other; also without hard links."""
    if not links:

        def refused(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    with open_client(kind, cluster) as client:
        client.create_bucket("box")
        client.put("box", "k", BIG)
        assert client.get("box", "k").save(tmp_path / "copy", overwrite=False) == len(BIG)
        (tmp_path / "mine").write_bytes(b"mine")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for name in ("mine", "dangling"):
            with pytest.raises(FileExistsError):
                client.get("box", "k").save(tmp_path / name, overwrite=False)
        assert (tmp_path / "copy").read_bytes() == BIG and (tmp_path / "mine").read_bytes() == b"mine"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "dangling", "mine"]
        assert client.get("box", "k").save(tmp_path / "mine") == len(BIG)
        assert (tmp_path / "mine").read_bytes() == BIG


def test_conditions(kind: Any, cluster: FakeCluster) -> None:
    """Goal: conditional forms hold or raise Conflict, and change nothing then."""
    with open_client(kind, cluster) as client:
        first = client.put("box", "k", b"1", if_none_match="*")
        with pytest.raises(Conflict):
            client.put("box", "k", b"2", if_none_match="*")
        second = client.put("box", "k", b"2", if_match=first.etag)
        for attempt in (
            lambda: client.put("box", "k", b"3", if_match=first.etag),
            lambda: client.delete("box", "k", if_match=first.etag),
            lambda: client.get("box", "k", if_match=first.etag),
        ):
            with pytest.raises(Conflict):
                attempt()
        with pytest.raises(Conflict) as same:
            client.get("box", "k", if_none_match=second.etag)
        assert same.value.status == 304
        assert client.get("box", "k").read() == b"2"
        client.delete("box", "k", if_match=f'"{second.etag}"')
        client.delete("box", "k")


def test_listing(kind: Any, cluster: FakeCluster) -> None:
    """Goal: pages join without gap or repetition, with and without a delimiter."""
    keys = sorted([f"d{i % 7}/{i}" for i in range(40)] + ["x", "d3", "ü"], key=str.encode)
    cluster.page_limit = 4
    with open_client(kind, cluster) as client:
        for key in keys:
            client.put("box", key, b"")
        assert [entry.key for entry in client.list("box")] == keys
        assert [entry.key for entry in client.list("box", after=keys[9], page_limit=3)] == keys[10:]
        folded = list(client.list("box", delimiter="/"))
        assert [name_of(e) for e in folded] == [
            "d0/",
            "d1/",
            "d2/",
            "d3",
            *(f"d{i}/" for i in range(3, 7)),
            "x",
            "ü",
        ]
        assert isinstance(folded[0], Prefix)
        page = client.list_page("box", "d1/", limit=2)
        assert len(page.objects) == 2 and page.next == page.objects[-1].key
        with pytest.raises(NotFound) as missing:
            list(client.list("nobucket"))
        assert missing.value.code == "NoSuchBucket"


def test_cluster_views(kind: Any, cluster: FakeCluster) -> None:
    """Goal: the cluster's views are readable, health without credentials."""
    with open_client(kind, cluster) as client:
        assert client.cluster().tolerates == 1
        assert [node.name for node in client.nodes()] == ["peer-1", "peer-2", "peer-3"]
        assert client.node("peer-2").raw["process"]["pid"] == 1
        assert len(client.ring()["owners"]) == 8
        assert len(client.lookup("box", "k")["owners"]) == 3
        assert client.epochs()["epochs"][0]["number"] == 3
        with pytest.raises(NotFound):
            client.node("nobody")
    with kind(cluster.urls) as stranger:
        cluster.verdict = "unavailable"
        assert stranger.health() == "unavailable"
        with pytest.raises(Denied):
            stranger.cluster()


def test_goes_on_when_a_peer_is_dead(kind: Any, cluster: FakeCluster) -> None:
    """Goal: one endpoint is enough to learn the others, and any of them may die."""
    with open_client(kind, cluster, urls=cluster.urls[0]) as client:
        client.put("box", "k", BIG)
        cluster.peers[0].kill()
        assert client.get("box", "k").read() == BIG
        cluster.peers[1].kill()
        for number in range(5):
            client.put("box", f"more-{number}", b"x")
        cluster.peers[2].kill()
        with pytest.raises(Unavailable, match=r"no peer answers at .*start a peer"):
            client.stat("box", "k")


def test_requests_are_spread(kind: Any, cluster: FakeCluster) -> None:
    """Goal: peers share the work evenly; a pinned client keeps to its own."""
    with open_client(kind, cluster) as client:
        for number in range(30):
            client.put("box", f"k{number}", b"x")
        shares = [sum(m == "PUT" for m, _ in peer.seen) for peer in cluster.peers]
        assert sum(shares) == 30 and min(shares) >= 8
        for peer in cluster.peers:
            peer.seen.clear()
    with open_client(kind, cluster, urls=cluster.urls[1], pin=True) as client:
        client.put("box", "k", BIG)
        client.get("box", "k").read()
    assert [bool(peer.seen) for peer in cluster.peers] == [False, True, False]


def test_big_objects_go_to_an_owner(kind: Any) -> None:
    """Goal: with more peers than replicas, big bodies go straight to an owner; small ones are not asked about."""
    with fake_cluster(peers=6, replicas=2) as cluster:
        cluster.buckets["box"], cluster.shards["box"] = {}, 64
        with open_client(kind, cluster) as client:
            for number in range(6):
                client.put("box", f"big-{number}", BIG)
                owners = [peer.url for peer in cluster.owners("box", f"big-{number}")]
                at = [
                    peer.url
                    for peer in cluster.peers
                    if any(f"/big-{number}" in p for m, p in peer.seen if m == "PUT")
                ]
                assert len(at) == 1 and at[0] in owners
            client.get("box", "big-0", size_hint=len(BIG)).read()
            before = sum("/lookup" in path for _, path in cluster.seen)
            assert before == 7
            client.put("box", "small", b"x")
            client.get("box", "small").read()
            assert sum("/lookup" in path for _, path in cluster.seen) == before


def test_a_download_survives_its_peers(kind: Any, cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: a body cut off is continued elsewhere from where it broke, and the whole is still verified."""
    moved: list[int] = []
    with open_client(kind, cluster) as client:
        client.put("box", "k", BIG)
        for peer in cluster.peers:
            peer.plan("cut-body")
        download = client.get("box", "k", progress=moved.append)
        assert download.save(tmp_path / "k") == len(BIG) and download.verified
    assert (tmp_path / "k").read_bytes() == BIG and sum(moved) == len(BIG)
    assert object_requests(cluster, "GET") == 4


def test_a_download_never_joins_two_versions(kind: Any, cluster: FakeCluster) -> None:
    """Goal: when the object is replaced midway, reading on is an error, not a mixture."""
    with open_client(kind, cluster) as client:
        client.put("box", "k", BIG)
        for peer in cluster.peers:
            peer.plan("cut-body")
        download = client.get("box", "k")
        cluster.buckets["box"]["k"].etag = etag_of(b"other", CHUNK_BYTES)
        with pytest.raises(Conflict, match="replaced while"):
            download.read()


def test_lost_answers(kind: Any, cluster: FakeCluster) -> None:
    """Goal: an unconditional put whose answer is lost is repeated; a conditional one is not, and says so."""
    with open_client(kind, cluster) as client:
        for peer in cluster.peers:
            peer.plan("lose-answer")
        client.put("box", "plain", b"1")
        assert object_requests(cluster, "PUT") == 4
        for fault in ("lose-answer", "drop", "unknown"):
            before = object_requests(cluster, "PUT")
            for peer in cluster.peers:
                peer.faults.clear()
                peer.plan(fault)
            with pytest.raises(UnknownOutcome):
                client.put("box", f"once-{fault}", b"2", if_none_match="*")
            assert object_requests(cluster, "PUT") == before + 1
        before = object_requests(cluster, "DELETE")
        for peer in cluster.peers:
            peer.faults.clear()
            peer.plan("lose-answer")
        with pytest.raises(UnknownOutcome):
            client.delete("box", "plain", if_match=etag_of(b"1", CHUNK_BYTES))
        assert object_requests(cluster, "DELETE") == before + 1


def test_a_bucket_removed_by_a_lost_attempt_is_removed(kind: Any, cluster: FakeCluster) -> None:
    """Goal: "not found" after a lost answer to a removal means that it was done."""
    with open_client(kind, cluster, urls=cluster.urls[0], pin=True) as client:
        cluster.peers[0].plan("lose-answer")
        client.delete_bucket("box")
        with pytest.raises(NotFound):
            client.delete_bucket("box")


class Pipe(io.BytesIO):
    """A file that cannot be read twice."""

    def seekable(self) -> bool:
        return False


def test_a_one_shot_body(kind: Any, cluster: FakeCluster) -> None:
    """Goal: of what can be read only once, a little is kept and repeated; much is never half sent again."""
    much = [bytes([i]) * 1_000_000 for i in range(6)]
    with open_client(kind, cluster) as client:
        for body in (lambda: iter([b"x" * 10, b"y"]), lambda: Pipe(b"x" * 10 + b"y")):
            for peer in cluster.peers:
                peer.faults.clear()
                peer.plan("drop")
            client.put("box", "k", body())
            assert cluster.buckets["box"]["k"].data == b"x" * 10 + b"y"
        before = object_requests(cluster, "PUT")
        for large in (lambda: iter(much), lambda: Pipe(b"".join(much))):
            for peer in cluster.peers:
                peer.faults.clear()
                peer.plan("drop")
            with pytest.raises(UnknownOutcome):
                client.put("box", "large", large())
        assert object_requests(cluster, "PUT") == before + 2
        for peer in cluster.peers:
            peer.faults.clear()
        cluster.peers[0].kill()
        cluster.peers[1].kill()
        assert client.put("box", "large", iter(much)).size == 6_000_000


def test_busy_peers_are_waited_for_but_not_for_ever(kind: Any, cluster: FakeCluster) -> None:
    """Goal: 503 is retried elsewhere, and handed on when it lasts."""
    with open_client(kind, cluster) as client:
        cluster.peers[0].plan("503", "503")
        cluster.peers[1].plan("503")
        cluster.peers[2].plan("503")
        client.put("box", "k", b"x")
        for peer in cluster.peers:
            peer.faults.clear()
            peer.plan("busy-forever")
        with pytest.raises(Unavailable, match="too busy") as busy:
            client.put("box", "k", b"y", if_none_match="*")
        assert busy.value.code == "SlowDown" and not isinstance(busy.value, UnknownOutcome)


def test_an_early_refusal_is_heard(kind: Any, cluster: FakeCluster) -> None:
    """Goal: a peer that refuses before reading the body gets its answer through, and no more of the body."""
    with open_client(kind, cluster) as client:
        for peer in cluster.peers:
            peer.plan("early-403")
        with pytest.raises(Denied, match="refused before"):
            client.put("box", "k", BIG)
        for peer in cluster.peers:
            peer.faults.clear()
        assert client.put("box", "k", BIG).size == len(BIG)


def test_wrong_use(kind: Any, cluster: FakeCluster) -> None:
    """Goal: what cannot be right is refused before anything is sent."""
    with open_client(kind, cluster) as client:
        for attempt in (
            lambda: client.put("box", "", b""),
            lambda: client.put("box", "k" * 1025, b""),
            lambda: client.put("box", "\udcff", b""),
            lambda: client.put("box", "k", b"", metadata={"bad name": "x"}),
            lambda: client.put("box", "k", b"", metadata={"n": "snow\u2603"}),
            lambda: client.put("box", "k", b"", if_match='a"b'),
            lambda: client.get("box", "k", span=(5, 5)),
            lambda: client.create_bucket("box" * 64),
            lambda: client.create_bucket("1.2.3.4"),
        ):
            with pytest.raises(Invalid):
                attempt()
    assert not object_requests(cluster, "PUT")
    for urls in ([], "ftp://x", "http://u:p@h:1", "http://h/path", "http://h:99999"):
        with pytest.raises(Invalid):
            Client(urls)
    for patience_s in (-1.0, float("nan")):
        with pytest.raises(Invalid, match="patience"):
            Client("http://h:1", patience_s=patience_s)
    with pytest.raises(Invalid, match="together"):
        Client("http://h:1", access_key="only")
