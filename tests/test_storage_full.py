"""Disks without a byte left: what deletions live on, and what may not touch it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peer.errors import AtollError, Full
from peer.storage.ballast import Ballast
from peer.storage.sqlite import SqliteRows
from peer.storage.sqlite_files import SqliteOptions

MIB = 1 << 20


@contextmanager
def small_tmpfs(directory: Path, size: str) -> Iterator[Path]:
    """A file system in memory; skips where mounting is not allowed."""
    mount = directory / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(path: Path) -> None:
    """Write to the file until nothing more fits."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


def leave(mount: Path, free: int) -> None:
    """Fill the file system but for so many bytes."""
    space = os.statvfs(mount)
    with (mount / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - free)


def run(mount: Path, body: Callable[[SqliteRows], Awaitable[None]], **options: Any) -> None:
    """Run `body` with an open database on a loop of its own."""

    async def main() -> None:
        rows = SqliteRows(mount / "atoll.db", asyncio.get_running_loop(), **options)
        try:
            await body(rows)
        finally:
            rows.close()

    asyncio.run(main())


async def committed(rows: SqliteRows, writes: list[Any]) -> AtollError | None:
    future: asyncio.Future[AtollError | None] = asyncio.get_running_loop().create_future()
    rows.commit(writes, future.set_result)
    return await future


def key(number: int) -> bytes:
    return b"%06d" % number


async def shrink(rows: SqliteRows, start: int, count: int) -> list[AtollError | None]:
    """What deletions do to rows: one after the other becomes smaller."""
    return [await committed(rows, [("rows", key(n), b"deleted")]) for n in range(start, start + count)]


async def store(rows: SqliteRows, count: int) -> None:
    for n in range(0, count, 100):
        assert await committed(rows, [("rows", key(n + i), bytes(200)) for i in range(100)]) is None


def test_the_log_begins_anew_when_nothing_more_fits(tmp_path: Path) -> None:
    """On a disk with no byte left deletions go on in the log's own file for as long as they like."""
    with small_tmpfs(tmp_path, "16m") as mount:

        async def body(rows: SqliteRows) -> None:
            await store(rows, 3000)
            leave(mount, 3 * MIB)
            rows.tidy()  # as a peer does every few seconds: the scarcer the room, the shorter the log
            while rows.stats["wal_bytes"]:  # noqa: ASYNC110 (another thread's work; pytest has the deadline)
                await asyncio.sleep(0.01)
            fill(mount / "rest")
            before = rows.stats["checkpoints"]
            assert set(await shrink(rows, 0, 3000)) == {None}  # three or four pages of the log for each
            assert rows.stats["checkpoints"] > before

        options = SqliteOptions(wal_least_bytes=64 << 10)
        run(mount, body, space=Ballast(mount / "ballast", MIB), options=options)


def test_a_copy_of_the_log_without_room_is_not_begun(tmp_path: Path) -> None:
    """The database cannot grow by what the log holds: the log goes on, and nothing is lost."""
    with small_tmpfs(tmp_path, "16m") as mount:

        async def body(rows: SqliteRows) -> None:
            leave(mount, 5 * MIB)
            error = None
            stored = 0
            while error is None:
                error = await committed(rows, [("side", stored + i, bytes(4000)) for i in range(16)])
                stored += 16
            assert isinstance(error, Full)
            size = (mount / "atoll.db").stat().st_size
            for _ in range(5):
                assert isinstance(await committed(rows, [("side", -1, bytes(900_000))]), Full)
            assert (mount / "atoll.db").stat().st_size == size
            assert rows.get("side", stored - 17) == bytes(4000) and rows.get("side", stored - 1) is None

        run(mount, body, space=Ballast(mount / "ballast", MIB))


def test_the_ballast_is_for_deletions(tmp_path: Path) -> None:
    """A full disk: `roomy` says so before the ballast is touched; deletions get it; with space back, so is the ballast."""
    with small_tmpfs(tmp_path, "24m") as mount:
        ballast = Ballast(mount / "ballast", 2 * MIB)
        assert ballast.take()
        (mount / "somebody-elses").write_bytes(bytes(6 * MIB))

        async def body(rows: SqliteRows) -> None:
            number = 0
            while rows.roomy:  # as an owner does: while there is room, it stores
                assert await committed(rows, [("side", number + i, bytes(4000)) for i in range(16)]) is None
                number += 16
            assert ballast.held and ballast.measure() > 0
            fill(mount / "filler")
            before = rows.sequence
            for n in range(number):
                assert await committed(rows, [("side", n, None), ("rows", key(n), b"deleted")]) is None
            assert rows.sequence >= before + number and not rows.roomy
            (mount / "somebody-elses").unlink()
            assert ballast.take()
            assert rows.roomy

        run(mount, body, space=ballast)
