"""Starts that cannot be right are refused: with a sentence that names the problem, an exit code, and nothing changed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from peer.replication import meta
from ring.epoch import Epoch
from ring.placement import place as placed
from tests.cluster_tools import files_below, wait_until
from tests.cluster_world import ClusterWorld, free_base
from tools.devlayout import last_words, peer_environment

REFUSED_S = 90.0


@dataclass(frozen=True)
class Refusal:
    code: int
    said: str

    def __contains__(self, words: str) -> bool:
        return words in self.said


def start(data: Path, *options: object) -> Refusal:
    """Run `atoll peer`, which must end by itself; its exit code and last line."""
    command = [sys.executable, "-m", "tools.cli", "peer", "--data", str(data), *map(str, options)]
    ran = subprocess.run(
        command, env=peer_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REFUSED_S
    )  # fmt: skip
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr, ran.stderr
    return Refusal(ran.returncode, ran.stderr.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """A cluster that holds data; whatever is refused, it goes on."""
    with ClusterWorld(tmp_path_factory.mktemp("refusing")) as cluster:
        assert cluster.call("PUT", "/v1/buckets/kept", b'{"shards": 4}').status == 201
        assert cluster.call("PUT", "/v1/buckets/kept/objects/before", b"kept").status == 200
        yield cluster


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ClusterWorld:
    """Another cluster's only peer, stopped."""
    with ClusterWorld(tmp_path_factory.mktemp("other"), 1, replicas=1) as cluster:
        assert cluster.stop(0) == 0
        return cluster


@pytest.fixture(scope="module")
def nobody_answers(
    world: ClusterWorld, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Future[Refusal]]]:
    """Two joins that keep trying for half a minute, beside the other tests: nobody there; not a peer's port."""
    directory = tmp_path_factory.mktemp("nobody")
    base = free_base(3)
    key = world.place(0).directory / "cluster.key"
    seeds = (base + 25, world.place(0).api_port)
    with ThreadPoolExecutor(2) as pool:
        yield [
            pool.submit(
                start, directory / str(n), "--port", base + 10 * n, "--join", f"127.0.0.1:{seed}", "--cluster-key-file", key
            )
            for n, seed in enumerate(seeds)
        ]  # fmt: skip


def seed_of(world: ClusterWorld) -> str:
    return f"127.0.0.1:{world.place(0).peer_port}"


def assert_works(world: ClusterWorld, key: str) -> None:
    """The cluster takes writes and answers reads, through every peer that runs."""
    for peer in range(3):
        if world.running(peer):
            assert (
                world.call("PUT", f"/v1/buckets/kept/objects/{key}-{peer}", b"new", peer=peer).status == 200
            )
            assert world.call("GET", "/v1/buckets/kept/objects/before", peer=peer).body == b"kept"


def test_a_strangers_key(
    world: ClusterWorld, other: ClusterWorld, nobody_answers: list[Future[Refusal]], tmp_path: Path
) -> None:
    """Goal: a wrong key and another cluster's key are refused; the right one is then tried without complaint about
    the wrong one."""
    wrong = tmp_path / "wrong.key"
    wrong.write_text(secrets.token_hex(32) + "\n")
    joining = ("--port", free_base(1), "--join", seed_of(world), "--cluster-key-file")
    for key in (wrong, other.place(0).directory / "cluster.key"):
        refusal = start(tmp_path / "new", *joining, key)
        assert refusal.code == 1
        assert "rejected our cluster key" in refusal and "give this peer the cluster.key" in refusal
    refusal = start(tmp_path / "new", *joining, world.place(0).directory / "cluster.key", "--name", "peer-1")
    assert "has a peer named 'peer-1' already" in refusal


