"""Real peers that lost their memory come back by themselves: under a new id, with the chunks they still have (§5).

Every case kills with SIGKILL, takes something from a peer's directory, starts it with no option but its directory, and
audits the disks in the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cluster_tools import Writer, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_ring import audit, node_of, wait_settled
from tools.devlayout import peer_environment

SIZES = (900, 120_000, 20_000, 2_500_000)
OBJECTS = 48
ENDS_S = 90.0


@contextmanager
def filled(directory: Path, peers: int = 3) -> Iterator[ClusterWorld]:
    """A cluster with objects of every kind, all copies made."""
    with ClusterWorld(directory, peers, options=["--partition-power", "8", "--chunk-size", "1MiB"]) as world:
        with world.client() as client:
            client.create_bucket("kept")
            for number in range(OBJECTS):
                client.put("kept", f"old/{number}", content(number, SIZES[number % len(SIZES)]))
        wait_settled(world, list(range(peers)), peers)
        yield world


def check(world: ClusterWorld, peer: int) -> None:
    """Every object reads through this peer."""
    with world.client(peer, pin=True) as client:
        for number in range(OBJECTS):
            expected = content(number, SIZES[number % len(SIZES)])
            assert client.get("kept", f"old/{number}").read() == expected, number


def stored(world: ClusterWorld, peer: int) -> dict[str, int]:
    return dict(world.json_of("/v1/cluster/nodes/self", peer=peer)["storage"])


def database(world: ClusterWorld, peer: int) -> Path:
    return world.place(peer).directory / "rows" / "atoll.db"


def back(world: ClusterWorld, peer: int, old: str) -> None:
    """The peer is in the ring under a new id, alone, and everything is where it belongs; nothing of its return is left."""
    everyone = list(range(world.layout.peers))
    world.wait_ready(peer)
    wait_settled(world, everyone, world.layout.peers)
    assert node_of(world, f"peer-{peer + 1}")["id"] != old
    for one in everyone:
        check(world, one)
    audit(world, everyone)
    directory = world.place(peer).directory
    wait_until(lambda: not (directory / "return.json").exists(), "its return is over")
    assert not (directory / "rows" / "lost").exists()


def delete(path: Path) -> None:
    for file in path.parent.glob("atoll.db*"):
        file.unlink()


def empty(path: Path) -> None:
    delete(path)
    path.touch()


def truncate(path: Path) -> None:
    for log in path.parent.glob("atoll.db-*"):
        log.unlink()
    os.truncate(path, 3 * 4096)


def garbage(path: Path) -> None:
    """All pages but the first are overwritten: what no start reads is found when somebody asks for it."""
    for log in path.parent.glob("atoll.db-*"):
        log.unlink()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def spoil_rows(path: Path) -> None:
    """The leaf pages of the registers are overwritten: the peer starts, and finds it when it reads them."""
    for log in path.parent.glob("atoll.db-*"):
        log.unlink()
    with closing(sqlite3.connect(path)) as rows:
        pages = rows.execute("select pageno from dbstat where name = 'rows' and pagetype = 'leaf'").fetchall()
    with path.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * 4096)
            file.write(os.urandom(4096))


@pytest.mark.parametrize("lose", [delete, empty, truncate, garbage, spoil_rows])
def test_a_lost_database(
    tmp_path: Path, lose: Callable[[Path], None], record_property: Callable[[str, object], None]
) -> None:
    """Goal: the database is deleted, emptied, cut short, overwritten. Clients write meanwhile; the peer is back by itself,
    in the place of its former id, and hardly a byte of a chunk travels."""
    with filled(tmp_path) as world:
        old = node_of(world, "peer-2")["id"]
        held = stored(world, 1)["live_bytes"]
        world.stop(1)  # the log is copied into the database, so that its damage is not made good from there
        world.start(1)
        world.wait_ready(1)
        world.kill(1)
        lose(database(world, 1))
        with world.client(0, 2) as client, Writer(client, "kept", "new/") as writer:
            writer.wait_for(10)
            world.start(1)
            back(world, 1, old)
            writer.wait_for(10)
        with world.client(1, pin=True) as client:
            assert writer.check(client)
        fetched = stored(world, 1)["append_bytes"]
        assert fetched < held / 4
        log = world.place(1).log.read_text()
        assert "under the new id" in log and old in log
        world.restart(1)  # as an ordinary peer
        wait_settled(world, [0, 1, 2], 3)
        record_property("bytes held", held)
        record_property("bytes fetched", fetched)


def test_a_row_of_its_own_memory_rots(tmp_path: Path) -> None:
    """Goal: the bound of its promises does not match its checksum: that peer cannot keep them, and comes back as another."""
    with filled(tmp_path) as world:
        old = node_of(world, "peer-3")["id"]
        world.kill(2)
        with closing(sqlite3.connect(database(world, 2))) as rows, rows:
            rows.execute("update meta set v = x'0000000000000001' where k = cast('bound' as blob)")
        world.start(2)
        back(world, 2, old)
        assert "the bound of its promises" in world.place(2).log.read_text()


def test_what_a_damaged_database_still_gives(tmp_path: Path) -> None:
    """Goal: pages of a database are damaged while another peer is down: what is left of it still makes a majority for
    everything else, so the peer stays who it is, until the others can do without it."""
    with filled(tmp_path) as world:
        old = node_of(world, "peer-2")["id"]
        world.stop(1)
        world.kill(2)
        spoil_rows(database(world, 1))
        world.start(1)
        log = world.place(1).log
        wait_until(
            lambda: "as soon as the others can do without it" in log.read_text(), "it is found", ENDS_S
        )
        world.wait_ready(1)
        assert world.running(1) and node_of(world, "peer-2")["id"] == old
        wait_until(
            lambda: "database_damaged" in [one["code"] for one in world.json_of("/v1/cluster")["reasons"]],
            "status says so",
            ENDS_S,
        )
        world.start(2)
        wait_until(
            lambda: node_of(world, "peer-2").get("id") not in (old, None), "it is another member", ENDS_S
        )
        back(world, 1, old)


def test_an_old_copy_of_the_directory(tmp_path: Path) -> None:
    """Goal: an old copy of the whole directory is put back: the others convict it, and it comes back as another peer, with
    the chunks the copy has."""
    with filled(tmp_path) as world:
        directory = world.place(1).directory
        old = node_of(world, "peer-2")["id"]
        world.stop(1)
        shutil.copytree(directory, tmp_path / "copy")
        world.start(1)
        world.wait_ready(1)
        with world.client(1, pin=True) as client:
            client.put("kept", "since", b"then")
        world.kill(1)
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / "copy", directory)
        world.start(1)
        wait_until(lambda: "is an old copy" in world.place(1).log.read_text(), "it is convicted")
        wait_until(
            lambda: node_of(world, "peer-2").get("id") not in (old, None), "it is another member", ENDS_S
        )
        back(world, 1, old)
        with world.client(1, pin=True) as client:
            assert client.get("kept", "since").read() == b"then"


def test_a_copy_of_a_living_peer_is_refused(tmp_path: Path) -> None:
    """Goal: a copy of a running peer's directory, its database lost, is refused by name, changes nothing, and the original
    goes on."""
    with filled(tmp_path) as world:
        old = node_of(world, "peer-2")["id"]
        world.signal(1, signal.SIGSTOP)
        copy = tmp_path / "copy"
        shutil.copytree(world.place(1).directory, copy)
        world.signal(1, signal.SIGCONT)
        delete(copy / "rows" / "atoll.db")
        command = [sys.executable, "-m", "tools.cli", "peer", "--data", str(copy)]
        command += ["--port", str(world.place(1).port + 5)]
        for _ in range(2):
            ran = subprocess.run(
                command, env=peer_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ENDS_S
            )  # fmt: skip
            assert ran.returncode == 1
            assert f"{old}, which it was before, is alive at" in ran.stderr.splitlines()[-1]
        assert not (copy / "rows" / "lost").exists()
        wait_settled(world, [0, 1, 2], 3)
        assert node_of(world, "peer-2")["id"] == old
        check(world, 1)


def test_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    """Goal: where a peer's disk should be is an empty directory: the start ends with 2 and makes nothing there; mounted
    again, the peer is the one it was."""
    with filled(tmp_path) as world:
        directory = world.place(1).directory
        old = node_of(world, "peer-2")["id"]
        world.kill(1)
        directory.rename(tmp_path / "disk")
        directory.mkdir()
        command = [sys.executable, "-m", "tools.cli", "peer", "--data", str(directory)]
        ran = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, timeout=ENDS_S)
        assert ran.returncode == 2 and "If a disk belongs there, mount it" in ran.stderr
        assert not any(directory.iterdir())
        directory.rmdir()
        (tmp_path / "disk").rename(directory)
        world.start(1)
        world.wait_ready(1)
        wait_settled(world, [0, 1, 2], 3)
        assert node_of(world, "peer-2")["id"] == old


def test_two_of_three_lose_their_memory(tmp_path: Path) -> None:
    """Goal: with two databases of three the majority is lost: nobody goes on silently, writes are 503, both wait and say
    what an operator can do. After `recover epoch` on the third they come back by themselves, with their chunks."""
    with filled(tmp_path) as world:
        ids = {node_of(world, name)["id"] for name in ("peer-2", "peer-3")}
        world.kill_all()
        for peer in (1, 2):
            delete(database(world, peer))
        for peer in range(3):
            world.start(peer)
        for peer in (1, 2):
            log = world.place(peer).log
            wait_until(lambda log=log: "atoll recover epoch" in log.read_text(), "it says what helps", ENDS_S)
            assert world.running(peer)
        assert world.call("PUT", "/v1/buckets/kept/objects/none", b"", timeout_s=60.0).status == 503
        verdict = world.json_of("/v1/cluster")
        assert verdict["verdict"] == "unavailable"
        assert any("atoll recover epoch" in reason["message"] for reason in verdict["reasons"])
        world.kill(0)
        lost = ["--lost", "peer-2", "--lost", "peer-3", "--accept-data-loss"]
        done = world.atoll("recover", "epoch", "--data", str(world.place(0).directory), *lost)
        assert done.returncode == 0, done.stderr
        world.start(0)
        for peer in range(3):
            world.wait_ready(peer, ENDS_S)
        wait_settled(world, [0, 1, 2], 3)
        assert not ids & {node_of(world, name)["id"] for name in ("peer-2", "peer-3")}
        for peer in range(3):
            check(world, peer)
        audit(world, [0, 1, 2])
        assert stored(world, 1)["append_bytes"] < stored(world, 1)["live_bytes"] / 4


def test_the_lost_ones_return_after_an_override(tmp_path: Path) -> None:
    """Goal: two of three are called lost and the third goes on alone, in a new generation. They were not lost: one only
    stood still, one was down. Both hear of it, say so, and join by themselves under new ids with their chunks; what
    registers they had is kept aside, for `recover export`."""
    with filled(tmp_path) as world:
        ids = {node_of(world, name)["id"] for name in ("peer-2", "peer-3")}
        world.kill(2)
        world.signal(1, signal.SIGSTOP)
        world.kill(0)
        lost = ["--lost", "peer-2", "--lost", "peer-3", "--accept-data-loss"]
        done = world.atoll("recover", "epoch", "--data", str(world.place(0).directory), *lost)
        assert done.returncode == 0, done.stderr
        world.start(0)
        world.wait_ready(0, ENDS_S)
        with world.client(0, pin=True) as client:
            client.put("kept", "since", b"then")
        world.signal(1, signal.SIGCONT)
        world.start(2)
        for peer in (1, 2):
            log = world.place(peer).log
            wait_until(lambda log=log: "override" in log.read_text(), "it is told", ENDS_S)
        for peer in range(3):
            world.wait_ready(peer, ENDS_S)
        wait_settled(world, [0, 1, 2], 3)
        assert not ids & {node_of(world, name)["id"] for name in ("peer-2", "peer-3")}
        for peer in range(3):
            check(world, peer)
            assert world.call("GET", "/v1/buckets/kept/objects/since", peer=peer).body == b"then"
        audit(world, [0, 1, 2])
        for peer in (1, 2):
            assert stored(world, peer)["append_bytes"] < stored(world, peer)["live_bytes"] / 4
        world.kill_all()
        kept = world.place(2).directory
        ran = world.atoll(
            "recover",
            "export",
            "--data",
            str(kept / "rows" / "lost"),
            "--data",
            str(kept),
            str(tmp_path / "out"),
        )
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / "out" / "kept" / "old" / "1").read_bytes() == content(1, SIZES[1])
