"""How a disk of this peer behaves, as told by those who write to it: slow, read-only, or well (architecture.md §8).

A **slow** disk: commits, syncs and writes of chunks are timed. An operation of SLOW_S or more is slow; once slow ones filled
RISE_S of the last WINDOW_S, those under way included, so does the disk count, until no slow one is left in the window. A
lone hiccup is none of it. What is asked less is written to less, so whoever watches lets a slow disk be tried (`try_out`):
it is to show that it is fast again.

A **read-only** disk: the kernel refused a write before it changed anything (EROFS, and EPERM of files made immutable). That
is no failure of the disk: what was synced is durable, and what is there can be read. It is so until a write goes well again.
A failed *sync* is another matter, and ends the process (`durable`).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peer.durations import DISK_S, Durations
from peer.storage.durable import end_process

log = logging.getLogger(__name__)

SLOW_S = 0.5
WINDOW_S = 10.0
RISE_S = 2.0
KEPT = 256
"""Slow operations remembered: in any window there are fewer, unless so many threads are slow at once."""
TRY_BYTES = 4096
OPERATIONS = ("commit", "fsync", "write")
"""What is timed: a commit of the database, its sync included; a sync of a segment; a write of a chunk to one."""
REFUSES_WRITES = (errno.EROFS, errno.EPERM, errno.EACCES)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Gauge:
    """One disk. Every method may be called from any thread; `now` gives monotonic seconds.

    `place`: what of the data directory lies on it, where that is not all; for people. `took`: how long each kind of
    operation took since the start, for /metrics.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, place: str = "") -> None:
        self._now = now
        self.place = place
        self._lock = threading.Lock()
        self._running: dict[object, tuple[str, float]] = {}  # operation, since when
        self._slow: deque[tuple[str, float, float]] = deque(maxlen=KEPT)  # operation, begun, ended
        self._counts_as_slow = False
        self._read_only = ""
        self.took = {what: Durations(DISK_S) for what in OPERATIONS}

    def __str__(self) -> str:
        return f"the disk of {self.place}" if self.place else "the disk"

    # --- slow

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Time an operation of the disk, in its own thread, while it runs and when it has ended."""
        token, begun_s = object(), self._now()
        self._running[token] = what, begun_s
        try:
            yield
        finally:
            del self._running[token]
            ended_s = self._now()
            with self._lock:
                self.took[what].observe(ended_s - begun_s)
                if ended_s - begun_s >= SLOW_S:
                    self._slow.append((what, begun_s, ended_s))

    def slow(self) -> tuple[str, float] | None:
        """The slowest operation of the window, and how many seconds it took so far, while the disk counts as slow; else
        None. To be asked about once a second."""
        now = self._now()
        with self._lock:
            while self._slow and self._slow[0][2] < now - WINDOW_S:
                self._slow.popleft()
            found = list(self._slow)
        found += [(what, since, now) for what, since in list(self._running.values()) if now - since >= SLOW_S]
        if not found:
            self._counts_as_slow = False
        elif _covered(found, now - WINDOW_S) >= RISE_S:
            self._counts_as_slow = True
        if not self._counts_as_slow:
            return None
        what, begun_s, ended_s = max(found, key=lambda one: one[2] - one[1])
        return what, ended_s - begun_s

    # --- read-only

    @property
    def read_only(self) -> str:
        """Why writes are refused; "" while they are not."""
        return self._read_only

    def refused(self, error: OSError) -> bool:
        """A write ended with this error. Whether that means that the disk takes no writes now and nothing was changed."""
        if error.errno not in REFUSES_WRITES:
            return False
        if not self._read_only:
            log.error("%s takes no writes: %s; this peer serves reads, and waits for it", self, error)
        self._read_only = error.strerror or str(error)
        return True

    def wrote(self) -> None:
        """A write went well."""
        if self._read_only:
            self._read_only = ""
            log.warning("%s takes writes again", self)

    def refuses(self, path: Path) -> bool:
        """Look whether a file can be opened for writing, and new ones made beside it, where a write has just failed for a
        reason that was not told."""
        try:
            _open_for_writing(path)
        except OSError as error:
            return self.refused(error)
        return False

    def try_out(self, path: Path, fatal: Callable[[str], object] = end_process) -> None:
        """Write and sync a little beside this file, which must be writable itself, or in this directory, whose open segments
        must be; blocks as long as the disk takes. Both conclusions follow."""
        is_directory = path.is_dir()
        probe = path / "try.tmp" if is_directory else path.with_name("try.tmp")
        try:
            for file in path.glob("*.open") if is_directory else [path]:
                _open_for_writing(file)
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, bytes(TRY_BYTES), 0)
                self._sync(fd, probe, fatal)
            finally:
                os.close(fd)
                with suppress(OSError):
                    probe.unlink()
        except OSError as error:
            if not self.refused(error) and error.errno not in NO_ROOM:
                log.warning("cannot write to %s: %s", probe, error)
            return
        self.wrote()

    def _sync(self, fd: int, probe: Path, fatal: Callable[[str], object]) -> None:
        try:
            with self.timed("fsync"):
                os.fdatasync(fd)
        except OSError as error:
            fatal(f"fdatasync of {probe} failed: {error}")


def _open_for_writing(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))


def _covered(operations: list[tuple[str, float, float]], since_s: float) -> float:
    """How many seconds since then some operation was under way: those that ran at once count once."""
    covered = 0.0
    for _, begun_s, ended_s in sorted(operations, key=lambda one: one[1]):
        begun_s = max(begun_s, since_s)
        if ended_s > begun_s:
            covered += ended_s - begun_s
            since_s = ended_s
    return covered
