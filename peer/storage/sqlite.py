"""Rows on SQLite: WAL, `synchronous=FULL`, one writer thread, group commit (architecture.md §9, P2).

The writer thread takes everything queued, folds it to the last write of each key, and commits it in one
transaction with one fsync. Statements insert or delete many rows at a time: `sqlite3` lets go of the
interpreter in every step and, beside a busy event loop, waits up to 5 ms to get it back, so the number
of steps in a group counts for more than the work in them (64 rows one by one: 290 ms beside a spinning
thread; in two statements: 7 ms).

Checkpoints run in a thread of their own, beside the writer, until little is left; the rest is copied by
the writer between two groups, so that the log starts again from its beginning and its size is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer.errors import AtollError, Corrupt, Full, ReadOnly, StartupError, Unavailable
from peer.storage import sqlite_files as files
from peer.storage.ballast import Plenty, Space
from peer.storage.durable import end_process
from peer.storage.gauge import Gauge
from peer.storage.rows import Done, Key, Write
from peer.storage.sqlite_files import SqliteOptions
from peer.storage.sqlite_readers import DAMAGE, KEY_TYPE, Readers, code_of

log = logging.getLogger(__name__)

COPY_MARGIN_BYTES = 1 << 20
"""Left free by a copy of the log, for the log itself to go on in."""
COUNTED = ("groups", "batches", "rows", "full", "read_only", "refused", "checkpoints")
NOT_WRITTEN = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_READONLY)
"""SQLite's words for a write that the kernel refused, among other things. Like SQLITE_FULL they come from a write, before
the commit record is whole and before any sync."""


@dataclass(slots=True)
class _Batch:
    writes: Sequence[Write]
    done: Done


class SqliteRows:
    """The `Rows` of a real peer. One instance owns the database."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        *,
        options: SqliteOptions | None = None,
        fatal: Callable[[str], object] = end_process,
        space: Space | None = None,
        damaged: Callable[[str], object] = lambda reason: None,
        gauge: Gauge | None = None,
    ) -> None:
        """Open or create the database at `path`, on the loop's thread. Blocks for milliseconds: no scan.

        `space` is measured after every group, and asked to make room (to give up the ballast) when one finds none.
        `gauge` is told how long commits take, and whether the disk takes them.
        `fatal` does not return in a real peer. `damaged` is told, on any thread and perhaps often, that the file's structure
        turned out to be wrong; a commit that finds it so never ends.
        Raises `Corrupt` when the file is not a database of a peer, `StartupError` when it cannot be opened, or has
        another format.
        """
        self._path = path
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._options = options or SqliteOptions()
        self._fatal = fatal
        self._damaged = damaged
        self._space = space or Plenty()
        self._gauge = gauge or Gauge()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # the writer thread waits on it
        self._queue: list[_Batch] = []
        self._queued_bytes = 0
        self._refused: list[_Batch] = []  # beyond the bound: they fail once all before them were told (R8)
        self._last_group = 0  # batches
        self._stalled = False  # a failure is on its way to the loop; nothing commits before it is told (R5)
        self._finish_checkpoint = False
        self._tidy = False  # somebody asked to look at the log
        self._closing = False
        self._dead = False
        self._completed: deque[tuple[list[_Batch], int, AtollError | None]] = deque()
        self._readers = Readers(path, self._options, damaged)
        self._counts = dict.fromkeys(COUNTED, 0)
        self._writer = _open_writer(path, self._options)
        self._sequence = self._writer.sequence
        self._checkpointer = files.Checkpointer(
            path,
            self._options,
            lambda: self._writer.wal_bytes,
            self._checkpoint_ended,
            self._checkpoint_failed,
        )
        self._thread = threading.Thread(target=self._run, name="rows-writer", daemon=True)
        self._thread.start()

    # --- reading ---

    def get(self, table: str, key: Key) -> bytes | None:
        return self._readers.get(table, key)

    def scan(self, table: str, start: Key, end: Key, limit: int) -> list[tuple[Key, bytes]]:
        return self._readers.scan(table, start, end, limit)

    def heads(
        self, table: str, start: Key, end: Key, limit: int, head_bytes: int
    ) -> list[tuple[Key, bytes, int]]:
        return self._readers.heads(table, start, end, limit, head_bytes)

    def last(self, table: str) -> Key | None:
        return self._readers.last(table)

    # --- writing ---

    @property
    def sequence(self) -> int:
        return self._sequence

    @property
    def roomy(self) -> bool:
        return self._space.roomy

    @property
    def read_only(self) -> bool:
        return bool(self._gauge.read_only)

    @property
    def congested(self) -> bool:
        options = self._options
        return self._queued_bytes > options.queue_soft_bytes or len(self._queue) > options.queue_soft_batches

    @property
    def saturated(self) -> bool:
        options = self._options
        return (
            self._queued_bytes > options.queue_hard_bytes
            or len(self._queue) >= options.queue_hard_batches
            or bool(self._refused)
        )

    @property
    def dead(self) -> bool:
        """Nothing is committed any more."""
        return self._dead

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the start, and what is queued now."""
        return {
            **self._counts,
            "queued_batches": len(self._queue),
            "queued_bytes": self._queued_bytes,
            "wal_bytes": self._writer.wal_bytes,
        }

    def commit(self, writes: Sequence[Write], done: Done) -> None:
        size = _size(writes)
        with self._lock:
            if self.saturated and not self._closing:  # the writer comes by, as much is queued
                self._refused.append(_Batch((), done))
                self._counts["refused"] += 1
            else:
                self._enqueue(_Batch(writes, done), size)

    def tidy(self) -> None:
        """Look at the log as after a commit: while the disk fills up a quiet peer should copy its log in time."""
        with self._lock:
            self._tidy = True
            self._work.notify()

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._work.notify()
        on_loop = threading.get_ident() == self._loop_thread
        while on_loop and self._thread.is_alive():
            self._thread.join(0.05)
            self._deliver()  # a stalled writer waits until its failure is told here
        self._thread.join()
        self._checkpointer.close()
        self._readers.close()
        self._writer.close()
        if on_loop:
            self._deliver()

    def _enqueue(self, batch: _Batch, size: int) -> None:
        """The lock is held."""
        if self._closing or self._dead:
            raise Unavailable("this peer is shutting down")
        self._queue.append(batch)
        self._queued_bytes += size
        if len(self._queue) == 1:
            self._work.notify()

    def _empty_queue(self) -> list[_Batch]:
        """The lock is held."""
        group, self._queue = self._queue, []
        self._queued_bytes = 0
        return group

    def _empty_refused(self) -> list[_Batch]:
        """The lock is held."""
        refused, self._refused = self._refused, []
        return refused

    # --- on the loop thread ---

    def _deliver(self) -> None:
        """Tell the callers, in commit order."""
        while self._completed:
            group, sequence, error = self._completed.popleft()
            if error is None:
                self._sequence = sequence
            else:
                with self._lock:  # R5: what was queued meanwhile may have been computed from what failed
                    group = group + self._empty_queue() + self._empty_refused()
                    self._stalled = False
                    self._work.notify()
            for batch in group:
                try:
                    batch.done(error)
                except Exception as failure:  # noqa: BLE001 (as in asyncio: one must not stop the others)
                    context = {"message": "a commit's callback failed", "exception": failure}
                    self._loop.call_exception_handler(context)

    # --- on the writer thread ---

    def _run(self) -> None:
        try:
            while (group := self._take()) is not None and not self._dead:
                if group:
                    self._commit(group)
                self._mind_the_log()
        except Exception as error:  # noqa: BLE001 (without its writer a peer must not look alive)
            self._die(f"the writer of {self._path} failed: {error!r}")

    def _take(self) -> list[_Batch] | None:
        """Everything queued; nothing when only the log waits to be looked at; None when closed and drained."""
        with self._lock:
            while self._stalled or not (
                self._queue or self._refused or self._finish_checkpoint or self._tidy or self._closing
            ):
                self._work.wait()
            self._tidy = False
            if self._refused and not self._queue:
                self._ended(self._empty_refused(), Unavailable("too many writes wait for this peer's disk"))
                return []
            if not self._queue:
                return None if self._closing else []
            gather = self._options.gather_from <= self._last_group and len(self._queue) < self._last_group
        if gather:  # a fast disk would commit every few batches by themselves, at 10 to 20 % more CPU a row
            time.sleep(self._options.gather_s)
        with self._lock:
            group = self._empty_queue()
        self._last_group = len(group)
        return group

    def _commit(self, group: list[_Batch]) -> None:
        error = self._attempt(group)
        if isinstance(error, Full) and self._space.release():
            error = self._attempt(group)
        if isinstance(error, Full) and self._restart_log():
            error = self._attempt(group)
        if self._dead:
            return
        if error is None:
            self._gauge.wrote()
            self._counts["groups"] += 1
            self._counts["batches"] += len(group)
        else:
            self._counts["read_only" if isinstance(error, ReadOnly) else "full"] += 1
        self._ended(group, error)

    def _ended(self, group: list[_Batch], error: AtollError | None) -> None:
        """Have the callers told on the loop; after a failure nothing commits before that (R5)."""
        self._stalled = error is not None
        self._completed.append((group, self._writer.sequence, error))
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody listens, and close() comes next
            log.warning("%d commits ended after their event loop was closed", len(group))
            self._stalled = False

    def _attempt(self, group: list[_Batch]) -> Full | ReadOnly | None:
        """Commit the group, or roll it back and say why."""
        try:
            with self._gauge.timed("commit"):
                self._counts["rows"] += self._writer.write([batch.writes for batch in group])
        except sqlite3.Error as error:
            # Only a plain SQLITE_FULL, or a refused write, is sure to have left no commit record in the log.
            if code_of(error) == sqlite3.SQLITE_FULL:
                self._writer.roll_back()
                return Full(f"the disk of {self._path.parent} is full: nothing was changed")
            if self._refuses_writes(error):
                self._writer.roll_back()
                return ReadOnly(f"the disk of {self._path.parent} is read-only: nothing was changed")
            self._fail(f"commit to {self._path} failed: {error}", error)
        return None

    def _refuses_writes(self, error: sqlite3.Error) -> bool:
        """Whether this came of a disk that takes no writes, or took none until just now: SQLite does not tell which error it
        met, and by the time we look the disk may be well again."""
        if code_of(error) not in NOT_WRITTEN:
            return False
        return bool(self._gauge.read_only) or any(map(self._gauge.refuses, files.written(self._path)))

    def _restart_log(self) -> bool:
        """Copy all of the log, so that it begins anew and the next commits lie within its file; False if that fails."""
        self._checkpointer.wait_idle()
        if self._writer.wal_bytes and self._can_copy_log(self._space.measure()):
            self._finish()
        return self._writer.wal_bytes == 0

    def _can_copy_log(self, free_bytes: int) -> bool:
        """Whether the database has room to grow by what the log adds: half a copy would cost room and gain none."""
        growth = self._writer.growth_bytes()
        return growth == 0 or growth + COPY_MARGIN_BYTES <= free_bytes

    def _finish(self) -> None:
        try:
            self._writer.finish_checkpoint()
        except sqlite3.Error as error:
            self._checkpoint_failed(error)
        self._counts["checkpoints"] += 1

    def _mind_the_log(self) -> None:
        """Start a checkpoint of a long log, finish one that is nearly done, wait when it is too long.

        The less room there is the shorter the log: once it is copied, deletions need no more of it on a full disk.
        """
        if self._gauge.read_only:
            return
        wal_bytes, free_bytes = self._writer.wal_bytes, self._space.measure()
        soft_bytes = min(self._options.wal_soft_bytes, max(free_bytes // 4, self._options.wal_least_bytes))
        if wal_bytes > min(soft_bytes, self._options.wal_hard_bytes) and not self._can_copy_log(free_bytes):
            self._finish_checkpoint = False
            return
        if wal_bytes > self._options.wal_hard_bytes:
            self._checkpointer.wait_idle()
            self._finish_checkpoint = True
        if self._finish_checkpoint:
            self._finish_checkpoint = False
            self._finish()
        elif wal_bytes > soft_bytes:
            self._checkpointer.start()

    # --- on the checkpointer's thread ---

    def _checkpoint_ended(self) -> None:
        with self._lock:
            self._finish_checkpoint = True
            self._work.notify()

    def _checkpoint_failed(self, error: sqlite3.Error) -> None:
        """A disk that is full, or takes no writes, only postpones a checkpoint: the log keeps everything. Anything else is
        fatal."""
        if code_of(error) == sqlite3.SQLITE_FULL:
            log.warning("the disk is full: the checkpoint of %s waits", self._path)
        elif self._refuses_writes(error):
            log.warning("the disk is read-only: the checkpoint of %s waits", self._path)
        else:
            self._fail(f"checkpoint of {self._path} failed: {error}", error)

    def _fail(self, reason: str, error: sqlite3.Error) -> None:
        """Nothing commits any more. Of a damaged file a peer comes back from; after an I/O error only a restart can tell."""
        if code_of(error) & 0xFF in DAMAGE:
            self._dead = True
            self._damaged(reason)
        else:
            self._die(reason)

    def _die(self, reason: str) -> None:
        self._dead = True
        self._fatal(reason)


def _open_writer(path: Path, options: SqliteOptions) -> files.Writer:
    try:
        return files.Writer(path, options)
    except sqlite3.DatabaseError as error:
        if code_of(error) & 0xFF in DAMAGE:
            raise Corrupt(f"{path} is not a readable database: {error}") from error
        raise StartupError(
            f"cannot open {path}: {error}; look whether this user may write there, and at the disk's room and health"
        ) from error


def _size(writes: Sequence[Write]) -> int:
    """Bytes to account for the batch. Raises for what would fail in the writer thread."""
    size = 0
    for table, key, value in writes:
        if type(key) is not KEY_TYPE[table]:
            raise TypeError(f"a key of {table} is {KEY_TYPE[table].__name__}, not {type(key).__name__}")
        size += 64 if value is None else 64 + len(value)
    return size
