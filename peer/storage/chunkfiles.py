"""Chunks in segment files: the threads and system calls that execute `segments` (architecture.md §9).

An append costs a handful of Python calls: header, one pwrite (O_DIRECT where possible), and an fdatasync
shared with whoever else wrote meanwhile. All calls here block and let go of the interpreter while they
do; the event loop uses threads. One housekeeping thread creates, seals, punches and removes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from peer.buffers import Buffer
from peer.errors import AtollError, Full, ReadOnly, StartupError, Unavailable
from peer.storage.chores import Chores
from peer.storage.chunkreads import ChunkReads
from peer.storage.durable import end_process
from peer.storage.gauge import Gauge
from peer.storage.operations import ChunkOptions, Create, OpenReport, Operation
from peer.storage.records import Extent, lay_out
from peer.storage.segmentdir import SegmentDir
from peer.storage.segments import Segments

log = logging.getLogger(__name__)

_COUNTERS = ("appends", "append_bytes", "syncs", "reads", "read_bytes", "corrupt", "punched_bytes")
REFUSED_AGAIN_S = 1.0
"""How long housekeeping waits before it tries again on a disk that takes no writes."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ChunkFiles:
    """The chunk store of one peer, in one directory. Every method may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        options: ChunkOptions | None = None,
        fatal: Callable[[str], object] = end_process,
        gauge: Gauge | None = None,
    ) -> None:
        """`gauge` is told how long writes and syncs take, and whether the disk takes them."""
        self._options = options or ChunkOptions()
        self._fatal = fatal
        self._gauge = gauge or Gauge()
        self._files = SegmentDir(
            directory,
            direct=self._options.direct,
            open_files=self._options.open_files,
            sync_names=self._options.sync_directory,
        )
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # a segment was created, or could not be
        self._synced = threading.Condition(self._lock)
        self._chores = threading.Condition(self._lock)  # the housekeeping thread waits on it
        self._machine = Segments(self._options.limits)
        self._space_known_at = float("-inf")
        self._refused = (
            float("-inf"),
            "",
            0,
        )  # when a chunk was last refused for want of room, why, and what was free
        self._busy = False  # the housekeeping thread executes operations
        self._patient = False  # it waits for a batch of punches to fill, and will look by itself
        self._flush = 0  # flushes asked for
        self._closing = False
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._thread: threading.Thread | None = None
        self._do = Chores(self._files, self._machine, self._gauge, self._counts).do
        reads = ChunkReads(self._files, self.pin, self.unpin, self._counts)
        self.read, self.read_cached = reads.read, reads.read_cached

    # --- start and end ---

    def open(
        self,
        named: Iterable[tuple[bytes, Extent]],
        on_lost: Callable[[bytes, Extent, str], None],
        *,
        adopting: bool = False,
    ) -> OpenReport:
        """Compare files and rows before the first answer. Blocks; reads no chunk.

        `named` yields every (chunk name, extent) that a row names; `on_lost` hears of each whose segment
        is missing or ends before it. `adopting` is for a peer whose rows are gone: nothing is reclaimed
        in a segment before `adopted` is called for it. Unsealed segments are cut after the last byte
        written and sealed. Raises StartupError when the file system lacks what segments need.
        """
        try:
            self._files.probe()
            found, truncated = self._files.recover()
        except OSError as error:
            raise StartupError(
                f"cannot open the segments in {self._files.path}: {error}; look at the disk, and whether this user may read"
                " and write there"
            ) from error
        machine = self._machine
        for segment, end in found:
            machine.found(segment, end, adopting=adopting)
        count = lost = 0
        for name, extent in named:
            why = machine.found_named(extent)
            if why is None:
                count += 1
            else:
                lost += 1
                on_lost(name, extent, why)
        machine.space(self._files.free_bytes())
        self._thread = threading.Thread(target=self._housekeep, name="chunk-housekeeping", daemon=True)
        self._thread.start()
        return OpenReport(len(found), count, lost, truncated, self._files.direct)

    def close(self) -> None:
        """End the housekeeping thread and close the files. No call may be under way. Idempotent."""
        with self._lock:
            self._closing = True
            self._chores.notify_all()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._files.close()

    # --- appending ---

    def append(self, buffer: Buffer, length: int, name: bytes) -> Extent:
        """Write the payload in `buffer` as a record; returns once an fdatasync covers it.

        Overwrites the buffer's header and padding. `name` must be the payload's BLAKE3 (whoever received
        the bytes has checked it). Next the caller commits the row and calls `named`, or `abandon`.
        Raises Full (no room, or below the floor), ReadOnly, or Unavailable (the write failed); nothing is kept then.
        """
        extent, fd = self._write(buffer, length, name)
        with self._lock:
            self._machine.written(extent)
        self._sync(extent, fd)
        return extent

    def append_many(self, items: Sequence[tuple[Buffer, int, bytes]]) -> list[Extent | AtollError]:
        """As `append` for each (buffer, length, name), under as few syncs as their segments allow.

        What would be raised for one stands in its place in the list.
        """
        results: list[Extent | AtollError] = []
        written: list[tuple[Extent, int]] = []
        for buffer, length, name in items:
            try:
                extent, fd = self._write(buffer, length, name)
            except AtollError as error:
                results.append(error)
                continue
            written.append((extent, fd))
            results.append(extent)
        with self._lock:
            for extent, _ in written:
                self._machine.written(extent)
        for extent, fd in written:
            self._sync(extent, fd)
        return results

    def _write(self, buffer: Buffer, length: int, name: bytes) -> tuple[Extent, int]:
        """One record into the page cache or the disk's queue; the extent and its file."""
        record = lay_out(buffer.record, name, length)
        try:
            extent = self._allocate(length)
        except Full as error:
            with self._lock:
                self._refused = time.monotonic(), str(error), self._machine.stats.free_bytes
            raise
        try:
            fd = self._files.writable(extent.segment)
            with self._gauge.timed("write"):
                wrote = os.pwrite(fd, record, extent.offset)
        except OSError as error:
            raise self._write_failed(extent, error) from error
        if wrote != len(record):
            raise self._write_failed(extent, OSError(errno.ENOSPC, f"short write of {wrote} bytes"))
        return extent, fd

    def _allocate(self, length: int) -> Extent:
        machine = self._machine
        with self._lock:
            now = time.monotonic()
            if now - self._space_known_at > self._options.space_every_s:
                self._space_known_at = now
                machine.space(self._files.free_bytes())
            failures = machine.create_failures
            while not self._closing:
                if self._gauge.read_only:
                    raise self._read_only()
                extent = machine.allocate(length)
                if machine.has_chores:
                    self._chores.notify_all()
                if extent is not None:
                    return extent
                self._changed.wait()
                if machine.create_failures != failures and not self._gauge.read_only:
                    # One try each: the disk may stay as it is for long.
                    raise Full(f"{self._files.path} has no room for another segment")
            raise Unavailable("this peer is shutting down")

    def _write_failed(self, extent: Extent, error: OSError) -> AtollError:
        with self._lock:
            self._machine.failed(extent)
            self._space_known_at = float("-inf")
            self._chores.notify_all()
        log.warning("writing a chunk to segment %d failed: %s", extent.segment, error)
        if self._gauge.refused(error):
            return self._read_only()
        if error.errno in _NO_ROOM:
            return Full(f"the disk of {self._files.path} is full: {error}")
        return Unavailable(f"writing a chunk to {self._files.path} failed: {error}")

    def _read_only(self) -> ReadOnly:
        return ReadOnly(f"the disk of {self._files.path} is read-only ({self._gauge.read_only})")

    def _sync(self, extent: Extent, fd: int) -> None:
        """Return once the extent, whose write returned, is durable, by a sync of this thread or of another (S3)."""
        machine = self._machine
        with self._lock:
            while True:
                if machine.is_synced(extent):
                    self._counts["appends"] += 1
                    self._counts["append_bytes"] += extent.record_bytes
                    return
                sync = machine.begin_sync(extent.segment)
                if sync is not None:
                    break
                self._synced.wait()
        # This write returned before begin_sync, so one sync of our own always suffices.
        if self._options.sync_data:
            self._fdatasync(fd, extent.segment)
        with self._lock:
            machine.synced(sync)
            self._counts["syncs"] += 1
            self._counts["appends"] += 1
            self._counts["append_bytes"] += extent.record_bytes
            self._synced.notify_all()
            if machine.has_chores:
                self._chores.notify_all()

    def _fdatasync(self, fd: int, segment: int) -> None:
        try:
            with self._gauge.timed("fsync"):
                os.fdatasync(fd)
        except OSError as error:
            self._fatal(f"fdatasync of segment {segment} failed: {error}")
            raise Unavailable(f"fdatasync failed: {error}") from error  # only where fatal returns: in tests

    # --- the extent's later life; see `segments` ---

    def named(self, extent: Extent) -> None:
        """The row that names the extent is durable."""
        with self._lock:
            self._machine.named(extent)

    def abandon(self, extent: Extent) -> None:
        """No row will name the extent that `append` returned."""
        with self._lock:
            self._machine.abandon(extent)
            self._chores.notify_all()

    def doomed(self, extent: Extent) -> None:
        """The row is durably marked doomed."""
        with self._lock:
            self._machine.doomed(extent)

    def unnamed(self, extent: Extent) -> None:
        """The row's removal (or its move to another extent) is durable: punch when no reader is left."""
        with self._lock:
            self._machine.unnamed(extent)
            if not self._patient or self._machine.punch_due:
                self._chores.notify_all()

    def pin(self, extent: Extent) -> bool:
        """Keep the bytes until `unpin`. False: they are gone or going, read the row again."""
        with self._lock:
            return self._machine.pin(extent)

    def unpin(self, extent: Extent) -> None:
        with self._lock:
            if self._machine.unpin(extent):
                self._chores.notify_all()

    def adopt(self, extent: Extent) -> None:
        """A row for a record found by `scan` in an earlier start's segment is durable."""
        with self._lock:
            self._machine.adopt(extent)

    def adopted(self, segment: int) -> None:
        """All of the segment that shall live has durable rows: from now scrub may reclaim the rest."""
        with self._lock:
            self._machine.adopted(segment)
            self._chores.notify_all()

    def stray(self, extent: Extent) -> bool:
        """Scrub found bytes that no row names. True if they will be punched, False if not yet allowed."""
        with self._lock:
            accepted = self._machine.stray(extent)
            self._chores.notify_all()
            return accepted

    # --- reading ---

    def segments(self) -> list[int]:
        """Ids of sealed segments of earlier starts, for scrub and adoption."""
        with self._lock:
            return sorted(s.id for s in self._machine.all.values() if s.earlier)

    def waste(self) -> dict[int, int]:
        """Of each sealed segment of an earlier start, the bytes it holds beyond what rows name and what is being let go."""
        with self._lock:
            known = {
                s.id: s.live_bytes + s.dying_bytes
                for s in self._machine.all.values()
                if s.earlier and s.adopted and not s.punching
            }
        return {segment: self._files.allocated(segment) - size for segment, size in known.items()}

    def scan(self, segment: int, buffer: Buffer) -> Iterator[tuple[bytes, Extent]]:
        """Every record of a sealed segment whose bytes have the hash in its header, found without rows.

        Steps over a record only if its hash agrees, else by 4 KiB. Reads with O_DIRECT where possible,
        into `buffer`, which the caller may use between two steps. Raises OSError.
        """
        return self._files.scan(segment, buffer)

    # --- housekeeping ---

    def settle(self) -> None:
        """Block until everything that can be sealed, punched and removed now has been."""
        with self._lock:
            self._flush += 1
            self._chores.notify_all()
            while (self._flush or self._busy) and not self._closing:
                self._changed.wait()

    def _housekeep(self) -> None:
        try:
            while True:
                with self._lock:
                    operations = self._next_operations()
                if operations is None:
                    return
                for operation in operations:
                    self._execute(operation)
        except Exception as error:  # noqa: BLE001 (without this thread appends would wait for ever)
            self._fatal(f"housekeeping of {self._files.path} failed: {error!r}")

    def _next_operations(self) -> list[Operation] | None:
        """Wait for something to do; None when closing. The lock is held."""
        machine = self._machine
        self._busy = False
        waited = False
        while True:
            if self._closing:
                return None
            operations = machine.operations(flush=waited or self._flush > 0)
            if operations:
                self._busy = True
                return operations
            if self._flush:
                self._flush = 0
                self._changed.notify_all()
            self._patient = machine.has_dying and not waited
            waited = not self._chores.wait(self._options.punch_after_s if self._patient else None)
            self._patient = False

    def _execute(self, operation: Operation) -> None:
        """Do it and tell the machine; should the disk take no writes, as soon as it does, or never if this is closed."""
        while True:
            try:
                ended = self._do(operation)
            except OSError as error:
                self._fatal(f"{operation} failed: {error}")
                return
            with self._lock:
                if ended is not None:
                    ended()
                    if isinstance(operation, Create):  # it took more than a second's worth of appends may
                        self._space_known_at = float("-inf")
                self._changed.notify_all()  # those who wait for a segment look whether the disk takes writes
                if ended is not None or self._closing:
                    return
                self._chores.wait(REFUSED_AGAIN_S)

    @property
    def stats(self) -> dict[str, int | bool]:
        """Counters since the start; segments, live and dying bytes, free space and the floor now."""
        with self._lock:
            return {**self._counts, **asdict(self._machine.stats)}

    @property
    def full(self) -> str | None:
        """Why new chunks are refused now, were a moment ago, or would be for lack of a new segment; said in gossip.

        None: they are not. Refreshes what is known of the file system; one that does not tell takes nothing.
        """
        try:
            free_bytes = self._files.free_bytes()
        except OSError as error:
            return f"the file system of {self._files.path} does not tell its free space: {error.strerror or error}"
        with self._lock:
            self._machine.space(free_bytes)
            self._space_known_at = time.monotonic()
            least = self._machine.limits.least
            if why := self._machine.no_room(least, least):
                return why
        at_s, why, free_then = self._refused
        if free_bytes >= free_then + least:
            return None  # somebody made room since
        return why if time.monotonic() - at_s < self._options.full_for_s else None
