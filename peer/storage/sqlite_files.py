"""The three kinds of connection to one database: the writer's, readers', the checkpointer's.

Only `sqlite` and `sqlite_readers` use this module. All SQL of the project is here.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer.errors import Corrupt, StartupError
from peer.storage.durable import sync_directory
from peer.storage.rows import BYTES_TABLES, INT_TABLES, TABLES, Key, Write

FORMAT = 3  # 1: without checksums in `meta` and `commits`; 2: without those in `refs`
APPLICATION_ID = 0x41544F4C  # "ATOL", in the file's header
PAGE_BYTES = 4096

MULTI_ROWS = 64
"""Most rows of one statement. Each size up to this is prepared once, when first needed."""


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """Sizes and limits. A peer runs with the defaults; tests shrink them."""

    synchronous: str = "FULL"  # OFF only for the negative control of the test that watches fsyncs
    cache_bytes: int = 16 << 20  # the writer's page cache: inner pages and the leaves being filled
    reader_cache_bytes: int = 4 << 20  # of each reader; the kernel's cache is behind it
    queue_soft_bytes: int = 8 << 20  # above either of these two: congested
    queue_soft_batches: int = 4096
    queue_hard_bytes: int = 64 << 20  # above either of these two: saturated, commits fail (R8)
    queue_hard_batches: int = 65536
    gather_s: float = 0.001  # how long a busy writer waits for as many batches as its last group had:
    gather_from: int = 4  # so many or more. They share a transaction's own cost; a lone client never waits
    wal_soft_bytes: int = 64 << 20  # a checkpoint begins
    wal_least_bytes: int = 1 << 20  # ... or earlier, down to this, as free space becomes scarce
    wal_rest_bytes: int = 2 << 20  # what the writer itself copies at the end: some milliseconds
    wal_hard_bytes: int = 256 << 20  # the writer waits for the checkpoint: the log's bound


GET = {t: f"select v from {t} where k = ?" for t in TABLES}
SCAN = {t: f"select k, v from {t} where k >= ? and k < ? order by k limit ?" for t in TABLES}
HEADS = {
    t: f"select k, substr(v, 1, ?), length(v) from {t} where k >= ? and k < ? order by k limit ?"
    for t in TABLES
}
LAST = {t: f"select k from {t} order by k desc limit 1" for t in TABLES}


def _put_sql(table: str, n: int) -> str:
    rows = ",".join(["(?,?)"] * n)
    return f"insert into {table}(k, v) values {rows} on conflict(k) do update set v = excluded.v"


def _delete_sql(table: str, n: int) -> str:
    return f"delete from {table} where k in ({','.join('?' * n)})"


_PUT = {t: [_put_sql(t, n) for n in range(1, MULTI_ROWS + 1)] for t in TABLES}
_DELETE = {t: [_delete_sql(t, n) for n in range(1, MULTI_ROWS + 1)] for t in TABLES}


def connect(path: Path, cache_bytes: int, statements: int) -> sqlite3.Connection:
    """A connection without implicit transactions that any thread may use, one at a time."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=statements
    )
    connection.text_factory = bytes  # one flipped bit makes a blob a text: its checksum judges, not UTF-8
    connection.execute(f"pragma cache_size = -{cache_bytes >> 10}")
    return connection


def written(path: Path) -> tuple[Path, Path]:
    """The files that commits and checkpoints write to."""
    return path.with_name(path.name + "-wal"), path


def reader(path: Path, options: SqliteOptions) -> sqlite3.Connection:
    """A read-only connection."""
    connection = connect(path, options.reader_cache_bytes, 64)
    connection.execute("pragma query_only = on")
    return connection


def _crc(sequence: int) -> int:
    """Of the number of a commit, which tells an old copy of the database from the right one (§5): it must not rot."""
    return zlib.crc32(sequence.to_bytes(8, "big", signed=True))


