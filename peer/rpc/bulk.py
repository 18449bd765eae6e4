"""Chunk bytes between peers, on blocking sockets in threads, called from the loop.

`BulkClient.call` is made on the loop thread and its `done` runs there; in between a worker thread owns
the caller's memory. So `done` comes when the thread has let go of it: at the deadline (B4) the loop shuts the
socket, the thread wakes, and the failure is reported. Connections are kept per member and reused.

    B1  `done` is called exactly once, on the loop thread, never before `call` returned, and after it no
        thread touches the caller's payload or buffer.
    B2  At most `per_member` transfers to one peer and `threads` in all are under way; a peer that hangs
        cannot take every thread. Those waiting are bounded; beyond that a call fails at once.
    B3  While bytes of a transfer move, `on_progress` is told of its member, some times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from peer.buffers import DEFAULT_CHUNK_BYTES, Buffer, BufferPool
from peer.errors import AtollError, ProtocolError, Unavailable
from peer.requestid import CURRENT
from peer.rpc import frames
from peer.rpc.bulkjobs import Done, Job, Result, Route
from peer.rpc.bulksocket import BulkSocket, limit_io
from peer.rpc.hello import Hello, dial
from peer.rpc.sockets import hung_up, run_steps_blocking, shown, tune, unreachable
from peer.rpc.stats import Stats

THREADS: Final = 12
PER_MEMBER: Final = 4
SEALS: Final = 6  # sealed payloads being sent at once
MAX_WAITING: Final = 512
MAX_WAITING_PER_MEMBER: Final = 128
DIAL_TIMEOUT_S: Final = 3.0
BACKOFF_S: Final = 0.3  # after a failed dial calls fail at once
IDLE_S: Final = 20.0  # an unused connection is closed
TICK_S: Final = 0.05
PROGRESS_S: Final = 0.25
CLOSE_TIMEOUT_S: Final = 5.0

log = logging.getLogger(__name__)


class Transfer:
    """A call under way. `cancel` on the loop ends it early; its `done` still runs, once nobody uses the memory."""

    __slots__ = ("_client", "_job")

    def __init__(self, client: BulkClient, job: Job) -> None:
        self._client = client
        self._job = job

    def cancel(self) -> None:
        self._client._cancel(self._job)


class BulkClient:
    """See the module's text. Made and called on one loop; `address_of` says where a member's peer port is."""

    def __init__(
        self, hello: Callable[[], Hello], key: bytes, address_of: Callable[[str], tuple[str, int] | None], *,
        threads: int = THREADS, per_member: int = PER_MEMBER, chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        stats: Stats | None = None,
    ) -> None:  # fmt: skip
        self.stats = stats or Stats()
        self.seals = BufferPool(SEALS, name="seal", chunk_bytes=chunk_bytes)
        self._hello = hello
        self._key = key
        self._address_of = address_of
        self._most_threads = threads
        self._per_member = per_member
        self._loop = asyncio.get_running_loop()
        self._members: dict[str, Route] = {}
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Job, tuple[str, int]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._trimmed = 0.0
        self._looked = 0.0
        self._closing = False
        self.on_progress: Callable[[str], None] = lambda member_id: None

    # -- on the loop

    def call(
        self,
        member_id: str,
        header: tuple[Any, ...],
        payload: memoryview | None,
        into: Buffer | None,
        silence_s: float,
        done: Done,
    ) -> Transfer:
        """Send header and payload; `done` gets (reply header, bytes received into `into`) or an AtollError. `silence_s`: how
        long nothing may move until it is given up (B4). The transfer that is returned can be cancelled, which is its
        deadline coming now.

        Unavailable says nothing about whether the peer acted on the transfer. Neither `payload` nor `into`
        may be changed before `done` (B1).
        """
        member = self._members.get(member_id) or self._members.setdefault(member_id, Route(member_id))
        now = self._loop.time()
        job = Job(member, header, payload, into, now, silence_s, done, CURRENT.get())
        self.stats.bulk_calls += 1
        if self._closing:
            self._fail(job, Unavailable("this peer is shutting down"))
        elif member.error is not None and now < member.retry_at and not member.idle:
            self._fail(job, frames.again(member.error))
        elif len(self._waiting) >= MAX_WAITING or member.waiting >= MAX_WAITING_PER_MEMBER:
            self._fail(job, Unavailable(f"peer {member_id} has too many transfers waiting"))
        else:
            member.waiting += 1
            self._waiting.append(job)
            self._advance()
            self._watch(TICK_S)
        return Transfer(self, job)

    def _cancel(self, job: Job) -> None:
        if job in self._waiting:
            self._fail_waiting([job], Unavailable("the transfer was given up"))
        elif job in self._running and not job.expired:
            self._expire(job)

    def _fail(self, job: Job, error: AtollError) -> None:
        """Report a failure once the current callback is over; what comes later finds nobody waiting (B1)."""
        done, job.done = job.done, None
        if done is not None:
            self.stats.bulk_failed += 1
            self._loop.call_soon(self._tell, done, error, job.request_id)

    def _advance(self) -> None:
        """Give waiting calls to threads, oldest first, as far as B2 allows."""
        skipped: list[Job] = []
        while self._waiting and len(self._running) < self._most_threads:
            job = self._waiting.popleft()
            if job.member.active >= self._per_member:
                skipped.append(job)
            else:
                self._start(job)
        self._waiting.extendleft(reversed(skipped))

    def _start(self, job: Job) -> None:
        member = job.member
        member.waiting -= 1
        while member.idle and job.connection is None:
            connection = member.idle.pop()
            if connection.stale():
                connection.close()
            else:
                job.connection = connection
                job.moved = connection.moved()
        address = self._address_of(member.id)
        if address is None:
            if job.connection is not None:
                job.connection.close()
            self._fail(job, Unavailable(f"no address is known for peer {member.id}"))
            return
        member.active += 1
        self._running.add(job)
        self.stats.bulk_in_flight = len(self._running)
        if len(self._threads) < min(self._most_threads, len(self._running)):
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._work_on, name=f"bulk to peers {number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work.put((job, address))

    def _finished(self, job: Job, result: Result | AtollError, dialled: bool) -> None:
        """A worker is through with a job: on the loop, after it touched memory for the last time."""
        member, connection = job.member, job.connection
        self._running.discard(job)
        member.active -= 1
        now = self._loop.time()
        if connection is not None:
            self.stats.bulk_bytes_out += connection.sent
            self.stats.bulk_bytes_in += connection.received
            connection.sent = connection.received = 0
            connection.used = now
            member.idle.append(connection)
            member.error = None
            self._further(member, now)
        elif not dialled and isinstance(result, AtollError):
            member.error = result
            member.retry_at = now + BACKOFF_S
            self._fail_waiting([n for n in self._waiting if n.member is member], result)
        self.stats.bulk_in_flight = len(self._running)
        done, job.done = job.done, None
        if done is not None:
            self.stats.bulk_failed += isinstance(result, AtollError)
            self._tell(done, result, job.request_id)
        self._advance()

    def _fail_waiting(self, jobs: list[Job], error: AtollError) -> None:
        for job in jobs:
            self._waiting.remove(job)
            job.member.waiting -= 1
            self._fail(job, frames.again(error))

    def _tell(self, done: Done, result: Result | AtollError, request_id: str) -> None:
        CURRENT.set(request_id)
        try:
            done(result)
        except Exception:
            log.exception("a transfer's completion failed")
        finally:
            CURRENT.set("")

    def _watch(self, delay_s: float) -> None:
        if self._ticker is not None:
            if self._ticker.when() <= self._loop.time() + delay_s:
                return
            self._ticker.cancel()
        self._ticker = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        """Deadlines, and connections nobody has used for long."""
        self._ticker = None
        now = self._loop.time()
        if now - self._looked >= PROGRESS_S:
            self._looked = now
            self._look(now)
        late = [job for job in self._waiting if job.deadline <= now]
        self.stats.bulk_timed_out += len(late)
        self._fail_waiting(
            late, Unavailable("too many transfers are under way: this one could not begin in time")
        )
        for job in self._running:
            if job.deadline <= now and not job.expired:
                self._expire(job)
        for member in list(self._members.values()):
            while member.idle and member.idle[0].used < now - IDLE_S:
                member.idle.pop(0).close()
            if not member.idle and not member.active and not member.waiting and now >= member.retry_at:
                del self._members[member.id]
        if self._running or self._waiting:
            self._watch(TICK_S)
        elif self._members:
            self._watch(IDLE_S / 4)
        if now - self._trimmed > IDLE_S / 4:
            self._trimmed = now
            self.seals.trim()

    def _look(self, now: float) -> None:
        """Tell of the members whose transfers have come further (B3)."""
        for member in {job.member for job in self._running if job.look(now)}:
            self._further(member, now)
            self.on_progress(member.id)

    def _further(self, member: Route, now: float) -> None:
        """Something moved between this member and us: those that wait for their turn will have it (B4)."""
        for job in self._waiting:
            if job.member is member:
                job.goes_on(now)

    def _expire(self, job: Job) -> None:
        """Wake the worker. If it has not touched the caller's memory yet it never will: report at once."""
        self.stats.bulk_timed_out += 1
        with self._lock:
            job.expired = True
            started = job.started
            if job.dialling is not None:
                with contextlib.suppress(OSError):  # not connecting yet
                    job.dialling.shutdown(socket.SHUT_RDWR)
        if started:
            if (connection := job.connection) is not None:
                connection.shut()
            return
        self._fail(job, Unavailable(f"no bulk connection to peer {job.member.id} in time"))

    async def close(self) -> None:
        """Fail what waits, end what runs, and wait for the threads. Idempotent."""
        self._closing = True
        self._fail_waiting(list(self._waiting), Unavailable("this peer is shutting down"))
        for job in list(self._running):
            if not job.expired:
                self._expire(job)
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)
        self._threads.clear()
        await asyncio.sleep(0)  # what the threads reported
        if self._ticker is not None:
            self._ticker.cancel()
        for member in self._members.values():
            for connection in member.idle:
                connection.close()
        self._members.clear()

    # -- in the worker threads

    def _work_on(self) -> None:
        while (item := self._work.get()) is not None:
            job, address = item
            CURRENT.set(job.request_id)  # this thread's own, until the next job
            result: Result | AtollError
            dialled = job.connection is not None
            try:
                if job.connection is None:
                    job.connection = self._dial(job, address)
                dialled = True
                result = self._transfer(job, job.connection)
            except AtollError as e:
                self._drop(job)
                result = e
            except (OSError, EOFError) as e:
                self._drop(job)
                result = self._explain(job, e)
            except Exception:
                log.exception("a transfer with peer %s failed", job.member.id)
                self._drop(job)
                result = Unavailable("the transfer failed inside this peer")
            try:
                self._loop.call_soon_threadsafe(self._finished, job, result, dialled)
            except RuntimeError:
                return  # the loop is gone: nobody waits any more
            del item, job, result

    @staticmethod
    def _drop(job: Job) -> None:
        connection, job.connection = job.connection, None
        if connection is not None:
            connection.close()

    @staticmethod
    def _explain(job: Job, error: OSError | EOFError) -> Unavailable:
        if job.expired or isinstance(error, BlockingIOError):
            return Unavailable(f"the transfer with peer {job.member.id} did not end in time")
        reason = error.strerror if isinstance(error, OSError) else "it closed the connection"
        return Unavailable(f"the transfer with peer {job.member.id} broke: {reason or error}")

    def _dial(self, job: Job, address: tuple[str, int]) -> BulkSocket:
        where = shown(*address)
        sock: socket.socket | None = None
        try:
            family, _, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
            with self._lock:
                self.stats.bulk_dials += 1
                if job.expired:  # reported already; looking the name up took so long
                    raise Unavailable("the deadline is over")
                job.dialling = sock
            limit_io(sock, DIAL_TIMEOUT_S)
            sock.connect(target)
            tune(sock)
            steps = dial(self._key, self._hello(), "bulk", job.member.id, where)
            return BulkSocket(sock, run_steps_blocking(sock, steps))
        except BaseException as e:
            with self._lock:
                self.stats.bulk_dial_failures += 1
                job.dialling = None
                if sock is not None:
                    sock.close()
            if isinstance(e, BlockingIOError):
                raise Unavailable(f"the peer at {where} did not answer within {DIAL_TIMEOUT_S:g} s") from None
            if isinstance(e, EOFError):
                raise hung_up(where) from None
            if isinstance(e, OSError):
                raise unreachable(where, e) from None
            raise

    def _transfer(self, job: Job, connection: BulkSocket) -> Result | AtollError:
        """One request and its reply. An error the peer reported is returned: the connection is fine."""
        with self._lock:
            job.dialling = None
            if job.expired:
                raise Unavailable("the deadline is over")  # reported already
            job.started = True
        # Silence is the loop's to end (B4): bytes leave the kernel's buffer also while this thread waits for the answer.
        left_s = max(1.0, job.until - self._loop.time())
        connection.limit(left_s, left_s)
        connection.send(job.header, job.payload, self.seals, job.request_id)
        told = connection.receive()
        if told is None:
            raise EOFError
        reply, size = told
        if type(reply) is not list or len(reply) != 2:
            raise ProtocolError("a bulk reply is not [ok, body]")
        if reply[0] is not True:
            return frames.restore(reply[1])
        if type(reply[1]) is not list or (size and job.into is None):
            raise ProtocolError("a bulk reply carries a payload that nobody asked for, or no header")
        if size and job.into is not None:
            connection.receive_payload(job.into, size)
        return reply[1], size
