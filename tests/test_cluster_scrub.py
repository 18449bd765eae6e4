"""Real peers find what rots on their disks, say so, and have it made good, while clients read."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

from peer.errors import Corrupt
from peer.replication.chunks.rows import decode_chunk_row
from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_garbage import live
from tests.test_cluster_kills import Reader

SIZES = (300_000, 2 * MIB + 7, 70_000, 900, 20_000) * 6
DOOMED = content(99, 500_000)
EVERY_S = 4.0
KEEN = {"ATOLL_SCRUB_EVERY": f"{EVERY_S}s", "ATOLL_SCRUB_RATE": "1GiB", "ATOLL_GARBAGE_AFTER": "1s"}


def segments(world: ClusterWorld, index: int) -> list[Path]:
    folder = world.place(index).directory / "segments"
    return sorted(path for path in folder.iterdir() if path.suffix == ".seg" and path.stat().st_size)


def counts(world: ClusterWorld, index: int) -> dict[str, int]:
    """What the peer counts of its chunks."""
    return dict(world.json_of("/v1/cluster/nodes/self", peer=index)["replication"])


def passes(world: ClusterWorld, index: int) -> int:
    """How often the peer's scrub has gone over everything since its start."""
    workers = world.json_of("/v1/cluster/workers")["workers"]
    name = f"peer-{index + 1}"
    mine = (one for one in workers if one["worker"] == "scrub" and one["node"]["name"] == name)
    return next((int(one["detail"]["passes"]) for one in mine), 0)


def wait_for_passes(world: ClusterWorld, peers: Iterable[int] = range(3)) -> None:
    """Until everything that each of these holds was looked at: the pass under way, and a whole one."""
    goals = {peer: passes(world, peer) + 2 for peer in peers}
    wait_until(lambda: all(passes(world, peer) >= goal for peer, goal in goals.items()), "scrub has looked")


def told(world: ClusterWorld) -> tuple[str, list[str]]:
    """The verdict of another peer, and the codes of its reasons."""
    cluster = world.json_of("/v1/cluster", peer=0)
    return cluster["verdict"], [reason["code"] for reason in cluster["reasons"]]


def flip(path: Path, offset: int) -> None:
    """Flip a bit of a file behind everybody's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
        file.flush()
        os.fsync(file.fileno())


def flip_within(world: ClusterWorld, index: int, body: bytes) -> None:
    """Flip a bit of what the peer holds of this body, wherever in its segments that is."""
    for path in sorted((world.place(index).directory / "segments").iterdir()):
        where = path.read_bytes().find(body)
        if where >= 0:
            flip(path, where + len(body) // 2)
            return
    raise AssertionError(f"peer {index} holds no copy")


def test_rot_is_found_told_and_made_good(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Goal: bits flipped in one peer's segments, a segment cut short and one removed, under a running peer: every chunk is
    fetched anew, and no read fails. A chunk that has rotted everywhere is told by status for as long as it is named."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=KEEN) as world:
        with world.client() as client:
            client.create_bucket("rot")
            for number, size in enumerate(SIZES):
                client.put("rot", f"steady/{number}", content(number, size))
                if number % 10 == 9:  # a segment more each time
                    world.restart(1)
            world.restart(1)
            wait_until(lambda: len(set(live(world))) == 1, "all copies are made")
            held = live(world)
            files = segments(world, 1)
            assert len(files) >= 3
            client.put("rot", "doomed", DOOMED)
            wait_until(
                lambda: len(set(live(world))) == 1 and live(world) != held, "all copies of it are made, too"
            )
            for index in range(3):
                flip_within(world, index, DOOMED)
            flip(files[0], 70_000)
            os.truncate(files[1], files[1].stat().st_size // 2)
            files[2].unlink()
            began_s = time.monotonic()
            verdicts: set[str] = set()
            with Reader(client, "rot", list(SIZES), 1) as reader:

                def looked() -> tuple[str, list[str]]:
                    verdict = told(world)
                    verdicts.add(f"{verdict[0]} {' '.join(verdict[1])}")
                    return verdict

                wait_until(lambda: "chunks_damaged" in looked()[1], "it is found")
                found_s = time.monotonic() - began_s
                goal = passes(world, 1) + 2
                wait_until(lambda: bool(looked()) and passes(world, 1) >= goal, "everything was looked at")
                assert "chunks_damaged" in looked()[1], "nobody can mend what is bad everywhere"
                client.delete("rot", "doomed")
                wait_until(lambda: live(world) == held and looked() == ("healthy", []), "it is made good")
                healed_s = time.monotonic() - began_s
                reader.wait_for(20)
            assert reader.failure is None and live(world) == held
            for number, size in enumerate(SIZES):
                assert client.get("rot", f"steady/{number}").read() == content(number, size)
        bad = counts(world, 1)["quarantined"]
        assert "is damaged on this disk; another owner's copy is fetched" in world.place(1).log.read_text()
        wait_until(lambda: noted(world)[-1:] == ["chunks_mended"], "the journal has the end of it")
        assert noted(world)[0] == "chunks_damaged"
        world.restart(1)
        assert live(world) == held
        wait_until(lambda: told(world) == ("healthy", []), "it has compared with the others")
        record_property("chunks found bad and fetched anew", bad)
        record_property("found after, s", round(found_s, 1))
        record_property("healthy after, s", round(healed_s, 1))
        record_property("verdicts meanwhile", sorted(verdicts))


def logged(log: Path, line: str) -> bool:
    return line in log.read_text()


def noted(world: ClusterWorld) -> list[str]:
    """What the second peer wrote of damage into its journal."""
    journal = world.json_of("/v1/cluster/log")["events"]
    return [one["code"] for one in journal if (one["kind"], one["node"]["name"]) == ("damage", "peer-2")]


def scrubbed(world: ClusterWorld, index: int) -> dict[str, int]:
    """What the peer's scrub counts."""
    workers = world.json_of("/v1/cluster/workers")["workers"]
    name = f"peer-{index + 1}"
    mine = (one for one in workers if one["worker"] == "scrub" and one["node"]["name"] == name)
    return next((dict(one["detail"]) for one in mine), {})