class Writer:
    """The connection of the writer thread: creates the file, writes groups, finishes checkpoints."""

    def __init__(self, path: Path, options: SqliteOptions) -> None:
        self.sequence = 0
        self._path = path
        self.wal_bytes = 0  # estimated size of the log's live part; set right by every checkpoint
        created = not path.exists()
        self._db = connect(path, options.cache_bytes, 2 * MULTI_ROWS * len(TABLES) + 16)
        try:
            self._set_up(path, options, created)
        except BaseException:
            self._db.close()
            raise

    def _set_up(self, path: Path, options: SqliteOptions, created: bool) -> None:
        db = self._db
        db.execute(f"pragma page_size = {PAGE_BYTES}")
        mode = db.execute("pragma journal_mode = wal").fetchone()[0]
        if mode != b"wal":
            raise StartupError(
                f"{path}: this file system cannot hold a write-ahead log (mode {mode.decode()}); give a directory on a local"
                " disk as --data"
            )
        db.execute(f"pragma synchronous = {options.synchronous}")
        db.execute("pragma wal_autocheckpoint = 0")  # the checkpointer's work
        db.execute(f"pragma journal_size_limit = {options.wal_hard_bytes}")
        # Some distributions overwrite freed space with zeros by default: 15 % more time per row here.
        db.execute("pragma secure_delete = off")
        db.execute("pragma temp_store = memory")
        version = db.execute("pragma user_version").fetchone()[0]
        if version == 0 and db.execute("select count(*) from sqlite_master").fetchone()[0] == 0:
            self._create()
            version = FORMAT
        if db.execute("pragma application_id").fetchone()[0] != APPLICATION_ID:
            raise Corrupt(f"{path} is a database, but not one of a peer")
        if version != FORMAT:
            age = "a newer" if version > FORMAT else "an older"
            raise StartupError(
                f"{path} was written by {age} version of Atoll (format {version}, this one reads {FORMAT}): run the peer"
                " with that version, or start a new one on an empty directory"
            )
        found = db.execute("select sequence, crc from commits").fetchall()
        if len(found) != 1 or type(found[0][0]) is not int or found[0][1] != _crc(found[0][0]):
            raise Corrupt(f"the number of the last commit in {path} does not match its checksum")
        self.sequence = found[0][0]
        if created:
            sync_directory(path.parent)

    def _create(self) -> None:
        db = self._db
        db.execute("begin immediate")
        for table in BYTES_TABLES:
            db.execute(f"create table {table}(k blob primary key, v blob not null) without rowid")
        for table in INT_TABLES:
            db.execute(f"create table {table}(k integer primary key, v blob not null)")
        db.execute(
            "create table commits(id integer primary key, sequence integer not null, crc integer not null)"
        )
        db.execute("insert into commits values (0, 0, ?)", (_crc(0),))
        db.execute(f"pragma application_id = {APPLICATION_ID}")
        db.execute(f"pragma user_version = {FORMAT}")
        db.execute("commit")

    def write(self, batches: Iterable[Sequence[Write]]) -> int:
        """Commit the batches as one transaction; the number of rows written.

        Folding to the last write of each key keeps the batches' order where it matters: for one key.
        Raises sqlite3.Error with the transaction open (see `roll_back`).
        """
        folded: dict[str, dict[Key, bytes | None]] = {}
        for batch in batches:
            for table, key, value in batch:
                if table in folded:
                    folded[table][key] = value
                else:
                    folded[table] = {key: value}
        execute = self._db.execute
        execute("begin immediate")
        rows = written = 0
        for table, writes in folded.items():
            puts: list[Key | bytes] = []
            deletes: list[Key] = []
            for item in writes.items():
                if item[1] is None:
                    deletes.append(item[0])
                else:
                    puts += item  # type: ignore[arg-type]
                    written += len(item[1])
            for i in range(0, len(puts), 2 * MULTI_ROWS):
                some = puts[i : i + 2 * MULTI_ROWS]
                execute(_PUT[table][len(some) // 2 - 1], some)
            for i in range(0, len(deletes), MULTI_ROWS):
                gone = deletes[i : i + MULTI_ROWS]
                execute(_DELETE[table][len(gone) - 1], gone)
            rows += len(writes)
        sequence = self.sequence + 1
        execute("update commits set sequence = ?, crc = ? where id = 0", (sequence, _crc(sequence)))
        execute("commit")
        self.sequence += 1
        self.wal_bytes += written + (rows + 2) * PAGE_BYTES
        return rows

    def roll_back(self) -> None:
        """After a failed `write`. SQLite may have rolled back by itself."""
        if self._db.in_transaction:
            self._db.execute("rollback")

    def finish_checkpoint(self) -> None:
        """Copy what the checkpointer left. If all of the log is copied the next write begins it anew."""
        busy, frames, copied = self._db.execute("pragma wal_checkpoint(passive)").fetchone()
        self.wal_bytes = 0 if not busy and frames == copied else frames * PAGE_BYTES

    def limit_pages(self, pages: int) -> None:
        """Let the database grow to so many pages, then be "full"; 0 lifts the limit. For tests."""
        self._db.execute(f"pragma max_page_count = {pages or 0xFFFFFFFE}")

    def growth_bytes(self) -> int:
        """How much the database's file will grow when the log is copied."""
        return max(0, self.pages() * PAGE_BYTES - self._path.stat().st_size)

    def pages(self) -> int:
        """Size of the database in pages."""
        return int(self._db.execute("pragma page_count").fetchone()[0])

    def close(self) -> None:
        self._db.close()


class Checkpointer:
    """A thread that copies the log into the database while the writer goes on.

    One pass copies what was in the log when it began; each pass is shorter than the one before, as less
    was written meanwhile. When little is left `ended` asks the writer to copy the rest between two
    groups: only a log that is copied completely starts again from its beginning.
    """

    def __init__(
        self,
        path: Path,
        options: SqliteOptions,
        wal_bytes: Callable[[], int],
        ended: Callable[[], None],
        failed: Callable[[sqlite3.Error], None],
    ) -> None:
        self._db = connect(path, 1 << 20, 8)
        # The checkpoint syncs as this connection's setting says.
        self._db.execute(f"pragma synchronous = {options.synchronous}")
        self._options = options
        self._wal_bytes = wal_bytes
        self._ended = ended
        self._failed = failed
        self._wake = threading.Condition()
        self._wanted = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="rows-checkpoint", daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Begin a checkpoint unless one runs."""
        if not self._wanted:
            with self._wake:
                self._wanted = True
                self._wake.notify_all()

    def wait_idle(self) -> None:
        """Block until the running checkpoint, if any, has ended."""
        with self._wake:
            while self._wanted and not self._closing:
                self._wake.wait()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._wanted or self._closing):
                    self._wake.wait()
                if self._closing:
                    return
            try:
                self._passes()
            except sqlite3.Error as error:
                self._failed(error)
            with self._wake:
                self._wanted = False
                self._wake.notify_all()
            self._ended()

    def _passes(self) -> None:
        before = self._wal_bytes()
        for _ in range(5):
            _busy, frames, copied = self._db.execute("pragma wal_checkpoint(passive)").fetchone()
            after = self._wal_bytes()
            rest = (frames - copied) * PAGE_BYTES + after - before
            if rest <= self._options.wal_rest_bytes or self._closing:
                return
            before = after
