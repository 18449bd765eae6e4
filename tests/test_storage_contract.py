"""The disk's rows and chunk files keep the contract that the simulator's keep as well."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from peer.buffers import Buffer
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.operations import ChunkOptions, Limits
from peer.storage.records import Extent
from peer.storage.sqlite import SqliteRows
from peer.storage.sqlite_files import SqliteOptions
from tests.storage_contract import CHUNKS_CONTRACT, ROWS_CONTRACT, ChunksBench, RowsBench

KIB = 1024


def unexpected(reason: str) -> None:
    raise AssertionError(reason)


class SqliteBench:
    """A crash is a copy of the files as they are: what SIGKILL leaves. Full is a limit on pages."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generation = 0
        self._loop = asyncio.new_event_loop()
        self.rows = self._open()

    def _open(self) -> SqliteRows:
        path = self._directory / str(self._generation)
        path.mkdir(exist_ok=True)
        return SqliteRows(path / "atoll.db", self._loop, options=SqliteOptions(), fatal=unexpected)

    def settle(self) -> None:
        async def wait() -> None:
            future = asyncio.get_running_loop().create_future()
            self.rows.commit([], lambda _: future.set_result(None))
            await asyncio.wait_for(future, 30)

        self._loop.run_until_complete(wait())

    def reopen(self) -> None:
        self.rows.close()
        self.rows = self._open()

    def crash(self) -> None:
        before = self._directory / str(self._generation)
        self._generation += 1
        shutil.copytree(before, self._directory / str(self._generation))
        self.rows.close()
        self.rows = self._open()

    def fill(self, full: bool) -> None:
        self.settle()
        self.rows._writer.limit_pages(self.rows._writer.pages() + 2 if full else 0)

    def close(self) -> None:
        self.rows.close()
        self._loop.close()


class FilesBench:
    """A crash closes the files as they are: like SIGKILL it seals nothing."""

    OPTIONS = ChunkOptions(
        limits=Limits(floor=0, smallest=256 * KIB, largest=256 * KIB, least=256 * KIB, punch_bytes=64 * KIB)
    )

    def __init__(self, directory: Path, options: ChunkOptions = OPTIONS) -> None:
        self._directory = directory
        self._options = options
        self._buffer = Buffer(256 * KIB)
        self.files = ChunkFiles(directory, options=options, fatal=unexpected)
        self._open((), False)
        for name in ("named", "abandon", "doomed", "unnamed", "pin", "unpin", "stray", "adopt", "adopted"):
            setattr(self, name, lambda *a, _name=name: getattr(self.files, _name)(*a))

    def _open(self, named: Sequence[tuple[bytes, Extent]], adopting: bool) -> list[tuple[bytes, Extent, str]]:
        lost: list[tuple[bytes, Extent, str]] = []
        self.files.open(named, lambda *row: lost.append(row), adopting=adopting)
        return lost

    def append(self, payload: bytes) -> Extent:
        self._buffer.payload(len(payload))[:] = payload
        return self.files.append(self._buffer, len(payload), blake3(payload).digest())

    def read(self, extent: Extent, name: bytes) -> bytes:
        return bytes(self._buffer.payload(self.files.read(extent, name, self._buffer)))

    def settle(self) -> None:
        self.files.settle()

    def segments(self) -> list[int]:
        return self.files.segments()

    def scan(self, segment: int) -> list[tuple[bytes, Extent]]:
        return list(self.files.scan(segment, self._buffer))

    def crash(
        self, named: Sequence[tuple[bytes, Extent]], *, adopting: bool = False
    ) -> list[tuple[bytes, Extent, str]]:
        self.files.close()
        self.files = ChunkFiles(self._directory, options=self._options, fatal=unexpected)
        return self._open(named, adopting)

    def damage(self, extent: Extent, at: int) -> None:
        (path,) = self._directory.glob(f"{extent.segment:08d}.*")
        with path.open("r+b") as file:
            file.seek(extent.offset + at)
            byte = file.read(1)
            file.seek(extent.offset + at)
            file.write(bytes([byte[0] ^ 1]))
            file.flush()
            os.fsync(file.fileno())

    def used_bytes(self) -> int:
        """Sealed segments occupy what holds data; an open one is preallocated: count what was appended."""
        stats = self.files.stats
        sealed = sum(path.stat().st_blocks * 512 for path in self._directory.glob("*.seg"))
        preallocated = int(stats["preallocated_bytes"])
        unsealed = sum(path.stat().st_blocks * 512 for path in self._directory.glob("*.open"))
        return sealed + unsealed - preallocated

    def close(self) -> None:
        self.files.close()


@pytest.fixture
def rows_bench(tmp_path: Path) -> Iterator[SqliteBench]:
    bench = SqliteBench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture(params=["direct", "buffered"])
def chunks_bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FilesBench]:
    options = ChunkOptions(limits=FilesBench.OPTIONS.limits, direct=request.param == "direct")
    bench = FilesBench(tmp_path / "segments", options)
    yield bench
    bench.close()


@pytest.mark.parametrize("check", ROWS_CONTRACT, ids=lambda check: check.__name__)
def test_sqlite_rows(check: Callable[[RowsBench], None], rows_bench: SqliteBench) -> None:
    """SQLite keeps each promise of the rows' contract."""
    check(rows_bench)


@pytest.mark.parametrize("check", CHUNKS_CONTRACT, ids=lambda check: check.__name__)
def test_chunk_files(check: Callable[[ChunksBench], None], chunks_bench: FilesBench) -> None:
    """Segment files keep each promise of the chunks' contract, with and without O_DIRECT."""
    check(chunks_bench)  # type: ignore[arg-type]
