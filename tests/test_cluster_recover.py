"""`atoll recover` on clusters that lost their majority: what the disks hold is written out; survivors go on."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_kills import rows_and_chunks
from tests.test_cluster_ring import audit

KIB = 1024
OBJECTS = {
    "inline": (1, 700), "empty": (2, 0), "one chunk": (3, 40 * KIB), "deep/er/several": (4, 300 * KIB + 1),
    "manifest": (5, 70 * 64 * KIB + 5), "deep": (6, 10), "../up": (7, 20), "a//b": (8, 70 * KIB), "ü/…": (9, 30),
}  # fmt: skip
"""Key -> number and size. "deep" is in the way of the folder of "deep/er/several", two others cannot be paths at all."""


def fill(world: ClusterWorld) -> None:
    assert world.call("PUT", "/v1/buckets/kept").status == 201
    assert world.call("PUT", "/v1/buckets/empty-one").status == 201
    for key, (number, _) in OBJECTS.items():
        assert put(world, key, number + 1000, 50_000) == 200
    for key, (number, size) in OBJECTS.items():
        assert put(world, key, number, size, {"Content-Type": "text/x", "x-atoll-meta-a": "b"}) == 200
    assert put(world, "deleted", 20, 30_000) == 200
    assert world.call("DELETE", "/v1/buckets/kept/objects/deleted").status == 204


def put(
    world: ClusterWorld, key: str, number: int, size: int, headers: Mapping[str, str] | None = None
) -> int:
    path = "/v1/buckets/kept/objects/" + quote(key, safe="")
    return world.call("PUT", path, content(number, size), headers).status


def run(world: ClusterWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    return world.atoll("recover", *arguments)


def check_export(out: Path, whole: bool = True) -> dict[str, str | None]:
    """Every listed file has the right bytes; key -> file."""
    listed = [json.loads(line) for line in (out / "objects.jsonl").read_text().splitlines()]
    assert {record["key"] for record in listed} == set(OBJECTS)
    for record in listed:
        number, size = OBJECTS[record["key"]]
        assert (record["bucket"], record["size"]) == ("kept", size)
        assert (record["content_type"], record["metadata"]) == ("text/x", {"a": "b"})
        if record["file"] is not None:
            assert (out / record["file"]).read_bytes() == content(number, size)
    if whole:
        assert all(record["file"] for record in listed)
    return {record["key"]: record["file"] for record in listed}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """Three peers, killed with everything in them."""
    with ClusterWorld(tmp_path_factory.mktemp("recover"), options=["--chunk-size", "64KiB"]) as world:
        fill(world)
        wait_until(
            lambda: len({str(rows_and_chunks(world, peer)) for peer in range(3)}) == 1, "all hold the same"
        )
        refused = run(
            world, "export", "--data", str(world.place(0).directory), str(world.place(0).directory / "x")
        )
        assert refused.returncode == 1 and "in use by a running peer" in refused.stderr
        world.kill_all()
        yield world


def copies(world: ClusterWorld, target: Path, *peers: int) -> list[Path]:
    """Copies of these peers' directories, for a test to damage."""
    found = []
    for peer in peers:
        found.append(target / f"peer-{peer}")
        shutil.copytree(world.place(peer).directory, found[-1])
    return found