def contents(world: ClusterWorld, index: int) -> dict[str, dict[bytes, object]]:
    """Rows of all tables that owners have in common, without what differs from peer to peer: where chunks and inline bytes
    lie."""
    database = world.place(index).directory / "rows" / "atoll.db"
    found: dict[str, dict[bytes, object]] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        rows.text_factory = bytes
        for table in ("rows", "refs", "chunks"):
            found[table] = dict(rows.execute(f"select k, v from {table}"))
        found["side"] = {value[4:]: b"" for (value,) in rows.execute("select v from side")}
    for key, value in found["rows"].items():
        found["rows"][key] = value[5:25] + value[33:]  # type: ignore[index]
    for key, value in found["chunks"].items():
        try:
            found["chunks"][key] = decode_chunk_row(key, value)[0]  # type: ignore[arg-type]
        except Corrupt:
            found["chunks"][key] = None
    return found


DAMAGE = (
    "update {table} set v = cast(substr(v, 1, length(v) - 1) || x'{byte}' as blob)"
    " where k in (select k from {table} order by k {order} limit 3)"
)
ORDERS = {"rows": "asc", "side": "asc", "refs": "desc", "chunks": "asc"}
"""References of other chunks than those whose rows are damaged: a chunk that is made anew brings its references with it."""


def test_rows_that_rot_are_made_good(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Goal: rows of every kind are changed under a running peer, and some of chunks go while it is down: all are as the
    others have them within two passes, the extents that no row names any more are let go, and no read fails."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"], environment=KEEN) as world:
        with world.client() as client:
            client.create_bucket("rot")
            for number, size in enumerate(SIZES):
                client.put("rot", f"steady/{number}", content(number, size))
            wait_until(
                lambda: contents(world, 1) == contents(world, 0) == contents(world, 2), "all is the same"
            )
            database = world.place(1).directory / "rows" / "atoll.db"
            with Reader(client, "rot", list(SIZES), 1) as reader:
                with closing(sqlite3.connect(database, timeout=30)) as rows:
                    for table, order in ORDERS.items():
                        for byte in ("77", "78"):  # one of them is another byte than it was
                            rows.execute(DAMAGE.format(table=table, order=order, byte=byte))
                            rows.commit()
                assert contents(world, 1) != contents(world, 0)
                wait_until(lambda: scrubbed(world, 1).get("bad_rows", 0) >= 6, "scrub finds them")
                wait_until(
                    lambda: contents(world, 1) == contents(world, 0) == contents(world, 2), "made good"
                )
                reader.wait_for(20)
            assert reader.failure is None
            found = scrubbed(world, 1)
            lines = (
                "of refs is damaged on this disk",
                "of chunks is damaged on this disk",
                "is damaged on this disk; it is made good by the other owners",
            )
            for line in lines:
                wait_until(partial(logged, world.place(1).log, line), f"the log has: {line}")
            world.stop(1)
            with closing(sqlite3.connect(database)) as rows, rows:
                rows.execute("delete from chunks where k in (select k from chunks limit 5)")
            world.start(1)
            world.wait_ready(1)
            wait_until(lambda: scrubbed(world, 1).get("strays", 0) >= 5, "the extents are let go")
            wait_until(
                lambda: contents(world, 1) == contents(world, 0) == contents(world, 2), "they are fetched"
            )
            wait_until(lambda: told(world) == ("healthy", []) and len(set(live(world))) == 1, "all is well")
        record_property("found bad", found)


def test_chunks_without_rows_are_taken_over(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Goal: a peer whose rows of chunks and references are gone hashes its segments, names what they hold, gets the
    references from the others, and fetches hardly a byte."""
    with ClusterWorld(tmp_path, options=["--chunk-size", "1MiB"]) as world, world.client() as client:
        client.create_bucket("rows")
        for number, size in enumerate(SIZES):
            client.put("rows", f"steady/{number}", content(number, size))
        wait_until(lambda: len(set(live(world))) == 1, "all copies are made")
        held = live(world)
        world.stop(1)
        with closing(sqlite3.connect(world.place(1).directory / "rows" / "atoll.db")) as rows, rows:
            lost = sum(rows.execute(f"delete from {table}").rowcount for table in ("chunks", "refs"))
        world.start(1)
        world.wait_ready(1)
        wait_until(lambda: live(world) == held and told(world) == ("healthy", []), "it holds what it held")
        wait_until(lambda: references(world, 1) == references(world, 0), "the references are back")
        fetched = world.json_of("/v1/cluster/nodes/self", peer=1)["storage"]["append_bytes"]
        assert fetched < held[1] / 10
        world.kill(0)
        for number, size in enumerate(SIZES):
            assert client.get("rows", f"steady/{number}").read() == content(number, size)
        record_property("rows lost", lost)
        record_property("bytes held", held[1])
        record_property("bytes fetched", fetched)


def references(world: ClusterWorld, index: int) -> int:
    """How many a peer holds."""
    database = world.place(index).directory / "rows" / "atoll.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        return int(rows.execute("select count(*) from refs").fetchone()[0])
