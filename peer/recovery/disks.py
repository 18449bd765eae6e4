"""One stopped peer's data directory, only to be read."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from peer.errors import AtollError, Corrupt, NotFound
from peer.replication import meta
from peer.replication.chunks.rows import decode_chunk_row
from peer.storage.datadir import DataDir
from peer.storage.offline import OfflineRows, OfflineSegments
from peer.storage.records import Extent
from ring.epoch import Epoch

PROBLEMS_KEPT = 100


class Disk:
    """What one data directory holds. `problems` are sentences about what could not be read."""

    def __init__(self, path: Path) -> None:
        """Raises StartupError if a peer runs on it, NotFound if no peer ever did."""
        if not ((path / "rows").is_dir() or (path / "segments").is_dir()):
            raise NotFound(f"{path} is not a peer's data directory")
        self.path = path
        self.problems: list[str] = []
        self._held = ExitStack()
        self._held.enter_context(DataDir.held(path))
        self.rows: OfflineRows | None = None
        try:
            self.rows = OfflineRows(path / "rows" / "atoll.db", self.problem)
        except (NotFound, Corrupt) as error:
            self.problem(f"{error}; its chunks can be used, its names cannot")
        self.segments = OfflineSegments(path / "segments", self.problem)

    def problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.rows is not None:
            self.rows.close()
        self._held.close()

    def epoch(self) -> Epoch | None:
        """The newest ring this peer knew, if its memory of it is whole."""
        if self.rows is None:
            return None
        try:
            stored = self.rows.get("meta", b"epoch")
            return Epoch.decode(meta.value_of(b"epoch", stored)) if stored is not None else None
        except (AtollError, ValueError) as error:
            self.problem(f"{self.path}: its ring cannot be read: {error}")
            return None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Stored registers in key order."""
        if self.rows is not None:
            yield from self.rows.scan("rows", start, end)

    def chunk(self, key: bytes) -> bytes | None:
        """The verified bytes of a chunk (its row key), where the row says they are; None if that is no use."""
        row = self.rows.get("chunks", key) if self.rows is not None else None
        if row is None:
            return None
        with suppress(AtollError, ValueError):
            return self.segments.read(decode_chunk_row(key, row)[1], key[2:])
        return None


class Strays:
    """Chunks found by the headers of all records on all disks, for those that no row leads to. Built when first asked."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = disks
        self._found: sqlite3.Connection | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="atoll-recover-")

    def close(self) -> None:
        if self._found is not None:
            self._found.close()
        self._folder.cleanup()

    def chunk(self, name: bytes) -> bytes | None:
        """The verified bytes of a chunk, from wherever they lie."""
        if self._found is None:
            self._found = self._scan()
        places = self._found.execute("select disk, extent from found where name = ?", (name,)).fetchall()
        for disk, extent in places:
            with suppress(AtollError):
                data: bytes = self._disks[disk].segments.read(Extent.decode(extent), name)
                return data
        return None

    def _scan(self) -> sqlite3.Connection:
        """On disk, not in memory: there may be many millions."""
        found = sqlite3.connect(Path(self._folder.name) / "found.db")
        found.execute(
            "create table found (name, disk, extent, primary key (name, disk, extent)) without rowid"
        )
        for number, disk in enumerate(self._disks):
            rows = ((name, number, extent.encode()) for name, extent in disk.segments.scan())
            found.executemany("insert or ignore into found values (?, ?, ?)", rows)
        found.commit()
        return found