def test_export_from_one_disk(filled: ClusterWorld, tmp_path: Path) -> None:
    """Goal: two of three peers are gone; the third one's disk gives every object, in its newest version, byte for byte, and
    stays as it was."""
    (disk,) = copies(filled, tmp_path, 1)
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    done = run(filled, "export", "--data", str(disk), str(tmp_path / "out"), "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["objects"], told["lost"]) == (len(OBJECTS), 0)
    files = check_export(tmp_path / "out")
    assert files["one chunk"] == "kept/one chunk" and files["ü/…"] == "kept/ü/…"
    assert {str(files[key]).split("/")[0] for key in ("../up", "a//b")} == {"_unnamed"}
    after = {
        path: path.read_bytes() for path in disk.rglob("*") if path.is_file() and path.name != "atoll.db-shm"
    }
    assert after == {path: data for path, data in before.items() if path.name != "atoll.db-shm"}
    again = run(filled, "export", "--data", str(disk), str(tmp_path / "out"))
    assert again.returncode == 6 and "not empty" in again.stderr


def test_export_puts_together_what_is_left(filled: ClusterWorld, tmp_path: Path) -> None:
    """Goal: names from a disk whose segments are gone, bytes from one whose database is gone: the headers lead to them."""
    names, data = copies(filled, tmp_path, 0, 2)
    shutil.rmtree(names / "segments")
    shutil.rmtree(data / "rows")
    done = run(filled, "export", "--data", str(names), "--data", str(data), str(tmp_path / "out"))
    assert done.returncode == 7 and "its chunks can be used" in done.stderr and "lost:" not in done.stderr, (
        done.stderr
    )
    check_export(tmp_path / "out")


def test_export_says_what_is_lost(filled: ClusterWorld, tmp_path: Path) -> None:
    """Goal (P5): damaged bytes are never written out; what is not whole is named, and everything else is there."""
    (disk,) = copies(filled, tmp_path, 0)
    for segment in (disk / "segments").iterdir():
        data = bytearray(segment.read_bytes())
        spoilt = data.find(content(*OBJECTS["one chunk"]))
        if spoilt >= 0:
            data[spoilt + 20_000] ^= 1
        segment.write_bytes(data)
    done = run(filled, "export", "--data", str(disk), str(tmp_path / "out"))
    assert done.returncode == 7 and "lost: kept/one chunk" in done.stderr
    files = check_export(tmp_path / "out", whole=False)
    assert [key for key, file in files.items() if file is None] == ["one chunk"]


def test_export_refuses_what_is_no_peer(filled: ClusterWorld, tmp_path: Path) -> None:
    """Goal: a wrong directory is told of, not exported as an empty cluster."""
    (tmp_path / "empty").mkdir()
    done = run(filled, "export", "--data", str(tmp_path / "empty"), str(tmp_path / "out"))
    assert done.returncode == 3 and "not a peer's data directory" in done.stderr
    assert not (tmp_path / "out").exists()


def test_epoch_after_the_majority_is_lost(tmp_path: Path) -> None:
    """Goal: three of five peers are gone for good. Without the operator's word nothing happens; with it the two survivors
    merge, serve what either of them held, take writes, and are healthy but for the replicas they lack peers for."""
    with ClusterWorld(tmp_path, 5, options=["--chunk-size", "64KiB", "--partition-power", "8"]) as world:
        assert world.call("PUT", "/v1/buckets/kept", b'{"shards": 32}').status == 201
        sizes = {number: (300, 90 * KIB)[number % 2] for number in range(120)}
        for number, size in sizes.items():
            path = f"/v1/buckets/kept/objects/{number}"
            assert world.call("PUT", path, content(number, size), peer=number % 5).status == 200
        owners = {}
        for number in sizes:
            told = world.call("GET", f"/v1/cluster/ring/lookup?bucket=kept&key={number}").json
            owners[number] = {owner["name"] for owner in told["owners"]}
        audit(
            world, list(range(5))
        )  # what was acknowledged lies on a majority; here each owner is counted on
        world.kill_all()
        for peer in (2, 3, 4):
            shutil.rmtree(world.place(peer).directory)
        survivor = str(world.place(1).directory)
        lost = ["--lost", "peer-3", "--lost", "peer-4", "--lost", "peer-5"]
        shown = run(world, "epoch", "--data", survivor, *lost)
        assert shown.returncode == 6 and "--accept-data-loss" in shown.stderr and "in doubt" in shown.stdout
        assert run(world, "epoch", "--data", survivor, "--lost", "nobody").returncode == 2
        unneeded = run(world, "epoch", "--data", survivor, "--lost", "peer-3")
        assert unneeded.returncode == 6 and "nothing has to be given up" in unneeded.stderr
        world.start(0)
        answer = world_answer(world, 0)
        assert answer == 503
        done = run(world, "epoch", "--data", survivor, *lost, "--accept-data-loss", "-o", "json")
        assert done.returncode == 0, done.stderr
        assert sorted(json.loads(done.stdout)["survivors"]) == ["peer-1", "peer-2"]
        world.start(1)
        world.wait_ready(1)
        world.wait_ready(0)
        wait_until(
            lambda: reasons(world, 0) == {"too_few_peers"} == reasons(world, 1), "the survivors are in order"
        )
        for number, size in sizes.items():
            held = bool(
                owners[number] & {"peer-1", "peer-2"}
            )  # by a survivor; its chunks may have had other owners
            for peer in (0, 1):
                body = read(world, number, peer)
                assert body == content(number, size) if body is not None else size > 16 * KIB or not held
        assert world.call("PUT", "/v1/buckets/kept/objects/new", b"new").status == 200
        assert world.call("GET", "/v1/buckets/kept/objects/new", peer=1).body == b"new"
        assert world.call("GET", "/v1/cluster").json["epoch"]["generation"] == 1


def read(world: ClusterWorld, number: int, peer: int) -> bytes | None:
    """The object's bytes; None where some are lost. A busy peer is asked again: 503 says nothing of the object."""
    answers = []

    def told() -> bool:
        answers.append(world.call("GET", f"/v1/buckets/kept/objects/{number}", peer=peer))
        return answers[-1].status != 503

    try:
        wait_until(told, f"object {number} is read through peer {peer}, or known to be lost")
    except http.client.IncompleteRead:
        return None
    return answers[-1].body if answers[-1].status == 200 else None


def world_answer(world: ClusterWorld, peer: int) -> int:
    """The status of a read, once the peer answers at all."""
    seen: list[int] = []

    def answers() -> bool:
        try:
            seen.append(world.call("GET", "/v1/buckets/kept/objects/0", peer=peer).status)
        except OSError:
            return False
        return True

    wait_until(answers, "the peer answers")
    return seen[-1]


def reasons(world: ClusterWorld, peer: int) -> set[str]:
    return {reason["code"] for reason in world.call("GET", "/v1/cluster", peer=peer).json["reasons"]}
