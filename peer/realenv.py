"""The real clock, chance, tasks and disk threads behind the interfaces of `peer.replication.env`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from blake3 import blake3

from peer.buffers import Buffer
from peer.errors import AtollError
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.records import Extent

HASH_INLINE_BYTES = 256 * 1024
"""Up to this size a hash (0.17 ms a MiB) costs less than handing it to a thread."""


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
    """Chunk files driven from the loop: each operation runs in one of a few threads, `done` on the loop."""

    def __init__(self, files: ChunkFiles, loop: asyncio.AbstractEventLoop, threads: int = 8) -> None:
        self._files = files
        self._loop = loop
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="disk")
        self.named = files.named
        self.abandon = files.abandon
        self.unnamed = files.unnamed

    def name_of(self, buffer: Buffer, length: int, done: Callable[[bytes], None]) -> None:
        """The BLAKE3 of the payload."""
        if length <= HASH_INLINE_BYTES:
            done(blake3(buffer.payload(length)).digest())
        else:
            self._run(lambda: blake3(buffer.payload(length)).digest(), done)

    def append(
        self, buffer: Buffer, length: int, name: bytes, done: Callable[[Extent | AtollError], None]
    ) -> None:
        self._run(lambda: self._files.append(buffer, length, name), done)

    def read(
        self, extent: Extent, name: bytes, buffer: Buffer, done: Callable[[int | AtollError], None]
    ) -> None:
        self._run(lambda: self._files.read(extent, name, buffer), done)

    def _run(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                result: Any = work()
            except AtollError as error:
                result = error
            except Exception as error:  # noqa: BLE001 - the caller waits for an answer whatever happens
                result = AtollError(f"a disk operation failed: {error!r}")
            self._loop.call_soon_threadsafe(done, result)

        self._threads.submit(run)

    def close(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown(wait=True)
