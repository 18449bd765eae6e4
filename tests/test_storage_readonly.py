"""A disk that refuses writes for a while: rows and chunks say so, can be read, and go on after it. The refusals are real.

A file system cannot be remounted read-only while files are open for writing, so the files are made immutable instead: the
kernel refuses to change them, in the same places.
"""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from blake3 import blake3

from peer.buffers import Buffer
from peer.errors import AtollError, ReadOnly, StartupError
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.datadir import DataDir
from peer.storage.gauge import Gauge
from peer.storage.operations import ChunkOptions, Limits
from peer.storage.records import Extent
from peer.storage.sqlite import SqliteRows
from tests.cluster_tools import wait_until
from tools.chaos.ailments import NoAilment, make_read_only, make_writable
from tools.chaos.machines import NoDisk, small_disk

MIB = 1 << 20


def refuse_or_skip(directory: Path) -> None:
    try:
        make_read_only(directory)
    except NoAilment as why:
        pytest.skip(f"files cannot be made immutable here: {why}")


def die(reason: str) -> None:
    raise AssertionError(reason)


def run(path: Path, gauge: Gauge, body: Callable[[SqliteRows], Awaitable[None]]) -> None:
    async def main() -> None:
        rows = SqliteRows(path, asyncio.get_running_loop(), fatal=die, gauge=gauge)
        try:
            await body(rows)
        finally:
            make_writable(path.parent)
            rows.close()

    asyncio.run(main())


async def commit(rows: SqliteRows, key: bytes, value: bytes = b"v" * 1000) -> AtollError | None:
    done = asyncio.get_running_loop().create_future()
    rows.commit([("rows", key, value)], done.set_result)
    async with asyncio.timeout(30):
        return await done  # type: ignore[no-any-return]


def test_rows_on_a_disk_that_refuses_writes(tmp_path: Path) -> None:
    """Goal: commits fail with ReadOnly and change nothing, not in the log either; reads go on; the first commit that goes
    well ends it; the next start finds what was committed and nothing else."""
    directory, gauge = tmp_path / "rows", Gauge()
    directory.mkdir()

    async def body(rows: SqliteRows) -> None:
        assert await commit(rows, b"before") is None
        refuse_or_skip(directory)
        before = rows.sequence
        for number in range(3):
            assert isinstance(await commit(rows, b"refused %d" % number), ReadOnly)
        assert rows.read_only and rows.sequence == before and rows.stats["read_only"] == 3
        assert rows.get("rows", b"before") == b"v" * 1000 and rows.get("rows", b"refused 0") is None
        assert [key for key, _ in rows.scan("rows", b"", b"\xff", 10)] == [b"before"]
        make_writable(directory)
        assert await commit(rows, b"after") is None
        assert not rows.read_only and rows.sequence == before + 1

    run(directory / "atoll.db", gauge, body)

    async def again(rows: SqliteRows) -> None:
        assert [key for key, _ in rows.scan("rows", b"", b"\xff", 10)] == [b"after", b"before"]

    run(directory / "atoll.db", Gauge(), again)


class LateGauge(Gauge):
    """The disk takes writes again just before anybody looks why one was refused."""

    def refuses(self, path: Path) -> bool:
        make_writable(path.parent)
        return super().refuses(path)


def test_the_last_refusal_of_a_disk_that_takes_writes_again(tmp_path: Path) -> None:
    """Goal: a commit that was refused in the moment before the disk came back ends as all before it: the process ended."""
    directory, gauge = tmp_path / "rows", LateGauge()
    directory.mkdir()

    async def body(rows: SqliteRows) -> None:
        assert await commit(rows, b"before") is None
        refuse_or_skip(directory)
        gauge.refused(OSError(errno.EPERM, "Operation not permitted"))  # as somebody else found out before
        assert isinstance(await commit(rows, b"refused"), ReadOnly)
        make_writable(directory)
        assert await commit(rows, b"after") is None
        assert not rows.read_only

    run(directory / "atoll.db", gauge, body)


