"""What a peer that comes back does to its directory: its database is exchanged where it lies, a crash at any step does no
harm, and it is what it was in the ring."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peer import returning
from peer.config import PEER_FILE, PeerConfig
from peer.replication import meta
from peer.returning import MEMBER_KEY, Forgot, Return, come_back, look, note_cluster
from peer.storage.datadir import DataDir
from peer.storage.sqlite import SqliteRows
from ring.epoch import Epoch
from ring.members import Member
from tests.replication_world import member, ring_of

FORMER, NEW = "f" * 16, "0" * 15 + "9"
RING = ring_of(member(1), member(2), member(9))


async def keep(place: Path, who: str) -> None:
    """A database that says who it is, in its log alone, as after a kill."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.parent / "scratch"
    scratch.mkdir()
    rows = SqliteRows(scratch / place.name, asyncio.get_running_loop())
    try:
        done = asyncio.get_running_loop().create_future()
        rows.commit([meta.write(MEMBER_KEY, who.encode())], done.set_result)
        assert await done is None
        for file in scratch.iterdir():
            shutil.copy(file, place.parent / file.name)
    finally:
        rows.close()
    shutil.rmtree(scratch)


def who_is(place: Path, scratch: Path) -> str:
    """Whose database lies there; a copy of it is read."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in place.parent.glob(f"{place.name}*"):
        shutil.copy(file, scratch / file.name)
    with closing(sqlite3.connect(scratch / place.name)) as rows:
        found = rows.execute("select v from meta where k = ?", (MEMBER_KEY,)).fetchone()
    return FORMER if FORMER.encode() in bytes(found[0]) else NEW if NEW.encode() in bytes(found[0]) else ""


def exchange(directory: DataDir) -> None:
    asyncio.run(returning._exchange(directory, Return(NEW, FORMER), RING))


def settled(directory: DataDir, scratch: Path) -> None:
    """The new one's database is in place, the former one's aside, nothing else but perhaps an empty directory."""
    assert who_is(directory.rows_path, scratch) == NEW
    assert who_is(directory.lost_path / "rows" / directory.rows_path.name, scratch) == FORMER
    there = [path for path in directory.rows_path.parent.iterdir() if path.is_file() or any(path.iterdir())]
    assert {path.name for path in there} == {directory.rows_path.name, directory.lost_path.name}


def test_rows_on_a_disk_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: `rows` is a mount point, or leads to another disk: it stays what it is, and the databases change in it."""
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").symlink_to(disk)
    directory = DataDir.open(tmp_path / "data")
    asyncio.run(keep(directory.rows_path, FORMER))
    whole = Path.rename

    def rename(path: Path, target: Path) -> Path:
        assert path.resolve() != disk and disk in target.resolve().parents, f"{path} leaves its disk"
        return whole(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    exchange(directory)
    assert (tmp_path / "data" / "rows").is_symlink() and (disk / "lost+found").is_dir()
    settled(directory, tmp_path / "scratch")
    directory.close()


class _Crash(Exception):
    pass


class Steps:
    """Names change in steps; the process dies before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
        self.left = last
        for thing, name in ((Path, "rename"), (Path, "unlink"), (returning, "sync_directory")):
            monkeypatch.setattr(thing, name, self._counted(getattr(thing, name)))

    def _counted(self, change: Any) -> Any:
        def counted(*args: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise _Crash
            return change(*args, **more)

        return counted


@pytest.mark.parametrize("earlier", [False, True])
def test_a_crash_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    """Goal: whatever step the process dies at, its next start finds the former database with its log, the new one, or none;
    and begun again the exchange ends as if nothing had been. `earlier`: what was put aside in an earlier loss stays."""
    finished = False
    for last in range(40):
        directory = DataDir.open(tmp_path / str(last))
        directory.write_json(PEER_FILE, {"id": FORMER})
        if earlier:
            asyncio.run(keep(directory.lost_path / "rows" / directory.rows_path.name, FORMER))
        asyncio.run(keep(directory.rows_path, FORMER))
        with monkeypatch.context() as patched:
            Steps(patched, last)
            try:
                exchange(directory)
                finished = True
            except _Crash:
                pass
        if not finished:
            try:
                look(directory)
                assert who_is(directory.rows_path, tmp_path / "scratch") in (FORMER, NEW)
            except Forgot:
                assert not directory.rows_path.exists()
            if not directory.rows_path.exists() or who_is(directory.rows_path, tmp_path / "scratch") != NEW:
                exchange(directory)
        settled(directory, tmp_path / "scratch")
        directory.close()
        if finished:
            break
    assert finished and last > 5


def test_it_is_what_the_ring_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: `atoll node set` gave a peer a zone and a capacity. It is removed while it is away: the ring has forgotten them,
    its directory has not, and it asks to be admitted with them."""
    directory = DataDir.open(tmp_path / "data")
    directory.write_json(PEER_FILE, {"id": FORMER})
    former = replace(member(3), id=FORMER, zone="attic", weight=123 << 30)
    note_cluster(directory, FORMER, ring_of(member(1), member(2), former))
    note_cluster(directory, "", ring_of(member(1), member(2)))  # the ring that it finds itself left out of
    asked: list[Member] = []

    async def join(config: PeerConfig, wanted: Member, peers: Any, former: str) -> Epoch:
        asked.append(wanted)
        return ring_of(member(1), member(2), wanted)

    monkeypatch.setattr(returning, "join", join)
    config = PeerConfig(data=directory.path, zone="cellar")
    asyncio.run(come_back(config, directory, bytes(32), Forgot("away")))
    assert [(one.zone, one.weight) for one in asked] == [("attic", 123 << 30)]
    directory.close()
