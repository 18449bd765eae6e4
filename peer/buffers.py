"""Page-aligned buffers for chunks, from pools with a bound (architecture.md §10, P8).

A chunk's bytes live in one `Buffer` from the socket they arrive on to the segment they are written to,
and back: there is no copy in between. Pools are split by purpose: what receives replica bytes has a pool
of its own and never waits for a send, so peers that all push at each other cannot deadlock.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import threading
from collections import deque
from dataclasses import dataclass

from peer.errors import Unavailable

HEADER_BYTES = 64
"""A record's header; the payload begins behind it. The header itself belongs to `peer.storage.records`."""

PAGE_BYTES = 4096
"""Records start and end at multiples of this: what O_DIRECT asks of memory, offset and length."""

DEFAULT_CHUNK_BYTES = 4 << 20


def release_heap() -> None:
    """Return to the system what the C library's allocator keeps after a burst (a hundred streams leave it 35 MiB).

    Takes 1 to 4 ms, during which others wait to allocate; without glibc nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


class Buffer:
    """Anonymous memory that begins on a page boundary, `chunk_bytes` + 4 KiB long.

    A record is laid out in place: header (64 bytes), payload, zeros to the next page. The slack behind a
    full payload also holds a 16-byte seal while a chunk is being decrypted. Memory is taken from the
    system page by page, when first touched.
    """

    __slots__ = ("_map", "lent", "record")

    def __init__(self, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        if chunk_bytes <= 0 or chunk_bytes % PAGE_BYTES:
            raise ValueError(f"chunk_bytes must be a positive multiple of {PAGE_BYTES}, not {chunk_bytes}")
        self._map = mmap.mmap(-1, chunk_bytes + PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.record = memoryview(self._map)
        self.lent = False  # kept by the pool: giving a buffer back twice would share it between two owners

    @property
    def capacity(self) -> int:
        """Bytes of payload a record in this buffer may have: the chunk size."""
        return len(self.record) - PAGE_BYTES

    def payload(self, n: int | None = None) -> memoryview:
        """The `n` bytes behind the header; without `n`, all of them."""
        return self.record[HEADER_BYTES:] if n is None else self.record[HEADER_BYTES : HEADER_BYTES + n]

    def forget(self) -> None:
        """Return the memory to the system; the mapping stays and reads as zeros."""
        self._map.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class BufferStats:
    """Counters of one pool. `waits` and `timeouts` count since the start; the rest describes this moment."""

    name: str
    bound: int
    created: int
    lent: int
    waiting: int
    waits: int
    timeouts: int


class _Waiter:
    """Somebody queued for a buffer: a thread blocked on `wake`, or a future of an event loop."""

    __slots__ = ("buffer", "future", "loop", "wake")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        future: asyncio.Future[Buffer] | None = None,
    ) -> None:
        self.loop = loop
        self.future = future
        self.wake = threading.Event() if loop is None else None
        self.buffer: Buffer | None = None


class BufferPool:
    """At most `bound` buffers, lent first come first served. Every method may be called from any thread.

    Buffers are created when first needed and lent last-in first-out, so that the memory of those beyond
    the working set can be returned to the system by `trim`.
    """

    def __init__(self, bound: int, *, name: str = "client", chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        if bound < 1:
            raise ValueError("a pool needs at least one buffer")
        self.name = name
        self.bound = bound
        self.chunk_bytes = chunk_bytes
        self._lock = threading.Lock()
        self._free: list[Buffer] = []
        self._waiters: deque[_Waiter] = deque()
        self._created = 0
        self._idle_low = 0  # fewest free buffers since the last trim: those at the bottom were not used
        self._waits = 0
        self._timeouts = 0

    def try_take(self) -> Buffer | None:
        """A buffer if one is free and nobody waits for it, else None."""
        with self._lock:
            return None if self._waiters else self._pop()

    async def take(self, deadline_s: float) -> Buffer:
        """A buffer within `deadline_s` seconds from now, else `Unavailable` (nothing changed)."""
        with self._lock:
            buffer = None if self._waiters else self._pop()
            if buffer is not None:
                return buffer
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Buffer] = loop.create_future()
            waiter = _Waiter(loop, future)
            self._enqueue(waiter)
        timer = loop.call_later(max(0.0, deadline_s), self._expire, waiter, deadline_s)
        try:
            return await future
        except asyncio.CancelledError:
            self._withdraw(waiter)
            # The buffer may have been handed over in the same turn of the loop as the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give(future.result())
            raise
        finally:
            timer.cancel()

    def take_blocking(self, timeout_s: float) -> Buffer:
        """As `take`, for threads other than an event loop's."""
        with self._lock:
            buffer = None if self._waiters else self._pop()
            if buffer is not None:
                return buffer
            waiter = _Waiter()
            self._enqueue(waiter)
        assert waiter.wake is not None
        if not waiter.wake.wait(max(0.0, timeout_s)):
            self._withdraw(waiter)
        if waiter.buffer is not None:
            return waiter.buffer
        with self._lock:
            self._timeouts += 1
        raise self._no_buffer(timeout_s)

    def give(self, buffer: Buffer) -> None:
        """Return a buffer taken from this pool. The caller keeps no view of it."""
        with self._lock:
            assert buffer.lent, "a buffer was given back twice"
            while self._waiters:
                waiter = self._waiters.popleft()
                if waiter.wake is not None:
                    waiter.buffer = buffer
                    waiter.wake.set()
                    return
                assert waiter.loop is not None
                try:
                    waiter.loop.call_soon_threadsafe(self._hand_over, waiter, buffer)
                except RuntimeError:  # its loop is closed: nobody waits there any more
                    continue
                return
            buffer.lent = False
            self._free.append(buffer)

    def trim(self) -> int:
        """Return to the system the memory of buffers unused since the previous call; how many these were.

        Called now and then (every few seconds) by whoever owns the pool: a burst of uploads must not
        leave its peak resident for ever (an idle peer stays under 100 MiB).
        """
        with self._lock:
            idle = self._free[: self._idle_low]
            # Under the lock, so that none of them is lent meanwhile; madvise takes microseconds.
            for buffer in idle:
                buffer.forget()
            self._idle_low = len(self._free)
            return len(idle)

    @property
    def stats(self) -> BufferStats:
        with self._lock:
            return BufferStats(
                name=self.name,
                bound=self.bound,
                created=self._created,
                lent=self._created - len(self._free),
                waiting=len(self._waiters),
                waits=self._waits,
                timeouts=self._timeouts,
            )

    def _pop(self) -> Buffer | None:
        """A free or new buffer, marked as lent. The lock is held."""
        if self._free:
            buffer = self._free.pop()
            self._idle_low = min(self._idle_low, len(self._free))
        elif self._created < self.bound:
            buffer = Buffer(self.chunk_bytes)
            self._created += 1
            self._idle_low = 0
        else:
            return None
        buffer.lent = True
        return buffer

    def _enqueue(self, waiter: _Waiter) -> None:
        self._waits += 1
        self._waiters.append(waiter)

    def _withdraw(self, waiter: _Waiter) -> None:
        """Stop waiting. A buffer handed over meanwhile stays with the waiter."""
        with self._lock:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                pass

    def _hand_over(self, waiter: _Waiter, buffer: Buffer) -> None:
        """On the waiter's loop: it may have given up while the buffer was on its way."""
        assert waiter.future is not None
        if waiter.future.done():
            self.give(buffer)
        else:
            waiter.future.set_result(buffer)

    def _expire(self, waiter: _Waiter, deadline_s: float) -> None:
        self._withdraw(waiter)
        assert waiter.future is not None
        if not waiter.future.done():
            with self._lock:
                self._timeouts += 1
            waiter.future.set_exception(self._no_buffer(deadline_s))

    def _no_buffer(self, waited_s: float) -> Unavailable:
        return Unavailable(
            f"all {self.bound} {self.name} buffers stayed in use for {waited_s:g} s; retry later",
            code="SlowDown",
        )
