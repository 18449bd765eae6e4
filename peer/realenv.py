"""The real clock, chance, tasks and disk threads behind the interfaces of `peer.replication.env`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from blake3 import blake3

from peer.buffers import Buffer
from peer.errors import AtollError, Unavailable
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.records import Extent

log = logging.getLogger(__name__)

SMALL_BYTES = 256 * 1024
"""Up to this size a hash (0.17 ms a MiB) or a read from the page cache costs less than handing it to a thread, and
appends share syncs instead of having a thread each."""
GROUP_MOST = 64

_Append = tuple[Buffer, int, bytes, Callable[[Extent | AtollError], None]]


class LoopEnv:
    """One peer's environment on a running event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self.rng = random.SystemRandom()
        self.now = loop.time
        self.call_later = loop.call_later
        self.future = loop.create_future

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self._loop.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class DiskThreads:
    """Chunk files driven from the loop: each operation runs in one of a few threads, `done` on the loop.

    Appends have threads of their own: on a slow disk they may all wait for it, and what only computes, or reads what the
    page cache holds, is not to wait behind them.
    """

    def __init__(self, files: ChunkFiles, loop: asyncio.AbstractEventLoop, threads: int = 8) -> None:
        self._files = files
        self._loop = loop
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self._appending = ThreadPoolExecutor(threads, thread_name_prefix="append")
        self._small: deque[_Append] = deque()
        self._small_running = False
        self.named = files.named
        self.abandon = files.abandon
        self.unnamed = files.unnamed
        self.segments, self.scan = files.segments, files.scan
        self.adopt, self.adopted = files.adopt, files.adopted

    def name_of(self, buffer: Buffer, length: int, done: Callable[[bytes], None]) -> None:
        """The BLAKE3 of the payload."""
        if length <= SMALL_BYTES:
            done(blake3(buffer.payload(length)).digest())
        else:
            self._run(lambda: blake3(buffer.payload(length)).digest(), done)

    def append(
        self, buffer: Buffer, length: int, name: bytes, done: Callable[[Extent | AtollError], None]
    ) -> None:
        if length > SMALL_BYTES:
            self._run(lambda: self._files.append(buffer, length, name), done, self._appending)
            return
        self._small.append((buffer, length, name, done))
        if not self._small_running:
            self._small_running = True
            self._appending.submit(self._append_small)

    def _append_small(self) -> None:
        """One thread at a time: everything queued under one sync, as long as there is something (group commit)."""
        while True:
            group = [self._small.popleft() for _ in range(min(len(self._small), GROUP_MOST))]
            if not group:
                self._loop.call_soon_threadsafe(self._small_done, [], [])
                return
            results: list[Extent | AtollError]
            try:
                results = self._files.append_many([item[:3] for item in group])
            except Exception as error:  # noqa: BLE001 - the callers wait for an answer whatever happens
                results = [AtollError(f"a disk operation failed: {error!r}")] * len(group)
            self._loop.call_soon_threadsafe(self._small_done, group, results)

    def _small_done(self, group: list[_Append], results: list[Extent | AtollError]) -> None:
        for (_, _, _, done), result in zip(group, results, strict=True):
            try:
                done(result)
            except Exception:
                log.exception("a disk operation's completion failed")  # one must not stop the others
        if not group:
            self._small_running = bool(self._small)
            if self._small:
                self._appending.submit(self._append_small)

    def read(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None:
        if extent.length <= SMALL_BYTES:
            try:
                cached = self._files.read_cached(extent, name, buffer)
            except AtollError as error:
                return done(error)
            if cached is not None:
                return done(cached)
        return self._run(lambda: self._files.read(extent, name, buffer), done)

    def verify(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None:
        """As `read`, but what the disk holds, not what is cached of it."""
        self._run(lambda: self._files.read(extent, name, buffer, direct=True), done)

    def some(
        self, records: Iterator[tuple[bytes, Extent]], most: int,
        done: Callable[[list[tuple[bytes, Extent]] | AtollError], None],
    ) -> None:  # fmt: skip
        """The next records of a scan; fewer than `most` at its end."""

        def work() -> list[tuple[bytes, Extent]]:
            try:
                return list(islice(records, most))
            except OSError as error:
                raise Unavailable(f"cannot read a segment: {error}") from error

        self._run(work, done)

    def waste(self, done: Callable[[dict[int, int] | AtollError], None]) -> None:
        """Segments of earlier starts, and how many bytes each holds that no row may name."""
        self._run(self._files.waste, done)

    def reclaim(
        self, segment: int, buffer: Buffer, named: Callable[[bytes, Extent], bool],
        done: Callable[[int | AtollError], None],
    ) -> None:  # fmt: skip
        """Read a segment of an earlier start, let each record go that no row names; how many. `named` runs in a thread."""
        files = self._files

        def work() -> int:
            try:
                found = [extent for name, extent in files.scan(segment, buffer) if not named(name, extent)]
            except OSError as error:
                raise Unavailable(f"cannot read segment {segment}: {error}") from error
            return sum(files.stray(extent) for extent in found)

        self._run(work, done)

    def _run(
        self, work: Callable[[], Any], done: Callable[[Any], None], threads: ThreadPoolExecutor | None = None
    ) -> None:
        def run() -> None:
            try:
                result: Any = work()
            except AtollError as error:
                result = error
            except Exception as error:  # noqa: BLE001 - the caller waits for an answer whatever happens
                result = AtollError(f"a disk operation failed: {error!r}")
            self._loop.call_soon_threadsafe(done, result)

        (threads or self._threads).submit(run)

    def close(self) -> None:
        """Wait for what runs."""
        for threads in (self._threads, self._appending):
            threads.shutdown(wait=True)
