"""Peers killed, frozen and restarted in the middle of requests: no wrong byte, every acknowledged write is there."""

from __future__ import annotations

import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from peer.client import Client
from tests.cluster_tools import MIB, Writer, content, wait_until
from tests.cluster_world import ClusterWorld
from tools.background import Background

SIZES = (1, 900, 24 * 1024, 24 * 1024 + 1, 300_000, 3 * MIB + 7)
"""Inline and chunked, of one chunk and of several."""

Figure = Callable[[str, object], None]


class Reader(Background):
    """Reads objects whose content never changes, over and over, and compares every byte."""

    def __init__(
        self, client: Client, bucket: str, sizes: list[int], seed: int, *, pace_s: float = 0.0
    ) -> None:
        self._pace_s = pace_s  # between two reads
        self._client = client
        self._bucket = bucket
        self._sizes = sizes
        self._rng = random.Random(seed)
        super().__init__("reader")
        self.failure: Exception | None = None
        self.reads = 0

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pace_s):
                number = self._rng.randrange(len(self._sizes))
                body = self._client.get(self._bucket, f"steady/{number}").read()
                assert body == content(number, self._sizes[number]), f"steady/{number} reads wrong"
                self.reads += 1
        except Exception as failure:  # noqa: BLE001 - told in the test's own thread
            self.failure = failure

    def wait_for(self, reads: int) -> None:
        goal = self.reads + reads
        wait_until(lambda: self.failure is not None or self.reads >= goal, f"{reads} reads", 120.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """A cluster whose peers are killed; every test leaves all of them running. Chunks of 1 MiB."""
    directory = tmp_path_factory.mktemp("killed")
    with ClusterWorld(directory, options=["--chunk-size", "1MiB"]) as cluster:
        yield cluster


def kill_in_turn(world: ClusterWorld, bucket: str, rounds: int, figure: Figure) -> None:
    """Kill and restart each peer while clients read and write; then compare everything, through every peer."""
    with world.client() as client, ExitStack() as stack:
        client.create_bucket(bucket)
        sizes = [SIZES[number % len(SIZES)] for number in range(18)]
        for number, size in enumerate(sizes):
            client.put(bucket, f"steady/{number}", content(number, size))
        readers = [stack.enter_context(Reader(client, bucket, sizes, seed)) for seed in range(2)]
        writers = [
            stack.enter_context(
                Writer(client, bucket, f"{size}/", size=size, most=(400 if size < MIB else 30) * rounds)
            )
            for size in (700, 40_000, 2 * MIB + 5)
        ]
        for turn in range(3 * rounds):
            for busy in (*readers, *writers):
                busy.wait_for(3)
            world.kill(turn % 3)
            for busy in (*readers, *writers):
                busy.wait_for(5)
            world.start(turn % 3)
            world.wait_ready(turn % 3)
    for reader in readers:
        assert reader.failure is None, f"a read failed: {reader.failure!r}"
    figure("reads", sum(reader.reads for reader in readers))
    figure("writes", sum(len(writer.state) for writer in writers))
    for peer in range(3):
        with world.client(peer, pin=True) as client:
            for writer in writers:
                writer.check(client)


def test_killed_in_the_middle_of_requests(world: ClusterWorld, record_property: Figure) -> None:
    """Goal: while each peer in turn is killed and restarted, the Python client reads only right bytes and loses no
    acknowledged write."""
    kill_in_turn(world, "killed", 1, record_property)


@pytest.mark.full
def test_killed_over_and_over(world: ClusterWorld, record_property: Figure) -> None:
    """Goal: the same, thirty deaths long."""
    kill_in_turn(world, "killed-often", 10, record_property)


def test_a_frozen_peer_holds_nobody_up(world: ClusterWorld) -> None:
    """Goal: while a peer is stopped (SIGSTOP) the others answer every request; continued, it serves what was written
    meanwhile."""
    with world.client(0) as client:
        client.create_bucket("frozen")
        client.put("frozen", "before", content(1, 3 * MIB))
        client.put("frozen", "changed", b"old")
    world.signal(1, signal.SIGSTOP)
    try:
        for peer in (0, 2):
            for number in range(20):
                path = f"/v1/buckets/frozen/objects/{peer}-{number}"
                size = SIZES[number % len(SIZES)]
                answer = world.call("PUT", path, content(number, size), peer=peer, timeout_s=15.0)
                assert answer.status == 200, answer.body
                answer = world.call("GET", path, peer=2 - peer, timeout_s=15.0)
                assert (answer.status, answer.body) == (200, content(number, size))
            answer = world.call("GET", "/v1/buckets/frozen/objects/before", peer=peer, timeout_s=15.0)
            assert (answer.status, answer.body) == (200, content(1, 3 * MIB))
        assert world.call("PUT", "/v1/buckets/frozen/objects/changed", b"new").status == 200
        assert world.call("DELETE", "/v1/buckets/frozen/objects/0-0").status == 204
        assert len(world.call("GET", "/v1/buckets/frozen/objects", timeout_s=15.0).json["objects"]) == 41
    finally:
        world.signal(1, signal.SIGCONT)
    with world.client(1, pin=True) as client:
        assert client.get("frozen", "changed").read() == b"new"
        keys = [entry.key for entry in client.list_page("frozen").objects]
        assert len(keys) == 41 and "0-0" not in keys
        for number in range(1, 20):
            expected = content(number, SIZES[number % len(SIZES)])
            assert client.get("frozen", f"2-{number}").read() == expected
    world.wait_all_alive()


def test_a_lost_segment_is_not_a_copy(world: ClusterWorld) -> None:
    """Goal (P2): a peer whose segments vanished while it was down starts, serves the others' copies, and does not
    count what it lost as stored when the same bytes are put again."""
    body = content(77, 3 * MIB)
    assert world.call("PUT", "/v1/buckets/lost").status == 201
    assert world.call("PUT", "/v1/buckets/lost/objects/first", body).status == 200
    world.kill(2)
    directory = world.place(2).directory
    for segment in (directory / "segments").iterdir():
        segment.unlink()
    world.start(2)
    world.wait_ready(2)
    assert world.call("GET", "/v1/buckets/lost/objects/first", peer=2).body == body
    lost = counted(world, 2, "lost")
    assert lost > 0
    assert world.call("PUT", "/v1/buckets/lost/objects/second", body, peer=2).status == 200
    wait_until(
        lambda: counted(world, 2, "stored") >= 3, "three chunks stored anew on the peer, by put or repair"
    )
    world.restart(2)
    world.wait_ready(2)
    assert world.call("GET", "/v1/buckets/lost/objects/first", peer=2).body == body
    assert counted(world, 2, "lost") == 0, "what is known to be lost is not found out twice"


def counted(world: ClusterWorld, peer: int, name: str) -> int:
    """One of the peer's own counters since its start."""
    node = world.call("GET", "/v1/cluster/nodes/self", peer=peer).json
    return int(node["replication"][name])


def test_a_peer_that_was_away_fetches_what_it_missed(world: ClusterWorld) -> None:
    """Goal (P7): nobody reads, nobody is told: after its return a peer's own files hold every row and every chunk that was
    written, overwritten and deleted while it was dead; `status` says healthy only then."""
    assert world.call("PUT", "/v1/buckets/missed").status == 201
    for number in range(20):
        assert world.call("PUT", f"/v1/buckets/missed/objects/{number}", content(number, 500)).status == 200
    world.kill(1)
    for number in range(10, 40):
        size = SIZES[number % len(SIZES)]
        answer = world.call(
            "PUT", f"/v1/buckets/missed/objects/{number}", content(number + 1000, size), peer=2
        )
        assert answer.status == 200
    for number in range(5):
        assert world.call("DELETE", f"/v1/buckets/missed/objects/{number}").status == 204
    world.start(1)
    world.wait_ready(1)
    wait_until(
        lambda: world.call("GET", "/v1/cluster", peer=1).json["verdict"] == "healthy", "all is well again"
    )
    rows, chunks = rows_and_chunks(world, 1)
    for peer in (0, 2):
        theirs, names = rows_and_chunks(world, peer)
        behind = [key for key, ballot in theirs.items() if rows.get(key, b"") < ballot]
        assert not behind and set(names) <= set(chunks), f"peer 1 lacks what peer {peer} holds"


def rows_and_chunks(world: ClusterWorld, peer: int) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Each register's accepted ballot, and the keys of chunks that anything refers to, as they are in a peer's database.
    (Those that nothing refers to wait for garbage collection, and nobody fetches them.)"""
    path = world.place(peer).directory / "rows" / "atoll.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = {key: row[5:25] for key, row in database.execute("select k, v from rows")}
        chunks = {key for (key,) in database.execute("select k from chunks")}
        return rows, sorted(chunks & {key[:34] for (key,) in database.execute("select k from refs")})


def test_counting_with_conditions(world: ClusterWorld) -> None:
    """Goal: read, add one, write if unchanged: at different peers at once, no addition is lost."""
    assert world.call("PUT", "/v1/buckets/counted").status == 201
    path = "/v1/buckets/counted/objects/counter"
    assert world.call("PUT", path, b"0").status == 200

    def add(peer: int) -> tuple[int, int]:
        """Additions that were acknowledged, and those in doubt."""
        done = doubt = 0
        while done < 15:
            found = world.call("GET", path, peer=peer)
            if found.status != 200:
                continue
            unchanged = {"If-Match": found.headers["etag"]}
            status = world.call("PUT", path, b"%d" % (int(found.body) + 1), unchanged, peer=peer).status
            done += status == 200
            doubt += status == 503
        return done, doubt

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(add, (0, 1, 2, 0, 1, 2)))
    total = int(world.call("GET", path, peer=2).body)
    assert sum(done for done, _ in told) <= total <= sum(done + doubt for done, doubt in told)
