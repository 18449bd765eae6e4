"""A stopped peer's database and segments, only to be read: nothing is sealed, cut, checkpointed or written.

What is damaged is told to `problem` and stepped over, so that the rest is still found.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from peer.buffers import HEADER_BYTES, PAGE_BYTES
from peer.errors import Corrupt, NotFound
from peer.storage.records import Extent, payload_name, record_bytes, unpack_header
from peer.storage.rows import Key
from peer.storage.sqlite_files import GET, SCAN

PAGE_ROWS = 1000
_ENDINGS = ("", "-wal", "-shm")

Problem = Callable[[str], None]


class OfflineRows:
    """The committed rows of a database whose peer does not run, its log included.

    Where SQLite cannot read the log in place (a read-only file system), it reads a copy, which `close` removes.
    """

    def __init__(self, path: Path, problem: Problem = lambda text: None) -> None:
        """Raises NotFound if there is no database, Corrupt if it is none."""
        if not path.exists():
            raise NotFound(f"there is no metadata database {path}")
        self._path = path
        self._problem = problem
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._connection = self._open(path)
        except sqlite3.OperationalError:
            self._copy = tempfile.TemporaryDirectory(prefix="atoll-recover-")
            for ending in _ENDINGS:
                with suppress(FileNotFoundError):
                    shutil.copy(f"{path}{ending}", self._copy.name)
            self._connection = self._open_copy(Path(self._copy.name) / path.name)
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{path} is not a readable database: {error}") from error

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
        connection.text_factory = bytes
        try:
            connection.execute(GET["meta"], (b"",)).fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_copy(self, path: Path) -> sqlite3.Connection:
        try:
            return self._open(path)
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{self._path} is not a readable database: {error}") from error

    def close(self) -> None:
        self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()

    def get(self, table: str, key: Key) -> bytes | None:
        """The value, None if there is none, or if the database is damaged there."""
        try:
            rows = self._connection.execute(GET[table], (key,)).fetchall()
        except sqlite3.DatabaseError as error:
            self._problem(f"{self._path}: {error}")
            return None
        return rows[0][0] if rows else None

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All rows with start <= key < end, in key order; they end early where the database is damaged."""
        while True:
            try:
                page = self._connection.execute(SCAN[table], (start, end, PAGE_ROWS)).fetchall()
            except sqlite3.DatabaseError as error:
                self._problem(f"{self._path}: rows behind {start.hex()} cannot be read: {error}")
                return
            yield from page
            if len(page) < PAGE_ROWS:
                return
            start = page[-1][0] + b"\0"


class OfflineSegments:
    """The segments of a stopped peer."""

    def __init__(self, path: Path, problem: Problem = lambda text: None) -> None:
        self._path = path
        self._problem = problem

    def read(self, extent: Extent, name: bytes) -> bytes:
        """The verified payload. Raises NotFound or Corrupt."""
        for ending in ("seg", "open"):
            try:
                fd = os.open(self._path / f"{extent.segment:08d}.{ending}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                return self._record(fd, extent, name)
            except OSError as error:
                raise Corrupt(f"segment {extent.segment}: {error.strerror}") from error
            finally:
                os.close(fd)
        raise NotFound(f"there is no segment {extent.segment}")

    @staticmethod
    def _record(fd: int, extent: Extent, name: bytes) -> bytes:
        record = os.pread(fd, HEADER_BYTES + extent.length, extent.offset)
        payload = record[HEADER_BYTES:]
        if (
            unpack_header(record[:HEADER_BYTES]) != (name, extent.length)
            or payload_name(memoryview(payload)) != name
        ):
            raise Corrupt(f"{extent} does not hold the chunk")
        return payload

    def scan(self) -> Iterator[tuple[bytes, Extent]]:
        """Every whole record, found by the headers without any row; holes are stepped over, wrong bytes by 4 KiB."""
        if not self._path.is_dir():
            return
        for path in sorted(self._path.iterdir()):
            if path.suffix in (".open", ".seg") and path.stem.isdigit():
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    yield from self._scan_file(fd, int(path.stem), path)
                finally:
                    os.close(fd)

    def _scan_file(self, fd: int, segment: int, path: Path) -> Iterator[tuple[bytes, Extent]]:
        size, offset = os.fstat(fd).st_size, 0
        while offset < size:
            try:
                offset = os.lseek(fd, offset, os.SEEK_DATA) // PAGE_BYTES * PAGE_BYTES
                header = unpack_header(os.pread(fd, HEADER_BYTES, offset))
                step = PAGE_BYTES
                if header is not None and offset + record_bytes(header[1]) <= size + PAGE_BYTES:
                    extent = Extent(segment, offset, header[1])
                    with suppress(Corrupt):
                        self._record(fd, extent, header[0])
                        yield header[0], extent
                        step = extent.record_bytes
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data behind here
                    return
                self._problem(f"{path}: cannot be read at {offset}: {error.strerror}")
                step = PAGE_BYTES
            offset += step