def test_a_checkpoint_waits_for_the_disk(tmp_path: Path) -> None:
    """Goal: a log that cannot be copied is copied later: nothing ends, nothing is lost."""
    directory, gauge = tmp_path / "rows", Gauge()
    directory.mkdir()

    async def body(rows: SqliteRows) -> None:
        for number in range(50):
            assert await commit(rows, b"%d" % number, bytes(10_000)) is None
        refuse_or_skip(directory)
        rows._checkpointer.start()
        await asyncio.to_thread(rows._checkpointer.wait_idle)
        assert rows.read_only, "the checkpoint met it"
        make_writable(directory)
        assert await commit(rows, b"after") is None

    run(directory / "atoll.db", gauge, body)


# --- chunks


def buffer_of(data: bytes) -> tuple[Buffer, int, bytes]:
    buffer = Buffer(MIB)
    buffer.payload(len(data))[:] = data
    return buffer, len(data), blake3(data).digest()


def open_files(path: Path, gauge: Gauge) -> ChunkFiles:
    limits = Limits(floor=MIB, smallest=2 * MIB, least=2 * MIB)
    files = ChunkFiles(path, options=ChunkOptions(limits=limits, punch_after_s=0.01), fatal=die, gauge=gauge)
    files.open([], lambda *_: None)
    return files


def test_chunks_on_a_disk_that_refuses_writes(tmp_path: Path) -> None:
    """Goal: appends are refused at once with ReadOnly, also those that need a new segment; what is there can be read;
    sealing and punching wait, and are done when the disk takes writes again."""
    directory, gauge = tmp_path / "segments", Gauge()
    files = open_files(directory, gauge)
    try:
        data = [os.urandom(700_000) for _ in range(2)]
        extents = []
        for one in data:
            extents.append(files.append(*buffer_of(one)))
            files.named(extents[-1])
        refuse_or_skip(directory)
        for number in range(4):  # more than fit into the open segment
            with pytest.raises(ReadOnly):
                files.append(*buffer_of(os.urandom(700_000 + number)))
        assert gauge.read_only
        buffer = Buffer(MIB)
        assert files.read(extents[0], blake3(data[0]).digest(), buffer) == 700_000
        files.unnamed(extents[1])
        make_writable(directory)
        gauge.wrote()
        later = [append_again(files) for _ in range(3)]
        for extent in later:
            files.named(extent)
        files.unnamed(extents[0])
        wait_until(lambda: settled(files), "what nothing names has left the disk")
        assert files.stats["live_count"] == 3
    finally:
        make_writable(directory)
        files.close()


def append_again(files: ChunkFiles) -> Extent:
    return files.append(*buffer_of(os.urandom(700_000)))


def settled(files: ChunkFiles) -> bool:
    files.settle()
    return files.stats["dying_count"] == 0


def test_a_close_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """Goal: a peer whose disk refuses writes can be stopped: housekeeping gives up what it waits for."""
    directory, gauge = tmp_path / "segments", Gauge()
    files = open_files(directory, gauge)
    try:
        extents = [append_again(files) for _ in range(4)]
        for extent in extents:
            files.named(extent)
        refuse_or_skip(directory)
        for extent in extents:
            files.unnamed(extent)
        wait_until(lambda: bool(gauge.read_only), "housekeeping has met the refusal")
        files.close()
    finally:
        make_writable(directory)
        files.close()


# --- starts


def test_a_start_on_a_read_only_file_system(tmp_path: Path) -> None:
    """Goal: refused with what is the matter and what to do; the same start works once it is mounted writable."""
    try:
        with small_disk(tmp_path, 256 * MIB) as mounted:
            DataDir.open(mounted / "data").close()
            subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
            with pytest.raises(StartupError, match=r"mounted read-only.*mount it writable"):
                DataDir.open(mounted / "data")
            subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
            DataDir.open(mounted / "data").close()
    except NoDisk as why:
        pytest.skip(f"cannot make a small disk here: {why}")


def test_a_stop_on_a_read_only_disk(tmp_path: Path) -> None:
    """Goal: what a peer would tidy up at its end stays, and that is no error."""
    directory = DataDir.open(tmp_path / "data")
    refuse_or_skip(tmp_path / "data")
    try:
        directory.close()
    finally:
        make_writable(tmp_path / "data")
    DataDir.open(tmp_path / "data").close()