def test_no_key_and_bad_key(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: a missing key file, and one that holds no key, are named."""
    joining = ("--port", free_base(1), "--join", seed_of(world))
    assert "joining needs the cluster's key" in start(tmp_path / "a", *joining)
    assert "does not exist" in start(tmp_path / "b", *joining, "--cluster-key-file", tmp_path / "none")
    (tmp_path / "short").write_text("abcd\n")
    assert "is not a cluster key" in start(tmp_path / "c", *joining, "--cluster-key-file", tmp_path / "short")


def test_joining_under_a_name_that_is_taken(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: refused, clearly, through every seed; reads and writes go on afterwards and the ring is as before."""
    ring = world.call("GET", "/v1/cluster/ring").json
    key = world.place(0).directory / "cluster.key"
    for peer in range(3):
        seed = f"127.0.0.1:{world.place(peer).peer_port}"
        refusal = start(
            tmp_path / "new", "--port", free_base(1), "--join", seed, "--cluster-key-file", key, "--name", "peer-2"
        )  # fmt: skip
        assert refusal.code == 1
        assert "has a peer named 'peer-2' already" in refusal
        assert_works(world, f"after-join-{peer}")
    assert world.call("GET", "/v1/cluster/ring", peer=2).json == ring


def test_a_copy_beside_the_original(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: a copy of a running peer's directory is started: of the two processes that then act as one member the older
    ends with the reason, as soon as it hears of the later one, by gossip or in an answer to its report of starts, and the
    others go on."""
    place = world.place(2)
    world.signal(2, signal.SIGSTOP)  # so that the copy is of one moment
    shutil.copytree(place.directory, tmp_path / "copy")
    log = (tmp_path / "copy.log").open("wb")
    command = [
        sys.executable,
        "-m",
        "tools.cli",
        "peer",
        "--data",
        str(tmp_path / "copy"),
        "--port",
        str(free_base(1)),
    ]
    copy = subprocess.Popen(command, env=peer_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: b"answers on" in (tmp_path / "copy.log").read_bytes(), "the copy serves", REFUSED_S
        )
        world.signal(2, signal.SIGCONT)
        wait_until(lambda: not world.running(2), "the original ends", REFUSED_S)
        assert copy.poll() is None
    finally:
        copy.kill()
        copy.wait()
        log.close()
    said = place.log.read_text()
    assert "is an old copy" in said, said
    assert "another process runs as this peer" in said or "is alive at" in last_words(place, 1)[0], said
    assert world.stop(2) == 1
    assert_works(world, "beside-a-copy")
    shutil.copyfile(place.directory / "peer.json", tmp_path / "copy" / "peer.json")  # its ports
    shutil.rmtree(place.directory)  # what the copy has seen, the original has not: only the copy may go on
    shutil.copytree(tmp_path / "copy", place.directory)
    world.start(2)
    world.wait_ready(2)
    world.wait_all_alive()


def test_a_directory_of_another_cluster(world: ClusterWorld, other: ClusterWorld) -> None:
    """Goal: a peer of another cluster does not come in, whichever key it has, and remains what it is."""
    directory = other.place(0).directory
    before = files_below(directory).keys()
    key = world.place(0).directory / "cluster.key"
    refusal = start(directory, "--join", seed_of(world), "--cluster-key-file", key)
    assert refusal.code == 1 and "is another cluster's key" in refusal
    refusal = start(directory, "--join", seed_of(world))
    assert refusal.code == 1 and "belongs to cluster" in refusal
    own = (directory / "cluster.key").read_bytes()
    shutil.copyfile(key, directory / "cluster.key")
    try:
        refusal = start(directory, "--join", seed_of(world))
    finally:
        (directory / "cluster.key").write_bytes(own)
    assert refusal.code == 1 and "belongs to cluster" in refusal
    assert files_below(directory).keys() >= before
    other.start(0)
    other.wait_ready(0)
    other.kill(0)


def test_a_directory_in_use(world: ClusterWorld) -> None:
    """Goal: a second peer on a live one's directory is told who has it, and the live one goes on."""
    refusal = start(world.place(1).directory)
    assert refusal.code == 1
    assert "is in use by a running peer" in refusal and str(world.pid(1)) in refusal
    refusal = start(world.place(1).directory, "--port", free_base(1))
    assert "is in use by a running peer" in refusal
    assert_works(world, "after-use")
    assert (world.place(1).directory / "peer.pid").read_text() == f"{world.pid(1)}\n"


def test_a_port_in_use(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: the port is named, and the directory is not even made."""
    refusal = start(tmp_path / "new", "--found", "--port", world.place(0).port)
    assert refusal.code == 1
    assert f"port {world.place(0).port} on 127.0.0.1 cannot be used" in refusal and "--port" in refusal
    assert not (tmp_path / "new").exists()


def test_strangers_files(tmp_path: Path) -> None:
    """Goal: a directory of somebody else's files is not taken over."""
    (tmp_path / "letter.txt").write_text("dear")
    assert "holds files that are no peer's (letter.txt)" in start(tmp_path, "--found", "--port", free_base(1))
    assert list(files_below(tmp_path)) == ["letter.txt"]


def test_neither_founding_nor_joining(tmp_path: Path) -> None:
    """Goal: an empty directory founds nothing by itself: an unmounted disk would be a second cluster."""
    ran = subprocess.run(
        [sys.executable, "-m", "tools.cli", "peer", "--data", str(tmp_path)],
        env=peer_environment(), capture_output=True, text=True, timeout=REFUSED_S,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "--found" in ran.stderr and "--join" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_old_copy_never_votes(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: a peer whose directory was replaced by an older copy never makes a majority, however often it is started, nor
    is it admitted anew without one; the newer directory put back, it serves again."""
    directory, log = world.place(2).directory, world.place(2).log
    world.stop(2)
    shutil.copytree(directory, tmp_path / "copy")
    world.start(2)
    world.wait_ready(2)
    assert_works(world, "unknown-to-the-copy")
    world.stop(2)
    directory.rename(tmp_path / "real")
    shutil.copytree(tmp_path / "copy", directory)
    world.kill(1)
    for _ in range(3):
        said = len(log.read_text())
        world.start(2)  # beside it only peer 1: its vote would make a majority
        wait_until(
            lambda said=said: "under the new id" in log.read_text()[said:], "it is convicted", REFUSED_S
        )
        assert "is an old copy" in log.read_text()[said:]
        assert world.call("PUT", "/v1/buckets/kept/objects/none", b"", timeout_s=60.0).status == 503
        assert world.running(2) and world.stop(2) == 0
    shutil.rmtree(directory)
    (tmp_path / "real").rename(directory)
    world.start_again()
    for peer in range(3):
        assert world.call("GET", "/v1/buckets/kept/objects/unknown-to-the-copy-2", peer=peer).body == b"new"
    assert world.call("GET", "/v1/buckets/kept/objects/none").status in (200, 404)
    assert_works(world, "after-copy")


def test_a_database_of_another_peer(world: ClusterWorld, tmp_path: Path) -> None:
    """Goal: two peers' databases that were mixed up are told apart, and nothing happens to either."""
    place = world.place(2)
    world.stop(2)
    shutil.copytree(place.directory / "rows", tmp_path / "rows")
    shutil.rmtree(place.directory / "rows")
    world.stop(1)
    shutil.copytree(world.place(1).directory / "rows", place.directory / "rows")
    world.start(1)
    refusal = start(place.directory)
    assert refusal.code == 1 and "put each into its own directory" in refusal
    shutil.rmtree(place.directory / "rows")
    shutil.copytree(tmp_path / "rows", place.directory / "rows")
    world.start_again()
    assert_works(world, "with-its-own-database")


def test_another_format(world: ClusterWorld) -> None:
    """Goal: a database of another version is no lost one: it is named, with what to do, and left as it is."""
    place = world.place(2)
    world.stop(2)
    database = place.directory / "rows" / "atoll.db"
    good = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma user_version = 1")
        connection.commit()
    refusal = start(place.directory)
    assert refusal.code == 1 and "an older version of Atoll (format 1" in refusal and "empty" in refusal
    assert not (place.directory / "return.json").exists()
    database.write_bytes(good)
    world.start_again()
    assert_works(world, "with-its-format")


def test_nobody_to_come_back_to(other: ClusterWorld) -> None:
    """Goal: the only peer of its cluster loses its database: nobody has a copy, and it says so."""
    directory = other.place(0).directory
    database = directory / "rows" / "atoll.db"
    good = database.read_bytes()
    database.unlink()
    refusal = start(directory)
    assert refusal.code == 1 and "is missing" in refusal and "--join" in refusal
    database.write_bytes(good)


@pytest.mark.parametrize("what", ["power", "replicas"])
def test_another_ring_under_the_same_number(world: ClusterWorld, what: str) -> None:
    """Schedule 11: on real processes, a peer whose own epoch has the cluster's number, but another partition power or number
    of replicas, is refused by all, says what to do and ends; not a row has moved. With its own epoch it serves."""
    place = world.place(2)
    world.stop(2)
    database = place.directory / "rows" / "atoll.db"
    good = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        query = "select v from meta where k = cast('epoch' as blob)"
        epoch = Epoch.decode(connection.execute(query).fetchone()[0][4:])
        power = epoch.partition_power - (what == "power")
        replicas = epoch.replicas - (what == "replicas")
        other = placed(None, epoch.members, replicas, power)
        _, key, row = meta.write(
            b"epoch", replace(epoch, replicas=replicas, partition_power=power, table=other).encode()
        )
        connection.execute("update meta set v = ? where k = ?", (row, key))
        connection.commit()
    before = [rows_of(world, peer) for peer in range(3)]
    refusal = start(place.directory)
    assert refusal.code == 1 and "the right ring" in refusal, refusal
    assert ("partition power" if what == "power" else "another ring under the number") in refusal, refusal
    assert [rows_of(world, peer) for peer in range(3)] == before
    database.write_bytes(good)
    world.start_again()
    assert_works(world, f"in-its-own-ring-{what}")


def rows_of(world: ClusterWorld, peer: int) -> list[tuple[bytes, bytes]]:
    """The registers on a peer's disk."""
    database = world.place(peer).directory / "rows" / "atoll.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return list(connection.execute("select k, v from rows order by k"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only needs root")
def test_a_read_only_directory(world: ClusterWorld) -> None:
    """Goal: a data directory on a read-only mount is named; made writable, the peer serves again."""
    directory = world.place(2).directory
    world.stop(2)
    mounted = subprocess.run(
        ["mount", "--bind", str(directory), str(directory)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        world.start_again()
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(directory)], check=True)
        refusal = start(directory)
    finally:
        subprocess.run(["umount", str(directory)], check=True)
    assert refusal.code == 1
    assert "read-only" in refusal.said.lower() and str(directory) in refusal
    world.start_again()
    assert_works(world, "writable-again")


def test_nobody_answers(world: ClusterWorld, nobody_answers: list[Future[Refusal]]) -> None:
    """Goal: joining through an address where nobody is, or no peer, ends after half a minute and says so (exit code 5:
    a retry may help)."""
    wait_until(lambda: all(join.done() for join in nobody_answers), "the joins give up", REFUSED_S)
    nobody, stranger = (join.result() for join in nobody_answers)
    assert nobody.code == stranger.code == 5
    assert "no seed admitted this peer" in nobody and "cannot reach the peer" in nobody
    assert "does not speak Atoll's peer protocol" in stranger
