"""Buffers are page-aligned, pools are bounded and fair, and nothing is lost when somebody stops waiting."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable

import pytest

from peer.buffers import HEADER_BYTES, PAGE_BYTES, Buffer, BufferPool
from peer.errors import Unavailable

KIB = 1024


def small_pool(bound: int) -> BufferPool:
    return BufferPool(bound, name="test", chunk_bytes=16 * KIB)


def wait_for_waiters(pool: BufferPool, count: int) -> None:
    """Return when so many threads wait; they announce themselves by the pool's own counter."""
    tick = threading.Event()
    for _ in range(2000):
        if pool.stats.waiting == count:
            return
        tick.wait(0.005)
    raise AssertionError(f"never saw {count} waiting")


async def turns_until(condition: Callable[[], object]) -> None:
    """Give the loop turns until the condition holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never came true")


def test_layout() -> None:
    """A record is page-aligned with room for header, a full chunk and a seal behind it."""
    buffer = Buffer(64 * KIB)
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer.record)) % PAGE_BYTES == 0
    assert buffer.capacity == 64 * KIB
    assert len(buffer.record) == 64 * KIB + PAGE_BYTES
    buffer.payload(5)[:] = b"bytes"
    assert bytes(buffer.record[HEADER_BYTES : HEADER_BYTES + 5]) == b"bytes"
    assert len(buffer.payload()) >= buffer.capacity + 16
    with pytest.raises(ValueError, match="multiple"):
        Buffer(5000)


def test_bound_and_reuse() -> None:
    """No more than the bound is ever created; a buffer given back is lent again, the last one first."""
    pool = small_pool(2)
    one, two = pool.try_take(), pool.try_take()
    assert one is not None and two is not None and one is not two
    assert pool.try_take() is None
    pool.give(one)
    assert pool.try_take() is one
    stats = pool.stats
    assert (stats.created, stats.lent, stats.bound) == (2, 2, 2)


def test_given_back_twice_is_a_defect() -> None:
    """Giving a buffer back twice would share it between two owners: it is caught at once."""
    pool = small_pool(1)
    buffer = pool.take_blocking(0)
    pool.give(buffer)
    with pytest.raises(AssertionError, match="twice"):
        pool.give(buffer)


def test_async_waiters_are_served_in_order() -> None:
    """Tasks get buffers in the order they asked, ahead of whoever asks later."""

    async def main() -> None:
        pool = small_pool(1)
        buffer = await pool.take(1)
        served: list[int] = []

        async def use(n: int) -> None:
            mine = await pool.take(10)
            served.append(n)
            assert pool.try_take() is None, "nobody overtakes"
            pool.give(mine)

        tasks = [asyncio.create_task(use(n)) for n in range(5)]
        await turns_until(lambda: pool.stats.waiting == 5)
        pool.give(buffer)
        await asyncio.gather(*tasks)
        assert served == list(range(5))
        assert pool.stats.lent == 0

    asyncio.run(main())


def test_deadline() -> None:
    """Waiting ends with a retryable error that names the pool; nothing stays queued."""

    async def main(pool: BufferPool) -> None:
        with pytest.raises(Unavailable, match="1 test buffers"):
            await pool.take(0.01)

    pool = small_pool(1)
    buffer = pool.take_blocking(0)
    asyncio.run(main(pool))
    with pytest.raises(Unavailable) as caught:
        pool.take_blocking(0.01)
    assert caught.value.retry and caught.value.code == "SlowDown"
    assert (pool.stats.waiting, pool.stats.timeouts, pool.stats.waits) == (0, 2, 2)
    pool.give(buffer)
    assert pool.stats.lent == 0


def test_cancelled_waiter_loses_nothing() -> None:
    """A task cancelled before, or in the same turn as, its buffer arrives leaves the buffer in the pool."""

    async def cancel_after(turns: int) -> None:
        pool = small_pool(1)
        buffer = await pool.take(1)
        task = asyncio.create_task(pool.take(10))
        await turns_until(lambda: pool.stats.waiting)
        pool.give(buffer)
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            pool.give(task.result())
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await turns_until(lambda: not pool.stats.lent)
        assert pool.try_take() is buffer

    for turns in range(4):
        asyncio.run(cancel_after(turns))


def test_threads_and_loop_share_a_pool() -> None:
    """Threads and tasks wait in one queue; a buffer given by a thread wakes a task, and the other way round."""

    async def main() -> None:
        pool = small_pool(1)
        first = await pool.take(1)
        passed: list[str] = []

        def thread() -> None:
            mine = pool.take_blocking(30)
            passed.append("thread")
            pool.give(mine)

        worker = threading.Thread(target=thread)
        worker.start()
        wait_for_waiters(pool, 1)
        task = asyncio.create_task(pool.take(30))
        await turns_until(lambda: pool.stats.waiting == 2)
        pool.give(first)
        assert await task is first
        worker.join()
        assert passed == ["thread"]
        pool.give(first)

    asyncio.run(main())


def test_waiter_of_a_closed_loop_is_skipped() -> None:
    """A buffer meant for a task whose loop is gone goes to the next in line."""
    pool = small_pool(1)
    buffer = pool.take_blocking(0)
    loop = asyncio.new_event_loop()
    task = loop.create_task(pool.take(60))
    loop.run_until_complete(asyncio.sleep(0))
    assert pool.stats.waiting == 1
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    pool.give(buffer)
    assert pool.try_take() is buffer
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose


def test_trim_forgets_what_was_not_needed() -> None:
    """Memory of buffers unused since the last trim goes back to the system; those in use keep their bytes."""
    pool = small_pool(3)
    buffers = [pool.take_blocking(0) for _ in range(3)]
    for buffer in buffers:
        buffer.payload(4)[:] = b"full"
        pool.give(buffer)
    assert pool.trim() == 0, "all were in use since the start"
    hot = pool.take_blocking(0)
    assert pool.trim() == 2
    assert sorted(bytes(buffer.payload(4)) for buffer in buffers) == [b"\0\0\0\0", b"\0\0\0\0", b"full"]
    assert bytes(hot.payload(4)) == b"full"
    pool.give(hot)
