"""A disk that appears late on real peers: nothing is deleted meanwhile, by anybody (schedule 10)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_garbage import live
from tests.test_cluster_scrub import references, segments, told, wait_for_passes

SIZES = (300_000, 1_200_000, 70_000, 900) * 6
KEEN = {"ATOLL_SCRUB_EVERY": "1s", "ATOLL_SCRUB_RATE": "1GiB", "ATOLL_GARBAGE_AFTER": "1s"}
"""Everything that deletes is at work all the time."""


def fill(world: ClusterWorld) -> None:
    with world.client() as client:
        client.create_bucket("late")
        for number, size in enumerate(SIZES):
            client.put("late", f"steady/{number}", content(number, size))
    wait_until(lambda: len(set(live(world))) == 1, "all copies are made")


def check(world: ClusterWorld, *peers: int) -> None:
    for peer in peers:
        with world.client(peer, pin=True) as client:
            for number, size in enumerate(SIZES):
                assert client.get("late", f"steady/{number}").read() == content(number, size)


def rows(world: ClusterWorld, peer: int) -> dict[str, int]:
    """How many rows of each kind its database has."""
    database = world.place(peer).directory / "rows" / "atoll.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        return {
            table: int(opened.execute(f"select count(*) from {table}").fetchone()[0])
            for table in ("rows", "chunks", "refs")
        }


def away(world: ClusterWorld, peer: int, disk: Path) -> None:
    """Its segments are on a disk that is not there: the mount point is."""
    folder = world.place(peer).directory / "segments"
    folder.rename(disk)
    folder.mkdir(mode=0o700)


def appears(world: ClusterWorld, peer: int, disk: Path) -> None:
    """Mounted: what was written below the mount point is hidden."""
    folder = world.place(peer).directory / "segments"
    folder.rename(disk.with_name(f"{disk.name}-below"))
    disk.rename(folder)


def healthy(world: ClusterWorld) -> bool:
    return told(world) == ("healthy", [])


@pytest.mark.parametrize("running", [False, True])
def test_segments_that_appear_late(
    tmp_path: Path, running: bool, record_property: Callable[[str, object], None]
) -> None:
    """Schedule 10: one peer starts while the disk with its segments is missing. It says so, fetches what it lacks, and
    nobody deletes a row, a reference or a chunk. The disk appears, while the peer runs or before its next start: what lies
    on it is used, and everything reads, whoever dies."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=KEEN) as world:
        fill(world)
        held, before = live(world), [rows(world, peer) for peer in range(3)]
        world.kill(1)
        away(world, 1, tmp_path / "disk")
        world.start(1)
        world.wait_ready(1)
        wait_until(lambda: healthy(world) and live(world) == held, "it holds everything again")
        wait_for_passes(world)
        assert [rows(world, peer) for peer in range(3)] == before
        check(world, 1)
        if running:
            appears(world, 1, tmp_path / "disk")
            check(world, 0, 1, 2)
            world.kill(1)
        else:
            world.kill(1)
            appears(world, 1, tmp_path / "disk")
        world.start(1)
        world.wait_ready(1)
        wait_until(lambda: healthy(world) and live(world) == held, "it holds everything again")
        wait_until(lambda: references(world, 1) == references(world, 0), "with all references")
        fetched = world.json_of("/v1/cluster/nodes/self", peer=1)["storage"]["append_bytes"]
        if not running:
            assert fetched < held[1] / 4, "what lay on the disk was used"
        assert [rows(world, peer) for peer in range(3)] == before
        for victim in range(3):
            world.kill(victim)
            check(world, *({0, 1, 2} - {victim}))
            world.start(victim)
            world.wait_ready(victim)
            wait_until(lambda: healthy(world), "it is back")
        record_property("bytes held", held[1])
        record_property("bytes fetched", fetched)


def test_no_segments_anywhere(tmp_path: Path) -> None:
    """Schedule 10 at its worst: all peers start without their segments, twice, and nothing can be fetched from anybody. No
    row and no reference goes; the disks appear, and everything is as it was, without a byte that travels."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=KEEN) as world:
        fill(world)
        held, before = live(world), [rows(world, peer) for peer in range(3)]
        world.kill_all()
        for peer in range(3):
            away(world, peer, tmp_path / f"disk-{peer}")
        for _ in range(2):
            world.start_again()
            wait_for_passes(world)
            assert told(world)[0] == "degraded" and "chunks_damaged" in told(world)[1]
            assert world.call("GET", "/v1/buckets/late/objects/steady%2F0").status >= 500
            assert [rows(world, peer) for peer in range(3)] == before
            world.kill_all()
        for peer in range(3):
            appears(world, peer, tmp_path / f"disk-{peer}")
        world.start_again()
        check(world, 0, 1, 2)
        wait_until(lambda: healthy(world) and live(world) == held, "all is as it was")
        assert [rows(world, peer) for peer in range(3)] == before


def test_one_segment_that_appears_late(tmp_path: Path) -> None:
    """Schedule 10, a part of the disk: one segment of several is missing at a start, and is back at the next."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=KEEN) as world:
        fill(world)
        for peer in range(3):
            world.restart(peer)  # another segment from here on
        with world.client() as client:
            client.put("late", "more", content(99, 900_000))
        wait_until(lambda: healthy(world) and len(set(live(world))) == 1, "all copies are made")
        held, before = live(world), [rows(world, peer) for peer in range(3)]
        world.kill_all()
        first = [segments(world, peer)[0] for peer in range(3)]
        for peer in range(3):
            first[peer].rename(tmp_path / f"segment-{peer}")
        world.start_again()
        wait_for_passes(world, [1])
        assert [rows(world, peer) for peer in range(3)] == before
        world.kill_all()
        for peer in range(3):
            (tmp_path / f"segment-{peer}").rename(first[peer])
        world.start_again()
        check(world, 0, 1, 2)
        wait_until(lambda: healthy(world) and live(world) == held, "all is as it was")
        assert [rows(world, peer) for peer in range(3)] == before
